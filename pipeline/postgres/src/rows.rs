//! A commit unit as the columns that `spawn.write_batch` takes.

use pgvector::HalfVector;
use spawn_core::{Batch, Body, Envelope, Inferred, ItemId, Label, MediaFacts, Outcome, Rejection};
use sqlx::types::Uuid;
use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};

/// Flag of a result whose texts had NULs, which PostgreSQL cannot hold.
pub(crate) const NUL_STRIPPED: &str = "nul_stripped";
/// Chunk number of the vector that stands for a whole item of several chunks.
pub(crate) const POOLED: i32 = -1;

/// What the sink made of a record instead of what the line brought.
#[derive(Clone, Debug)]
pub(crate) enum Override {
    /// Refused by the store.
    Rejected(Rejection),
    /// A tombstone of its key follows in the same unit.
    Buried,
}

/// By place in the unit.
pub(crate) type Overrides = BTreeMap<usize, Override>;

/// Records that a later tombstone of the same key and partition in the same unit buries. The function deletes what earlier units
/// wrote before it inserts, so within the unit the order has to be kept here.
pub(crate) fn buried(batch: &Batch<Inferred>) -> Overrides {
    let mut overrides = Overrides::new();
    let mut tombstones: HashSet<(i32, &[u8])> = HashSet::new();
    for (i, envelope) in batch.envelopes.iter().enumerate().rev() {
        let Some(key) = &envelope.record.key else { continue };
        let key = (envelope.origin().partition, &key[..]);
        match envelope.body {
            Body::Delete => _ = tombstones.insert(key),
            Body::Work(_) | Body::Deferred(_) if tombstones.contains(&key) => {
                _ = overrides.insert(i, Override::Buried);
            }
            _ => {}
        }
    }
    overrides
}

/// Parallel arrays; the prefixes are those of `spawn.write_batch`.
#[derive(Default)]
pub(crate) struct Rows<'a> {
    /// Place in the unit of each row.
    pub(crate) place: Vec<usize>,
    pub(crate) r_partition: Vec<i32>,
    pub(crate) r_offset: Vec<i64>,
    pub(crate) r_outcome: Vec<i16>,
    pub(crate) r_reason: Vec<Option<&'a str>>,
    pub(crate) r_id: Vec<&'a [u8]>,
    pub(crate) r_key: Vec<Option<Uuid>>,
    pub(crate) r_content: Vec<Option<&'a [u8]>>,
    pub(crate) r_event_id: Vec<Option<Cow<'a, str>>>,
    pub(crate) r_event_source: Vec<Option<Cow<'a, str>>>,
    pub(crate) r_source_uri: Vec<Option<Cow<'a, str>>>,
    pub(crate) r_metadata: Vec<Option<String>>,
    pub(crate) r_facts: Vec<Option<String>>,
    pub(crate) r_labels: Vec<Option<String>>,
    pub(crate) c_row: Vec<i32>,
    pub(crate) c_chunk: Vec<i32>,
    pub(crate) c_vector: Vec<HalfVector>,
    pub(crate) l_row: Vec<i32>,
    pub(crate) l_stage: Vec<&'a str>,
    pub(crate) l_detail: Vec<Cow<'a, str>>,
    pub(crate) l_key: Vec<Option<&'a [u8]>>,
    pub(crate) l_value: Vec<Option<&'a [u8]>>,
    pub(crate) l_timestamp: Vec<i64>,
    pub(crate) h_row: Vec<i32>,
    pub(crate) h_name: Vec<Cow<'a, str>>,
    pub(crate) h_value: Vec<&'a [u8]>,
    pub(crate) t_row: Vec<i32>,
}

impl<'a> Rows<'a> {
    /// The records at `places` of the unit.
    pub(crate) fn of(
        batch: &'a Batch<Inferred>,
        overrides: &'a Overrides,
        places: impl Iterator<Item = usize>,
    ) -> Self {
        let mut rows = Self::default();
        for place in places {
            rows.place.push(place);
            rows.push(&batch.envelopes[place], overrides.get(&place));
        }
        rows
    }

    /// One record for itself.
    pub(crate) fn one(envelope: &'a Envelope<Inferred>, over: Option<&'a Override>) -> Self {
        let mut rows = Self::default();
        rows.place.push(0);
        rows.push(envelope, over);
        rows
    }

    /// Rows of all tables together, for the metric.
    pub(crate) fn count(&self) -> u64 {
        let results = self.r_outcome.iter().filter(|o| **o == Outcome::Result as i16).count();
        // Each record has a ledger row; a result is a row and a key besides.
        (self.place.len() + 2 * results + self.c_row.len() + self.l_row.len()) as u64
    }

    fn push(&mut self, envelope: &'a Envelope<Inferred>, over: Option<&'a Override>) {
        let row = self.place.len() as i32;
        let record = &envelope.record;
        self.r_partition.push(record.origin.partition);
        self.r_offset.push(record.origin.offset);
        self.r_id.push(&envelope.job.id.0);
        self.r_key.push(record.key.as_deref().map(key_hash));
        let (outcome, reason) = match (over, &envelope.body) {
            (Some(Override::Rejected(rejection)), _) | (None, Body::Rejected(rejection)) => {
                self.letter(row, envelope, rejection);
                (Outcome::Rejected, Some(rejection.code.as_ref()))
            }
            (None, Body::Deferred(rejection)) => {
                self.letter(row, envelope, rejection);
                (Outcome::Deferred, Some(rejection.code.as_ref()))
            }
            (Some(Override::Buried), _) => (Outcome::Skipped, Some("tombstone")),
            (None, Body::Skipped(reason)) => (Outcome::Skipped, Some(*reason)),
            (None, Body::Delete) => {
                if record.key.is_some() {
                    self.t_row.push(row);
                }
                (Outcome::Skipped, Some("tombstone"))
            }
            (None, Body::Work(inferred)) => {
                self.result(row, envelope, inferred);
                (Outcome::Result, None)
            }
        };
        if outcome != Outcome::Result {
            self.no_result();
        }
        self.r_outcome.push(outcome as i16);
        self.r_reason.push(reason);
    }

