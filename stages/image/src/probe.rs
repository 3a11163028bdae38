//! The header of any format, checked against the limits. What it says decides the plan and what decoding will cost.

use crate::config::{Config, Limits};
use crate::format::Format;
use crate::jpeg;
use crate::plan::{Plan, Turn};
use crate::raster::{self, Raster};
use crate::reject;
use spawn_core::{Media, Rejection};

/// Bytes of tables and small buffers that any decoder needs.
const OVERHEAD_BYTES: u64 = 256 << 10;

/// Bytes per row and column of resizing: weights of the widest filter, as floats and as integers.
const WEIGHT_BYTES: u64 = 96;

/// Bytes per column and component that libjpeg keeps: a few rows of blocks, before and after upsampling.
const JPEG_COLUMN_BYTES: u64 = 96;

/// A picture that may be decoded.
pub(crate) struct Probe<'a> {
    pub(crate) format: Format,
    /// As stored, before orientation.
    pub(crate) size: (u32, u32),
    pub(crate) plan: Plan,
    /// 1, or what a JPEG's sides are divided by when decoding.
    pub(crate) denominator: u32,
    pub(crate) flags: Vec<&'static str>,
    pub(crate) source: Source<'a>,
}

/// How it will be decoded.
pub(crate) enum Source<'a> {
    Jpeg(jpeg::Header),
    Raster(Raster<'a>),
}

impl<'a> Probe<'a> {
    /// Reads the header of `media`. Cheap: no image data is touched.
    pub(crate) fn new(config: &Config, limits: &Limits, media: &'a Media) -> Result<Self, Rejection> {
        let bytes = &media.bytes[..];
        if bytes.is_empty() {
            return Err(reject::empty());
        }
        if bytes.len() > limits.bytes_max {
            return Err(reject::bytes(bytes.len(), limits.bytes_max));
        }
        let allowed = |(width, height): (u32, u32)| match u64::from(width) * u64::from(height) {
            pixels if pixels > limits.pixels_max => Err(reject::pixels(width, height, limits.pixels_max)),
            _ => Ok(()),
        };
        let format = Format::of(media)?;
        let (source, size, turn, mut flags) = match format {
            Format::Jpeg => {
                let header = jpeg::Header::parse(bytes)?;
                let flags = jpeg_flags(&header);
                (Source::Jpeg(header), (header.width, header.height), header.turn, flags)
            }
            _ => {
                let opened = raster::open(format, bytes, &allowed)?;
                (Source::Raster(opened.raster), opened.size, opened.turn, opened.flags)
            }
        };
        allowed(size)?;
        if size.0 == 0 || size.1 == 0 {
            let (width, height) = size;
            return Err(reject::malformed(format!("{}: {width}x{height} pixels", format.name())));
        }
        let plan = Plan::new(config, size, turn);
        if turn != Turn::default() {
            flags.push("exif_applied");
        }
        if plan.factor() < 1.0 {
            flags.push("upscaled");
        }
        let denominator = match &source {
            Source::Jpeg(header) if !header.lossless => plan.jpeg_denominator(config.filter),
            _ => 1,
        };
        Ok(Self { format, size, plan, denominator, flags, source })
    }

    /// Most bytes that decoding and resizing hold at once, the output included.
    pub(crate) fn bytes_max(&self, config: &Config) -> usize {
        let (width, height) = self.size;
        let decoded =
            (u64::from(width.div_ceil(self.denominator)), u64::from(height.div_ceil(self.denominator)));
        let (decoding, channels) = match &self.source {
            Source::Raster(raster) => (raster.bytes_max(), 3),
            Source::Jpeg(header) => {
                let components = header.components as u64;
                let rows = u64::from(width) * components * JPEG_COLUMN_BYTES;
                (decoded.0 * decoded.1 * components + header.coefficient_bytes() + rows, components.min(3))
            }
        };
        let (wide, tall) = (u64::from(self.plan.resized.0), u64::from(self.plan.resized.1));
        let resizing = ((decoded.0 * tall).max(decoded.1 * wide) + wide * tall) * channels
            + (decoded.0 + decoded.1 + wide + tall) * WEIGHT_BYTES;
        let output = u64::from(config.width) * u64::from(config.height) * 3;
        let total = decoding.saturating_add(resizing).saturating_add(output).saturating_add(OVERHEAD_BYTES);
        usize::try_from(total).unwrap_or(usize::MAX)
    }
}

fn jpeg_flags(header: &jpeg::Header) -> Vec<&'static str> {
    match header.components {
        1 => vec!["grey"],
        4 => vec!["cmyk"],
        _ => Vec::new(),
    }
}
