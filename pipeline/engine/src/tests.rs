//! The whole line against a source and a sink in memory, which keep the contract of their seams and misbehave as told.

mod devices;
mod pausing;
mod stuck;
mod throttled;

use crate::budget::Budget;
use crate::crew::Crew;
use crate::device::Device;
use crate::fetch::{Fetch, Room};
use crate::infer::tests::{FakeModel, chunk, spec};
use crate::redrive::Taken;
use crate::write::tests::envelope;
use crate::{FailureLimits, Lane, LaneRules, Limits, Pipeline, Summary, UnitLimits};
use bytes::Bytes;
use spawn_core::*;
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Notify;

const PARTITIONS: i32 = 3;
const RECORDS: i64 = 200;

/// A topic of `PARTITIONS` x `RECORDS`; ends once everything was committed.
#[derive(Default)]
struct MemorySource {
    events: Mutex<VecDeque<Event>>,
    news: Notify,
    committed: Mutex<BTreeMap<i32, i64>>,
}

impl MemorySource {
    fn new() -> Arc<Self> {
        let source = Self::default();
        source.announce((0..PARTITIONS).collect());
        Arc::new(source)
    }

    fn announce(&self, partitions: Vec<i32>) {
        let wanted = partitions.into_iter().map(|partition| Assignment::new(partition, 0)).collect();
        self.push(Event::Assigned(wanted));
    }

    fn push(&self, event: Event) {
        self.events.lock().expect("lock").push_back(event);
        self.news.notify_one();
    }
}

impl Source for MemorySource {
    fn next(&self) -> BoxFuture<'_, Result<Event, Fault>> {
        Box::pin(async {
            loop {
                if let Some(event) = self.events.lock().expect("lock").pop_front() {
                    return Ok(event);
                }
                self.news.notified().await;
            }
        })
    }

    fn start(&self, claimed: Vec<Claimed>) -> BoxFuture<'_, Result<(), Fault>> {
        for Claimed { partition, claim, position } in claimed {
            for (i, offset) in (position..RECORDS).enumerate() {
                let (mut rest, _) = envelope(partition, offset).split();
                rest.record.claim = claim;
                rest.record.ordinal = i as u64 + 1;
                let payload = Payload::Inline(Bytes::from(format!("{partition}/{offset}")));
                self.push(Event::Records(vec![rest.join(Some(Ok::<_, Rejection>(payload)))]));
            }
        }
        Box::pin(async { Ok(()) })
    }

    fn reclaim(&self, partitions: Vec<i32>) -> BoxFuture<'_, Result<(), Fault>> {
        self.announce(partitions);
        Box::pin(async { Ok(()) })
    }

    fn commit(&self, delta: &CheckpointDelta) {
        let mut committed = self.committed.lock().expect("lock");
        committed.extend(delta.iter().map(|(p, span)| (*p, span.to)));
        if (0..PARTITIONS).all(|p| committed.get(&p) == Some(&RECORDS)) {
            self.push(Event::End);
        }
    }

    fn stop(&self) {
        self.push(Event::End);
    }
}

/// Compares and sets like the real one.
#[derive(Default)]
struct MemorySink {
    partitions: Mutex<BTreeMap<i32, (Claim, i64)>>,
    rows: Mutex<Vec<(i32, i64, &'static str)>>,
    faults_left: AtomicUsize,
    /// Writes of partition 1 after which somebody else claims it for a moment.
    steal_after: AtomicUsize,
    /// Writes of partition 1 that take longer than a claim.
    slow_left: AtomicUsize,
    pause: Mutex<Option<Pause>>,
    /// Whose word the end of the last pause was.
    by_operator: AtomicBool,
    /// How often it was asked whether the pipeline is paused.
    asked: AtomicUsize,
}

impl Sink for MemorySink {
    fn claim(&self, wanted: Vec<Assignment>) -> BoxFuture<'_, Result<Vec<Claimed>, Fault>> {
        let mut partitions = self.partitions.lock().expect("lock");
        let claimed = wanted
            .iter()
            .map(|a| {
                let start = (Claim { epoch: 0, token: 1 }, a.first_offset);
                let row = partitions.entry(a.partition).or_insert(start);
                row.0.epoch += 1;
                Claimed { partition: a.partition, claim: row.0, position: row.1 }
            })
            .collect();
        Box::pin(async { Ok(claimed) })
    }

