//! The stage: a file in, windows of samples out.

use crate::decode::contained;
use crate::source::Source;
use crate::{Config, Decoder, Limits, resample, windows};
use spawn_core::{Array, ArrayData, Features, Media, MediaFacts, Prepared, Rejection, Stage};

/// What the decoders hold beside the clip: the reader's ring (64 KiB), the largest FLAC block of eight channels in the
/// decoder's, the mixer's and the mono form, libopus, Vorbis code books. Measured below 6 MiB.
const DECODER_BYTES: usize = 8 << 20;

/// Prepares sound for one model. See the crate's head for what it does to a clip.
pub struct AudioStage {
    config: Config,
    limits: Limits,
    decoder: Decoder,
    spec: String,
}

impl AudioStage {
    /// A stage for the model whose manifest has `config`.
    pub fn new(config: Config, limits: Limits) -> Result<Self, String> {
        config.validate()?;
        limits.validate()?;
        let spec = spec(&config);
        let decoder = Decoder::new(config.sample_rate, limits);
        Ok(Self { config, limits, decoder, spec })
    }
}

/// Everything that changes the output. The number after `audio` counts changes of this crate that do.
fn spec(config: &Config) -> String {
    let gain = config.gain_rms_dbfs.map_or("none".to_owned(), |db| db.to_string());
    format!(
        "audio 1; decode symphonia 0.6, libopus; mono mean; resample rubato 5 fft; rate {}; window {} hop {} context {} \
         coverage_min {}; gain_rms_dbfs {gain}; windows_max {}",
        config.sample_rate,
        config.window_samples,
        config.hop_samples,
        config.context_samples,
        config.coverage_min,
        config.windows_max
    )
}

impl Stage for AudioStage {
    fn spec(&self) -> &str {
        &self.spec
    }

    fn footprint(&self, media: &Media) -> Result<usize, Rejection> {
        let (rate, most) = contained(|| {
            let source = Source::open(&media.bytes, &self.limits)?;
            Ok((source.rate, source.seconds_most()))
        })?;
        let seconds = most.unwrap_or(f64::MAX).min(self.limits.seconds_max);
        let all = (seconds * f64::from(self.config.sample_rate)).ceil() as usize;
        let samples = all.min(windows::samples_max(&self.config));
        let chunks = windows::count(&self.config, samples).min(self.config.windows_max);
        let slack = 2 * self.config.sample_rate as usize;
        // Without a bound the clip's memory grows by doubling: old and new are held for a moment.
        let copies = if most.is_some() { 1 } else { 3 };
        let resampler = resample::bytes_max(rate, self.config.sample_rate);
        // The reader's tables and tags (sample sizes, pictures) are copies of parts of the file.
        let reader = 2 * media.bytes.len();
        Ok(4 * (samples + slack) * copies
            + 4 * chunks * self.config.window_samples
            + resampler
            + reader
            + DECODER_BYTES)
    }

    fn process(&mut self, media: &Media) -> Result<Prepared, Rejection> {
        let mut clip = self.decoder.decode(&media.bytes, windows::samples_max(&self.config))?;
        let cut = windows::cut(&self.config, &mut clip.samples);
        let mut flags = clip.flags;
        if cut.is_truncated {
            flags.push("truncated");
        }
        flags.sort_unstable();
        let second = |i: usize| (i * self.config.hop_samples) as f64 / f64::from(self.config.sample_rate);
        let chunk_starts =
            if cut.chunks.len() > 1 { (0..cut.chunks.len()).map(second).collect() } else { Vec::new() };
        let facts = MediaFacts {
            media_type: clip.media_type.into(),
            duration_seconds: Some(clip.seconds),
            sample_rate: Some(clip.source_rate),
            channels: Some(clip.channels),
            chunk_starts,
            flags: flags.into_iter().map(Into::into).collect(),
            ..MediaFacts::default()
        };
        let shape = [self.config.window_samples];
        let features = |samples| Features {
            arrays: vec![Array { name: "audio", shape: shape.to_vec(), data: ArrayData::F32(samples) }],
        };
        Ok(Prepared { chunks: cut.chunks.into_iter().map(features).collect(), facts })
    }

    fn fork(&self) -> Box<dyn Stage> {
        Box::new(Self {
            config: self.config.clone(),
            limits: self.limits,
            decoder: Decoder::new(self.config.sample_rate, self.limits),
            spec: self.spec.clone(),
        })
    }
}
