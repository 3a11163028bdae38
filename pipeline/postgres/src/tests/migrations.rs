use super::fixture::{Db, with_db, with_empty_db};
use crate::{migrate, pending};

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
