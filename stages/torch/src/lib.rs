//! Models on libtorch: the only crate that names a tensor.
//!
//! A model is a folder that says everything about itself, golden vectors included; loading it proves that this machine makes the
//! same vectors as the one that exported it. What comes in are the arrays of a stage, what goes out are checked embeddings and labels.
//!
//! # Layout
//!
//! - [`mod@error`]: why a model cannot be loaded ([`LoadError`])
//! - [`mod@manifest`]: `model.toml` and the version of a folder ([`Manifest`]); works without touching libtorch
//! - [`mod@runtime`]: threads, malloc, devices: what is set once per process
//! - [`mod@calibration`]: what convolutions see, for the scales of int8
//! - [`mod@assemble`]: chunks become one padded batch
//! - [`mod@module`]: the TorchScript module, through the C++ shim in `native/`
//! - [`mod@ffi`]: what the shim has, and its library, which is opened with the first model
//! - [`mod@fault`]: which class a failed call has
//! - [`mod@tensors`]: files of safetensors
//! - [`mod@golden`]: the proof at loading ([`GoldenReport`])
//! - [`mod@model`]: the seam ([`TorchModel`])

mod assemble;
pub mod calibration;
pub mod error;
mod fault;
mod ffi;
pub mod golden;
pub mod manifest;
pub mod model;
mod module;
pub mod runtime;
mod tensors;
#[cfg(test)]
mod tests;

pub use error::LoadError;
pub use golden::GoldenReport;
pub use manifest::{Dtype, Manifest};
pub use model::{TorchModel, Tuning};
pub use runtime::{Device, Threads, cores_granted, init, tune_malloc, version};
