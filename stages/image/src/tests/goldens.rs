//! Against Pillow, at the same decoding scale: pixels, facts and flags.

use super::{config, fixture, fixtures, good_pictures, media, pixels, prepare, stage};
use crate::probe::Probe;
use spawn_core::Stage;

#[derive(serde::Deserialize)]
struct Goldens {
    cases: Vec<Case>,
}

#[derive(serde::Deserialize)]
struct Case {
    file: String,
    config: serde_json::Value,
    golden: String,
    /// Levels that a sample may differ.
    tolerance: u8,
    denominator: u32,
    media_type: String,
    width: u32,
    height: u32,
    flags: Vec<String>,
}

fn cases() -> Vec<Case> {
    let goldens: Goldens = serde_json::from_slice(&fixture("goldens.json")).unwrap();
    goldens.cases
}

/// The largest and the mean difference.
fn difference(ours: &[u8], theirs: &[u8]) -> (u8, f64) {
    assert_eq!(ours.len(), theirs.len());
    let each: Vec<u8> = ours.iter().zip(theirs).map(|(a, b)| a.abs_diff(*b)).collect();
    let sum: f64 = each.iter().map(|d| f64::from(*d)).sum();
    (each.iter().copied().max().unwrap(), sum / each.len() as f64)
}

#[test]
fn pixels_and_facts_are_pillows() {
    let mut wrong = Vec::new();
    for case in cases() {
        let config = config(case.config.clone());
        let shape = vec![config.height as usize, config.width as usize, 3];
        let mut stage = stage(config);
        let prepared =
            prepare(&mut stage, fixture(&case.file)).unwrap_or_else(|e| panic!("{}: {e}", case.file));
        let reference = image::open(fixtures().join(&case.golden)).unwrap().into_rgb8();
        let (most, mean) = difference(pixels(&prepared), reference.as_raw());
        let array = &prepared.chunks[0].arrays[0];
        assert_eq!((array.name, &array.shape), ("image", &shape));
        let facts = &prepared.facts;
        let expected = (case.media_type.as_str(), Some(case.width), Some(case.height));
        assert_eq!((&*facts.media_type, facts.width, facts.height), expected, "{}", case.file);
        if most > case.tolerance || mean > 0.4 || facts.flags != case.flags {
            wrong.push(format!(
                "{} ({}) {}: most {most}, mean {mean:.3}, flags {:?} want {:?}",
                case.file, case.golden, case.config, facts.flags, case.flags
            ));
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn jpegs_are_decoded_at_the_scale_that_leaves_twice_the_pixels() {
    for case in cases() {
        let config = config(case.config.clone());
        let media = media(fixture(&case.file));
        let probe = Probe::new(&config, &super::LIMITS, &media).unwrap();
        assert_eq!(probe.denominator, case.denominator, "{} {}", case.file, case.config);
    }
}

#[test]
fn every_picture_has_a_golden() {
    let cases = cases();
    for name in good_pictures() {
        assert!(cases.iter().any(|case| case.file == name), "{name}");
    }
}

#[test]
fn a_worker_yields_the_same_whatever_it_did_before() {
    let names = good_pictures();
    let mut used = stage(super::square());
    for name in names.iter().chain(names.iter().rev()) {
        let again = prepare(&mut used, fixture(name)).unwrap();
        let mut fresh = used.fork();
        let first = fresh.as_mut().check_and_process(&media(fixture(name))).unwrap();
        assert_eq!(pixels(&again), pixels(&first), "{name}");
    }
}

/// libjpeg keeps tables between pictures; with one decoder for all, this one would depend on what came before.
#[test]
fn a_jpeg_without_tables_does_not_use_those_of_the_last_one() {
    let mut bytes = fixture("grey.jpg");
    while let Some(at) = bytes.windows(2).position(|pair| pair == [0xff, 0xdb]) {
        let length = usize::from(u16::from_be_bytes([bytes[at + 2], bytes[at + 3]]));
        bytes.drain(at..at + 2 + length);
    }
    let mut stage = stage(super::square());
    prepare(&mut stage, fixture("grey.jpg")).unwrap();
    let rejection = prepare(&mut stage, bytes).unwrap_err();
    assert_eq!(rejection.code, "decode.malformed", "{rejection}");
}

#[test]
fn the_specification_names_everything_that_changes_the_output() {
    let base = serde_json::json!({ "width": 32, "height": 32 });
    let plain = stage(config(base.clone())).spec().to_owned();
    let changes = [
        ("width", 31.into()),
        ("height", 31.into()),
        ("resize_short", 36.into()),
        ("fit", "pad".into()),
        ("filter", "box".into()),
        ("background", serde_json::json!([1, 2, 3])),
    ];
    for (key, value) in changes {
        let mut changed = base.clone();
        changed[key] = value;
        assert_ne!(stage(config(changed)).spec(), plain, "{key}");
    }
}
