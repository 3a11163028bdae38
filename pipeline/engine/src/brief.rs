//! How much goes into one call of the bulk lane beside live work, which waits for the end of it.

use spawn_core::ModelSpec;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// Share of the newest call in what is expected of the next one.
const NEWEST: f64 = 0.2;

/// What calls took so far, in seconds by model for each unit of padded cost.
#[derive(Debug, Default)]
pub(crate) struct CallTimes(HashMap<Arc<str>, f64>);

impl CallTimes {
    /// A call of that padded cost took so long.
    pub(crate) fn took(&mut self, model: &Arc<str>, cost: usize, took: Duration) {
        let newest = took.as_secs_f64() / cost.max(1) as f64;
        let expected = self.0.entry(model.clone()).or_insert(newest);
        *expected += NEWEST * (newest - *expected);
    }

    /// The model with limits of which a call is expected to take no longer than `call_max`. One chunk always fits.
    pub(crate) fn limited(&self, spec: &ModelSpec, call_max: Duration) -> ModelSpec {
        let most = self.0.get(&spec.name).map_or(usize::MAX, |s| (call_max.as_secs_f64() / s) as usize);
        ModelSpec { padded_cost_max: spec.padded_cost_max.min(most), ..spec.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::infer::{plan, tests::spec};

    #[test]
    fn calls_are_cut_to_what_ends_in_time() {
        let (mut times, spec) = (CallTimes::default(), ModelSpec { chunks_max: 64, ..spec() });
        let call_max = Duration::from_millis(100);
        let longest = |times: &CallTimes| plan(&[10; 30], &times.limited(&spec, call_max))[0].len();
        assert_eq!(longest(&times), 10, "nothing is known: what the model allows");
        times.took(&spec.name, 100, Duration::from_millis(200));
        assert_eq!(longest(&times), 5);
        (0..50).for_each(|_| times.took(&spec.name, 50, Duration::from_secs(5)));
        assert_eq!(longest(&times), 1, "one chunk always goes");
        (0..100).for_each(|_| times.took(&spec.name, 10, Duration::from_millis(1)));
        assert_eq!(longest(&times), 10, "never more than the model allows");
    }
}
