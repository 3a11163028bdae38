//! Convolutions in int8 work with fixed scales, so somebody has to look first at the numbers that go through them.
//!
//! `calibration.safetensors` of a model folder holds one tensor, `observed`: means over the examples of what `native/static_int8.h` says.

use crate::LoadError;
use crate::assemble::Assembler;
use crate::manifest::Manifest;
use crate::model::Tuning;
use crate::module::{Module, Options};
use crate::tensors::{self, Tensor, Tensors};
use spawn_core::Features;
use std::path::Path;

const FILE: &str = "calibration.safetensors";
const TENSOR: &str = "observed";
/// Chunks of a call. Statistics are means of calls, so all are of this size.
const BATCH: usize = 8;

/// Runs the f32 model of folder `dir` over these chunks and writes down beside it what its convolutions see. `false` for a model without
/// any. Chunks beyond a multiple of 8 are left out.
pub fn calibrate(dir: &Path, chunks: &[Features]) -> Result<bool, LoadError> {
    let manifest = Manifest::read(dir)?;
    let path = dir.join("model.pt");
    let failed = |detail| LoadError::Module { path: path.clone(), detail };
    let options = Options { tuning: Tuning::default(), observe: true, ..Options::default() };
    let module = Module::load(&path, options).map_err(failed)?;
    if module.layers() == 0 {
        return Ok(false);
    }
    let mut assembler = Assembler::new(manifest.inputs, 1);
    let (mut sums, mut calls) = (vec![0.0_f64; module.layers()], 0.0);
    for group in chunks.chunks_exact(BATCH) {
        let batch = assembler.assemble(&group.iter().collect::<Vec<_>>(), 0).map_err(failed)?;
        let outputs = module.forward(batch).map_err(failed)?;
        let seen = outputs.first().map(|o| o.data.as_slice()).unwrap_or_default();
        sums.iter_mut().zip(seen).for_each(|(sum, value)| *sum += f64::from(*value));
        calls += 1.0;
    }
    if calls == 0.0 {
        return Err(failed(format!(
            "{} examples are too few to observe it, at least {BATCH} are needed",
            chunks.len()
        )));
    }
    let means: Vec<f32> = sums.iter().map(|sum| (sum / calls) as f32).collect();
    tensors::write(&dir.join(FILE), &Tensors::from([(TENSOR.into(), Tensor::vector(&means))]))?;
    Ok(true)
}

/// What was observed, if somebody looked.
pub(crate) fn read(dir: &Path) -> Result<Option<Vec<f32>>, LoadError> {
    let path = dir.join(FILE);
    if !path.is_file() {
        return Ok(None);
    }
    let wrong = |e: String| LoadError::manifest(&path, e);
    let tensor =
        tensors::read(&path)?.remove(TENSOR).ok_or_else(|| wrong(format!("there is no `{TENSOR}`")))?;
    tensor.elements().map(Some).map_err(|e| wrong(format!("`{TENSOR}`: {e}")))
}