    fn write<'a>(&'a self, batch: &'a Batch<Inferred>) -> BoxFuture<'a, Result<Written, Fault>> {
        Box::pin(async move {
            if self.faults_left.fetch_update(Relaxed, Relaxed, |n| n.checked_sub(1)).is_ok() {
                return Err(Fault::new(FaultClass::Systemic, "postgres", "gone"));
            }
            let of_1 = batch.delta.contains_key(&1);
            if of_1 && self.slow_left.fetch_update(Relaxed, Relaxed, |n| n.checked_sub(1)).is_ok() {
                tokio::time::sleep(Duration::from_millis(700)).await;
            }
            let mut partitions = self.partitions.lock().expect("lock");
            let mut rows = self.rows.lock().expect("lock");
            let mut written = Written::default();
            for (partition, span) in &batch.delta {
                let row = partitions.get_mut(partition).expect("was claimed");
                if (row.0, row.1) != (span.claim, span.from) {
                    written.fenced.push(*partition);
                    continue;
                }
                row.1 = span.to;
                let mine = batch.envelopes.iter().filter(|e| e.origin().partition == *partition);
                let before = rows.len();
                rows.extend(mine.map(|e| (*partition, e.origin().offset, outcome(&e.body))));
                assert_eq!((rows.len() - before) as u64, span.records, "the line lost a record");
            }
            if of_1 && self.steal_after.fetch_sub(1, Relaxed) == 1 {
                partitions.get_mut(&1).expect("was claimed").0.epoch += 1;
            }
            Ok(written)
        })
    }

    fn orders(&self) -> BoxFuture<'_, Result<Orders, Fault>> {
        self.asked.fetch_add(1, Relaxed);
        let pause = self.pause.lock().expect("lock").clone();
        let by_operator = self.by_operator.load(Relaxed);
        Box::pin(async move { Ok(pause.map_or(Orders::GoOn { by_operator }, Orders::Pause)) })
    }

    fn pause<'a>(&'a self, pause: &'a Pause) -> BoxFuture<'a, Result<(), Fault>> {
        self.pause.lock().expect("lock").get_or_insert_with(|| pause.clone());
        Box::pin(async { Ok(()) })
    }

    fn resume(&self) -> BoxFuture<'_, Result<(), Fault>> {
        self.pause.lock().expect("lock").take_if(|pause| pause.probe.is_some());
        Box::pin(async { Ok(()) })
    }
}

fn outcome(body: &Body<Inferred>) -> &'static str {
    match body {
        Body::Work(_) => "result",
        Body::Rejected(rejection) if rejection.code == "stage.panic" => "panic",
        Body::Rejected(rejection) if rejection.code == "process.killed" => "killed",
        _ => "other",
    }
}

/// One chunk a record; panics at every 50th offset.
struct MemoryStage;

impl Stage for MemoryStage {
    fn spec(&self) -> &str {
        "memory/1"
    }
    fn footprint(&self, media: &Media) -> Result<usize, Rejection> {
        Ok(media.bytes.len())
    }
    fn process(&mut self, media: &Media) -> Result<Prepared, Rejection> {
        assert!(!media.bytes.ends_with(b"/50"), "planted panic");
        Ok(Prepared { chunks: vec![chunk(media.bytes.len())], facts: MediaFacts::default() })
    }
    fn fork(&self) -> Box<dyn Stage> {
        Box::new(Self)
    }
}

struct Inline;

