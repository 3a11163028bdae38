//! A trial leaves nothing behind, and takes nothing else along.

use super::fixture::{claim, identity, unit, with_db, works};
use crate::{PgSink, PipelineIdentity};
use spawn_core::{Modality, Sink};

#[tokio::test]
async fn a_trial_is_forgotten_and_the_rest_stays() {
    with_db(|db| async move {
        let trial = PipelineIdentity {
            pipeline: "trial".into(),
            topic: "trial".into(),
            collection: "trial".into(),
            ..identity()
        };
        for sink in [PgSink::open(&db.url, trial).await.unwrap(), db.sink().await] {
            let p = claim(&sink, 0).await;
            sink.write(&unit(&[p], works(&p, "a", 0..5))).await.unwrap();
        }
        let store = db.store().await;
        assert_eq!(db.number("SELECT count(*) FROM spawn.record").await, 10);
        store.forget_trial("trial").await.unwrap();
        for table in ["record", "result", "dedupe"] {
            assert_eq!(db.number(&format!("SELECT count(*) FROM spawn.{table}")).await, 5, "{table}");
        }
        let tables =
            "SELECT count(*) FROM pg_tables WHERE schemaname = 'spawn' AND tablename ~ '^embedding_[0-9]+$'";
        assert_eq!(db.number(tables).await, 1);
        assert_eq!(store.active(Modality::Text).await.unwrap().collection, "main");
        db.audited().await;
    })
    .await;
}
