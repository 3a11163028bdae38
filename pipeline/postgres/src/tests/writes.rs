use super::fixture::{Db, at, claim, envelope, identity, inferred, unit, with_db, work, works};
use crate::PgSink;
use spawn_core::{Body, FaultClass, Origin, Sink};
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

#[tokio::test]
async fn a_unit_becomes_rows_of_all_tables() {
    with_db(|db: Db| async move {
        let sink = db.sink().await;
        let p = claim(&sink, 3).await;
        let mut two_chunks = inferred("x", &[[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]]);
        two_chunks.pooled = two_chunks.chunks[0].embedding.clone();
        let records = vec![work(&p, 0, "a"), envelope(&p, 4, "x", Body::Work(two_chunks))];
        assert_eq!(sink.write(&unit(&[p], records)).await.unwrap().outcomes, [2, 0, 0, 0]);
        assert_eq!(db.ledger(3).await, [(0, 0, None), (4, 0, None)]);
        assert_eq!(db.number("SELECT count(*) FROM spawn.embedding_1").await, 4);
        assert_eq!(db.number("SELECT next_offset FROM spawn.checkpoint").await, 5);
        assert_eq!(
            db.number("SELECT count(*) FROM spawn.langchain_1 WHERE langchain_metadata ? 'labels'").await,
            4
        );
        assert_eq!(db.number("SELECT count(DISTINCT id) FROM spawn.llamaindex_1").await, 4);
        db.audited().await;
    })
    .await;
}

#[tokio::test]
async fn a_mark_without_records_moves_the_position() {
    with_db(|db: Db| async move {
        let sink = db.sink().await;
        let p = claim(&sink, 0).await;
        let mut batch = unit(&[p], Vec::new());
        assert_eq!(sink.write(&batch).await.unwrap(), Default::default(), "a pure flush");
        batch.delta.get_mut(&0).unwrap().to = 40;
        assert_eq!(sink.write(&batch).await.unwrap(), Default::default());
        assert_eq!(db.number("SELECT next_offset FROM spawn.checkpoint").await, 40);
        assert_eq!(db.number("SELECT count(*) FROM spawn.span WHERE kind = 'eof' AND records = 0").await, 1);
        db.audited().await;
    })
    .await;
}

#[tokio::test]
async fn a_unit_that_lost_a_record_is_refused() {
    with_db(|db: Db| async move {
        let sink = db.sink().await;
        let p = claim(&sink, 0).await;
        let mut batch = unit(&[p], works(&p, "a", 0..3));
        batch.envelopes.remove(1);
        let fault = sink.write(&batch).await.unwrap_err();
        assert_eq!(fault.class, FaultClass::Operator);
        assert!(fault.detail.contains("holds 2 of 3 polled"), "{fault}");
        // And the database would have refused it too.
        let overrides = Default::default();
        let rows = crate::rows::Rows::of(&batch, &overrides, 0..2);
        let trouble = crate::write::call(&sink, &batch, &rows, false).await.unwrap_err();
        let crate::write::Trouble::Fault(fault) = trouble else { panic!("{trouble:?}") };
        assert!(fault.detail.contains("partition 0 holds 2 of 3 records"), "{fault}");
        assert_eq!(db.number("SELECT count(*) FROM spawn.record").await, 0);
    })
    .await;
}

#[tokio::test]
async fn strays_and_foreign_vectors_are_refused() {
    with_db(|db: Db| async move {
        let sink = db.sink().await;
        let p = claim(&sink, 0).await;
        let refuse = async |batch, want: &str| {
            let fault = sink.write(&batch).await.unwrap_err();
            assert!(fault.detail.contains(want), "{fault}");
        };
        let mut stray = unit(&[p], works(&p, "a", 0..2));
        stray.envelopes[0].record.origin = Origin { topic: "jobs".into(), partition: 9, offset: 0 };
        refuse(stray, "does not settle its partition").await;
        let mut old = unit(&[p], works(&p, "a", 0..2));
        old.envelopes[0].record.claim.epoch = 0;
        refuse(old, "another claim").await;
        let mut outside = unit(&[p], works(&p, "a", 0..2));
        outside.envelopes[0].record.origin.offset = 7;
        refuse(outside, "outside of [0, 2)").await;
        let mut foreign = inferred("a", &[[1.0; 4]]);
        foreign.provenance.model = "m@2".into();
        refuse(unit(&[p], vec![envelope(&p, 0, "a", Body::Work(foreign))]), "its model is `m@2`").await;
    })
    .await;
}

/// Forwards to the server and, while told to, cuts the connection instead of handing an answer back.
async fn cutting_proxy(target: String) -> (String, Arc<std::sync::atomic::AtomicBool>) {
    let cut = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let cutting = cut.clone();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(&target).await.unwrap();
            let (mut from_client, mut to_client) = client.into_split();
            let (mut from_server, mut to_server) = server.into_split();
            tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_server).await });
            let cutting = cutting.clone();
            tokio::spawn(async move {
                let mut bytes = vec![0; 1 << 16];
                while let Ok(n @ 1..) = from_server.read(&mut bytes).await {
                    // The server has spoken, so it has committed; nobody hears it.
                    if cutting.swap(false, std::sync::atomic::Ordering::SeqCst) {
                        return;
                    }
                    to_client.write_all(&bytes[..n]).await.unwrap();
                }
            });
        }
    });
    (address, cut)
}

#[tokio::test]
async fn a_lost_answer_is_recognised_when_the_unit_comes_again() {
    with_db(|db: Db| async move {
        let (address, database) = db.url.rsplit_once('@').unwrap().1.split_once('/').unwrap();
        let (proxy, cut) = cutting_proxy(address.to_owned()).await;
        let user = db.url.split('@').next().unwrap();
        let sink =
            PgSink::open(&format!("{user}@{proxy}/{database}?sslmode=disable"), identity()).await.unwrap();
        let p = claim(&sink, 0).await;
        sink.write(&unit(&[p], works(&p, "warm", 0..2))).await.unwrap();
        let p = at(&p, 2);
        let mut records = works(&p, "a", 2..5);
        records.push(work(&p, 5, "a2"));
        let batch = unit(&[p], records);
        cut.store(true, std::sync::atomic::Ordering::SeqCst);
        let fault = sink.write(&batch).await.unwrap_err();
        assert_eq!(fault.class, FaultClass::Systemic, "{fault}");
        assert_eq!(db.number("SELECT next_offset FROM spawn.checkpoint").await, 6, "it was written");
        let written = sink.write(&batch).await.unwrap();
        assert_eq!((written.fenced, written.outcomes), (vec![], [3, 0, 1, 0]));
        assert_eq!(db.ledger(0).await.len(), 6);
        db.audited().await;
    })
    .await;
}

#[tokio::test]
async fn a_server_that_ends_the_session_is_systemic_and_the_next_write_works() {
    with_db(|db: Db| async move {
        let sink = db.sink().await;
        let p = claim(&sink, 0).await;
        sink.write(&unit(&[p], works(&p, "before", 0..1))).await.unwrap();
        assert!(sink.writer.is_open().await);
        db.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
              WHERE application_name LIKE 'spawn-%-test' AND datname = current_database()",
        )
        .await;
        let p = at(&p, 1);
        let batch = unit(&[p], works(&p, "a", 1..3));
        let fault = sink.write(&batch).await.unwrap_err();
        assert_eq!(fault.class, FaultClass::Systemic, "{fault}");
        assert_eq!(sink.write(&batch).await.unwrap().outcomes, [2, 0, 0, 0]);
    })
    .await;
}
