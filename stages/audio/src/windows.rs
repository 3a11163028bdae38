//! Clip to chunks: gain, padding, windows.

use crate::Config;
use crate::decode::rms;

/// Below this (-120 dB relative to full scale) there is nothing to amplify but rounding.
const GAIN_RMS_MIN: f64 = 1e-6;

/// A clip cut into windows.
pub(crate) struct Windows {
    /// Each of `window_samples`.
    pub(crate) chunks: Vec<Vec<f32>>,
    /// The clip went on after the last one allowed.
    pub(crate) is_truncated: bool,
}

/// Windows that a clip of `samples` has, were there no limit on their number.
pub(crate) fn count(config: &Config, samples: usize) -> usize {
    let padded = samples.saturating_add(2 * config.context_samples);
    let last = padded.saturating_sub(config.window_samples).div_ceil(config.hop_samples);
    let covered = padded - last * config.hop_samples;
    let is_kept = covered as f64 >= config.coverage_min * config.window_samples as f64;
    if is_kept || last == 0 { last + 1 } else { last }
}

/// So many samples are looked at: with them it is certain that there is one window more than allowed.
pub(crate) fn samples_max(config: &Config) -> usize {
    let (window, hop) = (config.window_samples, config.hop_samples);
    let covered = config.windows_max * hop + (config.coverage_min * window as f64).ceil() as usize;
    let reached = window + (config.windows_max - 1) * hop + 1;
    covered.max(reached).saturating_sub(2 * config.context_samples).max(1)
}

/// Cuts `samples`, which are amplified in place first.
pub(crate) fn cut(config: &Config, samples: &mut [f32]) -> Windows {
    if let Some(target) = config.gain_rms_dbfs {
        amplify(samples, target);
    }
    let wanted = count(config, samples.len());
    let kept = wanted.min(config.windows_max);
    let chunks = (0..kept).map(|i| window(config, samples, i * config.hop_samples)).collect();
    Windows { chunks, is_truncated: wanted > kept }
}

/// The window that starts at `start` of the padded clip.
fn window(config: &Config, samples: &[f32], start: usize) -> Vec<f32> {
    let mut chunk = vec![0.0; config.window_samples];
    let zeros = config.context_samples.saturating_sub(start).min(chunk.len());
    let from = start.saturating_sub(config.context_samples).min(samples.len());
    let len = (samples.len() - from).min(chunk.len() - zeros);
    chunk[zeros..zeros + len].copy_from_slice(&samples[from..from + len]);
    chunk
}

fn amplify(samples: &mut [f32], target_dbfs: f64) {
    let rms = rms(samples);
    let gain = 10f64.powf(target_dbfs / 20.0) / rms;
    if rms >= GAIN_RMS_MIN && gain > 1.0 {
        samples.iter_mut().for_each(|x| *x = (f64::from(*x) * gain) as f32);
    }
}
