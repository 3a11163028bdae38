//! What `spawn check` asks about a pipeline's rows and about the way to the server. Changes nothing.

use crate::connect::options;
use crate::errors::fault;
use crate::{Store, StoreError};
use spawn_core::Fault;
use sqlx::{AssertSqlSafe, Connection, PgConnection, Row};
use std::time::Duration;

/// How long a transaction of one statement may take before it counts as held up by a pooler. A server that is there takes milliseconds.
const TRANSACTION_MAX: Duration = Duration::from_secs(5);

/// What a pipeline's source was made with, and what its vectors are kept in.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct StoredSource {
    /// As [`crate::PipelineIdentity::spec`] was then.
    pub spec: String,
    /// The generation that it fills.
    pub generation: i32,
    /// Elements of a vector, as the generation says.
    pub dimension: i32,
    /// Type of the column of vectors, for example `halfvec(384)`; none where the table or the column is not there.
    pub column: Option<String>,
}

impl Store {
    /// The source of a pipeline's topic, `None` before its first worker.
    pub async fn stored_source(
        &self,
        pipeline: &str,
        topic: &str,
    ) -> Result<Option<StoredSource>, StoreError> {
        // The type's schema is shown where it is not on the search path.
        Ok(sqlx::query_as(
            "SELECT s.spec, s.generation, g.dimension,
                    regexp_replace(format_type(a.atttypid, a.atttypmod), '^.*\\.', '') AS column
               FROM spawn.source s JOIN spawn.generation g ON g.id = s.generation
               LEFT JOIN pg_attribute a ON a.attrelid = to_regclass(format('spawn.embedding_%s', g.id))
                                       AND a.attname = 'vector' AND NOT a.attisdropped
              WHERE s.pipeline = $1 AND s.topic = $2 AND s.retired_at IS NULL",
        )
        .bind(pipeline)
        .bind(topic)
        .fetch_optional(&self.pool)
        .await?)
    }
}

/// Whether a pooler in transaction mode stands before the server: two connections that are open at once have the same server process, or
/// one has another process after another's transaction, or waits for that to end.
pub async fn pooled(url: &str) -> Result<bool, Fault> {
    let options = options(url, "spawn-check")?;
    let connect = async || PgConnection::connect_with(&options).await.map_err(|e| fault(&e));
    let (mut first, mut second) = (connect().await?, connect().await?);
    let before = backend(&mut first, "COMMIT").await.map_err(|e| fault(&e))?;
    // Holds its process until it is closed.
    let held = tokio::time::timeout(TRANSACTION_MAX, backend(&mut second, "")).await;
    let held = match held {
        Err(_) => return Ok(true),
        Ok(held) => held.map_err(|e| fault(&e))?,
    };
    if held == before {
        return Ok(true);
    }
    match tokio::time::timeout(TRANSACTION_MAX, backend(&mut first, "COMMIT")).await {
        Err(_) => Ok(true),
        Ok(after) => Ok(after.map_err(|e| fault(&e))? != before),
    }
}

/// The server process that serves a transaction, which is ended with `end`. In the simple protocol: nothing is prepared.
async fn backend(connection: &mut PgConnection, end: &str) -> Result<i32, sqlx::Error> {
    let asked = format!("BEGIN; SELECT pg_backend_pid(); {end}");
    let row = sqlx::raw_sql(AssertSqlSafe(asked)).fetch_one(connection).await?;
    row.try_get(0)
}
