//! Geometry: which part of the picture goes where, and at which scale a JPEG is decoded.
//!
//! Everything is planned on the upright picture, as a viewer sees it, with the rounding of Pillow and torchvision; the part is
//! then turned back into the stored picture. So the big picture is never rotated: only the resized one is, last.

use crate::config::{Config, Filter, Fit};

/// Scales of libjpeg-turbo that are used, as denominators, smallest picture first. 1/2 and 1/4 have SIMD inverse transforms and
/// 1/8 needs none (a fifth faster than 1/4 on 17 megapixels); all other eighths are slow.
const JPEG_DENOMINATORS: [u32; 3] = [8, 4, 2];

/// How the stored picture must be changed to be upright: swap the axes, then mirror. Any EXIF orientation is one of these.
///
/// Upright pixel (x, y) is the stored pixel (u, v), where (u, v) = (y, x) if `transpose`, else (x, y); counted from the right
/// edge if `mirror_u`, from the bottom if `mirror_v`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Turn {
    pub(crate) transpose: bool,
    pub(crate) mirror_u: bool,
    pub(crate) mirror_v: bool,
}

impl Turn {
    /// From the value of the EXIF tag 0x0112 (TIFF 6.0, "Orientation"); anything but 2 to 8 is upright already.
    pub(crate) fn from_exif(value: u8) -> Self {
        let (transpose, mirror_u, mirror_v) = match value {
            2 => (false, true, false),
            3 => (false, true, true),
            4 => (false, false, true),
            5 => (true, false, false),
            6 => (true, false, true),
            7 => (true, true, true),
            8 => (true, true, false),
            _ => (false, false, false),
        };
        Self { transpose, mirror_u, mirror_v }
    }

    /// Is there anything to do?
    pub(crate) fn is_none(self) -> bool {
        self == Self::default()
    }

    /// Width and height, swapped if the axes are.
    pub(crate) fn size<T>(self, (width, height): (T, T)) -> (T, T) {
        if self.transpose { (height, width) } else { (width, height) }
    }
}

/// A rectangle in pixels; edges may lie between pixels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Rect {
    pub(crate) left: f64,
    pub(crate) top: f64,
    pub(crate) width: f64,
    pub(crate) height: f64,
}

impl Rect {
    /// This part of an upright picture of `size`, in the stored picture.
    fn stored(self, turn: Turn, size: (f64, f64)) -> Self {
        let (width, height) = turn.size((self.width, self.height));
        let (mut left, mut top) = turn.size((self.left, self.top));
        let (full_width, full_height) = turn.size(size);
        if turn.mirror_u {
            left = full_width - left - width;
        }
        if turn.mirror_v {
            top = full_height - top - height;
        }
        Self { left, top, width, height }
    }
}

/// What to do with one picture.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Plan {
    /// How to turn the resized picture.
    pub(crate) turn: Turn,
    /// The part of the stored picture that is used, in pixels of full scale.
    pub(crate) part: Rect,
    /// What that part is resized to, before turning.
    pub(crate) resized: (u32, u32),
    /// Where the turned picture lies on the output; (0, 0) unless padded.
    pub(crate) offset: (u32, u32),
}

impl Plan {
    /// For a stored picture of `width` x `height`, both at least 1.
    pub(crate) fn new(config: &Config, (width, height): (u32, u32), turn: Turn) -> Self {
        let size = turn.size((f64::from(width), f64::from(height)));
        let (part, resized, offset) = match (config.fit, config.resize_short) {
            (Fit::Crop, Some(short)) => (cut_after_resize(config, size, short), output(config), (0, 0)),
            (Fit::Crop, None) => (largest_part(config, size), output(config), (0, 0)),
            (Fit::Stretch, _) => (whole(size), output(config), (0, 0)),
            (Fit::Pad, _) => {
                let inner = contained(config, size);
                (whole(size), inner, centred(config, inner))
            }
        };
        Self { turn, part: part.stored(turn, size), resized: turn.size(resized), offset }
    }

    /// Source pixels per output pixel, along the axis where there are fewer.
    pub(crate) fn factor(&self) -> f64 {
        let (width, height) = self.resized;
        (self.part.width / f64::from(width)).min(self.part.height / f64::from(height))
    }

    /// The smallest scale at which a JPEG still has twice the pixels of the output, so that the filter decides how it
    /// looks: 1, 2, 4 or 8 for 1/1 to 1/8. `Nearest` asks for single source pixels, which only full scale has.
    pub(crate) fn jpeg_denominator(&self, filter: Filter) -> u32 {
        if filter == Filter::Nearest {
            return 1;
        }
        let fits = |denominator: &u32| self.factor() >= 2.0 * f64::from(*denominator);
        JPEG_DENOMINATORS.into_iter().find(fits).unwrap_or(1)
    }
}

fn output(config: &Config) -> (u32, u32) {
    (config.width, config.height)
}

fn whole((width, height): (f64, f64)) -> Rect {
    Rect { left: 0.0, top: 0.0, width, height }
}

/// torchvision's `Resize(short)` then `CenterCrop`: the longer side is truncated, the offset is rounded half to even. Cutting
/// before instead of after the resize gives the same pixels, because kernels reach beyond the part.
fn cut_after_resize(config: &Config, (width, height): (f64, f64), short: u32) -> Rect {
    let short = f64::from(short);
    let resized = if width <= height {
        (short, (short * height / width).floor())
    } else {
        ((short * width / height).floor(), short)
    };
    let cut = |full: f64, resized: f64, wanted: u32| {
        let wanted = f64::from(wanted);
        let offset = ((resized - wanted) / 2.0).round_ties_even();
        (offset * full / resized, wanted * full / resized)
    };
    let (left, part_width) = cut(width, resized.0, config.width);
    let (top, part_height) = cut(height, resized.1, config.height);
    Rect { left, top, width: part_width, height: part_height }
}

/// Pillow's `ImageOps.fit`.
fn largest_part(config: &Config, (width, height): (f64, f64)) -> Rect {
    let ratio = f64::from(config.width) / f64::from(config.height);
    let (part_width, part_height) =
        if width / height >= ratio { (ratio * height, height) } else { (width, width / ratio) };
    // Rounding must not reach beyond the picture.
    let (part_width, part_height) = (part_width.min(width), part_height.min(height));
    Rect {
        left: (width - part_width) * 0.5,
        top: (height - part_height) * 0.5,
        width: part_width,
        height: part_height,
    }
}

/// Pillow's `ImageOps.contain`.
fn contained(config: &Config, (width, height): (f64, f64)) -> (u32, u32) {
    let (wide, tall) = output(config);
    let length = |exact: f64, limit: u32| exact.round_ties_even().clamp(1.0, f64::from(limit)) as u32;
    let (ratio, wanted) = (width / height, f64::from(wide) / f64::from(tall));
    if ratio > wanted {
        (wide, length(height / width * f64::from(wide), tall))
    } else if ratio < wanted {
        (length(width / height * f64::from(tall), wide), tall)
    } else {
        (wide, tall)
    }
}

/// Pillow's `ImageOps.pad`.
fn centred(config: &Config, (width, height): (u32, u32)) -> (u32, u32) {
    let middle = |outer: u32, inner: u32| (f64::from(outer - inner) * 0.5).round_ties_even() as u32;
    (middle(config.width, width), middle(config.height, height))
}