impl Fetch for Inline {
    fn size_expected(&self, _: &Payload) -> usize {
        100
    }
    fn fetch<'a>(
        &'a self,
        payload: Payload,
        hint: Option<String>,
        _: &'a mut Room<'_>,
    ) -> BoxFuture<'a, Result<Media, Refusal>> {
        Box::pin(async move {
            match payload {
                Payload::Inline(bytes) => Ok(Media::new(bytes, hint)),
                Payload::Reference(uri) => Err(Rejection::new("fetch", "payload.denied", uri).into()),
            }
        })
    }
}

fn pipeline(source: Arc<MemorySource>, sink: Arc<MemorySink>, device: &Device) -> Pipeline {
    let unit = UnitLimits {
        records_max: 16,
        chunks_max: 64,
        cost_max: 1 << 20,
        bytes_max: 1 << 20,
        linger: Duration::from_millis(1),
    };
    Pipeline {
        name: "test".into(),
        source,
        fetch: Arc::new(Inline),
        stage: Box::new(MemoryStage),
        crew: Crew::new(2, 0.1).expect("starts"),
        device: device.handle(),
        model: spec(),
        sink,
        deferred: None,
        raw: Budget::new("raw", 64 << 10).share(0, 0),
        decoded: Budget::new("decoded", 16 << 10).share(0, 0),
        lane: Lane::Live,
        trial: None,
        limits: Limits {
            fetch_window: 64,
            unit,
            failures: FailureLimits { percent_max: 100, ..FailureLimits::default() },
            drain_max: Duration::from_secs(5),
            p95_max: None,
            reuse_within: None,
            stuck_after: Duration::from_secs(30),
        },
    }
}

async fn run(source: Arc<MemorySource>, sink: Arc<MemorySink>) -> Summary {
    let device =
        Device::start(2, &[vec![Box::new(FakeModel::default())]], LaneRules::default()).expect("starts");
    let pipeline = pipeline(source, sink, &device);
    let stats = pipeline.stats();
    let run = pipeline.run(stats, std::future::pending());
    tokio::time::timeout(Duration::from_secs(60), run).await.expect("makes progress").expect("no fault")
}

