//! Against a real PostgreSQL: run them through `setup/with-services cargo test --release -p spawn-postgres`.
#![allow(clippy::unwrap_used, clippy::large_futures)]

mod audit;
mod claims;
mod decisions;
mod fixture;
mod migrations;
mod outcomes;
mod reading;
mod refused;
mod searching;
mod throughput;
mod writes;
