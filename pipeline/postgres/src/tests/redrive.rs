use super::fixture::{Db, at, claim, envelope, identity, inferred, unit, with_db, work};
use crate::{Deferral, Deferred, PgSink, Redrive};
use spawn_core::{Body, Claimed, Envelope, Inferred, Outcome, Rejection, Sink};
use std::time::Duration;

const DUE: &str = "UPDATE spawn.redrive SET due_at = now()";

async fn sink_of(db: &Db, deferral: Deferral) -> PgSink {
    PgSink::open(&db.url, identity()).await.unwrap().deferring(deferral)
}

fn timeout() -> Rejection {
    Rejection::new("fetch", "payload.unreachable", "slow")
}

fn later(p: &Claimed, offset: i64, id: &str) -> Envelope<Inferred> {
    envelope(p, offset, id, Body::Deferred(timeout()))
}

/// What the line made of a taken record.
fn retried(p: &Claimed, offset: i64, id: &str, body: Body<Inferred>) -> Envelope<Inferred> {
    envelope(p, offset, id, body)
}

fn works(id: &str) -> Body<Inferred> {
    Body::Work(inferred(id, &[[0.5; 4]]))
}

fn offsets(taken: &[Deferred]) -> Vec<i64> {
    taken.iter().map(|t| t.record.origin.offset).collect()
}

#[tokio::test]
async fn a_deferred_record_is_taken_with_its_bytes_and_settled_in_place() {
    with_db(|db: Db| async move {
        let sink = sink_of(&db, Deferral::default()).await;
        let p = claim(&sink, 0).await;
        let records = vec![work(&p, 0, "a"), later(&p, 1, "b"), later(&p, 2, "c"), later(&p, 3, "d")];
        sink.write(&unit(&[p], records)).await.unwrap();
        let redrive = Redrive::of(&sink, &db.url).unwrap();
        assert_eq!(offsets(&redrive.take().await.unwrap()), [0; 0], "nothing is due before its time");
        assert_eq!(redrive.waiting().await.unwrap().records, 3);
        db.execute(DUE).await;
        let taken = redrive.take().await.unwrap();
        assert_eq!(offsets(&taken), [1, 2, 3]);
        let record = &taken[0].record;
        assert_eq!(
            (record.key.as_deref(), record.value.as_deref(), record.timestamp_ms),
            (Some(&b"b"[..]), Some(&b"value of b"[..]), 1_700_000_000_000)
        );
        assert_eq!(record.headers, [("ce_id".to_owned(), b"b".to_vec().into())]);
        for (offset, id, body, outcome) in [
            (1, "b", works("b"), Outcome::Result),
            (2, "c", Body::Rejected(Rejection::new("prepare", "decode.truncated", "cut")), Outcome::Rejected),
            (3, "d", Body::Skipped("superseded"), Outcome::Skipped),
        ] {
            let settled = redrive.settle(&retried(&p, offset, id, body)).await.unwrap();
            assert_eq!(settled, Some(outcome));
            db.audited().await;
        }
        let ledger = db.ledger(0).await;
        assert_eq!(ledger[1], (1, 0, None));
        assert_eq!(ledger[2], (2, 1, Some("decode.truncated".into())));
        assert_eq!(ledger[3], (3, 2, Some("superseded".into())));
        assert_eq!(db.number("SELECT count(*) FROM spawn.redrive").await, 0);
        assert_eq!(db.number("SELECT count(*) FROM spawn.embedding_1").await, 2);
        let letter = "SELECT count(*) FROM spawn.rejection WHERE value = 'value of c' AND header_names = '{ce_id}' AND detail = 'cut'";
        assert_eq!(db.number(letter).await, 1, "the dead letter has the original bytes");
        let counts = db.store().await.counts_by_outcome(None).await.unwrap();
        assert_eq!((counts[0].results, counts[0].rejected, counts[0].skipped, counts[0].deferred), (2, 1, 1, 0));
    })
    .await;
}

