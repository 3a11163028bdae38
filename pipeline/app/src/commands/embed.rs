//! `spawn embed`: the stage and the model, nothing else.

use super::probe::read;
use crate::cli::Files;
use crate::config::{Pipeline, Settings};
use crate::embedder::{Embedder, Refused, modality_of};
use crate::exit::{Code, Failure, Outcome};
use crate::line::Runtime;
use crate::output::Output;
use crate::registry;
use serde_json::json;
use spawn_core::{Inferred, Modality};
use std::path::Path;

pub(super) async fn run(args: Files, settings: Settings, out: Output) -> Outcome {
    let (mut wanted, mut refused) = (Vec::new(), 0);
    for path in &args.paths {
        let read = read(path, settings.fetch.payload_bytes_max);
        let read = read.map_err(|r| Failure::new(Code::Data, format!("{}: {r}", path.display())));
        let known = read.and_then(|bytes| {
            let modality = args.modality.map_or_else(|| modality_of(path, &bytes), Ok)?;
            Ok((path, bytes, modality))
        });
        match known {
            Ok(item) => wanted.push(item),
            Err(failure) => {
                refused += 1;
                out.note(format_args!("{:#}", failure.error));
            }
        }
    }
    let modalities: Vec<Modality> = wanted.iter().map(|w| w.2).collect();
    let (_runtime, embedder) = embedder(&settings, &modalities)?;
    for (path, bytes, modality) in wanted {
        match embedder.embed(modality, bytes.into(), None).await {
            Ok(inferred) => print(path, &inferred, &embedder, modality, out),
            Err(Refused::Media(rejection)) => {
                refused += 1;
                out.note(format_args!("{}: {rejection}", path.display()));
            }
            Err(Refused::System(detail)) => return Err(Failure::new(Code::Unavailable, detail)),
        }
    }
    match refused {
        0 => Ok(()),
        n => Err(Failure::new(Code::Data, format!("{n} of {} files were refused", args.paths.len()))),
    }
}

/// Loads only the models of these modalities; keep the runtime for as long as the embedder is used.
pub(super) fn embedder(settings: &Settings, modalities: &[Modality]) -> Outcome<(Runtime, Embedder)> {
    let mut pipelines: Vec<Pipeline> = Vec::new();
    for pipeline in &settings.pipeline {
        let modality = registry::manifest(settings, &pipeline.model)?.0.modality;
        if modalities.contains(&modality) {
            pipelines.push(pipeline.clone());
        }
    }
    let runtime = Runtime::load(settings.clone(), &pipelines)?;
    let embedder = runtime.embedder();
    Ok((runtime, embedder))
}

fn print(path: &Path, inferred: &Inferred, embedder: &Embedder, modality: Modality, out: Output) {
    let dimension = embedder.spec(modality).map_or(0, |spec| spec.dimension);
    let chunks = inferred
        .chunks
        .iter()
        .enumerate()
        .map(|(i, c)| (json!(i), c.embedding.as_ref(), c.labels.as_slice()));
    let pooled = inferred.pooled.iter().map(|e| (json!("pooled"), Some(e), [].as_slice()));
    for (chunk, embedding, labels) in chunks.chain(pooled) {
        let values = embedding.map(|e| e.as_slice()).unwrap_or_default();
        if out.json {
            out.json(
                "embed",
                json!({"path": path, "model": &*inferred.provenance.model, "dimension": dimension, "chunk": chunk,
                       "embedding": values, "labels": labels}),
            );
        } else {
            let names: Vec<String> = labels.iter().map(|l| format!("{} {:.2}", l.name, l.score)).collect();
            let head: Vec<String> = values.iter().take(4).map(|v| format!("{v:.4}")).collect();
            out.line(format_args!(
                "{}  chunk {chunk}  [{}, ...] x {dimension}  {}",
                path.display(),
                head.join(", "),
                names.join(", ")
            ));
        }
    }
}
