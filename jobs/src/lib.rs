//! Batch jobs: one file per job, all of them through Kafka.
//!
//! # Layout
//!
//! - [`mod@media`]: what a file is, and its message
//! - [`mod@ingest`]: a folder or a manifest onto the topics; [`mod@folder`] and [`mod@manifest`] list what there is

pub mod folder;
pub mod ingest;
pub mod manifest;
pub mod media;

#[cfg(test)]
mod tests;

pub use ingest::{IngestError, IngestOptions, IngestReport, Progress, ingest};
pub use media::{Item, Origin, message_for_file, message_for_item, modality_of};

/// Every batch job with what it does, in the order of the alphabet.
pub const JOBS: [(&str, &str); 1] = [("ingest", "put a folder or a manifest on the topics")];
