//! A pipeline that stands still, and goes on.

use super::{Inline, MemorySink, MemorySource, PARTITIONS, assert_each_once, pipeline};
use crate::device::Device;
use crate::fetch::{Fetch, Room};
use crate::infer::tests::FakeModel;
use crate::{FailureLimits, LaneRules, Limits, Pipeline, Stats, Summary};
use spawn_core::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;
use tokio::task::JoinHandle;

/// Media that are not there until the folder is mounted.
struct Unmounted(Arc<AtomicBool>);

impl Fetch for Unmounted {
    fn size_expected(&self, _: &Payload) -> usize {
        100
    }
    fn fetch<'a>(
        &'a self,
        payload: Payload,
        hint: Option<String>,
        room: &'a mut Room<'_>,
    ) -> BoxFuture<'a, Result<Media, Refusal>> {
        match self.0.load(Relaxed) {
            true => Inline.fetch(payload, hint, room),
            false => {
                Box::pin(async { Err(Rejection::new("fetch", "payload.not_found", "is not there").into()) })
            }
        }
    }
}

/// A line that runs.
struct Running {
    sink: Arc<MemorySink>,
    mounted: Arc<AtomicBool>,
    stats: Arc<Stats>,
    ended: JoinHandle<Result<Summary, Fault>>,
    _device: Device,
}

impl Running {
    fn start(sink: MemorySink, mounted: bool) -> Self {
        let (sink, mounted) = (Arc::new(sink), Arc::new(AtomicBool::new(mounted)));
        let device =
            Device::start(2, &[vec![Box::new(FakeModel::default())]], LaneRules::default()).expect("starts");
        let line = pipeline(MemorySource::new(), sink.clone(), &device);
        let failures = FailureLimits {
            percent_max: 50,
            records_min: 1,
            look_every: Duration::from_millis(20),
            probe_first: Duration::from_millis(50),
            probe_max: Duration::from_millis(100),
        };
        let limits = Limits { failures, ..line.limits };
        let line = Pipeline { fetch: Arc::new(Unmounted(mounted.clone())), limits, ..line };
        let stats = line.stats();
        let ended = tokio::spawn(line.run(stats.clone(), std::future::pending()));
        Self { sink, mounted, stats, ended, _device: device }
    }

    fn pause(&self) -> Option<Pause> {
        self.sink.pause.lock().expect("lock").clone()
    }

    fn taken(&self) -> u64 {
        self.stats.taken.load(Relaxed)
    }

    async fn until(&self, what: &str, done: impl Fn(&Self) -> bool) {
        let waiting = async {
            while !done(self) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), waiting)
            .await
            .unwrap_or_else(|_| panic!("never: {what}"));
    }

    async fn goes_on_to_the_end(self) {
        let ended = tokio::time::timeout(Duration::from_secs(60), self.ended).await;
        ended.expect("goes on").expect("joins").expect("no fault");
        assert_eq!(*self.sink.pause.lock().expect("lock"), None);
        assert_each_once(&self.sink);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_is_not_mounted_pauses_the_pipeline_and_rejects_nothing() {
    let running = Running::start(MemorySink::default(), false);
    running.until("paused", |r| r.pause().is_some()).await;
    let pause = running.pause().expect("is paused");
    assert!(pause.reason.contains("payload.not_found"), "{}", pause.reason);
    assert!(pause.probe.is_some());
    let taken = running.taken();
    running.until("a probe", |r| r.taken() > taken).await;
    running.until("and another", |r| r.taken() > taken + 100).await;
    assert_eq!(running.sink.rows.lock().expect("lock").len(), 0, "nothing is rejected");
    running.mounted.store(true, Relaxed);
    running.goes_on_to_the_end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_pauses_and_resumes() {
    let pause = Pause { reason: "maintenance".into(), probe: None };
    let running = Running::start(MemorySink { pause: Some(pause).into(), ..MemorySink::default() }, true);
    let claimed = |r: &Running| r.sink.partitions.lock().expect("lock").len() == PARTITIONS as usize;
    running.until("claims are held", claimed).await;
    let asked = running.sink.asked.load(Relaxed);
    running.until("asked again and again", |r| r.sink.asked.load(Relaxed) > asked + 10).await;
    assert_eq!(running.taken(), 0, "no record is taken, also not to probe");
    running.sink.pause.lock().expect("lock").take();
    running.goes_on_to_the_end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_operator_lets_pass_is_rejected_as_it_is() {
    let running = Running::start(MemorySink { by_operator: true.into(), ..MemorySink::default() }, false);
    running.until("paused", |r| r.pause().is_some()).await;
    running.sink.pause.lock().expect("lock").take();
    running
        .until("all are written", |r| {
            r.stats.read_outcomes() == [0, 0, 0, 0] && r.sink.rows.lock().expect("lock").len() == 600
        })
        .await;
    assert_eq!(running.pause(), None, "it is not paused again for the same");
}

/// Another worker's folder is mounted, this one's is not.
#[tokio::test(flavor = "multi_thread")]
async fn a_probe_of_another_worker_lets_nothing_bad_of_ours_pass() {
    let running = Running::start(MemorySink::default(), false);
    for _ in 0..3 {
        running.until("paused", |r| r.pause().is_some()).await;
        running.sink.pause.lock().expect("lock").take();
    }
    running.until("paused again", |r| r.pause().is_some()).await;
    assert_eq!(running.sink.rows.lock().expect("lock").len(), 0, "nothing is rejected");
    running.mounted.store(true, Relaxed);
    running.goes_on_to_the_end().await;
}
