//! `spawn probe`: fetch guard, sniffing, limits and stage, without Kafka, database or model.

use crate::cli::Files;
use crate::config::Settings;
use crate::embedder::facts_json;
use crate::exit::{Code, Failure, Outcome};
use crate::output::Output;
use crate::registry;
use serde_json::{Value, json};
use spawn_core::{Media, Modality, Rejection};
use std::path::Path;
use std::time::Instant;

pub(super) fn run(args: Files, settings: Settings, out: Output) -> Outcome {
    for path in &args.paths {
        let started = Instant::now();
        let answer = probe(path, args.modality, &settings)?;
        let ms = started.elapsed().as_secs_f64() * 1e3;
        if out.json {
            out.json("probe", with_ms(answer, ms));
        } else {
            let verdict = match &answer["rejection"] {
                Value::Null => format!("ok        {} chunks  {}", answer["chunks"], answer["facts"]),
                rejection => {
                    format!("rejected  {}: {}", text(&rejection["code"]), text(&rejection["detail"]))
                }
            };
            out.line(format_args!("{}  {verdict}  ({ms:.1} ms)", path.display()));
        }
    }
    Ok(())
}

fn probe(path: &Path, modality: Option<Modality>, settings: &Settings) -> Outcome<Value> {
    let head = |ok: bool, modality: Option<Modality>| json!({"path": path, "ok": ok, "modality": modality, "media_type": null, "facts": null, "chunks": 0, "rejection": null});
    let refused = |modality, rejection: Rejection| {
        let mut answer = head(false, modality);
        answer["rejection"] =
            json!({"stage": rejection.stage, "code": rejection.code, "detail": rejection.detail});
        answer
    };
    let bytes = match read(path, settings.fetch.payload_bytes_max) {
        Ok(bytes) => bytes,
        Err(rejection) => return Ok(refused(modality, rejection)),
    };
    let Some(modality) = modality.or_else(|| spawn_jobs::modality_of(path, &bytes)) else {
        return Ok(refused(
            None,
            Rejection::new("fetch", "decode.unsupported", crate::embedder::UNKNOWN_KIND),
        ));
    };
    let mut stage = stage_of(modality, settings)?;
    let media = Media::new(bytes.into(), None);
    // The line catches panics of stages; so does its rehearsal.
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| stage.check_and_process(&media)))
        .unwrap_or_else(|panic| {
            Err(Rejection::new("prepare", "stage.panic", spawn_engine::crew::panic_message(&*panic)))
        });
    Ok(match result {
        Err(rejection) => refused(Some(modality), rejection),
        Ok(prepared) => {
            let mut answer = head(true, Some(modality));
            answer["media_type"] = json!(prepared.facts.media_type);
            answer["facts"] = facts_json(&prepared.facts);
            answer["chunks"] = json!(prepared.chunks.len());
            answer
        }
    })
}

/// A file as the fetch step would take it.
pub(super) fn read(path: &Path, bytes_max: usize) -> Result<Vec<u8>, Rejection> {
    let refuse = |code: &'static str, detail: String| Rejection::new("fetch", code, detail);
    let meta = std::fs::metadata(path)
        .map_err(|e| refuse("payload.not_found", format!("{}: {e}", path.display())))?;
    if !meta.is_file() {
        return Err(refuse("payload.denied", format!("{} is not a regular file", path.display())));
    }
    if meta.len() == 0 {
        return Err(refuse("payload.empty", "the file is empty".into()));
    }
    if meta.len() > bytes_max as u64 {
        return Err(refuse(
            "payload.too_large",
            format!("{} bytes, fetch.payload_bytes_max is {bytes_max}", meta.len()),
        ));
    }
    std::fs::read(path).map_err(|e| refuse("payload.not_found", format!("{}: {e}", path.display())))
}

/// The stage of the first pipeline whose model is of this modality.
pub(super) fn stage_of(modality: Modality, settings: &Settings) -> Outcome<Box<dyn spawn_core::Stage>> {
    for pipeline in &settings.pipeline {
        let (manifest, folder) = registry::manifest(settings, &pipeline.model)?;
        if manifest.modality == modality {
            return registry::stage(&manifest, &folder, settings);
        }
    }
    Err(Failure::new(Code::Config, format!("no [[pipeline]] has a model for {modality}")))
}

fn with_ms(mut answer: Value, ms: f64) -> Value {
    answer["ms"] = json!((ms * 1e3).round() / 1e3);
    answer
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
