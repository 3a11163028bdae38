//! `spawn check`: the whole line, part by part, without starting it.

use super::check_kafka::kafka;
use super::check_models::models;
use super::check_postgres::postgres;
use super::doctor::memory_granted;
use crate::config::Settings;
use crate::exit::{Code, Failure, Outcome};
use crate::line::raw_bytes_least;
use crate::output::Output;
use serde_json::{Value, json};

pub(super) async fn run(settings: Settings, out: Output) -> Outcome {
    let mut findings = Findings::default();
    let checked = models(&settings, &mut findings);
    memory(&settings, checked.file_bytes, memory_granted(), &mut findings);
    postgres(&settings, &checked.identities, &mut findings).await;
    kafka(&settings, &mut findings).await;
    findings.report("check", out)
}

/// What the line may hold at once, against what the machine or cgroup grants.
fn memory(settings: &Settings, model_bytes: u64, granted: u64, findings: &mut Findings) {
    let (memory, pipelines) = (&settings.memory, settings.pipeline.len());
    let wanted = (memory.raw_bytes.saturating_add(memory.decoded_bytes) as u64).saturating_add(model_bytes);
    let found = format!(
        "{} MiB granted; raw {} + decoded {} + models {} = {} MiB",
        granted >> 20,
        memory.raw_bytes >> 20,
        memory.decoded_bytes >> 20,
        model_bytes >> 20,
        wanted >> 20
    );
    let (_, least) = raw_bytes_least(settings, pipelines);
    if memory.raw_bytes < least {
        let found = format!("memory.raw_bytes is {}, {pipelines} pipelines need {least}", memory.raw_bytes);
        let fix = "raise it, or lower kafka.queue_bytes_max or fetch.payload_bytes_max: each pipeline needs both twice";
        return findings.wrong("memory", "memory", found, "room for the largest payloads", fix);
    }
    let fix = "lower memory.raw_bytes or memory.decoded_bytes, or grant more";
    let fifth_free = granted / 5 * 4;
    match wanted {
        n if n > granted => findings.wrong("memory", "memory", found, "budgets below what is granted", fix),
        n if n > fifth_free => {
            findings.doubtful("memory", "memory", found, "a fifth left for model calls", fix)
        }
        _ => findings.well("memory", "memory", found),
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

    /// It works, but not as well or as far as it should.
    pub(super) fn doubtful(
        &mut self,
        id: &str,
        at: &str,
        found: impl std::fmt::Display,
        want: &str,
        fix: &str,
    ) {
        self.wrong(id, at, found, want, fix);
        if let Some(last) = self.0.last_mut() {
            last["severity"] = "warning".into();
        }
    }

    /// Right or wrong, by `good`.
    pub(super) fn judge(&mut self, good: bool, id: &str, at: &str, found: String, want: &str, fix: &str) {
        match good {
            true => self.well(id, at, found),
            false => self.wrong(id, at, found, want, fix),
        }
    }

    /// Ids of all that is not well, warnings too.
    #[cfg(test)]
    pub(super) fn wrong_ids(&self) -> Vec<String> {
        let wrong = self.0.iter().filter(|c| c["ok"] == false);
        wrong.filter_map(|c| Some(c["id"].as_str()?.to_owned())).collect()
    }

    /// Prints all and fails if any is wrong. Warnings do not fail.
    pub(super) fn report(self, command: &str, out: Output) -> Outcome {
        let wrong = self.0.iter().filter(|c| c["severity"] == "error").count();
        if out.json {
            out.json(command, json!({"ok": wrong == 0, "checks": self.0}));
        } else {
            for check in &self.0 {
                let word = |key: &str| check[key].as_str().unwrap_or_default().to_owned();
                let mark = match check["severity"].as_str() {
                    Some("error") => "x",
                    Some("warning") => "!",
                    _ => "√",
                };
                out.line(format_args!("{mark} {:<12} {:<44} {}", word("id"), word("at"), word("found")));
                if check["ok"] == false {
                    out.line(format_args!("               fix: {}", word("fix")));
                }
            }
        }
        match wrong {
            0 => Ok(()),
            n => Err(Failure::new(Code::Unavailable, format!("{n} of {} checks failed", self.0.len()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(sets: &[&str], granted: u64) -> String {
        let sets: Vec<String> = sets.iter().map(|s| (*s).to_owned()).collect();
        let settings = crate::config::load(None, &Default::default(), &sets).expect("loads").settings;
        let mut findings = Findings::default();
        memory(&settings, 200 << 20, granted, &mut findings);
        findings.0[0]["severity"].as_str().expect("a word").to_owned()
    }

    #[test]
    fn budgets_and_models_count_against_the_memory() {
        // 384 + 512 + 200 = 1096 MiB.
        assert_eq!(judged(&[], 1380 << 20), "info");
        assert_eq!(judged(&[], 1360 << 20), "warning");
        assert_eq!(judged(&[], 1095 << 20), "error");
        // The queues are part of the raw bytes.
        assert_eq!(judged(&["kafka.queue_bytes_max=268435456"], 1380 << 20), "error");
    }
}
