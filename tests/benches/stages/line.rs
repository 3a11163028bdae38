//! What a record costs beside its preparation, inference and writing: parsing, and the whole line between ends in memory with a stage and a
//! model that do nothing.

use crate::allocations;
use bytes::Bytes;
use criterion::{Criterion, Throughput};
use spawn_core::{
    Assignment, Batch, Body, BoxFuture, CheckpointDelta, Claim, Claimed, Embedding, Envelope, Event, Fault,
    Features, Inference, Inferred, ItemId, Job, Media, MediaFacts, Modality, Model, ModelSpec, Origin,
    Payload, Pooling, Prepared, Record, Refusal, Rejection, Sink, Source, Stage, Written,
};
use spawn_engine::{
    Budget, Crew, Device, FailureLimits, Fetch, Lane, LaneRules, Limits, Pipeline, Room, UnitLimits,
};
use spawn_kafka::job::{Raw, parse};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Notify;

const RECORDS: u64 = 10_000;
/// Bytes of a record's value.
const PAYLOAD: usize = 10_000;
/// Records that one poll brings.
const POLLED: usize = 100;
const DIMENSION: usize = 384;

pub(crate) fn bench(criterion: &mut Criterion) {
    parsing(criterion);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let mut group = criterion.benchmark_group("line");
    let mut run = || runtime.block_on(whole());
    allocations::tell("line/whole", RECORDS, PAYLOAD as u64, &mut run);
    group.throughput(Throughput::Elements(RECORDS));
    group.bench_function("whole", |bencher| bencher.iter(&mut run));
    group.finish();
}

fn parsing(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("parse");
    let text = |text: &str| Bytes::copy_from_slice(text.as_bytes());
    let headers: Vec<(String, Bytes)> = [
        ("ce_specversion", "1.0"),
        ("ce_id", "17"),
        ("ce_source", "bench"),
        ("ce_type", "bench.item"),
        ("content-type", "image/jpeg"),
    ]
    .map(|(name, value)| (name.into(), text(value)))
    .into();
    let inline = Bytes::from(vec![7; 100_000]);
    let job = text(
        r#"{"id": "17", "uri": "file:///data/17.jpg", "media_type": "image/jpeg", "metadata": {"album": "lakes"}}"#,
    );
    for (name, value, headers) in [("inline-100kb", &inline, &headers[..]), ("job", &job, &[])] {
        let mut run = || {
            let (_, body) = parse(Raw { topic: "bench", key: None, value: Some(value), headers });
            assert!(matches!(body, Body::Work(_)), "{body:?}");
        };
        allocations::tell(&format!("parse/{name}"), 1, value.len() as u64, &mut run);
        group.throughput(Throughput::Elements(1));
        group.bench_function(name, |bencher| bencher.iter(&mut run));
    }
    group.finish();
}

async fn whole() {
    let device = Device::start(1, &[vec![Box::new(Nothing(spec()))]], LaneRules::default()).expect("starts");
    let unit = UnitLimits {
        records_max: 256,
        chunks_max: 1024,
        cost_max: usize::MAX,
        bytes_max: 64 << 20,
        linger: Duration::from_millis(20),
    };
    let pipeline = Pipeline {
        name: "bench".into(),
        source: Arc::new(Memory::new()),
        fetch: Arc::new(Inline),
        stage: Box::new(Untouched),
        crew: Crew::new(2, 0.1).expect("starts"),
        device: device.handle(),
        model: spec(),
        sink: Arc::new(Accepting),
        deferred: None,
        raw: Budget::new("raw", 256 << 20).share(0, 0),
        decoded: Budget::new("decoded", 256 << 20).share(0, 0),
        lane: Lane::Live,
        trial: None,
        limits: Limits {
            fetch_window: 256,
            unit,
            failures: FailureLimits::default(),
            drain_max: Duration::from_secs(5),
            p95_max: None,
            reuse_within: None,
            stuck_after: Duration::from_secs(30),
        },
    };
    let stats = pipeline.stats();
    let summary = pipeline.run(stats, std::future::pending()).await.expect("no fault");
    assert_eq!(summary.outcomes, [RECORDS, 0, 0, 0]);
}

fn spec() -> ModelSpec {
    ModelSpec {
        name: "nothing".into(),
        version: "0".into(),
        modality: Modality::Text,
        dimension: DIMENSION,
        dtype: "f32".into(),
        device: "cpu".into(),
        pooling: Pooling::None,
        chunks_max: 32,
        padded_cost_max: 1 << 20,
        call_cost: 1 << 10,
    }
}

