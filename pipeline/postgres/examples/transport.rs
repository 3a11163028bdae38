//! How 384-d vectors come into PostgreSQL fastest, by rows a transaction: arrays as parameters of one statement, or binary COPY. Prints one
//! JSON object. For benchmarks.
//!
//! `transport arrays|copy|staged ROWS UNIT`, into a table of its own in the database of `DATABASE_URL`, which is dropped afterwards. `copy`
//! goes straight into the table, which cannot be done where a row may be there already; `staged` goes into a temporary table and is merged.

#![allow(clippy::print_stdout, reason = "its output is for standard output")]

use pgvector::HalfVector;
use sqlx::{Connection, PgConnection};
use std::time::Instant;

const DIMENSION: usize = 384;
const TABLE: &str = "CREATE TABLE transport (item bigint, chunk int, vector halfvec(384) NOT NULL, PRIMARY KEY (item, chunk)); \
                     ALTER TABLE transport ALTER COLUMN vector SET STORAGE PLAIN; \
                     CREATE TEMP TABLE staging (item bigint, chunk int, vector halfvec(384)) ON COMMIT DELETE ROWS";
const ARRAYS: &str = "INSERT INTO transport SELECT * FROM unnest($1::bigint[], $2::int[], $3::halfvec[]) ON CONFLICT DO NOTHING";
const MERGE: &str = "INSERT INTO transport SELECT * FROM staging ON CONFLICT DO NOTHING";

type Unit = (Vec<i64>, Vec<Vec<f32>>);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [how, rows, unit] = &arguments[..] else {
        return Err("transport arrays|copy|staged ROWS UNIT".into());
    };
    let (rows, unit): (i64, i64) = (rows.parse()?, unit.parse()?);
    let mut db = PgConnection::connect(&std::env::var("DATABASE_URL")?).await?;
    sqlx::raw_sql("CREATE EXTENSION IF NOT EXISTS vector; DROP TABLE IF EXISTS transport")
        .execute(&mut db)
        .await?;
    sqlx::raw_sql(TABLE).execute(&mut db).await?;
    let vector = |n: i64| (0..DIMENSION).map(|i| (0.37 * i as f32 + n as f32).sin()).collect();
    let all: Vec<i64> = (0..rows).collect();
    let units: Vec<Unit> = all
        .chunks(unit as usize)
        .map(|items| (items.to_vec(), items.iter().map(|n| vector(*n)).collect()))
        .collect();
    let started = Instant::now();
    for unit in &units {
        match how.as_str() {
            "arrays" => arrays(&mut db, unit).await?,
            "copy" => copy(&mut db, "transport", unit).await?,
            "staged" => {
                let mut transaction = db.begin().await?;
                copy(&mut transaction, "staging", unit).await?;
                sqlx::query(MERGE).execute(&mut *transaction).await?;
                transaction.commit().await?;
            }
            other => return Err(format!("{other}: arrays, copy or staged").into()),
        }
    }
    let seconds = started.elapsed().as_secs_f64();
    let (written, digest): (i64, String) =
        sqlx::query_as("SELECT count(*), md5(string_agg(vector::text, ',' ORDER BY item)) FROM transport")
            .fetch_one(&mut db)
            .await?;
    sqlx::raw_sql("DROP TABLE transport").execute(&mut db).await?;
    if written != rows {
        return Err(format!("{written} of {rows} rows").into());
    }
    let answer = serde_json::json!({"rows": rows, "unit": unit, "seconds": seconds, "rows_per_second": rows as f64 / seconds, "digest": digest});
    println!("{answer}");
    Ok(())
}

async fn arrays(db: &mut PgConnection, (items, vectors): &Unit) -> Result<(), sqlx::Error> {
    let vectors: Vec<HalfVector> = vectors.iter().map(|v| HalfVector::from_f32_slice(v)).collect();
    sqlx::query(ARRAYS).bind(items).bind(vec![0_i32; items.len()]).bind(vectors).execute(db).await?;
    Ok(())
}

/// The format of PostgreSQL's manual, chapter COPY: a head, for each row the number of fields and each with its length before it, a tail. A
/// `halfvec` is its dimension, a reserved number and its elements, all of 16 bits; everything is big-endian.
async fn copy(db: &mut PgConnection, into: &str, (items, vectors): &Unit) -> Result<(), sqlx::Error> {
    let mut data = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0".to_vec();
    data.reserve(items.len() * (40 + 2 * DIMENSION));
    for (item, vector) in items.iter().zip(vectors) {
        data.extend(3_i16.to_be_bytes());
        data.extend(8_i32.to_be_bytes());
        data.extend(item.to_be_bytes());
        data.extend(4_i32.to_be_bytes());
        data.extend(0_i32.to_be_bytes());
        data.extend((4 + 2 * DIMENSION as i32).to_be_bytes());
        data.extend((DIMENSION as i16).to_be_bytes());
        data.extend(0_i16.to_be_bytes());
        vector.iter().for_each(|x| data.extend(half::f16::from_f32(*x).to_be_bytes()));
    }
    data.extend((-1_i16).to_be_bytes());
    let mut copy = db.copy_in_raw(&format!("COPY {into} FROM STDIN (FORMAT BINARY)")).await?;
    copy.send(data).await?;
    copy.finish().await?;
    Ok(())
}
