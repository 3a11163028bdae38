//! Tests of the crate, one file for each promise.

#![allow(clippy::unwrap_used)]

mod footprint;
mod formats;
mod golden;
mod headers;
mod hostile;
mod quality;
mod windows;

use crate::{Config, Limits};
use bytes::Bytes;
use std::f64::consts::TAU;

/// A file of `tests/fixtures`.
fn fixture(name: &str) -> Bytes {
    let path = format!("{}/tests/fixtures/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read(&path).unwrap_or_else(|e| panic!("{path}: {e}")).into()
}

/// The preparation of a speaker model.
fn config() -> Config {
    Config {
        sample_rate: 16_000,
        window_samples: 25_840,
        hop_samples: 12_960,
        context_samples: 200,
        coverage_min: 0.75,
        gain_rms_dbfs: Some(-30.0),
        windows_max: 4,
    }
}

fn limits() -> Limits {
    Limits { bytes_max: 8 << 20, seconds_max: 60.0 }
}

/// `seconds` of a sine.
fn sine(hertz: f64, rate: u32, seconds: f64, amplitude: f64) -> Vec<f32> {
    (0..(seconds * f64::from(rate)) as usize)
        .map(|i| (amplitude * (TAU * hertz * i as f64 / f64::from(rate)).sin()) as f32)
        .collect()
}

/// A WAV file: format tag, bits a sample and interleaved data as they are.
fn wav(tag: u16, bits: u16, channels: u16, rate: u32, data: &[u8]) -> Bytes {
    let align = channels * bits / 8;
    let mut file = Vec::with_capacity(44 + data.len());
    file.extend_from_slice(b"RIFF");
    file.extend_from_slice(&(36 + data.len() as u32).to_le_bytes());
    file.extend_from_slice(b"WAVEfmt ");
    file.extend_from_slice(&16u32.to_le_bytes());
    file.extend_from_slice(&tag.to_le_bytes());
    file.extend_from_slice(&channels.to_le_bytes());
    file.extend_from_slice(&rate.to_le_bytes());
    file.extend_from_slice(&(rate * u32::from(align)).to_le_bytes());
    file.extend_from_slice(&align.to_le_bytes());
    file.extend_from_slice(&bits.to_le_bytes());
    file.extend_from_slice(b"data");
    file.extend_from_slice(&(data.len() as u32).to_le_bytes());
    file.extend_from_slice(data);
    file.into()
}

/// A mono WAV file of 32-bit floats.
fn wav_f32(rate: u32, samples: &[f32]) -> Bytes {
    let data: Vec<u8> = samples.iter().flat_map(|x| x.to_le_bytes()).collect();
    wav(3, 32, 1, rate, &data)
}
