//! How large commit units grow where records have to be on time.
//!
//! Large units cost less: fuller model calls, fewer transactions. They also make records wait, for company and behind each other. A pipeline
//! with a limit on its 95th percentile lets units wait longer and grow larger while the limit is kept, and gives way as soon as it is not:
//! additive increase, multiplicative decrease (Chiu and Jain, 1989). Records that were late when they were read cannot be helped by small
//! units; then the line catches up with its largest ones.

use crate::batcher::UnitLimits;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

/// Below this share of the limit there is room for more.
const ROOM: f64 = 0.8;
/// Share of the limit that the first record of a unit may wait, at most.
const LINGER_SHARE_MAX: f64 = 0.8;
/// Looks from nothing to the most, if all goes well.
const STEPS: u32 = 20;
/// Records of the smallest limit on a unit.
const RECORDS_MIN: usize = 4;

/// What units are cut by at the moment.
#[derive(Debug)]
pub(crate) struct Pace {
    linger_us: AtomicU64,
    records_max: AtomicUsize,
}

impl Pace {
    pub(crate) fn new(limits: &UnitLimits) -> Self {
        Self {
            linger_us: AtomicU64::new(micros(limits.linger)),
            records_max: AtomicUsize::new(limits.records_max),
        }
    }

    /// Longest wait of a unit's first record.
    pub(crate) fn linger(&self) -> Duration {
        Duration::from_micros(self.linger_us.load(Relaxed))
    }

    /// Most records of a unit.
    pub(crate) fn records_max(&self) -> usize {
        self.records_max.load(Relaxed)
    }

    fn set(&self, linger: Duration, records_max: usize) {
        self.linger_us.store(micros(linger), Relaxed);
        self.records_max.store(records_max, Relaxed);
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Since the last look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    /// From timestamp to commit; none where nothing was written.
    pub(crate) p95: Option<Duration>,
    /// Largest age of a record when it was read.
    pub(crate) lag: Duration,
}

/// Holds the limit of one pipeline.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Governor {
    /// Of the 95th percentile.
    pub(crate) p95_max: Duration,
    /// What the configuration allows at most, and the wait to begin with.
    pub(crate) widest: UnitLimits,
}

