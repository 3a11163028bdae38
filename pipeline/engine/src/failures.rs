//! The failure budget: how many records may be refused for good before it is more likely that something else is wrong.
//!
//! A folder that is not mounted, a revoked key, a decoder's bug: each record looks as if it were to blame. Rejecting them all would be
//! right record by record, and wrong. So where more than a share of a window is refused, its last unit is not written.

use std::collections::VecDeque;
use std::time::Duration;

/// When too much is refused, and how a pipeline that stands still finds out that things are well again.
#[derive(Clone, Copy, Debug)]
pub struct FailureLimits {
    /// Share of refused records, in percent; 100: never too much.
    pub percent_max: u32,
    /// Smallest window that is judged, in records.
    pub records_min: u64,
    /// Between two questions whether the pipeline is paused.
    pub look_every: Duration,
    /// Wait before the first probe; doubles.
    pub probe_first: Duration,
    /// Longest wait between two probes.
    pub probe_max: Duration,
}

impl Default for FailureLimits {
    fn default() -> Self {
        Self {
            percent_max: 50,
            records_min: 200,
            look_every: Duration::from_secs(2),
            probe_first: Duration::from_secs(5),
            probe_max: Duration::from_secs(300),
        }
    }
}

/// What the last units were like.
#[derive(Debug)]
pub(crate) struct FailureBudget {
    limits: FailureLimits,
    /// Records and refused records of each unit.
    window: VecDeque<(u64, u64)>,
    /// Records that were held back, and have to pass unit by unit before windows count again.
    probation: u64,
    /// Somebody let the pipeline go on: whatever comes is written, until a window is well.
    asleep: bool,
}

impl FailureBudget {
    pub(crate) fn new(limits: FailureLimits) -> Self {
        Self { limits, window: VecDeque::new(), probation: 0, asleep: false }
    }

    /// Takes a unit into account; `false` when it must not be written.
    pub(crate) fn admits(&mut self, records: u64, refused: u64) -> bool {
        if self.probation > 0 {
            if self.too_many(records, refused) {
                self.probation = self.probation.max(records);
                return false;
            }
            self.probation = self.probation.saturating_sub(records);
            return true;
        }
        self.window.push_back((records, refused));
        let sum =
            |window: &VecDeque<(u64, u64)>| window.iter().fold((0, 0), |sum, u| (sum.0 + u.0, sum.1 + u.1));
        while sum(&self.window).0 - self.window[0].0 >= self.limits.records_min {
            self.window.pop_front();
        }
        let (all, all_refused) = sum(&self.window);
        if all < self.limits.records_min {
            return true;
        }
        if !self.too_many(all, all_refused) {
            self.asleep = false;
            return true;
        }
        if self.asleep {
            return true;
        }
        self.window.clear();
        self.probation = records;
        false
    }

    /// Whoever probes for another worker does not know what that one held back.
    pub(crate) fn probe(&mut self) {
        if self.probation == 0 {
            self.probation = self.limits.records_min.max(1);
        }
    }

    /// Somebody decided that it shall go on. It is not paused again for what it was paused for: only once a window was well.
    pub(crate) fn forgive(&mut self) {
        *self = Self { asleep: true, ..Self::new(self.limits) };
    }

    fn too_many(&self, records: u64, refused: u64) -> bool {
        refused * 100 > u64::from(self.limits.percent_max) * records
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(percent_max: u32, records_min: u64) -> FailureBudget {
        FailureBudget::new(FailureLimits { percent_max, records_min, ..FailureLimits::default() })
    }

    #[test]
    fn ordinary_poison_passes_and_a_flood_does_not() {
        let mut ordinary = budget(50, 200);
        for unit in 0..1000 {
            // 1 %, and now and then a small unit of nothing else.
            assert!(ordinary.admits(100, 1), "unit {unit}");
            assert!(ordinary.admits(3, 3), "unit {unit}");
        }
        // From one unit to the next everything is refused: the window still has the good ones.
        assert!(ordinary.admits(60, 60));
        assert!(!ordinary.admits(200, 200));
    }

    #[test]
    fn a_small_window_is_not_judged() {
        let mut budget = budget(50, 200);
        assert!(budget.admits(199, 199));
        assert!(!budget.admits(1, 1));
    }

    #[test]
    fn what_was_held_back_has_to_pass_unit_by_unit() {
        let mut budget = budget(50, 10);
        assert!(!budget.admits(100, 90));
        budget.probe();
        assert!(!budget.admits(4, 3), "also a small unit decides");
        assert!(budget.admits(60, 6));
        assert!(!budget.admits(40, 39), "not all of it had passed");
        assert!(budget.admits(60, 0) && budget.admits(40, 0));
        assert!(budget.admits(5, 5), "windows count again");
        assert!(!budget.admits(5, 5));
    }

    #[test]
    fn what_somebody_lets_pass_is_written_until_a_window_was_well() {
        let mut budget = budget(50, 10);
        assert!(!budget.admits(100, 90));
        budget.forgive();
        assert!((0..50).all(|_| budget.admits(100, 90)), "it would never get past them otherwise");
        assert!(budget.admits(100, 1));
        assert!(!budget.admits(100, 90));
    }

    #[test]
    fn a_hundred_percent_is_never_too_much() {
        let mut budget = budget(100, 1);
        assert!((0..10).all(|_| budget.admits(50, 50)));
    }
}
