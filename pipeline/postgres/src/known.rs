//! What was made of contents before, so that it need not be made again.

use crate::connect::{connect, options};
use crate::errors::{StoreError, fault};
use crate::index::is_valid;
use crate::rows::{NUL_STRIPPED, POOLED};
use crate::sink::PgSink;
use pgvector::HalfVector;
use spawn_core::{ContentHash, Embedding, Fault, Inference, Inferred, Label, MediaFacts, Provenance};
use std::sync::atomic::Ordering::Relaxed;

const INDEX: &str = "result_content";

/// Builds the index that [`spawn_core::Sink::known`] of every pipeline needs, unless a valid one is there. Writers are not blocked.
pub async fn index_contents(url: &str) -> Result<(), StoreError> {
    let mut builder = connect(&options(url, "spawn-index")?).await?;
    sqlx::query("SET statement_timeout = 0").execute(&mut builder).await?;
    // Several workers start at once: one builds, the others find it built. They ask again and again, because the build waits for every
    // statement that runs, one that waits for the lock too.
    loop {
        let mine: bool =
            sqlx::query_scalar("SELECT pg_try_advisory_lock(hashtextextended('spawn.index_contents', 0))")
                .fetch_one(&mut builder)
                .await?;
        if mine {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    }
    if !is_valid(&mut builder, INDEX).await? {
        for statement in [
            // What a build that broke off has left.
            "DROP INDEX CONCURRENTLY IF EXISTS spawn.result_content",
            "CREATE INDEX CONCURRENTLY result_content ON spawn.result (content_hash)",
        ] {
            sqlx::raw_sql(statement).execute(&mut builder).await?;
        }
    }
    Ok(())
}

/// One result as it was written.
#[derive(sqlx::FromRow)]
struct Row {
    o_content: Vec<u8>,
    o_facts: String,
    o_labels: String,
    o_chunks: Vec<i32>,
    o_vectors: Vec<HalfVector>,
}

pub(crate) async fn known(sink: &PgSink, contents: &[ContentHash]) -> Result<Vec<Inferred>, Fault> {
    let contents: Vec<&[u8]> = contents.iter().map(|content| &content.0[..]).collect();
    let asked = sink.reader.ask(async |connection| {
        // Without the index each question would read the whole table.
        if !sink.contents_indexed.load(Relaxed) {
            sink.contents_indexed.store(is_valid(&mut *connection, INDEX).await?, Relaxed);
        }
        if !sink.contents_indexed.load(Relaxed) {
            return Ok(Vec::new());
        }
        sqlx::query_as("SELECT * FROM spawn.known($1, $2)")
            .bind(sink.generation)
            .bind(&contents)
            .fetch_all(connection)
            .await
    });
    let rows: Vec<Row> = asked.await.map_err(|e| fault(&e))?;
    Ok(rows.into_iter().filter_map(|row| row.read(sink)).collect())
}

impl Row {
    /// None where the row does not tell everything; then it is computed.
    fn read(self, sink: &PgSink) -> Option<Inferred> {
        let facts: MediaFacts = serde_json::from_str(&self.o_facts).ok()?;
        // It may have been the other record's name or metadata that had the NULs.
        if facts.flags.iter().any(|flag| flag == NUL_STRIPPED) {
            return None;
        }
        // Those of an item are the best of its chunks: with the first one they are the same item's again.
        let mut labels: Vec<Label> = serde_json::from_str(&self.o_labels).ok()?;
        let (mut chunks, mut pooled) = (Vec::new(), None);
        for (number, vector) in self.o_chunks.into_iter().zip(self.o_vectors) {
            let elements = vector.to_vec().into_iter().map(f32::from).collect();
            let embedding = Embedding::try_new(elements, sink.identity.dimension).ok()?;
            if number == POOLED {
                pooled = Some(embedding);
            } else if usize::try_from(number) == Ok(chunks.len()) {
                chunks.push(Inference { embedding: Some(embedding), labels: std::mem::take(&mut labels) });
            } else {
                return None;
            }
        }
        let identity = &sink.identity;
        Some(Inferred {
            chunks,
            pooled,
            facts,
            provenance: Provenance {
                content: ContentHash(self.o_content.try_into().ok()?),
                preparation: identity.preparation.as_str().into(),
                model: identity.model.as_str().into(),
                dtype: identity.dtype.as_str().into(),
            },
        })
    }
}
