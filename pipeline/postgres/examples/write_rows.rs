//! Writes results with 384-d vectors as the line does, in units, and prints how fast that was as one JSON object. For benchmarks.
//!
//! `write_rows [--rows N] [--unit N]`, into the empty database of `DATABASE_URL`. The vectors are those of row numbers, so that a reader can
//! check them: element `i` of row `n` is `sin(0.37 i + n)`.

#![allow(clippy::print_stdout, reason = "its output is for standard output")]

use spawn_core::{
    Assignment, Batch, Body, Claimed, ContentHash, Embedding, Envelope, Inference, Inferred, ItemId, Job,
    MediaFacts, Modality, Origin, PartitionSpan, Provenance, Record, Sink,
};
use spawn_postgres::{PgSink, PipelineIdentity, migrate};
use std::time::Instant;

const DIMENSION: usize = 384;

fn unit(claimed: &Claimed, from: i64, records: i64) -> Batch<Inferred> {
    let envelopes = (from..from + records).map(|n| envelope(claimed, n)).collect();
    let span = PartitionSpan { from, to: from + records, claim: claimed.claim, records: records as u64 };
    Batch { envelopes, delta: [(claimed.partition, span)].into(), flushed: Vec::new() }
}

fn envelope(claimed: &Claimed, n: i64) -> Envelope<Inferred> {
    let id = format!("row-{n}");
    let record = Record {
        origin: Origin { topic: "jobs".into(), partition: claimed.partition, offset: n },
        claim: claimed.claim,
        ordinal: 0,
        key: None,
        value: Some(id.clone().into_bytes().into()),
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
    let vector = (0..DIMENSION).map(|i| (0.37 * i as f32 + n as f32).sin()).collect();
    let embedding = Embedding::try_new(vector, DIMENSION).ok();
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

fn option(name: &str, default: i64) -> Result<i64, String> {
    let mut arguments = std::env::args().skip_while(|a| a != name).skip(1);
    arguments.next().map_or(Ok(default), |text| text.parse().map_err(|e| format!("{name} {text}: {e}")))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (rows, records) = (option("--rows", 20_000)?, option("--unit", 256)?.max(1));
    let url = std::env::var("DATABASE_URL")?;
    migrate(&url).await.map_err(|fault| fault.to_string())?;
    let identity = PipelineIdentity {
        pipeline: "bench".into(),
        topic: "jobs".into(),
        collection: "bench".into(),
        modality: Modality::Text,
        model: "bench@1".into(),
        preparation: "bench/1".into(),
        dtype: "f32".into(),
        dimension: DIMENSION,
    };
    let sink = PgSink::open(&url, identity).await.map_err(|fault| fault.to_string())?;
    let claimed = sink.claim(vec![Assignment::new(0, 0)]).await.map_err(|fault| fault.to_string())?[0];
    let units: Vec<Batch<Inferred>> =
        (0..rows / records).map(|n| unit(&claimed, n * records, records)).collect();
    let started = Instant::now();
    for unit in &units {
        let written = sink.write(unit).await.map_err(|fault| fault.to_string())?;
        if written.outcomes[0] != records as u64 {
            return Err(format!("{} of {records} results", written.outcomes[0]).into());
        }
    }
    let (seconds, rows) = (started.elapsed().as_secs_f64(), records * (rows / records));
    println!(
        "{}",
        serde_json::json!({"rows": rows, "unit": records, "seconds": seconds, "rows_per_second": rows as f64 / seconds})
    );
    Ok(())
}
