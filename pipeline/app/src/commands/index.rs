//! `spawn index`: seals what was loaded and builds its vector index, in parallel.

use crate::cli::Index;
use crate::config::Settings;
use crate::exit::{Code, OrExit, Outcome};
use crate::output::{Output, bar};
use serde::Serialize;
use spawn_core::Modality;
use spawn_postgres::{Indexed, Store};
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

/// What of a generation has an index.
#[derive(Serialize)]
pub(super) struct Built {
    generation: i32,
    modality: Modality,
    rows: u64,
    segments: u64,
    open_rows: u64,
    seal_at: u64,
    seconds: f64,
}

impl std::fmt::Display for Built {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { modality, rows, segments, open_rows, seal_at, seconds, .. } = self;
        write!(f, "{modality:<8} index over {rows} vectors in {seconds:.1} s")?;
        if *segments > 1 {
            write!(f, ", {segments} segments")?;
        }
        if *open_rows > 0 {
            write!(f, "; {open_rows} newer ones are compared one by one until they are {seal_at}")?;
        }
        Ok(())
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
        let Indexed { rows, segments, open_rows, seal_at } =
            store.build_index(generation.id, progress).await.or_exit(Code::Unavailable)?;
        bar.finish_and_clear();
        let (generation, modality) = (generation.id, generation.modality);
        let seconds = started.elapsed().as_secs_f64();
        built.push(Built { generation, modality, rows, segments, open_rows, seal_at, seconds });
    }
    Ok(built)
}
