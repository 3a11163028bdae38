//! The proof at loading: the model makes, on this machine, the vectors that the exporter wrote down.
//!
//! Bits differ between machines and thread counts, so vectors are compared by cosine. Each example runs alone, padded further
//! than it needs, and together with the others: a module that lets padding or neighbours leak into a vector is refused too.

use crate::LoadError;
use crate::manifest::{InputType, Manifest};
use crate::tensors::{self, Tensors};
use spawn_core::{Array, ArrayData, Embedding, Features, Inference};
use std::path::Path;

/// What was proved.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GoldenReport {
    /// Examples.
    pub count: usize,
    /// Least cosine between a vector made here and its reference.
    pub cosine_min: f64,
    /// Largest difference of an element.
    pub abs_max: f64,
}

/// An input with what must come out.
#[derive(Debug)]
pub(crate) struct Example {
    pub(crate) chunk: Features,
    pub(crate) embedding: Vec<f32>,
    scores: Option<Vec<f32>>,
}

/// How far an answer may be off.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tolerance {
    /// Of the embedding, and of the scores taken as a vector.
    pub(crate) cosine_min: f64,
    /// Of the embedding's length from 1, if the model says that it is normalised.
    pub(crate) normalised: bool,
}

/// Vectors of length 1 are so within this: rounding in f16 gives up to 5e-4.
const LENGTH_TOLERANCE: f64 = 1e-3;

/// What the model answered for a chunk, before labels are chosen.
pub(crate) struct Answer {
    pub(crate) inference: Inference,
    pub(crate) scores: Option<Vec<f32>>,
}

impl GoldenReport {
    pub(crate) fn new(count: usize) -> Self {
        Self { count, cosine_min: 1.0, abs_max: 0.0 }
    }

    /// Compares and takes note; the error says what is off.
    pub(crate) fn compare(
        &mut self,
        example: &Example,
        answer: &Answer,
        tolerance: Tolerance,
    ) -> Result<(), String> {
        let embedding = answer.inference.embedding.as_ref().ok_or("the model makes no embedding")?;
        self.vectors("embedding", embedding, &example.embedding, tolerance.cosine_min)?;
        let length = embedding.as_slice().iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
        if tolerance.normalised && (length - 1.0).abs() > LENGTH_TOLERANCE {
            return Err(format!("the manifest says `normalised`, but the embedding's length is {length:.6}"));
        }
        if let Some(want) = &example.scores {
            let scores = answer.scores.clone().ok_or("the model makes no scores")?;
            let scores =
                Embedding::try_new(scores, want.len()).map_err(|e| e.replace("embedding", "scores"))?;
            self.vectors("scores", &scores, want, tolerance.cosine_min)?;
        }
        Ok(())
    }

    fn vectors(&mut self, what: &str, have: &Embedding, want: &[f32], cosine_min: f64) -> Result<(), String> {
        let cosine = have.cosine(want);
        if have.as_slice().len() != want.len() || cosine.is_nan() || cosine < cosine_min {
            return Err(format!(
                "the cosine of its {what} to the reference is {cosine:.7}, at least {cosine_min} is needed"
            ));
        }
        let off = have.as_slice().iter().zip(want).map(|(a, b)| f64::from((a - b).abs())).fold(0.0, f64::max);
        // A cosine is blind to length, a vector twice as long is as wrong as another direction.
        let size = want.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
        let off_max = (2.0 * (1.0 - cosine_min)).sqrt() * size * 2.0;
        if off > off_max {
            return Err(format!(
                "an element of its {what} is off by {off:.3e}, at most {off_max:.3e} is accepted"
            ));
        }
        self.cosine_min = self.cosine_min.min(cosine);
        self.abs_max = self.abs_max.max(off);
        Ok(())
    }
}

/// Reads `golden/golden.safetensors`: `in.<i>.<input>` without a batch axis, `ref.<i>.embedding`, `ref.<i>.scores` if it likes.
pub(crate) fn read(manifest: &Manifest) -> Result<Vec<Example>, LoadError> {
    let path = manifest.dir().join("golden").join("golden.safetensors");
    if !path.is_file() {
        return Err(LoadError::manifest(&path, "is missing: a model without golden vectors is not loaded"));
    }
    let mut tensors = tensors::read(&path)?;
    let examples = (0..manifest.golden.count)
        .map(|i| example(&path, manifest, i, &mut tensors))
        .collect::<Result<Vec<_>, _>>()?;
    match tensors.keys().next() {
        None => Ok(examples),
        Some(name) => {
            let detail =
                format!("`{name}` belongs to none of the {} examples that model.toml names", examples.len());
            Err(LoadError::manifest(&path, detail))
        }
    }
}

fn example(path: &Path, manifest: &Manifest, i: usize, tensors: &mut Tensors) -> Result<Example, LoadError> {
    let mut take = |name: String| tensors.remove(&name).ok_or(name);
    let missing = |name: String| LoadError::manifest(path, format!("there is no `{name}`"));
    let wrong = |name: &str, e: String| LoadError::manifest(path, format!("`{name}`: {e}"));
    let mut arrays = Vec::with_capacity(manifest.inputs.len());
    for input in &manifest.inputs {
        let tensor = take(format!("in.{i}.{}", input.name)).map_err(missing)?;
        let data = match input.dtype {
            InputType::U8 => tensor.elements().map(ArrayData::U8),
            InputType::F32 => tensor.elements().map(ArrayData::F32),
            InputType::I64 => tensor.elements().map(ArrayData::I64),
        };
        let data = data.map_err(|e| wrong(&format!("in.{i}.{}", input.name), e))?;
        arrays.push(Array { name: intern(&input.name), shape: tensor.shape, data });
    }
    let embedding = take(format!("ref.{i}.embedding")).map_err(missing)?;
    let embedding = embedding.elements().map_err(|e| wrong(&format!("ref.{i}.embedding"), e))?;
    let scores = take(format!("ref.{i}.scores")).ok();
    let scores = scores.map(|t| t.elements()).transpose();
    let scores = scores.map_err(|e| wrong(&format!("ref.{i}.scores"), e))?;
    Ok(Example { chunk: Features { arrays }, embedding, scores })
}

/// Array names are constants of the stages; a golden file brings its own. Kept for the life of the process, each name once.
fn intern(name: &str) -> &'static str {
    static NAMES: std::sync::Mutex<Vec<&'static str>> = std::sync::Mutex::new(Vec::new());
    let mut names = NAMES.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(known) = names.iter().find(|known| **known == name) {
        return known;
    }
    let kept: &'static str = Box::leak(name.to_owned().into_boxed_str());
    names.push(kept);
    kept
}
