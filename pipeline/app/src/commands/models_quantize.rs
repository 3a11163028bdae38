//! `spawn models quantize`: the same weights in fewer bits, as a model of their own.
//!
//! A new folder, because it makes other vectors: they go into a generation of their own beside the old one, and the way back is a switch.

use super::probe::read;
use crate::cli::Quantize;
use crate::config::Settings;
use crate::exit::{Code, Failure, OrExit, Outcome};
use crate::line::{devices, init_torch};
use crate::output::Output;
use crate::registry;
use serde_json::json;
use spawn_core::{Features, Media, Model};
use spawn_torch::calibration::calibrate as calibrate_model;
use spawn_torch::{Dtype, Manifest, TorchModel};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use toml_edit::{DocumentMut, value};

/// Measured in turn, so that both see the same machine.
const ROUNDS: usize = 7;
/// Of one round, at least.
const ROUND: Duration = Duration::from_millis(500);
/// Files that are looked at, at most; spread over a larger folder. Every second one is observed, the others show what came of it.
const MEDIA_MAX: usize = 512;
/// Chunks of a call that compares.
const COMPARED: usize = 32;
const COSINES: std::ops::RangeInclusive<f64> = 0.9..=1.0;

pub(super) fn run(args: Quantize, settings: Settings, out: Output) -> Outcome {
    let (manifest, folder) = registry::manifest(&settings, &args.model)?;
    let name = args.name.unwrap_or_else(|| format!("{}-{}", manifest.name, args.to));
    let target = settings.models.dir.join(&name);
    if manifest.dtype != Dtype::F32 {
        let text =
            format!("{}: dtype = \"{}\"; only f32 models are quantised", args.model, manifest.dtype.as_str());
        return Err(Failure::new(Code::Data, text));
    }
    if !COSINES.contains(&args.cosine_min) {
        return Err(Failure::new(
            Code::Usage,
            format!("--cosine-min {}: 0.9 to 1 are accepted", args.cosine_min),
        ));
    }
    if args.calibrate.is_some() && args.to != "int8" {
        return Err(Failure::new(Code::Usage, format!("--calibrate is for int8; {} needs none", args.to)));
    }
    if target.exists() {
        let text = format!("{} is there already; remove it or choose another --name", target.display());
        return Err(Failure::new(Code::Data, text));
    }
    init_torch(&settings)?;
    // Few processors compute in f16, and who wants it has a GPU; int8 is for processors.
    let device = match args.to.as_str() {
        "int8" => spawn_torch::Device::Cpu,
        _ => devices(&settings)?[0],
    };
    let mut before = TorchModel::load(&folder, &device).or_exit(Code::Data)?;
    let made = tempfile::Builder::new().prefix(".quantize-").tempdir_in(&settings.models.dir)?;
    copy(&folder, made.path())?;
    let unseen = match &args.calibrate {
        Some(media) => calibrate(made.path(), media, &settings, out)?,
        None => Vec::new(),
    };
    rewrite(&made.path().join("model.toml"), &name, &args.to, args.cosine_min)?;
    let mut after = TorchModel::load(made.path(), &device).or_exit(Code::Data)?;
    let examples: Vec<Features> = before.examples().cloned().collect();
    let unseen = agreement(&mut before, &mut after, &unseen)?;
    if let Some([least, _]) = unseen.filter(|[least, _]| *least < args.cosine_min) {
        let text = format!(
            "a file that was not observed has a cosine of {least:.5} to its f32 vector, wanted {}",
            args.cosine_min
        );
        return Err(Failure::new(Code::Data, text));
    }
    let (slow, fast) = compare(&mut before, &mut after, &examples)?;
    let version = after.spec().version.clone();
    let cosine = after.golden().cosine_min;
    drop(after);
    let made = made.keep();
    // Readable as any other model: a temporary folder is only its owner's.
    std::fs::set_permissions(&made, std::fs::metadata(&folder)?.permissions())?;
    std::fs::rename(&made, &target)?;
    if out.json {
        out.json(
            "quantize",
            json!({
                "name": name, "folder": target, "version": version, "cosine_min": cosine, "unseen": unseen.map(|[least, median]| json!({"cosine_min": least, "cosine_median": median})), "dtype": args.to, "chunks_per_second": {"f32": slow, (args.to.as_str()): fast},
                "ratio": fast / slow,
            }),
        );
        return Ok(());
    }
    out.line(format_args!("{name} {} in {}", &version[..12], target.display()));
    out.line(format_args!("golden vectors: cosine >= {cosine:.5} to those of {}", args.model));
    if let Some([least, median]) = unseen {
        out.line(format_args!("files that were not observed: cosine >= {least:.5}, median {median:.5}"));
    }
    out.line(format_args!("{fast:.0} chunks/s against {slow:.0} in f32: {:.2} times", fast / slow));
    out.line(format_args!(
        "to use it, give a pipeline another name and topic or collection, and `model = \"{name}\"`: it fills a generation of its own"
    ));
    Ok(())
}

