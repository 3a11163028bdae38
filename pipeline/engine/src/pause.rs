//! Standing still: because an operator wants it, or because too much would be rejected.
//!
//! The store keeps the pause, so that every worker of the pipeline obeys it. A worker that stands still has given its records back (they
//! are read again from the checkpoint), holds its claims, and stays in the group. Where the failure budget paused the pipeline, whoever
//! owns the partition with most rejections reads it again now and then. Nothing of that is written before a unit stays within the
//! budget: then the pipeline goes on, for all.

use crate::claims::Claims;
use crate::failures::{FailureBudget, FailureLimits};
use crate::gate::{Gate, Mode};
use crate::health::retry;
use crate::telemetry::Stats;
use spawn_core::{Batch, Body, Claimed, Fault, Inferred, Orders, Pause, Sink, Source};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Codes named in the reason of a pause.
const CODES_MAX: usize = 3;
/// Longest wait for the store to hear of a peaceful end.
const PEACE_MAX: Duration = Duration::from_secs(1);

/// What the end of the line and the watch over the store share.
#[derive(Clone)]
pub(crate) struct Pausing {
    sink: Arc<dyn Sink>,
    source: Arc<dyn Source>,
    claims: Claims,
    gate: Gate,
    stats: Arc<Stats>,
    limits: FailureLimits,
    budget: Arc<Mutex<FailureBudget>>,
    /// Held while the store's word and the gate are brought together, so that no old answer meets a new mode.
    turn: Arc<tokio::sync::Mutex<()>>,
}

/// When the next probe is due, and how long to wait before the one after it.
struct Probes {
    wait: Duration,
    due: Option<Instant>,
}

/// A unit's records, those of them that would be rejected by code, and the partition that has most of those.
struct Tally {
    records: u64,
    rejected: u64,
    codes: Vec<(String, u64)>,
    worst: Option<i32>,
}

impl Pausing {
    pub(crate) fn new(
        (sink, source): (Arc<dyn Sink>, Arc<dyn Source>),
        (claims, gate): (Claims, Gate),
        stats: Arc<Stats>,
        limits: FailureLimits,
    ) -> Self {
        let budget = Arc::new(Mutex::new(FailureBudget::new(limits)));
        Self { sink, source, claims, gate, stats, limits, budget, turn: Arc::default() }
    }

    /// Obeys what the store says for as long as the line runs. Nothing is read before the first answer.
    pub(crate) async fn watch(self) -> Result<(), Fault> {
        let mut probes = Probes { wait: self.limits.probe_first, due: None };
        loop {
            {
                let _turn = self.turn.lock().await;
                match self.sink.orders().await {
                    // As it was: without the store nothing can be written anyway.
                    Err(fault) => {
                        tracing::warn!(pipeline = %self.stats.pipeline, %fault, "cannot ask whether the pipeline is paused");
                    }
                    Ok(Orders::GoOn { by_operator }) => {
                        if matches!(self.gate.mode(), Mode::Paused | Mode::Probing(_)) {
                            tracing::info!(pipeline = %self.stats.pipeline, by_operator, "pipeline resumed");
                            // A probe speaks for the worker that made it: what ails only this one pauses the pipeline again.
                            if by_operator {
                                self.budget().forgive();
                            }
                        }
                        self.gate.set(Mode::Open);
                        probes = Probes { wait: self.limits.probe_first, due: None };
                    }
                    Ok(Orders::Pause(pause)) => self.obey(&pause, &mut probes).await?,
                }
                self.stats.paused(matches!(self.gate.mode(), Mode::Paused | Mode::Probing(_)));
            }
            tokio::time::sleep(self.limits.look_every).await;
        }
    }

