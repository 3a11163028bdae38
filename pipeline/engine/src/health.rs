//! Health by progress: what is in flight in each step, for how long, and when the step last finished something.
//!
//! A process that is up says nothing; a line in which something has been under way for too long, and nothing came out meanwhile, is stuck,
//! and this names the step. An idle line is healthy. A line that waits for a dependency which is gone waits for good reason: it tries
//! again by itself, a restart would not help, and so it is told apart from one that is stuck.

use spawn_core::{Fault, FaultClass, Source};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;
use tokio::time::Instant;

/// Nothing may be under way for longer than so many times the limit, even while other work passes it by.
const STRAGGLER: u32 = 4;

/// The steps in which a line can get stuck, in the order of the flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The source's own thread.
    Poll,
    /// Taking ownership of partitions.
    Claim,
    /// Getting payloads.
    Fetch,
    /// Decoding and preparing.
    Prepare,
    /// Model calls.
    Infer,
    /// Writing a commit unit.
    Write,
    /// The line as a whole: a record is in it, and no step has anything to do.
    Line,
}

impl Step {
    /// All, in order.
    pub const ALL: [Self; 7] =
        [Self::Poll, Self::Claim, Self::Fetch, Self::Prepare, Self::Infer, Self::Write, Self::Line];

    /// Its name in metrics and answers.
    pub fn name(self) -> &'static str {
        match self {
            Self::Poll => "poll",
            Self::Claim => "claim",
            Self::Fetch => "fetch",
            Self::Prepare => "prepare",
            Self::Infer => "infer",
            Self::Write => "write",
            Self::Line => "line",
        }
    }

    /// The dependency that it asks, whose absence explains why it does not move.
    fn dependency(self) -> Option<&'static str> {
        matches!(self, Self::Claim | Self::Write).then_some("postgres")
    }
}

/// One pipeline's health. Told of every piece of work, asked by whoever shows it.
#[derive(Default)]
pub struct Health {
    steps: [Mutex<Progress>; 7],
    /// What is being tried again, and why: the dependency and its last words.
    waiting: Mutex<BTreeMap<&'static str, (&'static str, String)>>,
    /// Records that are tried in a process of their own, or wait for that.
    trials: AtomicUsize,
    attached: OnceLock<(Weak<dyn Source>, Duration)>,
}

#[derive(Default)]
struct Progress {
    begun: u64,
    in_flight: BTreeMap<u64, Instant>,
    finished: Option<Instant>,
}

/// A piece of work under way; it has finished when this is dropped.
pub struct Working<'a> {
    step: &'a Mutex<Progress>,
    number: u64,
}

/// A record is tried in a process of its own for as long as this lives.
pub(crate) struct Trying<'a>(&'a AtomicUsize);

impl Drop for Trying<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// How one step is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepHealth {
    /// The step.
    pub step: Step,
    /// Pieces of work under way.
    pub in_flight: usize,
    /// Age of the oldest of them; zero without any.
    pub oldest: Duration,
    /// Too long.
    pub stuck: bool,
}

/// How a line is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthReading {
    /// Each step, in the order of the flow.
    pub steps: Vec<StepHealth>,
    /// Dependencies that are gone, each with its last words (the line tries them again by itself), and `trial` while records are tried in a
    /// process of their own.
    pub waits_for: BTreeMap<&'static str, String>,
}

impl HealthReading {
    /// Names of the steps that are stuck.
    pub fn stuck(&self) -> Vec<&'static str> {
        self.steps.iter().filter(|s| s.stuck).map(|s| s.step.name()).collect()
    }
}

impl std::fmt::Debug for Health {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.read(&[]).fmt(f)
    }
}

impl Drop for Working<'_> {
    fn drop(&mut self) {
        lock(self.step).finish(self.number);
    }
}

impl Progress {
    fn begin(&mut self) -> u64 {
        self.begun += 1;
        self.in_flight.insert(self.begun, Instant::now());
        self.begun
    }

    fn finish(&mut self, number: u64) {
        self.in_flight.remove(&number);
        self.finished = Some(Instant::now());
    }
}

impl Health {
    /// Whose poll thread to look at, and how long a step may take. The source is not kept alive by this.
    pub(crate) fn attach(&self, source: Weak<dyn Source>, stuck_after: Duration) {
        // A second call changes nothing: one pipeline has one source.
        let _attached = self.attached.set((source, stuck_after));
    }

