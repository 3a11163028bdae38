//! A text model small enough to be in the repository (`fixtures/make.py`): mean of the attended tokens' rows, scaled to length 1, and the softmax of a product.
//! What it must answer is computed in plain Rust.

use crate::tensors::{self, Tensor, Tensors};
use spawn_core::{Array, ArrayData, Features};
use std::path::{Path, PathBuf};

pub(super) const TOKENS: usize = 50;
pub(super) const DIMENSION: usize = 4;
const LABELS: usize = 3;

/// A module of the fixtures; the golden vectors are always those of `Good`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Kindness {
    Good,
    /// Wants memory for every pair of tokens.
    Greedy,
    /// Its scores are no probabilities.
    Logits,
    /// The vectors of the batch are mixed into each.
    NeighboursLeak,
    /// Divides by zero for the token 7.
    NotFinite,
    /// Twice as long.
    NotNormalised,
    /// One weight differs.
    OtherWeight,
    /// Padding is not masked.
    PaddingLeaks,
}

fn module(kindness: Kindness) -> &'static [u8] {
    match kindness {
        Kindness::Good => include_bytes!("../../fixtures/good.pt"),
        Kindness::Greedy => include_bytes!("../../fixtures/greedy.pt"),
        Kindness::Logits => include_bytes!("../../fixtures/logits.pt"),
        Kindness::NeighboursLeak => include_bytes!("../../fixtures/neighbours_leak.pt"),
        Kindness::NotFinite => include_bytes!("../../fixtures/not_finite.pt"),
        Kindness::NotNormalised => include_bytes!("../../fixtures/not_normalised.pt"),
        Kindness::OtherWeight => include_bytes!("../../fixtures/other_weight.pt"),
        Kindness::PaddingLeaks => include_bytes!("../../fixtures/padding_leaks.pt"),
    }
}

pub(super) struct Folder {
    pub(super) path: PathBuf,
    _temporary: tempfile::TempDir,
}

fn weight(token: usize, element: usize) -> f32 {
    ((token * 7 + element * 13) % 29) as f32 / 29.0 - 0.4
}

fn direction(element: usize, label: usize) -> f32 {
    (element as f32 - 1.5) * (label as f32 + 0.5)
}

/// What the good model answers, computed without libtorch.
pub(super) fn reference(ids: &[i64]) -> (Vec<f32>, Vec<f32>) {
    let mut sum = [0f32; DIMENSION];
    for id in ids {
        (0..DIMENSION).for_each(|d| sum[d] += weight(*id as usize, d));
    }
    let norm = sum.iter().map(|v| v * v).sum::<f32>().sqrt();
    let embedding: Vec<f32> = sum.iter().map(|v| v / norm).collect();
    let logit = |label| (0..DIMENSION).map(|d| embedding[d] * direction(d, label)).sum::<f32>().exp();
    let exps: Vec<f32> = (0..LABELS).map(logit).collect();
    let total: f32 = exps.iter().sum();
    (embedding, exps.iter().map(|e| e / total).collect())
}

pub(super) fn chunk(ids: &[i64]) -> Features {
    let array = |name, data: Vec<i64>| Array { name, shape: vec![data.len()], data: ArrayData::I64(data) };
    Features { arrays: vec![array("ids", ids.to_vec()), array("mask", vec![1; ids.len()])] }
}

pub(super) const MANIFEST: &str = r#"name = "tiny"
modality = "text"
format = "torchscript"
dtype = "f32"
dimension = 4
normalised = true
pooled = "mean"
labels_top = 2
[source]
package = "made by the test"
[[inputs]]
name = "ids"
dtype = "i64"
shape = [-1]
pad = 0
[[inputs]]
name = "mask"
dtype = "i64"
shape = [-1]
pad = 0
[outputs]
order = ["embedding", "scores"]
[preparation]
tokens_max = 40
[limits]
batch_max = 3
padded_cost_max = 120
[golden]
count = 4
cosine_min = 0.99999
"#;

/// A model folder in a temporary place.
pub(super) fn folder(kindness: Kindness) -> Folder {
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join("tiny");
    std::fs::create_dir_all(path.join("golden")).unwrap();
    std::fs::write(path.join("model.toml"), MANIFEST).unwrap();
    std::fs::write(path.join("labels.txt"), "cold\nmild\nwarm\n").unwrap();
    std::fs::write(path.join("model.pt"), module(kindness)).unwrap();
    golden(&path.join("golden").join("golden.safetensors"));
    Folder { path, _temporary: temporary }
}

fn golden(path: &Path) {
    let mut tensors = Tensors::new();
    for (i, ids) in [&[1i64, 2, 3][..], &[4], &[5, 6, 8, 9, 10, 11, 12], &[13, 49]].into_iter().enumerate() {
        let (embedding, scores) = reference(ids);
        tensors.insert(format!("in.{i}.ids"), Tensor::vector(ids));
        tensors.insert(format!("in.{i}.mask"), Tensor::vector(&vec![1i64; ids.len()]));
        tensors.insert(format!("ref.{i}.embedding"), Tensor::vector(&embedding));
        tensors.insert(format!("ref.{i}.scores"), Tensor::vector(&scores));
    }
    tensors::write(path, &tensors).unwrap();
}
