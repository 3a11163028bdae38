//! `spawn pipelines`: list them, let them stand still and go on, and decide about readings what no worker can.

use crate::cli::{AcceptGap, AdoptTopic, PipelinePause, PipelineResume, Pipelines};
use crate::config::Settings;
use crate::exit::{Code, Failure, OrExit, Outcome};
use crate::output::Output;
use serde_json::json;
use spawn_core::FaultClass;
use spawn_postgres::{PipelineRow, Reading, Store, StoreError, WrittenOff};
use std::collections::BTreeMap;

pub(super) async fn run(args: Pipelines, settings: Settings, out: Output) -> Outcome {
    match args {
        Pipelines::Ls => list(&super::store(&settings).await?, out).await,
        Pipelines::Pause(args) => pause(&super::store(&settings).await?, &args, out).await,
        Pipelines::Resume(args) => resume(&super::store(&settings).await?, &args, out).await,
        Pipelines::AcceptGap(args) => accept_gap(args, settings, out).await,
        Pipelines::AdoptTopic(args) => adopt_topic(args, settings, out).await,
    }
}

async fn list(store: &Store, out: Output) -> Outcome {
    let pipelines = store.pipelines().await.or_exit(Code::Unavailable)?;
    if out.json {
        out.json("pipelines", json!({ "pipelines": pipelines }));
        return Ok(());
    }
    for row in &pipelines {
        let PipelineRow { pipeline, topic, partitions, deferred, .. } = row;
        out.line(format_args!("{pipeline:<12} {topic:<32} {partitions} partitions, {deferred} deferred"));
        if row.paused {
            let since = row.paused_at.as_deref().unwrap_or("an unknown time");
            let end = match row.resumes_by_itself {
                true => "goes on by itself once a probe passes",
                false => "until `spawn pipelines resume`",
            };
            out.line(format_args!(
                "    PAUSED since {since}, {end}: {}",
                row.paused_reason.as_deref().unwrap_or("no reason given")
            ));
        }
    }
    Ok(())
}

async fn pause(store: &Store, args: &PipelinePause, out: Output) -> Outcome {
    known(store, &args.name).await?;
    if !args.dry_run {
        store.pause_pipeline(&args.name, &args.reason).await.or_exit(Code::Unavailable)?;
    }
    told(out, &args.name, "paused", args.dry_run);
    Ok(())
}

async fn resume(store: &Store, args: &PipelineResume, out: Output) -> Outcome {
    known(store, &args.name).await?;
    if !args.dry_run {
        store.resume_pipeline(&args.name).await.or_exit(Code::Unavailable)?;
    }
    told(out, &args.name, "resumed", args.dry_run);
    Ok(())
}

async fn known(store: &Store, name: &str) -> Outcome {
    let pipelines = store.pipelines().await.or_exit(Code::Unavailable)?;
    if pipelines.iter().any(|p| p.pipeline == name) {
        return Ok(());
    }
    let names: Vec<&str> = pipelines.iter().map(|p| p.pipeline.as_str()).collect();
    let names = if names.is_empty() {
        "none has run here yet".into()
    } else {
        format!("there are {}", names.join(", "))
    };
    Err(Failure::new(Code::Usage, format!("no pipeline `{name}`: {names}")))
}

fn told(out: Output, name: &str, done: &str, dry_run: bool) {
    if out.json {
        out.json("pipelines", json!({ "pipeline": name, "done": done, "dry_run": dry_run }));
    } else {
        out.line(format_args!("{name} {}{done}", if dry_run { "would be " } else { "" }));
    }
}

async fn accept_gap(args: AcceptGap, settings: Settings, out: Output) -> Outcome {
    let topic = topic(&settings, &args.pipeline, args.topic)?;
    let found = Found::ask(&settings, &topic).await?;
    let Some((low, _)) = found.watermarks.get(&args.partition) else {
        return Err(Failure::new(
            Code::Data,
            format!("topic {topic} has no partition {}; see `spawn audit`", args.partition),
        ));
    };
    let reading = Reading { pipeline: &args.pipeline, topic: &topic, topic_id: found.topic_id.as_deref() };
    let store = super::store(&settings).await?;
    let gap = store
        .accept_gap(reading, (args.partition, *low), args.dry_run)
        .await
        .map_err(|e| failure(e, reading))?;
    tell(out, "accept-gap", args.dry_run, reading, &[gap]);
    Ok(())
}

async fn adopt_topic(args: AdoptTopic, settings: Settings, out: Output) -> Outcome {
    let topic = topic(&settings, &args.pipeline, args.topic)?;
    let found = Found::ask(&settings, &topic).await?;
    let reading = Reading { pipeline: &args.pipeline, topic: &topic, topic_id: found.topic_id.as_deref() };
    let ends: Vec<(i32, i64)> = found.watermarks.iter().map(|(p, (_, high))| (*p, *high)).collect();
    let store = super::store(&settings).await?;
    let adopted = store.adopt_topic(reading, &ends, args.dry_run).await.map_err(|e| failure(e, reading))?;
    out.note(format_args!(
        "topic {topic}: id {} before, {} now",
        adopted.topic_id_before.as_deref().unwrap_or("unknown"),
        found.topic_id.as_deref().unwrap_or("unknown"),
    ));
    tell(out, "adopt-topic", args.dry_run, reading, &adopted.written_off);
    Ok(())
}

/// The topic that was named, or the one that the configuration gives the pipeline.
fn topic(settings: &Settings, pipeline: &str, named: Option<String>) -> Outcome<String> {
    let configured = || settings.pipeline(pipeline).map(|p| p.topic.clone());
    let unknown = || format!("the configuration has no pipeline `{pipeline}`: name its topic with --topic");
    named.or_else(configured).ok_or_else(|| Failure::new(Code::Usage, unknown()))
}

/// What the brokers say of the topic now.
struct Found {
    topic_id: Option<String>,
    watermarks: BTreeMap<i32, (i64, i64)>,
}

impl Found {
    async fn ask(settings: &Settings, topic: &str) -> Outcome<Self> {
        let kafka = &settings.kafka;
        Ok(Self {
            topic_id: spawn_kafka::topic_id(&kafka.brokers, &kafka.properties, topic)
                .await
                .or_exit(Code::Unavailable)?,
            watermarks: spawn_kafka::watermarks(&kafka.brokers, &kafka.properties, topic)
                .await
                .or_exit(Code::Unavailable)?,
        })
    }
}

fn failure(error: StoreError, reading: Reading<'_>) -> Failure {
    let code = match &error {
        StoreError::Fault(fault) if fault.class == FaultClass::Operator => Code::Data,
        _ => Code::Unavailable,
    };
    Failure::new(code, format!("pipeline {} and topic {}: {error}", reading.pipeline, reading.topic))
}

fn tell(out: Output, decision: &str, dry_run: bool, reading: Reading<'_>, written_off: &[WrittenOff]) {
    let Reading { pipeline, topic, .. } = reading;
    if out.json {
        let value = json!({"decision": decision, "dry_run": dry_run, "pipeline": pipeline, "topic": topic, "written_off": written_off});
        return out.json("pipelines", value);
    }
    let verb = if dry_run { "would write off" } else { "wrote off" };
    for WrittenOff { partition, from, to } in written_off {
        let to = to.map_or("the end of the old topic".to_owned(), |to| to.to_string());
        out.line(format_args!("{verb} {pipeline} {topic} partition {partition}: from {from} to {to}"));
    }
    if !dry_run {
        out.note("start the worker again; `spawn audit` lists the gap");
    }
}
