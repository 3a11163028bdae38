use super::fixture::{Db, at, claim, envelope, inferred, unit, with_db, work, works};
use crate::results::OriginRow;
use spawn_core::{Body, Claimed, Envelope, Inferred, Rejection, Sink};
use std::sync::Arc;
use tokio::sync::Barrier;

fn tombstone(p: &Claimed, offset: i64, key: &str) -> Envelope<Inferred> {
    let mut envelope = envelope(p, offset, key, Body::Delete);
    envelope.record.value = None;
    envelope
}

fn reason(text: &str) -> Option<String> {
    Some(text.to_owned())
}

#[tokio::test]
async fn duplicates_are_skipped_within_a_unit_and_across_units() {
    with_db(|db: Db| async move {
        let sink = db.sink().await;
        let p = claim(&sink, 0).await;
        let first = vec![work(&p, 0, "a"), work(&p, 1, "b"), work(&p, 2, "a")];
        assert_eq!(sink.write(&unit(&[p], first)).await.unwrap().outcomes, [2, 0, 1, 0]);
        let p = at(&p, 3);
        assert_eq!(
            sink.write(&unit(&[p], vec![work(&p, 3, "b"), work(&p, 4, "c")])).await.unwrap().outcomes,
            [1, 0, 1, 0]
        );
        let duplicate = || (2, reason("duplicate"));
        let ledger: Vec<_> =
            db.ledger(0).await.into_iter().map(|(_, outcome, reason)| (outcome, reason)).collect();
        assert_eq!(ledger, [(0, None), (0, None), duplicate(), duplicate(), (0, None)]);
        assert_eq!(db.number("SELECT min(\"offset\") FROM spawn.result").await, 0, "the first one wins");
        assert_eq!(db.number("SELECT count(*) FROM spawn.result").await, 3);
        db.audited().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_sinks_with_the_same_ids_write_each_once_without_deadlock() {
    with_db(|db: Db| async move {
        // All start each round together, or they would hardly meet.
        let barrier = Arc::new(Barrier::new(4));
        let mut writers = Vec::new();
        for partition in 0..4 {
            let (sink, barrier) = (db.sink().await, barrier.clone());
            writers.push(tokio::spawn(async move {
                let p = claim(&sink, partition).await;
                let mut outcomes = [0; 4];
                for round in 0..5 {
                    let p = at(&p, round * 1000);
                    // Each writer has the ids in another order.
                    let records = (0..1000).map(|i| {
                        let id = (i * [1, 3, 7, 999][partition as usize] + 250 * i64::from(partition)) % 1000;
                        work(&p, round * 1000 + i, &format!("{round}-{id}"))
                    });
                    let batch = unit(&[p], records.collect());
                    barrier.wait().await;
                    let written = sink.write(&batch).await.unwrap();
                    outcomes.iter_mut().zip(written.outcomes).for_each(|(sum, n)| *sum += n);
                }
                outcomes
            }));
        }
        let mut sums = [0; 4];
        for writer in writers {
            sums.iter_mut().zip(writer.await.unwrap()).for_each(|(sum, n)| *sum += n);
        }
        assert_eq!(sums, [5000, 0, 15_000, 0]);
        assert_eq!(db.number("SELECT count(*) FROM spawn.result").await, 5000);
        assert_eq!(
            db.number("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()").await,
            0
        );
        db.audited().await;
    })
    .await;
}

#[tokio::test]
async fn an_id_with_other_content_is_a_dead_letter() {
    with_db(|db: Db| async move {
        let sink = db.sink().await;
        let p = claim(&sink, 0).await;
        let other = || Body::Work(inferred("other", &[[1.0; 4]]));
        let records = vec![work(&p, 0, "a"), work(&p, 1, "b"), envelope(&p, 2, "b", other())];
        assert_eq!(sink.write(&unit(&[p], records)).await.unwrap().outcomes, [2, 1, 0, 0]);
        let p = at(&p, 3);
        let records = vec![envelope(&p, 3, "a", other()), work(&p, 4, "c")];
        assert_eq!(sink.write(&unit(&[p], records)).await.unwrap().outcomes, [1, 1, 0, 0]);
        let ledger = db.ledger(0).await;
        assert_eq!(ledger[2], (2, 1, reason("id.conflict")));
        assert_eq!(ledger[3], (3, 1, reason("id.conflict")));
        let origin = OriginRow { topic: "jobs".into(), partition: 0, offset: 3 };
        let letter = db.store().await.dead_letter("test", &origin).await.unwrap().unwrap();
        assert_eq!(letter.value.as_deref(), Some(&b"value of a"[..]));
        db.audited().await;
    })
    .await;
}

#[tokio::test]
async fn a_tombstone_deletes_lower_offsets_of_its_own_partition() {
    with_db(|db: Db| async move {
        let sink = db.sink().await;
        let (p0, p1) = (claim(&sink, 0).await, claim(&sink, 1).await);
        let keyed = |mut e: Envelope<Inferred>| {
            e.record.key = Some(b"k"[..].to_vec().into());
            e
        };
        let records = vec![keyed(work(&p0, 0, "a")), work(&p0, 1, "b"), keyed(work(&p1, 0, "c"))];
        sink.write(&unit(&[p0, p1], records)).await.unwrap();
        let p0 = at(&p0, 2);
        // The key again after its tombstone, also with the id of before.
        let records = vec![
            keyed(work(&p0, 2, "d")),
            tombstone(&p0, 3, "k"),
            keyed(work(&p0, 4, "a")),
            tombstone(&p0, 5, "none"),
        ];
        assert_eq!(sink.write(&unit(&[p0], records)).await.unwrap().outcomes, [1, 0, 3, 0]);
        let ledger = db.ledger(0).await;
        assert_eq!(ledger[2], (2, 2, reason("tombstone")), "buried within the unit");
        assert_eq!(ledger[3], (3, 2, reason("tombstone")));
        assert_eq!(ledger[4], (4, 0, None));
        let left: Vec<String> =
            sqlx::query_scalar("SELECT event_id || '@' || \"offset\" FROM spawn.result ORDER BY 1")
                .fetch_all(&mut db.connection().await)
                .await
                .unwrap();
        assert_eq!(left, ["a@4", "b@1", "c@0"]);
        assert_eq!(db.number("SELECT count(*) FROM spawn.embedding_1").await, 3);
        assert_eq!(db.number("SELECT count(*) FROM spawn.dedupe").await, 3);
        db.audited().await;
    })
    .await;
}

#[tokio::test]
async fn dead_and_deferred_letters_keep_the_original_bytes() {
    with_db(|db: Db| async move {
        let sink = db.sink().await;
        let p = claim(&sink, 0).await;
        let raw: Vec<u8> = (0..=255).collect();
        let mut dead = envelope(&p, 0, "a", Body::Rejected(Rejection::new("prepare", "decode.truncated", "cut")));
        dead.record.key = Some(raw.clone().into());
        dead.record.value = Some(raw.iter().rev().copied().collect::<Vec<u8>>().into());
        dead.record.headers = vec![("x".into(), raw.clone().into()), ("y".into(), Vec::new().into()), ("x".into(), vec![0].into())];
        let expected = (dead.record.key.clone(), dead.record.value.clone(), dead.record.headers.clone());
        let later = envelope(&p, 1, "b", Body::Deferred(Rejection::new("fetch", "fetch.timeout", "slow")));
        let skipped = envelope(&p, 2, "c", Body::Skipped("empty"));
        assert_eq!(sink.write(&unit(&[p], vec![dead, later, skipped])).await.unwrap().outcomes, [0, 1, 1, 1]);

        let store = db.store().await;
        let page = store.rejections(Some("decode.truncated"), None, 10).await.unwrap();
        assert_eq!(page.rejections.len(), 1);
        assert_eq!(page.rejections[0].value_bytes, 256);
        let letter = store.dead_letter("test", &page.rejections[0].origin).await.unwrap().unwrap();
        assert_eq!(letter.key.as_deref(), expected.0.as_deref());
        assert_eq!(letter.value.as_deref(), expected.1.as_deref());
        let headers: Vec<(String, Vec<u8>)> = expected.2.iter().map(|(n, v)| (n.clone(), v.to_vec())).collect();
        assert_eq!(letter.headers, headers);
        let due = "SELECT count(*) FROM spawn.redrive WHERE due_at > now() AND give_up_at > now() + interval '23 hours'
                    AND value = 'value of b' AND code = 'fetch.timeout' AND bytes = 11";
        assert_eq!(db.number(due).await, 1);
        assert_eq!(store.rejection_codes(&["jobs".into()]).await.unwrap()["decode.truncated"], 1);
        let counts = store.counts_by_outcome(Some("test")).await.unwrap();
        assert_eq!((counts[0].results, counts[0].rejected, counts[0].skipped, counts[0].deferred), (0, 1, 1, 1));
        db.audited().await;

        // A tombstone later: the redrive learns that its record is buried.
        let p = at(&p, 3);
        let mut keyless = works(&p, "z", 4..5);
        keyless[0].record.key = None;
        keyless.insert(0, tombstone(&p, 3, "b"));
        sink.write(&unit(&[p], keyless)).await.unwrap();
        assert_eq!(db.number("SELECT superseded_at FROM spawn.redrive").await, 3);
        db.audited().await;
    })
    .await;
}
