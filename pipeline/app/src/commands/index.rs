//! `spawn index`: builds the vector index of each active generation, in parallel, after loading.

use crate::cli::Index;
use crate::config::Settings;
use crate::exit::{Code, OrExit, Outcome};
use crate::output::{Output, bar};
use serde_json::json;
use spawn_core::Modality;
use spawn_postgres::Store;
use std::time::Instant;

pub(super) async fn run(args: Index, settings: Settings, out: Output) -> Outcome {
    build(&super::store(&settings).await?, args.modality, out).await
}

/// Builds what is missing.
pub(super) async fn build(store: &Store, modality: Option<Modality>, out: Output) -> Outcome {
    let bars = out.bars();
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
        if out.json {
            out.note(json!({"generation": generation.id, "rows": rows, "seconds": seconds}));
        } else {
            out.note(format_args!("{:<8} index over {rows} vectors in {seconds:.1} s", generation.modality));
        }
    }
    Ok(())
}
