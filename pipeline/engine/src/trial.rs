//! Records that may end the process are tried in another one first.
//!
//! Where workers have died several times at the same head of a partition without any progress, one of the records that were in the line
//! then probably killed them. The next owner sends each of so many records through a process of its own before it lets it into the line.
//! What ends that process alone, twice, is rejected; everything else goes on as ever.

use crate::telemetry::Stats;
use spawn_core::{BoxFuture, Claim, Claimed, Fault, Media, Record, Rejection};
use std::collections::{HashMap, HashSet};
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
    window: u64,
    /// Under which claims.
    claims: Arc<Mutex<HashMap<i32, Claim>>>,
    /// Others, wherever they lie.
    others: Arc<HashSet<(i32, i64)>>,
    stats: Arc<Stats>,
}

impl Suspects {
    pub(crate) fn new(trial: Option<Arc<dyn Trial>>, window: usize, stats: Arc<Stats>) -> Self {
        Self { trial, window: window as u64, claims: Arc::default(), others: Arc::default(), stats }
    }

    /// Only these partitions and offsets.
    pub(crate) fn only(
        trial: Option<Arc<dyn Trial>>,
        others: HashSet<(i32, i64)>,
        stats: Arc<Stats>,
    ) -> Self {
        Self { others: Arc::new(others), ..Self::new(trial, 0, stats) }
    }

    /// Partitions were claimed; of these `suspect` have killed their workers.
    pub(crate) fn claimed(&self, claimed: &[Claimed], suspect: &[i32]) {
        let mut claims = self.lock();
        for c in claimed {
            claims.remove(&c.partition);
            if suspect.contains(&c.partition) {
                tracing::error!(
                    pipeline = %self.stats.pipeline, partition = c.partition, position = c.position, records = self.window,
                    "workers died here again and again: the next records are tried in a process of their own first"
                );
                claims.insert(c.partition, c.claim);
            }
        }
    }

    /// Refuses what ends the process that works on it.
    pub(crate) async fn check(&self, record: &Record, media: &Media) -> Result<(), Rejection> {
        let origin = &record.origin;
        let at_the_head =
            record.ordinal <= self.window && self.lock().get(&origin.partition) == Some(&record.claim);
        let suspect = at_the_head || self.others.contains(&(origin.partition, origin.offset));
        let Some(trial) = self.trial.as_ref().filter(|_| suspect) else { return Ok(()) };
        // It may take minutes, and nothing else of the line moves meanwhile.
        let trying = self.stats.health.trying();
        let survives = trial.survives(media).await;
        drop(trying);
        match survives {
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

    fn lock(&self) -> MutexGuard<'_, HashMap<i32, Claim>> {
        self.claims.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
