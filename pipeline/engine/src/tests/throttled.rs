//! Each verb is slowed down in turn, and the line names it.

use super::{Inline, MemorySink, MemorySource, MemoryStage, assert_each_once, pipeline};
use crate::bottleneck::{Shares, bottleneck};
use crate::device::Device;
use crate::fetch::{Fetch, Room};
use crate::infer::tests::FakeModel;
use crate::{Budget, LaneRules, Limits, Pipeline};
use spawn_core::*;
use std::sync::Arc;
use std::time::Duration;

/// Whichever verb this names takes so long for a record.
#[derive(Clone, Copy, PartialEq)]
enum Slow {
    Fetch,
    Prepare,
    Infer,
    Write,
    /// Room for one record's decoded bytes.
    Admit,
    /// Room for one record's raw bytes.
    Intake,
}

impl Slow {
    /// Where memory is short it is that which makes the others wait: together they take long, each of them works for a part of the time.
    fn slows(self, verb: Self) -> bool {
        self == verb || matches!(self, Self::Admit | Self::Intake)
    }
}

const RECORD: Duration = Duration::from_millis(4);

struct SlowFetch;

impl Fetch for SlowFetch {
    fn size_expected(&self, _: &Payload) -> usize {
        100
    }
    fn fetch<'a>(
        &'a self,
        payload: Payload,
        hint: Option<String>,
        room: &'a mut Room<'_>,
    ) -> BoxFuture<'a, Result<Media, Refusal>> {
        Box::pin(async move {
            tokio::time::sleep(RECORD).await;
            Inline.fetch(payload, hint, room).await
        })
    }
}

struct SlowStage;

impl Stage for SlowStage {
    fn spec(&self) -> &str {
        MemoryStage.spec()
    }
    fn footprint(&self, media: &Media) -> Result<usize, Rejection> {
        MemoryStage.footprint(media)
    }
    fn process(&mut self, media: &Media) -> Result<Prepared, Rejection> {
        std::thread::sleep(RECORD);
        MemoryStage.process(media)
    }
    fn fork(&self) -> Box<dyn Stage> {
        Box::new(Self)
    }
}

#[derive(Clone, Default)]
struct SlowModel(FakeModel);

impl Model for SlowModel {
    fn spec(&self) -> &ModelSpec {
        self.0.spec()
    }
    fn infer(&mut self, chunks: &[&Features]) -> Result<Vec<Inference>, Fault> {
        std::thread::sleep(RECORD * chunks.len() as u32);
        self.0.infer(chunks)
    }
    fn control(&mut self) -> Result<(), Fault> {
        self.0.control()
    }
    fn fork(&self) -> Box<dyn Model> {
        Box::new(self.clone())
    }
}

struct SlowSink(Arc<MemorySink>);

impl Sink for SlowSink {
    fn claim(&self, wanted: Vec<Assignment>) -> BoxFuture<'_, Result<Vec<Claimed>, Fault>> {
        self.0.claim(wanted)
    }
    fn write<'a>(&'a self, batch: &'a Batch<Inferred>) -> BoxFuture<'a, Result<Written, Fault>> {
        Box::pin(async move {
            tokio::time::sleep(RECORD * batch.envelopes.len() as u32).await;
            self.0.write(batch).await
        })
    }
}

async fn named(slow: Slow) -> Option<String> {
    let sink = Arc::new(MemorySink::default());
    let model: Box<dyn Model> = match slow.slows(Slow::Infer) {
        true => Box::<SlowModel>::default(),
        false => Box::new(FakeModel::default()),
    };
    let device = Device::start(1, &[vec![model]], LaneRules::default()).expect("starts");
    let line = pipeline(MemorySource::new(), sink.clone(), &device);
    let limits = Limits { fetch_window: 1, ..line.limits };
    let mut line = Pipeline { limits, ..line };
    if slow.slows(Slow::Fetch) {
        line.fetch = Arc::new(SlowFetch);
    }
    if slow.slows(Slow::Prepare) {
        line.stage = Box::new(SlowStage);
    }
    if slow.slows(Slow::Write) {
        line.sink = Arc::new(SlowSink(sink.clone()));
    }
    match slow {
        Slow::Admit => line.decoded = Budget::new("decoded", 1).share(0, 0),
        Slow::Intake => line.raw = Budget::new("raw", 1).share(0, 0),
        _ => {}
    }
    let stats = line.stats();
    let run = line.run(stats, std::future::pending());
    let summary = tokio::time::timeout(Duration::from_secs(60), run).await.expect("ends").expect("no fault");
    assert_each_once(&sink);
    let shares: Vec<Shares<'_>> = summary
        .stages
        .iter()
        .map(|(stage, reading)| {
            let [busy, starved, blocked] = reading.ratios();
            Shares { stage, busy, starved, blocked }
        })
        .collect();
    bottleneck(&shares, 1.0).map(str::to_owned)
}

#[tokio::test(flavor = "multi_thread")]
async fn whichever_verb_is_slow_is_named() {
    let slow = [
        (Slow::Intake, "intake"),
        (Slow::Fetch, "fetch"),
        (Slow::Admit, "admit"),
        (Slow::Prepare, "prepare"),
        (Slow::Infer, "infer"),
        (Slow::Write, "write"),
    ];
    // Side by side: they sleep.
    let named = futures::future::join_all(slow.map(|(slow, _)| named(slow))).await;
    for (named, (_, name)) in named.into_iter().zip(slow) {
        assert_eq!(named.as_deref(), Some(name));
    }
}
