//! The models that the project ships with, as they were exported. `make test` installs them.

use crate::calibration::calibrate;
use crate::tensors::{self, Tensor, Tensors};
use crate::{Device, Dtype, LoadError, Manifest, TorchModel, Tuning};
use spawn_core::{Features, Modality, Model};
use std::path::{Path, PathBuf};

/// Every folder with a manifest in the models' folder, but for those that an operator has quantised; there must be some.
fn models() -> Vec<PathBuf> {
    let folder = std::env::var_os("SPAWN_MODELS").map(PathBuf::from).unwrap_or_else(|| {
        let root = PathBuf::from("/var/cache/spawn");
        let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache/spawn"));
        // SAFETY: geteuid has no preconditions and cannot fail.
        let is_root = unsafe { libc::geteuid() } == 0;
        home.filter(|_| !is_root).unwrap_or(root).join("models")
    });
    let entries = std::fs::read_dir(&folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let shipped = |path: &PathBuf| Manifest::read(path).is_ok_and(|manifest| manifest.dtype == Dtype::F32);
    let models: Vec<PathBuf> = entries.filter(shipped).collect();
    assert!(
        !models.is_empty(),
        "no models in {}: run `make test`, which installs them, or name their folder in SPAWN_MODELS",
        folder.display()
    );
    models
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() { copy(&from, &to) } else { std::fs::copy(&from, &to).map(|_| ()).unwrap() }
    }
}

#[test]
fn every_shipped_model_is_proved_on_this_machine() {
    for dir in models() {
        let mut model = TorchModel::load(&dir, &Device::Cpu).unwrap();
        let report = model.golden();
        assert!(report.count >= 2 && report.cosine_min >= 1.0 - 1e-5, "{}: {report:?}", dir.display());
        let examples: Vec<Features> = model.examples().take(2).cloned().collect();
        let chunks: Vec<&Features> = examples.iter().collect();
        let inferences = model.infer(&chunks).unwrap();
        assert!(inferences.iter().all(|i| i.embedding.is_some()), "{}", dir.display());
        let labels = model.manifest().labels_top;
        assert!(inferences.iter().all(|i| i.labels.len() == labels), "{}", dir.display());
        model.control().unwrap();
    }
}

/// The shipped model of this modality.
fn shipped(modality: Modality) -> PathBuf {
    let wanted = |dir: &PathBuf| Manifest::read(dir).unwrap().modality == modality;
    models().into_iter().find(wanted).expect("one is shipped")
}

#[test]
fn layers_run_by_onednn_and_say_the_same() {
    for (modality, layers) in [(Modality::Text, 36), (Modality::Image, 50)] {
        let dir = shipped(modality);
        let mut model = TorchModel::load(&dir, &Device::Cpu).unwrap();
        let tuning = Tuning { onednn: false, ..Tuning::default() };
        let mut plain = TorchModel::load_with(&dir, &Device::Cpu, tuning).unwrap();
        assert_eq!((model.fast_layers(), plain.fast_layers()), (layers, 0));
        let examples: Vec<Features> = model.examples().cloned().collect();
        let chunks: Vec<&Features> = examples.iter().collect();
        for (ours, theirs) in model.infer(&chunks).unwrap().iter().zip(plain.infer(&chunks).unwrap()) {
            let theirs = theirs.embedding.unwrap();
            assert!(ours.embedding.as_ref().unwrap().cosine(theirs.as_slice()) > 1.0 - 1e-6);
        }
    }
}

#[test]
fn a_shipped_model_with_other_weights_is_refused() {
    let dir = models()
        .into_iter()
        .min_by_key(|dir| std::fs::metadata(dir.join("model.pt")).unwrap().len())
        .unwrap();
    let temporary = tempfile::tempdir().unwrap();
    copy(&dir, temporary.path());
    let path = temporary.path().join("model.pt");
    let mut bytes = std::fs::read(&path).unwrap();
    // The archive is not compressed: the middle of the file is weights. Every sign there is turned.
    let (start, end) = (bytes.len() / 4, bytes.len() * 3 / 4);
    bytes[start..end].iter_mut().skip(3).step_by(4).for_each(|byte| *byte ^= 0x80);
    std::fs::write(&path, bytes).unwrap();
    let version = |dir: &Path| Manifest::read(dir).unwrap().version().unwrap();
    assert_ne!(version(&dir), version(temporary.path()));
    let error = TorchModel::load(temporary.path(), &Device::Cpu).err().unwrap();
    // The archive has checksums: libtorch itself may refuse it before the golden vectors do.
    assert!(matches!(error, LoadError::Golden { .. } | LoadError::Module { .. }), "{error}");
}

