//! What the stage is told: by the model's manifest, how to cut; by the app, where to stop.

use serde::Deserialize;

/// Longest side of the output that a manifest may ask for, in pixels. The output alone takes three bytes a pixel.
const SIDE_MAX: u32 = 8192;

/// `[preparation]` in the manifest of an image model. Together with [`Config::spec`] it fixes the output.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Width of the output in pixels, 1 to 8192.
    pub width: u32,
    /// Height of the output in pixels, 1 to 8192.
    pub height: u32,
    /// Length in pixels to which the shorter side is resized before `width` x `height` are cut from the centre, as
    /// torchvision's `Resize` and `CenterCrop` do. At least the larger of `width` and `height`, at most 8192; only with
    /// `fit = "crop"`. Without it, the largest centred part with the output's aspect ratio is used.
    #[serde(default)]
    pub resize_short: Option<u32>,
    /// What happens to a picture whose aspect ratio is not the output's.
    #[serde(default)]
    pub fit: Fit,
    /// How pixels are averaged.
    #[serde(default)]
    pub filter: Filter,
    /// Red, green and blue behind transparent pixels and around padded pictures. Default white.
    #[serde(default = "white")]
    pub background: [u8; 3],
}

/// What happens to a picture whose aspect ratio is not the output's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fit {
    /// Fill the output, cut what sticks out on both sides.
    #[default]
    Crop,
    /// Fill the output, distort.
    Stretch,
    /// Show all of it, background on both sides.
    Pad,
}

/// Pillow's filters, with Pillow's meaning: the kernel widens with the factor, so that shrinking does not alias.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Filter {
    /// One source pixel each. Aliases; a JPEG is then decoded at full size.
    Nearest,
    /// Equal weights.
    Box,
    /// Triangle.
    Bilinear,
    /// Sharper than bilinear at the same cost.
    Hamming,
    /// Catmull-Rom, a = -0.5.
    #[default]
    Bicubic,
    /// Truncated sinc of three lobes.
    Lanczos3,
}

/// What a record may have at most; beyond it, it is refused before anything is decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the encoded picture.
    pub bytes_max: usize,
    /// Width times height of the picture as its header declares it, whatever scale it would be decoded at.
    pub pixels_max: u64,
}

fn white() -> [u8; 3] {
    [255; 3]
}

impl Config {
    /// Says what is wrong with it, if anything.
    pub(crate) fn check(&self) -> Result<(), String> {
        for (name, value) in [("width", self.width), ("height", self.height)] {
            if !(1..=SIDE_MAX).contains(&value) {
                return Err(format!("{name} = {value} must be 1 to {SIDE_MAX} pixels"));
            }
        }
        let Some(short) = self.resize_short else { return Ok(()) };
        if self.fit != Fit::Crop {
            return Err("resize_short goes with fit = \"crop\" only: remove one of them".into());
        }
        let least = self.width.max(self.height);
        if !(least..=SIDE_MAX).contains(&short) {
            return Err(format!(
                "resize_short = {short} must be {least} (the larger of width and height) to {SIDE_MAX}"
            ));
        }
        Ok(())
    }

    /// Canonical text of all that changes the output, the rules of this crate's version included.
    pub(crate) fn spec(&self) -> String {
        let Self { width, height, resize_short, fit, filter, background: [red, green, blue] } = self;
        let short = resize_short.map_or("none".to_owned(), |s| s.to_string());
        format!(
            "image/1 {width}x{height} resize_short={short} fit={fit} filter={filter} background={red},{green},{blue} \
             jpeg_scale=2x",
            fit = format!("{fit:?}").to_lowercase(),
            filter = format!("{filter:?}").to_lowercase(),
        )
    }
}

impl Limits {
    /// Says what is wrong with them, if anything.
    pub(crate) fn check(&self) -> Result<(), String> {
        match self {
            Self { bytes_max: 0, .. } => Err("bytes_max = 0 would refuse every picture".into()),
            Self { pixels_max: 0, .. } => Err("pixels_max = 0 would refuse every picture".into()),
            _ => Ok(()),
        }
    }
}
