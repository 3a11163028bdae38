#![allow(clippy::unwrap_used)]

mod manifest;
mod model;
mod real;
mod runtime;
mod tiny;
