use super::fixture::{Db, at, claim, envelope, unit, with_db, work, works};
use super::letters::dead;
use crate::{Deleted, PgSink};
use spawn_core::{Body, Rejection, Sink};

#[tokio::test]
async fn a_key_is_deleted_in_every_generation_and_nothing_of_it_comes_back() {
    with_db(|db: Db| async move {
        let sink = db.sink().await;
        let (p0, p1) = (claim(&sink, 0).await, claim(&sink, 1).await);
        let later =
            envelope(&p0, 1, "k", Body::Deferred(Rejection::new("fetch", "payload.unreachable", "-")));
        let mut records = vec![work(&p0, 0, "k"), later, dead(&p0, 2, "k", "decode.truncated")];
        records.extend(works(&p0, "other", 3..5));
        // The key of the other partition's record is the same, its item another.
        let mut same_key = work(&p1, 0, "k2");
        same_key.record.key = Some("k".into());
        records.push(same_key);
        sink.write(&unit(&[p0, p1], records)).await.unwrap();
        // Another pipeline fills another generation of the collection from the same topic.
        let mut newer = super::fixture::identity();
        (newer.pipeline, newer.model) = ("test2".into(), "m@2".into());
        let new_sink = PgSink::open(&db.url, newer).await.unwrap();
        let q = claim(&new_sink, 0).await;
        let mut record = work(&q, 0, "k");
        if let Body::Work(inferred) = &mut record.body {
            inferred.provenance.model = "m@2".into();
        }
        new_sink.write(&unit(&[q], vec![record])).await.unwrap();

        let store = db.store().await;
        let first = Deleted { results: 2, vectors: 2, deferred: 1, rejected: 1 };
        assert_eq!(store.delete_key("jobs", Some(0), b"k", true).await.unwrap(), first);
        assert_eq!(db.number("SELECT count(*) FROM spawn.result").await, 5, "a dry run changes nothing");
        assert_eq!(db.number("SELECT count(*) FROM spawn.redrive WHERE superseded_at IS NULL").await, 1);
        assert_eq!(store.delete_key("elsewhere", None, b"k", false).await.unwrap().results, 0);
        assert_eq!(store.delete_key("jobs", Some(0), b"k", false).await.unwrap(), first);
        assert_eq!(db.number("SELECT count(*) FROM spawn.result").await, 3);
        let rest = Deleted { results: 1, vectors: 1, deferred: 0, rejected: 0 };
        assert_eq!(store.delete_key("jobs", None, b"k", false).await.unwrap(), rest);
        for table in ["result", "dedupe", "embedding_1"] {
            assert_eq!(db.number(&format!("SELECT count(*) FROM spawn.{table}")).await, 2, "{table}");
        }
        assert_eq!(db.number("SELECT count(*) FROM spawn.embedding_2").await, 0);
        assert_eq!(db.number("SELECT count(*) FROM spawn.record").await, 7, "the ledger stays");
        assert_eq!(
            db.number("SELECT superseded_at FROM spawn.redrive").await,
            5,
            "where the partition stands"
        );
        assert_eq!(db.number("SELECT superseded_at FROM spawn.rejection").await, 5);
        db.audited().await;
        assert!(store.knows_topic("jobs").await.unwrap() && !store.knows_topic("elsewhere").await.unwrap());
        // The item may come again, as a new record.
        let p0 = at(&p0, 5);
        assert_eq!(sink.write(&unit(&[p0], vec![work(&p0, 5, "k")])).await.unwrap().outcomes, [1, 0, 0, 0]);
    })
    .await;
}
