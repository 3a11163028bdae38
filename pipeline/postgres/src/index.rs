//! The vector index of a generation, built after loading: inserting into one costs milliseconds a row, building it in parallel
//! microseconds.

use crate::connect::options;
use crate::errors::{StoreError, sqlstate};
use crate::store::Store;
use sqlx::{AssertSqlSafe, ConnectOptions, PgConnection};
use std::time::Duration;

const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);
/// The graph should fit, or the build becomes many times slower; more than this is the operator's to give.
const WORK_MEM_MAX_MB: i64 = 2048;
const WORK_MEM_MIN_MB: i64 = 64;

impl Store {
    /// Builds the HNSW index of a generation, or does nothing where a valid one is there, and answers how many vectors it covers.
    /// Writers are not blocked. `progress` is called with vectors done and vectors in all. A build that broke off is begun anew.
    pub async fn build_index(
        &self,
        generation: i32,
        mut progress: impl FnMut(u64, u64) + Send,
    ) -> Result<u64, StoreError> {
        let generation = self.generation(generation).await?;
        let (table, index) =
            (format!("embedding_{}", generation.id), format!("embedding_{}_hnsw", generation.id));
        let rows: i64 = sqlx::query_scalar(AssertSqlSafe(format!("SELECT count(*) FROM spawn.{table}")))
            .fetch_one(&self.pool)
            .await?;
        let total = rows as u64;
        if generation.indexed {
            progress(total, total);
            return Ok(total);
        }
        let mut builder = options(&self.url, "spawn-index")?.connect().await?;
        let backend: i32 = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut builder).await?;
        let work_mem_mb = work_mem_mb(rows, generation.dimension);
        let mut build = std::pin::pin!(build(&mut builder, &table, &index, work_mem_mb));
        loop {
            match tokio::time::timeout(PROGRESS_INTERVAL, &mut build).await {
                Ok(built) => {
                    built?;
                    break;
                }
                Err(_) => {
                    if let Some(done) = self.index_progress(backend).await? {
                        progress((done as u64).min(total), total);
                    }
                }
            }
        }
        // Sealed until more is written; the planner needs to know how many rows there are.
        sqlx::query(AssertSqlSafe(format!("ANALYZE spawn.{table}"))).execute(&self.pool).await?;
        progress(total, total);
        Ok(total)
    }

    async fn index_progress(&self, backend: i32) -> Result<Option<i64>, StoreError> {
        Ok(sqlx::query_scalar("SELECT tuples_done FROM pg_stat_progress_create_index WHERE pid = $1")
            .bind(backend)
            .fetch_optional(&self.pool)
            .await?)
    }
}

async fn build(
    connection: &mut PgConnection,
    table: &str,
    index: &str,
    work_mem_mb: i64,
) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(AssertSqlSafe(format!(
        "SET statement_timeout = 0; SET maintenance_work_mem = '{work_mem_mb}MB'"
    )))
    .execute(&mut *connection)
    .await?;
    // Half of what the server may use: the rest goes on serving.
    let workers: i32 =
        sqlx::query_scalar("SELECT greatest(current_setting('max_parallel_workers')::int / 2, 1)")
            .fetch_one(&mut *connection)
            .await?;
    for workers in [workers, 0] {
        // What a broken-off build left is invalid, and a valid one would have been found.
        for statement in [
            format!("DROP INDEX CONCURRENTLY IF EXISTS spawn.{index}"),
            format!("SET max_parallel_maintenance_workers = {workers}"),
            format!(
                "CREATE INDEX CONCURRENTLY {index} ON spawn.{table} USING hnsw (vector halfvec_cosine_ops)"
            ),
        ] {
            let done = sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut *connection).await;
            match done {
                Ok(_) => {}
                // Parallel workers share the graph in /dev/shm, which containers keep small; alone it needs none.
                Err(error) if workers > 0 && sqlstate(&error).is_some_and(|code| code.starts_with("53")) => {
                    tracing::warn!(%error, "no shared memory for a parallel index build, building with one process");
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        if is_valid(connection, index).await? {
            break;
        }
    }
    Ok(())
}

pub(crate) async fn is_valid(connection: &mut PgConnection, index: &str) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT coalesce((SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass($1)), false)",
    )
    .bind(format!("spawn.{index}"))
    .fetch_one(connection)
    .await
}

/// Vector, neighbours of 16 links on the ground floor twice over, and what pgvector puts around them.
fn work_mem_mb(rows: i64, dimension: i32) -> i64 {
    let bytes = rows.saturating_mul(i64::from(dimension) * 2 + 600);
    (bytes / 1_000_000).saturating_mul(5).saturating_div(4).clamp(WORK_MEM_MIN_MB, WORK_MEM_MAX_MB)
}
