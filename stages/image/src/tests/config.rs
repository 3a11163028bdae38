//! Settings: what is accepted, and what is said about the rest.

use crate::{Config, Filter, Fit, ImageStage, Limits};

const LIMITS: Limits = Limits { bytes_max: 1, pixels_max: 1 };

fn refused(toml: &str) -> String {
    match toml::from_str::<Config>(toml) {
        Err(error) => error.to_string(),
        Ok(config) => ImageStage::new(config, LIMITS).err().unwrap_or_else(|| panic!("accepted: {toml}")),
    }
}

#[test]
fn a_manifest_needs_a_size_only() {
    let config: Config = toml::from_str("width = 224\nheight = 200").unwrap();
    assert_eq!((config.fit, config.filter, config.resize_short), (Fit::Crop, Filter::Bicubic, None));
    assert_eq!(config.background, [255, 255, 255]);
    assert!(ImageStage::new(config, LIMITS).is_ok());
}

#[test]
fn everything_can_be_set() {
    let toml = "width = 8\nheight = 9\nresize_short = 10\nfit = \"crop\"\nfilter = \"lanczos3\"\nbackground = [1, 2, 3]";
    let config: Config = toml::from_str(toml).unwrap();
    let expected = "image/1 8x9 resize_short=10 fit=crop filter=lanczos3 background=1,2,3 jpeg_scale=2x";
    assert_eq!(config.spec(), expected);
}

#[test]
fn a_refusal_names_the_setting() {
    assert!(refused("width = 0\nheight = 1").contains("width"));
    assert!(refused("width = 1\nheight = 8193").contains("height"));
    assert!(refused("width = 64\nheight = 32\nresize_short = 63").contains("resize_short"));
    assert!(refused("width = 64\nheight = 32\nresize_short = 8193").contains("resize_short"));
    assert!(refused("width = 64\nheight = 32\nresize_short = 64\nfit = \"pad\"").contains("resize_short"));
    assert!(refused("width = 64\nheight = 32\nfilter = \"area\"").contains("area"));
    assert!(refused("width = 64\nheight = 32\nsize = 3").contains("size"));
    assert!(refused("width = 64").contains("height"));
}

#[test]
fn limits_that_refuse_everything_are_refused() {
    let config: Config = toml::from_str("width = 8\nheight = 8").unwrap();
    for limits in [Limits { bytes_max: 0, ..LIMITS }, Limits { pixels_max: 0, ..LIMITS }] {
        assert!(ImageStage::new(config.clone(), limits).is_err());
    }
}
