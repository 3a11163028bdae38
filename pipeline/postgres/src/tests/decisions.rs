use super::fixture::{Db, claim, unit, with_db, works};
use crate::{Gap, Reading, StoreError, WrittenOff};
use spawn_core::{Assignment, Claimed, Fault, FaultClass, Sink};

fn assignment(id: Option<&str>) -> Vec<Assignment> {
    vec![Assignment { topic_id: id.map(Into::into), ..Assignment::new(0, 0) }]
}

fn reading(topic_id: Option<&str>) -> Reading<'_> {
    Reading { pipeline: "test", topic: "jobs", topic_id }
}

fn refused<T: std::fmt::Debug>(answer: Result<T, StoreError>, words: &str) {
    match answer.unwrap_err() {
        StoreError::Fault(Fault { class: FaultClass::Operator, detail, .. }) => {
            assert!(detail.contains(words), "{detail}");
        }
        other => panic!("{other:?}"),
    }
}

/// Three records of a topic whose id is `one`.
async fn read_three(db: &Db) -> Claimed {
    let sink = db.sink().await;
    let claimed = sink.claim(assignment(Some("one"))).await.unwrap()[0];
    sink.write(&unit(&[claimed], works(&claimed, "a", 0..3))).await.unwrap();
    claimed
}

#[tokio::test]
async fn the_first_claim_with_an_id_stores_it_and_another_id_is_refused() {
    with_db(|db: Db| async move {
        claim(&db.sink().await, 0).await;
        assert_eq!(db.number("SELECT count(*) FROM spawn.source WHERE topic_id IS NULL").await, 1);
        read_three(&db).await;
        assert_eq!(db.number("SELECT count(*) FROM spawn.source WHERE topic_id = 'one'").await, 1);
        let sink = db.sink().await;
        let fault = sink.claim(assignment(Some("two"))).await.unwrap_err();
        assert_eq!((fault.class, fault.domain), (FaultClass::Operator, "postgres"));
        for word in ["one", "two", "spawn pipelines adopt-topic --pipeline test --topic jobs"] {
            assert!(fault.detail.contains(word), "{fault}");
        }
        assert_eq!(
            db.number("SELECT owner_epoch FROM spawn.checkpoint").await,
            2,
            "a refused claim changes nothing"
        );
        sink.claim(assignment(None)).await.expect("brokers that tell no id contradict nothing");
    })
    .await;
}

#[tokio::test]
async fn an_accepted_gap_is_listed_and_reading_goes_on_behind_it() {
    with_db(|db: Db| async move {
        let before = read_three(&db).await;
        let store = db.store().await;
        let wanted = WrittenOff { partition: 0, from: 3, to: Some(10) };
        assert_eq!(store.accept_gap(reading(Some("one")), (0, 10), true).await.unwrap(), wanted);
        assert_eq!(
            db.number("SELECT next_offset FROM spawn.checkpoint").await,
            3,
            "a dry run changes nothing"
        );
        refused(store.accept_gap(reading(Some("two")), (0, 10), false).await, "adopt-topic");
        refused(store.accept_gap(reading(None), (7, 10), false).await, "has never read partition 7");
        assert_eq!(store.accept_gap(reading(Some("one")), (0, 10), false).await.unwrap(), wanted);
        refused(store.accept_gap(reading(Some("one")), (0, 10), false).await, "nothing is lost");
        let sink = db.sink().await;
        let stale = Claimed { position: 3, ..before };
        let late = sink.write(&unit(&[stale], works(&stale, "b", 3..4))).await.unwrap();
        assert_eq!(late.fenced, [0], "whoever read on from before is fenced");
        let claimed = sink.claim(assignment(Some("one"))).await.unwrap()[0];
        assert_eq!(claimed.position, 10);
        sink.write(&unit(&[claimed], works(&claimed, "b", 10..12))).await.unwrap();
        let report = store.audit().await.unwrap();
        let gap = Gap { from: 3, to: 10, reason: Some("retention".into()) };
        assert_eq!((report.ok, &report.partitions[0].gaps), (true, &vec![gap]), "{report:#?}");
    })
    .await;
}

#[tokio::test]
async fn an_adopted_topic_is_read_from_its_start_under_an_identity_of_its_own() {
    with_db(|db: Db| async move {
        let old = db.sink().await;
        let before = read_three(&db).await;
        let store = db.store().await;
        refused(store.adopt_topic(reading(Some("one")), &[(0, 3)], false).await, "nothing to adopt");
        let adopted = store.adopt_topic(reading(Some("two")), &[(0, 2)], true).await.unwrap();
        assert_eq!(adopted.topic_id_before.as_deref(), Some("one"));
        assert_eq!(adopted.written_off, [WrittenOff { partition: 0, from: 3, to: None }]);
        assert_eq!(db.number("SELECT count(*) FROM spawn.source").await, 1, "a dry run changes nothing");
        assert_eq!(store.adopt_topic(reading(Some("two")), &[(0, 2)], false).await.unwrap(), adopted);
        // The old reading can neither write nor claim.
        let stale = Claimed { position: 3, ..before };
        assert_eq!(old.write(&unit(&[stale], works(&stale, "b", 3..4))).await.unwrap().fenced, [0]);
        let fault = old.claim(assignment(Some("one"))).await.unwrap_err();
        assert!(
            fault.class == FaultClass::Operator && fault.detail.contains("start the worker again"),
            "{fault}"
        );
        let new = db.sink().await;
        let claimed = new.claim(assignment(Some("two"))).await.unwrap()[0];
        assert_eq!((claimed.position, claimed.claim.epoch), (0, 1));
        new.write(&unit(&[claimed], works(&claimed, "b", 0..2))).await.unwrap();
        let report = store.audit().await.unwrap();
        assert!(report.ok, "{report:#?}");
        let [old, new] = &report.partitions[..] else { panic!("{report:#?}") };
        assert_eq!((old.ended, old.records, old.topic_id.as_deref()), (true, 3, Some("one")));
        assert_eq!(old.gaps, [Gap { from: 3, to: i64::MAX, reason: Some("topic.recreated".into()) }]);
        assert_eq!((new.ended, new.records, new.topic_id.as_deref()), (false, 2, Some("two")));
        assert_eq!(db.number("SELECT count(*) FROM spawn.result").await, 5, "in one generation");
    })
    .await;
}

#[tokio::test]
async fn a_topic_that_was_cut_below_the_checkpoint_can_be_begun_anew() {
    with_db(|db: Db| async move {
        read_three(&db).await;
        let store = db.store().await;
        store.adopt_topic(reading(Some("one")), &[(0, 2)], false).await.unwrap();
        let report = store.audit().await.unwrap();
        assert_eq!(report.partitions[0].gaps[0].reason.as_deref(), Some("topic.truncated"));
        assert_eq!(db.sink().await.claim(assignment(Some("one"))).await.unwrap()[0].position, 0);
    })
    .await;
}
