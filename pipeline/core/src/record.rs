//! A Kafka record as the line sees it.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;

/// Where a record lies in Kafka. Unique, and never lost on the way to its row.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Origin {
    /// The topic. One pipeline reads exactly one.
    pub topic: Arc<str>,
    /// The partition, `>= 0`.
    pub partition: i32,
    /// The record's offset. Offsets rise within a partition but may have gaps.
    pub offset: i64,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}@{}", self.topic, self.partition, self.offset)
    }
}

/// Ownership of one partition, given out by the sink. A record is stamped with it when polled; the sink writes it only
/// while the stamp is still the one it gave out last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Claim {
    /// Raised by every claim of the partition.
    pub epoch: i64,
    /// Random; tells two claims apart even where a restored database hands out an epoch twice.
    pub token: u128,
}

/// A record as polled: its place, its owner and its original bytes, kept untouched for dead letters.
#[derive(Clone, Debug)]
pub struct Record {
    /// Where it lies.
    pub origin: Origin,
    /// Who owned the partition when it was polled.
    pub claim: Claim,
    /// Ordinal of this record among those polled under `claim` (first = 1). The poll thread counts, so that the sink can
    /// tell when the line lost one.
    pub ordinal: u64,
    /// The Kafka key.
    pub key: Option<Bytes>,
    /// The Kafka value; `None` is a tombstone.
    pub value: Option<Bytes>,
    /// The Kafka headers in order.
    pub headers: Vec<(String, Bytes)>,
    /// Milliseconds since 1970-01-01 UTC, by the producer or the broker.
    pub timestamp_ms: i64,
}

/// Identity of an item: BLAKE3 over its source and event id (or topic, key and value where it brought no id).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ItemId(pub [u8; 32]);

impl ItemId {
    /// Identity of the event `id` of `source` (CloudEvents: the pair is unique).
    pub fn of_event(source: &str, id: &str) -> Self {
        Self::of_parts(&[b"event", source.as_bytes(), id.as_bytes()])
    }

    /// Identity of a record that brought none: the same key and value on the same topic are the same item.
    pub fn of_record(topic: &str, key: &[u8], value: &[u8]) -> Self {
        Self::of_parts(&[b"record", topic.as_bytes(), key, value])
    }

    fn of_parts(parts: &[&[u8]]) -> Self {
        let mut hasher = blake3::Hasher::new();
        for part in parts {
            // The length goes first, so that ("ab", "c") and ("a", "bc") differ.
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        Self(*hasher.finalize().as_bytes())
    }

    /// The public id: 32 hexadecimal digits (the first 128 bits).
    pub fn public(&self) -> String {
        self.0[..16].iter().map(|b| format!("{b:02x}")).collect()
    }
}

impl fmt::Debug for ItemId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.public())
    }
}

/// What a record asks for, parsed from its headers and value.
#[derive(Clone, Debug)]
pub struct Job {
    /// Identity for duplicates, results and search hits.
    pub id: ItemId,
    /// The producer's own id, as it was written.
    pub event_id: Option<String>,
    /// `ce_source`, or the plain job's default.
    pub source: String,
    /// Where the media lies, when it came by reference, or the name the producer gave it. Credentials removed.
    pub source_uri: Option<String>,
    /// The declared media type: a hint, the content decides.
    pub media_type: Option<String>,
    /// Whatever else the producer sent, as a JSON object.
    pub metadata: serde_json::Map<String, serde_json::Value>,
}

/// What there is to work on.
#[derive(Clone, Debug, PartialEq)]
pub enum Payload {
    /// The media itself.
    Inline(Bytes),
    /// A `file://`, `http://` or `https://` URI that holds it.
    Reference(String),
}

/// An event kind for serialised output (ledger, metrics). Exactly one per record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, PartialOrd, Ord)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Rows were written.
    Result,
    /// Refused for good, kept as a dead letter.
    Rejected,
    /// Nothing to do, with a reason.
    Skipped,
    /// To be tried again later, outside the line.
    Deferred,
}

impl Outcome {
    /// The lower-case word used in tables, metrics and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Result => "result",
            Self::Rejected => "rejected",
            Self::Skipped => "skipped",
            Self::Deferred => "deferred",
        }
    }
}
