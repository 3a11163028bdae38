//! `spawn explain`: where a result comes from, and whether the same media, preparation and model still make the same vectors.

use super::embed::embedder;
use crate::cli::Explain;
use crate::config::Settings;
use crate::embedder::Refused;
use crate::exit::{Code, Failure, OrExit, Outcome};
use crate::fetching::fetcher;
use crate::output::Output;
use serde::Serialize;
use serde_json::json;
use spawn_core::{Body, Inferred, Media, Payload, Refusal};
use spawn_kafka::job::{Raw, parse};
use spawn_postgres::{ResultRow, Store, as_stored};
use std::time::{Duration, Instant};

/// Chunk number of the vector that stands for a whole item.
const POOLED: i32 = -1;

/// Where the bytes of a result are.
#[derive(Serialize)]
struct Bytes {
    /// Whether Kafka still has the record.
    in_kafka: bool,
    /// `inline`: the value is the media; `reference`: it names it; none where the record is gone.
    form: Option<&'static str>,
    /// Where the media lies, when it came by reference, or the name that the producer gave it. Without credentials.
    uri: Option<String>,
}

/// A stored vector and the one made now.
#[derive(Serialize)]
struct Compared {
    /// Chunk number; -1 is the pooled one.
    chunk: i32,
    /// After rounding the new one to 16-bit floats, as the stored one was. None where one of the two is missing.
    cosine: Option<f64>,
    /// Whether all elements are equal.
    identical: bool,
}

/// What running it again came to.
#[derive(Serialize)]
struct Rerun {
    chunks: Vec<Compared>,
    cosine_min: Option<f64>,
    fetch_ms: f64,
    prepare_ms: f64,
    infer_ms: f64,
}

/// Why it was not run again.
#[derive(Debug, Serialize)]
struct NotRun {
    code: String,
    detail: String,
}

fn not_run(code: &str, detail: impl std::fmt::Display) -> NotRun {
    NotRun { code: code.to_owned(), detail: detail.to_string() }
}

pub(super) async fn run(args: Explain, settings: Settings, out: Output) -> Outcome {
    let store = super::store(&settings).await?;
    let missing = || {
        let text = format!(
            "no result has the id {}: it may have been rejected (`spawn dlq ls`), be deferred (`spawn pipelines ls`) or not be read yet (`spawn audit`)",
            args.id
        );
        Failure::new(Code::Data, text)
    };
    let found = store.result_of(&args.id, args.generation).await.map_err(super::asked)?;
    let result = found.ok_or_else(missing)?;
    let (bytes, payload) = bytes(&result, &settings).await?;
    let rerun = match args.no_rerun {
        true => None,
        false => Some(again(&result, payload, &store, &settings).await?),
    };
    match out.json {
        true => print_json(&result, &bytes, rerun.as_ref(), out),
        false => print(&result, &bytes, rerun.as_ref(), out),
    }
    match rerun {
        Some(Err(not_run)) => Err(Failure::new(Code::Data, format!("{}: {}", not_run.code, not_run.detail))),
        _ => Ok(()),
    }
}

/// Where the bytes are, and what can be fetched: the record's own payload, or else the URI that was stored.
async fn bytes(
    result: &ResultRow,
    settings: &Settings,
) -> Outcome<(Bytes, Option<(Payload, Option<String>)>)> {
    let origin = &result.origin;
    let record =
        spawn_kafka::record_at(&super::cluster(settings), &origin.topic, origin.partition, origin.offset)
            .await
            .or_exit(Code::Unavailable)?;
    let uri = result.source_uri.clone();
    let Some(record) = record else {
        let reference = uri.clone().filter(|uri| uri.contains("://"));
        let payload = reference.map(|uri| (Payload::Reference(uri), None));
        return Ok((Bytes { in_kafka: false, form: None, uri }, payload));
    };
    let raw = Raw {
        topic: &origin.topic,
        key: record.key.as_ref(),
        value: record.value.as_ref(),
        headers: &record.headers,
    };
    let (job, body) = parse(raw);
    let payload = match body {
        Body::Work(payload) => Some((payload, job.media_type)),
        _ => None,
    };
    let form = payload.as_ref().map(|(payload, _)| match payload {
        Payload::Inline(_) => "inline",
        Payload::Reference(_) => "reference",
    });
    Ok((Bytes { in_kafka: true, form, uri }, payload))
}

/// Fetches, prepares and infers once more; refuses where what it would compare is not the same.
async fn again(
    result: &ResultRow,
    payload: Option<(Payload, Option<String>)>,
    store: &Store,
    settings: &Settings,
) -> Outcome<Result<Rerun, NotRun>> {
    let Some((payload, hint)) = payload else {
        let detail = "Kafka no longer has the record, and no URI of its media is known";
        return Ok(Err(not_run("media.gone", detail)));
    };
    let started = Instant::now();
    let media = match fetcher(settings)?.fetch(payload, hint, &mut spawn_fetch::Unbounded).await {
        Ok(media) => media,
        Err(Refusal::Reject(r) | Refusal::Defer(r)) => {
            return Ok(Err(not_run("media.gone", format!("{}: {}", r.code, r.detail))));
        }
    };
    let fetch_ms = milliseconds(started.elapsed());
    if media.content.to_string() != result.content_hash {
        let detail = format!("the media's hash was {} and is {} now", result.content_hash, media.content);
        return Ok(Err(not_run("content.differs", detail)));
    }
    let (inferred, [prepare_ms, infer_ms]) = match infer(result, media, settings).await? {
        Ok(done) => done,
        Err(not_run) => return Ok(Err(not_run)),
    };
    let stored = store.vectors_of(&result.id, result.generation).await.map_err(super::asked)?;
    let chunks = compare(&stored, &inferred);
    let cosine_min = chunks.iter().map(|c| c.cosine).collect::<Option<Vec<_>>>();
    let cosine_min = cosine_min.and_then(|all| all.into_iter().reduce(f64::min));
    Ok(Ok(Rerun { chunks, cosine_min, fetch_ms, prepare_ms, infer_ms }))
}

