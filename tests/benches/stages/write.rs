//! Units of results with 384-d vectors into PostgreSQL, by size: one transaction each, with ledger, span, key, result and vector.

use crate::allocations;
use criterion::{Criterion, Throughput};
use spawn_core::{
    Assignment, Batch, Body, Claimed, ContentHash, Embedding, Envelope, Inference, Inferred, ItemId, Job,
    MediaFacts, Modality, Origin, PartitionSpan, Provenance, Record, Sink,
};
use spawn_postgres::{PgSink, PipelineIdentity, migrate};
use std::time::{Duration, Instant};

const DIMENSION: usize = 384;

pub(crate) fn bench(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let url = std::env::var("DATABASE_URL").expect("DATABASE_URL");
    let pipeline = format!("bench-{}", std::process::id());
    let identity = PipelineIdentity {
        pipeline: pipeline.clone(),
        topic: "bench".into(),
        collection: pipeline,
        modality: Modality::Text,
        model: "bench@1".into(),
        model_hash: "1".into(),
        preparation: "bench/1".into(),
        dtype: "f32".into(),
        dimension: DIMENSION,
    };
    let (sink, claimed) = runtime.block_on(async {
        migrate(&url).await.expect("migrates");
        let sink = PgSink::open(&url, identity).await.expect("opens");
        let claimed = sink.claim(vec![Assignment::new(0, 0)]).await.expect("claims")[0];
        (sink, claimed)
    });
    // What the test itself allocates, to be taken off.
    allocations::tell("write/made", 256, 4 * DIMENSION as u64, || drop(unit(&claimed, 0, 256)));
    let mut next = 0;
    let mut write = |records: i64, times: u64| -> Duration {
        let mut took = Duration::ZERO;
        for _ in 0..times {
            let unit = unit(&claimed, next, records);
            next += records;
            let started = Instant::now();
            let written = runtime.block_on(sink.write(&unit)).expect("no fault");
            took += started.elapsed();
            assert_eq!(written.outcomes[0], records as u64);
        }
        took
    };
    let mut group = criterion.benchmark_group("write");
    for records in [1, 8, 64, 256, 1024] {
        let name = format!("unit-{records}");
        allocations::tell(&format!("write/{name}"), records as u64, 4 * DIMENSION as u64, || {
            _ = write(records, 1)
        });
        group.throughput(Throughput::Elements(records as u64));
        group.bench_function(&name, |bencher| bencher.iter_custom(|times| write(records, times)));
    }
    group.finish();
}

fn unit(claimed: &Claimed, from: i64, records: i64) -> Batch<Inferred> {
    let envelopes = (from..from + records).map(|n| envelope(claimed, n)).collect();
    let span = PartitionSpan { from, to: from + records, claim: claimed.claim, records: records as u64 };
    Batch { envelopes, delta: [(claimed.partition, span)].into(), flushed: Vec::new() }
}

fn envelope(claimed: &Claimed, n: i64) -> Envelope<Inferred> {
    let id = n.to_string();
    let record = Record {
        origin: Origin { topic: "bench".into(), partition: claimed.partition, offset: n },
        claim: claimed.claim,
        ordinal: 0,
        key: None,
        value: None,
        headers: Vec::new(),
        timestamp_ms: 0,
    };
    let job = Job {
        id: ItemId::of_event("bench", &id),
        event_id: Some(id.clone()),
        source: "bench".into(),
        source_uri: None,
        media_type: None,
        metadata: serde_json::Map::new(),
    };
    let embedding = Embedding::try_new(vec![(n as f32).sin(); DIMENSION], DIMENSION).ok();
    let made = Inferred {
        chunks: vec![Inference { embedding, labels: Vec::new() }],
        pooled: None,
        facts: MediaFacts { media_type: "text/plain".into(), ..MediaFacts::default() },
        provenance: Provenance {
            content: ContentHash::of(id.as_bytes()),
            preparation: "bench/1".into(),
            model: "bench@1".into(),
            dtype: "f32".into(),
        },
    };
    Envelope::new(record, job, Body::Work(made))
}
