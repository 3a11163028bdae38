//! The product as its users run it: the real binary against a real Apache Kafka and a real PostgreSQL. Run through `setup/with-services`.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    missing_docs,
    unreachable_pub,
    reason = "tests may fail loudly and speak"
)]

mod api;
mod cli;
mod commits;
mod compose;
mod demo;
mod drains;
mod failures;
mod flood;
mod flow;
mod health;
mod kills;
mod letters;
mod poison;
mod proxy;
mod restore;
mod reuse;
mod servers;
mod storms;
mod supply;
mod tidy;
mod top;
mod topics;
mod world;
