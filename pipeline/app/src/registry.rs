//! What there is: one line per modality. A new one is a crate in `stages/` and an arm here.

use crate::config::Settings;
use crate::exit::{Code, Failure, OrExit, Outcome};
use spawn_audio::AudioStage;
use spawn_core::{Modality, Stage};
use spawn_image::ImageStage;
use spawn_text::TextStage;
use spawn_torch::Manifest;
use std::path::{Path, PathBuf};

/// The stage that prepares media for a model, with the manifest's specification and the configuration's limits.
pub fn stage(manifest: &Manifest, folder: &Path, settings: &Settings) -> Outcome<Box<dyn Stage>> {
    let bytes_max = settings.fetch.payload_bytes_max;
    let stage: Result<Box<dyn Stage>, String> = match manifest.modality {
        Modality::Image => {
            let limits = spawn_image::Limits { bytes_max, pixels_max: settings.image.pixels_max };
            ImageStage::new(manifest.preparation().or_exit(Code::Config)?, limits).map(|s| Box::new(s) as _)
        }
        Modality::Audio => {
            let limits = spawn_audio::Limits { bytes_max, seconds_max: settings.audio.seconds_max };
            AudioStage::new(manifest.preparation().or_exit(Code::Config)?, limits).map(|s| Box::new(s) as _)
        }
        Modality::Text => {
            let limits = spawn_text::Limits { bytes_max, tokens_max: settings.text.tokens_max };
            TextStage::new(
                manifest.preparation().or_exit(Code::Config)?,
                limits,
                &folder.join("tokenizer.json"),
            )
            .map(|s| Box::new(s) as _)
        }
    };
    stage.map_err(|e| {
        Failure::new(Code::Config, format!("{}: [preparation]: {e}", folder.join("model.toml").display()))
    })
}

/// The folder of a model, checked to exist.
pub fn model_folder(settings: &Settings, model: &str) -> Outcome<PathBuf> {
    let folder = settings.models.dir.join(model);
    if folder.join("model.toml").is_file() {
        return Ok(folder);
    }
    let detail = format!(
        "no model `{model}` in {}: run `setup/install models`, or point models.dir (SPAWN_MODELS) to the folder that has it",
        settings.models.dir.display()
    );
    Err(Failure::new(Code::Config, detail))
}

/// The manifest of a pipeline's model.
pub fn manifest(settings: &Settings, model: &str) -> Outcome<(Manifest, PathBuf)> {
    let folder = model_folder(settings, model)?;
    Ok((Manifest::read(&folder).or_exit(Code::Config)?, folder))
}
