use super::tiny::{Kindness, MANIFEST, folder};
use crate::Manifest;
use spawn_core::{Modality, Pooling};
use std::path::Path;

fn read(text: &str) -> Result<Manifest, String> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("model.toml"), text).unwrap();
    Manifest::read(folder.path()).map_err(|e| e.to_string())
}

#[test]
fn what_the_file_says_arrives() {
    let manifest = read(MANIFEST).unwrap();
    assert_eq!((manifest.name.as_str(), manifest.modality, manifest.dimension), ("tiny", Modality::Text, 4));
    assert_eq!(manifest.pooling(), Pooling::Mean);
    assert!(manifest.inputs.iter().all(crate::manifest::Input::padded));

    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Preparation {
        tokens_max: usize,
    }
    assert_eq!(manifest.preparation::<Preparation>().unwrap().tokens_max, 40);
    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Other {
        size: usize,
    }
    let error = manifest.preparation::<Other>().map(|other| other.size).unwrap_err().to_string();
    assert!(error.contains("model.toml: [preparation]") && error.contains("tokens_max"), "{error}");
}

#[test]
fn what_cannot_be_is_refused_with_file_and_key() {
    for (from, to, says) in [
        ("dimension = 4", "dimension = 0", "dimension = 0"),
        ("dimension = 4", "dimension = 4001", "dimension = 4001"),
        ("dimension = 4", "dimensions = 4", "dimensions"),
        ("\"tiny\"", "\"Tiny model\"", "name = "),
        ("\"text\"", "\"video\"", "video"),
        ("\"torchscript\"", "\"onnx\"", "onnx"),
        ("\"f32\"", "\"f64\"", "f64"),
        ("shape = [-1]", "shape = [3, -1]", "inputs.ids.shape"),
        ("shape = [-1]", "shape = [0]", "inputs.ids.shape"),
        ("pad = 0", "pad = 0.5", "inputs.ids.pad = 0.5"),
        ("\"mask\"\ndtype = \"i64\"", "\"mask\"\ndtype = \"u8\"\nkind = 1", "kind"),
        ("[\"embedding\", \"scores\"]", "[\"scores\"]", "outputs.order"),
        ("[\"embedding\", \"scores\"]", "[\"embedding\", \"embedding\"]", "outputs.order"),
        ("[\"embedding\", \"scores\"]", "[\"embedding\"]", "labels_top"),
        ("batch_max = 3", "batch_max = 0", "batch_max"),
        ("count = 4", "count = 0", "golden: count"),
        ("cosine_min = 0.99999", "cosine_min = 0.5", "cosine_min"),
        ("[golden]\ncount = 4\ncosine_min = 0.99999", "", "golden"),
    ] {
        assert!(MANIFEST.contains(from), "{from}");
        let error = read(&MANIFEST.replacen(from, to, 1)).unwrap_err();
        assert!(error.contains("model.toml") && error.contains(says), "{to}: {error}");
    }
    assert!(Manifest::read(Path::new("/nowhere")).unwrap_err().to_string().contains("/nowhere/model.toml"));
}

#[test]
fn the_version_covers_every_name_and_every_byte() {
    let folder = folder(Kindness::Good);
    let version = || Manifest::read(&folder.path).unwrap().version().unwrap();
    let first = version();
    assert_eq!(first.len(), 64);
    assert_eq!(first, version());
    let labels = folder.path.join("labels.txt");
    let original = std::fs::read(&labels).unwrap();
    std::fs::write(&labels, b"cold\nmild\nwarn\n").unwrap();
    let changed = version();
    std::fs::write(&labels, &original).unwrap();
    assert_eq!(version(), first);
    std::fs::rename(&labels, folder.path.join("golden").join("labels.txt")).unwrap();
    let moved = version();
    std::fs::rename(folder.path.join("golden").join("labels.txt"), &labels).unwrap();
    // The border between two files counts, not only their bytes in a row.
    std::fs::write(folder.path.join("a"), b"xy").unwrap();
    std::fs::write(folder.path.join("b"), b"z").unwrap();
    let one = version();
    std::fs::write(folder.path.join("a"), b"x").unwrap();
    std::fs::write(folder.path.join("b"), b"yz").unwrap();
    let all: std::collections::BTreeSet<String> = [first, changed, moved, one, version()].into();
    assert_eq!(all.len(), 5);
}
