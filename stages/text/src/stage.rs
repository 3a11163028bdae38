//! The seam: one [`Stage`] per worker, each with a tokenizer of its own (a shared one makes the workers wait for its caches).

use crate::config::{Config, Limits};
use crate::decode::{decode, empty};
use crate::encode::{Encoder, PIECE_BYTES, cut};
use spawn_core::{Media, MediaFacts, Prepared, Rejection, Stage};
use std::path::Path;
use std::sync::Arc;

/// Memory that tokenising takes for each byte of a piece, at worst: the normalised text with its alignments, the words it is split
/// into with theirs, and for each token its text, offsets and numbers. Measured: 90 for English, 410 where every byte is a token.
const BYTES_PER_BYTE: usize = 512;

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
        let copies = 2 * found + 2 * found.min(self.limits.tokens_max) * size_of::<u32>();
        let piece = found.min(PIECE_BYTES) * BYTES_PER_BYTE;
        Ok(copies + piece + chunks * self.config.tokens_max * BYTES_PER_TOKEN)
    }

    fn process(&mut self, media: &Media) -> Result<Prepared, Rejection> {
        let (text, nul) = decode(&media.bytes)?;
        let most = self.limits.tokens_max;
        let ids = self.encoder.ids(&text, most);
        let ids = ids.map_err(|error| Rejection::new("prepare", "text.tokenizer", error))?;
        if ids.is_empty() {
            return Err(empty());
        }
        if ids.len() > most {
            let detail = format!("the text has more than {most} tokens, the most that are accepted");
            return Err(Rejection::new("prepare", "limit.tokens", detail));
        }
        let (ranges, truncated) = cut(ids.len(), self.window, &self.config);
        let kept = ranges.last().map_or(0, |range| range.end);
        let starts = ranges.iter().map(|range| range.start as f64);
        let facts = MediaFacts {
            media_type: "text/plain".into(),
            tokens: Some(u32::try_from(kept).unwrap_or(u32::MAX)),
            chunk_starts: if ranges.len() > 1 { starts.collect() } else { Vec::new() },
            flags: [(nul, "nul_stripped"), (truncated, "truncated")]
                .into_iter()
                .filter_map(|(set, flag)| set.then_some(flag.into()))
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