#[tokio::test]
async fn of_two_takers_each_row_goes_to_one_and_is_settled_once() {
    with_db(|db: Db| async move {
        let deferral = Deferral { records_max: 3, ..Deferral::default() };
        let sink = sink_of(&db, deferral).await;
        let p = claim(&sink, 0).await;
        sink.write(&unit(&[p], (0..6).map(|i| later(&p, i, &format!("i{i}"))).collect())).await.unwrap();
        db.execute(DUE).await;
        let (one, two) = (Redrive::of(&sink, &db.url).unwrap(), Redrive::of(&sink, &db.url).unwrap());
        let (first, second) = tokio::join!(one.take(), two.take());
        let mut all = [offsets(&first.unwrap()), offsets(&second.unwrap())].concat();
        // One of them may have met rows that the other had locked, and got fewer.
        all.extend(offsets(&one.take().await.unwrap()));
        all.sort_unstable();
        assert_eq!(all, [0, 1, 2, 3, 4, 5], "each to one of them");
        assert_eq!(offsets(&two.take().await.unwrap()), [0; 0], "leased");
        // The leases end, as after a death: now both have the same row.
        db.execute(DUE).await;
        assert_eq!(offsets(&one.take().await.unwrap()), [0, 1, 2]);
        db.execute(DUE).await;
        assert_eq!(two.take().await.unwrap().len(), 3);
        let record = retried(&p, 0, "i0", works("i0"));
        let (first, second) = tokio::join!(one.settle(&record), two.settle(&record));
        let mut settled = [first.unwrap(), second.unwrap()];
        settled.sort_unstable();
        assert_eq!(settled, [None, Some(Outcome::Result)]);
        let failed = retried(&p, 0, "i0", Body::Rejected(timeout()));
        assert_eq!(two.settle(&failed).await.unwrap(), None, "what is settled stays");
        assert_eq!(db.ledger(0).await[0], (0, 0, None));
        assert_eq!(db.number("SELECT count(*) FROM spawn.result").await, 1);
        db.audited().await;
    })
    .await;
}

#[tokio::test]
async fn a_record_that_fails_again_waits_longer_each_time_and_is_given_up_at_its_time() {
    with_db(|db: Db| async move {
        let deferral = Deferral {
            delay: Duration::from_secs(10),
            delay_max: Duration::from_secs(60),
            ..Deferral::default()
        };
        let sink = sink_of(&db, deferral).await;
        let p = claim(&sink, 0).await;
        sink.write(&unit(&[p], vec![later(&p, 0, "a")])).await.unwrap();
        let redrive = Redrive::of(&sink, &db.url).unwrap();
        let again =
            retried(&p, 0, "a", Body::Deferred(Rejection::new("fetch", "payload.unreachable", "still")));
        for (attempt, longest) in [(1, 20), (2, 40), (3, 60), (4, 60)] {
            db.execute(DUE).await;
            assert_eq!(redrive.take().await.unwrap().len(), 1);
            assert_eq!(redrive.settle(&again).await.unwrap(), Some(Outcome::Deferred));
            let wait = db.number("SELECT extract(epoch FROM due_at - now()) FROM spawn.redrive").await;
            assert!((longest / 2 - 1..=longest).contains(&wait), "attempt {attempt}: {wait} s");
            assert_eq!(db.number("SELECT attempts FROM spawn.redrive WHERE detail = 'still'").await, attempt);
            db.audited().await;
        }
        db.execute("UPDATE spawn.redrive SET give_up_at = now() + interval '1 second'").await;
        assert_eq!(redrive.settle(&again).await.unwrap(), Some(Outcome::Deferred));
        assert_eq!(db.number("SELECT count(*) FROM spawn.redrive WHERE due_at <= give_up_at").await, 1);
        db.execute("UPDATE spawn.redrive SET give_up_at = now()").await;
        assert_eq!(redrive.settle(&again).await.unwrap(), Some(Outcome::Rejected));
        assert_eq!(db.ledger(0).await, [(0, 1, Some("payload.unreachable".into()))]);
        assert_eq!(db.number("SELECT count(*) FROM spawn.rejection WHERE detail = 'still'").await, 1);
        db.audited().await;
    })
    .await;
}

#[tokio::test]
async fn what_came_meanwhile_wins() {
    with_db(|db: Db| async move {
        let sink = sink_of(&db, Deferral::default()).await;
        let p = claim(&sink, 0).await;
        let ids = ["same", "other", "overtaken", "buried"];
        let mut records = vec![work(&p, 0, "same"), work(&p, 1, "other")];
        records.extend((2..).zip(ids).map(|(offset, id)| later(&p, offset, id)));
        sink.write(&unit(&[p], records)).await.unwrap();
        let p = at(&p, 6);
        let mut tombstone = envelope(&p, 7, "buried", Body::Delete);
        tombstone.record.value = None;
        let newer = envelope(&p, 6, "overtaken", works("newer content"));
        sink.write(&unit(&[p], vec![newer, tombstone])).await.unwrap();
        db.execute(DUE).await;
        let redrive = Redrive::of(&sink, &db.url).unwrap();
        let taken = redrive.take().await.unwrap();
        assert_eq!(taken.iter().map(|t| t.superseded).collect::<Vec<_>>(), [false, false, false, true]);
        for (offset, id, content, outcome, reason) in [
            (2, "same", "same", Outcome::Skipped, "duplicate"),
            (3, "other", "with other content", Outcome::Rejected, "id.conflict"),
            (4, "overtaken", "older content", Outcome::Skipped, "superseded"),
            (5, "buried", "buried", Outcome::Skipped, "superseded"),
        ] {
            let settled = redrive.settle(&retried(&p, offset, id, works(content))).await.unwrap();
            assert_eq!(settled, Some(outcome), "{id}");
            assert_eq!(db.ledger(0).await[offset as usize].2.as_deref(), Some(reason), "{id}");
            db.audited().await;
        }
        assert_eq!(db.number("SELECT count(*) FROM spawn.result").await, 3);
        assert_eq!(db.number("SELECT count(*) FROM spawn.rejection WHERE value = 'value of other'").await, 1);
    })
    .await;
}