/// With the loaded model, if it is the one that made the result; and the milliseconds that it took once it was loaded.
async fn infer(
    result: &ResultRow,
    media: Media,
    settings: &Settings,
) -> Outcome<Result<(Inferred, [f64; 2]), NotRun>> {
    let (_runtime, embedder) = embedder(settings, &[result.modality])?;
    let Some(spec) = embedder.spec(result.modality) else {
        return Err(Failure::new(
            Code::Config,
            format!("no [[pipeline]] has a model for {}", result.modality),
        ));
    };
    if *spec.id() != *result.model {
        let detail =
            format!("{} made it, {} is loaded: point models.dir to the former", result.model, spec.id());
        return Ok(Err(not_run("model.differs", detail)));
    }
    let (inferred, took) = match embedder.embed_timed(result.modality, media.bytes, media.hint).await {
        Ok(done) => done,
        Err(Refused::Media(rejection)) => return Ok(Err(not_run(&rejection.code, rejection.detail))),
        Err(Refused::System(detail)) => return Err(Failure::new(Code::Unavailable, detail)),
    };
    let now = &inferred.provenance;
    for (what, stored, now) in
        [("preparation", &result.preparation, &now.preparation), ("dtype", &result.dtype, &now.dtype)]
    {
        if stored.as_str() != &**now {
            return Ok(Err(not_run(
                &format!("{what}.differs"),
                format!("it was `{stored}` and is `{now}` now"),
            )));
        }
    }
    Ok(Ok((inferred, took.map(milliseconds))))
}

fn compare(stored: &[(i32, Vec<f32>)], inferred: &Inferred) -> Vec<Compared> {
    let chunks = inferred.chunks.iter().enumerate().map(|(i, c)| (i as i32, c.embedding.as_ref()));
    let pooled = inferred.pooled.iter().map(|e| (POOLED, Some(e)));
    let made: Vec<(i32, Vec<f32>)> =
        chunks.chain(pooled).filter_map(|(chunk, e)| Some((chunk, as_stored(e?.as_slice())))).collect();
    let mut numbers: Vec<i32> = stored.iter().chain(&made).map(|(chunk, _)| *chunk).collect();
    numbers.sort_unstable();
    numbers.dedup();
    let of =
        |all: &'_ [(i32, Vec<f32>)], chunk| all.iter().find(|(c, _)| *c == chunk).map(|(_, v)| v.clone());
    numbers
        .into_iter()
        .map(|chunk| match (of(stored, chunk), of(&made, chunk)) {
            (Some(old), Some(new)) => {
                Compared { chunk, cosine: Some(cosine(&old, &new)), identical: old == new }
            }
            _ => Compared { chunk, cosine: None, identical: false },
        })
        .collect()
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
    let norms = (dot(a, a) * dot(b, b)).sqrt();
    if norms > 0.0 { dot(a, b) / norms } else { 0.0 }
}

fn milliseconds(took: Duration) -> f64 {
    (took.as_secs_f64() * 1e6).round() / 1e3
}

fn print_json(result: &ResultRow, bytes: &Bytes, rerun: Option<&Result<Rerun, NotRun>>, out: Output) {
    let (rerun, not_run) = match rerun {
        Some(Ok(rerun)) => (Some(rerun), None),
        Some(Err(not_run)) => (None, Some(not_run)),
        None => (None, None),
    };
    out.json("explain", json!({"result": result, "bytes": bytes, "rerun": rerun, "not_run": not_run}));
}

fn print(result: &ResultRow, bytes: &Bytes, rerun: Option<&Result<Rerun, NotRun>>, out: Output) {
    let origin = &result.origin;
    let place = match (bytes.in_kafka, bytes.form) {
        (true, Some("inline")) => "in the Kafka record itself".to_owned(),
        (true, _) => format!("named by the Kafka record: {}", bytes.uri.as_deref().unwrap_or("-")),
        (false, _) => {
            format!("Kafka no longer has the record; {}", bytes.uri.as_deref().unwrap_or("no URI known"))
        }
    };
    for (name, value) in [
        ("origin", format!("{}/{}@{}", origin.topic, origin.partition, origin.offset)),
        ("event", format!("{} of {}", result.event_id.as_deref().unwrap_or("no id"), result.source)),
        ("content", result.content_hash.clone()),
        ("bytes", place),
        ("preparation", result.preparation.clone()),
        ("model", result.model.clone()),
        ("dtype", result.dtype.clone()),
        ("generation", format!("{} ({}, {})", result.generation, result.collection, result.modality)),
        ("written", result.created_at.clone()),
    ] {
        out.line(format_args!("{name:<12} {value}"));
    }
    let Some(Ok(rerun)) = rerun else { return };
    for c in &rerun.chunks {
        let name = if c.chunk == POOLED { "pooled".to_owned() } else { format!("chunk {}", c.chunk) };
        let verdict = match (c.cosine, c.identical) {
            (_, true) => "identical".to_owned(),
            (Some(cosine), _) => format!("cosine {cosine:.9}"),
            (None, _) => "only one of the two runs has it".to_owned(),
        };
        out.line(format_args!("{name:<12} {verdict}"));
    }
    out.line(format_args!(
        "{:<12} fetch {} ms, prepare {} ms, infer {} ms",
        "time", rerun.fetch_ms, rerun.prepare_ms, rerun.infer_ms
    ));
}
