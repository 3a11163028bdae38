use super::fixture::{Db, at, claim, envelope, unit, with_db, works};
use crate::{GroupBy, Letter, LetterCounts, LetterName, Purge, Wanted};
use bytes::Bytes;
use spawn_core::{Body, Claimed, Envelope, Inferred, ItemId, Rejection, Sink};
use std::time::Duration;

const GIVE_UP: Duration = Duration::from_secs(24 * 3600);

pub(super) fn dead(p: &Claimed, offset: i64, id: &str, code: &'static str) -> Envelope<Inferred> {
    envelope(p, offset, id, Body::Rejected(Rejection::new("prepare", code, "not as it should be")))
}

fn tombstone(p: &Claimed, offset: i64, key: &str) -> Envelope<Inferred> {
    let mut envelope = envelope(p, offset, key, Body::Delete);
    envelope.record.value = None;
    envelope
}

/// Results at 0 and 3, dead letters at 1, 2 (truncated) and 4 (malformed).
async fn fill(db: &Db) -> Claimed {
    let sink = db.sink().await;
    let p = claim(&sink, 0).await;
    let mut records = works(&p, "a", 0..1);
    records.extend([dead(&p, 1, "x", "decode.truncated"), dead(&p, 2, "y", "decode.truncated")]);
    sink.write(&unit(&[p], records)).await.unwrap();
    let p = at(&p, 3);
    let mut records = works(&p, "a", 3..4);
    records.push(dead(&p, 4, "z", "decode.malformed"));
    sink.write(&unit(&[p], records)).await.unwrap();
    at(&p, 5)
}

fn all_of(code: &str) -> Wanted {
    Wanted::Code(code.into())
}

/// The letter at an offset of partition 0.
async fn at_offset(db: &Db, offset: i64) -> Letter {
    let store = db.store().await;
    let name = LetterName::Origin { topic: "jobs".into(), partition: 0, offset };
    let numbers = store.letter_numbers(&name).await.unwrap();
    assert_eq!(numbers.len(), 1, "{name:?}");
    store.letter(numbers[0]).await.unwrap().unwrap()
}

#[tokio::test]
async fn a_replayed_letter_is_deferred_at_its_own_offset_with_every_byte() {
    with_db(|db: Db| async move {
        let sink = db.sink().await;
        let p = claim(&sink, 0).await;
        let mut first = dead(&p, 0, "x", "decode.truncated");
        first.record.key = None;
        first.record.value = Some(Bytes::from_static(b"\xff\x00\xfe"));
        first.record.headers = [("a", &b"\xff"[..]), ("b", b""), ("a", b"\x00")]
            .map(|(name, value)| (name.to_owned(), Bytes::copy_from_slice(value)))
            .to_vec();
        let mut second = dead(&p, 1, "y", "decode.truncated");
        second.record.value = None;
        let kept = (first.record.clone(), second.record.clone());
        let mut records = vec![first, second];
        records.extend(works(&p, "a", 2..3));
        sink.write(&unit(&[p], records)).await.unwrap();

        let store = db.store().await;
        let wanted = all_of("decode.truncated");
        let numbers = store.replayable(&wanted, true, 0, 10).await.unwrap();
        assert_eq!(numbers.len(), 2);
        assert_eq!(store.replay(&numbers, GIVE_UP).await.unwrap(), 2);
        db.audited().await;
        let reason = Some("decode.truncated".to_owned());
        assert_eq!(db.ledger(0).await, [(0, 3, reason.clone()), (1, 3, reason), (2, 0, None)]);
        let counts = "SELECT rejected * 100 + deferred * 10 + results FROM spawn.span";
        assert_eq!(db.number(counts).await, 21);
        assert_eq!(db.number("SELECT count(*) FROM spawn.rejection").await, 0);
        let due = "SELECT count(*) FROM spawn.redrive WHERE due_at <= now() AND attempts = 0
                    AND give_up_at BETWEEN now() + interval '23 hours' AND now() + interval '24 hours'";
        assert_eq!(db.number(due).await, 2);
        for (offset, record) in [(0, kept.0), (1, kept.1)] {
            type Row = (Option<Vec<u8>>, Option<Vec<u8>>, Vec<String>, Vec<Vec<u8>>, i64, bool);
            let row: Row = sqlx::query_as(
                "SELECT key, value, header_names, header_values, timestamp_ms, key_hash IS NOT NULL FROM spawn.redrive
                  WHERE \"offset\" = $1",
            )
            .bind(offset)
            .fetch_one(&mut db.connection().await)
            .await
            .unwrap();
            let (names, values): (Vec<String>, Vec<Vec<u8>>) =
                record.headers.into_iter().map(|(name, value)| (name, value.to_vec())).unzip();
            let key = record.key.map(|k| k.to_vec());
            let keyed = key.is_some();
            let value = record.value.map(|v| v.to_vec());
            assert_eq!(row, (key, value, names, values, record.timestamp_ms, keyed));
        }
        assert_eq!(store.replay(&numbers, GIVE_UP).await.unwrap(), 0, "they are no dead letters any more");
        db.audited().await;
    })
    .await;
}

