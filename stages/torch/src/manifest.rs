//! `model.toml`, parsed once into a checked type, and the version of a model folder. Nothing here touches libtorch.

use crate::LoadError;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use spawn_core::{Modality, Pooling};
use std::path::{Path, PathBuf};

/// Most elements of an embedding: pgvector's limit for an indexed `halfvec`.
const DIMENSION_MAX: usize = 4000;

/// Most files in a model folder: more means that it is no model folder.
const FILES_MAX: usize = 1000;

/// Number type of the computation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// 32-bit floats.
    #[default]
    F32 = 0,
    /// Linear layers in 8-bit integers, with a scale for each row, and calibrated convolutions; on the CPU.
    Int8 = 1,
    /// Layers that gain by it in 16-bit floats with the exponents of `f32`.
    Bf16 = 2,
    /// The same with 11 bits of precision and a largest number of 65,504.
    F16 = 3,
}

impl Dtype {
    /// As manifests and rows name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Int8 => "int8",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
        }
    }
}

/// What a model folder says about itself.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Lower-case letters, digits, `-`, `_` and `.`; names tables' rows and metrics.
    pub name: String,
    /// What it works on.
    pub modality: Modality,
    /// How `model.pt` was saved.
    pub format: Format,
    /// Number type of the computation: `f32`, `bf16`, `f16` or `int8`.
    pub dtype: Dtype,
    /// Elements of the embedding, 1 to 4000.
    pub dimension: usize,
    /// Whether the module scales embeddings to length 1. The golden vectors are checked for it.
    pub normalised: bool,
    /// Whether an item with several chunks gets their mean as one vector more.
    #[serde(default)]
    pub pooled: Pooled,
    /// How many labels are kept, best first. More than 0 needs an output `scores` and `labels.txt`.
    #[serde(default)]
    pub labels_top: usize,
    /// Where it comes from: package, version, licence, whatever the exporter knows.
    #[serde(default)]
    pub source: toml::Table,
    /// The module's arguments, in order.
    pub inputs: Vec<Input>,
    /// What the module answers.
    pub outputs: Outputs,
    /// Settings of the stage; see [`Manifest::preparation`].
    pub preparation: toml::Table,
    /// Limits of one call.
    pub limits: Limits,
    /// The proof.
    pub golden: Golden,
    #[serde(skip)]
    dir: PathBuf,
}

/// How `model.pt` was saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// `torch.jit.save`.
    TorchScript,
}

/// How the chunks of one item become one vector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pooled {
    /// Chunks only.
    #[default]
    None,
    /// Their mean, scaled to length 1.
    Mean,
}

/// One argument of the module.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// As the stage calls it.
    pub name: String,
    /// Its number type.
    pub dtype: InputType,
    /// Extent of each axis, without the batch axis. The first may be -1: as long as the chunk, padded to the longest of a call.
    pub shape: Vec<i64>,
    /// What a shorter chunk is padded with; 0 to 255 for `u8`.
    #[serde(default)]
    pub pad: f64,
}

/// Number type of an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InputType {
    /// Pixels.
    U8,
    /// Samples.
    F32,
    /// Token ids and masks.
    I64,
}

/// What the module answers: one tensor, or a tuple.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Outputs {
    /// In the order of the tuple.
    pub order: Vec<Output>,
}

/// One tensor of the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Output {
    /// `[batch, dimension]`.
    Embedding,
    /// `[batch, labels]`, probabilities from 0 to 1.
    Scores,
}

/// Limits of one call.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Most chunks, at least 1.
    pub batch_max: usize,
    /// Most chunks times the longest chunk's first axis (tokens, samples, rows).
    pub padded_cost_max: usize,
}

/// What loading must prove.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Golden {
    /// Examples in `golden/golden.safetensors`, at least 1.
    pub count: usize,
    /// Least cosine between a vector made here and the one in the file, for example 0.99999.
    pub cosine_min: f64,
}

impl Manifest {
    /// Reads and checks `dir/model.toml`. The error names the file and the key.
    pub fn read(dir: &Path) -> Result<Self, LoadError> {
        let path = dir.join("model.toml");
        let text = std::fs::read_to_string(&path).map_err(LoadError::io(&path))?;
        let mut manifest: Self =
            toml::from_str(&text).map_err(|e| LoadError::manifest(&path, e.to_string().trim()))?;
        manifest.check().map_err(|detail| LoadError::manifest(&path, detail))?;
        dir.clone_into(&mut manifest.dir);
        Ok(manifest)
    }

    /// The folder it was read from.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// `[preparation]` as the stage's own configuration.
    pub fn preparation<T: DeserializeOwned>(&self) -> Result<T, LoadError> {
        let table = toml::Value::Table(self.preparation.clone());
        table.try_into().map_err(|e: toml::de::Error| {
            LoadError::manifest(
                &self.dir.join("model.toml"),
                format!("[preparation]: {}", e.to_string().trim()),
            )
        })
    }

