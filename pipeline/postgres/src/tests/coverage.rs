use super::fixture::{Db, at, claim, unit, with_db, works};
use crate::{AuditScope, Coverage, PartitionAudit, Portion, Unread};
use spawn_core::Sink;

/// Spans [0, 10), [10, 20) and [20, 30) of partition 0; offsets 13 and 14 were never there.
async fn fill(db: &Db) {
    let sink = db.sink().await;
    let p = claim(&sink, 0).await;
    for from in [0, 10, 20] {
        let p = at(&p, from);
        let records = [from..from + 3, from + 3..from + 5, from + 5..from + 10].into_iter();
        let records = records.filter(|r| r.start != 13).flat_map(|range| works(&p, "a", range)).collect();
        sink.write(&unit(&[p], records)).await.unwrap();
    }
}

async fn range(db: &Db, from: Option<i64>, to: Option<i64>) -> PartitionAudit {
    let scope = AuditScope { topic: Some("jobs".into()), from, to, ..AuditScope::default() };
    let mut report = db.store().await.audit_of(&scope).await.unwrap();
    assert_eq!(report.ok, report.partitions[0].ok());
    report.partitions.remove(0)
}

#[tokio::test]
async fn a_range_is_judged_by_itself() {
    with_db(|db: Db| async move {
        fill(&db).await;
        for (from, to, spans, records) in [
            (None, None, 3, 28),
            (Some(12), Some(13), 1, 8),
            (Some(5), Some(11), 2, 18),
            (Some(10), None, 2, 18),
            (None, Some(10), 1, 10),
            (Some(30), Some(99), 0, 0),
            (Some(29), Some(99), 1, 10),
        ] {
            let p = range(&db, from, to).await;
            assert!(p.ok(), "{from:?} {to:?}: {p:#?}");
            assert_eq!((p.spans, p.records), (spans, records), "{from:?} {to:?}");
        }
        // A fault outside of the range is not its own; inside it is found.
        db.execute("DELETE FROM spawn.record WHERE \"offset\" = 25").await;
        db.execute("DELETE FROM spawn.span WHERE from_position = 0").await;
        assert!(range(&db, Some(10), Some(20)).await.ok());
        let tail = range(&db, Some(20), None).await;
        assert!(tail.missing.iter().any(|d| (d.from, d.expected, d.found) == (20, 10, 9)), "{tail:#?}");
        let head = range(&db, Some(4), Some(8)).await;
        assert_eq!(head.holes, [[4, 8]]);
        assert!(head.doubled.iter().any(|d| (d.from, d.to, d.found) == (4, 8, 4)), "{head:#?}");
        let scope = AuditScope { topic: Some("elsewhere".into()), ..AuditScope::default() };
        assert_eq!(db.store().await.audit_of(&scope).await.unwrap().partitions, []);
    })
    .await;
}

#[tokio::test]
async fn what_kafka_has_is_compared_in_portions() {
    with_db(|db: Db| async move {
        fill(&db).await;
        let mut p = range(&db, None, None).await;
        let store = db.store().await;
        let mut coverage = Coverage::default();
        // Kafka begins at 4, has lost 7 and 21 to compaction, knows 13 of which the ledger has nothing, and ends at 28.
        let (low, end) = (4, 28);
        let second: Vec<i64> = (10..28).filter(|o| *o != 14 && *o != 21).collect();
        for (from, to, offsets) in
            [(0, 4, vec![]), (4, 10, vec![4, 5, 6, 8, 9]), (10, 28, second), (28, 30, vec![])]
        {
            let portion = Portion { from, to, offsets: &offsets, low, end };
            store.cover((p.source, p.partition), portion, &mut coverage).await.unwrap();
        }
        assert_eq!((coverage.read, coverage.missing, &coverage.missing_at), (21, 1, &vec![[13, 14]]));
        let unread = |from, to, records, reason: &str| Unread { from, to, records, reason: reason.into() };
        let wanted = [
            unread(0, 4, 4, "retention"),
            unread(7, 22, 2, "compaction"),
            unread(28, 30, 2, "topic.truncated"),
        ];
        assert_eq!(coverage.unread, wanted);
        assert!(p.ok());
        p.covered(coverage);
        assert!(!p.ok() && p.missing[0].what == "kafka", "{p:#?}");
        // What an operator has written off is not missing.
        let gap = "INSERT INTO spawn.span SELECT source, partition, 30, 40, 'gap', 0, 0, 0, 0, 0, 'retention' FROM spawn.checkpoint";
        db.execute(gap).await;
        let mut coverage = Coverage::default();
        let portion = Portion { from: 30, to: 40, offsets: &[33, 34], low, end: 40 };
        store.cover((p.source, p.partition), portion, &mut coverage).await.unwrap();
        assert_eq!((coverage.read, coverage.missing), (2, 0));
    })
    .await;
}
