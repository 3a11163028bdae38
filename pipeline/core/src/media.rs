//! Fetched bytes, before anything was decoded.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// What kind of media a pipeline works on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, PartialOrd, Ord)]
#[serde(rename_all = "lowercase")]
pub enum Modality {
    /// Still pictures.
    Image,
    /// Sound.
    Audio,
    /// Written language.
    Text,
}

impl Modality {
    /// All of them, in the order in which they are listed everywhere.
    pub const ALL: [Self; 3] = [Self::Image, Self::Audio, Self::Text];

    /// The lower-case word used in topics, tables and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Image => "image",
            Self::Audio => "audio",
            Self::Text => "text",
        }
    }
}

impl fmt::Display for Modality {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Modality {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|m| m.as_str() == s)
            .ok_or_else(|| format!("`{s}` is not one of image, audio, text"))
    }
}

/// BLAKE3 of the media bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ContentHash(pub [u8; 32]);

impl ContentHash {
    /// The hash of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }
}

impl fmt::Display for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Media as fetched.
#[derive(Clone, Debug)]
pub struct Media {
    /// The encoded bytes (JPEG, FLAC, UTF-8, ...), never empty.
    pub bytes: Bytes,
    /// Their hash.
    pub content: ContentHash,
    /// The declared media type. A hint: the content decides.
    pub hint: Option<String>,
}

impl Media {
    /// Hashes `bytes`. Hashing runs at several GB/s on one core.
    pub fn new(bytes: Bytes, hint: Option<String>) -> Self {
        let content = ContentHash::of(&bytes);
        Self { bytes, content, hint }
    }
}
