//! Writes results with 384-d vectors as the line does, in units, and prints how fast that was as one JSON object. For benchmarks.
//!
//! `write_rows [--rows N] [--unit N]`, into the database of `DATABASE_URL`: an empty one, or one that it wrote to before, where it goes on. The
//! vectors are those of row numbers, so that a reader can check them: [`element`] of row and place.

#![allow(clippy::print_stdout, reason = "its output is for standard output")]

use spawn_core::{
    Assignment, Batch, Body, Claimed, ContentHash, Embedding, Envelope, Inference, Inferred, ItemId, Job,
    MediaFacts, Modality, Origin, PartitionSpan, Provenance, Record, Sink,
};
use spawn_postgres::{PgSink, PipelineIdentity, migrate};
use std::time::{Duration, Instant};

const DIMENSION: usize = 384;
/// Units made at once, outside the clock: all of some million rows do not fit into memory.
const UNITS_MADE: usize = 64;

/// -1 to 1, as good as random, so that no index has it easy; in 32-bit arithmetic that every language has.
fn element(row: u32, place: u32) -> f32 {
    let mixed = row.wrapping_mul(1_664_525).wrapping_add(place.wrapping_mul(1_013_904_223));
    let mixed = (mixed ^ (mixed >> 15)).wrapping_mul(2_246_822_519);
    (mixed ^ (mixed >> 13)) as f32 / 2_147_483_648.0 - 1.0
}

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
    let vector = (0..DIMENSION).map(|i| element(n as u32, i as u32)).collect();
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
        model_hash: "1".into(),
        preparation: "bench/1".into(),
        dtype: "f32".into(),
        dimension: DIMENSION,
    };
    let sink = PgSink::open(&url, identity).await.map_err(|fault| fault.to_string())?;
    let claimed = sink.claim(vec![Assignment::new(0, 0)]).await.map_err(|fault| fault.to_string())?[0];
    let mut units = (0..rows / records).map(|n| unit(&claimed, claimed.position + n * records, records));
    let mut took: Vec<Duration> = Vec::new();
    loop {
        let made: Vec<Batch<Inferred>> = units.by_ref().take(UNITS_MADE).collect();
        if made.is_empty() {
            break;
        }
        for unit in &made {
            let started = Instant::now();
            let written = sink.write(unit).await.map_err(|fault| fault.to_string())?;
            took.push(started.elapsed());
            if written.outcomes[0] != records as u64 {
                return Err(format!("{} of {records} results", written.outcomes[0]).into());
            }
        }
    }
    let rows = records * took.len() as i64;
    let seconds = |units: &[Duration]| units.iter().sum::<Duration>().as_secs_f64();
    let rate = |units: &[Duration]| (records as usize * units.len()) as f64 / seconds(units);
    let last_tenth = &took[took.len() - took.len().div_ceil(10)..];
    println!(
        "{}",
        serde_json::json!({"rows": rows, "unit": records, "seconds": seconds(&took), "rows_per_second": rate(&took),
            "last_tenth_rows_per_second": rate(last_tenth)})
    );
    Ok(())
}
