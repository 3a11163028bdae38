//! The trunk: one verb per line, source first.

use crate::admit::admit;
use crate::batcher::{UnitLimits, batched};
use crate::budget::Share;
use crate::claims::Claims;
use crate::crew::Crew;
use crate::device::DeviceHandle;
use crate::failures::FailureLimits;
use crate::fetch::{Fetch, fetch_ordered};
use crate::gate::Gate;
use crate::infer::Infer;
use crate::intake::Intake;
use crate::lanes::Lane;
use crate::meter::{Meter, MeterReading};
use crate::pace::{Governor, Pace};
use crate::pause::Pausing;
use crate::prepare::prepare_ordered;
use crate::redrive::{Deferred, redrive};
use crate::reuse::Reuse;
use crate::standing::{Wrote, watch_standing};
use crate::telemetry::{QueueProbe, Stats, Watched, probe, report};
use crate::trial::{Suspects, Trial};
use crate::write::Write;
use spawn_core::{Fault, FaultClass, ModelSpec, Sink, Source, Stage};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// The verbs, in the order of the flow.
const VERBS: [&str; 7] = ["intake", "fetch", "admit", "prepare", "batch", "infer", "write"];

/// Records between two verbs. Short: what waits here is memory without progress.
pub(crate) const QUEUE_ITEMS: usize = 16;

/// The bounds of one pipeline.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Payloads fetched at once, in records: at least two seconds of the wanted rate.
    pub fetch_window: usize,
    /// When a commit unit is full.
    pub unit: UnitLimits,
    /// When so much is rejected that the pipeline pauses.
    pub failures: FailureLimits,
    /// Longest time from the stop to the end; what is not written by then is read again by the next owner.
    pub drain_max: Duration,
    /// What 95 of 100 records may take from timestamp to commit; units wait and grow as far as that allows. None: as `unit` says.
    pub p95_max: Option<Duration>,
    /// How long an answer of the sink may take to what it knows of a content; none: everything is computed.
    pub reuse_within: Option<Duration>,
    /// A step that has work and finishes nothing for so long is stuck.
    pub stuck_after: Duration,
}

/// One topic, one stage, one model, one generation of rows.
pub struct Pipeline {
    /// Its name in metrics and tables.
    pub name: Arc<str>,
    /// Where records come from.
    pub source: Arc<dyn Source>,
    /// Resolves references.
    pub fetch: Arc<dyn Fetch>,
    /// Prepares media.
    pub stage: Box<dyn Stage>,
    /// CPU threads, shared by all pipelines.
    pub crew: Crew,
    /// The inference thread, shared by all pipelines.
    pub device: DeviceHandle,
    /// The model on it.
    pub model: ModelSpec,
    /// Where results go.
    pub sink: Arc<dyn Sink>,
    /// Records to be tried again outside the line, where they are kept.
    pub deferred: Option<Arc<dyn Deferred>>,
    /// Its share of the pool of raw bytes.
    pub raw: Share,
    /// Its share of the pool of decoded bytes.
    pub decoded: Share,
    /// Whether it goes first on device and crew.
    pub lane: Lane,
    /// Where records are tried that may have killed workers.
    pub trial: Option<Arc<dyn Trial>>,
    /// Bounds.
    pub limits: Limits,
}

/// What a second line of the same pipeline is made of.
pub(crate) struct Parts {
    pub(crate) fetch: Arc<dyn Fetch>,
    pub(crate) stage: Box<dyn Stage>,
    pub(crate) crew: Crew,
    pub(crate) device: DeviceHandle,
    pub(crate) model: ModelSpec,
    pub(crate) raw: Share,
    pub(crate) decoded: Share,
    pub(crate) lane: Lane,
    pub(crate) reuse: Reuse,
    pub(crate) trial: Option<Arc<dyn Trial>>,
    pub(crate) limits: Limits,
}

