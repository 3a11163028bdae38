//! The protocol of delivery under faults, over many seeds: `--seeds N [--first N] [--bug NAME] [--trace]`.
#![allow(clippy::print_stdout)]

mod model;

use model::bug::Bug;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let value = |name: &str| arguments.iter().skip_while(|a| *a != name).nth(1).cloned();
    let number = |name: &str, unless: u64| value(name).map_or(unless, |v| v.parse().expect("a number"));
    let (first, seeds) = (number("--first", 0), number("--seeds", 1_000));
    let bug = value("--bug")
        .map(|name| Bug::ALL.into_iter().find(|b| format!("{b:?}") == name).expect("the name of a bug"));
    let traced = arguments.iter().any(|a| a == "--trace");
    let started = std::time::Instant::now();
    let (next, failures) = (AtomicU64::new(first), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Relaxed);
                    if seed >= first + seeds {
                        return;
                    }
                    let Err(failure) = model::run(seed, bug, traced) else { continue };
                    if failures.fetch_add(1, Relaxed) < 5 {
                        failure.trace.iter().for_each(|line| println!("{line}"));
                        println!("seed {seed}: {}", failure.what);
                    }
                }
            });
        }
    });
    let found = |bug: &Bug| {
        (0..10_000u64)
            .find(|s| model::run(*s, Some(*bug), false).is_err_and(|f| f.what.starts_with(bug.found_by())))
    };
    if bug.is_none() {
        for bug in Bug::ALL {
            println!("{bug:?}: found by {} at seed {:?}", bug.found_by(), found(&bug));
        }
    }
    let (failures, seconds) = (failures.into_inner(), started.elapsed().as_secs_f64());
    println!(
        "{{\"first\": {first}, \"seeds\": {seeds}, \"failures\": {failures}, \"seconds\": {seconds:.1}}}"
    );
    if failures > 0 {
        std::process::exit(1);
    }
}
