//! Decodes files to 16 kHz mono and prints how fast that was, as one JSON object. For benchmarks and for a look at a file.
//!
//! `prepare FILES.. [--rate HZ] [--repeat N] [--out DIR]`; `--out` writes each clip as raw little-endian f32, `--fresh` makes a
//! decoder for each clip: what kept resamplers are worth.

#![allow(clippy::print_stdout, reason = "its output is for standard output")]

use spawn_audio::{Decoder, Limits};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

struct Arguments {
    files: Vec<PathBuf>,
    rate: u32,
    repeat: u32,
    out: Option<PathBuf>,
    fresh: bool,
}

fn arguments() -> Result<Arguments, String> {
    let mut parsed = Arguments { files: Vec::new(), rate: 16_000, repeat: 1, out: None, fresh: false };
    let mut rest = std::env::args().skip(1);
    while let Some(argument) = rest.next() {
        let mut value = || rest.next().ok_or(format!("{argument} needs a value"));
        match argument.as_str() {
            "--rate" => parsed.rate = value()?.parse().map_err(|e| format!("--rate: {e}"))?,
            "--fresh" => parsed.fresh = true,
            "--repeat" => parsed.repeat = value()?.parse().map_err(|e| format!("--repeat: {e}"))?,
            "--out" => parsed.out = Some(value()?.into()),
            file => parsed.files.push(file.into()),
        }
    }
    if parsed.files.is_empty() {
        return Err("usage: prepare FILES.. [--rate HZ] [--repeat N] [--out DIR]".into());
    }
    Ok(parsed)
}

/// CPU seconds of this process so far, by the kernel's account in ticks of 10 ms.
fn cpu_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    Some((fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?) / 100.0)
}

/// Most memory that this process held, by the kernel's account. Unlike what its parent is told, without the parent's own.
fn peak_rss_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}

fn write(directory: &Path, file: &Path, index: usize, samples: &[f32]) -> Result<(), String> {
    std::fs::create_dir_all(directory).map_err(|e| format!("{}: {e}", directory.display()))?;
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let path = directory.join(format!("{index:05}-{name}.f32"));
    let bytes: Vec<u8> = samples.iter().flat_map(|x| x.to_le_bytes()).collect();
    std::fs::write(&path, bytes).map_err(|e| format!("{}: {e}", path.display()))
}

fn run() -> Result<(), String> {
    let arguments = arguments()?;
    let limits = Limits { bytes_max: 1 << 30, seconds_max: 86_400.0 };
    let mut decoder = Decoder::new(arguments.rate, limits);
    let mut audio_seconds = 0.0;
    let mut refused = Vec::new();
    let (started, cpu_started) = (Instant::now(), cpu_seconds());
    for round in 0..arguments.repeat {
        for (index, file) in arguments.files.iter().enumerate() {
            let bytes = std::fs::read(file).map_err(|e| format!("{}: {e}", file.display()))?;
            if arguments.fresh {
                decoder = Decoder::new(arguments.rate, limits);
            }
            match decoder.decode(&bytes.into(), usize::MAX) {
                Ok(clip) => {
                    audio_seconds += clip.seconds;
                    if let (0, Some(directory)) = (round, &arguments.out) {
                        write(directory, file, index, &clip.samples)?;
                    }
                }
                Err(rejection) => refused.push(format!("{}: {rejection}", file.display())),
            }
        }
    }
    let seconds = started.elapsed().as_secs_f64();
    let report = serde_json::json!({
        "clips": arguments.files.len() * arguments.repeat as usize - refused.len(),
        "audio_seconds": audio_seconds,
        "seconds": seconds,
        "cpu_seconds": cpu_seconds().zip(cpu_started).map(|(end, start)| end - start),
        "peak_rss_bytes": peak_rss_bytes(),
        "times_real_time": audio_seconds / seconds,
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
