//! The line: a straight pipeline that keeps order, in which progress travels with the data.
//!
//! One [`Pipeline`] reads one topic and fills one generation of rows. Each verb of its trunk is one file here and one task at
//! run time; between two verbs lies a short bounded channel, so the slowest verb sets the pace of all.
//!
//! # Layout, in the order of the flow
//!
//! - [`mod@pipeline`]: the trunk
//! - [`mod@intake`]: events of the source -> entries; claims partitions; the gate of the raw bytes
//! - [`mod@fetch`]: payload -> media, parallel, order kept
//! - [`mod@admit`]: the gate of the decoded bytes
//! - [`mod@prepare`]: media -> features on the CPU crew, parallel, order kept
//! - [`mod@batcher`]: entries -> commit units
//! - [`mod@infer`]: commit unit -> model calls and back; [`mod@bisect`]: what is done when a call fails
//! - [`mod@write`]: commit unit -> sink, then progress to the source
//!
//! Outside the line: [`mod@redrive`] tries deferred records again, `reuse` finds what was computed before.
//!
//! Shared parts: [`mod@ordered`] (parallel work, results in order), [`mod@crew`] (CPU threads), [`mod@device`] (the inference threads), [`mod@lanes`] (who goes first; `brief`: for how long),
//! [`mod@budget`] (byte pools), [`mod@claims`] (who owns what), [`mod@health`] (what moves), [`mod@meter`] and [`mod@telemetry`], [`mod@steps`] (where tests let it die).

pub mod admit;
pub mod batcher;
pub mod bisect;
pub mod bottleneck;
mod brief;
pub mod budget;
pub mod claims;
pub mod crew;
pub mod device;
pub mod failures;
pub mod fetch;
mod gate;
pub mod health;
pub mod infer;
pub mod intake;
pub mod lanes;
pub mod meter;
pub mod ordered;
mod pace;
mod pause;
pub mod pipeline;
pub mod prepare;
pub mod redrive;
mod reuse;
mod standing;
pub mod steps;
pub mod telemetry;
pub mod trial;
pub mod write;

#[cfg(test)]
mod tests;

pub use batcher::UnitLimits;
pub use budget::{Budget, Share};
pub use crew::Crew;
pub use device::{Device, DeviceHandle};
pub use failures::FailureLimits;
pub use fetch::{Fetch, Room};
pub use health::{Health, HealthReading, Step, StepHealth};
pub use lanes::{Lane, LaneRules};
pub use meter::{Meter, MeterReading, State};
pub use pipeline::{Limits, Pipeline, Summary};
pub use redrive::Deferred;
pub use telemetry::Stats;
pub use trial::Trial;
