//! The inference threads of one or several devices. They have the models of all pipelines and take their calls
//! oldest first, those of the live lane before those of the bulk lane.
//!
//! A GPU has two: while one computes, the other's pixels are on their way. On a CPU a call on all cores leaves them idle between and inside operations (a recurrent model most of the time), so
//! there several calls run side by side, each on its share of the cores.

use crate::bisect::Careful;
use crate::brief::CallTimes;
use crate::health::Step;
use crate::lanes::{Lane, LaneRules, Lanes, LatePipelines, Turn};
use crate::meter::NamedThreads;
use crate::telemetry::Stats;
use spawn_core::{Fault, FaultClass, Features, Inference, Model, ModelSpec, Refusal};
use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// One call's answer: per chunk an inference or the reason why that chunk has none.
pub struct Answer {
    /// In the order of the chunks.
    pub results: Vec<Result<Inference, Refusal>>,
    /// Time in the model.
    pub took: Duration,
    /// CPU time of the inference thread and its intra-op helpers.
    pub cpu: Duration,
    /// Bytes of tensors on the device afterwards, and at most so far; zeros on a CPU.
    pub device_bytes: [u64; 2],
}

struct Call {
    model: Arc<str>,
    chunks: Vec<Features>,
    /// Told while it runs; what only waits for its turn is not the model's work.
    stats: Option<Arc<Stats>>,
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
    queue: Arc<Open>,
    specs: Arc<HashMap<Arc<str>, ModelSpec>>,
}

/// What callers and threads share.
#[derive(Debug)]
struct Queue {
    rules: LaneRules,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    calls: Lanes<Call>,
    late: LatePipelines,
    times: CallTimes,
    threads: usize,
    closed: bool,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps the threads; the last handle ends them.
#[derive(Debug)]
struct Open(Arc<Queue>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.changed.notify_all();
    }
}

/// A thread's presence: callers of a device without threads are told, and do not wait.
struct Present(Arc<Queue>);

impl Drop for Present {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.threads -= 1;
        if state.threads == 0 {
            state.calls.clear();
        }
    }
}

impl std::fmt::Debug for Call {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Call({}, {} chunks)", self.model, self.chunks.len())
    }
}

