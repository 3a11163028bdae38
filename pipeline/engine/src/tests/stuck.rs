//! Each step blocked in turn, with one record: it is named within 30 seconds, and nothing else is.

use super::{Inline, MemoryStage};
use crate::budget::Budget;
use crate::crew::Crew;
use crate::device::Device;
use crate::fetch::{Fetch, Room};
use crate::health::Health;
use crate::infer::tests::{FakeModel, chunk, spec};
use crate::write::tests::{claimed, envelope};
use crate::{FailureLimits, Lane, LaneRules, Limits, Pipeline, Stats, Step, UnitLimits};
use bytes::Bytes;
use spawn_core::*;
use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// What the configuration asks for by default: less than the 30 s within which it has to be seen.
const LIMIT: Duration = Duration::from_secs(25);

/// A line with one record that stops at `step`.
struct Blocked {
    step: Option<Step>,
    /// Tells that the record is where it stops, or written.
    reached: Notify,
    /// What threads wait for; disconnected at the end of the test.
    gate: Mutex<Receiver<()>>,
    events: Mutex<VecDeque<Event>>,
    pulse: Mutex<Pulse>,
    /// Writes fail as if the database were gone.
    gone: bool,
}

impl Blocked {
    async fn stop_at(&self, step: Step) {
        if self.step == Some(step) {
            self.reached.notify_one();
            std::future::pending().await
        }
    }

    fn stop_thread_at(&self, step: Step) {
        if self.step == Some(step) {
            self.reached.notify_one();
            let _disconnected = self.gate.lock().expect("lock").recv();
        }
    }
}

struct Faked(Arc<Blocked>);

impl Source for Faked {
    fn next(&self) -> BoxFuture<'_, Result<Event, Fault>> {
        let event = self.0.events.lock().expect("lock").pop_front();
        Box::pin(async { if let Some(event) = event { Ok(event) } else { std::future::pending().await } })
    }
    fn start(&self, _: Vec<Claimed>) -> BoxFuture<'_, Result<(), Fault>> {
        Box::pin(async { Ok(()) })
    }
    fn reclaim(&self, _: Vec<i32>) -> BoxFuture<'_, Result<(), Fault>> {
        Box::pin(async { Ok(()) })
    }
    fn commit(&self, _: &CheckpointDelta) {
        self.0.reached.notify_one();
    }
    fn pulse(&self) -> Pulse {
        self.0.pulse.lock().expect("lock").clone()
    }
    fn stop(&self) {}
}

impl Sink for Faked {
    fn claim(&self, wanted: Vec<Assignment>) -> BoxFuture<'_, Result<Vec<Claimed>, Fault>> {
        Box::pin(async move {
            self.0.stop_at(Step::Claim).await;
            Ok(vec![claimed(wanted[0].partition, wanted[0].first_offset)])
        })
    }
    fn write<'a>(&'a self, _: &'a Batch<Inferred>) -> BoxFuture<'a, Result<Written, Fault>> {
        Box::pin(async {
            self.0.stop_at(Step::Write).await;
            if self.0.gone {
                self.0.reached.notify_one();
                return Err(Fault::new(FaultClass::Systemic, "postgres", "connection refused"));
            }
            Ok(Written { outcomes: [1, 0, 0, 0], ..Written::default() })
        })
    }
}

impl Fetch for Faked {
    fn size_expected(&self, payload: &Payload) -> usize {
        Inline.size_expected(payload)
    }
    fn fetch<'a>(
        &'a self,
        payload: Payload,
        hint: Option<String>,
        room: &'a mut Room<'_>,
    ) -> BoxFuture<'a, Result<Media, Refusal>> {
        Box::pin(async move {
            self.0.stop_at(Step::Fetch).await;
            Inline.fetch(payload, hint, room).await
        })
    }
}

impl Stage for Faked {
    fn spec(&self) -> &str {
        "blocked/1"
    }
    fn footprint(&self, media: &Media) -> Result<usize, Rejection> {
        Ok(media.bytes.len())
    }
    fn process(&mut self, media: &Media) -> Result<Prepared, Rejection> {
        self.0.stop_thread_at(Step::Prepare);
        MemoryStage.process(media)
    }
    fn fork(&self) -> Box<dyn Stage> {
        Box::new(Self(self.0.clone()))
    }
}

