//! Two lanes share a device and the CPU crew: live work goes first at each border between two calls, bulk work keeps a floor.
//!
//! Live work is what somebody waits for; bulk work takes what it leaves. So that bulk never stands still, it may go ahead of waiting
//! live work for a share of the time. While live work is later than its limit, bulk gets that share and no more, also where live work
//! leaves gaps: its calls wait, its queues fill, and its reading pauses.

use crate::pace::Seen;
use std::collections::{BTreeSet, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Which queue a pipeline's work waits in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Goes first.
    Live,
    /// Takes what is left, at least its floor.
    Bulk,
}

/// How the lanes share.
#[derive(Clone, Copy, Debug)]
pub struct LaneRules {
    /// Share of the time, above 0 and at most 1, that bulk work gets however much live work waits.
    pub bulk_share: f64,
    /// Bulk yields while the 95th percentile of live records takes longer from their timestamp to the commit.
    pub live_p95_max: Duration,
    /// Bulk yields while live records are older than this when they are taken in.
    pub live_lag_max: Duration,
    /// Bulk calls are cut so that they take no longer; none where no live work comes.
    pub bulk_call_max: Option<Duration>,
}

impl Default for LaneRules {
    fn default() -> Self {
        Self {
            bulk_share: 0.1,
            live_p95_max: Duration::from_secs(2),
            live_lag_max: Duration::from_secs(5),
            bulk_call_max: None,
        }
    }
}

/// Work that waits, per lane, oldest first.
#[derive(Debug)]
pub(crate) struct Lanes<T> {
    live: VecDeque<T>,
    bulk: VecDeque<T>,
    bulk_share: f64,
    bulk_running: usize,
    /// From then on bulk has had less than its share.
    bulk_due: Option<Instant>,
}

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Turn<T> {
    /// This.
    Run(Lane, T),
    /// Nothing before that time, if there is one, or before somebody brings or ends work.
    Wait(Option<Instant>),
}

impl<T> Lanes<T> {
    pub(crate) fn new(bulk_share: f64) -> Self {
        let (live, bulk) = (VecDeque::new(), VecDeque::new());
        Self { live, bulk, bulk_share: bulk_share.clamp(0.01, 1.0), bulk_running: 0, bulk_due: None }
    }

    pub(crate) fn push(&mut self, lane: Lane, work: T) {
        match lane {
            Lane::Live => self.live.push_back(work),
            Lane::Bulk => self.bulk.push_back(work),
        }
    }

    pub(crate) fn len(&self) -> [usize; 2] {
        [self.live.len(), self.bulk.len()]
    }

    /// Takes what goes next. Whoever runs bulk work says when it has ended.
    pub(crate) fn next(&mut self, now: Instant, yielding: bool) -> Turn<T> {
        let owed = self.bulk_running == 0 && self.bulk_due.is_none_or(|due| now >= due);
        let bulk_may = owed || (self.live.is_empty() && !yielding);
        if bulk_may && let Some(work) = self.bulk.pop_front() {
            self.bulk_running += 1;
            return Turn::Run(Lane::Bulk, work);
        }
        match self.live.pop_front() {
            Some(work) => Turn::Run(Lane::Live, work),
            None if self.bulk.is_empty() || self.bulk_running > 0 => Turn::Wait(None),
            None => Turn::Wait(self.bulk_due),
        }
    }

    /// Bulk work that took so long has ended.
    pub(crate) fn bulk_ended(&mut self, now: Instant, took: Duration) {
        self.bulk_running = self.bulk_running.saturating_sub(1);
        self.bulk_due = Some(now + took.mul_f64(1.0 / self.bulk_share - 1.0));
    }

    pub(crate) fn clear(&mut self) {
        self.live.clear();
        self.bulk.clear();
    }
}

/// How late one pipeline's records have been since the last look.
#[derive(Debug, Default)]
pub(crate) struct Lateness(Mutex<Late>);

#[derive(Debug, Default)]
struct Late {
    took: Vec<Duration>,
    lag: Duration,
    over: bool,
}

/// Durations kept between two looks; further ones are left out.
const SAMPLES_MAX: usize = 4096;

impl Lateness {
    pub(crate) fn written(&self, took: Duration) {
        let mut late = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if late.took.len() < SAMPLES_MAX {
            late.took.push(took);
        }
    }