impl Device {
    /// Starts `callers` threads (at least one) for each device, which has the same models as the others.
    pub fn start(callers: usize, devices: &[Vec<Box<dyn Model>>], rules: LaneRules) -> std::io::Result<Self> {
        let models = devices.iter().flatten();
        let specs = models.map(|model| (model.spec().name.clone(), model.spec().clone())).collect();
        let (calls, late) = (Lanes::new(rules.bulk_share), LatePipelines::new());
        let count = callers.max(1) * devices.len();
        let times = CallTimes::default();
        let state = Mutex::new(State { calls, late, times, threads: count, closed: false });
        let queue = Arc::new(Queue { rules, state, changed: Condvar::new() });
        let threads = (0..count).map(|n| {
            let models = devices[n % devices.len()]
                .iter()
                .map(|m| (m.spec().name.clone(), Careful::new(m.fork())))
                .collect();
            let present = Present(queue.clone());
            // The number keeps the names apart: helpers of libtorch inherit them, and CPU time is counted by name.
            std::thread::Builder::new().name(format!("infer-{n}")).spawn(move || serve(models, &present.0))
        });
        let threads = threads.collect::<std::io::Result<_>>()?;
        Ok(Self {
            handle: Some(DeviceHandle { queue: Arc::new(Open(queue)), specs: Arc::new(specs) }),
            threads,
        })
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

    /// What one call of this lane may hold: less than the model allows where live work would wait too long for its end.
    pub fn call_limits(&self, lane: Lane, spec: &ModelSpec) -> ModelSpec {
        match self.rules().bulk_call_max.filter(|_| lane == Lane::Bulk) {
            Some(call_max) => self.queue.0.lock().times.limited(spec, call_max),
            None => spec.clone(),
        }
    }

    /// How the lanes share the device.
    pub fn rules(&self) -> LaneRules {
        self.queue.0.rules
    }

    /// Tells whether a live pipeline is late now: bulk yields while one is. Answers whether bulk yields.
    pub fn tell_late(&self, pipeline: &Arc<str>, late: bool) -> bool {
        let mut state = self.queue.0.lock();
        if late {
            state.late.insert(pipeline.clone())
        } else {
            state.late.remove(pipeline)
        };
        self.queue.0.changed.notify_all();
        !state.late.is_empty()
    }

    /// Calls that wait, live and bulk.
    pub fn calls_waiting(&self) -> [usize; 2] {
        self.queue.0.lock().calls.len()
    }

    /// One call; see [`Model::infer`]. Waits for its lane's turn, then for the answer.
    pub async fn infer(
        &self,
        lane: Lane,
        model: &Arc<str>,
        chunks: Vec<Features>,
        stats: Option<Arc<Stats>>,
    ) -> Result<Answer, Fault> {
        let (answer_tx, answer_rx) = oneshot::channel();
        let gone = || {
            Fault::new(FaultClass::Operator, "model", "the inference thread ended; the process must restart")
        };
        {
            let mut state = self.queue.0.lock();
            if state.threads == 0 {
                return Err(gone());
            }
            state.calls.push(lane, Call { model: model.clone(), chunks, stats, answer_tx });
        }
        self.queue.0.changed.notify_all();
        answer_rx.await.map_err(|_| gone())?
    }
}

/// Waits for the next call; none once nobody can bring one.
fn next(queue: &Queue) -> Option<(Lane, Call)> {
    let mut state = queue.lock();
    loop {
        let (now, yielding) = (Instant::now(), !state.late.is_empty() && !state.closed);
        match state.calls.next(now, yielding) {
            Turn::Run(lane, call) => return Some((lane, call)),
            Turn::Wait(_) if state.closed && state.calls.len() == [0, 0] => return None,
            Turn::Wait(until) => {
                // Woken by every change; without one, when bulk is due.
                let most = until.map_or(Duration::MAX, |until| until.saturating_duration_since(now));
                state = queue
                    .changed
                    .wait_timeout(state, most.min(Duration::from_secs(60)))
                    .unwrap_or_else(PoisonError::into_inner)
                    .0;
            }
        }
    }
}

/// Bulk work that runs; it has ended when this is dropped, by a panic too.
struct BulkTurn<'a>(&'a Queue, Instant);

impl Drop for BulkTurn<'_> {
    fn drop(&mut self) {
        self.0.lock().calls.bulk_ended(Instant::now(), self.1.elapsed());
        self.0.changed.notify_all();
    }
}

fn serve(mut models: HashMap<Arc<str>, Careful>, queue: &Queue) {
    let mut threads = NamedThreads::default();
    while let Some((lane, Call { model, chunks, stats, answer_tx })) = next(queue) {
        let _bulk = (lane == Lane::Bulk).then(|| BulkTurn(queue, Instant::now()));
        if answer_tx.is_closed() {
            continue;
        }
        let working = stats.as_ref().map(|stats| stats.health.begin(Step::Infer));
        let (started, cpu) = (Instant::now(), threads.cpu());
        let mut device_bytes = [0; 2];
        let answer = match models.get_mut(&model) {
            None => {
                Err(Fault::new(FaultClass::Operator, "model", format!("no model `{model}` on this device")))
            }
            Some(careful) => {
                let refs: Vec<&Features> = chunks.iter().collect();
                let answer = careful.infer(&refs);
                device_bytes = careful.device_bytes();
                answer
            }
        };
        drop(working);
        let (took, cpu) = (started.elapsed(), threads.cpu().saturating_sub(cpu));
        let cost = chunks.len() * chunks.iter().map(Features::length).max().unwrap_or(0);
        queue.lock().times.took(&model, cost, took);
        drop(answer_tx.send(answer.map(|results| Answer { results, took, cpu, device_bytes })));
    }
}
