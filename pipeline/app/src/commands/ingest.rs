//! `spawn ingest`

use super::submit::topics;
use super::worker::ensure_topics;
use crate::cli::Ingest;
use crate::config::Settings;
use crate::exit::{Code, Failure, OrExit, Outcome};
use crate::output::{Output, bar};
use serde_json::json;
use spawn_jobs::{IngestError, IngestOptions, Progress, ingest};
use spawn_kafka::{Producer, ProducerConfig};

pub(super) async fn run(args: Ingest, settings: Settings, out: Output) -> Outcome {
    if !args.dry_run {
        ensure_topics(&settings, &settings.pipeline).await?;
    }
    let producer = Producer::new(ProducerConfig::new(&settings.kafka.brokers, &settings.kafka.properties))
        .or_exit(Code::Unavailable)?;
    let options = IngestOptions {
        path: args.path,
        topics: topics(&settings)?,
        file_roots: crate::config::file_roots(&settings),
        modality: args.modality,
        limit: args.limit,
        dry_run: args.dry_run,
    };
    let bars = out.bars();
    let line = bar(&bars, "ingest", options.limit.unwrap_or(0));
    let progress = |p: &Progress| {
        line.set_length(options_length(p, args.limit));
        line.set_position(p.sent);
    };
    let report = ingest(options, &producer, progress).await.map_err(|error| match &error {
        IngestError::Input(_) => Failure::new(Code::Data, error),
        IngestError::Kafka(_) => Failure::new(Code::Unavailable, error),
    })?;
    line.finish_and_clear();
    let p = &report.progress;
    if out.json {
        out.json(
            "ingest",
            json!({"seen": p.seen, "sent": p.sent, "skipped": p.skipped, "failed": p.failed, "bytes": p.bytes,
                   "by_modality": report.by_modality, "failures": report.failures, "dry_run": args.dry_run}),
        );
    } else {
        let verb = if args.dry_run { "would be sent" } else { "sent" };
        out.line(format_args!(
            "{} of {} items {verb}, {} skipped, {} failed",
            p.sent, p.seen, p.skipped, p.failed
        ));
        report
            .failures
            .iter()
            .for_each(|(number, detail)| out.line(format_args!("  item {number}: {detail}")));
    }
    match p.failed {
        0 => Ok(()),
        failed => Err(Failure::new(Code::Data, format!("{failed} items were not sent"))),
    }
}

/// The end is not known before it is reached: the bar shows what was seen.
fn options_length(progress: &Progress, limit: Option<u64>) -> u64 {
    limit.unwrap_or(progress.seen).max(progress.sent)
}
