//! The end of the line: one transaction per commit unit, then progress to the source.
//!
//! A write is repeated for as long as the store is gone. That is safe after any fault, also when a COMMIT lost its answer, because the
//! sink compares positions. A partition that turns out to belong to somebody else loses its line and is claimed again.

use crate::claims::Claims;
use crate::health::{Step, retry};
use crate::meter::{Meter, State};
use crate::pause::Pausing;
use crate::standing::Wrote;
use crate::steps::reached;
use crate::telemetry::Stats;
use spawn_core::{Batch, Body, Fault, Inferred, Sink, Source};
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::Receiver;

/// What the verb needs.
pub struct Write {
    /// Where results go.
    pub sink: Arc<dyn Sink>,
    /// Told of the progress.
    pub source: Arc<dyn Source>,
    /// Loses what was fenced.
    pub claims: Claims,
    /// Time.
    pub meter: Arc<Meter>,
    /// Counts.
    pub stats: Arc<Stats>,
    /// Keeps what is rejected within its budget.
    pub(crate) pausing: Pausing,
    /// Told how far it came.
    pub(crate) wrote: Wrote,
}

impl Write {
    /// Runs until the input ends. A fault here is one that only an operator can mend.
    pub async fn run(self, mut batches: Receiver<Batch<Inferred>>) -> Result<(), Fault> {
        while let Some(batch) = self.meter.during(State::Starved, batches.recv()).await {
            if !batch.delta.is_empty() && self.pausing.admits(&batch).await? {
                self.write(&batch).await?;
            }
            // Dropping the batch gives its memory back and tells the source of the flush.
        }
        Ok(())
    }

    async fn write(&self, batch: &Batch<Inferred>) -> Result<(), Fault> {
        let started = Instant::now();
        reached("writing");
        let health = &self.stats.health;
        // The topic may have been made anew since these records were polled: then they are not what their positions say.
        retry(health, "confirm", || self.source.confirm()).await?;
        let written = retry(health, "write", || async {
            let _working = health.begin(Step::Write);
            self.sink.write(batch).await
        });
        let written = written.await?;
        reached("written");
        self.stats.stage_took("write", started.elapsed());
        let mut delta = batch.delta.clone();
        delta.retain(|partition, _| !written.fenced.contains(partition));
        if !delta.is_empty() {
            self.stats.written(written.outcomes);
        }
        for envelope in batch.envelopes.iter().filter(|e| delta.contains_key(&e.origin().partition)) {
            self.stats.item_took(envelope.record.timestamp_ms);
            if let Body::Work(inferred) = &envelope.body {
                self.stats.media_seconds(inferred.facts.duration_seconds.unwrap_or(0.0));
            }
            if let Body::Rejected(rejection) | Body::Deferred(rejection) = &envelope.body {
                self.stats.rejected(&rejection.code);
                tracing::info!(pipeline = %self.stats.pipeline, origin = %envelope.origin(), %rejection, "record not processed");
            }
        }
        self.meter.add_items(batch.envelopes.len() as u64);
        self.wrote.note(&delta);
        self.source.commit(&delta);
        let lost = self.claims.fenced(&batch.delta, &written.fenced);
        if !lost.is_empty() {
            self.reclaim(lost);
        }
        Ok(())
    }

    /// Asks for fenced partitions again, after a random wait: whoever fenced us may still be busy.
    fn reclaim(&self, fenced: Vec<i32>) {
        tracing::warn!(pipeline = %self.stats.pipeline, partitions = ?fenced, "fenced: another claim is newer");
        let source = self.source.clone();
        let jitter = Duration::from_millis(50 + RandomState::new().hash_one(&fenced) % 450);
        tokio::spawn(async move {
            tokio::time::sleep(jitter).await;
            if let Err(fault) = source.reclaim(fenced).await {
                tracing::warn!(%fault, "cannot ask for fenced partitions again");
            }
        });
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use crate::prepare::Ready;
    use spawn_core::{Body, Claim, Claimed, Entry, Envelope, ItemId, Job, Mark, Origin, Record, Rejection};
    use std::collections::BTreeMap;

    pub(crate) const CLAIM: Claim = Claim { epoch: 1, token: 7 };

    pub(crate) fn claimed(partition: i32, position: i64) -> Claimed {
        Claimed { partition, claim: CLAIM, position }
    }

    pub(crate) fn envelope(partition: i32, offset: i64) -> Envelope<()> {
        let record = Record {
            origin: Origin { topic: "t".into(), partition, offset },
            claim: CLAIM,
            ordinal: offset as u64 + 1,
            key: None,
            value: Some(bytes::Bytes::from_static(b"v")),
            headers: Vec::new(),
            timestamp_ms: 0,
        };
        let job = Job {
            id: ItemId::of_event("t", &format!("{partition}-{offset}")),
            event_id: None,
            source: "t".into(),
            source_uri: None,
            media_type: None,
            metadata: serde_json::Map::new(),
        };
        Envelope::new(record, job, Body::Work(()))
    }

    pub(crate) fn entry_at(partition: i32, offset: i64, ordinal: u64) -> Entry<Ready> {
        let mut envelope = envelope(partition, offset);
        envelope.record.ordinal = ordinal;
        Entry::Item(envelope.join(Some(Err(Rejection::new("test", "test", "test")))))
    }

    pub(crate) fn mark_at(partition: i32, position: i64, ordinal: u64) -> Entry<Ready> {
        Entry::Mark(Mark { partition, claim: CLAIM, position: Some(position), ordinal, flushed: None })
    }

    pub(crate) fn offsets_by_partition<T>(entries: &[Entry<T>]) -> BTreeMap<i32, Vec<i64>> {
        let mut by_partition: BTreeMap<i32, Vec<i64>> = BTreeMap::new();
        for entry in entries {
            by_partition.entry(entry.partition()).or_default().extend(entry.position_after().map(|p| p - 1));
        }
        by_partition
    }
}
