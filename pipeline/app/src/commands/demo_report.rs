//! What the demo shows at its end, as text and as JSON.

use crate::config::Settings;
use crate::exit::{Code, Failure, OrExit, Outcome};
use crate::line::Runtime;
use crate::output::Output;
use crate::telemetry::peak_rss_bytes;
use anyhow::Context;
use serde_json::{Map, Value, json};
use spawn_core::Modality;
use spawn_engine::Stats;
use spawn_postgres::{ResultFilter, SearchFilter, Store};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// One file of the demo.
pub(super) struct Sample {
    pub(super) path: PathBuf,
    pub(super) modality: Modality,
    pub(super) package: String,
    pub(super) licence: String,
    speaker: String,
}

impl Sample {
    /// What travels with the record and is stored beside the result.
    pub(super) fn metadata(&self) -> Map<String, Value> {
        let mut metadata = Map::new();
        metadata.insert("source_package".into(), self.package.clone().into());
        if !self.speaker.is_empty() {
            metadata.insert("speaker".into(), self.speaker.clone().into());
        }
        metadata
    }
}

/// Reads `index.csv`: path, modality, source_package, licence, speaker. Fields hold no commas or quotes by construction.
pub(super) fn read_index(folder: &Path) -> Outcome<Vec<Sample>> {
    if !super::demo::has_data(folder) {
        let detail = format!(
            "no demo data in {}: run `make demo`, or `setup/install data` and pass --data",
            folder.display()
        );
        return Err(Failure::new(Code::Config, detail));
    }
    let folder = folder.canonicalize()?;
    let text = std::fs::read_to_string(folder.join("index.csv")).context("cannot read index.csv")?;
    text.lines()
        .skip(1)
        .enumerate()
        .map(|(i, line)| {
            let fields: Vec<&str> = line.split(',').collect();
            let [path, modality, package, licence, rest @ ..] = fields.as_slice() else {
                return Err(Failure::new(
                    Code::Data,
                    format!("index.csv line {}: five fields wanted", i + 2),
                ));
            };
            Ok(Sample {
                path: folder.join(path),
                modality: modality.parse().map_err(|e| Failure::new(Code::Data, e))?,
                package: (*package).to_owned(),
                licence: (*licence).to_owned(),
                speaker: rest.first().map_or("", |s| s).to_owned(),
            })
        })
        .collect()
}

/// What only the run itself knows.
pub(super) struct Report {
    pub(super) broker: &'static str,
    pub(super) submitted: BTreeMap<Modality, u64>,
    pub(super) line_seconds: f64,
    pub(super) wall_seconds: f64,
    pub(super) api_url: String,
}

impl Report {
    /// Gathers the rest and prints it.
    pub(super) async fn print(
        &self,
        settings: &Settings,
        runtime: &Runtime,
        store: &Store,
        stats: &[Arc<Stats>],
        out: Output,
    ) -> Outcome {
        let audit = store.audit().await.or_exit(Code::Unavailable)?;
        let searches = searches(store).await?;
        let mut found_again = Map::new();
        for modality in Modality::ALL {
            let (found, asked) = store.found_again(modality).await.or_exit(Code::Unavailable)?;
            found_again.insert(modality.as_str().into(), json!({"found": found, "asked": asked}));
        }
        let versions = store.versions().await.or_exit(Code::Unavailable)?;
        let modalities: BTreeMap<Modality, &Arc<Stats>> = settings
            .pipeline
            .iter()
            .zip(stats)
            .filter_map(|(p, s)| Some((runtime.modality(p)?, s)))
            .collect();
        let topics: Vec<String> = settings.pipeline.iter().map(|p| p.topic.clone()).collect();
        let kafka = spawn_kafka::broker_version(&settings.kafka.brokers, &settings.kafka.properties).await;
        let value = json!({
            "broker": self.broker,
            "versions": {"spawn": env!("CARGO_PKG_VERSION"), "kafka": kafka, "postgres": versions.postgres,
                         "pgvector": versions.pgvector, "libtorch": spawn_torch::version().or_exit(Code::Unavailable)?},
            "modalities": modalities.iter().map(|(m, s)| (m.as_str().to_owned(), self.modality(*m, s))).collect::<Map<_, _>>(),
            "audio_seconds_per_second": modalities.get(&Modality::Audio).map(|s| per_second(s.media_ms.load(Relaxed) as f64 / 1e3, s)),
            "rejection_codes": store.rejection_codes(&topics).await.or_exit(Code::Unavailable)?,
            "stages": stats.iter().flat_map(|s| stages(s)).collect::<Vec<_>>(),
            "searches": searches,
            "found_again": found_again,
            "audit": {"ok": audit.ok},
            "line_seconds": self.line_seconds,
            "wall_seconds": self.wall_seconds,
            "peak_rss_bytes": peak_rss_bytes(),
            "api_url": self.api_url,
        });
        if out.json {
            out.json("demo", &value);
        } else {
            self.text(&value, out);
        }
        let accounted =
            modalities.iter().all(|(m, s)| s.settled() == self.submitted.get(m).copied().unwrap_or(0));
        match audit.ok && accounted {
            true => Ok(()),
            false => Err(Failure::new(
                Code::Data,
                "records in and records settled differ, or the audit found faults: run `spawn audit`",
            )),
        }
    }

    fn modality(&self, modality: Modality, stats: &Stats) -> Value {
        let [results, rejected, skipped, deferred] = stats.read_outcomes();
        json!({
            "submitted": self.submitted.get(&modality), "results": results, "rejected": rejected, "skipped": skipped, "deferred": deferred,
            "items_per_second": per_second(stats.settled() as f64, stats),
        })
    }

