//! `spawn audit`

use crate::config::Settings;
use crate::exit::{Code, Failure, OrExit, Outcome};
use crate::output::Output;

pub(super) async fn run(settings: Settings, out: Output) -> Outcome {
    let report = super::store(&settings).await?.audit().await.or_exit(Code::Unavailable)?;
    if out.json {
        out.json("audit", &report);
    } else {
        for p in &report.partitions {
            let faults = p.missing.len() + p.doubled.len() + p.holes.len();
            let verdict = if faults == 0 { "ok" } else { "WRONG" };
            out.line(format_args!(
                "{verdict:<5} {:<8} {}/{:<3} [{}, {})  {} records = {} results + {} rejected + {} skipped + {} deferred",
                p.pipeline, p.topic, p.partition, p.first_offset, p.next_offset, p.records, p.results, p.rejected, p.skipped, p.deferred
            ));
            if faults > 0 {
                out.line(format_args!(
                    "      missing {:?}, doubled {:?}, holes {:?}",
                    p.missing, p.doubled, p.holes
                ));
            }
        }
        out.line(if report.ok {
            "every offset is accounted for"
        } else {
            "NOT every offset is accounted for"
        });
    }
    if report.ok { Ok(()) } else { Err(Failure::new(Code::Data, "the audit found faults")) }
}
