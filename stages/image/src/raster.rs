//! All formats but JPEG, through the decoders of the `image` crate.
//!
//! A decoder is opened on the header, asked for the size, and only then may decode. Its own limit on memory is set to what
//! the declared size explains. Some of these decoders panic on files made to break them (tiled planar TIFF in `tiff` 0.11),
//! so every call is guarded: a stage never panics, whatever it is given.

use crate::format::Format;
use crate::frames::{self, Frames};
use crate::pixels::{self, Pixels};
use crate::plan::Turn;
use crate::reject;
use image::codecs::{
    bmp::BmpDecoder, gif::GifDecoder, png::PngDecoder, tiff::TiffDecoder, webp::WebPDecoder,
};
use image::{ColorType, ExtendedColorType, ImageDecoder, ImageError, ImageResult, Limits};
use spawn_core::Rejection;
use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Most memory for colour profiles, texts, tiles and tables beside the pixels.
const SIDE_BYTES: u64 = 4 << 20;

/// An opened picture.
pub(crate) struct Raster<'a> {
    bytes: &'a [u8],
    decoder: Box<dyn ImageDecoder + 'a>,
    format: Format,
    color: ColorType,
    size: (u32, u32),
    frames: Frames,
}

/// What the header says beside the size.
pub(crate) struct Opened<'a> {
    pub(crate) raster: Raster<'a>,
    pub(crate) size: (u32, u32),
    pub(crate) turn: Turn,
    pub(crate) flags: Vec<&'static str>,
}

/// Opens `bytes`. `allowed` checks a size before anything of that size is made.
pub(crate) fn open<'a>(
    format: Format,
    bytes: &'a [u8],
    allowed: &dyn Fn((u32, u32)) -> Result<(), Rejection>,
) -> Result<Opened<'a>, Rejection> {
    let frames = match format {
        Format::Gif => frames::gif(bytes),
        Format::WebP => frames::webp(bytes),
        _ => Frames::default(),
    };
    if frames.first != (0, 0) {
        allowed(frames.first)?;
    }
    if let (Format::Png, Some(size)) = (format, png_size(bytes)) {
        allowed(size)?; // the decoder makes room for rows when it is opened
    }
    guarded(format, bytes, || {
        let mut flags = Vec::new();
        let mut decoder = decoder(format, bytes, &mut flags)?;
        if frames.animated {
            flags.push("animated");
        }
        let size = decoder.dimensions();
        let color = decoder.color_type();
        describe(color, decoder.original_color_type(), &mut flags);
        let turn = decoder.orientation().map_or(Turn::default(), |o| Turn::from_exif(o.to_exif()));
        Ok(Opened { raster: Raster { bytes, decoder, format, color, size, frames }, size, turn, flags })
    })
}

impl Raster<'_> {
    /// Most bytes that [`Raster::decode`] holds at once, the returned pixels included.
    pub(crate) fn bytes_max(&self) -> u64 {
        let pixels = area(self.size);
        let flattened =
            if self.color == ColorType::La8 || self.color == ColorType::La16 { 3 * pixels } else { 0 };
        self.decoded().saturating_add(self.extra()).saturating_add(flattened)
    }

    fn decoded(&self) -> u64 {
        area(self.size).saturating_mul(u64::from(self.color.bytes_per_pixel()))
    }

    /// What the decoder needs beside the buffer that it decodes into.
    fn extra(&self) -> u64 {
        let pixels = area(self.size).max(area(self.frames.first));
        let inside: u64 = match self.format {
            Format::Bmp | Format::Jpeg => 0,
            // Rows before and after filtering.
            Format::Png => 64 * u64::from(self.size.0),
            // A frame that does not fill the canvas is decoded beside it.
            Format::Gif => 4 * area(self.frames.first),
            // Planes, alpha and, when animated, the canvas.
            Format::WebP => 12 * pixels,
            // All of it once, then copied; CMYK has a fourth sample. A strip may hold everything once more.
            Format::Tiff => self.decoded().saturating_mul(8) / 3,
        };
        inside.saturating_add(SIDE_BYTES)
    }

    /// Decodes to 8-bit grey or RGB on `background`, into the memory of `data`, whatever that held. Returns whether something was transparent.
    pub(crate) fn decode(self, background: [u8; 3], mut data: Vec<u8>) -> Result<(Pixels, bool), Rejection> {
        let Raster { bytes, format, color, size, .. } = self;
        let mut limits = Limits::no_limits();
        limits.max_alloc = Some(self.decoded().saturating_add(self.extra()));
        let length =
            usize::try_from(self.decoded()).map_err(|_| reject::malformed("too large for this machine"))?;
        let mut decoder = self.decoder;
        let mut data = guarded(format, bytes, || {
            decoder.set_limits(limits)?;
            data.clear();
            data.resize(length, 0);
            decoder.read_image_boxed(&mut data)?;
            Ok(data)
        })?;
        let narrow = match color {
            ColorType::L16 => ColorType::L8,
            ColorType::La16 => ColorType::La8,
            ColorType::Rgb16 => ColorType::Rgb8,
            ColorType::Rgba16 => ColorType::Rgba8,
            same @ (ColorType::L8 | ColorType::La8 | ColorType::Rgb8 | ColorType::Rgba8) => same,
            other => {
                return Err(reject::unsupported(format!(
                    "{}: samples of type {other:?}; 8 and 16 bits are decoded",
                    format.name()
                )));
            }
        };
        if narrow != color {
            pixels::narrow(&mut data);
        }
        let (channels, transparent) = pixels::flatten(&mut data, narrow, background);
        Ok((Pixels { data, width: size.0, height: size.1, channels }, transparent))
    }
}

