//! What a stage makes for a model: named arrays that know nothing of their modality.

use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// What a stage yields for one record.
#[derive(Debug)]
pub struct Prepared {
    /// At least one. Long audio and long text become several; a commit unit counts records, a model call counts chunks.
    pub chunks: Vec<Features>,
    /// What was learnt on the way; stored with the result.
    pub facts: MediaFacts,
}

/// The inputs of one chunk, in the order of the model's manifest.
#[derive(Debug, Clone, PartialEq)]
pub struct Features {
    /// Without a batch axis: the model adds it.
    pub arrays: Vec<Array>,
}

/// One named array, row-major, without a batch axis.
#[derive(Debug, Clone, PartialEq)]
pub struct Array {
    /// The input's name in the model's manifest.
    pub name: &'static str,
    /// Extent of each axis. Empty for a scalar.
    pub shape: Vec<usize>,
    /// The elements; as many as the product of `shape`.
    pub data: ArrayData,
}

/// The elements of an array.
#[derive(Debug, Clone, PartialEq)]
pub enum ArrayData {
    /// Pixels.
    U8(Vec<u8>),
    /// Samples, in -1 to 1.
    F32(Vec<f32>),
    /// Token ids and masks.
    I64(Vec<i64>),
}

impl ArrayData {
    /// Size in bytes.
    pub fn bytes(&self) -> usize {
        match self {
            Self::U8(v) => v.len(),
            Self::F32(v) => v.len() * 4,
            Self::I64(v) => v.len() * 8,
        }
    }
}

impl Features {
    /// Length along the first axis of the first array: tokens, samples, rows. A model call pads all chunks to the longest,
    /// so its cost is this times the number of chunks; chunks of a fixed shape all have the same.
    pub fn length(&self) -> usize {
        self.arrays.first().and_then(|a| a.shape.first()).copied().unwrap_or(1)
    }

    /// Size of all arrays in bytes.
    pub fn bytes(&self) -> usize {
        self.arrays.iter().map(|a| a.data.bytes()).sum()
    }
}

/// What the stage learnt about the media. Serialised as JSON beside the result; absent facts are left out.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MediaFacts {
    /// The media type that the content turned out to have, for example `image/jpeg`.
    pub media_type: Cow<'static, str>,
    /// Pixels, after EXIF orientation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub width: Option<u32>,
    /// Pixels, after EXIF orientation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub height: Option<u32>,
    /// Seconds of the whole clip as decoded, before windows were cut.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration_seconds: Option<f64>,
    /// Hertz, of the source.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sample_rate: Option<u32>,
    /// Channels of the source.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channels: Option<u32>,
    /// Tokens over all chunks, overlap counted once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens: Option<u32>,
    /// Where each chunk starts in the media: seconds (audio) or tokens (text). Empty for a single chunk.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub chunk_starts: Vec<f64>,
    /// Quality flags, sorted: `truncated`, `silent`, `exif_applied`, `alpha_flattened`, `cmyk`, `sixteen_bit`, `grey`,
    /// `animated`, `clipped`, `nul_stripped`, ...
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub flags: Vec<Cow<'static, str>>,
}