    pub(crate) fn taken(&self, age: Duration) {
        let mut late = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        late.lag = late.lag.max(age);
    }

    /// What was seen since the last look.
    pub(crate) fn seen(&self) -> Seen {
        let mut late = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut took, lag) = (std::mem::take(&mut late.took), std::mem::take(&mut late.lag));
        took.sort_unstable();
        Seen { p95: took.get(took.len() * 95 / 100).copied(), lag }
    }

    /// Whether the pipeline is later than its limits. Without news it is what it was for as long as it has work.
    pub(crate) fn judge(&self, seen: Seen, rules: &LaneRules, has_work: bool) -> bool {
        let mut late = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        late.over = match seen.p95 {
            None if seen.lag.is_zero() => late.over && has_work,
            p95 => seen.lag > rules.live_lag_max || p95.is_some_and(|p95| p95 > rules.live_p95_max),
        };
        late.over
    }
}

/// The live pipelines that are late now.
pub(crate) type LatePipelines = BTreeSet<std::sync::Arc<str>>;

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// One thread, calls of 10 ms; both lanes always have work. Which lane ran, for `calls` calls.
    fn run(lanes: &mut Lanes<u32>, now: &mut Instant, calls: usize, live: bool, yielding: bool) -> Vec<Lane> {
        let mut ran = Vec::new();
        while ran.len() < calls {
            lanes.push(Lane::Bulk, 0);
            if live {
                lanes.push(Lane::Live, 0);
            }
            match lanes.next(*now, yielding) {
                Turn::Run(lane, _) => {
                    *now += 10 * MS;
                    if lane == Lane::Bulk {
                        lanes.bulk_ended(*now, 10 * MS);
                    }
                    ran.push(lane);
                }
                Turn::Wait(until) => *now = until.expect("bulk is due at a time"),
            }
        }
        ran
    }

    #[test]
    fn live_goes_first_and_bulk_keeps_its_share() {
        let (mut lanes, mut now) = (Lanes::new(0.1), Instant::now());
        let ran = run(&mut lanes, &mut now, 100, true, false);
        assert_eq!(ran.iter().filter(|lane| **lane == Lane::Bulk).count(), 10);
        let together = ran.windows(2).filter(|w| w == &[Lane::Bulk, Lane::Bulk]).count();
        assert_eq!(together, 0, "live work waits for one bulk call at most");
    }

    #[test]
    fn bulk_takes_what_live_leaves_unless_it_yields() {
        let (mut lanes, started) = (Lanes::new(0.1), Instant::now());
        let mut now = started;
        run(&mut lanes, &mut now, 10, false, false);
        assert_eq!(now - started, 100 * MS, "no gaps");
        let started = now;
        run(&mut lanes, &mut now, 10, false, true);
        assert_eq!(now - started, 1000 * MS, "its share of the time, and no more");
    }

    #[test]
    fn a_yielding_lane_has_one_call_at_a_time() {
        let (mut lanes, now) = (Lanes::new(0.5), Instant::now());
        lanes.push(Lane::Bulk, 1);
        lanes.push(Lane::Bulk, 2);
        lanes.push(Lane::Live, 3);
        assert_eq!(lanes.next(now, true), Turn::Run(Lane::Bulk, 1));
        assert_eq!(lanes.next(now, true), Turn::Run(Lane::Live, 3));
        assert_eq!(lanes.next(now, true), Turn::Wait(None));
        lanes.bulk_ended(now, 10 * MS);
        assert_eq!(lanes.next(now, true), Turn::Wait(Some(now + 10 * MS)));
        assert_eq!(lanes.next(now + 10 * MS, true), Turn::Run(Lane::Bulk, 2));
    }

    #[test]
    fn lateness_is_told_by_either_limit_and_ends() {
        let (late, rules) = (Lateness::default(), LaneRules::default());
        let look = |has_work| late.judge(late.seen(), &rules, has_work);
        (0..90).for_each(|_| late.written(MS));
        (0..10).for_each(|_| late.written(3000 * MS));
        assert!(look(true));
        assert!(look(true), "no news");
        assert!(!look(false), "nothing to be late with");
        late.taken(6000 * MS);
        assert!(look(true));
        late.taken(MS);
        late.written(MS);
        assert!(!look(true));
    }
}