/// Shows the model in `folder` one half of what it will work on, and answers the other.
fn calibrate(folder: &Path, media: &Path, settings: &Settings, out: Output) -> Outcome<Vec<Features>> {
    let mut stage = registry::stage(&Manifest::read(folder).or_exit(Code::Config)?, folder, settings)?;
    let entries = std::fs::read_dir(media)
        .map_err(|e| Failure::new(Code::Usage, format!("--calibrate {}: {e}", media.display())))?;
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.map(|e| e.path())).collect::<Result<_, _>>()?;
    paths.sort();
    let step = paths.len().div_ceil(MEDIA_MAX).max(1);
    let (mut chunks, mut unseen): (Vec<Features>, Vec<Features>) = Default::default();
    for path in paths.iter().step_by(step) {
        let prepared = read(path, settings.fetch.payload_bytes_max)
            .and_then(|bytes| stage.process(&Media::new(bytes.into(), None)));
        match prepared {
            Ok(prepared) if chunks.len() <= unseen.len() => chunks.extend(prepared.chunks),
            Ok(prepared) => unseen.extend(prepared.chunks),
            Err(rejection) => out.note(format_args!("{}: left out: {rejection}", path.display())),
        }
    }
    out.note(format_args!("observing {} chunks of {}", chunks.len(), media.display()));
    if !calibrate_model(folder, &chunks).or_exit(Code::Data)? {
        return Err(Failure::new(
            Code::Usage,
            "--calibrate: the model has no convolution behind its first one, which stays in f32".to_owned(),
        ));
    }
    Ok(unseen)
}

/// Least and median cosine between what both make of these chunks; none without chunks.
fn agreement(
    before: &mut TorchModel,
    after: &mut TorchModel,
    chunks: &[Features],
) -> Outcome<Option<[f64; 2]>> {
    let mut cosines = Vec::new();
    for call in chunks.chunks(COMPARED.min(before.spec().chunks_max)) {
        let call: Vec<&Features> = call.iter().collect();
        let (exact, rounded) =
            (before.infer(&call).or_exit(Code::Data)?, after.infer(&call).or_exit(Code::Data)?);
        let pairs =
            exact.iter().zip(&rounded).filter_map(|(a, b)| a.embedding.as_ref().zip(b.embedding.as_ref()));
        cosines.extend(pairs.map(|(exact, rounded)| exact.cosine(rounded.as_slice())));
    }
    cosines.sort_by(f64::total_cmp);
    Ok(cosines.first().map(|least| [*least, cosines[cosines.len() / 2]]))
}

/// Every file of a model folder, one level of folders deep at most as models have it.
fn copy(from: &Path, to: &Path) -> Outcome {
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            std::fs::create_dir(&target)?;
            copy(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

/// Name, number type and the parity gate; everything else stays as it is, comments too.
fn rewrite(path: &Path, name: &str, dtype: &str, cosine_min: f64) -> Outcome {
    let text = std::fs::read_to_string(path)?;
    let mut manifest: DocumentMut = text.parse().or_exit(Code::Config)?;
    manifest["name"] = value(name);
    manifest["dtype"] = value(dtype);
    manifest["golden"]["cosine_min"] = value(cosine_min);
    std::fs::write(path, manifest.to_string())?;
    Ok(())
}

/// Chunks a second of both, medians of rounds in turn.
fn compare(before: &mut TorchModel, after: &mut TorchModel, examples: &[Features]) -> Outcome<(f64, f64)> {
    let chunks: Vec<&Features> = examples.iter().cycle().take(before.spec().chunks_max.min(32)).collect();
    let mut rates = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        for (model, rates) in [&mut *before, &mut *after].into_iter().zip(&mut rates) {
            let (started, mut calls) = (Instant::now(), 0);
            while calls == 0 || started.elapsed() < ROUND {
                model.infer(&chunks).or_exit(Code::Data)?;
                calls += 1;
            }
            rates.push((calls * chunks.len()) as f64 / started.elapsed().as_secs_f64());
        }
    }
    let [slow, fast] = rates.map(|mut rates| {
        rates.sort_by(f64::total_cmp);
        rates[ROUNDS / 2]
    });
    Ok((slow, fast))
}
