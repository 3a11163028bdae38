//! Deferred records, tried again outside the line.
//!
//! The line keeps order, so a record whose dependency fails may hold it up for two seconds only; then it is written as deferred. Here such
//! records come back: a few at a time, through the same verbs and the same budgets, and each is settled by itself in place. Whoever
//! dies on the way loses nothing, because a taken record is only leased.

use crate::admit::admit;
use crate::batcher::batched;
use crate::claims::Claims;
use crate::fetch::fetch_ordered;
use crate::health::retry;
use crate::infer::Infer;
use crate::intake::admit_raw;
use crate::meter::Meter;
use crate::pace::Pace;
use crate::pipeline::{Parts, QUEUE_ITEMS};
use crate::prepare::prepare_ordered;
use crate::telemetry::{Stats, redrive_settled, redrive_waiting};
use crate::trial::Suspects;
use spawn_core::{
    Batch, BoxFuture, Claim, Claimed, Entry, Envelope, Fault, FaultClass, Inferred, Outcome, Payload,
};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Between two looks when nothing is due.
const IDLE: Duration = Duration::from_secs(1);
/// Between two counts of what waits: they read all of it.
const COUNT_EVERY: Duration = Duration::from_secs(15);
/// Stamped on records that come back; nobody else has it.
const CLAIM: Claim = Claim { epoch: 0, token: 0 };

/// A deferred record that comes back.
#[derive(Debug)]
pub struct Taken {
    /// The record.
    pub envelope: Envelope<Payload>,
    /// Several workers took it and never told what became of it: it may have killed them.
    pub suspect: bool,
}

/// The deferred records of one pipeline. Implemented outside, so that the line needs no database.
pub trait Deferred: Send + Sync {
    /// Leases records that are due, in the order of each partition; none when nothing is. Later calls do not answer them again before the
    /// lease has ended.
    fn take(&self) -> BoxFuture<'_, Result<Vec<Taken>, Fault>>;
    /// Writes what became of one, in one transaction. Answers the outcome as written (`Deferred`: put off again), or none when somebody
    /// else has settled it.
    fn settle<'a>(
        &'a self,
        envelope: &'a Envelope<Inferred>,
    ) -> BoxFuture<'a, Result<Option<Outcome>, Fault>>;
    /// How many wait, and the seconds since the oldest failed first.
    fn waiting(&self) -> BoxFuture<'_, Result<(u64, f64), Fault>>;
}

/// Tries deferred records again for as long as the line runs. A fault here is one that only an operator can mend.
pub(crate) async fn redrive(
    deferred: Arc<dyn Deferred>,
    parts: Parts,
    stats: Arc<Stats>,
) -> Result<(), Fault> {
    let mut counted: Option<Instant> = None;
    loop {
        if counted.is_none_or(|at| at.elapsed() >= COUNT_EVERY) {
            counted = Some(Instant::now());
            // A figure only: whoever takes will tell of a store that is gone.
            if let Ok((records, oldest_seconds)) = deferred.waiting().await {
                redrive_waiting(&stats.pipeline, records, oldest_seconds);
            }
        }
        let taken = retry(&stats.health, "take deferred records", || deferred.take()).await?;
        if taken.is_empty() {
            tokio::time::sleep(IDLE).await;
        } else {
            again(&*deferred, &parts, &stats, taken).await?;
        }
    }
}

/// One set of records through a line of its own, which ends with them.
async fn again(
    deferred: &dyn Deferred,
    parts: &Parts,
    stats: &Arc<Stats>,
    taken: Vec<Taken>,
) -> Result<(), Fault> {
    let (mut verbs, mut settling) = start(parts, stats, taken);
    while let Some(batch) = settling.recv().await {
        for envelope in batch.envelopes {
            let outcome = retry(&stats.health, "settle", || deferred.settle(&envelope)).await?;
            redrive_settled(&stats.pipeline, outcome);
            tracing::info!(pipeline = %stats.pipeline, origin = %envelope.origin(), ?outcome, "deferred record tried again");
        }
    }
    while let Some(ended) = verbs.join_next().await {
        ended.map_err(|panic| Fault::new(FaultClass::Operator, "line", panic))??;
    }
    Ok(())
}

