//! The first verb: events of the source become entries of the line.
//!
//! Partitions are claimed here, one event at a time, so that no record of a partition can overtake its claim. Here is also the gate
//! of the raw bytes: a record enters once its payload has room.

use crate::budget::{Reservation, Share};
use crate::claims::Claims;
use crate::fetch::Fetch;
use crate::gate::Gate;
use crate::health::{Step, retry};
use crate::meter::{Meter, State};
use crate::pause::end_in_peace;
use crate::steps::reached;
use crate::telemetry::Stats;
use crate::trial::Suspects;
use spawn_core::{
    Assignment, Claimed, Entry, Envelope, Event, Fault, FaultClass, Hold, Mark, Payload, Rejection, Sink,
    Source,
};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::mpsc::Sender;

/// A payload with room for its bytes.
#[derive(Debug)]
pub struct Admitted {
    /// What to fetch.
    pub payload: Payload,
    /// Room for it; shrunk once the true size is known.
    pub raw: Reservation,
}

/// What the intake needs.
pub struct Intake {
    /// Where events come from.
    pub source: Arc<dyn Source>,
    /// Who gives out claims.
    pub sink: Arc<dyn Sink>,
    /// Where they are kept.
    pub claims: Claims,
    /// The pool of raw bytes.
    pub raw: Share,
    /// Knows how large a payload is, or probably is.
    pub fetch: Arc<dyn Fetch>,
    /// Time.
    pub meter: Arc<Meter>,
    /// Counts.
    pub stats: Arc<Stats>,
    /// Whether claimed partitions are read.
    pub(crate) gate: Gate,
    /// Told whose records are to be tried first.
    pub(crate) suspects: Suspects,
}

impl Intake {
    /// Runs until the source ends. A fault here is one that only an operator can mend.
    pub async fn run(self, out: Sender<Entry<Admitted>>) -> Result<(), Fault> {
        // Claimed, but not read while the pipeline stands still.
        let mut waiting: BTreeMap<i32, Claimed> = BTreeMap::new();
        loop {
            let event = tokio::select! {
                biased;
                passing = self.gate.pass(&mut waiting) => {
                    retry(&self.stats.health, "start", || self.source.start(passing.clone())).await?;
                    continue;
                }
                event = self.meter.during(State::Starved, self.source.next()) => event,
            };
            match event {
                Ok(Event::Records(envelopes)) => {
                    for mut envelope in envelopes {
                        envelope.holds.push(self.stats.take(envelope.record.timestamp_ms));
                        let begun = Instant::now();
                        let entry =
                            Entry::Item(admit_raw(envelope, &*self.fetch, &self.raw, &self.meter).await);
                        self.stats.stage_took("intake", begun.elapsed());
                        if self.send(&out, entry).await.is_err() {
                            return Ok(());
                        }
                    }
                }
                Ok(Event::Assigned(wanted)) => {
                    waiting.extend(self.claim(wanted).await?.into_iter().map(|c| (c.partition, c)));
                }
                Ok(Event::Revoked { partitions, flushed }) => {
                    waiting.retain(|partition, _| !partitions.contains(partition));
                    self.claims.leave(&partitions);
                    let ours: Vec<Claimed> = partitions.iter().filter_map(|p| self.claims.get(*p)).collect();
                    self.flush(&out, &partitions, flushed).await;
                    end_in_peace(&*self.sink, &ours).await;
                }
                Ok(Event::Lost(partitions)) => {
                    waiting.retain(|partition, _| !partitions.contains(partition));
                    tracing::warn!(pipeline = %self.stats.pipeline, ?partitions, "partitions lost");
                    self.claims.remove(&partitions);
                }
                Ok(Event::EndOfPartition { partition, claim, position, ordinal }) => {
                    let mark = Mark { partition, claim, position: Some(position), ordinal, flushed: None };
                    if self.send(&out, Entry::Mark(mark)).await.is_err() {
                        return Ok(());
                    }
                }
                Ok(Event::OutOfRange { partition, position, available: (low, high) }) => {
                    return Err(self.out_of_range(partition, position, (low, high)));
                }
                Ok(Event::End) => {
                    let ours = self.claims.lock().all();
                    end_in_peace(&*self.sink, &ours).await;
                    return Ok(());
                }
                Err(fault) if fault.class == FaultClass::Operator => return Err(fault),
                Err(fault) => tracing::warn!(pipeline = %self.stats.pipeline, %fault, "source trouble"),
            }
        }
    }

