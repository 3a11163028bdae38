//! Media become features on the CPU crew: parallel, order kept, no panic passes.

use crate::admit::Decodable;
use crate::crew::Crew;
use crate::fetch::Fetched;
use crate::health::Step;
use crate::lanes::Lane;
use crate::meter::{Meter, thread_cpu};
use crate::ordered::map_ordered;
use crate::steps::{preparing, reached};
use crate::telemetry::Stats;
use spawn_core::{Entry, Envelope, Hold, Media, Prepared, Rejection, Stage};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use tokio::sync::mpsc::{Receiver, Sender};

/// Prepared features with what is needed to say where they came from.
#[derive(Debug)]
pub struct Ready {
    /// For the model.
    pub prepared: Prepared,
    /// The media's hash.
    pub content: spawn_core::ContentHash,
}

/// One stage per worker of the crew.
struct Workers {
    crew: Crew,
    lane: Lane,
    stages: Vec<Mutex<Box<dyn Stage>>>,
    meter: Arc<Meter>,
    stats: Arc<Stats>,
}

/// Prepares up to two records per worker at once, and keeps twice as many more in order.
pub async fn prepare_ordered(
    entries: Receiver<Entry<Decodable>>,
    out: Sender<Entry<Ready>>,
    stage: Box<dyn Stage>,
    (crew, lane): (Crew, Lane),
    meter: Arc<Meter>,
    stats: Arc<Stats>,
) {
    let window = crew.workers() * 4;
    let stages = (0..crew.workers()).map(|_| Mutex::new(stage.fork())).collect();
    let workers = Arc::new(Workers { crew, lane, stages, meter: meter.clone(), stats });
    map_ordered(entries, out, window, meter, move |envelope| prepare_one(workers.clone(), envelope)).await;
}

async fn prepare_one(workers: Arc<Workers>, envelope: Envelope<Decodable>) -> Envelope<Ready> {
    let (mut rest, work) = envelope.split();
    let Some(Decodable { fetched: Fetched { media, mut raw }, mut decoded }) = work else {
        return rest.join(None::<Result<_, Rejection>>);
    };
    let content = media.content;
    let (crew, lane, stats) = (workers.crew.clone(), workers.lane, workers.stats.clone());
    let _working = stats.health.begin(Step::Prepare);
    let result = crew.run(lane, move |worker| workers.process(worker, &media)).await;
    let result = result.unwrap_or_else(|panic| Err(Rejection::new("prepare", "stage.panic", panic)));
    if let Ok(prepared) = &result {
        decoded.shrink_to(prepared.chunks.iter().map(spawn_core::Features::bytes).sum());
        rest.holds.push(Hold::new(decoded));
    }
    // Fetched media are gone now; an inline value stays until it is written, for the dead letter.
    raw.shrink_to(rest.record.value.as_ref().map_or(0, |v| v.len()));
    rest.holds.push(Hold::new(raw));
    rest.join(Some(result.map(|prepared| Ready { prepared, content })))
}

impl Workers {
    fn process(&self, worker: usize, media: &Media) -> Result<Prepared, Rejection> {
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