/// What a pipeline did, in total.
#[derive(Clone, Debug)]
pub struct Summary {
    /// Whether all that was taken in is written, or belongs to somebody else. The rest is read again by the next owner.
    pub drained: bool,
    /// Records taken in.
    pub taken: u64,
    /// Results, rejected, skipped, deferred.
    pub outcomes: [u64; 4],
    /// Verb and its totals.
    pub stages: Vec<(&'static str, MeterReading)>,
}

impl Pipeline {
    /// Counters for this pipeline, to be handed to [`Pipeline::run`] and shown while it runs.
    pub fn stats(&self) -> Arc<Stats> {
        let stats = Stats::new(&self.name, VERBS.map(|verb| Arc::new(Meter::new(verb))).to_vec());
        stats.health.attach(Arc::downgrade(&self.source), self.limits.stuck_after);
        Arc::new(stats)
    }

    /// Runs until the source ends, after `stop` or by itself. An error is a fault that needs an operator or a restart; nothing is lost
    /// by it, because progress is only what the sink has committed.
    pub async fn run(
        self,
        stats: Arc<Stats>,
        stop: impl Future<Output = ()> + Send + 'static,
    ) -> Result<Summary, Fault> {
        let (source, drain_max) = (self.source.clone(), self.limits.drain_max);
        let mut verbs = self.start(&stats);
        let mut stop = Box::pin(stop);
        let (mut deadline, mut drained) = (None, false);
        loop {
            tokio::select! {
                () = &mut stop, if deadline.is_none() => {
                    source.stop();
                    deadline = Some(tokio::time::Instant::now() + drain_max);
                }
                () = tokio::time::sleep_until(deadline.unwrap_or_else(tokio::time::Instant::now)), if deadline.is_some() => {
                    tracing::warn!(pipeline = %stats.pipeline, "drain deadline passed, the rest will be read again");
                    break;
                }
                ended = verbs.join_next() => match ended {
                    None => {
                        drained = true;
                        break;
                    }
                    Some(Ok(Ok(Verb::Last))) => {
                        drained = true;
                        break;
                    }
                    Some(Ok(Ok(Verb::Inner))) => {}
                    Some(Ok(Err(fault))) => return Err(fault),
                    Some(Err(panic)) => return Err(Fault::new(FaultClass::Operator, "line", panic)),
                },
            }
        }
        stats.drained.store(drained, std::sync::atomic::Ordering::Relaxed);
        verbs.shutdown().await;
        Ok(Summary {
            drained,
            taken: stats.taken.load(std::sync::atomic::Ordering::Relaxed),
            outcomes: stats.read_outcomes(),
            stages: stats.meters.iter().map(|m| (m.stage, m.read())).collect(),
        })
    }

    fn parts(&self, reuse: Reuse) -> Parts {
        Parts {
            fetch: self.fetch.clone(),
            stage: self.stage.fork(),
            crew: self.crew.clone(),
            device: self.device.clone(),
            model: self.model.clone(),
            raw: self.raw.clone(),
            decoded: self.decoded.clone(),
            lane: self.lane,
            reuse,
            trial: self.trial.clone(),
            limits: self.limits,
        }
    }