    /// How the engine is to pool.
    pub fn pooling(&self) -> Pooling {
        match self.pooled {
            Pooled::None => Pooling::None,
            Pooled::Mean => Pooling::Mean,
        }
    }

    /// BLAKE3 over every file of the folder, 64 hexadecimal digits: relative paths in order, each with its length and content.
    pub fn version(&self) -> Result<String, LoadError> {
        version_of(&self.dir)
    }

    fn check(&self) -> Result<(), String> {
        let fine = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c);
        if self.name.is_empty() || self.name.len() > 64 || !self.name.chars().all(fine) {
            return Err(format!("name = {:?}: 1 to 64 of a-z, 0-9, `-`, `_`, `.` are accepted", self.name));
        }
        if !(1..=DIMENSION_MAX).contains(&self.dimension) {
            return Err(format!("dimension = {}: 1 to {DIMENSION_MAX} are accepted", self.dimension));
        }
        if self.inputs.is_empty() {
            return Err("inputs: at least one [[inputs]] is needed".into());
        }
        self.inputs.iter().try_for_each(Input::check)?;
        let order = &self.outputs.order;
        if order.iter().filter(|o| **o == Output::Embedding).count() != 1 || order.len() > 2 {
            return Err(r#"outputs.order: ["embedding"] or, in any order, "embedding" and "scores""#.into());
        }
        if order.len() == 2 && !order.contains(&Output::Scores) {
            return Err("outputs.order: an output is named twice".into());
        }
        if self.labels_top > 0 && !order.contains(&Output::Scores) {
            return Err("labels_top: labels need \"scores\" in outputs.order".into());
        }
        if self.limits.batch_max == 0 || self.limits.padded_cost_max == 0 {
            return Err("limits: batch_max and padded_cost_max are at least 1".into());
        }
        let Golden { count, cosine_min } = self.golden;
        if count == 0 || !(0.9..=1.0).contains(&cosine_min) {
            return Err("golden: count is at least 1, cosine_min between 0.9 and 1".into());
        }
        Ok(())
    }
}

impl Input {
    /// Whether its first axis is as long as the chunk.
    pub fn padded(&self) -> bool {
        self.shape.first() == Some(&-1)
    }

    fn check(&self) -> Result<(), String> {
        let fixed = if self.padded() { &self.shape[1..] } else { &self.shape[..] };
        if fixed.iter().any(|extent| *extent < 1) {
            return Err(format!(
                "inputs.{}.shape = {:?}: extents are at least 1, only the first may be -1",
                self.name, self.shape
            ));
        }
        let whole = self.dtype == InputType::F32 || self.pad.fract() == 0.0;
        let in_range = self.dtype != InputType::U8 || (0.0..=255.0).contains(&self.pad);
        if !self.pad.is_finite() || !whole || !in_range {
            return Err(format!("inputs.{}.pad = {} does not fit its dtype", self.name, self.pad));
        }
        Ok(())
    }
}

/// See [`Manifest::version`].
fn version_of(dir: &Path) -> Result<String, LoadError> {
    let mut files = Vec::new();
    collect(dir, dir, &mut files)?;
    // By the path's text with `/`, so that the version does not depend on the machine.
    files.sort();
    let mut hasher = blake3::Hasher::new();
    for relative in files {
        let path = dir.join(&relative);
        let file = std::fs::File::open(&path).map_err(LoadError::io(&path))?;
        let length = file.metadata().map_err(LoadError::io(&path))?.len();
        hasher.update(&(relative.len() as u64).to_le_bytes()).update(relative.as_bytes());
        hasher.update(&length.to_le_bytes());
        hasher.update_reader(file).map_err(LoadError::io(&path))?;
    }
    Ok(hasher.finalize().to_hex().to_string())
}

fn collect(root: &Path, dir: &Path, files: &mut Vec<String>) -> Result<(), LoadError> {
    for entry in std::fs::read_dir(dir).map_err(LoadError::io(dir))? {
        let path = entry.map_err(LoadError::io(dir))?.path();
        let metadata = std::fs::symlink_metadata(&path).map_err(LoadError::io(&path))?;
        if metadata.is_dir() {
            collect(root, &path, files)?;
            continue;
        }
        let relative = path.strip_prefix(root).ok().and_then(Path::to_str);
        match relative {
            Some(relative) if files.len() < FILES_MAX => files.push(relative.to_owned()),
            Some(_) => {
                return Err(LoadError::manifest(
                    root,
                    format!("more than {FILES_MAX} files: no model folder"),
                ));
            }
            None => return Err(LoadError::manifest(&path, "the file's name is not UTF-8")),
        }
    }
    Ok(())
}
