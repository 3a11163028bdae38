//! What a model makes of a chunk, and where a vector came from.

use crate::{ContentHash, MediaFacts, Modality};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// A vector whose dimension and finiteness were checked once, so that nobody else has to.
#[derive(Clone, Debug, PartialEq)]
pub struct Embedding(Vec<f32>);

impl Embedding {
    /// Accepts `values` if there are `dimension` of them and each is finite.
    pub fn try_new(values: Vec<f32>, dimension: usize) -> Result<Self, String> {
        if values.len() != dimension {
            return Err(format!("embedding has {} elements, the model declares {dimension}", values.len()));
        }
        match values.iter().position(|v| !v.is_finite()) {
            Some(i) => Err(format!("embedding element {i} is {}", values[i])),
            None => Ok(Self(values)),
        }
    }

    /// The elements.
    pub fn as_slice(&self) -> &[f32] {
        &self.0
    }

    /// Mean of several embeddings of one dimension, scaled to length 1 (0 stays 0). `None` when there are none.
    pub fn pooled<'a>(mut all: impl Iterator<Item = &'a Self>) -> Option<Self> {
        let mut sum = all.next()?.0.clone();
        for other in all {
            sum.iter_mut().zip(&other.0).for_each(|(s, v)| *s += v);
        }
        Some(Self(sum).scaled())
    }

    /// Scaled to length 1; 0 stays 0.
    #[must_use]
    pub fn scaled(mut self) -> Self {
        let norm = self.0.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
        if norm > 0.0 {
            self.0.iter_mut().for_each(|v| *v = (f64::from(*v) / norm) as f32);
        }
        self
    }

    /// Cosine similarity, -1 to 1; 0 when either has no length. Dimensions must agree.
    pub fn cosine(&self, other: &[f32]) -> f64 {
        let dot =
            |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
        let norms = (dot(&self.0, &self.0) * dot(other, other)).sqrt();
        if norms > 0.0 { dot(&self.0, other) / norms } else { 0.0 }
    }
}

/// A name with its probability.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Label {
    /// As in the model's `labels.txt`.
    pub name: Arc<str>,
    /// 0 to 1.
    pub score: f32,
}

/// What the model said of one chunk.
#[derive(Clone, Debug, PartialEq)]
pub struct Inference {
    /// The vector, when the model makes one.
    pub embedding: Option<Embedding>,
    /// Best first; empty when the model names nothing.
    pub labels: Vec<Label>,
}

/// What made a vector: enough to make it again.
#[derive(Clone, Debug, PartialEq)]
pub struct Provenance {
    /// Hash of the media bytes.
    pub content: ContentHash,
    /// The stage's canonical specification (name, version and every setting that changes its output).
    pub preparation: Arc<str>,
    /// Model name and version, `name@hash`.
    pub model: Arc<str>,
    /// Number type of the computation: `f32`, `bf16`, `f16`, `int8`.
    pub dtype: Arc<str>,
}

/// A finished record, ready for the sink.
#[derive(Clone, Debug, PartialEq)]
pub struct Inferred {
    /// One per chunk, in order.
    pub chunks: Vec<Inference>,
    /// One vector for the whole item, when the model's manifest asks for it and there are several chunks.
    pub pooled: Option<Embedding>,
    /// From the stage.
    pub facts: MediaFacts,
    /// What made it.
    pub provenance: Provenance,
}

/// How the chunks of one item become one vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// Chunks only.
    None,
    /// Mean of the chunk vectors, scaled to length 1.
    Mean,
}

impl Pooling {
    /// The vector of the whole item; `None` where it has a single chunk, whose vector stands for it, or none is wanted.
    pub fn pool(self, chunks: &[Inference]) -> Option<Embedding> {
        match self {
            Self::Mean if chunks.len() > 1 => {
                Embedding::pooled(chunks.iter().filter_map(|c| c.embedding.as_ref()))
            }
            _ => None,
        }
    }
}

/// What is known of a loaded model.
#[derive(Clone, Debug)]
pub struct ModelSpec {
    /// Folder name.
    pub name: Arc<str>,
    /// BLAKE3 over the model folder's files, hexadecimal.
    pub version: Arc<str>,
    /// What it works on.
    pub modality: Modality,
    /// Elements of its embedding.
    pub dimension: usize,
    /// Number type of the computation.
    pub dtype: Arc<str>,
    /// `cpu` or `cuda:0`.
    pub device: Arc<str>,
    /// Whether items with several chunks get one vector more.
    pub pooling: Pooling,
    /// Most chunks in one call.
    pub chunks_max: usize,
    /// Most padded cost in one call: chunks times the longest [`crate::Features::length`] among them.
    pub padded_cost_max: usize,
    /// What a call costs beside that, whatever it holds, in the same unit. It decides when padding is worth less than one call more.
    pub call_cost: usize,
}

impl ModelSpec {
    /// `name@` and the first 12 digits of the version: what rows and metrics call the model.
    pub fn id(&self) -> Arc<str> {
        Self::id_of(&self.name, &self.version).into()
    }

    /// The same of a model that is not loaded.
    pub fn id_of(name: &str, version: &str) -> String {
        format!("{name}@{}", &version[..version.len().min(12)])
    }

    /// Whether a call may hold so many chunks, padded to `longest`. One chunk always may.
    pub fn fits(&self, chunks: usize, longest: usize) -> bool {
        chunks <= 1 || (chunks <= self.chunks_max && chunks * longest <= self.padded_cost_max)
    }
}
