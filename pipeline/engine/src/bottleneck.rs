//! Which verb sets the pace.
//!
//! What lies before the slowest verb is blocked by it, what lies behind it starves: it is the busiest of them. Where two are about as
//! busy, it is the later one, because an earlier one that still had room would have filled the queue between them. A verb that is blocked
//! though all behind it starve waits for no verb, but for memory: then it is that one.

/// How one verb spends its time: shares that sum to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shares<'a> {
    /// The verb.
    pub stage: &'a str,
    /// Working.
    pub busy: f64,
    /// Waiting for input.
    pub starved: f64,
    /// Waiting for what follows.
    pub blocked: f64,
}

/// Before every verb: whoever reads for the line.
pub const SOURCE: &str = "poll";
/// A verb that waits for input for more than this share of its time is not what holds up the line.
const STARVES: f64 = 0.5;
/// Shares of time that are as good as the largest one: the shares of one second waver by that much.
const ABOUT: f64 = 0.9;

/// The verb that sets the pace; [`SOURCE`] where all of them starve though records wait to be read; none where nothing waits.
/// `stages` in the order of the flow.
pub fn bottleneck<'a>(stages: &[Shares<'a>], lag_records: f64) -> Option<&'a str> {
    // Two that share one resource can take turns, and neither mostly works.
    let waits_for_memory = (0..stages.len()).rev().find(|i| {
        stages[*i].blocked > STARVES
            && stages[i + 1..].iter().all(|s| s.starved > STARVES)
            && i + 1 < stages.len()
    });
    if let Some(i) = waits_for_memory {
        return Some(stages[i].stage);
    }
    let candidates = || stages.iter().rev().filter(|s| s.starved < STARVES);
    let busiest = candidates().map(|s| s.busy).fold(0.0, f64::max);
    let named = candidates().find(|s| s.busy > 0.0 && s.busy >= ABOUT * busiest);
    match (named, lag_records > 0.0) {
        (Some(stage), _) => Some(stage.stage),
        (None, true) => Some(SOURCE),
        (None, false) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares<'a>(all: &[(&'a str, [f64; 3])]) -> Vec<Shares<'a>> {
        all.iter()
            .map(|(stage, [busy, starved, blocked])| Shares {
                stage,
                busy: *busy,
                starved: *starved,
                blocked: *blocked,
            })
            .collect()
    }

    #[test]
    fn what_lies_behind_starves_and_what_lies_before_is_blocked() {
        let infer = [
            ("fetch", [0.1, 0.0, 0.9]),
            ("prepare", [0.3, 0.0, 0.7]),
            ("infer", [0.98, 0.02, 0.0]),
            ("write", [0.2, 0.8, 0.0]),
        ];
        assert_eq!(bottleneck(&shares(&infer), 5.0), Some("infer"));
        let write = [("fetch", [1.0, 0.0, 0.0]), ("infer", [0.6, 0.0, 0.4]), ("write", [0.95, 0.05, 0.0])];
        assert_eq!(bottleneck(&shares(&write), 5.0), Some("write"));
        let fetch = [("fetch", [1.0, 0.0, 0.0]), ("infer", [0.52, 0.48, 0.0]), ("write", [0.03, 0.97, 0.0])];
        assert_eq!(bottleneck(&shares(&fetch), 5.0), Some("fetch"));
        let turns =
            [("prepare", [0.45, 0.1, 0.45]), ("infer", [0.4, 0.45, 0.15]), ("write", [0.1, 0.9, 0.0])];
        assert_eq!(bottleneck(&shares(&turns), 5.0), Some("prepare"));
    }

    #[test]
    fn what_is_blocked_by_nobody_behind_it_waits_for_memory() {
        let memory = [
            ("intake", [0.0, 0.1, 0.9]),
            ("fetch", [0.05, 0.0, 0.95]),
            ("admit", [0.01, 0.02, 0.97]),
            ("prepare", [0.3, 0.7, 0.0]),
            ("infer", [0.4, 0.6, 0.0]),
            ("write", [0.01, 0.99, 0.0]),
        ];
        assert_eq!(bottleneck(&shares(&memory), 5.0), Some("admit"));
    }

    #[test]
    fn an_idle_line_has_none_and_a_starved_one_waits_for_its_source() {
        let idle = [("fetch", [0.0, 1.0, 0.0]), ("write", [0.01, 0.99, 0.0])];
        assert_eq!(bottleneck(&shares(&idle), 0.0), None);
        assert_eq!(bottleneck(&shares(&idle), 100.0), Some(SOURCE));
    }
}