struct BlockedModel(Arc<Blocked>, FakeModel);

impl Model for BlockedModel {
    fn spec(&self) -> &ModelSpec {
        self.1.spec()
    }
    fn infer(&mut self, chunks: &[&Features]) -> Result<Vec<Inference>, Fault> {
        self.0.stop_thread_at(Step::Infer);
        self.1.infer(chunks)
    }
    fn control(&mut self) -> Result<(), Fault> {
        self.1.control()
    }
    fn fork(&self) -> Box<dyn Model> {
        Box::new(Self(self.0.clone(), FakeModel::default()))
    }
}

/// A line that runs; dropping it lets its threads go.
struct Line {
    blocked: Arc<Blocked>,
    stats: Arc<Stats>,
    task: JoinHandle<Result<crate::Summary, Fault>>,
    _gate: SyncSender<()>,
    _device: Device,
}

/// Starts it and waits until the record is where it stops: at `step`, or written.
async fn line(step: Option<Step>, gone: bool) -> Line {
    let (gate_tx, gate) = sync_channel(0);
    let (mut rest, _) = envelope(0, 0).split();
    rest.record.ordinal = 1;
    let record = rest.join(Some(Ok::<_, Rejection>(Payload::Inline(Bytes::from_static(b"1")))));
    let blocked = Arc::new(Blocked {
        step,
        reached: Notify::new(),
        gate: Mutex::new(gate),
        events: Mutex::new(
            [Event::Assigned(vec![Assignment::new(0, 0)]), Event::Records(vec![record])].into(),
        ),
        pulse: Mutex::default(),
        gone,
    });
    let model = BlockedModel(blocked.clone(), FakeModel::default());
    let device = Device::start(1, &[vec![Box::new(model)]], LaneRules::default()).expect("starts");
    let unit = UnitLimits {
        records_max: 1,
        chunks_max: 8,
        cost_max: 1 << 20,
        bytes_max: 1 << 20,
        linger: Duration::from_millis(1),
    };
    let pipeline = Pipeline {
        name: "stuck".into(),
        source: Arc::new(Faked(blocked.clone())),
        fetch: Arc::new(Faked(blocked.clone())),
        stage: Box::new(Faked(blocked.clone())),
        crew: Crew::new(1, 0.1).expect("starts"),
        device: device.handle(),
        model: spec(),
        sink: Arc::new(Faked(blocked.clone())),
        deferred: None,
        raw: Budget::new("raw", 64 << 10).share(0, 0),
        decoded: Budget::new("decoded", 16 << 10).share(0, 0),
        lane: Lane::Live,
        trial: None,
        limits: Limits {
            fetch_window: 4,
            unit,
            failures: FailureLimits::default(),
            drain_max: Duration::from_secs(5),
            p95_max: None,
            reuse_within: None,
            stuck_after: LIMIT,
        },
    };
    let stats = pipeline.stats();
    let task = tokio::spawn(pipeline.run(stats.clone(), std::future::pending()));
    blocked.reached.notified().await;
    Line { blocked, stats, task, _gate: gate_tx, _device: device }
}

/// Moves the clock.
async fn later(seconds: u64) {
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(seconds)).await;
    tokio::time::resume();
}

/// A clock of its own for each: threads outside of the runtime do not see it moved.
#[test]
fn each_blocked_step_is_named_within_thirty_seconds() {
    for step in [Step::Claim, Step::Fetch, Step::Prepare, Step::Infer, Step::Write] {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("starts");
        runtime.block_on(named_within_thirty_seconds(step));
    }
}

async fn named_within_thirty_seconds(step: Step) {
    let line = line(Some(step), false).await;
    assert!(line.stats.health.read(&[]).stuck().is_empty(), "{step:?} has only begun");
    later(20).await;
    assert!(line.stats.health.read(&[]).stuck().is_empty(), "{step:?} may take a while");
    later(9).await;
    let health = line.stats.health.read(&[]);
    assert_eq!((health.stuck(), health.waits_for.len()), (vec![step.name()], 0));
    assert!(!line.task.is_finished());
    line.task.abort();
}

