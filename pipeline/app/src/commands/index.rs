//! `spawn index`: builds the vector index of each active generation, in parallel, after loading.

use crate::cli::Index;
use crate::config::Settings;
use crate::exit::{Code, OrExit, Outcome};
use crate::output::{Output, bar};
use serde::Serialize;
use spawn_core::Modality;
use spawn_postgres::Store;
use std::time::Instant;

pub(super) async fn run(args: Index, settings: Settings, out: Output) -> Outcome {
    for built in build(&super::store(&settings).await?, args.modality, out).await? {
        match out.json {
            true => out.json("index", &built),
            false => out.line(&built),
        }
    }
    Ok(())
}

/// An index over all vectors of a generation.
#[derive(Serialize)]
pub(super) struct Built {
    generation: i32,
    modality: Modality,
    rows: u64,
    seconds: f64,
}

impl std::fmt::Display for Built {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:<8} index over {} vectors in {:.1} s", self.modality, self.rows, self.seconds)
    }
}

/// Builds what is missing.
pub(super) async fn build(store: &Store, modality: Option<Modality>, out: Output) -> Outcome<Vec<Built>> {
    let (bars, mut built) = (out.bars(), Vec::new());
    for generation in store.generations().await.or_exit(Code::Unavailable)? {
        if modality.is_some_and(|m| m != generation.modality) {
            continue;
        }
        let started = Instant::now();
        let bar = bar(&bars, generation.modality.as_str(), 0);
        let progress = |done: u64, total: u64| {
            bar.set_length(total);
            bar.set_position(done);
        };
        let rows = store.build_index(generation.id, progress).await.or_exit(Code::Unavailable)?;
        bar.finish_and_clear();
        let seconds = started.elapsed().as_secs_f64();
        built.push(Built { generation: generation.id, modality: generation.modality, rows, seconds });
    }
    Ok(built)
}
