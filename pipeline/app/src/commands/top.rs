//! `spawn top`: every stage of a running worker, and which one sets the pace.

use crate::cli::Top;
use crate::config::Settings;
use crate::exit::Outcome;
use crate::output::Output;
use crate::scrape::{Labels, Snapshot};
use serde::Serialize;
use spawn_engine::bottleneck::{SOURCE, Shares, bottleneck};
use std::collections::BTreeMap;
use std::time::Duration;

/// The verbs in the order of the flow.
const STAGES: [&str; 7] = ["intake", "fetch", "admit", "prepare", "batch", "infer", "write"];

#[derive(Serialize)]
struct View {
    worker: String,
    pipelines: Vec<PipelineView>,
    /// Pool -> bytes in use and bytes in all.
    memory: BTreeMap<&'static str, [u64; 2]>,
    resident_bytes: u64,
    /// Code -> records rejected or deferred since the worker's start, of all pipelines.
    errors: BTreeMap<String, u64>,
}

#[derive(Serialize)]
struct PipelineView {
    pipeline: String,
    topic: Option<String>,
    paused: bool,
    items_per_second: f64,
    /// Outcome -> records since the worker's start.
    items: BTreeMap<String, u64>,
    polled_bytes: u64,
    bytes_per_second: f64,
    lag_records: u64,
    oldest_seconds: f64,
    p50_seconds: Option<f64>,
    p99_seconds: Option<f64>,
    batch_items: Option<f64>,
    padding_ratio: Option<f64>,
    /// The thread that reads the topic, before all stages.
    poll: [f64; 3],
    stages: Vec<StageView>,
    bottleneck: Option<Bottleneck>,
    /// Code -> records rejected or deferred since the worker's start.
    errors: BTreeMap<String, u64>,
}

#[derive(Serialize)]
struct StageView {
    stage: &'static str,
    items_per_second: f64,
    busy_ratio: f64,
    starved_ratio: f64,
    blocked_ratio: f64,
    queue_items: u64,
    queue_capacity: u64,
    p50_seconds: Option<f64>,
    p99_seconds: Option<f64>,
    stuck: bool,
}

/// The verb that sets the pace, and what would move it.
#[derive(Serialize)]
struct Bottleneck {
    stage: String,
    moves: String,
}

pub(super) async fn run(args: Top, settings: Settings, out: Output) -> Outcome {
    let address = args.worker.unwrap_or_else(|| settings.metrics.listen.replace("0.0.0.0", "127.0.0.1"));
    let topics: BTreeMap<&str, &str> =
        settings.pipeline.iter().map(|p| (p.name.as_str(), p.topic.as_str())).collect();
    let mut earlier = Snapshot::default();
    loop {
        let now = Snapshot::take(&address).await?;
        let view = view(&address, &topics, &now, &earlier);
        if out.json {
            out.json("top", &view);
        } else if args.once {
            out.line(text(&view).trim_end());
        } else {
            // Home, and nothing left of what was there.
            out.line(format_args!("\x1b[H\x1b[2J{}(Ctrl-C ends)", text(&view)));
        }
        if args.once {
            return Ok(());
        }
        earlier = now;
        tokio::time::sleep(Duration::from_secs_f64(args.interval.max(0.1))).await;
    }
}

fn view(address: &str, topics: &BTreeMap<&str, &str>, now: &Snapshot, earlier: &Snapshot) -> View {
    let pools = ["raw", "decoded"].map(|pool| {
        let of = |name| now.max(name, &[("pool", pool)]) as u64;
        (pool, [of("spawn_inflight_bytes"), of("spawn_inflight_limit_bytes")])
    });
    let names = now.by("spawn_stage_busy_ratio", "pipeline", &[]).into_keys();
    let memory = BTreeMap::from(pools);
    View {
        worker: address.to_owned(),
        pipelines: names.map(|name| pipeline(name, topics, now, earlier, &memory)).collect(),
        memory,
        resident_bytes: now.sum("process_resident_memory_bytes", &[]) as u64,
        errors: counts(now.by("spawn_rejections_total", "code", &[])),
    }
}

fn counts(values: BTreeMap<String, f64>) -> BTreeMap<String, u64> {
    values.into_iter().map(|(key, value)| (key, value as u64)).collect()
}

