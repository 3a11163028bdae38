//! Walks the markers of a JPEG up to its first scan (ITU-T T.81, annex B). Never reads image data.

use crate::plan::Turn;
use crate::reject;
use image::metadata::Orientation;
use spawn_core::Rejection;

/// Components that a picture may have: grey, YCbCr or RGB, CMYK or YCCK.
const COMPONENTS: [usize; 3] = [1, 3, 4];

/// What is known before decoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// As stored, before orientation.
    pub(crate) width: u32,
    /// As stored, before orientation.
    pub(crate) height: u32,
    /// 1, 3 or 4.
    pub(crate) components: usize,
    /// Coefficients that stay in memory until the last scan; 0 if the picture has only one scan.
    coefficients: u64,
    /// Cannot be decoded at a scale.
    pub(crate) lossless: bool,
    /// From EXIF.
    pub(crate) turn: Turn,
    /// Where the first scan starts.
    pub(crate) scan_at: usize,
}

/// One marker segment.
struct Segment<'a> {
    marker: u8,
    body: &'a [u8],
    /// Where the next marker is looked for.
    next: usize,
}

impl Header {
    /// Parses the header of `bytes`, which start with the marker of a JPEG.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, Rejection> {
        let mut frame: Option<Self> = None;
        let mut turn = Turn::default();
        let mut at = 2;
        loop {
            let segment = next_segment(bytes, at)?;
            match segment.marker {
                0xc0..=0xcf if !matches!(segment.marker, 0xc4 | 0xc8 | 0xcc) => {
                    frame = Some(frame_header(segment.marker, segment.body)?);
                }
                // Of several, viewers take the first.
                0xe1 if turn.is_none() => turn = exif_turn(segment.body).unwrap_or(turn),
                0xda => {
                    let Some(mut frame) = frame else {
                        return Err(reject::malformed("JPEG: image data without a frame header before it"));
                    };
                    // A baseline picture may have a scan for each component, too.
                    let interleaved =
                        segment.body.first().is_some_and(|n| usize::from(*n) == frame.components);
                    if !interleaved && frame.coefficients == 0 {
                        frame.coefficients =
                            u64::from(frame.width) * u64::from(frame.height) * frame.components as u64;
                    }
                    return Ok(Self { turn, scan_at: segment.next, ..frame });
                }
                0xd9 => return Err(reject::malformed("JPEG: ends before any image data")),
                _ => {}
            }
            at = segment.next;
        }
    }
}

impl Header {
    /// Bytes that the decoder keeps from the first scan to the last.
    pub(crate) fn coefficient_bytes(&self) -> u64 {
        2 * self.coefficients
    }
}

/// How many there are: blocks of 64, padded to whole units of the most finely sampled component.
fn coefficients((width, height): (u32, u32), sampling: &[u8], components: usize) -> u64 {
    let factors: Vec<(u64, u64)> = sampling
        .chunks_exact(3)
        .take(components)
        .map(|c| (u64::from(c[1] >> 4).max(1), u64::from(c[1] & 15).max(1)))
        .collect();
    let most = factors.iter().fold((1, 1), |m, f| (m.0.max(f.0), m.1.max(f.1)));
    let units = u64::from(width).div_ceil(8 * most.0) * u64::from(height).div_ceil(8 * most.1);
    factors.iter().map(|(h, v)| units * h * v * 64).sum()
}

/// Does the picture have an end marker? Inside image data 0xff is always followed by something else, so there is no other.
pub(crate) fn has_end(bytes: &[u8], scan_at: usize) -> bool {
    bytes.get(scan_at..).is_some_and(|rest| rest.windows(2).rev().any(|pair| pair == [0xff, 0xd9]))
}

/// The segment at or after `at`. Bytes between segments are skipped, as all decoders do.
fn next_segment(bytes: &[u8], at: usize) -> Result<Segment<'_>, Rejection> {
    let ends = || reject::truncated("JPEG: the data ends inside the header");
    let mut at = at;
    loop {
        let rest = bytes.get(at..).ok_or_else(ends)?;
        let found = rest.iter().position(|b| *b == 0xff).ok_or_else(ends)?;
        let filled = rest[found..].iter().position(|b| *b != 0xff).ok_or_else(ends)?;
        let marker = rest[found + filled];
        let after = at + found + filled + 1;
        match marker {
            0 | 0x01 | 0xd0..=0xd8 => at = after, // no length follows
            0xd9 => return Ok(Segment { marker, body: &[], next: after }),
            _ => {
                let length = bytes.get(after..after + 2).ok_or_else(ends)?;
                let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
                if length < 2 {
                    return Err(reject::malformed(format!(
                        "JPEG: marker 0x{marker:02x} declares a length of {length}"
                    )));
                }
                let body = bytes.get(after + 2..after + length).ok_or_else(ends)?;
                return Ok(Segment { marker, body, next: after + length });
            }
        }
    }
}

fn frame_header(marker: u8, body: &[u8]) -> Result<Header, Rejection> {
    let &[precision, h0, h1, w0, w1, components, ..] = body else {
        return Err(reject::malformed("JPEG: the frame header is too short"));
    };
    let (width, height) = (u32::from(u16::from_be_bytes([w0, w1])), u32::from(u16::from_be_bytes([h0, h1])));
    let components = usize::from(components);
    if precision != 8 {
        return Err(reject::unsupported(format!("JPEG: {precision} bits a sample; 8 are decoded")));
    }
    if !COMPONENTS.contains(&components) {
        return Err(reject::unsupported(format!("JPEG: {components} components; 1, 3 and 4 are decoded")));
    }
    if width == 0 || height == 0 {
        return Err(reject::malformed(format!("JPEG: the header declares {width}x{height} pixels")));
    }
    let sampling = body.get(6..).unwrap_or_default();
    let coefficients = match marker {
        0xc2 | 0xca => coefficients((width, height), sampling, components),
        _ => 0,
    };
    Ok(Header {
        width,
        height,
        components,
        coefficients,
        lossless: matches!(marker, 0xc3 | 0xcb),
        turn: Turn::default(),
        scan_at: 0,
    })
}

fn exif_turn(body: &[u8]) -> Option<Turn> {
    let tiff = body.strip_prefix(b"Exif\0\0")?;
    Orientation::from_exif_chunk(tiff).map(|o| Turn::from_exif(o.to_exif()))
}
