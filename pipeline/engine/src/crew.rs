//! The CPU crew: one thread per granted core, shared by all pipelines.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use tokio::sync::oneshot;

/// A fixed set of worker threads for decoding and preparing.
#[derive(Clone, Debug)]
pub struct Crew {
    pool: Arc<rayon::ThreadPool>,
}

impl Crew {
    /// `workers` threads named `crew-N`.
    pub fn new(workers: usize) -> Result<Self, String> {
        rayon::ThreadPoolBuilder::new()
            .num_threads(workers.max(1))
            .thread_name(|i| format!("crew-{i}"))
            .build()
            .map(|pool| Self { pool: Arc::new(pool) })
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
        work: impl FnOnce(usize) -> T + Send + 'static,
    ) -> Result<T, String> {
        let (done_tx, done_rx) = oneshot::channel();
        self.pool.spawn_fifo(move || {
            if done_tx.is_closed() {
                return;
            }
            let worker = rayon::current_thread_index().unwrap_or(0);
            let result =
                catch_unwind(AssertUnwindSafe(|| work(worker))).map_err(|panic| panic_message(&*panic));
            drop(done_tx.send(result));
        });
        done_rx.await.unwrap_or_else(|_| Err("the worker thread ended".into()))
    }
}

/// The text of a panic, as far as it has one.
pub fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|s| (*s).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "panic without a message".into())
}
