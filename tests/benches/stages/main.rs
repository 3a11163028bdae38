//! Criterion suites: each stage of the line by itself, with what it allocates for an item.
//!
//! `make bench AREA=stages` runs them and writes `docs/stages/stages.json`. By hand, with the environment of `setup/with-services`:
//! `cargo bench --workspace --bench stages -- image`.
//!
//! - [`allocations`]: the allocator that counts, and the file that tells
//! - [`prepare`]: media to features
//! - [`infer`]: features to vectors
//! - [`line`]: parsing and everything between the verbs
//! - [`poll`]: records off a topic
//! - [`write`]: results to rows

mod allocations;
mod infer;
mod line;
mod poll;
mod prepare;
mod write;

use criterion::Criterion;
use std::path::PathBuf;
use std::time::Duration;

#[global_allocator]
static ALLOCATOR: allocations::Counting = allocations::Counting;

/// A folder that the environment names.
fn folder(variable: &str) -> PathBuf {
    std::env::var_os(variable)
        .unwrap_or_else(|| panic!("{variable} is not set: run by `make bench AREA=stages`"))
        .into()
}

fn main() {
    // As in the worker's own `main`, for libtorch.
    spawn_torch::tune_malloc();
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(3))
        .sample_size(20)
        .configure_from_args();
    poll::bench();
    prepare::bench(&mut criterion);
    infer::bench(&mut criterion);
    line::bench(&mut criterion);
    write::bench(&mut criterion);
    criterion.final_summary();
}
