//! The HTTP API: results and similarity search, thin over the store.
//!
//! # Layout
//!
//! - [`mod@serve`]: the listener; `connection`: how long an idle one may stay
//! - [`mod@router`]: all routes; `guard`: the limits before each of them
//! - [`mod@state`]: what the routes share, and how queries become vectors
//! - [`mod@routes`]: one file per route
//! - [`mod@problem`]: every error as RFC 9457 problem details; `trace`: the id that joins it to the log
//! - [`mod@cache`]: serialised answers in memory, one computation for many askers
//! - [`mod@telemetry`]: time per route

mod connection;
mod guard;
mod trace;

pub mod cache;
pub mod problem;
pub mod router;
pub mod routes;
pub mod serve;
pub mod state;
pub mod telemetry;

#[cfg(test)]
#[path = "tests/mod.rs"]
mod tests;

pub use problem::Problem;
pub use router::router;
pub use serve::serve;
pub use state::{ApiConfig, ApiState, Check, EmbedError, Gone, Query, QueryEmbedder, QueryVector};
