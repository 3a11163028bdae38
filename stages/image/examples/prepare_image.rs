//! Prepares pictures on one thread and prints how fast that was, as one JSON object. For benchmarks and for a look at a file.
//!
//! `prepare_image FILES.. [--width N] [--height N] [--fit crop|stretch|pad] [--filter NAME] [--short N] [--repeat N] [--out DIR]`;
//! `--out` writes each output as raw RGB bytes. `--whole` (JPEGs decoded at full scale) and `--fresh` (a stage for each picture) show what
//! scaled decoding and kept buffers are worth.

#![allow(clippy::print_stdout, reason = "its output is for standard output")]

use serde_json::{Map, Value, json};
use spawn_core::{ArrayData, Media, Prepared, Stage};
use spawn_image::{Config, ImageStage, Limits};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

const USAGE: &str = "usage: prepare_image FILES.. [--width N] [--height N] [--fit crop|stretch|pad] [--filter NAME] \
                     [--short N] [--repeat N] [--out DIR]";

struct Arguments {
    files: Vec<PathBuf>,
    config: Config,
    repeat: u32,
    out: Option<PathBuf>,
    whole: bool,
    fresh: bool,
}

fn arguments() -> Result<Arguments, String> {
    let mut settings = Map::from_iter([("width".into(), 224.into()), ("height".into(), 224.into())]);
    let (mut files, mut repeat, mut out, mut whole, mut fresh) = (Vec::new(), 1, None, false, false);
    let mut rest = std::env::args().skip(1);
    while let Some(argument) = rest.next() {
        let mut value = || rest.next().ok_or(format!("{argument} needs a value"));
        let number = |text: String| text.parse::<u32>().map_err(|e| format!("{argument} {text}: {e}"));
        match argument.as_str() {
            "--width" | "--height" => {
                settings.insert(argument[2..].into(), number(value()?)?.into());
            }
            "--short" => {
                settings.insert("resize_short".into(), number(value()?)?.into());
            }
            "--fit" | "--filter" => {
                settings.insert(argument[2..].into(), value()?.into());
            }
            "--whole" => whole = true,
            "--fresh" => fresh = true,
            "--repeat" => repeat = number(value()?)?,
            "--out" => out = Some(value()?.into()),
            flag if flag.starts_with("--") => return Err(format!("{flag} is not known; {USAGE}")),
            file => files.push(file.into()),
        }
    }
    if files.is_empty() {
        return Err(USAGE.into());
    }
    let config = serde_json::from_value(Value::Object(settings)).map_err(|e| e.to_string())?;
    Ok(Arguments { files, config, repeat, out, whole, fresh })
}

fn write(directory: &Path, file: &Path, index: usize, prepared: &Prepared) -> Result<(), String> {
    std::fs::create_dir_all(directory).map_err(|e| format!("{}: {e}", directory.display()))?;
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let path = directory.join(format!("{index:05}-{name}.rgb"));
    match &prepared.chunks[0].arrays[0].data {
        ArrayData::U8(pixels) => {
            std::fs::write(&path, pixels).map_err(|e| format!("{}: {e}", path.display()))
        }
        other => Err(format!("{} bytes that are no pixels", other.bytes())),
    }
}

fn run() -> Result<(), String> {
    let arguments = arguments()?;
    let limits = Limits { bytes_max: 1 << 30, pixels_max: 1 << 30 };
    let make = || {
        let stage = ImageStage::new(arguments.config.clone(), limits)?;
        Ok::<_, String>(if arguments.whole { stage.decoding_whole() } else { stage })
    };
    let mut stage = make()?;
    let (mut images, mut encoded_bytes, mut refused) = (0u64, 0usize, Vec::new());
    let started = Instant::now();
    for round in 0..arguments.repeat {
        for (index, file) in arguments.files.iter().enumerate() {
            let bytes = std::fs::read(file).map_err(|e| format!("{}: {e}", file.display()))?;
            encoded_bytes += bytes.len();
            let media = Media::new(bytes.into(), None);
            if arguments.fresh {
                stage = make()?;
            }
            // As the line does it: the size is asked for first, then the picture is prepared.
            match (&mut stage as &mut dyn Stage).check_and_process(&media) {
                Ok(prepared) => {
                    images += 1;
                    if let (0, Some(directory)) = (round, &arguments.out) {
                        write(directory, file, index, &prepared)?;
                    }
                }
                Err(rejection) if round == 0 => refused.push(format!("{}: {rejection}", file.display())),
                Err(_) => {}
            }
        }
    }
    let seconds = started.elapsed().as_secs_f64();
    let report = json!({
        "images": images,
        "seconds": seconds,
        "images_per_second": images as f64 / seconds,
        "encoded_bytes": encoded_bytes,
        "spec": stage.spec(),
        "refused": refused,
    });
    println!("{report}");
    Ok(())
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            println!("{message}");
            ExitCode::from(64)
        }
    }
}
