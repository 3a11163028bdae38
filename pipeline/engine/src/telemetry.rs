//! The metrics of the line, and the counters that progress bars and reports read. Names are documented in `docs/metrics.md`.

use crate::budget::Share;
use crate::device::{Answer, DeviceHandle};
use crate::health::Health;
use crate::lanes::{Lane, Lateness};
use crate::meter::{Meter, MeterReading};
use crate::pace::{Governor, Pace};
use metrics::{Histogram, counter, gauge, histogram};
use spawn_core::{Hold, ModelSpec, Outcome};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What one pipeline has done so far. Shared with whoever shows it.
#[derive(Debug)]
pub struct Stats {
    /// The pipeline's name.
    pub pipeline: Arc<str>,
    /// One meter per verb, in the order of the flow.
    pub meters: Vec<Arc<Meter>>,
    /// Records taken in.
    pub taken: AtomicU64,
    /// Records in the line now.
    pub in_flight: AtomicU64,
    /// Written: results, rejected, skipped, deferred.
    pub outcomes: [AtomicU64; 4],
    /// Model calls.
    pub calls: AtomicU64,
    /// Chunks inferred.
    pub chunks: AtomicU64,
    /// Milliseconds of sound in the results.
    pub media_ms: AtomicU64,
    /// Batches written.
    pub batches: AtomicU64,
    /// Milliseconds since 1970 of the first record; 0 before it.
    pub first_taken_ms: AtomicU64,
    /// Milliseconds since 1970 of the last commit; 0 before the first.
    pub last_commit_ms: AtomicU64,
    /// The line has ended, and all that it took in is written or belongs to somebody else.
    pub drained: AtomicBool,
    pub(crate) late: Lateness,
    /// How long each verb takes, in the order of the meters: found once, because records are many.
    durations: Vec<Histogram>,
    /// What moves, and what does not.
    pub health: Health,
}

impl Stats {
    /// Counters at zero.
    pub fn new(pipeline: &str, meters: Vec<Arc<Meter>>) -> Self {
        let duration = |meter: &Arc<Meter>| histogram!("spawn_stage_duration_seconds", "pipeline" => pipeline.to_owned(), "stage" => meter.stage);
        Self {
            pipeline: pipeline.into(),
            durations: meters.iter().map(duration).collect(),
            meters,
            taken: AtomicU64::new(0),
            in_flight: AtomicU64::new(0),
            outcomes: Default::default(),
            calls: AtomicU64::new(0),
            chunks: AtomicU64::new(0),
            media_ms: AtomicU64::new(0),
            batches: AtomicU64::new(0),
            first_taken_ms: AtomicU64::new(0),
            last_commit_ms: AtomicU64::new(0),
            drained: AtomicBool::new(false),
            late: Lateness::default(),
            health: Health::default(),
        }
    }

    /// Seconds from the first record to the last commit.
    pub fn active_seconds(&self) -> f64 {
        let (first, last) = (self.first_taken_ms.load(Relaxed), self.last_commit_ms.load(Relaxed));
        if first == 0 { 0.0 } else { last.saturating_sub(first) as f64 / 1e3 }
    }

    /// Seconds since the last commit, or since the first record before it; 0 before any.
    pub fn seconds_since_progress(&self) -> f64 {
        let last = self.last_commit_ms.load(Relaxed).max(self.first_taken_ms.load(Relaxed));
        if last == 0 { 0.0 } else { now_ms().saturating_sub(last) as f64 / 1e3 }
    }

    /// A record is in the line for as long as what this returns lives, whether it is written, fenced or dropped as stale.
    pub(crate) fn take(self: &Arc<Self>, produced_ms: i64) -> Hold {
        self.late.taken(since(produced_ms));
        if self.taken.fetch_add(1, Relaxed) == 0 {
            self.first_taken_ms.store(now_ms(), Relaxed);
        }
        self.in_flight.fetch_add(1, Relaxed);
        Hold::new(InFlight(self.clone(), self.health.entered()))
    }

    /// Records settled, whatever became of them.
    pub fn settled(&self) -> u64 {
        self.outcomes.iter().map(|o| o.load(Relaxed)).sum()
    }

    /// Results, rejected, skipped, deferred.
    pub fn read_outcomes(&self) -> [u64; 4] {
        std::array::from_fn(|i| self.outcomes[i].load(Relaxed))
    }