#[tokio::test]
async fn a_tombstone_that_is_being_written_and_a_settlement_take_turns() {
    with_db(|db: Db| async move {
        let sink = sink_of(&db, Deferral::default()).await;
        for round in 0..20 {
            let p = claim(&sink, round).await;
            sink.write(&unit(&[p], vec![later(&p, 0, "k")])).await.unwrap();
            let p = at(&p, 1);
            let mut tombstone = envelope(&p, 1, "k", Body::Delete);
            tombstone.record.value = None;
            let redrive = Redrive::of(&sink, &db.url).unwrap();
            let (batch, record) = (unit(&[p], vec![tombstone]), retried(&p, 0, "k", works("k")));
            let (written, settled) = tokio::join!(sink.write(&batch), redrive.settle(&record));
            written.unwrap();
            settled.unwrap();
            assert_eq!(
                db.number("SELECT count(*) FROM spawn.result").await,
                0,
                "the tombstone is the later one"
            );
        }
        db.audited().await;
    })
    .await;
}

#[tokio::test]
async fn a_taking_is_bounded_in_bytes_but_a_large_record_goes_alone() {
    with_db(|db: Db| async move {
        let deferral = Deferral { bytes_max: 25, ..Deferral::default() };
        let sink = sink_of(&db, deferral).await;
        let p = claim(&sink, 0).await;
        // 11 bytes each, but for the second.
        let mut records: Vec<_> = (0..4).map(|i| later(&p, i, "x")).collect();
        records[1].record.value = Some(vec![0; 100].into());
        sink.write(&unit(&[p], records)).await.unwrap();
        db.execute("UPDATE spawn.redrive SET due_at = now() - interval '1 second' * (10 - \"offset\")").await;
        let redrive = Redrive::of(&sink, &db.url).unwrap();
        let mut taken = Vec::new();
        for _ in 0..4 {
            taken.push(offsets(&redrive.take().await.unwrap()));
        }
        assert_eq!(taken, [vec![0], vec![1], vec![2, 3], vec![]]);
    })
    .await;
}

#[tokio::test]
async fn a_value_that_the_store_refuses_becomes_a_dead_letter() {
    with_db(|db: Db| async move {
        let sink = sink_of(&db, Deferral::default()).await;
        let p = claim(&sink, 0).await;
        sink.write(&unit(&[p], vec![later(&p, 0, "a")])).await.unwrap();
        db.execute("ALTER TABLE spawn.result ADD CHECK (event_id <> 'a')").await;
        let redrive = Redrive::of(&sink, &db.url).unwrap();
        let settled = redrive.settle(&retried(&p, 0, "a", works("a"))).await.unwrap();
        assert_eq!(settled, Some(Outcome::Rejected));
        assert_eq!(db.ledger(0).await, [(0, 1, Some("store.constraint".into()))]);
        db.audited().await;
    })
    .await;
}

#[tokio::test]
async fn a_record_of_which_its_takers_say_nothing_is_suspected() {
    with_db(|db: Db| async move {
        let sink = sink_of(&db, Deferral::default()).await;
        let p = claim(&sink, 0).await;
        sink.write(&unit(&[p], vec![later(&p, 0, "a")])).await.unwrap();
        let redrive = Redrive::of(&sink, &db.url).unwrap();
        let take = async || {
            db.execute(DUE).await;
            let taken = redrive.take().await.unwrap();
            assert_eq!(offsets(&taken), [0]);
            taken[0].suspect
        };
        for _ in 0..crate::redrive::TAKES_MAX {
            assert!(!take().await, "its takers may have died of something else");
        }
        assert!(take().await && take().await, "until one of them tells what became of it");
        redrive.settle(&retried(&p, 0, "a", Body::Deferred(timeout()))).await.unwrap();
        assert!(!take().await);
        db.audited().await;
    })
    .await;
}
