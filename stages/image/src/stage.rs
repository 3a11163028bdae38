//! The stage itself: header, decode, resize, facts.

use crate::config::{Config, Limits};
use crate::jpeg;
use crate::pixels::{self, Pixels};
use crate::probe::{Probe, Source};
use crate::resize::Shrinker;
use spawn_core::{Array, ArrayData, Features, Media, MediaFacts, Prepared, Rejection, Stage};
use std::sync::Arc;

/// Most bytes that a worker keeps in each buffer between pictures. Enough for a photo of 12 megapixels at half scale; beyond
/// that the memory belongs to the picture's own reservation and is given back with it.
const KEPT_BYTES_MAX: usize = 12 << 20;

/// Prepares pictures for a model: one array `image`, u8, `[height, width, 3]`, RGB.
///
/// Flags in the facts: `alpha_flattened`, `animated` (the first frame was taken), `cmyk`, `decoder_warning` (a harmless oddity
/// of the file), `exif_applied`, `grey`, `palette`, `sixteen_bit`, `upscaled`.
pub struct ImageStage {
    config: Arc<Config>,
    limits: Limits,
    spec: Arc<str>,
    shrinker: Shrinker,
    /// What pictures are decoded into.
    decoded: Vec<u8>,
    whole: bool,
}

impl ImageStage {
    /// A stage for the manifest's `config` within the app's `limits`; the error says which setting to change.
    pub fn new(config: Config, limits: Limits) -> Result<Self, String> {
        config.check()?;
        limits.check()?;
        let spec = config.spec().into();
        Ok(Self::with(Arc::new(config), limits, spec))
    }

    fn with(config: Arc<Config>, limits: Limits, spec: Arc<str>) -> Self {
        Self { config, limits, spec, shrinker: Shrinker::default(), decoded: Vec::new(), whole: false }
    }

    /// Decodes JPEGs at full scale, whatever the plan says; to measure what scaled decoding is worth.
    #[must_use]
    pub fn decoding_whole(mut self) -> Self {
        self.whole = true;
        self
    }

    /// Decodes at the planned scale. Adds flags that only the pixels tell.
    fn decode(
        &mut self,
        source: Source<'_>,
        denominator: u32,
        media: &Media,
        flags: &mut Vec<&'static str>,
    ) -> Result<Pixels, Rejection> {
        let mut data = std::mem::take(&mut self.decoded);
        match source {
            Source::Raster(raster) => {
                let (pixels, transparent) = raster.decode(self.config.background, data)?;
                if transparent {
                    flags.push("alpha_flattened");
                }
                Ok(pixels)
            }
            Source::Jpeg(header) => {
                if jpeg::decode(&media.bytes, &header, denominator, &mut data)? {
                    flags.push("decoder_warning");
                }
                if header.components == 4 {
                    pixels::cmyk_to_rgb(&mut data);
                }
                let (width, height) =
                    (header.width.div_ceil(denominator), header.height.div_ceil(denominator));
                Ok(Pixels { data, width, height, channels: header.components.min(3) })
            }
        }
    }
}

impl Stage for ImageStage {
    fn spec(&self) -> &str {
        &self.spec
    }

    fn footprint(&self, media: &Media) -> Result<usize, Rejection> {
        Probe::new(&self.config, &self.limits, media).map(|probe| probe.bytes_max(&self.config))
    }

    fn process(&mut self, media: &Media) -> Result<Prepared, Rejection> {
        let config = Arc::clone(&self.config);
        let Probe { format, size, plan, denominator, mut flags, source } =
            Probe::new(&config, &self.limits, media)?;
        let denominator = if self.whole { 1 } else { denominator };
        let pixels = self.decode(source, denominator, media, &mut flags)?;
        let output = self.shrinker.shrink(&pixels, denominator, &plan, &config)?;
        self.shrinker.trim(KEPT_BYTES_MAX);
        if pixels.data.capacity() <= KEPT_BYTES_MAX {
            self.decoded = pixels.data;
        }
        flags.sort_unstable();
        flags.dedup();
        let (width, height) = plan.turn.size(size);
        Ok(Prepared {
            chunks: vec![Features {
                arrays: vec![Array {
                    name: "image",
                    shape: vec![config.height as usize, config.width as usize, 3],
                    data: ArrayData::U8(output),
                }],
            }],
            facts: MediaFacts {
                media_type: format.media_type().into(),
                width: Some(width),
                height: Some(height),
                flags: flags.into_iter().map(Into::into).collect(),
                ..MediaFacts::default()
            },
        })
    }

    fn fork(&self) -> Box<dyn Stage> {
        Box::new(Self::with(Arc::clone(&self.config), self.limits, Arc::clone(&self.spec)))
    }
}
