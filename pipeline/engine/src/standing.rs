//! Looks whether the store still has what this process claimed and wrote.
//!
//! A write finds out by itself. But a partition in which nothing is written any more would never notice that the database was set back: what
//! it had written is gone, and nobody reads it again. So the store is asked now and then, and what it does not have is claimed again.

use crate::claims::Claims;
use crate::health::retry;
use crate::telemetry::Stats;
use spawn_core::{CheckpointDelta, Claim, Fault, Sink, Source};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How far this process has written each partition, and under which claim.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wrote(Arc<Mutex<HashMap<i32, (Claim, i64)>>>);

impl Wrote {
    pub(crate) fn note(&self, delta: &CheckpointDelta) {
        self.lock().extend(delta.iter().map(|(partition, span)| (*partition, (span.claim, span.to))));
    }

    /// Where `claim` must stand at least.
    fn least(&self, partition: i32, claim: Claim, claimed_at: i64) -> i64 {
        let wrote = self.lock().get(&partition).copied();
        wrote.filter(|(by, _)| *by == claim).map_or(claimed_at, |(_, to)| to)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<i32, (Claim, i64)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks every so often for as long as the line runs.
pub(crate) async fn watch_standing(
    (sink, source): (Arc<dyn Sink>, Arc<dyn Source>),
    claims: Claims,
    wrote: Wrote,
    stats: Arc<Stats>,
    every: Duration,
) -> Result<(), Fault> {
    loop {
        tokio::time::sleep(every).await;
        // Before the question: whatever is written meanwhile makes the store stand further.
        let held: Vec<_> = claims
            .staying()
            .into_iter()
            .map(|c| (c, wrote.least(c.partition, c.claim, c.position)))
            .collect();
        // A store that is gone is told of by whoever writes.
        let Ok(Some(stored)) = sink.standing().await else { continue };
        let stands = |partition, claim, least| {
            stored.get(&partition).is_some_and(|(by, next): &(Claim, i64)| *by == claim && *next >= least)
        };
        let lost: Vec<i32> = held
            .into_iter()
            .filter(|(c, least)| {
                !stands(c.partition, c.claim, *least) && claims.is_current(c.partition, c.claim)
            })
            .map(|(c, _)| c.partition)
            .collect();
        if lost.is_empty() {
            continue;
        }
        tracing::warn!(
            pipeline = %stats.pipeline, partitions = ?lost,
            "the store does not have what was claimed and written: another claim is newer, or it was set back; claiming again"
        );
        claims.remove(&lost);
        retry(&stats.health, "give partitions back", || source.reclaim(lost.clone())).await?;
    }
}
