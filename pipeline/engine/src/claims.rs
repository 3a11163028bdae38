//! Which partitions this process may write, as far as it knows. The sink knows for sure.

use spawn_core::{Claim, Claimed};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// The claims of one pipeline, shared by its intake, its batcher and its end.
#[derive(Clone, Debug, Default)]
pub struct Claims {
    by_partition: Arc<Mutex<HashMap<i32, Claimed>>>,
}

impl Claims {
    /// Replaces the claims of these partitions: whatever was read under the old ones is stale from now on.
    pub fn insert(&self, claimed: &[Claimed]) {
        self.lock().extend(claimed.iter().map(|c| (c.partition, *c)));
    }

    /// Forgets partitions; their entries are stale from now on.
    pub fn remove(&self, partitions: &[i32]) {
        self.lock().retain(|partition, _| !partitions.contains(partition));
    }

    /// Forgets the partition if `claim` is the one we hold; whether it was.
    pub fn remove_if(&self, partition: i32, claim: Claim) -> bool {
        let mut held = self.lock();
        let current = held.get(&partition).is_some_and(|c| c.claim == claim);
        if current {
            held.remove(&partition);
        }
        current
    }

    /// The position that `claim` began with, or `None` when it is stale.
    pub fn start_of(&self, partition: i32, claim: Claim) -> Option<i64> {
        self.lock().get(&partition).filter(|c| c.claim == claim).map(|c| c.position)
    }

    /// Whether `claim` is still the one we hold.
    pub fn is_current(&self, partition: i32, claim: Claim) -> bool {
        self.start_of(partition, claim).is_some()
    }

    /// The claim we hold of `partition`.
    pub fn get(&self, partition: i32) -> Option<Claimed> {
        self.lock().get(&partition).copied()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<i32, Claimed>> {
        self.by_partition.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
