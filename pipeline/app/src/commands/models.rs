//! `spawn models`: loads each model, which runs its golden check, and tells what it found.

use crate::config::Settings;
use crate::exit::Outcome;
use crate::line::load_models;
use crate::output::Output;
use crate::registry;
use serde_json::{Value, json};
use spawn_core::Model;

pub(super) fn run(settings: Settings, out: Output) -> Outcome {
    let loaded = load_models(&settings, &settings.pipeline)?;
    if !out.json {
        out.line(format_args!(
            "{:<20} {:<13} {:<6} {:>5} {:<5} {:<7} golden",
            "name", "version", "kind", "dim", "dtype", "device"
        ));
    }
    for model in &loaded {
        let info = info(model, &settings)?;
        if out.json {
            out.json("models", info);
            continue;
        }
        let (spec, golden) = (model.model.spec(), model.model.golden());
        out.line(format_args!(
            "{:<20} {:<13} {:<6} {:>5} {:<5} {:<7} {} inputs, cosine >= {:.7}, loaded in {:.1} s",
            spec.name,
            &spec.version[..12],
            spec.modality,
            spec.dimension,
            spec.dtype,
            spec.device,
            golden.count,
            golden.cosine_min,
            model.model.load_seconds(),
        ));
    }
    Ok(())
}

/// What `spawn models --json` and the API tell of a model.
pub(super) fn info(loaded: &crate::line::LoadedModel, settings: &Settings) -> Outcome<Value> {
    let (spec, golden) = (loaded.model.spec(), loaded.model.golden());
    let stage = registry::stage(&loaded.manifest, &loaded.folder, settings)?;
    Ok(json!({
        "name": spec.name, "version": spec.version, "modality": spec.modality, "dimension": spec.dimension, "dtype": spec.dtype,
        "preparation": stage.spec(), "device": spec.device,
        "golden": {"count": golden.count, "cosine_min": golden.cosine_min, "abs_max": golden.abs_max},
        "load_seconds": loaded.model.load_seconds(),
    }))
}
