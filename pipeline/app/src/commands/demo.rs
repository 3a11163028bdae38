//! `spawn demo`: the product's main job on real media, in front of your eyes.
//!
//! Photographs, speech and texts - some of them broken on purpose - go through the broker, three models and PostgreSQL; then the indexes are
//! built, the ledger is audited and each kind of media is found again by similarity.

use super::demo_report::{self, Sample};
use super::{index, interrupted, worker};
use crate::cli::Demo;
use crate::config::Settings;
use crate::exit::{Code, Failure, OrExit, Outcome};
use crate::line::{Running, Runtime};
use crate::output::{Output, bar};
use spawn_core::Modality;
use spawn_engine::Stats;
use spawn_jobs::message_for_file;
use spawn_kafka::{EmbeddedBroker, Producer, ProducerConfig};
use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Longest time without any progress before the demo says that something is wrong.
const STALL_MAX: Duration = Duration::from_secs(60);

pub(super) async fn run(args: Demo, mut settings: Settings, out: Output) -> Outcome {
    let started = Instant::now();
    let samples = samples(&args)?;
    if args.list_data {
        samples
            .iter()
            .for_each(|s| out.line(format_args!("{}  {}  {}", s.path.display(), s.package, s.licence)));
        return Ok(());
    }
    take_own_topics(&mut settings);
    let embedded = embed_broker(&args, &mut settings)?;
    find_free_port(&mut settings.api.listen, out);
    let root = args.data.canonicalize().or_exit(Code::Config)?;
    settings.fetch.file_roots = root.display().to_string();
    spawn_postgres::migrate(&settings.postgres.url).await.or_exit(Code::Unavailable)?;
    if embedded.is_none() {
        worker::ensure_topics(&settings, &settings.pipeline).await?;
    }
    out.note("loading and verifying the models");
    let runtime = Runtime::load(settings.clone(), &settings.pipeline)?;
    let mut running = Running::start(&runtime, &settings.pipeline).await?;
    let served = super::api::Served::start(&settings, Some(&runtime), &running.stats).await?;

    let line_started = Instant::now();
    let submitted = submit_and_watch(&samples, &settings, &runtime, &mut running, out).await?;
    let line_seconds = line_started.elapsed().as_secs_f64();
    let store = super::store(&settings).await?;
    for built in index::build(&store, None, out).await? {
        out.note(&built);
    }
    let report = demo_report::Report {
        broker: if embedded.is_some() { "embedded" } else { "kafka" },
        submitted,
        line_seconds,
        wall_seconds: started.elapsed().as_secs_f64(),
        api_url: served.url.clone(),
    };
    report.print(&settings, &runtime, &store, &running.stats, out).await?;

    if !args.exit && std::io::stdout().is_terminal() {
        out.note("serving until Ctrl-C");
        tokio::select! {
            () = interrupted() => {}
            ended = running.ended() => drop(ended.transpose()?),
        }
    }
    running.finish().await?;
    served.stop().await;
    drop(embedded);
    Ok(())
}

/// The demo's files, from the index that came with them.
fn samples(args: &Demo) -> Outcome<Vec<Sample>> {
    let samples = demo_report::read_index(&args.data)?;
    let mut taken: BTreeMap<Modality, usize> = BTreeMap::new();
    let limit = args.limit.unwrap_or(usize::MAX);
    Ok(samples
        .into_iter()
        .filter(|sample| {
            let taken = taken.entry(sample.modality).or_default();
            *taken += 1;
            *taken <= limit
        })
        .collect())
}

/// Something else may listen where the API would: then any free port of the same host will do, for a demo.
fn find_free_port(listen: &mut String, out: Output) {
    if let Err(error) = std::net::TcpListener::bind(listen.as_str())
        && error.kind() == std::io::ErrorKind::AddrInUse
        && let Some((host, _)) = listen.rsplit_once(':')
    {
        out.note(format_args!("{listen} is in use, so the API takes a free port"));
        *listen = format!("{host}:0");
    }
}

/// Topics and consumer groups that only this run has: records that wait in the usual ones, and workers that read those, are no part of
/// its account.
fn take_own_topics(settings: &mut Settings) {
    let run = &uuid::Uuid::new_v4().simple().to_string()[..8];
    for pipeline in &mut settings.pipeline {
        pipeline.topic = format!("{}.demo.{run}", pipeline.topic);
    }
    settings.kafka.group_prefix = format!("{}.demo.{run}", settings.kafka.group_prefix);
}