fn pipeline(
    name: String,
    topics: &BTreeMap<&str, &str>,
    now: &Snapshot,
    earlier: &Snapshot,
    memory: &BTreeMap<&'static str, [u64; 2]>,
) -> PipelineView {
    let own: Labels<'_> = &[("pipeline", &name)];
    let topic = topics.get(name.as_str()).map(|topic| (*topic).to_owned());
    let of_topic = |metric: &str| topic.as_deref().map_or(0.0, |topic| now.sum(metric, &[("topic", topic)]));
    let end_to_end = |q| now.quantile("spawn_item_end_to_end_seconds", own, q, earlier);
    let stages: Vec<StageView> = STAGES.iter().map(|stage| stage_view(stage, &name, now, earlier)).collect();
    let shares: Vec<Shares<'_>> = stages
        .iter()
        .map(|s| Shares {
            stage: s.stage,
            busy: s.busy_ratio,
            starved: s.starved_ratio,
            blocked: s.blocked_ratio,
        })
        .collect();
    let lag = of_topic("spawn_kafka_lag_records");
    let mut view = PipelineView {
        topic: topic.clone(),
        paused: now.sum("spawn_pipeline_paused", own) > 0.0,
        items_per_second: stages.last().map_or(0.0, |write| write.items_per_second),
        items: counts(now.by("spawn_items_total", "outcome", own)),
        polled_bytes: of_topic("spawn_kafka_polled_bytes_total") as u64,
        bytes_per_second: of_topic("spawn_kafka_polled_bytes_per_second"),
        lag_records: lag as u64,
        oldest_seconds: of_topic("spawn_oldest_unprocessed_seconds"),
        p50_seconds: end_to_end(0.5),
        p99_seconds: end_to_end(0.99),
        batch_items: now.mean("spawn_batch_items", own, earlier),
        padding_ratio: now.mean("spawn_batch_padding_ratio", own, earlier),
        poll: ["busy", "starved", "blocked"]
            .map(|share| of_topic(&format!("spawn_kafka_poll_{share}_ratio"))),
        errors: counts(now.by("spawn_rejections_total", "code", own)),
        bottleneck: None,
        stages: Vec::new(),
        pipeline: name.clone(),
    };
    view.bottleneck = bottleneck(&shares, lag).map(|stage| {
        let took = stages.iter().find(|s| s.stage == stage).and_then(|s| s.p50_seconds);
        Bottleneck { stage: stage.to_owned(), moves: moves(stage, took, &view, memory) }
    });
    view.stages = stages;
    view
}

fn stage_view(stage: &'static str, pipeline: &str, now: &Snapshot, earlier: &Snapshot) -> StageView {
    let own: Labels<'_> = &[("pipeline", pipeline), ("stage", stage)];
    let took = |q| now.quantile("spawn_stage_duration_seconds", own, q, earlier);
    StageView {
        stage,
        items_per_second: now.sum("spawn_stage_items_per_second", own),
        busy_ratio: now.sum("spawn_stage_busy_ratio", own),
        starved_ratio: now.sum("spawn_stage_starved_ratio", own),
        blocked_ratio: now.sum("spawn_stage_blocked_ratio", own),
        queue_items: now.sum("spawn_queue_items", own) as u64,
        queue_capacity: now.sum("spawn_queue_capacity_items", own) as u64,
        p50_seconds: took(0.5),
        p99_seconds: took(0.99),
        stuck: now.sum("spawn_stage_stuck", own) > 0.0,
    }
}

