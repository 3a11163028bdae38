use super::fixture::{Db, at, claim, envelope, unit, with_db, works};
use crate::{AuditReport, AuditScope, PartitionAudit};
use spawn_core::{Body, Rejection, Sink};

/// Three units with 5 results, a dead letter and a deferred record on partition 0, and one on partition 1.
async fn fill(db: &Db) {
    let sink = db.sink().await;
    let (p0, p1) = (claim(&sink, 0).await, claim(&sink, 1).await);
    let mut first = works(&p0, "a", 0..3);
    first.extend(works(&p1, "b", 0..1));
    sink.write(&unit(&[p0, p1], first)).await.unwrap();
    let p0 = at(&p0, 3);
    sink.write(&unit(&[p0], works(&p0, "a", 3..5))).await.unwrap();
    let p0 = at(&p0, 5);
    let dead = envelope(&p0, 5, "x", Body::Rejected(Rejection::new("prepare", "decode.truncated", "cut")));
    let later = envelope(&p0, 6, "y", Body::Deferred(Rejection::new("fetch", "fetch.timeout", "slow")));
    sink.write(&unit(&[p0], vec![dead, later])).await.unwrap();
}

async fn audit(db: &Db) -> AuditReport {
    db.store().await.audit().await.unwrap()
}

/// Plants a fault, and expects it to be found on partition 0 only.
async fn plant(fault: &'static str, found: impl Fn(&PartitionAudit) -> bool + Send + Sync + 'static) {
    with_db(|db: Db| async move {
        fill(&db).await;
        db.execute(fault).await;
        let report = audit(&db).await;
        assert!(!report.ok && found(&report.partitions[0]), "{fault}: {report:#?}");
        let clean = &report.partitions[1];
        assert!(
            clean.missing.is_empty() && clean.doubled.is_empty() && clean.holes.is_empty(),
            "{fault}: {report:#?}"
        );
    })
    .await;
}

#[tokio::test]
async fn a_clean_ledger_is_ok_and_counted() {
    with_db(|db: Db| async move {
        fill(&db).await;
        let report = audit(&db).await;
        assert!(report.ok, "{report:#?}");
        let p = &report.partitions[0];
        assert_eq!((p.first_offset, p.next_offset, p.spans, p.records), (0, 7, 3, 7));
        assert_eq!((p.results, p.rejected, p.skipped, p.deferred), (5, 1, 0, 1));
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["partitions"][1]["end_offset"], serde_json::Value::Null);
        assert_eq!(
            db.store()
                .await
                .audit_of(&AuditScope { pipeline: Some("nobody".into()), ..AuditScope::default() })
                .await
                .unwrap()
                .partitions,
            []
        );
    })
    .await;
}

#[tokio::test]
async fn a_deleted_ledger_row_is_missing() {
    plant("DELETE FROM spawn.record WHERE partition = 0 AND \"offset\" = 1", |p| {
        let [d] = &p.missing[..] else { return false };
        (d.from, d.to, d.what, d.expected, d.found) == (0, 3, "ledger", 3, 2)
    })
    .await;
}

#[tokio::test]
async fn a_ledger_row_with_another_outcome_is_found() {
    plant("UPDATE spawn.record SET outcome = 2 WHERE partition = 0 AND \"offset\" = 4", |p| {
        p.missing.iter().any(|d| d.from == 3 && d.what == "ledger")
    })
    .await;
}

#[tokio::test]
async fn a_deleted_span_is_a_hole_and_its_rows_are_too_many() {
    plant("DELETE FROM spawn.span WHERE partition = 0 AND from_position = 3", |p| {
        p.holes == [[3, 5]] && p.doubled.iter().any(|d| (d.from, d.to, d.found) == (3, 5, 2))
    })
    .await;
}

#[tokio::test]
async fn overlapping_spans_are_doubled() {
    plant("UPDATE spawn.span SET to_position = 4 WHERE partition = 0 AND from_position = 0", |p| {
        p.doubled.iter().any(|d| (d.from, d.to, d.what) == (3, 4, "span"))
    })
    .await;
}

#[tokio::test]
async fn a_checkpoint_that_ran_ahead_is_a_hole() {
    plant("UPDATE spawn.checkpoint SET next_offset = 9 WHERE partition = 0", |p| p.holes == [[7, 9]]).await;
}

#[tokio::test]
async fn a_checkpoint_that_fell_behind_is_doubled() {
    plant("UPDATE spawn.checkpoint SET next_offset = 5 WHERE partition = 0", |p| {
        p.doubled.iter().any(|d| (d.from, d.to, d.what) == (5, 7, "span"))
    })
    .await;
}

#[tokio::test]
async fn a_ledger_row_beyond_the_checkpoint_is_found() {
    plant(
        "INSERT INTO spawn.record SELECT source, 0, 50, 0, NULL FROM spawn.checkpoint WHERE partition = 0",
        |p| p.doubled.iter().any(|d| (d.from, d.to, d.what, d.found) == (50, 51, "ledger", 1)),
    )
    .await;
}

#[tokio::test]
async fn a_deferred_record_without_its_bytes_is_missing() {
    plant("DELETE FROM spawn.redrive", |p| {
        p.missing.iter().any(|d| (d.from, d.what, d.expected, d.found) == (6, "redrive", 1, 0))
    })
    .await;
}

#[tokio::test]
async fn a_dead_letter_that_the_ledger_does_not_know_is_found() {
    plant("UPDATE spawn.rejection SET \"offset\" = 2", |p| {
        p.missing.iter().any(|d| (d.from, d.what) == (5, "rejection"))
            && p.doubled.iter().any(|d| (d.from, d.what) == (2, "rejection"))
    })
    .await;
}
