//! The routes against a real database; queries are embedded by a fake.
#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

mod answers;
mod fixture;
mod limits;
mod problems;
mod sockets;
