use super::fixture::{Db, claim, envelope, inferred, unit, with_db, with_empty_db};
use crate::migrate::migrator;
use crate::{SearchFilter, migrate, pending};
use spawn_core::{Body, Modality, Sink};

#[tokio::test]
async fn several_processes_migrate_at_once() {
    with_empty_db(|db| async move {
        let files = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/migrations")).unwrap().count();
        assert_eq!(pending(&db.url).await.unwrap().len(), files);
        let all = (0..4).map(|_| {
            let url = db.url.clone();
            tokio::spawn(async move { migrate(&url).await })
        });
        for one in all.collect::<Vec<_>>() {
            one.await.unwrap().unwrap();
        }
        assert_eq!(pending(&db.url).await.unwrap(), Vec::<String>::new());
        assert_eq!(migrate(&db.url).await.unwrap(), Vec::<String>::new());
    })
    .await;
}

#[tokio::test]
async fn a_newer_schema_is_refused() {
    with_db(|db: Db| async move {
        db.execute("INSERT INTO spawn.migration VALUES (9999, 'later', now(), true, '\\x00', 0)").await;
        let fault = migrate(&db.url).await.unwrap_err();
        assert!(fault.detail.contains("9999") && fault.detail.contains("newer"), "{fault}");
    })
    .await;
}

#[tokio::test]
async fn several_processes_open_one_pipeline_at_once() {
    with_db(|db: Db| async move {
        let opened = (0..4).map(|_| {
            let db = db.clone();
            tokio::spawn(async move { db.sink().await })
        });
        let mut generations = Vec::new();
        for sink in opened.collect::<Vec<_>>() {
            generations.push(sink.await.unwrap().generation());
        }
        assert_eq!(generations, [generations[0]; 4]);
        assert_eq!(db.number("SELECT count(*) FROM spawn.source").await, 1);
        assert_eq!(db.number("SELECT count(*) FROM spawn.generation WHERE active").await, 1);
    })
    .await;
}

#[tokio::test]
async fn vectors_of_before_segments_become_the_first_one_with_their_index() {
    with_empty_db(|db: Db| async move {
        migrator().run_direct(Some(10), &mut db.connection().await, false).await.unwrap();
        // A sink of today asks for this; at that time there was no such thing.
        db.execute("CREATE FUNCTION spawn.own_generation(int, text, text) RETURNS void LANGUAGE sql AS ''")
            .await;
        let sink = db.sink().await;
        let mut p = claim(&sink, 0).await;
        let old = envelope(&p, 0, "old", Body::Work(inferred("old", &[[1.0, 0.0, 0.0, 0.0]])));
        sink.write(&unit(&[p], vec![old])).await.unwrap();
        db.execute(
            "CREATE INDEX embedding_1_hnsw ON spawn.embedding_1 USING hnsw (vector halfvec_cosine_ops)",
        )
        .await;
        db.execute("DROP FUNCTION spawn.own_generation").await;

        migrate(&db.url).await.unwrap();
        p.position = 1;
        let new = envelope(&p, 1, "new", Body::Work(inferred("new", &[[0.0, 1.0, 0.0, 0.0]])));
        sink.write(&unit(&[p], vec![new])).await.unwrap();
        let counted = [("embedding_1", 2), ("embedding_1_s0", 1), ("embedding_1_s1", 1), ("langchain_1", 2)];
        for (table, rows) in counted {
            assert_eq!(db.number(&format!("SELECT count(*) FROM spawn.{table}")).await, rows, "{table}");
        }
        let store = db.store().await;
        assert!(store.generations().await.unwrap()[0].indexed);
        let filter = SearchFilter { modality: Modality::Text, exact: false, limit: 5 };
        let found = store.search(&[0.6, 0.8, 0.0, 0.0], &filter).await.unwrap();
        let hits: Vec<_> = found.hits.iter().map(|hit| hit.source_uri.as_deref().unwrap()).collect();
        assert_eq!(hits, ["file:///new", "file:///old"]);
    })
    .await;
}
