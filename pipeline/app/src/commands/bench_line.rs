//! `spawn bench line`: the whole line against the bound that its stages set.
//!
//! On cores that all stages share, the line can do no more than `cores / (CPU seconds per item, summed over the stages)`. The CPU time of each stage is
//! measured in the run itself; what is neither preparation nor inference (Kafka, batches, writing, the runtime) is one stage, `rest`. So the
//! share tells how much of the cores' time the line could not use, waiting; whether a stage wastes CPU time is told by its seconds per item,
//! against the stage's own benchmark. `alone_items_per_second` is what the cores could do of one stage, by its CPU time.

use crate::cli::BenchLine;
use crate::config::Settings;
use crate::exit::{Code, Failure, OrExit, Outcome};
use crate::line::{Running, Runtime};
use crate::output::Output;
use serde_json::{Map, Value, json};
use spawn_core::Modality;
use spawn_engine::meter::process_cpu;
use spawn_jobs::{Item, Origin, message_for_item};
use spawn_kafka::{Producer, ProducerConfig};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Fewer are over before the line is warm.
const RECORDS_MIN: usize = 200;
/// Longest run.
const RUN_MAX: Duration = Duration::from_secs(600);

pub(super) async fn run(args: BenchLine, mut settings: Settings, out: Output) -> Outcome {
    if args.records < RECORDS_MIN {
        return Err(Failure::new(
            Code::Usage,
            format!("--records: at least {RECORDS_MIN}, fewer say nothing"),
        ));
    }
    let files = files(&args)?;
    let run = &uuid::Uuid::new_v4().simple().to_string()[..8];
    let pipeline = settings
        .pipeline
        .iter()
        .find(|p| {
            super::probe::stage_of(args.modality, &settings).is_ok()
                && model_is(&settings, &p.model, args.modality)
        })
        .cloned();
    let mut pipeline =
        pipeline.ok_or_else(|| Failure::new(Code::Config, format!("no pipeline for {}", args.modality)))?;
    // A topic and a collection of its own: the same items are no duplicates of an earlier run.
    pipeline.name = format!("bench-{run}");
    pipeline.topic = format!("spawn.bench.{run}");
    pipeline.collection = format!("bench-{run}");
    settings.pipeline = vec![pipeline.clone()];
    settings.fetch.file_roots = args.data.canonicalize().or_exit(Code::Config)?.display().to_string();
    spawn_postgres::migrate(&settings.postgres.url).await.or_exit(Code::Unavailable)?;
    super::worker::ensure_topics(&settings, &settings.pipeline).await?;
    produce(&args, &files, &settings, &pipeline.topic).await?;

    let runtime = Runtime::load(settings.clone(), &settings.pipeline)?;
    let running = Running::start(&runtime, &settings.pipeline).await?;
    let stats = running.stats[0].clone();
    let deadline = Instant::now() + RUN_MAX;
    // The first fifth warms caches, pools and the model's memory; it does not count.
    let warm = args.records as u64 / 5;
    wait(|| stats.settled() >= warm, deadline).await?;
    let (begun, cpu_before, settled_before) = (Instant::now(), process_cpu(), stats.settled());
    let meters_before: Vec<_> = stats.meters.iter().map(|m| m.read()).collect();
    // The last tenth drains with empty stages in front; it does not count either.
    let until = args.records as u64 * 9 / 10;
    wait(|| stats.settled() >= until, deadline).await?;
    let (seconds, cpu) = (begun.elapsed().as_secs_f64(), (process_cpu() - cpu_before).as_secs_f64());
    let items = (stats.settled() - settled_before) as f64;
    let meters: Vec<_> =
        stats.meters.iter().zip(&meters_before).map(|(m, b)| (m.stage, m.read().since(b))).collect();
    wait(|| stats.settled() >= args.records as u64, deadline).await?;
    let [results, rejected, skipped, deferred] = stats.read_outcomes();
    running.finish().await?;
    let store = super::store(&settings).await?;
    let audited = store.audit().await.or_exit(Code::Unavailable)?.ok;
    store.forget_trial(&pipeline.collection).await.or_exit(Code::Unavailable)?;
    let kafka = &settings.kafka;
    spawn_kafka::delete_topic(&kafka.brokers, &kafka.properties, &pipeline.topic)
        .await
        .or_exit(Code::Unavailable)?;

    let cores = spawn_torch::cores_granted();
    let spent =
        |stage: &str| meters.iter().find(|(s, _)| *s == stage).map_or(0.0, |(_, r)| r.cpu.as_secs_f64());
    let (prepare, infer) = (spent("prepare"), spent("infer"));
    let stages: Vec<Value> = [("prepare", prepare), ("infer", infer), ("rest", (cpu - prepare - infer).max(0.0))]
        .iter()
        .map(|(stage, cpu)| {
            let per_item = cpu / items;
            json!({"stage": stage, "cpu_seconds_per_item": per_item, "alone_items_per_second": cores as f64 / per_item})
        })
        .collect();
    let waits = meters.iter().map(|(stage, reading)| {
        let [busy, starved, blocked] = reading.ratios();
        json!({"stage": stage, "busy_ratio": busy, "starved_ratio": starved, "blocked_ratio": blocked})
    });
    let waits: Vec<Value> = waits.collect();
    let bound = cores as f64 / (cpu / items);
    let rate = items / seconds;
    let value = json!({
        "modality": args.modality, "records": args.records, "cores": cores, "line_items_per_second": rate, "stages": stages, "waits": waits,
        "results": results, "rejected": rejected, "skipped": skipped, "deferred": deferred, "audit": {"ok": audited},
        "bound_items_per_second": bound, "share": rate / bound, "peak_rss_bytes": crate::telemetry::peak_rss_bytes(),
    });
    if out.json {
        out.json("bench.line", &value);
    } else {
        out.line(format_args!(
            "{rate:.1} items/s of at most {bound:.1} on {cores} cores: {:.0} %",
            100.0 * rate / bound
        ));
        stages.iter().chain(&waits).for_each(|stage| out.line(stage));
    }
    Ok(())
}

