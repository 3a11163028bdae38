//! Which class a failed call has. libtorch's interpreter turns every exception into text, so the text decides.

use spawn_core::{Fault, FaultClass};

/// First match wins: an out-of-memory error of CUDA is also a "CUDA error". What is not here may be one chunk's fault.
const CLASSES: &[(&str, FaultClass)] = &[
    ("out of memory", FaultClass::Resource),
    ("can't allocate memory", FaultClass::Resource),
    ("ALLOC_FAILED", FaultClass::Resource),
    ("bad_alloc", FaultClass::Resource),
    // After these the device's context is gone: every further call fails, whatever it is given.
    ("CUDA error", FaultClass::Systemic),
    ("CUDA driver", FaultClass::Systemic),
    ("CUDNN_STATUS_EXECUTION_FAILED", FaultClass::Systemic),
    ("CUDNN_STATUS_INTERNAL_ERROR", FaultClass::Systemic),
    ("CUBLAS_STATUS_EXECUTION_FAILED", FaultClass::Systemic),
    ("CUBLAS_STATUS_INTERNAL_ERROR", FaultClass::Systemic),
    ("CUBLAS_STATUS_NOT_INITIALIZED", FaultClass::Systemic),
];

/// Longest message kept; a TorchScript trace can be pages.
const DETAIL_CHARS_MAX: usize = 1000;

/// The fault that libtorch's `message` stands for.
pub(crate) fn of_call(message: &str) -> Fault {
    let class = CLASSES.iter().find(|(text, _)| message.contains(text));
    let class = class.map_or(FaultClass::Batch, |(_, class)| *class);
    // The cause stands at the end, below the trace through the module's source.
    let skip = message.chars().count().saturating_sub(DETAIL_CHARS_MAX);
    Fault::new(class, "model", message.chars().skip(skip).collect::<String>().trim())
}

/// A call that may have failed because of one chunk.
pub(crate) fn of_chunk(detail: impl std::fmt::Display) -> Fault {
    Fault::new(FaultClass::Batch, "model", detail)
}
