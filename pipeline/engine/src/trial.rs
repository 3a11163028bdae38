//! Records that may end the process are tried in another one first.
//!
//! Where workers have died several times at the same head of a partition without any progress, one of the records that were in the line
//! then probably killed them. The next owner sends each of so many records through a process of its own before it lets it into the line.
//! What ends that process alone, twice, is rejected; everything else goes on as ever.

use crate::telemetry::Stats;
use spawn_core::{BoxFuture, Claim, Claimed, Fault, Media, Record, Rejection};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Runs media through stage and model where their end is nobody else's.
pub trait Trial: Send + Sync {
    /// Whether the process that did so lives. A fault: it could not be tried.
    fn survives<'a>(&'a self, media: &'a Media) -> BoxFuture<'a, Result<bool, Fault>>;
}

/// The partitions whose next records are tried.
#[derive(Clone)]
pub(crate) struct Suspects {
    trial: Option<Arc<dyn Trial>>,
    /// Records after the head: as many as a line can have taken in before it writes any of them.
    window: i64,
    /// Up to which position, under which claim.
    until: Arc<Mutex<HashMap<i32, (Claim, i64)>>>,
    stats: Arc<Stats>,
}

impl Suspects {
    pub(crate) fn new(trial: Option<Arc<dyn Trial>>, window: usize, stats: Arc<Stats>) -> Self {
        let window = i64::try_from(window).unwrap_or(i64::MAX);
        Self { trial, window, until: Arc::default(), stats }
    }

    /// Partitions were claimed; of these `suspect` have killed their workers.
    pub(crate) fn claimed(&self, claimed: &[Claimed], suspect: &[i32]) {
        let mut until = self.lock();
        for c in claimed {
            until.remove(&c.partition);
            if suspect.contains(&c.partition) {
                tracing::error!(
                    pipeline = %self.stats.pipeline, partition = c.partition, position = c.position, records = self.window,
                    "workers died here again and again: the next records are tried in a process of their own first"
                );
                until.insert(c.partition, (c.claim, c.position.saturating_add(self.window)));
            }
        }
    }

    /// Refuses what ends the process that works on it.
    pub(crate) async fn check(&self, record: &Record, media: &Media) -> Result<(), Rejection> {
        let origin = &record.origin;
        let within = |(claim, until): &(Claim, i64)| *claim == record.claim && origin.offset < *until;
        let suspect = self.lock().get(&origin.partition).is_some_and(within);
        let Some(trial) = self.trial.as_ref().filter(|_| suspect) else { return Ok(()) };
        match trial.survives(media).await {
            Ok(true) => {
                self.stats.tried("survived");
                Ok(())
            }
            Ok(false) => {
                self.stats.tried("killed");
                let detail = "the process that works on this alone dies, each time";
                Err(Rejection::new("prepare", "process.killed", detail))
            }
            Err(fault) => {
                self.stats.tried("not_tried");
                tracing::warn!(pipeline = %self.stats.pipeline, %origin, %fault, "cannot be tried in a process of its own");
                Ok(())
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<i32, (Claim, i64)>> {
        self.until.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
