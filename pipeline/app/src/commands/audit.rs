//! `spawn audit`

use crate::cli::Audit;
use crate::config::Settings;
use crate::exit::{Code, Failure, OrExit, Outcome};
use crate::output::{Output, bar};
use spawn_core::Fault;
use spawn_postgres::{AuditReport, AuditScope, Coverage, PartitionAudit, Portion, Store};
use std::collections::BTreeMap;

/// First offset and next one to be written of each partition of each topic.
type Watermarks = BTreeMap<String, BTreeMap<i32, (i64, i64)>>;

pub(super) async fn run(args: Audit, settings: Settings, out: Output) -> Outcome {
    let store = super::store(&settings).await?;
    let scope = AuditScope { pipeline: None, topic: args.topic, from: args.from, to: args.to };
    let mut report = store.audit_of(&scope).await.map_err(super::asked)?;
    if report.partitions.is_empty() {
        // An empty or a wrong database must not look like a proof.
        let read = scope.topic.as_ref().map_or_else(|| "anything".into(), |topic| format!("topic {topic}"));
        let text = format!("nothing to account for: no pipeline of this database has ever read {read}");
        return Err(Failure::new(Code::Data, text));
    }
    match watermarks(&settings, &report).await {
        Ok(watermarks) => {
            tell_ends(&mut report, &watermarks);
            if args.kafka {
                compare(&mut report, &scope, &watermarks, &store, (&settings, out)).await?;
            }
        }
        // The ledger speaks for itself; how much is in flight is all that is not known.
        Err(fault) if !args.kafka => out.note(format_args!("what is in flight is not known: {fault}")),
        Err(fault) => return Err(Failure::new(Code::Unavailable, fault)),
    }
    report.ok = report.partitions.iter().all(PartitionAudit::ok);
    match out.json {
        true => out.json("audit", &report),
        false => print(&report, out),
    }
    if report.ok { Ok(()) } else { Err(Failure::new(Code::Data, "the audit found faults")) }
}

async fn watermarks(settings: &Settings, report: &AuditReport) -> Result<Watermarks, Fault> {
    let kafka = &settings.kafka;
    let mut watermarks = Watermarks::new();
    for p in &report.partitions {
        if !watermarks.contains_key(&p.topic) {
            let topic = spawn_kafka::watermarks(&kafka.brokers, &kafka.properties, &p.topic).await?;
            watermarks.insert(p.topic.clone(), topic);
        }
    }
    Ok(watermarks)
}

/// A reading that was ended has no end to compare with: the topic of today is another one.
fn tell_ends(report: &mut AuditReport, watermarks: &Watermarks) {
    for p in report.partitions.iter_mut().filter(|p| !p.ended) {
        if let Some((_, end)) = watermarks.get(&p.topic).and_then(|topic| topic.get(&p.partition)) {
            p.ends_at(*end);
        }
    }
}

/// Reads every partition's offsets again, one partition after the other.
async fn compare(
    report: &mut AuditReport,
    scope: &AuditScope,
    watermarks: &Watermarks,
    store: &Store,
    (settings, out): (&Settings, Output),
) -> Outcome {
    let bars = out.bars();
    for p in report.partitions.iter_mut().filter(|p| !p.ended) {
        let from = scope.from.unwrap_or(0).max(p.first_offset);
        let to = scope.to.unwrap_or(i64::MAX).min(p.next_offset).max(from);
        // A topic that is gone has nothing: all that the ledger tells of was taken.
        let known = watermarks.get(&p.topic).and_then(|topic| topic.get(&p.partition));
        let (low, end) = known.copied().unwrap_or((i64::MAX, i64::MAX));
        let line =
            bar(&bars, "kafka", (to - from) as u64).with_message(format!("{}/{}", p.topic, p.partition));
        let (first, last) = (low.clamp(from, to), end.clamp(from, to));
        let mut coverage = Coverage::default();
        let place = (p.source, p.partition);
        let mut cover = async |from: i64, to: i64, offsets: &[i64]| {
            let portion = Portion { from, to, offsets, low, end };
            store.cover(place, portion, &mut coverage).await.map_err(super::asked)
        };
        cover(from, first, &[]).await?;
        if first < last {
            let cluster = super::cluster(settings);
            let mut portions = spawn_kafka::reread::offsets(&cluster, &p.topic, p.partition, (first, last))
                .or_exit(Code::Unavailable)?;
            while let Some(portion) = portions.recv().await {
                let portion = portion.or_exit(Code::Unavailable)?;
                cover(portion.from, portion.to, &portion.offsets).await?;
                line.set_position((portion.to - from) as u64);
            }
        }
        cover(last, to, &[]).await?;
        line.finish_and_clear();
        p.covered(coverage);
    }
    Ok(())
}

fn print(report: &AuditReport, out: Output) {
    for p in &report.partitions {
        let verdict = if p.ok() { "ok" } else { "WRONG" };
        let in_flight = p.in_flight.map_or_else(String::new, |n| format!(", {n} in flight"));
        out.line(format_args!(
            "{verdict:<5} {:<8} {}/{:<3} [{}, {})  {} records = {} results + {} rejected + {} skipped + {} deferred{in_flight}",
            p.pipeline, p.topic, p.partition, p.first_offset, p.next_offset, p.records, p.results, p.rejected, p.skipped, p.deferred
        ));
        if !p.ok() {
            out.line(format_args!(
                "      missing {:?}, doubled {:?}, holes {:?}",
                p.missing, p.doubled, p.holes
            ));
        }
        for gap in &p.gaps {
            let reason = gap.reason.as_deref().unwrap_or("no reason given");
            out.line(format_args!("      gap [{}, {}): {reason}", gap.from, gap.to));
        }
        let Some(kafka) = &p.kafka else { continue };
        out.line(format_args!(
            "      kafka has {} records, {} without a ledger row",
            kafka.read, kafka.missing
        ));
        for u in &kafka.unread {
            out.line(format_args!(
                "      kafka no longer has {} records in [{}, {}): {}",
                u.records, u.from, u.to, u.reason
            ));
        }
    }
    out.line(match report.ok {
        true => "every offset is accounted for",
        false => "NOT every offset is accounted for",
    });
}
