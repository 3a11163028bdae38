//! The part of `spawn check` about model folders. Nothing is loaded: `spawn models` does that.

use super::check::Findings;
use crate::config::{Pipeline, Settings};
use crate::exit::{Code, Failure, Outcome};
use crate::registry;
use spawn_core::{Modality, ModelSpec, Stage};
use spawn_postgres::PipelineIdentity;
use spawn_torch::Manifest;
use spawn_torch::manifest::InputType;
use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

const FIX: &str = "run `setup/install models`, or set models.dir and the pipeline's model";

/// What the other parts need of the models.
#[derive(Default)]
pub(super) struct Checked {
    /// Who each pipeline is that has a whole model.
    pub(super) identities: Vec<PipelineIdentity>,
    /// Bytes of `model.pt` of every model, each counted once.
    pub(super) file_bytes: u64,
}

pub(super) fn models(settings: &Settings, findings: &mut Findings) -> Checked {
    let mut checked = Checked::default();
    let mut sizes = BTreeMap::new();
    for pipeline in &settings.pipeline {
        let at = format!("pipeline.{}.model", pipeline.name);
        let (manifest, folder, stage) = match parts(settings, pipeline) {
            Ok(parts) => parts,
            Err(failure) => {
                findings.wrong("model", &at, failure.error, "a model folder", FIX);
                continue;
            }
        };
        findings.well("model", &at, format!("{} for {}", pipeline.model, manifest.modality));
        input(&manifest, &at, findings);
        match file(&folder).and_then(|bytes| Ok((bytes, manifest.version()?))) {
            Err(failure) => findings.wrong("model_file", &at, failure.error, "a TorchScript file", FIX),
            Ok((bytes, version)) => {
                let identity = identity(pipeline, &manifest, &version, stage.as_ref());
                findings.well("model_file", &at, format!("{}, {} MiB", identity.model, bytes >> 20));
                checked.identities.push(identity);
                sizes.insert(pipeline.model.as_str(), bytes);
            }
        }
    }
    checked.file_bytes = sizes.values().sum();
    checked
}

type Parts = (Manifest, std::path::PathBuf, Box<dyn Stage>);

fn parts(settings: &Settings, pipeline: &Pipeline) -> Outcome<Parts> {
    let (manifest, folder) = registry::manifest(settings, &pipeline.model)?;
    let stage = registry::stage(&manifest, &folder, settings)?;
    Ok((manifest, folder, stage))
}

/// Bytes of the folder's `model.pt`, which `torch.jit.save` writes as a ZIP archive.
fn file(folder: &Path) -> Outcome<u64> {
    let path = folder.join("model.pt");
    let wrong =
        |why: &dyn std::fmt::Display| Failure::new(Code::Config, format!("{}: {why}", path.display()));
    let mut start = [0; 4];
    let mut file = std::fs::File::open(&path).map_err(|e| wrong(&e))?;
    file.read_exact(&mut start).map_err(|e| wrong(&e))?;
    if start != *b"PK\x03\x04" {
        return Err(wrong(&"no TorchScript file; was it copied whole?"));
    }
    Ok(file.metadata().map_err(|e| wrong(&e))?.len())
}

/// As [`crate::line::Runtime::identity`] makes it of the loaded model.
fn identity(pipeline: &Pipeline, manifest: &Manifest, version: &str, stage: &dyn Stage) -> PipelineIdentity {
    PipelineIdentity {
        pipeline: pipeline.name.clone(),
        topic: pipeline.topic.clone(),
        collection: pipeline.collection.clone(),
        modality: manifest.modality,
        model: ModelSpec::id_of(&manifest.name, version),
        model_hash: version.to_owned(),
        preparation: stage.spec().to_owned(),
        dtype: manifest.dtype.as_str().into(),
        dimension: manifest.dimension,
    }
}

/// Whether the arrays that the stage makes are those that the model takes: number types and extents.
fn input(manifest: &Manifest, at: &str, findings: &mut Findings) {
    let of = |key: &str| manifest.preparation.get(key).and_then(toml::Value::as_integer).unwrap_or(0);
    let (kind, made, names) = match manifest.modality {
        Modality::Image => (InputType::U8, vec![of("height"), of("width"), 3], &["image"][..]),
        Modality::Audio => (InputType::F32, vec![of("window_samples")], &["audio"][..]),
        Modality::Text => (InputType::I64, vec![of("tokens_max")], &["ids", "mask"][..]),
    };
    let fits = |input: &spawn_torch::manifest::Input| {
        let extents = input.shape.len() == made.len()
            && input.shape.iter().zip(&made).all(|(taken, made)| *taken == -1 || taken == made);
        names.contains(&input.name.as_str()) && input.dtype == kind && extents
    };
    let misfit = manifest.inputs.iter().find(|i| !fits(i));
    let shown = misfit.or(manifest.inputs.first());
    let found = shown.map_or_else(String::new, |i| format!("{} {:?} {:?}", i.name, i.dtype, i.shape));
    let want = format!("{} {kind:?} {made:?}, as [preparation] makes it", names.join(" or "));
    let fix = "correct [[inputs]] or [preparation] in model.toml, or export the model again";
    findings.judge(misfit.is_none(), "input", at, found, &want, fix);
}