/// The verbs of the line from the gate of the raw bytes to the model.
fn start(
    parts: &Parts,
    stats: &Arc<Stats>,
    taken: Vec<Taken>,
) -> (JoinSet<Result<(), Fault>>, mpsc::Receiver<Batch<Inferred>>) {
    let meter = |verb| Arc::new(Meter::new(verb));
    let claims = Claims::default();
    let partitions = taken.iter().map(|t| t.envelope.origin().partition);
    // Before any offset, so that the batcher sees progress in each; nobody looks at its delta.
    claims.insert(
        &partitions.map(|partition| Claimed { partition, claim: CLAIM, position: -1 }).collect::<Vec<_>>(),
    );
    let (admitted_tx, admitted) = mpsc::channel(QUEUE_ITEMS);
    let (fetched_tx, fetched) = mpsc::channel(QUEUE_ITEMS);
    let (decodable_tx, decodable) = mpsc::channel(QUEUE_ITEMS);
    let (ready_tx, ready) = mpsc::channel(QUEUE_ITEMS);
    let (unit_tx, units) = mpsc::channel(1);
    let (inferred_tx, inferred) = mpsc::channel(1);

    let suspects = taken.iter().filter(|t| t.suspect).map(|t| t.envelope.origin());
    let suspects = suspects.map(|origin| (origin.partition, origin.offset)).collect();
    let suspects = Suspects::only(parts.trial.clone(), suspects, stats.clone());

    let mut verbs = JoinSet::new();
    let (fetch, raw, gate_meter) = (parts.fetch.clone(), parts.raw.clone(), meter("intake"));
    verbs.spawn(async move {
        for Taken { mut envelope, .. } in taken {
            envelope.record.claim = CLAIM;
            envelope.record.ordinal = 0;
            let entry = Entry::Item(admit_raw(envelope, &*fetch, &raw, &gate_meter).await);
            if admitted_tx.send(entry).await.is_err() {
                break;
            }
        }
        Ok(())
    });
    let window = parts.limits.fetch_window;
    verbs.spawn(inner(fetch_ordered(
        admitted,
        fetched_tx,
        parts.fetch.clone(),
        window,
        meter("fetch"),
        stats.clone(),
        suspects,
    )));
    let (stage, gate, reuse) = (parts.stage.fork(), parts.decoded.clone(), &parts.reuse);
    verbs.spawn(inner(admit(
        fetched,
        decodable_tx,
        stage,
        gate,
        claims.clone(),
        reuse.clone(),
        (meter("admit"), stats.clone()),
    )));
    let (stage, crew) = (parts.stage.fork(), (parts.crew.clone(), parts.lane));
    verbs.spawn(inner(prepare_ordered(
        decodable,
        ready_tx,
        stage,
        crew,
        parts.reuse.clone(),
        meter("prepare"),
        stats.clone(),
    )));
    let (unit, pressed) = (parts.limits.unit, parts.decoded.clone());
    let limits = (unit, Arc::new(Pace::new(&unit)));
    verbs.spawn(inner(batched(ready, unit_tx, limits, pressed, claims, meter("batch"), stats.clone())));
    let infer = Infer {
        device: parts.device.clone(),
        lane: parts.lane,
        spec: parts.model.clone(),
        preparation: parts.stage.spec().into(),
        reuse: reuse.clone(),
        meter: meter("infer"),
        stats: stats.clone(),
    };
    verbs.spawn(infer.run(units, inferred_tx));
    (verbs, inferred)
}

/// A verb that cannot fail, as a task.
async fn inner(verb: impl Future<Output = ()>) -> Result<(), Fault> {
    verb.await;
    Ok(())
}