    fn result(&mut self, row: i32, envelope: &'a Envelope<Inferred>, inferred: &'a Inferred) {
        let job = &envelope.job;
        let mut stripped = false;
        self.r_content.push(Some(&inferred.provenance.content.0));
        self.r_event_id.push(job.event_id.as_deref().map(|s| strip(s, &mut stripped)));
        self.r_event_source.push(Some(strip(&job.source, &mut stripped)));
        self.r_source_uri.push(job.source_uri.as_deref().map(|s| strip(s, &mut stripped)));
        self.r_metadata.push(Some(metadata(&job.metadata, &mut stripped)));
        self.r_facts.push(Some(facts(&inferred.facts, stripped)));
        self.r_labels.push(Some(labels(inferred)));
        for (chunk, inference) in inferred.chunks.iter().enumerate() {
            if let Some(embedding) = &inference.embedding {
                self.vector(row, chunk as i32, embedding.as_slice());
            }
        }
        if let Some(pooled) = &inferred.pooled {
            self.vector(row, POOLED, pooled.as_slice());
        }
    }

    fn vector(&mut self, row: i32, chunk: i32, elements: &[f32]) {
        self.c_row.push(row);
        self.c_chunk.push(chunk);
        self.c_vector.push(HalfVector::from_f32_slice(elements));
    }

    fn no_result(&mut self) {
        self.r_content.push(None);
        self.r_event_id.push(None);
        self.r_event_source.push(None);
        self.r_source_uri.push(None);
        self.r_metadata.push(None);
        self.r_facts.push(None);
        self.r_labels.push(None);
    }

    /// The original record with why it is here.
    fn letter(&mut self, row: i32, envelope: &'a Envelope<Inferred>, rejection: &'a Rejection) {
        let record = &envelope.record;
        let mut stripped = false;
        self.l_row.push(row);
        self.l_stage.push(rejection.stage);
        self.l_detail.push(strip(&rejection.detail, &mut stripped));
        self.l_key.push(record.key.as_deref());
        self.l_value.push(record.value.as_deref());
        self.l_timestamp.push(record.timestamp_ms);
        for (name, value) in &record.headers {
            self.h_row.push(row);
            self.h_name.push(strip(name, &mut stripped));
            self.h_value.push(value);
        }
    }
}

/// 128 bits of a Kafka key's BLAKE3.
pub(crate) fn key_hash(key: &[u8]) -> Uuid {
    let hash = ItemId::of_record("", key, b"").0;
    Uuid::from_u128(u128::from_be_bytes(hash[..16].try_into().expect("16 of 32 bytes. This is a bug.")))
}

/// PostgreSQL's text cannot hold NUL.
fn strip<'a>(text: &'a str, stripped: &mut bool) -> Cow<'a, str> {
    if text.contains('\0') {
        *stripped = true;
        Cow::Owned(text.replace('\0', ""))
    } else {
        Cow::Borrowed(text)
    }
}

fn metadata(metadata: &serde_json::Map<String, serde_json::Value>, stripped: &mut bool) -> String {
    let text = json(metadata);
    // The escape may also be part of a longer one (`\\u0000`): then the walk finds nothing.
    if !text.contains("\\u0000") {
        return text;
    }
    let mut value = serde_json::Value::Object(metadata.clone());
    strip_value(&mut value, stripped);
    json(&value)
}

fn strip_value(value: &mut serde_json::Value, stripped: &mut bool) {
    use serde_json::Value;
    match value {
        Value::String(text) => {
            if let Cow::Owned(clean) = strip(text, stripped) {
                *text = clean;
            }
        }
        Value::Array(values) => values.iter_mut().for_each(|v| strip_value(v, stripped)),
        Value::Object(map) => {
            for (key, mut value) in std::mem::take(map) {
                strip_value(&mut value, stripped);
                map.insert(strip(&key, stripped).into_owned(), value);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn facts(facts: &MediaFacts, stripped: bool) -> String {
    if !stripped || facts.flags.iter().any(|flag| flag == NUL_STRIPPED) {
        return json(facts);
    }
    let mut facts = facts.clone();
    facts.flags.push(NUL_STRIPPED.into());
    facts.flags.sort_unstable();
    json(&facts)
}

/// Labels of an item: of its only chunk, or each name's best score over its chunks, best first.
fn labels(inferred: &Inferred) -> String {
    if let [only] = &inferred.chunks[..] {
        return json(&only.labels);
    }
    let mut best: BTreeMap<&str, &Label> = BTreeMap::new();
    for label in inferred.chunks.iter().flat_map(|c| &c.labels) {
        best.entry(&label.name)
            .and_modify(|b| *b = if label.score > b.score { label } else { b })
            .or_insert(label);
    }
    let mut labels: Vec<&Label> = best.into_values().collect();
    labels.sort_by(|a, b| b.score.total_cmp(&a.score));
    json(&labels)
}

fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("names are strings, so this cannot fail. This is a bug.")
}
