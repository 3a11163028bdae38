//! Pictures to pixels: sniff, check the header, decode small, resize, turn upright.
//!
//! What costs time is decoding, so a JPEG is decoded at 1/2, 1/4 or 1/8 of its size whenever that leaves twice the pixels that
//! the resizer needs. What costs memory is a header that lies, so every limit is checked on the header, before a buffer
//! exists. Output is `image`, u8, `[height, width, 3]`: a model normalises on its device, four times fewer bytes travel.
//!
//! # Layout
//!
//! - [`mod@config`]: what the manifest says ([`Config`]) and what the app allows ([`Limits`])
//! - `format`: which format is it? The content decides
//! - `probe`: the header of any format, the limits, and what decoding will cost
//! - `plan`: which part of the picture goes where, and at which scale a JPEG is decoded
//! - `jpeg`: markers, and decoding through libjpeg-turbo
//! - `raster`: all other formats; `frames`: sizes that GIF and WebP keep inside their frames
//! - `pixels`: alpha, grey, CMYK and 16-bit samples to what the resizer takes
//! - `resize`: resize, orientation and padding
//! - `stage`: the [`ImageStage`] itself

pub mod config;
mod format;
mod frames;
mod jpeg;
mod pixels;
mod plan;
mod probe;
mod raster;
mod reject;
mod resize;
mod stage;

pub use config::{Config, Filter, Fit, Limits};
pub use stage::ImageStage;

#[cfg(test)]
mod tests;
