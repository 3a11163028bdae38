//! `spawn worker`

use crate::cli::Worker;
use crate::config::{Pipeline, Settings};
use crate::exit::{Code, Failure, OrExit, Outcome};
use crate::line::{Running, Runtime};
use crate::output::Output;
use crate::relay::Relay;
use spawn_engine::Stats;
use spawn_postgres::Store;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// Time for clients to close after the line has ended.
const LEAVE_MAX: Duration = Duration::from_millis(700);

pub(super) async fn run(args: Worker, settings: Settings, out: Output) -> Outcome {
    let pipelines = chosen(&settings, &args.pipeline)?;
    spawn_postgres::migrate(&settings.postgres.url).await.or_exit(Code::Unavailable)?;
    ensure_topics(&settings, &pipelines).await?;
    let runtime = Runtime::load(settings.clone(), &pipelines)?;
    let mut running = Running::start(&runtime, &pipelines).await?;
    out.note(format_args!(
        "worker reads {}",
        pipelines.iter().map(|p| p.topic.as_str()).collect::<Vec<_>>().join(", ")
    ));
    let probes = super::api::serve_probes(&settings, &running.stats).await?;
    let relay = Relay::start(&settings, super::store(&settings).await?).or_exit(Code::Unavailable)?;
    let at_end = at_end(args.exit_at_end, settings.clone(), pipelines.clone(), running.stats.clone());
    let mut all_read = false;
    let ended = tokio::select! {
        () = super::interrupted() => None,
        () = at_end => {
            all_read = true;
            None
        }
        ended = running.ended() => ended,
    };
    drop(probes);
    if let Some(ended) = ended {
        // Fail fast: one line that cannot go on ends the process, and whoever supervises it starts it again from the checkpoint.
        let (name, _) = ended?;
        return Err(Failure::new(Code::Internal, format!("pipeline {name} ended by itself")));
    }
    leave_in_time(Duration::from_secs(settings.line.drain_seconds), running.stats.clone());
    let mut settled = true;
    for (name, summary) in running.finish().await? {
        settled &= summary.drained;
        let [results, rejected, skipped, deferred] = summary.outcomes;
        out.note(format_args!(
            "{name}: {results} results, {rejected} rejected, {skipped} skipped, {deferred} deferred"
        ));
    }
    if let Some(relay) = relay {
        relay.stop(all_read).await;
    }
    settled.then_some(()).ok_or_else(unsettled)
}

fn unsettled() -> Failure {
    Failure::new(
        Code::Unsettled,
        "stopped before everything in the line was written (line.drain_seconds); nothing is lost, the next owner reads it again",
    )
}

/// Ends the process soon after the line's own deadline, on a thread that depends on nothing: a client that hangs while it closes, or a
/// runtime that waits for it, must not keep us longer.
fn leave_in_time(drain_max: Duration, stats: Vec<Arc<Stats>>) {
    let watch = move || {
        std::thread::sleep(drain_max + LEAVE_MAX);
        let code = match stats.iter().all(|s| s.drained.load(Relaxed)) {
            true => 0,
            false => {
                tracing::error!("{:#}", unsettled().error);
                Code::Unsettled as u8
            }
        };
        crate::exit::leave(code)
    };
    if let Err(error) = std::thread::Builder::new().name("drain".into()).spawn(watch) {
        tracing::warn!(%error, "cannot watch over the end");
    }
}

/// The pipelines with these names, or all.
pub(super) fn chosen(settings: &Settings, names: &[String]) -> Outcome<Vec<Pipeline>> {
    if names.is_empty() {
        return Ok(settings.pipeline.clone());
    }
    names
        .iter()
        .map(|name| {
            settings.pipeline(name).cloned().ok_or_else(|| {
                let known: Vec<&str> = settings.pipeline.iter().map(|p| p.name.as_str()).collect();
                Failure::new(Code::Usage, format!("no pipeline `{name}`; there are {}", known.join(", ")))
            })
        })
        .collect()
}

/// Creates the topics that are missing.
pub(super) async fn ensure_topics(settings: &Settings, pipelines: &[Pipeline]) -> Outcome {
    let kafka = &settings.kafka;
    let topics: Vec<String> = pipelines.iter().map(|p| p.topic.clone()).collect();
    spawn_kafka::ensure_topics(
        &kafka.brokers,
        &kafka.properties,
        &topics,
        kafka.partitions,
        kafka.replication,
    )
    .await
    .or_exit(Code::Unavailable)
}

/// Completes once every pipeline has settled what its topic held when asked, and nothing has moved for a while.
async fn at_end(wanted: bool, settings: Settings, pipelines: Vec<Pipeline>, stats: Vec<Arc<Stats>>) {
    if !wanted {
        return std::future::pending().await;
    }
    let store = loop {
        match super::store(&settings).await {
            Ok(store) => break store,
            Err(_) => tokio::time::sleep(Duration::from_secs(1)).await,
        }
    };
    loop {
        tokio::time::sleep(Duration::from_millis(250)).await;
        let mut done = true;
        for pipeline in &pipelines {
            done &= caught_up(&settings, &store, pipeline).await.unwrap_or(false);
        }
        if done && stats.iter().all(|s| s.in_flight.load(Relaxed) == 0) {
            return;
        }
    }
}

/// Whether the stored checkpoints of a pipeline have reached the end of its topic.
async fn caught_up(settings: &Settings, store: &Store, pipeline: &Pipeline) -> Outcome<bool> {
    let kafka = &settings.kafka;
    let ends = spawn_kafka::end_offsets(&kafka.brokers, &kafka.properties, &pipeline.topic)
        .await
        .or_exit(Code::Unavailable)?;
    let positions = store.positions(&pipeline.name, &pipeline.topic).await.or_exit(Code::Unavailable)?;
    Ok(ends.iter().all(|(partition, end)| *end == 0 || positions.get(partition).is_some_and(|p| p >= end)))
}