    /// Lays the line: each verb is a task, between two verbs lies a short queue.
    fn start(self, stats: &Arc<Stats>) -> JoinSet<Result<Verb, Fault>> {
        let [intake_m, fetch_m, admit_m, prepare_m, batch_m, infer_m, write_m] =
            std::array::from_fn(|i| stats.meters[i].clone());
        let claims = Claims::default();
        let in_line = self.limits.fetch_window + VERBS.len() * QUEUE_ITEMS + 4 * self.limits.unit.records_max;
        let suspects = Suspects::new(self.trial.clone(), in_line, stats.clone());
        let gate = Gate::default();
        let pausing = Pausing::new(
            (self.sink.clone(), self.source.clone()),
            (claims.clone(), gate.clone()),
            stats.clone(),
            self.limits.failures,
        );
        let wrote = Wrote::default();
        let standing = watch_standing(
            (self.sink.clone(), self.source.clone()),
            claims.clone(),
            wrote.clone(),
            stats.clone(),
            self.limits.failures.look_every,
        );
        let (reuse, answering) = match self.limits.reuse_within {
            Some(within) => {
                let (reuse, answering) = Reuse::new(self.sink.clone(), within, stats.clone());
                (reuse, Some(answering))
            }
            None => (Reuse::default(), None),
        };
        let parts = self.parts(reuse.clone());
        let second = self.deferred.clone().map(|deferred| redrive(deferred, parts, stats.clone()));
        let preparation: Arc<str> = self.stage.spec().into();
        let intake = Intake {
            source: self.source.clone(),
            sink: self.sink.clone(),
            claims: claims.clone(),
            raw: self.raw.clone(),
            fetch: self.fetch.clone(),
            meter: intake_m,
            stats: stats.clone(),
            gate,
            suspects: suspects.clone(),
        };
        let watched = Watched { pipeline: self.name.clone(), lane: self.lane, device: self.device.clone() };
        let infer = Infer {
            device: self.device,
            lane: self.lane,
            spec: self.model,
            preparation,
            reuse: reuse.clone(),
            meter: infer_m,
            stats: stats.clone(),
        };
        let write = Write {
            sink: self.sink,
            source: self.source,
            claims: claims.clone(),
            meter: write_m,
            stats: stats.clone(),
            pausing: pausing.clone(),
            wrote,
        };

        let (admitted_tx, admitted) = mpsc::channel(QUEUE_ITEMS);
        let (fetched_tx, fetched) = mpsc::channel(QUEUE_ITEMS);
        let (decodable_tx, decodable) = mpsc::channel(QUEUE_ITEMS);
        let (ready_tx, ready) = mpsc::channel(QUEUE_ITEMS);
        let (unit_tx, units) = mpsc::channel(1);
        let (inferred_tx, inferred) = mpsc::channel(1);
        let queues: Vec<(&'static str, QueueProbe)> = vec![
            ("fetch", probe(&admitted_tx)),
            ("admit", probe(&fetched_tx)),
            ("prepare", probe(&decodable_tx)),
            ("batch", probe(&ready_tx)),
            ("infer", probe(&unit_tx)),
            ("write", probe(&inferred_tx)),
        ];
        let budgets = vec![self.raw, self.decoded.clone()];
        let gate_stage = self.stage.fork();
        let (stats_f, stats_p, stats_b, stats_r) =
            (stats.clone(), stats.clone(), stats.clone(), stats.clone());
        let (crew, stage, limits, decoded) = ((self.crew, self.lane), self.stage, self.limits, self.decoded);
        let (gate, gate_claims, fetch) = (decoded.clone(), claims.clone(), self.fetch);

        let mut verbs = JoinSet::new();
        let fetching =
            fetch_ordered(admitted, fetched_tx, fetch, limits.fetch_window, fetch_m, stats_f, suspects);
        let admit_m = (admit_m, stats.clone());
        let admitting = admit(fetched, decodable_tx, gate_stage, gate, gate_claims, reuse.clone(), admit_m);
        let preparing = prepare_ordered(decodable, ready_tx, stage, crew, reuse, prepare_m, stats_p);
        let pace = Arc::new(Pace::new(&limits.unit));
        let governor = limits.p95_max.map(|p95_max| Governor { p95_max, widest: limits.unit });
        let batching =
            batched(ready, unit_tx, (limits.unit, pace.clone()), decoded, claims, batch_m, stats_b);
        verbs.spawn(async move { intake.run(admitted_tx).await.map(|()| Verb::Inner) });
        verbs.spawn(inner(fetching));
        verbs.spawn(inner(admitting));
        verbs.spawn(inner(preparing));
        verbs.spawn(inner(batching));
        verbs.spawn(async move { infer.run(units, inferred_tx).await.map(|()| Verb::Inner) });
        verbs.spawn(async move { write.run(inferred).await.map(|()| Verb::Last) });
        verbs.spawn(async move { pausing.watch().await.map(|()| Verb::Inner) });
        verbs.spawn(async move { standing.await.map(|()| Verb::Inner) });
        if let Some(answering) = answering {
            verbs.spawn(inner(answering));
        }
        if let Some(second) = second {
            verbs.spawn(async move { second.await.map(|()| Verb::Inner) });
        }
        verbs.spawn(async move {
            report(stats_r, queues, budgets, watched, (governor, pace), Duration::from_secs(1)).await;
            Ok(Verb::Inner)
        });
        verbs
    }
}

/// A verb that cannot fail, as a task.
async fn inner(verb: impl Future<Output = ()>) -> Result<Verb, Fault> {
    verb.await;
    Ok(Verb::Inner)
}

/// Which kind of task ended.
enum Verb {
    /// One before the end of the line, or beside it: what follows drains.
    Inner,
    /// The end of the line: all is written.
    Last,
}
