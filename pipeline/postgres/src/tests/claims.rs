use super::fixture::{Db, at, claim, identity, unit, with_db, works};
use crate::PgSink;
use spawn_core::{Assignment, FaultClass, Sink};
use sqlx::Connection;
use std::time::{Duration, Instant};

#[tokio::test]
async fn the_first_claim_takes_the_first_offset_and_later_ones_the_position() {
    with_db(|db: Db| async move {
        let sink = db.sink().await;
        let wanted = vec![Assignment::new(1, 7), Assignment::new(0, 100)];
        let mut first = sink.claim(wanted.clone()).await.unwrap();
        first.sort_by_key(|c| c.partition);
        assert_eq!(first.iter().map(|c| (c.partition, c.position)).collect::<Vec<_>>(), [(0, 100), (1, 7)]);
        let batch = unit(&first[1..], works(&first[1], "a", 7..10));
        assert_eq!(sink.write(&batch).await.unwrap().outcomes, [3, 0, 0, 0]);
        let wanted = wanted.into_iter().map(|w| Assignment { first_offset: 0, ..w }).collect();
        let mut second = sink.claim(wanted).await.unwrap();
        second.sort_by_key(|c| c.partition);
        assert_eq!(second.iter().map(|c| (c.partition, c.position)).collect::<Vec<_>>(), [(0, 100), (1, 10)]);
        for (before, after) in first.iter().zip(&second) {
            assert_eq!(after.claim.epoch, before.claim.epoch + 1);
            assert_ne!(after.claim.token, before.claim.token);
        }
    })
    .await;
}

#[tokio::test]
async fn how_many_partitions_there_were_at_first_is_kept() {
    with_db(|db: Db| async move {
        assert_eq!(db.sink().await.first_partitions(3).await.unwrap(), 3);
        assert_eq!(db.sink().await.first_partitions(5).await.unwrap(), 3);
    })
    .await;
}

#[tokio::test]
async fn a_zombie_is_fenced_and_the_rest_of_its_unit_is_written() {
    with_db(|db: Db| async move {
        let (zombie, heir) = (db.sink().await, db.sink().await);
        let (p0, p1) = (claim(&zombie, 0).await, claim(&zombie, 1).await);
        let new = claim(&heir, 0).await;
        let mut records = works(&p0, "a", 0..3);
        records.extend(works(&p1, "b", 0..2));
        let written = zombie.write(&unit(&[p0, p1], records)).await.unwrap();
        assert_eq!((written.fenced, written.outcomes), (vec![0], [2, 0, 0, 0]));
        assert_eq!(db.ledger(0).await, []);
        let written = heir.write(&unit(&[new], works(&new, "a", 0..3))).await.unwrap();
        assert_eq!((written.fenced, written.outcomes), (vec![], [3, 0, 0, 0]));
        assert_eq!(db.number("SELECT count(*) FROM spawn.embedding_1").await, 5);
        db.audited().await;
    })
    .await;
}

#[tokio::test]
async fn a_unit_that_starts_elsewhere_is_fenced() {
    with_db(|db: Db| async move {
        let sink = db.sink().await;
        let p = claim(&sink, 0).await;
        let later = at(&p, 5);
        let written = sink.write(&unit(&[later], works(&later, "a", 5..6))).await.unwrap();
        assert_eq!(written.fenced, [0]);
        assert_eq!(db.number("SELECT count(*) FROM spawn.record").await, 0);
    })
    .await;
}

#[tokio::test]
async fn another_specification_is_refused_with_what_differs() {
    with_db(|db: Db| async move {
        claim(&db.sink().await, 0).await;
        let mut other = identity();
        other.model = "m@2".into();
        let sink = PgSink::open(&db.url, other).await.unwrap();
        let fault = sink.claim(vec![Assignment::new(1, 0)]).await.unwrap_err();
        assert_eq!(fault.class, FaultClass::Operator);
        assert!(fault.detail.contains("then `model[3] = m@1`, now `model[3] = m@2`"), "{fault}");
        assert!(fault.detail.contains("another `name`"), "{fault}");
        assert_eq!(db.number("SELECT count(*) FROM spawn.generation").await, 1, "a mistake makes no table");
    })
    .await;
}

#[tokio::test]
async fn a_claim_ends_whoever_holds_the_partition_for_seconds() {
    with_db(|db: Db| async move {
        let sink = db.sink().await;
        claim(&sink, 0).await;
        let mut holder = db.connection().await;
        let mut transaction = holder.begin().await.unwrap();
        sqlx::query("SELECT 1 FROM spawn.checkpoint FOR UPDATE").execute(&mut *transaction).await.unwrap();
        let mut bystander = db.connection().await;
        let started = Instant::now();
        let claimed = claim(&sink, 0).await;
        let waited = started.elapsed();
        assert_eq!(claimed.claim.epoch, 2);
        assert!(waited >= Duration::from_secs(5) && waited < Duration::from_secs(9), "{waited:?}");
        assert!(sqlx::query("SELECT 1").execute(&mut *transaction).await.is_err(), "the holder was ended");
        sqlx::query("SELECT 1").execute(&mut bystander).await.expect("nobody else was");
    })
    .await;
}