    async fn obey(&self, pause: &Pause, probes: &mut Probes) -> Result<(), Fault> {
        let ours = pause.probe.filter(|partition| self.claims.get(*partition).is_some());
        match self.gate.mode() {
            Mode::Open | Mode::Unknown => {
                tracing::error!(pipeline = %self.stats.pipeline, reason = pause.reason, "pipeline paused");
                self.hold().await?;
            }
            // The partition went to another worker in the middle of the probe: that one probes now. Or an operator wants it to stand still.
            Mode::Probing(partition) if ours != Some(partition) => self.hold().await?,
            Mode::Probing(_) => {}
            Mode::Paused => match ours {
                None => probes.due = None,
                Some(partition) => {
                    let due = *probes.due.get_or_insert_with(|| Instant::now() + probes.wait);
                    if due <= Instant::now() {
                        tracing::info!(pipeline = %self.stats.pipeline, partition, "trying whether things are well again");
                        *probes = Probes { wait: (probes.wait * 2).min(self.limits.probe_max), due: None };
                        self.budget().probe();
                        self.gate.set(Mode::Probing(partition));
                    }
                }
            },
        }
        Ok(())
    }

    /// Reads nothing more, and gives back what is in the line: it is read again from the checkpoint.
    async fn hold(&self) -> Result<(), Fault> {
        self.gate.set(Mode::Paused);
        let held = self.claims.lock().all();
        let partitions: Vec<i32> = held.iter().map(|claimed| claimed.partition).collect();
        self.claims.remove(&partitions);
        end_in_peace(&*self.sink, &held).await;
        retry(&self.stats.health, "give partitions back", || self.source.reclaim(partitions.clone())).await
    }

    /// Whether the unit may be written. One that passes the budget pauses the pipeline; one that was given back is left out.
    pub(crate) async fn admits(&self, batch: &Batch<Inferred>) -> Result<bool, Fault> {
        if !batch.delta.iter().any(|(partition, span)| self.claims.is_current(*partition, span.claim)) {
            return Ok(false);
        }
        let tally = Tally::of(batch);
        if self.budget().admits(tally.records, tally.rejected) {
            if matches!(self.gate.mode(), Mode::Probing(_)) {
                let _turn = self.turn.lock().await;
                retry(&self.stats.health, "resume", || self.sink.resume()).await?;
                tracing::info!(pipeline = %self.stats.pipeline, "things are well again, pipeline resumed");
                self.gate.set(Mode::Open);
            }
            return Ok(true);
        }
        let pause = Pause { reason: tally.reason(self.limits.percent_max), probe: tally.worst };
        tracing::error!(
            pipeline = %self.stats.pipeline, reason = pause.reason,
            "pipeline paused: nothing of this was written; it goes on by itself once a probe passes, or by `spawn pipelines resume`"
        );
        let _turn = self.turn.lock().await;
        retry(&self.stats.health, "pause", || self.sink.pause(&pause)).await?;
        self.hold().await?;
        self.stats.paused(true);
        Ok(false)
    }

    fn budget(&self) -> MutexGuard<'_, FailureBudget> {
        self.budget.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells the store that the work on these ended without harm. Advisory: a store that does not answer at once is not waited for.
pub(crate) async fn end_in_peace(sink: &dyn Sink, claimed: &[Claimed]) {
    if let Ok(Err(fault)) = tokio::time::timeout(PEACE_MAX, sink.ended(claimed)).await {
        tracing::debug!(%fault, "cannot say that the work ended in peace");
    }
}

impl Tally {
    fn of(batch: &Batch<Inferred>) -> Self {
        let (mut codes, mut partitions) = (BTreeMap::<&str, u64>::new(), BTreeMap::<i32, u64>::new());
        for envelope in &batch.envelopes {
            if let Body::Rejected(rejection) = &envelope.body {
                *codes.entry(&rejection.code).or_default() += 1;
                *partitions.entry(envelope.origin().partition).or_default() += 1;
            }
        }
        let mut codes: Vec<(String, u64)> = codes.into_iter().map(|(code, n)| (code.to_owned(), n)).collect();
        codes.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        Self {
            records: batch.envelopes.len() as u64,
            rejected: codes.iter().map(|(_, count)| count).sum(),
            codes,
            worst: partitions.into_iter().max_by_key(|(_, count)| *count).map(|(partition, _)| partition),
        }
    }

    fn reason(&self, percent_max: u32) -> String {
        let codes = self.codes.iter().take(CODES_MAX).map(|(code, count)| format!("{code} {count}"));
        format!(
            "{} of the last {} records would be rejected ({}), more than line.failure_budget_percent = {percent_max}",
            self.rejected,
            self.records,
            codes.collect::<Vec<_>>().join(", "),
        )
    }
}
