//! `spawn submit`

use super::worker::ensure_topics;
use crate::cli::Submit;
use crate::config::Settings;
use crate::embedder::modality_of;
use crate::exit::{Code, Failure, OrExit, Outcome};
use crate::output::Output;
use crate::registry;
use serde_json::{Map, json};
use spawn_core::Modality;
use spawn_jobs::{Item, Origin, message_for_item};
use spawn_kafka::{Producer, ProducerConfig};
use spawn_postgres::{LetterName, Store};
use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use std::time::{Duration, Instant};

pub(super) async fn run(args: Submit, settings: Settings, out: Output) -> Outcome {
    let topics = topics(&settings)?;
    ensure_topics(&settings, &settings.pipeline).await?;
    let producer = Producer::new(ProducerConfig::new(&settings.kafka.brokers, &settings.kafka.properties))
        .or_exit(Code::Unavailable)?;
    let roots = crate::config::file_roots(&settings);
    let mut sent = Vec::new();
    for path in &args.paths {
        let (item, modality) = item(path, args.modality, settings.fetch.payload_bytes_max)?;
        let missing = || Failure::new(Code::Config, format!("no [[pipeline]] has a model for {modality}"));
        let topic = topics.get(&modality).ok_or_else(missing)?;
        let (id, message) = message_for_item(&item, modality, topic, &roots).or_exit(Code::Data)?;
        let place = match args.dry_run {
            true => None,
            false => Some(producer.send(message).await.or_exit(Code::Unavailable)?),
        };
        let (partition, offset) = place.unzip();
        if out.json {
            out.json(
                "submit",
                json!({"id": id, "path": path, "modality": modality, "topic": topic, "partition": partition, "offset": offset, "dry_run": args.dry_run}),
            );
        } else {
            out.line(format_args!("{id}  {modality}  {}", path.display()));
        }
        sent.extend(place.map(|(partition, offset)| Sent { id, topic: topic.clone(), partition, offset }));
    }
    match args.wait {
        Some(seconds) if !args.dry_run => wait(&super::store(&settings).await?, sent, seconds, out).await,
        _ => Ok(()),
    }
}

/// The topic of the first pipeline of each modality.
pub(super) fn topics(settings: &Settings) -> Outcome<BTreeMap<Modality, String>> {
    let mut topics = BTreeMap::new();
    for pipeline in &settings.pipeline {
        let (manifest, _) = registry::manifest(settings, &pipeline.model)?;
        topics.entry(manifest.modality).or_insert_with(|| pipeline.topic.clone());
    }
    Ok(topics)
}

fn item(path: &Path, modality: Option<Modality>, bytes_max: usize) -> Outcome<(Item, Modality)> {
    if path == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().take(bytes_max as u64).read_to_string(&mut text).or_exit(Code::Data)?;
        let item =
            Item { origin: Origin::Text(text), modality, media_type: None, id: None, metadata: Map::new() };
        return match modality.unwrap_or(Modality::Text) {
            Modality::Text => Ok((item, Modality::Text)),
            other => {
                Err(Failure::new(Code::Usage, format!("stdin is read as text; submit {other} as a file")))
            }
        };
    }
    let head = std::fs::File::open(path).and_then(|file| {
        let mut head = Vec::new();
        file.take(512).read_to_end(&mut head).map(|_| head)
    });
    let head = head.map_err(|e| Failure::new(Code::Data, format!("{}: {e}", path.display())))?;
    let modality = modality.map_or_else(|| modality_of(path, &head), Ok)?;
    let origin = Origin::File(path.to_owned());
    Ok((
        Item { origin, modality: Some(modality), media_type: None, id: None, metadata: Map::new() },
        modality,
    ))
}

/// What was sent, and where it lies.
struct Sent {
    id: String,
    topic: String,
    partition: i32,
    offset: i64,
}

impl Sent {
    /// Why it was rejected, once it was.
    async fn rejected(&self, store: &Store) -> Outcome<Option<String>> {
        let name =
            LetterName::Origin { topic: self.topic.clone(), partition: self.partition, offset: self.offset };
        let numbers = store.letter_numbers(&name).await.or_exit(Code::Unavailable)?;
        let Some(number) = numbers.first() else { return Ok(None) };
        let letter = store.letter(*number).await.or_exit(Code::Unavailable)?;
        Ok(letter.map(|letter| format!("{}: {}", letter.row.code, letter.row.detail)))
    }
}

/// Until each has a result or was rejected, or time is up.
async fn wait(store: &Store, mut sent: Vec<Sent>, seconds: f64, out: Output) -> Outcome {
    let deadline = Instant::now() + Duration::from_secs_f64(seconds.max(0.0));
    let (all, mut rejected) = (sent.len(), 0);
    while Instant::now() < deadline && !sent.is_empty() {
        let mut open = Vec::new();
        for one in sent {
            if store.result(&one.id).await.or_exit(Code::Unavailable)?.is_some() {
                out.note(format_args!("{} has a result", one.id));
            } else if let Some(why) = one.rejected(store).await? {
                rejected += 1;
                out.note(format_args!("{} was rejected: {why}", one.id));
            } else {
                open.push(one);
            }
        }
        sent = open;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let failed = |detail: String| Err(Failure::new(Code::Data, detail));
    match (sent.len(), rejected) {
        (0, 0) => Ok(()),
        (0, n) => failed(format!("{n} of {all} were rejected; `spawn dlq ls` has hints")),
        (n, _) => failed(format!("{n} of them have no result yet: is a worker running? `spawn audit` tells")),
    }
}