fn assert_each_once(sink: &MemorySink) {
    let mut rows = sink.rows.lock().expect("lock").clone();
    for partition in 0..PARTITIONS {
        let offsets: Vec<i64> = rows.iter().filter(|r| r.0 == partition).map(|r| r.1).collect();
        assert_eq!(offsets, (0..RECORDS).collect::<Vec<_>>(), "partition {partition} in order, each once");
    }
    rows.retain(|r| r.2 != "result");
    let panics: Vec<_> = (0..PARTITIONS).map(|p| (p, 50, "panic")).collect();
    rows.sort_unstable();
    assert_eq!(rows, panics, "only the planted panics are refused");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_record_is_written_once_and_in_order() {
    let (source, sink) = (MemorySource::new(), Arc::new(MemorySink::default()));
    let summary = run(source, sink.clone()).await;
    assert_each_once(&sink);
    assert_eq!(summary.taken, (PARTITIONS as u64) * RECORDS as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_gone_for_a_while_loses_nothing() {
    let sink = Arc::new(MemorySink { faults_left: AtomicUsize::new(3), ..MemorySink::default() });
    run(MemorySource::new(), sink.clone()).await;
    assert_each_once(&sink);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fenced_partition_is_claimed_again_and_goes_on() {
    let sink = Arc::new(MemorySink { steal_after: AtomicUsize::new(2), ..MemorySink::default() });
    run(MemorySource::new(), sink.clone()).await;
    assert_each_once(&sink);
}

/// Units of the old claim are still in the line when the new one is there already: they must not take it down again.
#[tokio::test(flavor = "multi_thread")]
async fn one_fence_costs_one_claim_also_when_writes_are_slow() {
    let sink = MemorySink {
        steal_after: AtomicUsize::new(2),
        slow_left: AtomicUsize::new(8),
        ..MemorySink::default()
    };
    let sink = Arc::new(sink);
    run(MemorySource::new(), sink.clone()).await;
    assert_each_once(&sink);
    let epoch = sink.partitions.lock().expect("lock")[&1].0.epoch;
    assert_eq!(epoch, 3, "the first claim, the stolen one, and ours again");
}

/// Nobody survives.
struct Deadly;

impl crate::trial::Trial for Deadly {
    fn survives<'a>(&'a self, _: &'a Media) -> BoxFuture<'a, Result<bool, Fault>> {
        Box::pin(async { Ok(false) })
    }
}

/// Keeps deferred records like the real one; a lease ends at once, as if every taker died.
#[derive(Default)]
struct MemoryDeferred {
    waiting: Mutex<Vec<(i32, i64, &'static str)>>,
    /// Offset of a record that was taken often before.
    suspect: Option<i64>,
    settled: Mutex<Vec<(i32, i64, &'static str)>>,
    done: Notify,
}

impl crate::Deferred for MemoryDeferred {
    fn take(&self) -> BoxFuture<'_, Result<Vec<Taken>, Fault>> {
        let mut waiting = self.waiting.lock().expect("lock");
        let taken = waiting.drain(..).map(|(partition, offset, text)| {
            let (rest, _) = envelope(partition, offset).split();
            let envelope = rest.join(Some(Ok::<_, Rejection>(Payload::Inline(Bytes::from(text)))));
            Taken { envelope, suspect: self.suspect == Some(offset) }
        });
        let taken: Vec<_> = taken.collect();
        Box::pin(async { Ok(taken) })
    }

    fn settle<'a>(&'a self, e: &'a Envelope<Inferred>) -> BoxFuture<'a, Result<Option<Outcome>, Fault>> {
        let mut settled = self.settled.lock().expect("lock");
        settled.push((e.origin().partition, e.origin().offset, outcome(&e.body)));
        if settled.len() == 4 {
            self.done.notify_one();
        }
        Box::pin(async { Ok(Some(Outcome::Result)) })
    }

    fn waiting(&self) -> BoxFuture<'_, Result<(u64, f64), Fault>> {
        Box::pin(async { Ok((0, 0.0)) })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn deferred_records_come_back_beside_the_line_whatever_becomes_of_them() {
    let deferred = Arc::new(MemoryDeferred { suspect: Some(3), ..MemoryDeferred::default() });
    // Again and again the same partitions with offsets that do not rise, as the waits have it.
    deferred.waiting.lock().expect("lock").extend([(0, 7, "good"), (0, 9, "bad/50"), (1, 3, "good")]);
    let source = Arc::new(MemorySource::default());
    let device =
        Device::start(2, &[vec![Box::new(FakeModel::default())]], LaneRules::default()).expect("starts");
    let pipeline = Pipeline {
        deferred: Some(deferred.clone()),
        trial: Some(Arc::new(Deadly)),
        ..pipeline(source, Arc::default(), &device)
    };
    let stats = pipeline.stats();
    let (stop_tx, stop_rx) = tokio::sync::oneshot::channel::<()>();
    let running = tokio::spawn(pipeline.run(stats, async { drop(stop_rx.await) }));
    loop {
        tokio::task::yield_now().await;
        if deferred.settled.lock().expect("lock").len() == 3 {
            break;
        }
    }
    deferred.waiting.lock().expect("lock").push((0, 2, "good"));
    tokio::time::timeout(Duration::from_secs(60), deferred.done.notified()).await.expect("comes back");
    drop(stop_tx);
    running.await.expect("joins").expect("no fault");
    let mut settled = deferred.settled.lock().expect("lock").clone();
    settled.sort_unstable();
    assert_eq!(settled, [(0, 2, "result"), (0, 7, "result"), (0, 9, "panic"), (1, 3, "killed")]);
}