    pub(crate) fn written(&self, outcomes: [u64; 4]) {
        for (i, outcome) in ["result", "rejected", "skipped", "deferred"].into_iter().enumerate() {
            self.outcomes[i].fetch_add(outcomes[i], Relaxed);
            counter!("spawn_items_total", "pipeline" => self.pipeline.to_string(), "outcome" => outcome)
                .increment(outcomes[i]);
        }
        self.batches.fetch_add(1, Relaxed);
        self.last_commit_ms.store(now_ms(), Relaxed);
    }

    /// A record was tried in a process of its own.
    pub(crate) fn tried(&self, outcome: &'static str) {
        counter!("spawn_trials_total", "pipeline" => self.pipeline.to_string(), "outcome" => outcome)
            .increment(1);
    }

    pub(crate) fn paused(&self, paused: bool) {
        gauge!("spawn_pipeline_paused", "pipeline" => self.pipeline.to_string())
            .set(f64::from(u8::from(paused)));
    }

    pub(crate) fn media_seconds(&self, seconds: f64) {
        self.media_ms.fetch_add((seconds * 1e3) as u64, Relaxed);
    }

    /// A claim found the store behind the group's offset.
    pub(crate) fn set_back(&self) {
        counter!("spawn_checkpoint_set_back_total", "pipeline" => self.pipeline.to_string()).increment(1);
    }

    pub(crate) fn rejected(&self, code: &str) {
        counter!("spawn_rejections_total", "pipeline" => self.pipeline.to_string(), "code" => code.to_owned()).increment(1);
    }

    pub(crate) fn stage_took(&self, stage: &'static str, took: Duration) {
        let verb = self.meters.iter().position(|meter| meter.stage == stage);
        if let Some(duration) = verb.and_then(|verb| self.durations.get(verb)) {
            duration.record(took.as_secs_f64());
        }
    }

    pub(crate) fn item_took(&self, produced_ms: i64) {
        let took = since(produced_ms);
        self.late.written(took);
        histogram!("spawn_item_end_to_end_seconds", "pipeline" => self.pipeline.to_string())
            .record(took.as_secs_f64());
    }

    pub(crate) fn dispatched(&self, reason: &'static str, records: usize) {
        let pipeline = self.pipeline.to_string();
        counter!("spawn_batch_dispatch_total", "pipeline" => pipeline.clone(), "reason" => reason)
            .increment(1);
        histogram!("spawn_batch_items", "pipeline" => pipeline).record(records as f64);
    }

    /// A record needed no model call: its content was `stored`, or `shared` with one that is computed.
    pub(crate) fn reused(&self, from: &'static str) {
        counter!("spawn_reused_items_total", "pipeline" => self.pipeline.to_string(), "from" => from)
            .increment(1);
    }

    pub(crate) fn called(&self, model: &ModelSpec, chunks: usize, padding: f64, answer: &Answer) {
        self.calls.fetch_add(1, Relaxed);
        self.chunks.fetch_add(chunks as u64, Relaxed);
        histogram!("spawn_batch_padding_ratio", "pipeline" => self.pipeline.to_string()).record(padding);
        let (model, device) = (model.name.to_string(), model.device.to_string());
        histogram!("spawn_inference_seconds", "model" => model, "device" => device.clone())
            .record(answer.took.as_secs_f64());
        let [now, most] = answer.device_bytes;
        if most > 0 {
            gauge!("spawn_device_memory_bytes", "device" => device.clone()).set(now as f64);
            gauge!("spawn_device_memory_peak_bytes", "device" => device).set(most as f64);
        }
    }
}

struct InFlight(Arc<Stats>, u64);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Relaxed);
        self.0.health.left(self.1);
    }
}

/// Deferred records that wait, in the whole pipeline.
pub(crate) fn redrive_waiting(pipeline: &str, records: u64, oldest_seconds: f64) {
    gauge!("spawn_redrive_waiting_records", "pipeline" => pipeline.to_owned()).set(records as f64);
    gauge!("spawn_redrive_oldest_seconds", "pipeline" => pipeline.to_owned()).set(oldest_seconds);
}

/// What became of a deferred record; none when somebody else had settled it.
pub(crate) fn redrive_settled(pipeline: &str, outcome: Option<Outcome>) {
    let outcome = outcome.map_or("elsewhere", Outcome::as_str);
    counter!("spawn_redrive_settled_total", "pipeline" => pipeline.to_owned(), "outcome" => outcome)
        .increment(1);
}

