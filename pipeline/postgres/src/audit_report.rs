//! What `spawn audit` tells. Fields as its `--json` prints them.

use crate::coverage::Coverage;
use serde::Serialize;

/// What is audited; everything where nothing is set.
#[derive(Clone, Debug, Default)]
pub struct AuditScope {
    /// One pipeline.
    pub pipeline: Option<String>,
    /// One topic.
    pub topic: Option<String>,
    /// From this offset of each partition on.
    pub from: Option<i64>,
    /// Before this offset of each partition.
    pub to: Option<i64>,
}

/// What an audit found. Fields as `spawn audit --json` prints them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AuditReport {
    /// Nothing is wrong.
    pub ok: bool,
    /// When the snapshot was taken, UTC, RFC 3339.
    pub snapshot_at: String,
    /// Every partition that was ever claimed.
    pub partitions: Vec<PartitionAudit>,
}

/// One partition.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PartitionAudit {
    /// `spawn.source.id`, for further questions.
    #[serde(skip)]
    pub source: i32,
    /// The pipeline.
    pub pipeline: String,
    /// Its topic.
    pub topic: String,
    /// The topic's id, where the broker told it.
    pub topic_id: Option<String>,
    /// An operator has ended this reading: the topic was made anew, and another one reads that.
    pub ended: bool,
    /// The partition.
    pub partition: i32,
    /// Where the first claim started.
    pub first_offset: i64,
    /// Next position to read.
    pub next_offset: i64,
    /// The broker's end, filled in by whoever can ask it.
    pub end_offset: Option<i64>,
    /// Positions between the checkpoint and that end: not settled yet.
    pub in_flight: Option<i64>,
    /// Transactions that settled it.
    pub spans: i64,
    /// Records that they settled.
    pub records: i64,
    /// Of which written.
    pub results: i64,
    /// Of which dead letters.
    pub rejected: i64,
    /// Of which nothing to do.
    pub skipped: i64,
    /// Of which to be tried again.
    pub deferred: i64,
    /// Intervals in which something should be and is not.
    pub missing: Vec<Difference>,
    /// Intervals in which something is twice, or should not be.
    pub doubled: Vec<Difference>,
    /// Intervals `[from, to)` that no span covers.
    pub holes: Vec<[i64; 2]>,
    /// Intervals that an operator has written off.
    pub gaps: Vec<Gap>,
    /// What Kafka was found to have, where it was asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kafka: Option<Coverage>,
}

impl PartitionAudit {
    /// Nothing is wrong with it.
    pub fn ok(&self) -> bool {
        self.missing.is_empty() && self.doubled.is_empty() && self.holes.is_empty()
    }

    /// Says how far the topic goes.
    pub fn ends_at(&mut self, end_offset: i64) {
        self.end_offset = Some(end_offset);
        self.in_flight = Some((end_offset - self.next_offset).max(0));
    }

    /// Adds what Kafka has; records that the ledger does not know are missing.
    pub fn covered(&mut self, coverage: Coverage) {
        let missing = |[from, to]: &[i64; 2]| Difference {
            from: *from,
            to: *to,
            what: "kafka",
            expected: to - from,
            found: 0,
        };
        self.missing.extend(coverage.missing_at.iter().map(missing));
        self.kafka = Some(coverage);
    }
}

/// An interval of positions in which two counts differ.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// First position.
    pub from: i64,
    /// Next position after it.
    pub to: i64,
    /// What was counted: `ledger`, `span`, `redrive`, `rejection`, or `kafka`: records there that have no ledger row.
    pub what: &'static str,
    /// As many should be there.
    pub expected: i64,
    /// As many are.
    pub found: i64,
}

/// An interval that an operator has written off.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Gap {
    /// First position.
    pub from: i64,
    /// Next position after it.
    pub to: i64,
    /// Why.
    pub reason: Option<String>,
}
