//! The first verb: events of the source become entries of the line.
//!
//! Partitions are claimed here, one event at a time, so that no record of a partition can overtake its claim. Here is also the gate
//! of the raw bytes: a record enters once its payload has room.

use crate::budget::{Budget, Reservation};
use crate::claims::Claims;
use crate::fetch::Fetch;
use crate::meter::{Meter, State};
use crate::steps::reached;
use crate::telemetry::Stats;
use spawn_core::{
    Assignment, Entry, Envelope, Event, Fault, FaultClass, Hold, Mark, Payload, Rejection, Sink, Source,
};
use std::sync::Arc;
use std::time::Duration;
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
    pub raw: Budget,
    /// Knows how large a payload can be.
    pub fetch: Arc<dyn Fetch>,
    /// Time.
    pub meter: Arc<Meter>,
    /// Counts.
    pub stats: Arc<Stats>,
}

impl Intake {
    /// Runs until the source ends. A fault here is one that only an operator can mend.
    pub async fn run(self, out: Sender<Entry<Admitted>>) -> Result<(), Fault> {
        loop {
            match self.meter.during(State::Starved, self.source.next()).await {
                Ok(Event::Records(envelopes)) => {
                    for envelope in envelopes {
                        self.stats.taken();
                        let entry =
                            Entry::Item(admit_raw(envelope, &*self.fetch, &self.raw, &self.meter).await);
                        if self.send(&out, entry).await.is_err() {
                            return Ok(());
                        }
                    }
                }
                Ok(Event::Assigned(wanted)) => self.claim(wanted).await?,
                Ok(Event::Revoked { partitions, flushed }) => self.flush(&out, &partitions, flushed).await,
                Ok(Event::Lost(partitions)) => {
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
                    return Err(Fault::new(
                        FaultClass::Operator,
                        "kafka",
                        format!(
                            "partition {partition} has offsets {low} to {high}, the stored position is {position}: records were \
                             lost to retention or the topic was made anew; decide before restarting"
                        ),
                    ));
                }
                Ok(Event::End) => return Ok(()),
                Err(fault) if fault.class == FaultClass::Operator => return Err(fault),
                Err(fault) => tracing::warn!(pipeline = %self.stats.pipeline, %fault, "source trouble"),
            }
        }
    }

    async fn claim(&self, wanted: Vec<Assignment>) -> Result<(), Fault> {
        let claimed = retry("claim", || self.sink.claim(wanted.clone())).await?;
        for c in &claimed {
            tracing::info!(pipeline = %self.stats.pipeline, partition = c.partition, position = c.position, epoch = c.claim.epoch, "partition claimed");
        }
        self.claims.insert(&claimed);
        reached("claimed");
        retry("start", || self.source.start(claimed.clone())).await
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
    raw: &Budget,
    meter: &Meter,
) -> Envelope<Admitted> {
    let (mut rest, work) = envelope.split();
    // The original value stays until it is written, whatever becomes of the record: it may have to be a dead letter.
    let kept = rest.record.value.as_ref().map_or(0, |v| v.len());
    let bytes = work.as_ref().map_or(0, |payload| fetch.size_bound(payload)).max(kept);
    let raw = meter.during(State::Blocked, raw.acquire(bytes)).await;
    match work {
        Some(payload) => rest.join(Some(Ok::<_, Rejection>(Admitted { payload, raw }))),
        None => {
            rest.holds.push(Hold::new(raw));
            rest.join(None::<Result<_, Rejection>>)
        }
    }
}

/// Tries again with growing waits (0.1 to 5 s) for as long as the dependency is gone. Other faults are handed on.
pub async fn retry<T, F>(what: &'static str, mut attempt: impl FnMut() -> F) -> Result<T, Fault>
where
    F: Future<Output = Result<T, Fault>>,
{
    let mut wait = Duration::from_millis(100);
    loop {
        match attempt().await {
            Err(fault) if fault.class == FaultClass::Systemic => {
                tracing::warn!(what, %fault, wait_seconds = wait.as_secs_f64(), "dependency gone, everything is kept");
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(Duration::from_secs(5));
            }
            other => return other,
        }
    }
}
