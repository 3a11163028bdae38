//! The decisions of delivery, and nothing else: no I/O, no clock, no randomness.
//!
//! The store's side is [`Checkpoint`]: what the database's functions decide under the row's lock. The worker's side is [`Held`], the
//! claims it believes in, and [`Progress`], which turns what was read into spans. `examples/simulate` runs both through faults.

use crate::{CheckpointDelta, Claim, Claimed, PartitionSpan};
use std::collections::HashMap;

/// One partition as the store knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The first position that was ever claimed.
    pub first: i64,
    /// The next position to settle: everything in `[first, next)` is in the ledger.
    pub next: i64,
    /// Whose it is.
    pub owner: Claim,
}

/// What becomes of one partition's part of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is written now.
    Written,
    /// It was written before: only the answer was lost.
    WrittenBefore,
    /// Another claim is newer, or the position is another one: nothing of it is written.
    Fenced,
}

impl Checkpoint {
    /// Takes the partition for `token`. The first claim ever begins at `first`, later ones where the last write ended.
    pub fn claim(stored: Option<Self>, first: i64, token: u128) -> Self {
        match stored {
            None => Self { first, next: first, owner: Claim { epoch: 1, token } },
            Some(stored) => Self { owner: Claim { epoch: stored.owner.epoch + 1, token }, ..stored },
        }
    }

    /// Decides on a span of at least one position. `stored` tells whether the store has a span from and to the same positions. Must
    /// see the row as it is once its lock is held, not as it was when the wait began.
    pub fn judge(&self, span: &PartitionSpan, stored: bool) -> Verdict {
        if self.owner != span.claim {
            Verdict::Fenced
        } else if self.next == span.from {
            Verdict::Written
        } else if self.next == span.to && stored {
            Verdict::WrittenBefore
        } else {
            Verdict::Fenced
        }
    }
}

/// The claims that a worker believes it holds. The store knows for sure.
#[derive(Clone, Debug, Default)]
pub struct Held {
    by_partition: HashMap<i32, Claimed>,
}

impl Held {
    /// Partitions were claimed: whatever was read under an older claim is stale from now on.
    pub fn claimed(&mut self, claimed: &[Claimed]) {
        self.by_partition.extend(claimed.iter().map(|c| (c.partition, *c)));
    }

    /// Partitions are gone: what was read of them is stale from now on.
    pub fn lost(&mut self, partitions: &[i32]) {
        self.by_partition.retain(|partition, _| !partitions.contains(partition));
    }

    /// The store refused these partitions of a write: forgets those whose claim is still the refused one, and answers them. They are
    /// to be claimed again. Where a newer claim of our own stands, that is what fenced the old one, and nothing is to be done.
    pub fn fenced(&mut self, written: &CheckpointDelta, fenced: &[i32]) -> Vec<i32> {
        let current = |p: &&i32| written.get(p).is_some_and(|span| self.is_current(**p, span.claim));
        let lost: Vec<i32> = fenced.iter().filter(current).copied().collect();
        self.lost(&lost);
        lost
    }

    /// The position that `claim` began with, or `None` when it is stale.
    pub fn start_of(&self, partition: i32, claim: Claim) -> Option<i64> {
        self.get(partition).filter(|c| c.claim == claim).map(|c| c.position)
    }

    /// Whether `claim` is still the one we hold.
    pub fn is_current(&self, partition: i32, claim: Claim) -> bool {
        self.start_of(partition, claim).is_some()
    }

    /// Every claim that we hold.
    pub fn all(&self) -> Vec<Claimed> {
        self.by_partition.values().copied().collect()
    }

    /// The claim we hold of `partition`.
    pub fn get(&self, partition: i32) -> Option<Claimed> {
        self.by_partition.get(&partition).copied()
    }
}

/// How far a partition was read after an entry of its line.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// The partition.
    pub partition: i32,
    /// Under which claim it was polled.
    pub claim: Claim,
    /// Next position to read; `None` where the entry moves none.
    pub position: Option<i64>,
    /// Records polled under `claim` so far.
    pub ordinal: u64,
}

/// Where the last unit of each partition ended, so that spans tile.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    by_partition: HashMap<i32, (Claim, i64, u64)>,
}

impl Progress {
    /// Adds a step to the unit that is being cut. `false` when its claim is not `held` any more: the entry has to be dropped, and the
    /// partition's next owner reads it again. One unit is cut under one state of `held`.
    pub fn settle(&mut self, held: &Held, delta: &mut CheckpointDelta, step: Step) -> bool {
        let Step { partition, claim, position, ordinal } = step;
        let Some(start) = held.start_of(partition, claim) else { return false };
        let last = self.by_partition.entry(partition).or_insert((claim, start, 0));
        if last.0 != claim {
            *last = (claim, start, 0);
        }
        if let Some(to) = position {
            let span =
                delta.entry(partition).or_insert(PartitionSpan { from: last.1, to, claim, records: 0 });
            span.to = span.to.max(to);
            span.records += ordinal - last.2;
            *last = (claim, span.to, ordinal);
        }
        true
    }
}