impl Governor {
    pub(crate) fn look(&self, seen: Seen, pace: &Pace) {
        let Some(p95) = seen.p95 else { return };
        let (linger, records) = (pace.linger(), pace.records_max());
        let (linger, records) = if seen.lag > self.p95_max / 2 {
            (self.widest.linger, self.widest.records_max)
        } else if p95 > self.p95_max {
            // First the wait, then the size.
            let waits = linger > self.p95_max / STEPS;
            (
                linger / 2,
                if waits {
                    records
                } else {
                    (records * 7 / 10).max(RECORDS_MIN.min(self.widest.records_max))
                },
            )
        } else if p95 > self.p95_max.mul_f64(ROOM) {
            (linger, records)
        } else if records < self.widest.records_max {
            let step = self.widest.records_max.div_ceil(STEPS as usize);
            (linger, (records + step).min(self.widest.records_max))
        } else {
            let most = self.p95_max.mul_f64(LINGER_SHARE_MAX);
            ((linger + most / STEPS).min(most), records)
        };
        pace.set(linger, records);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: f64 = 1.0;
    const P95_MAX: f64 = 0.4;
    /// Seconds of a unit of `n` records: a transaction and fixed costs of calls, and so much for each.
    const UNIT: f64 = 0.030;
    const RECORD: f64 = 0.002;

    fn widest() -> UnitLimits {
        UnitLimits {
            records_max: 256,
            chunks_max: 256,
            cost_max: 1 << 20,
            bytes_max: 1 << 20,
            linger: Duration::from_millis(20),
        }
    }

    struct Outcome {
        p95: f64,
        /// Working seconds for each record.
        cost: f64,
    }

    /// One server and records at random (exponential gaps, a fixed seed), `load` of what it could do in the largest units. What came of the
    /// last half of `seconds`.
    fn simulate(load: f64, seconds: f64, pace: &Pace, governor: Option<&Governor>) -> Outcome {
        let rate = load / (RECORD + UNIT / 256.0);
        let mut state = 88172645463325252_u64;
        let mut gap = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            -(1.0 - (state >> 11) as f64 / (1_u64 << 53) as f64).ln() / rate
        };
        let (mut arrivals, mut at) = (Vec::new(), 0.0);
        while at < seconds {
            at += gap();
            arrivals.push(at);
        }
        let (mut next, mut free, mut looked) = (0, 0.0_f64, 0.0);
        let (mut window, mut kept, mut busy) = (Vec::new(), Vec::new(), 0.0);
        while next < arrivals.len() {
            let (linger, most) = (pace.linger().as_secs_f64(), pace.records_max());
            let full = arrivals.get(next + most - 1).copied().unwrap_or(f64::INFINITY);
            // Cut when it is full or its time is up, and never before there is a place.
            let cut = full.min(arrivals[next] + linger).max(free);
            let count = arrivals[next..].iter().take(most).take_while(|at| **at <= cut).count().max(1);
            free = cut + UNIT + RECORD * count as f64;
            let took = arrivals[next..next + count].iter().map(|at| free - at);
            window.extend(took.clone());
            if cut > seconds / 2.0 {
                kept.extend(took);
                busy += free - cut;
            }
            let lag = cut - arrivals[next];
            next += count;
            if free - looked >= SECOND {
                looked = free;
                window.sort_by(f64::total_cmp);
                let p95 = window.get(window.len() * 95 / 100).map(|s| Duration::from_secs_f64(*s));
                window.clear();
                if let Some(governor) = governor {
                    // What waits in the topic was read late; what waits for company was not.
                    let lag = Duration::from_secs_f64((lag - linger).max(0.0));
                    governor.look(Seen { p95, lag }, pace);
                }
            }
        }
        kept.sort_by(f64::total_cmp);
        Outcome { p95: kept[kept.len() * 95 / 100], cost: busy / kept.len() as f64 }
    }

    #[test]
    fn the_limit_is_kept_at_every_load_and_the_rest_is_throughput() {
        let fixed =
            |linger: f64| Pace::new(&UnitLimits { linger: Duration::from_secs_f64(linger), ..widest() });
        for load in [0.1, 0.3, 0.5, 0.7] {
            let governor = Governor { p95_max: Duration::from_secs_f64(P95_MAX), widest: widest() };
            let governed = simulate(load, 600.0, &Pace::new(&widest()), Some(&governor));
            let (hasty, whole) =
                (simulate(load, 600.0, &fixed(0.02), None), simulate(load, 600.0, &fixed(60.0), None));
            let text = format!(
                "load {load}: governed {:.3} s {:.2} ms, hasty {:.3} s {:.2} ms, whole {:.3} s {:.2} ms",
                governed.p95,
                governed.cost * 1e3,
                hasty.p95,
                hasty.cost * 1e3,
                whole.p95,
                whole.cost * 1e3
            );
            assert!(governed.p95 < 1.1 * P95_MAX, "{text}");
            assert!(whole.p95 > P95_MAX, "units that wait until they are full are late: {text}");
            assert!(governed.cost < hasty.cost, "the wait that is allowed is used: {text}");
        }
    }

    #[test]
    fn what_was_late_when_it_was_read_is_caught_up_with_in_the_largest_units() {
        let (governor, pace) =
            (Governor { p95_max: Duration::from_secs(1), widest: widest() }, Pace::new(&widest()));
        let late = Seen { p95: Some(Duration::from_secs(2)), lag: Duration::ZERO };
        (0..30).for_each(|_| governor.look(late, &pace));
        assert_eq!((pace.records_max(), pace.linger() < Duration::from_millis(1)), (RECORDS_MIN, true));
        governor.look(Seen::default(), &pace);
        assert_eq!(pace.records_max(), RECORDS_MIN, "no news");
        governor.look(Seen { lag: Duration::from_secs(60), ..late }, &pace);
        assert_eq!((pace.records_max(), pace.linger()), (256, widest().linger));
    }
}
