//! The seam: a loaded model that was proved at loading, and one call of it.

use crate::assemble::Assembler;
use crate::golden::{self, Answer, Example, GoldenReport, Tolerance};
use crate::manifest::{Dtype, Manifest, Output as Role};
use crate::module::{Module, Options, Output};
use crate::runtime::{Device, has_cuda_graphs, resolve};
use crate::{LoadError, calibration, fault};
use spawn_core::{Embedding, Fault, FaultClass, Features, Inference, Label, Model, ModelSpec};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// A model on libtorch. Clones share the weights.
#[derive(Clone)]
pub struct TorchModel {
    spec: ModelSpec,
    manifest: Manifest,
    module: Arc<Module>,
    assembler: Assembler,
    labels: Arc<[Arc<str>]>,
    pub(crate) golden: Arc<[Example]>,
    report: GoldenReport,
    lengths_tried: usize,
    load_seconds: f64,
}

/// What a call costs beside its elements, as a part of the largest one: on a CPU reading the weights once more, on a GPU hundreds of launches.
const CALL_SHARE_CPU: usize = 128;
const CALL_SHARE_GPU: usize = 16;
/// Elements between two padded lengths on a GPU.
const GPU_LENGTH_STEP: usize = 32;

/// How a model is run. The default is what was found best; the rest is there to measure what each idea is worth.
#[derive(Clone, Copy, Debug)]
pub struct Tuning {
    /// Fold constants into the graph (`torch.jit.freeze`), unless the file was saved so.
    pub freeze: bool,
    /// Linear layers by oneDNN rather than MKL, on the CPU. On: twice as fast on processors that are not Intel's.
    pub onednn: bool,
    /// `torch.jit.optimize_for_inference`. Off: with pixels-last inputs it was no faster on one core and slower on two.
    pub optimise: bool,
    /// TorchScript's profiling executor, for the whole process. Off: it specialises itself anew for lengths that it has not seen.
    pub profiling: bool,
    /// On a GPU: record what the calls of a shape launch, and launch it as a whole from then on. Off: it pays where many small kernels are
    /// launched for little work, and keeps memory for each shape.
    pub cuda_graphs: bool,
    /// Padded lengths are rounded up to a multiple of this, so that there are few shapes, each of which is tried at loading. 0: 32 on a GPU, 1
    /// on the CPU, where a new shape costs nothing with profiling off, but padding does.
    pub length_step: usize,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            freeze: true,
            onednn: true,
            optimise: false,
            profiling: false,
            cuda_graphs: false,
            length_step: 0,
        }
    }
}

impl std::fmt::Debug for TorchModel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TorchModel({} on {})", self.spec.id(), self.spec.device)
    }
}

impl TorchModel {
    /// Loads the model of folder `dir` and proves it by its golden vectors; that also warms it up.
    pub fn load(dir: &Path, device: &Device) -> Result<Self, LoadError> {
        Self::load_with(dir, device, Tuning::default())
    }

    /// As [`TorchModel::load`], tuned otherwise; for measurements.
    pub fn load_with(dir: &Path, device: &Device, tuning: Tuning) -> Result<Self, LoadError> {
        let started = Instant::now();
        let manifest = Manifest::read(dir)?;
        let labels = labels(&manifest)?;
        let golden = golden::read(&manifest)?;
        let device = resolve(device)?;
        let cuda = if let Device::Cuda(index) = device { Some(index) } else { None };
        if tuning.cuda_graphs && cuda.is_some() && !has_cuda_graphs() {
            return Err(LoadError::Runtime(
                "models.cuda_graphs: this libtorch has none; switch it off".into(),
            ));
        }
        let path = dir.join("model.pt");
        let observed = if manifest.dtype == Dtype::Int8 { calibration::read(dir)? } else { None };
        let options =
            Options { cuda, dtype: manifest.dtype, tuning, observe: false, observed: observed.as_deref() };
        let module = Module::load(&path, options).map_err(|detail| LoadError::Module { path, detail })?;
        let spec = ModelSpec {
            name: manifest.name.as_str().into(),
            version: manifest.version()?.into(),
            modality: manifest.modality,
            dimension: manifest.dimension,
            dtype: manifest.dtype.as_str().into(),
            device: device.to_string().into(),
            pooling: manifest.pooling(),
            chunks_max: manifest.limits.batch_max,
            padded_cost_max: manifest.limits.padded_cost_max,
            call_cost: manifest.limits.padded_cost_max / cuda.map_or(CALL_SHARE_CPU, |_| CALL_SHARE_GPU),
        };
        let length_step = match tuning.length_step {
            0 => cuda.map_or(1, |_| GPU_LENGTH_STEP),
            step => step,
        };
        let assembler = Assembler::new(manifest.inputs.clone(), length_step);
        let report = GoldenReport::new(golden.len());
        let mut model = Self {
            spec,
            manifest,
            module: Arc::new(module),
            assembler,
            labels: labels.into(),
            golden: golden.into(),
            report,
            lengths_tried: 0,
            load_seconds: 0.0,
        };
        // With graphs the second call of a shape is recorded, and the third launched from what was recorded.
        for _ in 0..if tuning.cuda_graphs { 3 } else { 1 } {
            model.report = model.prove()?;
        }
        model.lengths_tried = model.warm_up(length_step)?;
        model.load_seconds = started.elapsed().as_secs_f64();
        let GoldenReport { count, cosine_min, abs_max } = model.report;
        let (id, device, seconds) = (model.spec.id(), &model.spec.device, model.load_seconds);
        tracing::info!(model = %id, %device, seconds, count, cosine_min, abs_max, "model loaded");
        Ok(model)
    }

