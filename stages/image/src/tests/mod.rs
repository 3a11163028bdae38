//! Tests of the stage. Pictures and references: `tests/make_goldens.py`.

#![allow(clippy::unwrap_used)]

mod config;
mod goldens;
mod hostile;
mod limits;
mod memory;

use crate::{Config, ImageStage, Limits};
use spawn_core::{ArrayData, Media, Prepared, Rejection, Stage};
use std::path::{Path, PathBuf};

const LIMITS: Limits = Limits { bytes_max: 1 << 20, pixels_max: 1_000_000 };

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(fixtures().join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn media(bytes: Vec<u8>) -> Media {
    Media::new(bytes.into(), None)
}

/// Pictures that can be decoded: all fixtures that are no references and not made to fail.
fn good_pictures() -> Vec<String> {
    let failing = ["bomb.", "damaged.", "golden", "no-end.", "README", "truncated-"];
    let mut names: Vec<String> = std::fs::read_dir(fixtures())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !failing.iter().any(|prefix| name.starts_with(prefix)))
        .collect();
    names.sort();
    assert!(names.len() > 30, "only {} fixtures", names.len());
    names
}

fn config(json: serde_json::Value) -> Config {
    serde_json::from_value(json).unwrap()
}

fn square() -> Config {
    config(serde_json::json!({ "width": 32, "height": 32 }))
}

fn stage(config: Config) -> ImageStage {
    ImageStage::new(config, LIMITS).unwrap()
}

/// As the line calls it: footprint, then process.
fn prepare(stage: &mut ImageStage, bytes: Vec<u8>) -> Result<Prepared, Rejection> {
    (stage as &mut dyn Stage).check_and_process(&media(bytes))
}

fn pixels(prepared: &Prepared) -> &[u8] {
    match &prepared.chunks[0].arrays[0].data {
        ArrayData::U8(pixels) => pixels,
        other => panic!("{other:?}"),
    }
}
