//! `spawn check`: the whole line, part by part, without starting it.

use super::worker::chosen;
use crate::config::Settings;
use crate::exit::{Code, Failure, Outcome};
use crate::output::Output;
use crate::registry;
use serde_json::{Value, json};

pub(super) async fn run(settings: Settings, out: Output) -> Outcome {
    let mut findings = Findings::default();
    models(&settings, &mut findings);
    postgres(&settings, &mut findings).await;
    kafka(&settings, &mut findings).await;
    findings.report("check", out)
}

fn models(settings: &Settings, findings: &mut Findings) {
    for pipeline in &settings.pipeline {
        let stage = registry::manifest(settings, &pipeline.model).and_then(|(manifest, folder)| {
            Ok((manifest.modality, registry::stage(&manifest, &folder, settings)?))
        });
        let at = format!("pipeline.{}.model", pipeline.name);
        match stage {
            Ok((modality, _)) => findings.well("model", &at, format!("{} for {modality}", pipeline.model)),
            Err(failure) => {
                findings.wrong("model", &at, failure.error, "a model folder", "run `setup/install models`")
            }
        }
    }
}

async fn postgres(settings: &Settings, findings: &mut Findings) {
    let at = crate::config::mask("postgres.url", &settings.postgres.url);
    let store = match super::store(settings).await {
        Ok(store) => store,
        Err(failure) => {
            return findings.wrong(
                "postgres",
                &at,
                failure.error,
                "a connection",
                "start it, or set postgres.url",
            );
        }
    };
    match store.versions().await {
        Ok(v) => {
            findings.well("postgres", &at, format!("PostgreSQL {}, pgvector {}", v.postgres, v.pgvector))
        }
        Err(error) => findings.wrong("postgres", &at, error, "versions", "see the server's log"),
    }
    match spawn_postgres::pending(&settings.postgres.url).await {
        Ok(pending) if pending.is_empty() => findings.well("schema", &at, "up to date".into()),
        Ok(pending) => findings.wrong(
            "schema",
            &at,
            format!("{} migrations behind", pending.len()),
            "up to date",
            "run `spawn migrate`",
        ),
        Err(error) => findings.wrong("schema", &at, error, "up to date", "run `spawn migrate`"),
    }
}

async fn kafka(settings: &Settings, findings: &mut Findings) {
    let topics: Vec<String> =
        chosen(settings, &[]).map_or_else(|_| Vec::new(), |all| all.into_iter().map(|p| p.topic).collect());
    let at = &settings.kafka.brokers;
    match spawn_kafka::admin::partitions(at, &settings.kafka.properties, &topics).await {
        Err(fault) => findings.wrong("kafka", at, fault, "an answer", "start it, or set kafka.brokers"),
        Ok(found) => {
            findings.well("kafka", at, "answers".into());
            for (topic, partitions) in found {
                match partitions {
                    Some(n) => findings.well("topic", &topic, format!("{n} partitions")),
                    None => findings.wrong(
                        "topic",
                        &topic,
                        "not there",
                        "a topic",
                        "start `spawn worker`, which creates it",
                    ),
                }
            }
        }
    }
}

/// What was found, part by part.
#[derive(Default)]
pub(super) struct Findings(Vec<Value>);

impl Findings {
    pub(super) fn well(&mut self, id: &str, at: &str, found: String) {
        self.0.push(json!({"id": id, "ok": true, "severity": "info", "at": at, "found": found, "want": null, "fix": null}));
    }

    pub(super) fn wrong(&mut self, id: &str, at: &str, found: impl std::fmt::Display, want: &str, fix: &str) {
        let found = format!("{found:#}");
        self.0.push(json!({"id": id, "ok": false, "severity": "error", "at": at, "found": found, "want": want, "fix": fix}));
    }

    /// Prints all and fails if any is wrong.
    pub(super) fn report(self, command: &str, out: Output) -> Outcome {
        let wrong = self.0.iter().filter(|c| c["ok"] == false).count();
        if out.json {
            out.json(command, json!({"ok": wrong == 0, "checks": self.0}));
        } else {
            for check in &self.0 {
                let word = |key: &str| check[key].as_str().unwrap_or_default().to_owned();
                let mark = if check["ok"] == true { "√" } else { "x" };
                out.line(format_args!("{mark} {:<9} {:<44} {}", word("id"), word("at"), word("found")));
                if check["ok"] == false {
                    out.line(format_args!("            fix: {}", word("fix")));
                }
            }
        }
        match wrong {
            0 => Ok(()),
            n => Err(Failure::new(Code::Unavailable, format!("{n} of {} checks failed", self.0.len()))),
        }
    }
}