/// What an operator can do about a slow verb, with the figures that say so.
fn moves(
    stage: &str,
    took: Option<f64>,
    view: &PipelineView,
    memory: &BTreeMap<&'static str, [u64; 2]>,
) -> String {
    let took = took.map_or_else(|| "some time".into(), duration);
    let full = |pool: &str| memory.get(pool).is_some_and(|[used, limit]| *used as f64 > 0.9 * *limit as f64);
    let batch = view.batch_items.unwrap_or(0.0);
    match stage {
        SOURCE => "records wait in Kafka and the line starves: lane = \"bulk\" for larger fetches, or more workers, up to one a partition".into(),
        "intake" if full("raw") => "memory.raw_bytes is full: raise it, or send references instead of bytes".into(),
        "fetch" => format!("a payload takes {took}: raise line.fetch_window and fetch.per_host_concurrency, or bring the store of the originals closer"),
        "admit" | "intake" if full("decoded") => "memory.decoded_bytes is full: raise it, or lower the limits of the stage".into(),
        "prepare" => format!("a record takes {took} of a core: more cores or workers, or smaller originals"),
        "infer" => format!(
            "a call takes {took} (units of {batch:.0} records, {:.0} % padding): a faster device (models.device), more cores or workers, a smaller model",
            100.0 * view.padding_ratio.unwrap_or(0.0)
        ),
        "write" => format!("a transaction takes {took} for {batch:.0} records: raise line.unit_records, or give PostgreSQL a faster disk or a shorter way"),
        _ => "partitions are being claimed, or taking records in costs most: if it lasts, more workers".into(),
    }
}

fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 0.001 => format!("{:.0} us", s * 1e6),
        s if s < 1.0 => format!("{:.1} ms", s * 1e3),
        s => format!("{s:.1} s"),
    }
}

fn text(view: &View) -> String {
    let mut text = String::new();
    let mut line = |words: std::fmt::Arguments<'_>| {
        text += &words.to_string();
        text.push('\n');
    };
    let megabytes = |bytes: u64| bytes >> 20;
    let pools: Vec<String> = view
        .memory
        .iter()
        .map(|(pool, [used, limit])| format!("{pool} {} of {} MiB", megabytes(*used), megabytes(*limit)))
        .collect();
    line(format_args!(
        "worker {}   {}   resident {} MiB",
        view.worker,
        pools.join("   "),
        megabytes(view.resident_bytes)
    ));
    for p in &view.pipelines {
        let items: Vec<String> = p.items.iter().map(|(outcome, n)| format!("{outcome} {n}")).collect();
        let known = |seconds: Option<f64>| seconds.map_or_else(|| "-".into(), duration);
        line(format_args!(
            "\n{}{}   {:.1}/s   end to end p50 {} p99 {}   lag {} records, oldest {}   {}",
            p.pipeline,
            if p.paused { " (PAUSED)" } else { "" },
            p.items_per_second,
            known(p.p50_seconds),
            known(p.p99_seconds),
            p.lag_records,
            duration(p.oldest_seconds),
            items.join(", ")
        ));
        let of_units = |value: Option<f64>| value.map_or_else(|| "-".into(), |value| format!("{value:.0}"));
        line(format_args!(
            "  {:.1} MB/s read   units of {} records, {} % padding   {}",
            p.bytes_per_second / 1e6,
            of_units(p.batch_items),
            of_units(p.padding_ratio.map(|ratio| 100.0 * ratio)),
            match p.errors.is_empty() {
                true => "nothing rejected or deferred".into(),
                false =>
                    p.errors.iter().map(|(code, n)| format!("{code} {n}")).collect::<Vec<_>>().join(", "),
            }
        ));
        line(format_args!(
            "  {:<9}{:>9}{:>7}{:>9}{:>9}{:>9}{:>10}{:>10}",
            "stage", "items/s", "busy", "starved", "blocked", "queue", "p50", "p99"
        ));
        let [busy, starved, blocked] = p.poll.map(|share| 100.0 * share);
        line(format_args!("  {SOURCE:<9}{:>9}{busy:>6.0}%{starved:>8.0}%{blocked:>8.0}%", ""));
        for s in &p.stages {
            let queue = if s.queue_capacity > 0 {
                format!("{}/{}", s.queue_items, s.queue_capacity)
            } else {
                "-".into()
            };
            line(format_args!(
                "  {:<9}{:>9.1}{:>6.0}%{:>8.0}%{:>8.0}%{queue:>9}{:>10}{:>10}{}",
                s.stage,
                s.items_per_second,
                100.0 * s.busy_ratio,
                100.0 * s.starved_ratio,
                100.0 * s.blocked_ratio,
                known(s.p50_seconds),
                known(s.p99_seconds),
                if s.stuck { "  STUCK" } else { "" }
            ));
        }
        match &p.bottleneck {
            Some(Bottleneck { stage, moves }) => line(format_args!("  {stage} sets the pace: {moves}")),
            None => line(format_args!("  idle: nothing waits")),
        }
    }
    text
}
