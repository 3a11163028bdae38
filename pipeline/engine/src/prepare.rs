//! Media become features on the CPU crew: parallel, order kept, no panic passes.

use crate::admit::Decodable;
use crate::crew::Crew;
use crate::fetch::Fetched;
use crate::health::Step;
use crate::lanes::Lane;
use crate::meter::{Meter, thread_cpu};
use crate::ordered::map_ordered;
use crate::reuse::{Lookup, Reuse};
use crate::steps::{preparing, reached};
use crate::telemetry::Stats;
use spawn_core::{ContentHash, Entry, Envelope, Features, Hold, Inferred, Media, Prepared, Rejection, Stage};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use tokio::sync::mpsc::{Receiver, Sender};

/// What is left to do for a record.
#[derive(Debug)]
pub enum Ready {
    /// A model call.
    Features {
        /// For the model.
        prepared: Prepared,
        /// The media's hash.
        content: ContentHash,
        /// Whether the content was seen before.
        lookup: Lookup,
    },
    /// Nothing: the content was seen before.
    Known(Inferred),
}

impl Ready {
    /// What the model is to see.
    pub(crate) fn chunks(&self) -> &[Features] {
        match self {
            Self::Features { prepared, .. } => &prepared.chunks,
            Self::Known(_) => &[],
        }
    }
}

/// One stage per worker of the crew.
struct Workers {
    crew: Crew,
    lane: Lane,
    stages: Vec<Mutex<Box<dyn Stage>>>,
    reuse: Reuse,
    meter: Arc<Meter>,
    stats: Arc<Stats>,
}

/// Prepares up to two records per worker at once, and keeps twice as many more in order.
pub(crate) async fn prepare_ordered(
    entries: Receiver<Entry<Decodable>>,
    out: Sender<Entry<Ready>>,
    stage: Box<dyn Stage>,
    (crew, lane): (Crew, Lane),
    reuse: Reuse,
    meter: Arc<Meter>,
    stats: Arc<Stats>,
) {
    let window = crew.workers() * 4;
    let stages = (0..crew.workers()).map(|_| Mutex::new(stage.fork())).collect();
    let workers = Arc::new(Workers { crew, lane, stages, reuse, meter: meter.clone(), stats });
    map_ordered(entries, out, window, meter, move |envelope| prepare_one(workers.clone(), envelope)).await;
}

async fn prepare_one(workers: Arc<Workers>, envelope: Envelope<Decodable>) -> Envelope<Ready> {
    let (mut rest, work) = envelope.split();
    let Some(Decodable { fetched: Fetched { media, mut raw }, mut decoded, mut lookup }) = work else {
        return rest.join(None::<Result<_, Rejection>>);
    };
    let kept = rest.record.value.as_ref().map_or(0, |v| v.len());
    if let Some(known) = workers.reuse.found(&mut lookup) {
        drop(media);
        raw.shrink_to(kept);
        rest.holds.push(Hold::new(raw));
        return rest.join(Some(Ok::<_, Rejection>(Ready::Known(known))));
    }
    let content = media.content;
    let (crew, lane) = (workers.crew.clone(), workers.lane);
    let result = crew.run(lane, move |worker| workers.process(worker, &media)).await;
    let result = result.unwrap_or_else(|panic| Err(Rejection::new("prepare", "stage.panic", panic)));
    if let Ok(prepared) = &result {
        decoded.shrink_to(prepared.chunks.iter().map(Features::bytes).sum());
        rest.holds.push(Hold::new(decoded));
    }
    // Fetched media are gone now; an inline value stays until it is written, for the dead letter.
    raw.shrink_to(kept);
    rest.holds.push(Hold::new(raw));
    rest.join(Some(result.map(|prepared| Ready::Features { prepared, content, lookup })))
}

impl Workers {
    fn process(&self, worker: usize, media: &Media) -> Result<Prepared, Rejection> {
        // Here and not before: what waits for the crew is not the stage's work.
        let _working = self.stats.health.begin(Step::Prepare);
        let (cpu, started) = (thread_cpu(), Instant::now());
        // A panic poisons the lock; the stage is usable after any input, and a fresh one would hide a bug in that.
        let mut stage =
            self.stages[worker % self.stages.len()].lock().unwrap_or_else(PoisonError::into_inner);
        preparing(&media.bytes);
        let result = stage.process(media);
        drop(stage);
        self.meter.add_cpu(thread_cpu().saturating_sub(cpu));
        self.stats.stage_took("prepare", started.elapsed());
        reached("prepared");
        match result {
            Ok(prepared) if prepared.chunks.is_empty() => {
                Err(Rejection::new("prepare", "stage.empty", "the stage made nothing of it"))
            }
            other => other,
        }
    }
}