/// Publishes what must be sampled: shares of time per verb over the last interval, queue fill, budgets; and looks whether records are on
/// time. Runs until dropped.
pub(crate) async fn report(
    stats: Arc<Stats>,
    queues: Vec<(&'static str, QueueProbe)>,
    budgets: Vec<Share>,
    watched: Watched,
    (governor, pace): (Option<Governor>, Arc<Pace>),
    every: Duration,
) {
    let mut earlier: Vec<MeterReading> = stats.meters.iter().map(|m| m.read()).collect();
    let pipeline = stats.pipeline.to_string();
    loop {
        tokio::time::sleep(every).await;
        for (meter, before) in stats.meters.iter().zip(&mut earlier) {
            let now = meter.read();
            let last = now.since(before);
            let [busy, starved, blocked] = last.ratios();
            *before = now;
            gauge!("spawn_stage_items_per_second", "pipeline" => pipeline.clone(), "stage" => meter.stage)
                .set(last.items as f64 / (last.busy + last.starved + last.blocked).as_secs_f64().max(1e-9));
            gauge!("spawn_stage_busy_ratio", "pipeline" => pipeline.clone(), "stage" => meter.stage)
                .set(busy);
            gauge!("spawn_stage_starved_ratio", "pipeline" => pipeline.clone(), "stage" => meter.stage)
                .set(starved);
            gauge!("spawn_stage_blocked_ratio", "pipeline" => pipeline.clone(), "stage" => meter.stage)
                .set(blocked);
        }
        for step in stats.health.read(&[]).steps {
            gauge!("spawn_stage_stuck", "pipeline" => pipeline.clone(), "stage" => step.step.name())
                .set(f64::from(u8::from(step.stuck)));
            gauge!("spawn_stage_oldest_seconds", "pipeline" => pipeline.clone(), "stage" => step.step.name())
                .set(step.oldest.as_secs_f64());
        }
        let seen = stats.late.seen();
        if let Some(governor) = &governor {
            governor.look(seen, &pace);
        }
        gauge!("spawn_batch_linger_seconds", "pipeline" => pipeline.clone()).set(pace.linger().as_secs_f64());
        gauge!("spawn_batch_limit_items", "pipeline" => pipeline.clone()).set(pace.records_max() as f64);
        if watched.lane == Lane::Live {
            let has_work = stats.in_flight.load(Relaxed) > 0;
            let late = stats.late.judge(seen, &watched.device.rules(), has_work);
            let yields = watched.device.tell_late(&stats.pipeline, late);
            gauge!("spawn_lane_late", "pipeline" => pipeline.clone()).set(f64::from(u8::from(late)));
            gauge!("spawn_lane_bulk_yields").set(f64::from(u8::from(yields)));
        }
        for (lane, calls) in ["live", "bulk"].into_iter().zip(watched.device.calls_waiting()) {
            gauge!("spawn_lane_waiting_calls", "lane" => lane).set(calls as f64);
        }
        for (stage, probe) in &queues {
            let Some((items, capacity)) = probe() else { continue };
            gauge!("spawn_queue_items", "pipeline" => pipeline.clone(), "stage" => *stage).set(items as f64);
            gauge!("spawn_queue_capacity_items", "pipeline" => pipeline.clone(), "stage" => *stage)
                .set(capacity as f64);
        }
        for budget in &budgets {
            gauge!("spawn_inflight_bytes", "pool" => budget.name()).set(budget.bytes_used() as f64);
            gauge!("spawn_inflight_limit_bytes", "pool" => budget.name()).set(budget.bytes_total() as f64);
        }
    }
}

/// A pipeline's lane on its device.
#[derive(Debug)]
pub struct Watched {
    /// Its name.
    pub pipeline: Arc<str>,
    /// Of the pipeline.
    pub lane: Lane,
    /// Told when a live pipeline is late.
    pub device: DeviceHandle,
}

impl Drop for Watched {
    fn drop(&mut self) {
        // A pipeline that ended holds up nobody.
        self.device.tell_late(&self.pipeline, false);
    }
}

/// Items in a queue and its capacity; `None` once it is closed.
pub type QueueProbe = Box<dyn Fn() -> Option<(usize, usize)> + Send + Sync>;

/// Looks into the channel behind `tx` without keeping it open.
pub fn probe<T: Send + 'static>(tx: &tokio::sync::mpsc::Sender<T>) -> QueueProbe {
    let weak = tx.downgrade();
    Box::new(move || weak.upgrade().map(|tx| (tx.max_capacity() - tx.capacity(), tx.max_capacity())))
}

fn since(produced_ms: i64) -> Duration {
    Duration::from_millis((now_ms() as i64).saturating_sub(produced_ms).max(0) as u64)
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}
