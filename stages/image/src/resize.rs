//! Resize, turn, pad: from decoded pixels to the output of fixed size.

use crate::config::{Config, Filter};
use crate::pixels::Pixels;
use crate::plan::{Plan, Rect, Turn};
use crate::reject;
use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};
use spawn_core::Rejection;

/// A resizer with its buffers; one per worker, because making them anew costs as much as a small picture.
#[derive(Default)]
pub(crate) struct Shrinker {
    resizer: Resizer,
    narrowed: Vec<u8>,
    resized: Vec<u8>,
}

impl Shrinker {
    /// Resizes the planned part of `pixels`, decoded at 1 / `denominator`, into an output of `config`'s size, RGB.
    pub(crate) fn shrink(
        &mut self,
        pixels: &Pixels,
        denominator: u32,
        plan: &Plan,
        config: &Config,
    ) -> Result<Vec<u8>, Rejection> {
        let (kind, channels) = match pixels.channels {
            1 => (PixelType::U8, 1),
            _ => (PixelType::U8x3, 3),
        };
        let bug = |e: &dyn std::fmt::Display| reject::malformed(format!("resize: {e}"));
        let (width, height) = plan.resized;
        let source = ImageRef::new(pixels.width, pixels.height, &pixels.data, kind).map_err(|e| bug(&e))?;
        let part = scaled(plan.part, denominator, (pixels.width, pixels.height));
        let options = ResizeOptions::new().resize_alg(algorithm(config.filter)).use_alpha(false);
        self.resized.resize(width as usize * height as usize * channels, 0);
        let mut target = Image::from_slice_u8(width, height, &mut self.resized, kind).map_err(|e| bug(&e))?;
        // Between the two passes samples are rounded and cut to 0..=255, so their order shows at hard edges. The original's is rows first,
        // of the upright picture. The library's is columns first, which is right for a picture that lies on its side.
        if plan.turn.transpose || config.filter == Filter::Nearest {
            let options = options.crop(part.left, part.top, part.width, part.height);
            self.resizer.resize(&source, &mut target, &options).map_err(|e| bug(&e))?;
        } else {
            let (first, count) = rows_under(part, height, config.filter, pixels.height);
            self.narrowed.resize(width as usize * count as usize * channels, 0);
            let mut narrowed =
                Image::from_slice_u8(width, count, &mut self.narrowed, kind).map_err(|e| bug(&e))?;
            let across = options.crop(part.left, f64::from(first), part.width, f64::from(count));
            self.resizer.resize(&source, &mut narrowed, &across).map_err(|e| bug(&e))?;
            let top = part.top - f64::from(first);
            let down = options.crop(0.0, top, f64::from(width), part.height.min(f64::from(count) - top));
            self.resizer.resize(&narrowed, &mut target, &down).map_err(|e| bug(&e))?;
        }
        Ok(place(&mut self.resized, plan, channels, config))
    }

    /// Gives buffers back that a large picture made, if they exceed `bytes`.
    pub(crate) fn trim(&mut self, bytes: usize) {
        if self.resizer.size_of_internal_buffers() > bytes {
            self.resizer.reset_internal_buffers();
        }
        for buffer in [&mut self.narrowed, &mut self.resized] {
            if buffer.capacity() > bytes {
                *buffer = Vec::new();
            }
        }
    }
}

/// The part in pixels of the decoded picture. A scaled JPEG is rounded up to whole pixels, so the part is exact and the last
/// column may lie half outside it; floating-point dust must not reach beyond the picture.
fn scaled(part: Rect, denominator: u32, (width, height): (u32, u32)) -> Rect {
    let scale = f64::from(denominator);
    let axis = |start: f64, length: f64, limit: u32| {
        let limit = f64::from(limit);
        let start = (start / scale).clamp(0.0, limit);
        (start, (length / scale).min(limit - start))
    };
    let (left, part_width) = axis(part.left, part.width, width);
    let (top, part_height) = axis(part.top, part.height, height);
    Rect { left, top, width: part_width, height: part_height }
}

/// The rows of a picture `limit` high that the kernels of `part` reach when it is resized to `height` rows: the first, and how many.
fn rows_under(part: Rect, height: u32, filter: Filter, limit: u32) -> (u32, u32) {
    let reach = support(filter) * (part.height / f64::from(height)).max(1.0);
    let first = (part.top - reach).floor().max(0.0) as u32;
    let end = (part.top + part.height + reach).ceil().min(f64::from(limit)) as u32;
    (first, end - first)
}

/// Half the width of a filter's kernel, in output pixels.
fn support(filter: Filter) -> f64 {
    match filter {
        Filter::Nearest | Filter::Box => 0.5,
        Filter::Bilinear | Filter::Hamming => 1.0,
        Filter::Bicubic => 2.0,
        Filter::Lanczos3 => 3.0,
    }
}

fn algorithm(filter: Filter) -> ResizeAlg {
    match filter {
        Filter::Nearest => ResizeAlg::Nearest,
        Filter::Box => ResizeAlg::Convolution(FilterType::Box),
        Filter::Bilinear => ResizeAlg::Convolution(FilterType::Bilinear),
        Filter::Hamming => ResizeAlg::Convolution(FilterType::Hamming),
        Filter::Bicubic => ResizeAlg::Convolution(FilterType::CatmullRom),
        Filter::Lanczos3 => ResizeAlg::Convolution(FilterType::Lanczos3),
    }
}

/// Turns the resized picture upright, makes RGB of grey, and lays it on the background where it does not fill the output. Most pictures
/// need none of it, and are taken as they are.
fn place(resized: &mut Vec<u8>, plan: &Plan, channels: usize, config: &Config) -> Vec<u8> {
    let (width, height) = plan.turn.size(plan.resized);
    let fills = (width, height) == (config.width, config.height);
    if fills && channels == 3 && plan.turn.is_none() {
        return std::mem::take(resized);
    }
    let (out_width, out_height) = (config.width as usize, config.height as usize);
    let mut out = if fills {
        vec![0; out_width * out_height * 3]
    } else {
        config.background.repeat(out_width * out_height)
    };
    let (left, top) = (plan.offset.0 as usize, plan.offset.1 as usize);
    for y in 0..height as usize {
        let start = ((top + y) * out_width + left) * 3;
        let row = &mut out[start..start + width as usize * 3];
        for (x, pixel) in row.chunks_exact_mut(3).enumerate() {
            let at = stored_index(plan.turn, plan.resized, (x, y)) * channels;
            match channels {
                1 => pixel.fill(resized[at]),
                _ => pixel.copy_from_slice(&resized[at..at + 3]),
            }
        }
    }
    out
}

/// Which pixel of the stored picture of `size` is the upright pixel `(x, y)`?
fn stored_index(turn: Turn, size: (u32, u32), at: (usize, usize)) -> usize {
    let (width, height) = (size.0 as usize, size.1 as usize);
    let (mut u, mut v) = turn.size(at);
    if turn.mirror_u {
        u = width - 1 - u;
    }
    if turn.mirror_v {
        v = height - 1 - v;
    }
    v * width + u
}
