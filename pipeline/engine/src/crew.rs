//! The CPU crew: one thread per granted core, shared by all pipelines. Live work goes first; see [`crate::lanes`].

use crate::lanes::{Lane, Lanes, Turn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use tokio::sync::oneshot;

/// A fixed set of worker threads for decoding and preparing.
#[derive(Clone)]
pub struct Crew {
    pool: Arc<rayon::ThreadPool>,
    work: Arc<Mutex<Lanes<Work>>>,
}

type Work = Box<dyn FnOnce(usize) + Send>;

impl std::fmt::Debug for Crew {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Crew({} workers)", self.workers())
    }
}

impl Crew {
    /// `workers` threads named `crew-N`. Bulk work has `bulk_share` of them, 0.01 to 0.9, however much live work waits.
    pub fn new(workers: usize, bulk_share: f64) -> Result<Self, String> {
        rayon::ThreadPoolBuilder::new()
            .num_threads(workers.max(1))
            .thread_name(|i| format!("crew-{i}"))
            .build()
            .map(|pool| Self { pool: Arc::new(pool), work: Arc::new(Mutex::new(Lanes::new(bulk_share))) })
            .map_err(|e| format!("cannot start {workers} worker threads: {e}"))
    }

    /// Number of workers.
    pub fn workers(&self) -> usize {
        self.pool.current_num_threads()
    }

    /// Runs `work` with the worker's index. A panic becomes `Err` with its message, and costs no thread. Work whose caller has gone is
    /// skipped.
    pub async fn run<T: Send + 'static>(
        &self,
        lane: Lane,
        work: impl FnOnce(usize) -> T + Send + 'static,
    ) -> Result<T, String> {
        let (done_tx, done_rx) = oneshot::channel();
        let boxed = Box::new(move |worker| {
            if done_tx.is_closed() {
                return;
            }
            let result =
                catch_unwind(AssertUnwindSafe(|| work(worker))).map_err(|panic| panic_message(&*panic));
            drop(done_tx.send(result));
        });
        lock(&self.work).push(lane, boxed);
        // Each task takes one piece of work, whichever goes next by then.
        let queue = self.work.clone();
        self.pool.spawn_fifo(move || {
            let now = Instant::now();
            let turn = lock(&queue).next(now, false);
            if let Turn::Run(lane, work) = turn {
                work(rayon::current_thread_index().unwrap_or(0));
                if lane == Lane::Bulk {
                    lock(&queue).bulk_ended(Instant::now(), now.elapsed());
                }
            }
        });
        done_rx.await.unwrap_or_else(|_| Err("the worker thread ended".into()))
    }
}

fn lock(queue: &Mutex<Lanes<Work>>) -> MutexGuard<'_, Lanes<Work>> {
    queue.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The text of a panic, as far as it has one.
pub fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|s| (*s).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "panic without a message".into())
}