fn decoder<'a>(
    format: Format,
    bytes: &'a [u8],
    flags: &mut Vec<&'static str>,
) -> ImageResult<Box<dyn ImageDecoder + 'a>> {
    let reader = Cursor::new(bytes);
    Ok(match format {
        Format::Bmp => {
            if matches!(bytes.get(28), Some(1..=8)) {
                flags.push("palette");
            }
            Box::new(BmpDecoder::new(reader)?)
        }
        Format::Gif => {
            flags.push("palette");
            Box::new(GifDecoder::new(reader)?)
        }
        Format::Png => {
            let width = png_size(bytes).map_or(0, |(width, _)| u64::from(width));
            let mut limits = Limits::no_limits();
            limits.max_alloc = Some(SIDE_BYTES + 64 * width);
            let decoder = PngDecoder::with_limits(reader, limits)?;
            if bytes.get(25) == Some(&3) {
                flags.push("palette");
            }
            if decoder.is_apng()? {
                flags.push("animated");
            }
            Box::new(decoder)
        }
        Format::Tiff => Box::new(TiffDecoder::new(reader)?),
        Format::WebP => Box::new(WebPDecoder::new(reader)?),
        Format::Jpeg => unreachable!("JPEG has its own decoder. This is a bug."),
    })
}

/// Flags that follow from the type of the samples.
fn describe(color: ColorType, original: ExtendedColorType, flags: &mut Vec<&'static str>) {
    if !color.has_color() {
        flags.push("grey");
    }
    if u16::from(color.bytes_per_pixel()) == 2 * u16::from(color.channel_count()) {
        flags.push("sixteen_bit");
    }
    if matches!(original, ExtendedColorType::Cmyk8 | ExtendedColorType::Cmyk16) {
        flags.push("cmyk");
    }
}

/// Width and height in the first chunk of a PNG.
fn png_size(bytes: &[u8]) -> Option<(u32, u32)> {
    let size = bytes.get(16..24)?;
    let number = |at: usize| u32::from_be_bytes([size[at], size[at + 1], size[at + 2], size[at + 3]]);
    Some((number(0), number(4)))
}

fn area((width, height): (u32, u32)) -> u64 {
    u64::from(width) * u64::from(height)
}

/// Runs a decoder on `bytes`. Its error and its panic are the record's fault.
fn guarded<T>(
    format: Format,
    bytes: &[u8],
    run: impl FnOnce() -> Result<T, ImageError>,
) -> Result<T, Rejection> {
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(Ok(done)) => Ok(done),
        // The lossy decoder stumbles over what is missing without saying so.
        Ok(Err(error)) if format == Format::WebP && frames::webp_ends_early(bytes) => {
            Err(reject::truncated(format!("WebP: the file ends before its declared end: {error}")))
        }
        Ok(Err(error)) => Err(reject::decoder(format.name(), &error)),
        Err(_) => Err(reject::malformed(format!("{}: the decoder gave up on this file", format.name()))),
    }
}