#[tokio::test]
async fn a_replay_has_the_key_hash_that_a_tombstone_looks_for() {
    with_db(|db: Db| async move {
        let p = fill(&db).await;
        let store = db.store().await;
        store
            .replay(&store.replayable(&all_of("decode.truncated"), true, 0, 10).await.unwrap(), GIVE_UP)
            .await
            .unwrap();
        db.sink().await.write(&unit(&[p], vec![tombstone(&p, 5, "x")])).await.unwrap();
        assert_eq!(db.number("SELECT count(*) FROM spawn.redrive WHERE superseded_at = 5").await, 1);
        db.audited().await;
    })
    .await;
}

#[tokio::test]
async fn a_letter_whose_key_was_deleted_later_is_superseded_when_it_comes_back() {
    with_db(|db: Db| async move {
        let p = fill(&db).await;
        let sink = db.sink().await;
        // In a later unit, and in the unit that holds the letter itself; the one behind it is another record.
        let records = vec![
            tombstone(&p, 5, "x"),
            dead(&p, 6, "w", "decode.malformed"),
            tombstone(&p, 7, "w"),
            dead(&p, 8, "w", "decode.malformed"),
        ];
        sink.write(&unit(&[p], records)).await.unwrap();
        for (offset, superseded) in [(1, true), (2, false), (6, true), (8, false)] {
            assert_eq!(at_offset(&db, offset).await.row.superseded, superseded, "{offset}");
        }
        let store = db.store().await;
        let counts = store.count_letters(&all_of("decode.truncated")).await.unwrap();
        assert_eq!(counts, LetterCounts { records: 2, purged: 0, superseded: 1, ended: 0 });
        store.replay(&[at_offset(&db, 1).await.number], GIVE_UP).await.unwrap();
        assert_eq!(db.number("SELECT superseded_at FROM spawn.redrive").await, 5);
        db.audited().await;
    })
    .await;
}

#[tokio::test]
async fn a_letter_of_an_ended_reading_is_only_replayed_elsewhere() {
    with_db(|db: Db| async move {
        fill(&db).await;
        db.execute("UPDATE spawn.source SET retired_at = now()").await;
        let (store, wanted) = (db.store().await, all_of("decode.truncated"));
        assert!(store.replayable(&wanted, true, 0, 10).await.unwrap().is_empty());
        assert_eq!(store.replayable(&wanted, false, 0, 10).await.unwrap().len(), 2);
        assert_eq!(store.count_letters(&wanted).await.unwrap().ended, 2);
    })
    .await;
}

