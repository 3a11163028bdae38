//! Sound for a model: decode anything common, mix to mono, resample to one rate, cut into windows of one length.
//!
//! The decoders are Symphonia's (pure Rust) and libopus; the resampler is rubato's synchronous FFT one. Both are fed
//! packet by packet, so that a clip is in memory once at the model's rate and never whole at its own.
//!
//! - Channels are mixed by their mean, before resampling.
//! - A clip of `n` samples at rate `r` becomes exactly `ceil(n * rate / r)` samples, the resampler's delay removed.
//! - Encoder delay and padding are removed where the container tells them (LAME tag, MP4 edit list, Opus pre-skip).
//! - A file that ends before its header said is refused; a corrupt packet inside it is left out and flagged.
//!
//! # Layout
//! - [`mod@config`]: what the model's manifest says, and the limits of the deployment
//! - `container`: what the first bytes are, and what Symphonia does not tell about a container
//! - `source`: an opened file: its track, its decoder and what its header declares
//! - `mix`: packet to mono, with a look at the quality
//! - `resample`: mono to the model's rate
//! - [`mod@decode`]: the loop that joins the three
//! - `windows`: clip to chunks
//! - [`mod@stage`]: all of it behind [`spawn_core::Stage`]

pub mod config;
mod container;
pub mod decode;
mod mix;
mod resample;
mod source;
pub mod stage;
mod windows;

pub use config::{Config, Limits};
pub use decode::{Clip, Decoder, decode_to_mono};
pub use stage::AudioStage;

use spawn_core::Rejection;
use std::fmt;

/// A refusal of this stage.
fn reject(code: &'static str, detail: impl fmt::Display) -> Rejection {
    Rejection::new("prepare", code, detail)
}

#[cfg(test)]
mod tests;
