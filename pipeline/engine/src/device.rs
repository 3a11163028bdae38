//! The inference threads of a device. They have the models of all pipelines and take their calls oldest first.
//!
//! A GPU has one. On a CPU a call on all cores leaves them idle between and inside operations (a recurrent model most of the time), so
//! there several calls run side by side, each on its share of the cores.

use crate::bisect::Careful;
use crate::meter::NamedThreads;
use spawn_core::{Fault, FaultClass, Features, Inference, Model, ModelSpec, Refusal};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};

/// Calls that wait for the thread. Short: a formed call waits better as a growing commit unit.
const CALLS_WAITING_MAX: usize = 4;

/// One call's answer: per chunk an inference or the reason why that chunk has none.
pub struct Answer {
    /// In the order of the chunks.
    pub results: Vec<Result<Inference, Refusal>>,
    /// Time in the model.
    pub took: Duration,
    /// CPU time of the inference thread and its intra-op helpers.
    pub cpu: Duration,
}

struct Call {
    model: Arc<str>,
    chunks: Vec<Features>,
    answer_tx: oneshot::Sender<Result<Answer, Fault>>,
}

/// The threads. Dropping it ends them after the calls they have.
#[derive(Debug)]
pub struct Device {
    handle: Option<DeviceHandle>,
    threads: Vec<JoinHandle<()>>,
}

/// Sends calls to a device.
#[derive(Clone, Debug)]
pub struct DeviceHandle {
    calls_tx: mpsc::Sender<Call>,
    specs: Arc<HashMap<Arc<str>, ModelSpec>>,
}

impl std::fmt::Debug for Call {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Call({}, {} chunks)", self.model, self.chunks.len())
    }
}

impl Device {
    /// Starts `callers` threads (at least one) with these models.
    pub fn start(callers: usize, models: &[Box<dyn Model>]) -> std::io::Result<Self> {
        let specs = models.iter().map(|model| (model.spec().name.clone(), model.spec().clone())).collect();
        let (calls_tx, calls_rx) = mpsc::channel(CALLS_WAITING_MAX);
        let calls_rx = Arc::new(Mutex::new(calls_rx));
        let threads = (0..callers.max(1)).map(|n| {
            let models = models.iter().map(|m| (m.spec().name.clone(), Careful::new(m.fork()))).collect();
            let calls_rx = calls_rx.clone();
            // The number keeps the names apart: helpers of libtorch inherit them, and CPU time is counted by name.
            std::thread::Builder::new().name(format!("infer-{n}")).spawn(move || serve(models, &calls_rx))
        });
        let threads = threads.collect::<std::io::Result<_>>()?;
        Ok(Self { handle: Some(DeviceHandle { calls_tx, specs: Arc::new(specs) }), threads })
    }

    /// For pipelines and queries.
    pub fn handle(&self) -> DeviceHandle {
        self.handle.clone().expect("only taken on drop. This is a bug.")
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        drop(self.handle.take());
        // Handles of pipelines that still run would keep the threads; whoever drops the device has drained them.
        for thread in self.threads.drain(..).filter(JoinHandle::is_finished) {
            drop(thread.join());
        }
    }
}

impl DeviceHandle {
    /// The model's description, if the device has it.
    pub fn spec(&self, model: &str) -> Option<&ModelSpec> {
        self.specs.get(model)
    }

    /// One call; see [`Model::infer`]. Waits for a place in the queue, then for the answer.
    pub async fn infer(&self, model: &Arc<str>, chunks: Vec<Features>) -> Result<Answer, Fault> {
        let (answer_tx, answer_rx) = oneshot::channel();
        let gone = || {
            Fault::new(FaultClass::Operator, "model", "the inference thread ended; the process must restart")
        };
        self.calls_tx.send(Call { model: model.clone(), chunks, answer_tx }).await.map_err(|_| gone())?;
        answer_rx.await.map_err(|_| gone())?
    }
}

fn serve(mut models: HashMap<Arc<str>, Careful>, calls_rx: &Mutex<mpsc::Receiver<Call>>) {
    // The lock is held while waiting, by one thread, and not while working.
    let next = || calls_rx.lock().unwrap_or_else(PoisonError::into_inner).blocking_recv();
    let mut threads = NamedThreads::default();
    while let Some(Call { model, chunks, answer_tx }) = next() {
        if answer_tx.is_closed() {
            continue;
        }
        let (started, cpu) = (Instant::now(), threads.cpu());
        let answer = match models.get_mut(&model) {
            None => {
                Err(Fault::new(FaultClass::Operator, "model", format!("no model `{model}` on this device")))
            }
            Some(model) => {
                let refs: Vec<&Features> = chunks.iter().collect();
                model.infer(&refs)
            }
        };
        let (took, cpu) = (started.elapsed(), threads.cpu().saturating_sub(cpu));
        drop(answer_tx.send(answer.map(|results| Answer { results, took, cpu })));
    }
}