#[tokio::test]
async fn replays_and_writes_at_once_keep_the_ledger_whole() {
    with_db(|db: Db| async move {
        let mut p = fill(&db).await;
        let (sink, store) = (db.sink().await, db.store().await);
        for round in 0..20 {
            let offset = p.position;
            let records = vec![tombstone(&p, offset, "x"), dead(&p, offset + 1, "q", "decode.malformed")];
            let numbers = store.replayable(&all_of("decode.malformed"), true, 0, 1).await.unwrap();
            let batch = unit(&[p], records);
            let (written, replayed) = tokio::join!(sink.write(&batch), store.replay(&numbers, GIVE_UP));
            assert!(written.unwrap().fenced.is_empty());
            assert_eq!(replayed.unwrap(), 1, "round {round}");
            p = at(&p, offset + 2);
        }
        db.audited().await;
        assert_eq!(db.number("SELECT sum(deferred) FROM spawn.span").await, 20);
    })
    .await;
}

#[tokio::test]
async fn letters_are_counted_and_named() {
    with_db(|db: Db| async move {
        fill(&db).await;
        let store = db.store().await;
        let groups = store.letter_groups(GroupBy::Code, None).await.unwrap();
        let counted: Vec<_> = groups.iter().map(|g| (g.name.as_str(), g.records, g.bytes)).collect();
        assert_eq!(counted, [("decode.truncated", 2, 20), ("decode.malformed", 1, 10)]);
        for (by, name) in [(GroupBy::Pipeline, "test"), (GroupBy::Topic, "jobs")] {
            let groups = store.letter_groups(by, Some("decode.truncated")).await.unwrap();
            assert_eq!(groups.iter().map(|g| (g.name.as_str(), g.records)).collect::<Vec<_>>(), [(name, 2)]);
        }
        let id = ItemId::of_event("test", "y").public();
        let by_id = store.letter_numbers(&id.parse().unwrap()).await.unwrap();
        assert_eq!(by_id, [at_offset(&db, 2).await.number]);
        let letter = store.letter(by_id[0]).await.unwrap().unwrap();
        assert_eq!((letter.row.id, letter.record.value), (id, Some(b"value of y".to_vec())));
        assert!(store.letter_numbers(&"0".repeat(32).parse().unwrap()).await.unwrap().is_empty());
        for wrong in ["", "x", "jobs/0", "jobs@1", "/0@1", "jobs/a@1", "jobs/0@"] {
            assert!(wrong.parse::<LetterName>().is_err(), "{wrong}");
        }
        let origin = LetterName::Origin { topic: "a/b@c".into(), partition: 3, offset: 9 };
        assert_eq!("a/b@c/3@9".parse::<LetterName>().unwrap(), origin);
    })
    .await;
}

#[tokio::test]
async fn purging_takes_the_bytes_and_leaves_the_account() {
    with_db(|db: Db| async move {
        fill(&db).await;
        db.execute(
            "UPDATE spawn.rejection SET first_failed_at = now() - interval '10 days' WHERE \"offset\" IN (1, 4)",
        )
        .await;
        db.execute("UPDATE spawn.rejection SET published = true WHERE \"offset\" = 4").await;
        let store = db.store().await;
        let old = Purge { older_than: Duration::from_secs(9 * 86_400), code: None, keep_unpublished: false };
        let truncated = Purge { code: Some("decode.truncated".into()), ..old.clone() };
        let careful = Purge { keep_unpublished: true, ..old.clone() };
        assert_eq!(store.purgeable(&old).await.unwrap(), 2);
        assert_eq!(store.purgeable(&truncated).await.unwrap(), 1);
        assert_eq!(store.purge(&careful).await.unwrap(), 1);
        assert!(at_offset(&db, 4).await.row.purged && !at_offset(&db, 1).await.row.purged);
        assert_eq!(store.purge(&old).await.unwrap(), 1);
        assert_eq!(store.purge(&old).await.unwrap(), 0);
        let purged = at_offset(&db, 1).await;
        assert_eq!((purged.record.key, purged.record.value, purged.record.headers), (None, None, vec![]));
        assert_eq!(purged.row.code, "decode.truncated");
        let numbers = store.replayable(&all_of("decode.truncated"), true, 0, 10).await.unwrap();
        assert_eq!(numbers, [at_offset(&db, 2).await.number], "without its bytes none comes back");
        assert_eq!(store.replay(&[purged.number], GIVE_UP).await.unwrap(), 0);
        db.audited().await;
    })
    .await;
}
