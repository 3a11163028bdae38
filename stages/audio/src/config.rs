//! What the model's manifest and the deployment say, checked once.

use serde::Deserialize;

/// The `[preparation]` table of an audio model's manifest.
///
/// The clip (mono, at [`Config::sample_rate`], raised to [`Config::gain_rms_dbfs`]) is padded with
/// [`Config::context_samples`] zeros at both ends and cut into windows.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Hertz that the model wants, 4,000 to 48,000.
    pub sample_rate: u32,
    /// Samples of one window, at most a minute.
    pub window_samples: usize,
    /// Samples from the start of one window to the start of the next, 1 to `window_samples`.
    pub hop_samples: usize,
    /// Zeros before and after the clip: half an analysis frame, so that the first frame is centred on the first sample.
    #[serde(default)]
    pub context_samples: usize,
    /// A last window of which a smaller share (0 to 1) is covered by the padded clip is dropped, unless it is the only one.
    #[serde(default)]
    pub coverage_min: f64,
    /// Clips whose root mean square lies below this (dB relative to full scale, -90 to 0) are amplified up to it; louder
    /// ones are left alone. Absent: no gain.
    pub gain_rms_dbfs: Option<f64>,
    /// Most windows of one clip, 1 to 100,000; what follows is left out and the clip flagged `truncated`.
    pub windows_max: usize,
}

impl Config {
    /// Checks the ranges.
    pub fn validate(&self) -> Result<(), String> {
        let checks = [
            ((4_000..=48_000).contains(&self.sample_rate), "sample_rate must be 4000 to 48000"),
            (
                (1..=60 * self.sample_rate as usize).contains(&self.window_samples),
                "window_samples must be 1 to a minute of samples",
            ),
            (
                (1..=self.window_samples).contains(&self.hop_samples),
                "hop_samples must be 1 to window_samples",
            ),
            (
                self.context_samples <= self.window_samples / 2,
                "context_samples must be at most half of window_samples",
            ),
            ((0.0..=1.0).contains(&self.coverage_min), "coverage_min must be 0 to 1"),
            (
                self.gain_rms_dbfs.is_none_or(|db| (-90.0..=0.0).contains(&db)),
                "gain_rms_dbfs must be -90 to 0",
            ),
            ((1..=100_000).contains(&self.windows_max), "windows_max must be 1 to 100000"),
        ];
        match checks.into_iter().find(|(ok, _)| !ok) {
            Some((_, message)) => Err(format!("audio preparation: {message}")),
            None => Ok(()),
        }
    }
}

/// What one record may cost, from the deployment's configuration.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Largest encoded file in bytes.
    pub bytes_max: usize,
    /// Longest clip in seconds, by its header and, where that lies, by what comes out of the decoder.
    pub seconds_max: f64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { bytes_max: 64 << 20, seconds_max: 3_600.0 }
    }
}

impl Limits {
    /// Checks the ranges.
    pub fn validate(&self) -> Result<(), String> {
        let day = 86_400.0;
        if self.bytes_max == 0 {
            return Err("audio limits: bytes_max must be at least 1".into());
        }
        if !(self.seconds_max > 0.0 && self.seconds_max <= day) {
            return Err("audio limits: seconds_max must be above 0 and at most 86400".into());
        }
        Ok(())
    }
}