#[test]
fn in_fewer_bits_a_model_says_nearly_the_same_whatever_its_neighbours() {
    for (modality, dtype) in [
        (Modality::Text, "int8"),
        (Modality::Text, "bf16"),
        (Modality::Image, "bf16"),
        (Modality::Text, "f16"),
        (Modality::Image, "f16"),
        (Modality::Image, "int8"),
    ] {
        says_nearly_the_same(&shipped(modality), dtype);
    }
}

#[test]
fn what_was_observed_belongs_to_one_module() {
    let folder = tempfile::tempdir().unwrap();
    copy(&shipped(Modality::Image), folder.path());
    let examples: Vec<Features> =
        TorchModel::load(folder.path(), &Device::Cpu).unwrap().examples().cloned().collect();
    let few = calibrate(folder.path(), &examples[..4]).unwrap_err().to_string();
    assert!(few.contains("4 examples are too few"), "{few}");
    assert!(!calibrate(&shipped(Modality::Text), &[]).unwrap(), "it has no convolution");

    assert!(calibrate(folder.path(), &[examples.clone(), examples].concat()).unwrap());
    let path = folder.path().join("calibration.safetensors");
    let observed: Vec<f32> = tensors::read(&path).unwrap()["observed"].elements().unwrap();
    tensors::write(&path, &Tensors::from([("observed".into(), Tensor::vector(&observed[1..]))])).unwrap();
    let manifest = folder.path().join("model.toml");
    let text = std::fs::read_to_string(&manifest).unwrap().replacen("dtype = \"f32\"", "dtype = \"int8\"", 1);
    std::fs::write(&manifest, text).unwrap();
    let error = TorchModel::load(folder.path(), &Device::Cpu).unwrap_err().to_string();
    assert!(error.contains("what was observed does not belong to this module"), "{error}");
}

fn says_nearly_the_same(original: &Path, dtype: &str) {
    let folder = tempfile::tempdir().unwrap();
    copy(original, folder.path());
    let exact = TorchModel::load(original, &Device::Cpu).unwrap();
    let examples: Vec<Features> = exact.examples().cloned().collect();
    if dtype == "int8" && exact.spec().modality == Modality::Image {
        assert!(calibrate(folder.path(), &[examples.clone(), examples.clone()].concat()).unwrap());
    }
    let manifest = folder.path().join("model.toml");
    let number_type = format!("dtype = \"{dtype}\"");
    let text = std::fs::read_to_string(&manifest).unwrap().replacen("dtype = \"f32\"", &number_type, 1);
    std::fs::write(&manifest, &text).unwrap();
    // The gate of the f32 model is too narrow for it.
    let refused = TorchModel::load(folder.path(), &Device::Cpu);
    if dtype == "f16"
        && let Err(LoadError::Module { detail, .. }) = &refused
    {
        assert!(detail.contains("this processor does not compute in it"), "{detail}");
        return;
    }
    assert!(matches!(refused, Err(LoadError::Golden { .. })), "{refused:?}");

    std::fs::write(&manifest, text.replace("cosine_min = 0.99999", "cosine_min = 0.99")).unwrap();
    let mut model = TorchModel::load(folder.path(), &Device::Cpu).unwrap();
    assert!(model.fast_layers() >= exact.fast_layers());
    assert_ne!(model.spec().id(), exact.spec().id(), "its vectors go into a generation of their own");
    let together = model.infer(&examples.iter().collect::<Vec<_>>()).unwrap();
    for (example, together) in examples.iter().zip(&together) {
        let alone = model.infer(&[example]).unwrap().remove(0).embedding.unwrap();
        let cosine = alone.cosine(together.embedding.as_ref().unwrap().as_slice());
        // A last bit of f32 that differs may move a rounding, and that the next ones: as far apart as rounding is from f32, no further.
        assert!(cosine > 0.995, "{cosine}");
    }
}
