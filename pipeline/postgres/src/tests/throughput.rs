//! Rows a second. A floor that a plan gone wrong would break, not a benchmark; the figures are printed with
//! `--nocapture`.

use super::fixture::{Db, at, claim, envelope, identity, inferred, unit, with_db};
use crate::PgSink;
use spawn_core::{Body, Embedding, Inference, Sink};
use std::io::Write;
use std::time::Instant;

const NARROW: usize = 384;

/// Rows a second with `records` in each unit.
async fn measure(db: &Db, sink: &PgSink, partition: i32, records: i64, units: i64) -> f64 {
    let p = claim(sink, partition).await;
    let vector: Vec<f32> = (0..NARROW).map(|i| (i as f32 * 0.37).sin()).collect();
    let batches: Vec<_> = (0..units)
        .map(|unit_no| {
            let p = at(&p, unit_no * records);
            let envelopes = (p.position..p.position + records).map(|offset| {
                let id = format!("{partition}-{offset}");
                let mut made = inferred(&id, &[]);
                let embedding = Embedding::try_new(vector.clone(), NARROW).unwrap();
                made.chunks = vec![Inference { embedding: Some(embedding), labels: Vec::new() }];
                let mut envelope = envelope(&p, offset, &id, Body::Work(made));
                envelope.record.key = None;
                envelope
            });
            unit(&[p], envelopes.collect())
        })
        .collect();
    let wal = "SELECT pg_current_wal_lsn() - '0/0'::pg_lsn";
    let before = db.number(wal).await;
    let started = Instant::now();
    for batch in &batches {
        assert_eq!(sink.write(batch).await.unwrap().outcomes, [records as u64, 0, 0, 0]);
    }
    let rate = (records * units) as f64 / started.elapsed().as_secs_f64();
    let wal = (db.number(wal).await - before) / (records * units);
    writeln!(
        std::io::stderr(),
        "{records:>4} records a unit: {rate:>9.0} records/s, {wal} bytes of WAL each"
    )
    .unwrap();
    rate
}

#[tokio::test]
async fn units_of_256_pass_two_thousand_records_a_second() {
    with_db(|db: Db| async move {
        let mut id = identity();
        id.dimension = NARROW;
        let sink = PgSink::open(&db.url, id).await.unwrap();
        measure(&db, &sink, 0, 64, 20).await;
        measure(&db, &sink, 1, 8, 200).await;
        measure(&db, &sink, 2, 64, 100).await;
        let rate = measure(&db, &sink, 3, 256, 60).await;
        // A small part of what one core does when it has nothing else to do.
        assert!(rate > 2_000.0, "{rate} records/s");
    })
    .await;
}