#[tokio::test]
async fn a_poll_thread_that_stands_is_named() {
    let line = line(None, false).await;
    line.blocked.pulse.lock().expect("lock").since_polled = Duration::from_secs(29);
    assert_eq!(line.stats.health.read(&[]).stuck(), ["poll"]);
    line.task.abort();
}

#[tokio::test]
async fn an_idle_line_is_healthy_for_ever() {
    let line = line(None, false).await;
    later(100_000).await;
    let health = line.stats.health.read(&[]);
    assert!(health.stuck().is_empty() && health.waits_for.is_empty(), "{health:?}");
    line.task.abort();
}

#[tokio::test]
async fn a_line_behind_a_dependency_that_is_gone_waits_and_is_not_stuck() {
    let refused = line(None, true).await;
    // The fault is noted right after the attempt that told us.
    while refused.stats.health.read(&[]).waits_for.is_empty() {
        tokio::task::yield_now().await;
    }
    later(29).await;
    let health = refused.stats.health.read(&[]);
    assert_eq!((health.stuck(), &health.waits_for["postgres"][..]), (vec![], "connection refused"));
    refused.task.abort();
}

/// It looks stuck, until somebody has found out why.
#[tokio::test]
async fn a_line_behind_a_dependency_that_says_nothing_waits_and_is_not_stuck() {
    let silent = line(Some(Step::Write), false).await;
    later(29).await;
    let health = silent.stats.health.read(&[("postgres", "no answer".into())]);
    assert_eq!((health.stuck(), &health.waits_for["postgres"][..]), (vec![], "no answer"));
    // Which excuses no other step.
    silent.blocked.pulse.lock().expect("lock").since_polled = Duration::from_secs(29);
    assert_eq!(silent.stats.health.read(&[("postgres", "no answer".into())]).stuck(), ["poll"]);
    // A broker that is gone is told by the source.
    *silent.blocked.pulse.lock().expect("lock") =
        Pulse { trouble: Some("timed out".into()), ..Pulse::default() };
    assert_eq!(silent.stats.health.read(&[]).waits_for["kafka"], "timed out");
    silent.task.abort();
}

#[tokio::test]
async fn what_waits_for_its_turn_is_not_stuck() {
    let line = line(Some(Step::Infer), false).await;
    // Behind the call that does not end: only that one is with the model.
    let other = Stats::new("other", Vec::new());
    other.health.attach(Weak::<Faked>::new(), LIMIT);
    let other = Arc::new(other);
    let (device, waits) = (line._device.handle(), other.clone());
    let call = tokio::spawn(async move {
        device.infer(Lane::Bulk, &spec().name, vec![chunk(1)], Some(waits)).await.map(drop)
    });
    later(1000).await;
    assert_eq!(other.health.read(&[]).stuck(), Vec::<&str>::new());
    assert_eq!(line.stats.health.read(&[]).stuck(), ["infer"]);
    call.abort();
    line.task.abort();
}

#[tokio::test]
async fn a_line_in_which_nothing_moves_is_named_though_no_step_works() {
    let health = Health::default();
    health.attach(Weak::<Faked>::new(), LIMIT);
    let _record = health.entered();
    later(4 * LIMIT.as_secs() - 1).await;
    assert_eq!(health.read(&[]).stuck(), Vec::<&str>::new(), "it may wait for memory");
    later(2).await;
    assert_eq!(health.read(&[]).stuck(), ["line"]);
    drop(health.begin(Step::Infer));
    assert_eq!(health.read(&[]).stuck(), Vec::<&str>::new(), "something moves");
}

#[tokio::test]
async fn a_line_waits_for_trials_until_the_last_has_ended() {
    let health = Health::default();
    health.attach(Weak::<Faked>::new(), LIMIT);
    let _record = health.entered();
    let (first, second) = (health.trying(), health.trying());
    later(1000).await;
    for trial in [first, second] {
        let reading = health.read(&[]);
        assert!(reading.stuck().is_empty() && reading.waits_for.contains_key("trial"), "{reading:?}");
        drop(trial);
    }
    assert_eq!(health.read(&[]).stuck(), ["line"]);
}
