//! Which verb sets the pace.
//!
//! What lies before the slowest verb is blocked by it, what lies behind it starves. So it is the last one, in the order of the flow, that
//! mostly works.

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
/// A verb that does more than this with its time mostly works.
const MOSTLY: f64 = 0.5;

/// The verb that sets the pace; [`SOURCE`] where all of them starve though records wait to be read; none where nothing waits.
/// `stages` in the order of the flow.
pub fn bottleneck<'a>(stages: &[Shares<'a>], lag_records: f64) -> Option<&'a str> {
    let working = stages.iter().rev().find(|s| s.busy >= MOSTLY);
    // Two that share one resource can take turns, and neither mostly works.
    let busiest = || stages.iter().filter(|s| s.starved < MOSTLY).max_by(|a, b| a.busy.total_cmp(&b.busy));
    match (working.or_else(busiest), lag_records > 0.0) {
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
        let write = [("fetch", [0.1, 0.0, 0.9]), ("infer", [0.6, 0.0, 0.4]), ("write", [0.9, 0.1, 0.0])];
        assert_eq!(bottleneck(&shares(&write), 5.0), Some("write"));
        let turns =
            [("prepare", [0.45, 0.1, 0.45]), ("infer", [0.4, 0.45, 0.15]), ("write", [0.1, 0.9, 0.0])];
        assert_eq!(bottleneck(&shares(&turns), 5.0), Some("prepare"));
    }

    #[test]
    fn an_idle_line_has_none_and_a_starved_one_waits_for_its_source() {
        let idle = [("fetch", [0.0, 1.0, 0.0]), ("write", [0.01, 0.99, 0.0])];
        assert_eq!(bottleneck(&shares(&idle), 0.0), None);
        assert_eq!(bottleneck(&shares(&idle), 100.0), Some(SOURCE));
    }
}
