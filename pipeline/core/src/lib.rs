//! The vocabulary of the line and its four seams. No I/O, no async runtime, no driver.
//!
//! A record's way through the line, and the type it has at each step:
//!
//! ```text
//! Source ─Envelope<Payload>─▶ fetch ─Envelope<Media>─▶ Stage ─Envelope<Prepared>─▶ Model ─Envelope<Inferred>─▶ Sink
//! ```
//!
//! # Layout
//!
//! - [`mod@record`]: where a record comes from ([`Origin`]), who owns it ([`Claim`]), what it asks for ([`Job`], [`Payload`])
//! - [`mod@envelope`]: a value on its way, or what became of it instead ([`Envelope`], [`Body`])
//! - [`mod@media`]: fetched bytes and what is known of them
//! - [`mod@features`]: what a stage makes for a model ([`Prepared`], [`Features`])
//! - [`mod@inference`]: what a model makes of it ([`Inference`], [`Embedding`], [`Provenance`])
//! - [`mod@batch`]: the commit unit and the progress it carries ([`Batch`], [`CheckpointDelta`])
//! - [`mod@fault`]: a refused record ([`Rejection`]) and a broken system ([`Fault`])
//! - [`mod@protocol`]: who may write what, decided without I/O ([`Checkpoint`], [`Held`])
//! - [`mod@seams`]: the four traits [`Source`], [`Stage`], [`Model`], [`Sink`]

pub mod batch;
pub mod envelope;
pub mod fault;
pub mod features;
pub mod inference;
pub mod media;
pub mod protocol;
pub mod record;
pub mod seams;

pub use batch::{Batch, CheckpointDelta, Entry, Mark, PartitionSpan};
pub use envelope::{Body, Envelope, Hold, Refusal};
pub use fault::{Fault, FaultClass, Rejection};
pub use features::{Array, ArrayData, Features, MediaFacts, Prepared};
pub use inference::{Embedding, Inference, Inferred, Label, ModelSpec, Pooling, Provenance};
pub use media::{ContentHash, Media, Modality};
pub use protocol::{Checkpoint, Held, Progress, Step, Verdict};
pub use record::{Claim, ItemId, Job, Origin, Outcome, Payload, Record};
pub use seams::{
    Assignment, BoxFuture, Claimed, Event, Model, Orders, Pause, Pulse, Sink, Source, Stage, Standing,
    Written,
};