/// Starts the broker inside this process if wanted.
fn embed_broker(args: &Demo, settings: &mut Settings) -> Outcome<Option<EmbeddedBroker>> {
    if args.broker != "embedded" {
        return Ok(None);
    }
    let topics: Vec<String> = settings.pipeline.iter().map(|p| p.topic.clone()).collect();
    let broker = EmbeddedBroker::start(&topics, settings.kafka.partitions).or_exit(Code::Unavailable)?;
    settings.kafka.brokers = broker.brokers();
    Ok(Some(broker))
}

/// Sends every sample, shows the stages, and returns how many of each modality were sent, once all are settled.
async fn submit_and_watch(
    samples: &[Sample],
    settings: &Settings,
    runtime: &Runtime,
    running: &mut Running,
    out: Output,
) -> Outcome<BTreeMap<Modality, u64>> {
    let mut submitted: BTreeMap<Modality, u64> = BTreeMap::new();
    samples.iter().for_each(|s| *submitted.entry(s.modality).or_default() += 1);
    let producer = Producer::new(ProducerConfig::new(&settings.kafka.brokers, &settings.kafka.properties))
        .or_exit(Code::Unavailable)?;
    let topics: BTreeMap<Modality, String> =
        settings.pipeline.iter().filter_map(|p| Some((runtime.modality(p)?, p.topic.clone()))).collect();
    let wanted: Vec<(Arc<Stats>, u64)> = settings
        .pipeline
        .iter()
        .zip(&running.stats)
        .filter_map(|(p, stats)| Some((stats.clone(), *submitted.get(&runtime.modality(p)?)?)))
        .collect();
    let roots = crate::config::file_roots(settings);
    let sending = send_all(samples, &topics, &producer, &roots);
    let watching = watch(&wanted, out);
    tokio::select! {
        sent = async { tokio::try_join!(sending, watching) } => sent.map(|_| submitted),
        ended = running.ended() => {
            ended.transpose()?;
            Err(Failure::new(Code::Internal, "a pipeline ended by itself"))
        }
    }
}

async fn send_all(
    samples: &[Sample],
    topics: &BTreeMap<Modality, String>,
    producer: &Producer,
    roots: &[PathBuf],
) -> Outcome {
    let mut reports = futures::stream::FuturesUnordered::new();
    for sample in samples {
        let Some(topic) = topics.get(&sample.modality) else { continue };
        let message = message_for_file(&sample.path, sample.modality, topic, sample.metadata(), roots)
            .or_exit(Code::Data)?;
        reports.push(producer.send(message));
        while reports.len() >= 256 {
            futures::StreamExt::next(&mut reports).await.transpose().or_exit(Code::Unavailable)?;
        }
    }
    while let Some(report) = futures::StreamExt::next(&mut reports).await {
        report.or_exit(Code::Unavailable)?;
    }
    Ok(())
}

/// Shows progress per pipeline until everything is settled.
async fn watch(wanted: &[(Arc<Stats>, u64)], out: Output) -> Outcome {
    let bars = out.bars();
    let lines: Vec<_> = wanted.iter().map(|(stats, count)| bar(&bars, &stats.pipeline, *count)).collect();
    let mut moved = (0, Instant::now());
    loop {
        for ((stats, _), line) in wanted.iter().zip(&lines) {
            line.set_position(stats.settled());
            let stages = stats.meters.iter().map(|m| format!("{} {}", m.stage, m.read().items));
            line.set_message(stages.collect::<Vec<_>>().join(" > "));
        }
        let settled: u64 = wanted.iter().map(|(stats, _)| stats.settled()).sum();
        if wanted.iter().all(|(stats, count)| stats.settled() >= *count) {
            lines.iter().for_each(|line| line.finish_and_clear());
            return Ok(());
        }
        if settled > moved.0 {
            moved = (settled, Instant::now());
        } else if moved.1.elapsed() > STALL_MAX {
            return Err(Failure::new(
                Code::Unavailable,
                format!("no progress for {STALL_MAX:?} after {settled} records; see the log above"),
            ));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Whether a folder has the demo's data.
pub(super) fn has_data(folder: &Path) -> bool {
    folder.join("index.csv").is_file()
}