    /// A piece of work begins.
    pub(crate) fn begin(&self, step: Step) -> Working<'_> {
        let place = &self.steps[step as usize];
        let number = lock(place).begin();
        Working { step: place, number }
    }

    /// The line waits for a trial: that may take minutes, in which nothing else of it moves.
    pub(crate) fn trying(&self) -> Trying<'_> {
        self.trials.fetch_add(1, Relaxed);
        Trying(&self.trials)
    }

    /// A record enters the line; to be given back by [`Health::left`].
    pub(crate) fn entered(&self) -> u64 {
        lock(&self.steps[Step::Line as usize]).begin()
    }

    /// It has left the line.
    pub(crate) fn left(&self, number: u64) {
        lock(&self.steps[Step::Line as usize]).finish(number);
    }

    /// How the line is. `gone` are dependencies that somebody else has found not to answer: what waits for one of them is not stuck.
    pub fn read(&self, gone: &[(&'static str, String)]) -> HealthReading {
        let Some((source, limit)) = self.attached.get() else {
            return HealthReading { steps: Vec::new(), waits_for: BTreeMap::new() };
        };
        let mut waits_for: BTreeMap<&'static str, String> = lock(&self.waiting).values().cloned().collect();
        let pulse = source.upgrade().map(|source| source.pulse()).unwrap_or_default();
        waits_for.extend(pulse.trouble.map(|trouble| ("kafka", trouble)));
        if self.trials.load(Relaxed) > 0 {
            waits_for.insert("trial", "records are tried in a process of their own".into());
        }
        let mut steps: Vec<StepHealth> = Step::ALL.map(|step| self.step(step, *limit)).to_vec();
        steps[Step::Poll as usize] = StepHealth {
            step: Step::Poll,
            in_flight: usize::from(source.strong_count() > 0),
            oldest: pulse.since_polled,
            stuck: pulse.since_polled > *limit,
        };
        // Records wait for company, for memory and for each other: only where nothing at all has moved for long, nothing will.
        let moved = self.steps.iter().filter_map(|step| lock(step).finished).max();
        let quiet = moved.is_none_or(|at| at.elapsed() > *limit * STRAGGLER);
        let idle = |s: &StepHealth| [Step::Poll, Step::Line].contains(&s.step) || s.in_flight == 0;
        steps[Step::Line as usize].stuck &= quiet && waits_for.is_empty() && steps.iter().all(idle);
        for step in steps.iter_mut().filter(|s| s.stuck) {
            if let Some((domain, why)) =
                gone.iter().find(|(domain, _)| step.step.dependency() == Some(domain))
            {
                step.stuck = false;
                waits_for.insert(domain, why.clone());
            }
        }
        HealthReading { steps, waits_for }
    }

    fn step(&self, step: Step, limit: Duration) -> StepHealth {
        let progress = lock(&self.steps[step as usize]);
        let oldest = progress.in_flight.values().next().map_or(Duration::ZERO, Instant::elapsed);
        let quiet = progress.finished.map_or(Duration::MAX, |at| at.elapsed());
        let stuck = (oldest > limit && quiet > limit && step != Step::Line) || oldest > limit * STRAGGLER;
        StepHealth { step, in_flight: progress.in_flight.len(), oldest, stuck }
    }

    fn waits(&self, what: &'static str, fault: &Fault) {
        lock(&self.waiting).insert(what, (fault.domain, fault.detail.clone()));
    }

    fn goes_on(&self, what: &'static str) {
        lock(&self.waiting).remove(what);
    }
}

/// Tries again with growing waits (0.1 to 5 s) for as long as the dependency is gone. Other faults are handed on.
pub async fn retry<T, F>(
    health: &Health,
    what: &'static str,
    mut attempt: impl FnMut() -> F,
) -> Result<T, Fault>
where
    F: Future<Output = Result<T, Fault>>,
{
    let mut wait = Duration::from_millis(100);
    loop {
        match attempt().await {
            Err(fault) if fault.class == FaultClass::Systemic => {
                health.waits(what, &fault);
                tracing::warn!(what, %fault, wait_seconds = wait.as_secs_f64(), "dependency gone, everything is kept");
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(Duration::from_secs(5));
            }
            other => {
                health.goes_on(what);
                return other;
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
