//! What decoders yield, to what the resizer takes: one byte a sample, one (grey) or three (RGB) samples a pixel.
//!
//! All but one conversion shrink in place, front to back, so that a large picture needs no second buffer.

use image::ColorType;

/// A decoded picture at its decoding scale; `data` has `width * height * channels` bytes.
#[derive(Debug)]
pub(crate) struct Pixels {
    pub(crate) data: Vec<u8>,
    pub(crate) width: u32,
    pub(crate) height: u32,
    /// 1 or 3.
    pub(crate) channels: usize,
}

/// Samples of 16 bits in native byte order to 8 bits, rounded: 65535 is 255.
pub(crate) fn narrow(data: &mut Vec<u8>) {
    let count = data.len() / 2;
    for i in 0..count {
        let wide = u32::from(u16::from_ne_bytes([data[2 * i], data[2 * i + 1]]));
        data[i] = ((wide + 128) / 257) as u8;
    }
    data.truncate(count);
}

/// CMYK as JPEG files hold it to RGB. Adobe stores inks inverted (255 is no ink) and everybody follows; so a channel is
/// ink times black. Naive on purpose: it is what Pillow and browsers without a colour profile do.
pub(crate) fn cmyk_to_rgb(data: &mut Vec<u8>) {
    let count = data.len() / 4;
    for i in 0..count {
        let black = u32::from(data[4 * i + 3]);
        for channel in 0..3 {
            data[3 * i + channel] = divide_255(u32::from(data[4 * i + channel]) * black);
        }
    }
    data.truncate(3 * count);
}

/// Removes alpha, showing `background` where there is some transparency. Returns the channels left and whether anything was
/// transparent at all. `color` is an 8-bit type.
pub(crate) fn flatten(data: &mut Vec<u8>, color: ColorType, background: [u8; 3]) -> (usize, bool) {
    match color {
        ColorType::La8 => {
            let transparent = data.chunks_exact(2).any(|p| p[1] != 255);
            if !transparent {
                let count = data.len() / 2;
                (0..count).for_each(|i| data[i] = data[2 * i]);
                data.truncate(count);
                return (1, false);
            }
            *data = data.chunks_exact(2).flat_map(|p| over([p[0]; 3], p[1], background)).collect();
            (3, true)
        }
        ColorType::Rgba8 => {
            let mut transparent = false;
            let count = data.len() / 4;
            for i in 0..count {
                let [r, g, b, a] = [data[4 * i], data[4 * i + 1], data[4 * i + 2], data[4 * i + 3]];
                transparent |= a != 255;
                data[3 * i..3 * i + 3].copy_from_slice(&over([r, g, b], a, background));
            }
            data.truncate(3 * count);
            (3, transparent)
        }
        other => (usize::from(other.channel_count()), false),
    }
}

/// Porter and Duff's "over" on an opaque background.
fn over(color: [u8; 3], alpha: u8, background: [u8; 3]) -> [u8; 3] {
    let alpha = u32::from(alpha);
    std::array::from_fn(|c| {
        divide_255(u32::from(color[c]) * alpha + u32::from(background[c]) * (255 - alpha))
    })
}

/// Rounded division by 255, exact up to 255 * 255.
fn divide_255(value: u32) -> u8 {
    let biased = value + 128;
    (((biased >> 8) + biased) >> 8) as u8
}
