//! The protocol under faults, quick version; `examples/simulate` runs a million seeds.
#![allow(missing_docs)]

#[path = "../examples/simulate/model/mod.rs"]
mod model;

use model::bug::Bug;

/// A planted bug must show within that many seeds.
const SEEDS_MAX: u64 = 3_000;

#[test]
fn nothing_is_lost_doubled_or_stuck() {
    for seed in 0..SEEDS_MAX {
        if let Err(failure) = model::run(seed, None, true) {
            panic!("seed {seed}: {}\n{}", failure.what, failure.trace.join("\n"));
        }
    }
}

#[test]
fn every_planted_bug_is_found_by_its_check() {
    for bug in Bug::ALL {
        let found = (0..SEEDS_MAX).find(|seed| {
            model::run(*seed, Some(bug), false).is_err_and(|f| f.what.starts_with(bug.found_by()))
        });
        assert!(found.is_some(), "{bug:?} is not found by {} within {SEEDS_MAX} seeds", bug.found_by());
    }
}
