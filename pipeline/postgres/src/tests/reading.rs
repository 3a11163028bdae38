use super::fixture::{Db, at, claim, unit, with_db, works};
use crate::{ResultFilter, StoreError};
use spawn_core::{ItemId, Modality, Sink};
use std::collections::BTreeSet;

#[tokio::test]
async fn a_result_is_found_by_its_public_id() {
    with_db(|db: Db| async move {
        let sink = db.sink().await;
        let p = claim(&sink, 2).await;
        sink.write(&unit(&[p], works(&p, "a", 0..3))).await.unwrap();
        let store = db.store().await;
        store.ping().await.unwrap();
        let id = ItemId::of_event("test", "a1").public();
        let result = store.result(&id).await.unwrap().unwrap();
        assert_eq!((result.id.as_str(), result.event_id.as_deref()), (id.as_str(), Some("a1")));
        assert_eq!((result.origin.partition, result.origin.offset), (2, 1));
        assert_eq!((result.labels[0].name.as_str(), result.labels[0].score), ("cat", 0.75));
        assert_eq!((result.model.as_str(), result.modality), ("m@1", Modality::Text));
        assert_eq!(store.vector_of(&id).await.unwrap().unwrap().len(), 4);
        assert!(store.result(&"0".repeat(32)).await.unwrap().is_none());
        for wrong in ["", "xyz", &"g".repeat(32), &"é".repeat(16)] {
            assert!(matches!(store.result(wrong).await, Err(StoreError::Id(_))), "{wrong}");
        }
        let versions = store.versions().await.unwrap();
        assert!(
            versions.postgres.starts_with(|c: char| c.is_ascii_digit())
                && versions.pgvector.starts_with("0.")
        );
    })
    .await;
}

#[tokio::test]
async fn pages_have_no_gaps_while_somebody_writes() {
    with_db(|db: Db| async move {
        let sink = db.sink().await;
        let p = claim(&sink, 0).await;
        sink.write(&unit(&[p], works(&p, "a", 0..95))).await.unwrap();
        let store = db.store().await;
        let filter =
            ResultFilter { modality: Some(Modality::Text), label: Some("cat".into()), ..Default::default() };
        let (mut seen, mut cursor, mut written) = (Vec::new(), None, 95);
        loop {
            let page = store.results(&filter, cursor.as_deref(), 10).await.unwrap();
            seen.extend(page.results.iter().map(|r| r.event_id.clone().unwrap()));
            let p = at(&p, written);
            sink.write(&unit(&[p], works(&p, "later", written..written + 7))).await.unwrap();
            written += 7;
            cursor = page.next;
            if cursor.is_none() {
                break;
            }
        }
        let expected: BTreeSet<String> = (0..95).map(|i| format!("a{i}")).collect();
        assert_eq!(seen.len(), 95);
        assert_eq!(seen.into_iter().collect::<BTreeSet<_>>(), expected);
        let none = ResultFilter { label: Some("dog".into()), ..Default::default() };
        assert_eq!(store.results(&none, None, 10).await.unwrap().results, []);
        for wrong in ["", "1", "x", "10000000000000001ff", "1zzzzzzzzzzzzzzzzzz", "2000000000000000100"] {
            assert!(
                matches!(store.results(&filter, Some(wrong), 1).await, Err(StoreError::Cursor)),
                "{wrong}"
            );
        }
    })
    .await;
}

#[tokio::test]
async fn results_follow_the_active_generation_there_and_back() {
    with_db(|db: Db| async move {
        let sink = db.sink().await;
        let p = claim(&sink, 0).await;
        sink.write(&unit(&[p], works(&p, "a", 0..2))).await.unwrap();
        let mut newer = super::fixture::identity();
        (newer.pipeline, newer.model) = ("test2".into(), "m@2".into());
        let new_sink = crate::PgSink::open(&db.url, newer).await.unwrap();
        let q = claim(&new_sink, 0).await;
        let mut records = works(&q, "a", 0..1);
        if let spawn_core::Body::Work(inferred) = &mut records[0].body {
            inferred.provenance.model = "m@2".into();
        }
        assert_eq!(
            new_sink.write(&unit(&[q], records)).await.unwrap().outcomes,
            [1, 0, 0, 0],
            "no duplicate of the old"
        );
        let store = db.store().await;
        let models = async || {
            let page = store.results(&Default::default(), None, 10).await.unwrap();
            page.results.into_iter().map(|r| r.model).collect::<Vec<_>>()
        };
        assert_eq!(models().await, ["m@1", "m@1"]);
        store.activate(new_sink.generation()).await.unwrap();
        assert_eq!(models().await, ["m@2"]);
        store.activate(sink.generation()).await.unwrap();
        assert_eq!(models().await, ["m@1", "m@1"]);
        assert!(matches!(store.activate(99).await, Err(StoreError::UnknownGeneration(99))));
    })
    .await;
}