fn model_is(settings: &Settings, model: &str, modality: Modality) -> bool {
    crate::registry::manifest(settings, model).is_ok_and(|(manifest, _)| manifest.modality == modality)
}

fn files(args: &BenchLine) -> Outcome<Vec<PathBuf>> {
    let samples = super::demo_report::read_index(&args.data)?;
    let good = samples
        .into_iter()
        .filter(|s| s.modality == args.modality && !s.path.components().any(|c| c.as_os_str() == "broken"));
    let files: Vec<PathBuf> = good.map(|s| s.path).collect();
    match files.is_empty() {
        true => Err(Failure::new(Code::Config, format!("no {} in {}", args.modality, args.data.display()))),
        false => Ok(files),
    }
}

/// The files round and round, each time under another id.
async fn produce(args: &BenchLine, files: &[PathBuf], settings: &Settings, topic: &str) -> Outcome {
    let producer = Producer::new(ProducerConfig::new(&settings.kafka.brokers, &settings.kafka.properties))
        .or_exit(Code::Unavailable)?;
    let mut reports = futures::stream::FuturesUnordered::new();
    for i in 0..args.records {
        let item = Item {
            origin: Origin::File(files[i % files.len()].clone()),
            modality: Some(args.modality),
            media_type: None,
            id: Some(i.to_string()),
            metadata: Map::new(),
        };
        let (_, message) = message_for_item(&item, args.modality, topic, std::slice::from_ref(&args.data))
            .or_exit(Code::Data)?;
        reports.push(producer.send(message));
        while reports.len() >= 64 {
            futures::StreamExt::next(&mut reports).await.transpose().or_exit(Code::Unavailable)?;
        }
    }
    while let Some(report) = futures::StreamExt::next(&mut reports).await {
        report.or_exit(Code::Unavailable)?;
    }
    Ok(())
}

async fn wait(done: impl Fn() -> bool, deadline: Instant) -> Outcome {
    while !done() {
        if Instant::now() > deadline {
            return Err(Failure::new(Code::Unavailable, "the run took too long; see the log"));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}
