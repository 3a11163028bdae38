//! The seam: one [`Stage`] per worker, each with a tokenizer of its own (a shared one makes the workers wait for its caches).

use crate::config::{Config, Limits};
use crate::decode::{decode, empty};
use crate::encode::{Encoder, cut};
use spawn_core::{Media, MediaFacts, Prepared, Rejection, Stage};
use std::path::Path;
use std::sync::Arc;

/// Memory that tokenising takes for each byte of text: the normalised string with an alignment of 16 bytes for each byte, the same
/// again for the words it is split into, then for each token (one a byte at worst) its text, offsets and numbers.
const BYTES_PER_BYTE: usize = 160;

/// Memory of the ids and the mask of one token in a chunk.
const BYTES_PER_TOKEN: usize = 16;

/// Makes `ids` and `mask` (i64, `[tokens]`) of a text. Chunks have their real length: the model pads.
#[derive(Clone)]
pub struct TextStage {
    config: Config,
    limits: Limits,
    window: usize,
    encoder: Encoder,
    spec: Arc<str>,
}

impl TextStage {
    /// A stage with the tokenizer in this file, a `tokenizer.json`. The error says what is wrong with it or the config.
    pub fn new(config: Config, limits: Limits, tokenizer_json: &Path) -> Result<Self, String> {
        let name = |error: &dyn std::fmt::Display| format!("{}: {error}", tokenizer_json.display());
        let json = std::fs::read(tokenizer_json).map_err(|e| name(&e))?;
        Self::from_bytes(config, limits, &json).map_err(|e| name(&e))
    }

    /// As [`TextStage::new`], with the content of the file.
    pub fn from_bytes(config: Config, limits: Limits, tokenizer_json: &[u8]) -> Result<Self, String> {
        let encoder = Encoder::new(tokenizer_json)?;
        let window = config.window(encoder.special())?;
        let Config { tokens_max, overlap, chunks_max } = config;
        let tokenizer = blake3::hash(tokenizer_json).to_hex();
        let spec = format!(
            "text/1 tokenizer={} tokens_max={tokens_max} overlap={overlap} chunks_max={chunks_max}",
            &tokenizer[..16]
        );
        Ok(Self { config, limits, window, encoder, spec: spec.into() })
    }
}

impl Stage for TextStage {
    fn spec(&self) -> &str {
        &self.spec
    }

    fn footprint(&self, media: &Media) -> Result<usize, Rejection> {
        let (found, limit) = (media.bytes.len(), self.limits.bytes_max);
        if found > limit {
            let detail = format!("the text has {found} bytes; at most {limit} are accepted");
            return Err(Rejection::new("prepare", "limit.bytes", detail));
        }
        let chunks = self.config.chunks_max.min(1 + found / (self.window - self.config.overlap));
        Ok(found * BYTES_PER_BYTE + chunks * self.config.tokens_max * BYTES_PER_TOKEN)
    }

    fn process(&mut self, media: &Media) -> Result<Prepared, Rejection> {
        let (text, nul) = decode(&media.bytes)?;
        let ids =
            self.encoder.ids(&text).map_err(|error| Rejection::new("prepare", "text.tokenizer", error))?;
        if ids.is_empty() {
            return Err(empty());
        }
        if ids.len() > self.limits.tokens_max {
            let detail =
                format!("the text has {} tokens; at most {} are accepted", ids.len(), self.limits.tokens_max);
            return Err(Rejection::new("prepare", "limit.tokens", detail));
        }
        let (ranges, truncated) = cut(ids.len(), self.window, &self.config);
        let kept = ranges.last().map_or(0, |range| range.end);
        let starts = ranges.iter().map(|range| range.start as f64);
        let facts = MediaFacts {
            media_type: "text/plain",
            tokens: Some(u32::try_from(kept).unwrap_or(u32::MAX)),
            chunk_starts: if ranges.len() > 1 { starts.collect() } else { Vec::new() },
            flags: [(nul, "nul_stripped"), (truncated, "truncated")]
                .into_iter()
                .filter_map(|(set, flag)| set.then_some(flag))
                .collect(),
            ..MediaFacts::default()
        };
        let chunks = ranges.into_iter().map(|range| self.encoder.chunk(&ids[range])).collect();
        Ok(Prepared { chunks, facts })
    }

    fn fork(&self) -> Box<dyn Stage> {
        Box::new(self.clone())
    }
}