    /// The partitions, to be read once the gate lets them pass.
    async fn claim(&self, wanted: Vec<Assignment>) -> Result<Vec<Claimed>, Fault> {
        let health = &self.stats.health;
        let claimed = retry(health, "claim", || async {
            let _working = health.begin(Step::Claim);
            self.sink.claim(wanted.clone()).await
        });
        let claimed = claimed.await?;
        for c in &claimed {
            tracing::info!(pipeline = %self.stats.pipeline, partition = c.partition, position = c.position, epoch = c.claim.epoch, "partition claimed");
        }
        self.notice_set_back(&wanted, &claimed);
        let suspect = retry(health, "claim", || self.sink.begun(&claimed)).await?;
        self.suspects.claimed(&claimed, &suspect);
        self.claims.insert(&claimed);
        reached("claimed");
        Ok(claimed)
    }

    /// A store that is behind the group's own offset was set back, or lost the checkpoint. What lies between is read again as far as the
    /// topic has it, so this is told and no more.
    fn notice_set_back(&self, wanted: &[Assignment], claimed: &[Claimed]) {
        for c in claimed {
            let committed = wanted.iter().find(|w| w.partition == c.partition).and_then(|w| w.committed);
            let Some(committed) = committed.filter(|committed| *committed > c.position) else { continue };
            self.stats.set_back();
            tracing::warn!(
                pipeline = %self.stats.pipeline, partition = c.partition, position = c.position, committed,
                "the checkpoint is behind the group's offset: was the database restored? records are read again"
            );
        }
    }

    fn out_of_range(&self, partition: i32, position: i64, (low, high): (i64, i64)) -> Fault {
        let pipeline = &self.stats.pipeline;
        let advice = if position < low {
            format!(
                "retention has taken what lay before: to write it off run `spawn pipelines accept-gap --pipeline {pipeline} --partition \
                 {partition}`"
            )
        } else {
            format!(
                "the topic was cut or made anew: to end this reading and begin from the start of what is there run `spawn pipelines \
                 adopt-topic --pipeline {pipeline}`"
            )
        };
        let detail = format!(
            "partition {partition} has offsets {low} to {high}, the stored position is {position}; {advice}, then start the worker again"
        );
        Fault::new(FaultClass::Operator, "kafka", detail)
    }

    /// Sends a mark after the last record of each revoked partition; once all are written, the source learns of it.
    async fn flush(&self, out: &Sender<Entry<Admitted>>, partitions: &[i32], flushed: Hold) {
        let flushed = Arc::new(flushed);
        for partition in partitions {
            let Some(claimed) = self.claims.get(*partition) else { continue };
            let mark = Mark {
                partition: *partition,
                claim: claimed.claim,
                position: None,
                ordinal: 0,
                flushed: Some(Hold::new(flushed.clone())),
            };
            if self.send(out, Entry::Mark(mark)).await.is_err() {
                return;
            }
        }
    }

    async fn send(&self, out: &Sender<Entry<Admitted>>, entry: Entry<Admitted>) -> Result<(), ()> {
        self.meter.add_items(u64::from(matches!(entry, Entry::Item(_))));
        self.meter.during(State::Blocked, out.send(entry)).await.map_err(drop)
    }
}

/// The gate of the raw bytes: waits until the payload has room.
pub(crate) async fn admit_raw(
    envelope: Envelope<Payload>,
    fetch: &dyn Fetch,
    raw: &Share,
    meter: &Meter,
) -> Envelope<Admitted> {
    let (mut rest, work) = envelope.split();
    // The original value stays until it is written, whatever becomes of the record: it may have to be a dead letter.
    let kept = rest.record.value.as_ref().map_or(0, |v| v.len());
    let bytes = work.as_ref().map_or(0, |payload| fetch.size_expected(payload)).max(kept);
    let raw = match &work {
        Some(Payload::Reference(_)) => meter.during(State::Blocked, raw.acquire_growing(bytes)).await,
        _ => meter.during(State::Blocked, raw.acquire(bytes)).await,
    };
    match work {
        Some(payload) => rest.join(Some(Ok::<_, Rejection>(Admitted { payload, raw }))),
        None => {
            rest.holds.push(Hold::new(raw));
            rest.join(None::<Result<_, Rejection>>)
        }
    }
}
