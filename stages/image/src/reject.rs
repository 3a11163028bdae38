//! Why a picture is refused: one constructor per code, so that the codes are listed in one place.

use image::ImageError;
use image::error::LimitErrorKind;
use spawn_core::Rejection;
use std::error::Error;
use std::fmt::Display;

const STAGE: &str = "prepare";

pub(crate) fn empty() -> Rejection {
    Rejection::new(STAGE, "payload.empty", "there are no bytes; a picture was expected")
}

pub(crate) fn bytes(found: usize, limit: usize) -> Rejection {
    Rejection::new(STAGE, "limit.bytes", format!("the picture has {found} bytes, {limit} are allowed"))
}

pub(crate) fn pixels(width: u32, height: u32, limit: u64) -> Rejection {
    let found = u64::from(width) * u64::from(height);
    let detail = format!("the header declares {width}x{height} = {found} pixels, {limit} are allowed");
    Rejection::new(STAGE, "limit.pixels", detail)
}

pub(crate) fn unsupported(detail: impl Display) -> Rejection {
    Rejection::new(STAGE, "decode.unsupported", detail)
}

pub(crate) fn truncated(detail: impl Display) -> Rejection {
    Rejection::new(STAGE, "decode.truncated", detail)
}

pub(crate) fn malformed(detail: impl Display) -> Rejection {
    Rejection::new(STAGE, "decode.malformed", detail)
}

/// What a decoder of the `image` crate said. Some report a missing end as an I/O error, some only in words.
pub(crate) fn decoder(format: &str, error: &ImageError) -> Rejection {
    let text = format!("{format}: {}", chain(error));
    match error {
        ImageError::IoError(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => truncated(text),
        ImageError::Limits(limit) if matches!(limit.kind(), LimitErrorKind::InsufficientMemory) => {
            malformed(format!("{format}: decoding asks for more memory than the declared size explains"))
        }
        ImageError::Unsupported(_) => unsupported(text),
        _ if says_that_data_ends(&text) => truncated(text),
        _ => malformed(text),
    }
}

fn says_that_data_ends(text: &str) -> bool {
    let text = text.to_lowercase();
    [
        "unexpected end of",
        "unexpected eof",
        "failed to fill whole buffer",
        "no more image data",
        "end of image data",
    ]
    .iter()
    .any(|words| text.contains(words))
}

/// The error and what caused it, each part once.
fn chain(error: &ImageError) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let words = cause.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        source = cause.source();
    }
    text
}