    /// What the folder says.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// What loading proved.
    pub fn golden(&self) -> GoldenReport {
        self.report
    }

    /// How many padded lengths loading tried; see [`Tuning::length_step`].
    pub fn lengths_tried(&self) -> usize {
        self.lengths_tried
    }

    /// Time from the first look at the folder to the end of the proof.
    pub fn load_seconds(&self) -> f64 {
        self.load_seconds
    }

    /// How many of its layers run by oneDNN (see [`Tuning::onednn`]) or in fewer bits.
    pub fn fast_layers(&self) -> usize {
        self.module.layers()
    }

    /// The inputs of the golden examples: real ones, for measurements.
    pub fn examples(&self) -> impl Iterator<Item = &Features> {
        self.golden.iter().map(|example| &example.chunk)
    }

    /// Every example alone, alone with more padding, and all together as far as a call may go.
    fn prove(&mut self) -> Result<GoldenReport, LoadError> {
        let mut report = GoldenReport::new(self.golden.len());
        let result = self.prove_all(&self.golden.clone(), &mut report);
        let dir = self.manifest.dir();
        result.map(|()| report).map_err(|(example, detail)| LoadError::Golden {
            path: dir.to_owned(),
            example,
            detail,
        })
    }

    /// One call of each length that padding can make, and how many these are. The first of a shape costs a GPU's libraries up to seconds.
    fn warm_up(&mut self, length_step: usize) -> Result<usize, LoadError> {
        let longest = self.manifest.preparation.get("tokens_max").and_then(toml::Value::as_integer);
        let longest =
            longest.and_then(|n| usize::try_from(n).ok()).unwrap_or(0).next_multiple_of(length_step);
        let shortest = self.golden.iter().map(|example| &example.chunk).min_by_key(|chunk| chunk.length());
        let Some(chunk) = shortest.filter(|_| length_step > 1).cloned() else { return Ok(0) };
        for length in (length_step..=longest).step_by(length_step) {
            self.call(&[&chunk], length).map_err(|fault| LoadError::Module {
                path: self.manifest.dir().join("model.pt"),
                detail: format!("a call of the length {length}: {}", fault.detail),
            })?;
        }
        Ok(longest / length_step)
    }

    fn prove_all(&mut self, examples: &[Example], report: &mut GoldenReport) -> Result<(), (usize, String)> {
        let padded = self.manifest.inputs.iter().any(crate::manifest::Input::padded);
        let tolerance = self.tolerance();
        for (i, example) in examples.iter().enumerate() {
            let length = example.chunk.length();
            for length_min in if padded { vec![0, length + 17] } else { vec![0] } {
                let answers = self.call(&[&example.chunk], length_min).map_err(|f| (i, f.detail))?;
                report.compare(example, &answers[0], tolerance).map_err(|e| {
                    (i, if length_min > 0 { format!("padded to {length_min}: {e}") } else { e })
                })?;
            }
        }
        for (n, group) in examples.chunks(self.spec.chunks_max.max(1)).enumerate() {
            let first = n * self.spec.chunks_max;
            let chunks: Vec<&Features> = group.iter().map(|example| &example.chunk).collect();
            let answers = self.call(&chunks, 0).map_err(|f| (first, f.detail))?;
            for (i, (example, answer)) in group.iter().zip(&answers).enumerate() {
                report
                    .compare(example, answer, tolerance)
                    .map_err(|e| (first + i, format!("in a batch of {}: {e}", chunks.len())))?;
            }
        }
        Ok(())
    }

    fn tolerance(&self) -> Tolerance {
        Tolerance { cosine_min: self.manifest.golden.cosine_min, normalised: self.manifest.normalised }
    }

