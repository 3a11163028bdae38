//! Payloads become bytes: inline ones are checked, references are fetched under guards.
//!
//! # Layout
//!
//! - [`mod@fetcher`]: [`Fetcher`], the entry; retries and what follows from a failure
//! - [`mod@file`]: `file://` below allowed folders
//! - [`mod@http`]: `http(s)://` with limits, checked redirects and a resolver that refuses private addresses
//! - [`mod@guard`]: which addresses may be asked

pub mod fetcher;
pub mod file;
pub mod guard;
pub mod http;

#[cfg(test)]
mod tests;

pub use fetcher::{FetchConfig, Fetcher};
