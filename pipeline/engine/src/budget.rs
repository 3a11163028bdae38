//! A pool of bytes that work must enter before it may occupy memory.
//!
//! There are two, raw and decoded, and each is entered at one gate, in order. Whoever holds decoded bytes acquires nothing more, so
//! the pools cannot deadlock: decoded bytes always come free, and with them the raw ones.

use std::sync::Arc;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// Bytes are counted in blocks, because a semaphore's single acquisition is limited to 2^32 permits.
const BLOCK_BYTES: usize = 1024;

/// A bounded pool of bytes. First come, first served.
#[derive(Clone, Debug)]
pub struct Budget {
    name: &'static str,
    blocks_total: u32,
    blocks: Arc<Semaphore>,
    pressed: Arc<Notify>,
}

/// A share of a budget, given back on drop.
#[derive(Debug)]
pub struct Reservation {
    permit: OwnedSemaphorePermit,
}

impl Budget {
    /// A pool of `bytes_total`; at least one block, at most 4 TiB.
    pub fn new(name: &'static str, bytes_total: usize) -> Self {
        let blocks_total = blocks_of(bytes_total);
        let blocks = Arc::new(Semaphore::new(blocks_total as usize));
        Self { name, blocks_total, blocks, pressed: Arc::new(Notify::new()) }
    }

    /// Waits for `bytes`. More than the whole budget waits for all of it: such a piece of work enters alone.
    pub async fn acquire(&self, bytes: usize) -> Reservation {
        let blocks = blocks_of(bytes).min(self.blocks_total);
        let acquiring = self.blocks.clone().acquire_many_owned(blocks);
        let permit = match self.blocks.clone().try_acquire_many_owned(blocks) {
            Ok(permit) => permit,
            Err(_) => {
                // Whatever waits for company downstream should leave now: its memory is wanted.
                self.pressed.notify_one();
                acquiring.await.expect("the semaphore is never closed. This is a bug.")
            }
        };
        Reservation { permit }
    }

    /// Completes when somebody had to wait for memory since the last call.
    pub async fn pressed(&self) {
        self.pressed.notified().await;
    }

    /// The pool's name in metrics.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Bytes in use now.
    pub fn bytes_used(&self) -> usize {
        (self.blocks_total as usize - self.blocks.available_permits()) * BLOCK_BYTES
    }

    /// Bytes in all.
    pub fn bytes_total(&self) -> usize {
        self.blocks_total as usize * BLOCK_BYTES
    }
}

impl Reservation {
    /// Gives back what exceeds `bytes`. Never grows.
    pub fn shrink_to(&mut self, bytes: usize) {
        let keep = blocks_of(bytes) as usize;
        drop(self.permit.split(self.permit.num_permits().saturating_sub(keep)));
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.permit.num_permits() * BLOCK_BYTES
    }
}

fn blocks_of(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(BLOCK_BYTES)).unwrap_or(u32::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_shrunk_reservation_lets_the_next_one_in() {
        let budget = Budget::new("test", 10 * BLOCK_BYTES);
        let mut first = budget.acquire(10 * BLOCK_BYTES).await;
        let waiting = tokio::spawn({
            let budget = budget.clone();
            async move { budget.acquire(4 * BLOCK_BYTES).await.bytes() }
        });
        budget.pressed().await; // the second one waits
        assert!(!waiting.is_finished());
        first.shrink_to(6 * BLOCK_BYTES);
        assert_eq!(waiting.await.expect("joins"), 4 * BLOCK_BYTES);
        assert_eq!(budget.bytes_used(), 6 * BLOCK_BYTES);
    }

    #[tokio::test]
    async fn work_larger_than_the_budget_enters_alone() {
        let budget = Budget::new("test", 4 * BLOCK_BYTES);
        let whole = budget.acquire(1 << 40).await;
        assert_eq!(whole.bytes(), budget.bytes_total());
        drop(whole);
        assert_eq!(budget.bytes_used(), 0);
    }
}
