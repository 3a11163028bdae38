//! The commit unit. Progress travels with the data: a batch carries the interval of positions that it settles.

use crate::{Claim, Envelope, Hold};
use std::collections::BTreeMap;

/// What flows through a partition's line: records, and marks that say how far the partition was read without one.
#[derive(Debug)]
pub enum Entry<T> {
    /// A record.
    Item(Envelope<T>),
    /// Progress without a record.
    Mark(Mark),
}

/// The partition was read up to `position` and there is no record (left) before it: its end, or a hole of control and
/// aborted records, or a revocation that wants everything before it written.
#[derive(Debug)]
pub struct Mark {
    /// The partition.
    pub partition: i32,
    /// Whose reading it was.
    pub claim: Claim,
    /// Next offset to read; `None` when the mark only asks for a flush.
    pub position: Option<i64>,
    /// Records polled under `claim` before the mark.
    pub ordinal: u64,
    /// Dropped once everything before the mark is written: that is how the source learns of the flush.
    pub flushed: Option<Hold>,
}

impl<T> Entry<T> {
    /// The partition it belongs to.
    pub fn partition(&self) -> i32 {
        match self {
            Self::Item(envelope) => envelope.record.origin.partition,
            Self::Mark(mark) => mark.partition,
        }
    }

    /// The claim it was read under.
    pub fn claim(&self) -> Claim {
        match self {
            Self::Item(envelope) => envelope.record.claim,
            Self::Mark(mark) => mark.claim,
        }
    }

    /// The next position to read after it, if it moves the position at all.
    pub fn position_after(&self) -> Option<i64> {
        match self {
            Self::Item(envelope) => Some(envelope.record.origin.offset + 1),
            Self::Mark(mark) => mark.position,
        }
    }

    /// How many records the poll thread had counted after it.
    pub fn ordinal(&self) -> u64 {
        match self {
            Self::Item(envelope) => envelope.record.ordinal,
            Self::Mark(mark) => mark.ordinal,
        }
    }
}

/// One partition's part of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionSpan {
    /// First position settled: exactly where the previous span of this claim ended.
    pub from: i64,
    /// Next position to read. `to >= from`; equal only for a pure flush.
    pub to: i64,
    /// Under which claim it was read.
    pub claim: Claim,
    /// Records in it by the poll thread's count; the sink refuses a batch that holds another number.
    pub records: u64,
}

/// Partition to the interval of positions that a batch settles.
pub type CheckpointDelta = BTreeMap<i32, PartitionSpan>;

/// What one transaction writes. May hold no record, never no delta.
#[derive(Debug)]
pub struct Batch<T> {
    /// In the order of each partition.
    pub envelopes: Vec<Envelope<T>>,
    /// What it settles.
    pub delta: CheckpointDelta,
    /// Flush promises of the marks in it; dropped with the batch, after the write.
    pub flushed: Vec<Hold>,
}
