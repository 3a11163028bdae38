//! Against a real PostgreSQL: run them through `setup/with-services cargo test --release -p spawn-postgres`.
#![allow(clippy::unwrap_used, clippy::large_futures)]

mod audit;
mod claims;
mod coverage;
mod decisions;
mod delete;
mod fixture;
mod inspecting;
mod known;
mod letters;
mod migrations;
mod outcomes;
mod pausing;
mod protocol;
mod reading;
mod redrive;
mod refused;
mod relay;
mod searching;
mod throughput;
mod trial;
mod writes;