    fn call(&mut self, chunks: &[&Features], length_min: usize) -> Result<Vec<Answer>, Fault> {
        let batch = self.assembler.assemble(chunks, length_min).map_err(fault::of_chunk)?;
        let outputs = self.module.forward(batch).map_err(|message| {
            let fault = fault::of_call(&message);
            // The smaller calls that follow find what the device has, and not what larger ones left in pieces.
            if fault.class == FaultClass::Resource {
                self.module.empty_cache();
            }
            fault
        })?;
        let roles = &self.manifest.outputs.order;
        if outputs.len() != roles.len() {
            let detail = format!("the module answers {} tensors, the manifest says {roles:?}", outputs.len());
            return Err(fault::of_chunk(detail));
        }
        let find = |role| roles.iter().position(|r| *r == role).map(|i| &outputs[i]);
        let mut embeddings = find(Role::Embedding).map(|o| rows(o, chunks.len())).transpose()?;
        let mut scores = find(Role::Scores).map(|o| rows(o, chunks.len())).transpose()?;
        // In 16 bits a module's own scaling is off by up to a few thousandths.
        let scale = self.manifest.normalised && matches!(self.manifest.dtype, Dtype::Bf16 | Dtype::F16);
        (0..chunks.len())
            .map(|_| {
                let embedding = embeddings.as_mut().and_then(Iterator::next);
                let embedding = embedding.map(|row| Embedding::try_new(row.to_vec(), self.spec.dimension));
                let mut embedding = embedding.transpose().map_err(fault::of_chunk)?;
                if scale {
                    embedding = embedding.map(Embedding::scaled);
                }
                let scores = scores.as_mut().and_then(Iterator::next).map(<[f32]>::to_vec);
                let top = self.manifest.labels_top;
                let labels = best(scores.as_deref().unwrap_or_default(), &self.labels, top)?;
                Ok(Answer { inference: Inference { embedding, labels }, scores })
            })
            .collect()
    }
}

impl Model for TorchModel {
    fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    fn infer(&mut self, chunks: &[&Features]) -> Result<Vec<Inference>, Fault> {
        if chunks.is_empty() {
            return Ok(Vec::new());
        }
        if chunks.len() > self.spec.chunks_max {
            let (have, most) = (chunks.len(), self.spec.chunks_max);
            return Err(fault::of_chunk(format!("a call of {have} chunks, at most {most} are accepted")));
        }
        Ok(self.call(chunks, 0)?.into_iter().map(|answer| answer.inference).collect())
    }

    fn control(&mut self) -> Result<(), Fault> {
        let name = self.spec.name.clone();
        let sick = |detail: String| {
            Fault::new(
                FaultClass::Systemic,
                "model",
                format!("{name}: its first golden example fails: {detail}"),
            )
        };
        let tolerance = self.tolerance();
        let examples = self.golden.clone();
        self.call(&[&examples[0].chunk], 0)
            .map_err(|f| f.detail)
            .and_then(|answers| GoldenReport::new(1).compare(&examples[0], &answers[0], tolerance))
            .map_err(sick)
    }

    fn fork(&self) -> Box<dyn Model> {
        Box::new(self.clone())
    }

    fn device_bytes(&self) -> [u64; 2] {
        self.module.device_bytes()
    }
}

/// The rows of an answer of shape `[batch, n]`.
fn rows(output: &Output, batch: usize) -> Result<std::slice::ChunksExact<'_, f32>, Fault> {
    match output.shape[..] {
        [have, width] if have == batch && width > 0 => Ok(output.data.chunks_exact(width)),
        _ => {
            let detail = format!("the module answers the shape {:?} to {batch} chunks", output.shape);
            Err(fault::of_chunk(detail))
        }
    }
}

/// The `top` best labels, best first; of equal ones the earlier.
fn best(scores: &[f32], labels: &[Arc<str>], top: usize) -> Result<Vec<Label>, Fault> {
    if top == 0 {
        return Ok(Vec::new());
    }
    if scores.len() != labels.len() {
        let detail = format!("{} scores for the {} names in labels.txt", scores.len(), labels.len());
        return Err(fault::of_chunk(detail));
    }
    // Rounding may lead a hair beyond; logits lead far beyond, and NaN is in no range.
    if let Some(score) = scores.iter().find(|s| !(-1e-3..=1.001).contains(*s)) {
        return Err(fault::of_chunk(format!("the score {score} is no probability")));
    }
    let mut order: Vec<usize> = (0..scores.len()).collect();
    let by = |a: &usize, b: &usize| scores[*b].total_cmp(&scores[*a]).then(a.cmp(b));
    if top < order.len() {
        order.select_nth_unstable_by(top, by);
        order.truncate(top);
    }
    order.sort_by(by);
    Ok(order
        .into_iter()
        .map(|i| Label { name: labels[i].clone(), score: scores[i].clamp(0.0, 1.0) })
        .collect())
}

/// `labels.txt`: a name a line. Needed only where labels are wanted.
fn labels(manifest: &Manifest) -> Result<Vec<Arc<str>>, LoadError> {
    if manifest.labels_top == 0 {
        return Ok(Vec::new());
    }
    let path = manifest.dir().join("labels.txt");
    let text = std::fs::read_to_string(&path).map_err(LoadError::io(&path))?;
    let labels: Vec<Arc<str>> = text.lines().map(|line| line.trim().into()).collect();
    match labels.iter().position(|label| label.is_empty()) {
        Some(line) => Err(LoadError::manifest(&path, format!("line {} is empty", line + 1))),
        None if labels.len() < manifest.labels_top => {
            Err(LoadError::manifest(&path, format!("has {} names, fewer than labels_top", labels.len())))
        }
        None => Ok(labels),
    }
}
