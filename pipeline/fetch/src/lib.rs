//! Payloads become bytes: inline ones are checked, references are fetched under guards.
//!
//! # Layout
//!
//! - [`mod@fetcher`]: [`Fetcher`], the entry; retries and what follows from a failure
//! - [`mod@file`]: `file://` below allowed folders
//! - [`mod@http`]: `http(s)://` with limits, checked redirects and a resolver that refuses private addresses
//! - `circuit`: hosts that fail are left alone for a while
//! - [`mod@guard`]: which addresses may be asked

mod circuit;
pub mod fetcher;
pub mod file;
pub mod guard;
pub mod http;
mod telemetry;

#[cfg(test)]
mod tests;

pub use fetcher::{FetchConfig, Fetcher, Room, Unbounded};
