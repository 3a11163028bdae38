//! Values that the database refuses.

use super::fixture::{Db, claim, envelope, inferred, unit, with_db, work, works};
use serde_json::json;
use spawn_core::{Body, FaultClass, Sink};

#[tokio::test]
async fn nul_is_stripped_from_text_and_metadata_and_flagged() {
    with_db(|db: Db| async move {
        let sink = db.sink().await;
        let p = claim(&sink, 0).await;
        let mut record = work(&p, 0, "a");
        record.job.source_uri = Some("file:///a\0b".into());
        record.job.metadata =
            json!({"ti\0tle": ["x\0y", {"z": "\\u0000 stays"}]}).as_object().unwrap().clone();
        assert_eq!(sink.write(&unit(&[p], vec![record])).await.unwrap().outcomes, [1, 0, 0, 0]);
        let page = db.store().await.results(&Default::default(), None, 10).await.unwrap();
        assert_eq!(page.results[0].source_uri.as_deref(), Some("file:///ab"));
        assert_eq!(page.results[0].metadata, json!({"title": ["xy", {"z": "\\u0000 stays"}]}));
        assert_eq!(page.results[0].facts["flags"], json!(["nul_stripped"]));
    })
    .await;
}

#[tokio::test]
async fn a_refused_value_becomes_a_dead_letter_and_the_others_are_written() {
    with_db(|db: Db| async move {
        let sink = db.sink().await;
        let p = claim(&sink, 0).await;
        let mut records = works(&p, "a", 0..40);
        // Finite as 32-bit float, infinite as the 16-bit float that is stored.
        for offset in [3, 17, 18] {
            records[offset] = envelope(
                &p,
                offset as i64,
                &format!("a{offset}"),
                Body::Work(inferred("x", &[[1e6, 0.0, 0.0, 0.0]])),
            );
        }
        assert_eq!(sink.write(&unit(&[p], records)).await.unwrap().outcomes, [37, 3, 0, 0]);
        let refused: Vec<i64> =
            db.ledger(0).await.into_iter().filter(|row| row.1 == 1).map(|row| row.0).collect();
        assert_eq!(refused, [3, 17, 18]);
        assert_eq!(db.store().await.rejection_codes(&["jobs".into()]).await.unwrap()["store.value"], 3);
        db.audited().await;
    })
    .await;
}

#[tokio::test]
async fn a_refused_value_beside_an_id_conflict_is_found_as_well() {
    with_db(|db: Db| async move {
        let sink = db.sink().await;
        let p = claim(&sink, 0).await;
        let mut records = works(&p, "a", 0..6);
        records[4] = envelope(&p, 4, "a1", Body::Work(inferred("other", &[[1.0; 4]])));
        records[5] = envelope(&p, 5, "a5", Body::Work(inferred("x", &[[1e6; 4]])));
        assert_eq!(sink.write(&unit(&[p], records)).await.unwrap().outcomes, [4, 2, 0, 0]);
        db.audited().await;
    })
    .await;
}

#[tokio::test]
async fn a_schema_that_refuses_everything_stops_the_line_and_rejects_nobody() {
    with_db(|db: Db| async move {
        let sink = db.sink().await;
        let p = claim(&sink, 0).await;
        db.execute("ALTER TABLE spawn.result ADD CONSTRAINT broken CHECK (\"offset\" < 0)").await;
        let fault = sink.write(&unit(&[p], works(&p, "a", 0..20))).await.unwrap_err();
        assert_eq!(fault.class, FaultClass::Operator);
        assert!(fault.detail.contains("23514"), "{fault}");
        assert_eq!(db.number("SELECT count(*) FROM spawn.record").await, 0);
    })
    .await;
}
