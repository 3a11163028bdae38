//! Text becomes token ids: UTF-8 check, tokenizer, chunks that overlap.
//!
//! A model reads a bounded number of tokens, a document may have more: it becomes several chunks. Neighbours share
//! `overlap` tokens, so that a sentence cut at a border is whole in one of them, and each chunk carries the tokenizer's special
//! tokens, because the model was trained to see them.
//!
//! # Layout
//!
//! - [`mod@config`]: what the model's manifest and the app say ([`Config`], [`Limits`])
//! - [`mod@decode`]: bytes to text, or why not
//! - [`mod@encode`]: text to token ids, ids to chunks
//! - [`mod@stage`]: the seam ([`TextStage`])

pub mod config;
mod decode;
mod encode;
pub mod stage;
#[cfg(test)]
mod tests;

pub use config::{Config, Limits};
pub use stage::TextStage;
