//! What the stage is told: by the model's manifest, how to cut; by the app, where to stop.

use serde::Deserialize;

/// Most tokens of a chunk that a manifest may ask for. Attention costs the square of it.
const TOKENS_MAX: usize = 8192;

/// `[preparation]` in the manifest of a text model.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Most tokens of one chunk, special tokens included. At most 8192, and at least one more than the special tokens.
    pub tokens_max: usize,
    /// Tokens that a chunk shares with the one before it. Less than the tokens that fit between the special ones.
    pub overlap: usize,
    /// Most chunks of one record, at least 1; what lies beyond is left out and the record is flagged `truncated`.
    pub chunks_max: usize,
}

/// What a record may have at most; beyond it, it is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Bytes of the media.
    pub bytes_max: usize,
    /// Tokens of the whole text, special tokens not included.
    pub tokens_max: usize,
}

impl Config {
    /// Tokens of the text in one chunk, when `special` tokens are put around them.
    pub(crate) fn window(&self, special: usize) -> Result<usize, String> {
        let Self { tokens_max, overlap, chunks_max } = *self;
        if tokens_max > TOKENS_MAX {
            return Err(format!("tokens_max = {tokens_max} is more than {TOKENS_MAX}"));
        }
        if tokens_max <= special {
            return Err(format!(
                "tokens_max = {tokens_max} leaves no room beside the tokenizer's {special} special tokens"
            ));
        }
        let window = tokens_max - special;
        if overlap >= window {
            return Err(format!(
                "overlap = {overlap} must be less than the {window} tokens of text in a chunk"
            ));
        }
        if chunks_max == 0 {
            return Err("chunks_max = 0 must be at least 1".into());
        }
        Ok(window)
    }
}
