//! Decoding through libjpeg-turbo's own interface.
//!
//! The `turbojpeg` crate reports warnings and errors alike, and by their text only. Here the difference decides: a picture
//! that ends early is refused, one with a harmless oddity (some bytes between two segments) is not.
//!
//! Every picture gets a fresh handle. libjpeg keeps the tables of the last picture for one that brings none of its own: with a
//! shared handle a damaged file would decode to something that depends on what came before it. A handle costs microseconds.

use super::header::{Header, has_end};
use crate::reject;
use spawn_core::Rejection;
use std::ffi::{CStr, c_int, c_void};
use std::ptr::NonNull;
use turbojpeg::raw;

/// Scans of a progressive picture. Encoders write about 10; every scan visits all blocks, so a small file with thousands of
/// empty ones would keep a core busy for minutes.
const SCANS_MAX: c_int = 100;

/// Parts of the warnings that leave the picture whole (`jerror.h` of libjpeg-turbo).
const HARMLESS: [&str; 6] = [
    "extraneous bytes",
    "Unknown Adobe color transform",
    "unknown JFIF revision",
    "Inconsistent progression",
    "Invalid SOS parameters",
    "bad ICC marker",
];

/// A decoder instance; destroyed when dropped.
struct Handle(NonNull<c_void>);

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: the pointer came from `tj3Init` and is destroyed only here.
        unsafe { raw::tj3Destroy(self.0.as_ptr()) }
    }
}

/// Decodes to `width x height` of `header` divided by `denominator` (1, 2, 4, 8), rounded up, into `out`: 1, 3 or 4 bytes a
/// pixel, as the picture has components (grey, RGB, CMYK). Returns whether the decoder had harmless warnings.
pub(crate) fn decode(
    bytes: &[u8],
    header: &Header,
    denominator: u32,
    out: &mut Vec<u8>,
) -> Result<bool, Rejection> {
    let handle = Handle::new()?;
    let warned = handle.read_header(bytes, header)?;
    handle.set_denominator(denominator)?;
    let (width, height) = (header.width.div_ceil(denominator), header.height.div_ceil(denominator));
    let pitch = width as usize * header.components;
    // Not cleared first: what was not decoded is never looked at, because the picture is refused then.
    out.resize(pitch * height as usize, 0);
    let pitch = c_int::try_from(pitch).map_err(|_| reject::malformed("JPEG: rows are too long"))?;
    let format = match header.components {
        1 => raw::TJPF_TJPF_GRAY,
        3 => raw::TJPF_TJPF_RGB,
        _ => raw::TJPF_TJPF_CMYK,
    };
    // SAFETY: `bytes` and `out` are live slices of the lengths given; `read_header` has checked that the library sees the
    // size that `out` was made for, and the same bytes are parsed again to the same size.
    let code = unsafe {
        raw::tj3Decompress8(
            handle.0.as_ptr(),
            bytes.as_ptr(),
            bytes.len() as _,
            out.as_mut_ptr(),
            pitch,
            format,
        )
    };
    match code {
        0 => Ok(warned),
        _ if handle.only_warned() => judge_warning(&handle.message(), bytes, header),
        _ => Err(fatal(&handle.message())),
    }
}

impl Handle {
    fn new() -> Result<Self, Rejection> {
        // SAFETY: no preconditions.
        let pointer = unsafe { raw::tj3Init(raw::TJINIT_TJINIT_DECOMPRESS as c_int) };
        let handle = Self(
            NonNull::new(pointer)
                .ok_or_else(|| reject::malformed("JPEG: there is no memory for a decoder"))?,
        );
        handle.set(raw::TJPARAM_TJPARAM_SCANLIMIT, SCANS_MAX)?;
        Ok(handle)
    }

    /// Lets the library read the header and compares it with ours: all sizes were planned with that.
    fn read_header(&self, bytes: &[u8], header: &Header) -> Result<bool, Rejection> {
        // SAFETY: `bytes` is a live slice of the length given.
        let code = unsafe { raw::tj3DecompressHeader(self.0.as_ptr(), bytes.as_ptr(), bytes.len() as _) };
        if code != 0 && !self.only_warned() {
            return Err(fatal(&self.message()));
        }
        let found = (self.get(raw::TJPARAM_TJPARAM_JPEGWIDTH), self.get(raw::TJPARAM_TJPARAM_JPEGHEIGHT));
        if found != (i64::from(header.width), i64::from(header.height)) {
            return Err(reject::malformed("JPEG: the header can be read in two ways"));
        }
        let space = self.get(raw::TJPARAM_TJPARAM_COLORSPACE);
        let four = [raw::TJCS_TJCS_CMYK, raw::TJCS_TJCS_YCCK].iter().any(|s| i64::from(*s) == space);
        let one = i64::from(raw::TJCS_TJCS_GRAY) == space;
        if four != (header.components == 4) || one != (header.components == 1) {
            return Err(reject::malformed("JPEG: the number of components and the colour space disagree"));
        }
        Ok(code != 0)
    }

    fn set_denominator(&self, denominator: u32) -> Result<(), Rejection> {
        let factor = raw::tjscalingfactor { num: 1, denom: denominator as c_int };
        // SAFETY: the handle is live.
        match unsafe { raw::tj3SetScalingFactor(self.0.as_ptr(), factor) } {
            0 => Ok(()),
            _ => Err(reject::malformed(format!("JPEG: {}", self.message()))),
        }
    }

    fn set(&self, parameter: raw::TJPARAM, value: c_int) -> Result<(), Rejection> {
        // SAFETY: the handle is live; an unknown parameter is an error, not undefined.
        match unsafe { raw::tj3Set(self.0.as_ptr(), parameter as c_int, value) } {
            0 => Ok(()),
            _ => Err(reject::malformed(format!("JPEG: {}", self.message()))),
        }
    }

    fn get(&self, parameter: raw::TJPARAM) -> i64 {
        // SAFETY: the handle is live; an unknown parameter answers -1.
        i64::from(unsafe { raw::tj3Get(self.0.as_ptr(), parameter as c_int) })
    }

    fn only_warned(&self) -> bool {
        // SAFETY: the handle is live.
        unsafe { raw::tj3GetErrorCode(self.0.as_ptr()) == raw::TJERR_TJERR_WARNING as c_int }
    }

    fn message(&self) -> String {
        // SAFETY: the library answers with a terminated string that lives until the next call of this thread.
        let text = unsafe { CStr::from_ptr(raw::tj3GetErrorStr(self.0.as_ptr())) };
        text.to_string_lossy().replace('\n', " ")
    }
}

/// The message is the first warning. What followed it is not known, so the end is looked for.
fn judge_warning(message: &str, bytes: &[u8], header: &Header) -> Result<bool, Rejection> {
    if message.contains("Premature end") || !has_end(bytes, header.scan_at) {
        return Err(reject::truncated(format!("JPEG: {message}")));
    }
    match HARMLESS.iter().any(|part| message.contains(part)) {
        true => Ok(true),
        false => Err(reject::malformed(format!("JPEG: {message}"))),
    }
}

fn fatal(message: &str) -> Rejection {
    let text = format!("JPEG: {message}");
    let lower = message.to_lowercase();
    if lower.contains("premature end") || lower.contains("empty input") {
        reject::truncated(text)
    } else if ["unsupported", "not supported", "more than", "precision", "not implemented"]
        .iter()
        .any(|part| lower.contains(part))
    {
        reject::unsupported(text)
    } else {
        reject::malformed(text)
    }
}