/// Gives all records at once, and ends when they are written.
struct Memory {
    events: Mutex<VecDeque<Event>>,
    news: Notify,
}

impl Memory {
    fn new() -> Self {
        Self {
            events: Mutex::new([Event::Assigned(vec![Assignment::new(0, 0)])].into()),
            news: Notify::new(),
        }
    }

    fn push(&self, event: Event) {
        self.events.lock().expect("lock").push_back(event);
        self.news.notify_one();
    }
}

impl Source for Memory {
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
        let value = Bytes::from(vec![7; PAYLOAD]);
        for Claimed { claim, .. } in claimed {
            let all: Vec<i64> = (0..RECORDS as i64).collect();
            for polled in all.chunks(POLLED) {
                let records = polled.iter().map(|offset| record(claim, *offset, &value)).collect();
                self.push(Event::Records(records));
            }
        }
        Box::pin(async { Ok(()) })
    }

    fn reclaim(&self, _: Vec<i32>) -> BoxFuture<'_, Result<(), Fault>> {
        Box::pin(async { Ok(()) })
    }

    fn commit(&self, delta: &CheckpointDelta) {
        if delta.values().any(|span| span.to == RECORDS as i64) {
            self.push(Event::End);
        }
    }

    fn stop(&self) {
        self.push(Event::End);
    }
}

fn record(claim: Claim, offset: i64, value: &Bytes) -> Envelope<Payload> {
    let record = Record {
        origin: Origin { topic: "bench".into(), partition: 0, offset },
        claim,
        ordinal: offset as u64 + 1,
        key: None,
        value: Some(value.clone()),
        headers: Vec::new(),
        timestamp_ms: 0,
    };
    let id = offset.to_string();
    let job = Job {
        id: ItemId::of_event("bench", &id),
        event_id: Some(id),
        source: "bench".into(),
        source_uri: None,
        media_type: None,
        metadata: serde_json::Map::new(),
    };
    Envelope::new(record, job, Body::Work(Payload::Inline(value.clone())))
}

struct Inline;

impl Fetch for Inline {
    fn size_expected(&self, _: &Payload) -> usize {
        PAYLOAD
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

/// One empty chunk.
struct Untouched;

impl Stage for Untouched {
    fn spec(&self) -> &str {
        "untouched/1"
    }

    fn footprint(&self, _: &Media) -> Result<usize, Rejection> {
        Ok(1)
    }

    fn process(&mut self, _: &Media) -> Result<Prepared, Rejection> {
        Ok(Prepared { chunks: vec![Features { arrays: Vec::new() }], facts: MediaFacts::default() })
    }

    fn fork(&self) -> Box<dyn Stage> {
        Box::new(Self)
    }
}

#[derive(Clone)]
struct Nothing(ModelSpec);

impl Model for Nothing {
    fn spec(&self) -> &ModelSpec {
        &self.0
    }

    fn infer(&mut self, chunks: &[&Features]) -> Result<Vec<Inference>, Fault> {
        let embedding = || Embedding::try_new(vec![0.5; DIMENSION], DIMENSION).ok();
        Ok(chunks.iter().map(|_| Inference { embedding: embedding(), labels: Vec::new() }).collect())
    }

    fn control(&mut self) -> Result<(), Fault> {
        Ok(())
    }

    fn fork(&self) -> Box<dyn Model> {
        Box::new(self.clone())
    }
}

/// Takes everything.
struct Accepting;

impl Sink for Accepting {
    fn claim(&self, wanted: Vec<Assignment>) -> BoxFuture<'_, Result<Vec<Claimed>, Fault>> {
        let claim = Claim { epoch: 1, token: 1 };
        let claimed = wanted
            .iter()
            .map(|a| Claimed { partition: a.partition, claim, position: a.first_offset })
            .collect();
        Box::pin(async { Ok(claimed) })
    }

    fn write<'a>(&'a self, batch: &'a Batch<Inferred>) -> BoxFuture<'a, Result<Written, Fault>> {
        let results = batch.envelopes.iter().filter(|e| matches!(e.body, Body::Work(_))).count() as u64;
        Box::pin(async move { Ok(Written { outcomes: [results, 0, 0, 0], ..Written::default() }) })
    }
}
