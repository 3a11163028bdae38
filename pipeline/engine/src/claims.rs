//! Which partitions this process may write, as far as it knows. The sink knows for sure.

use spawn_core::{CheckpointDelta, Claim, Claimed, Held};
use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The claims of one pipeline, shared by its intake, its batcher and its end. The decisions are [`Held`]'s.
#[derive(Clone, Debug, Default)]
pub struct Claims {
    held: Arc<Mutex<Held>>,
    /// Partitions that go to somebody else, of which the last records are being written.
    leaving: Arc<Mutex<HashSet<i32>>>,
}

impl Claims {
    /// See [`Held::claimed`].
    pub fn insert(&self, claimed: &[Claimed]) {
        self.leaving().retain(|partition| claimed.iter().all(|c| c.partition != *partition));
        self.lock().claimed(claimed);
    }

    /// These go to somebody else, who may claim them at any time.
    pub(crate) fn leave(&self, partitions: &[i32]) {
        self.leaving().extend(partitions);
    }

    /// Those that are to stay ours.
    pub(crate) fn staying(&self) -> Vec<Claimed> {
        let leaving = self.leaving().clone();
        self.lock().all().into_iter().filter(|c| !leaving.contains(&c.partition)).collect()
    }

    /// See [`Held::lost`].
    pub fn remove(&self, partitions: &[i32]) {
        self.lock().lost(partitions);
    }

    /// See [`Held::fenced`].
    pub fn fenced(&self, written: &CheckpointDelta, fenced: &[i32]) -> Vec<i32> {
        self.lock().fenced(written, fenced)
    }

    /// Whether `claim` is still the one we hold.
    pub fn is_current(&self, partition: i32, claim: Claim) -> bool {
        self.lock().is_current(partition, claim)
    }

    /// The claim we hold of `partition`.
    pub fn get(&self, partition: i32) -> Option<Claimed> {
        self.lock().get(partition)
    }

    fn leaving(&self) -> MutexGuard<'_, HashSet<i32>> {
        self.leaving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The table, for as long as nobody else may change it.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
