//! Text becomes token ids, ids become chunks.

use crate::config::Config;
use spawn_core::{Array, ArrayData, Features};
use tokenizers::Tokenizer;

/// Bytes that are tokenised at once. The tokenizer needs hundreds of bytes of memory for each, so a text of megabytes must not go in
/// as a whole. Pieces end before white space, where tokenizers split anyway; only a text that has none for so long is cut elsewhere.
pub(crate) const PIECE_BYTES: usize = 64 << 10;

/// A tokenizer whose special tokens are known apart from it: the text is tokenised once, then cut, and every chunk gets them.
#[derive(Clone)]
pub(crate) struct Encoder {
    tokenizer: Tokenizer,
    prefix: Vec<u32>,
    suffix: Vec<u32>,
}

impl Encoder {
    /// Reads a `tokenizer.json`. What it says of truncation and padding is for other callers: here the stage cuts and the
    /// model pads, so both are switched off.
    pub(crate) fn new(json: &[u8]) -> Result<Self, String> {
        let mut tokenizer = Tokenizer::from_bytes(json).map_err(|e| format!("not a tokenizer.json: {e}"))?;
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(|e| format!("truncation cannot be switched off: {e}"))?;
        let (prefix, suffix) = special_tokens(&tokenizer)?;
        Ok(Self { tokenizer, prefix, suffix })
    }

    /// How many tokens are put around the text of each chunk.
    pub(crate) fn special(&self) -> usize {
        self.prefix.len() + self.suffix.len()
    }

    /// The ids of the text, without special tokens around it, piece by piece; stops once there are more than `tokens_max`.
    pub(crate) fn ids(&self, text: &str, tokens_max: usize) -> Result<Vec<u32>, String> {
        let mut ids = Vec::new();
        let mut rest = text;
        while !rest.is_empty() && ids.len() <= tokens_max {
            let (piece, after) = rest.split_at(piece_end(rest));
            let encoding = self.tokenizer.encode_fast(piece, false).map_err(|e| e.to_string())?;
            ids.extend_from_slice(encoding.get_ids());
            rest = after;
        }
        Ok(ids)
    }

    /// One chunk: the special tokens around `ids`, all of them to be attended to.
    pub(crate) fn chunk(&self, ids: &[u32]) -> Features {
        let all: Vec<i64> =
            self.prefix.iter().chain(ids).chain(&self.suffix).map(|id| i64::from(*id)).collect();
        let mask = ArrayData::I64(vec![1; all.len()]);
        let shape = vec![all.len()];
        Features {
            arrays: vec![
                Array { name: "ids", shape: shape.clone(), data: ArrayData::I64(all) },
                Array { name: "mask", shape, data: mask },
            ],
        }
    }
}

/// Where the first piece of `text` ends; never 0.
fn piece_end(text: &str) -> usize {
    if text.len() <= PIECE_BYTES {
        return text.len();
    }
    let piece = &text[..text.floor_char_boundary(PIECE_BYTES)];
    piece.rfind(char::is_whitespace).filter(|end| *end > 0).unwrap_or(piece.len())
}

/// What the tokenizer puts before and after a text.
fn special_tokens(tokenizer: &Tokenizer) -> Result<(Vec<u32>, Vec<u32>), String> {
    let encode = |special| tokenizer.encode("a", special).map_err(|e| format!("it cannot tokenise `a`: {e}"));
    let (bare, full) = (encode(false)?, encode(true)?);
    let mask = full.get_special_tokens_mask();
    let prefix = mask.iter().take_while(|m| **m == 1).count();
    let suffix = mask[prefix..].iter().rev().take_while(|m| **m == 1).count();
    let ids = full.get_ids();
    let middle = prefix..ids.len() - suffix;
    if bare.get_ids().is_empty() || ids[middle.clone()] != *bare.get_ids() {
        return Err(
            "its special tokens do not lie before and after the text, so it cannot be cut into chunks".into(),
        );
    }
    Ok((ids[..middle.start].to_vec(), ids[middle.end..].to_vec()))
}

/// Where the chunks of `total` tokens lie, `window` tokens each, and whether something was left out.
pub(crate) fn cut(total: usize, window: usize, config: &Config) -> (Vec<std::ops::Range<usize>>, bool) {
    let step = window - config.overlap;
    let mut chunks = Vec::new();
    let mut start = 0;
    while chunks.len() < config.chunks_max {
        let end = (start + window).min(total);
        chunks.push(start..end);
        if end == total {
            return (chunks, false);
        }
        start += step;
    }
    (chunks, true)
}