    fn text(&self, value: &Value, out: Output) {
        let versions = &value["versions"];
        out.line("");
        out.line(format_args!(
            "{}, PostgreSQL {}, pgvector {}, libtorch {}",
            match versions["kafka"].as_str() {
                Some(version) => format!("Apache Kafka {version}"),
                None => "a broker inside this process".to_owned(),
            },
            word(&versions["postgres"]),
            word(&versions["pgvector"]),
            word(&versions["libtorch"])
        ));
        out.line("");
        out.line("modality  submitted = results + rejected + skipped + deferred    items/s");
        for (modality, m) in value["modalities"].as_object().into_iter().flatten() {
            out.line(format_args!(
                "{modality:<8}  {:>9}   {:>7}   {:>8}   {:>7}   {:>8}   {:>7.1}",
                m["submitted"],
                m["results"],
                m["rejected"],
                m["skipped"],
                m["deferred"],
                m["items_per_second"].as_f64().unwrap_or(0.0)
            ));
        }
        out.line(format_args!(
            "audio: {:.0} seconds of sound a second",
            value["audio_seconds_per_second"].as_f64().unwrap_or(0.0)
        ));
        out.line(format_args!("rejected on purpose: {}", value["rejection_codes"]));
        out.line("");
        out.line("where the time went     busy  starved  blocked   CPU s");
        for s in value["stages"].as_array().into_iter().flatten() {
            out.line(format_args!(
                "{:<8} {:<12} {:>5.0} % {:>6.0} % {:>6.0} %  {:>6}",
                word(&s["pipeline"]),
                word(&s["stage"]),
                percent(&s["busy_ratio"]),
                percent(&s["starved_ratio"]),
                percent(&s["blocked_ratio"]),
                s["cpu_seconds"].as_f64().map_or("-".to_owned(), |c| format!("{c:.1}"))
            ));
        }
        out.line("");
        for (modality, f) in value["found_again"].as_object().into_iter().flatten() {
            out.line(format_args!(
                "{modality:<8} {} of {} found first when searched by their own vector",
                f["found"], f["asked"]
            ));
        }
        for search in value["searches"].as_array().into_iter().flatten() {
            out.line("");
            out.line(format_args!("{} like {}", word(&search["modality"]), word(&search["query"])));
            for hit in search["hits"].as_array().into_iter().flatten() {
                out.line(format_args!(
                    "  {:.3}  {}",
                    hit["cosine"].as_f64().unwrap_or(0.0),
                    word(&hit["source"])
                ));
            }
        }
        out.line("");
        out.line(if value["audit"]["ok"] == true {
            "audit: every offset is accounted for"
        } else {
            "audit: FAULTS, run `spawn audit`"
        });
        out.line(format_args!(
            "{:.1} s in all, {} MB at most",
            self.wall_seconds,
            peak_rss_bytes() / 1_000_000
        ));
        out.line("");
        let id = value["searches"][0]["query_id"].as_str().unwrap_or_default();
        out.line(format_args!("The API is at {}/api/v1 while this runs, for example", self.api_url));
        out.line(format_args!("  curl {}/api/v1/results/{id}", self.api_url));
        out.line(format_args!(
            "  curl {}/api/v1/search -H 'content-type: application/json' -d '{{\"text\": \"two dogs\"}}'",
            self.api_url
        ));
        out.line("Ctrl-C stops it, with the services that it started.");
    }
}

/// One example search per modality: the neighbours of one of its results, itself left out.
async fn searches(store: &Store) -> Outcome<Vec<Value>> {
    let mut searches = Vec::new();
    for modality in Modality::ALL {
        let filter = ResultFilter { modality: Some(modality), ..ResultFilter::default() };
        let page = store.results(&filter, None, 1).await.or_exit(Code::Unavailable)?;
        let Some(query) = page.results.into_iter().next() else { continue };
        let Some(vector) = store.vector_of(&query.id).await.or_exit(Code::Unavailable)? else { continue };
        let filter = SearchFilter { modality, exact: false, limit: 4 };
        let found = store.search(&vector, &filter).await.or_exit(Code::Unavailable)?;
        let others = found.hits.iter().filter(|hit| hit.id != query.id).take(3);
        let hits: Vec<Value> = others
            .map(|hit| json!({"id": hit.id, "cosine": hit.cosine, "source": name(hit.source_uri.as_deref())}))
            .collect();
        searches.push(json!({"modality": modality, "query_id": query.id, "query": name(query.source_uri.as_deref()), "hits": hits}));
    }
    Ok(searches)
}

fn stages(stats: &Stats) -> Vec<Value> {
    let rows = stats.meters.iter().map(|meter| {
        let reading = meter.read();
        let [busy, starved, blocked] = reading.ratios();
        // Only work on threads of its own can be told apart from the rest of the process.
        let cpu = matches!(meter.stage, "prepare" | "infer").then(|| reading.cpu.as_secs_f64());
        json!({"pipeline": &*stats.pipeline, "stage": meter.stage, "busy_ratio": busy, "starved_ratio": starved, "blocked_ratio": blocked,
               "cpu_seconds": cpu})
    });
    rows.collect()
}

/// Over the time from the pipeline's first record to its last commit.
fn per_second(amount: f64, stats: &Stats) -> f64 {
    let seconds = stats.active_seconds();
    if seconds > 0.0 { amount / seconds } else { 0.0 }
}

fn name(uri: Option<&str>) -> String {
    let uri = uri.unwrap_or("-");
    let parts: Vec<&str> = uri.rsplit('/').take(2).collect();
    parts.into_iter().rev().collect::<Vec<_>>().join("/")
}

fn word(value: &Value) -> &str {
    value.as_str().unwrap_or("?")
}

fn percent(value: &Value) -> f64 {
    value.as_f64().unwrap_or(0.0) * 100.0
}
