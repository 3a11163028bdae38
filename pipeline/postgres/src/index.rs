//! The vector indexes of a generation, one for each sealed segment: inserting into one costs milliseconds a row, building it in parallel
//! microseconds. So what is being loaded is never indexed; see the migration `segments`.

use crate::connect::options;
use crate::errors::{StoreError, sqlstate};
use crate::store::Store;
use sqlx::{AssertSqlSafe, ConnectOptions, PgConnection};
use std::time::Duration;

const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);
/// The graph should fit, or the build becomes many times slower; more than this is the operator's to give.
const WORK_MEM_MAX_MB: i64 = 2048;
const WORK_MEM_MIN_MB: i64 = 64;
/// An open segment with fewer vectors is left open beside sealed ones: comparing them all takes milliseconds, and each search asks every index.
const SEAL_MIN: u64 = 10_000;
/// Nor is one sealed that is smaller than this part of what is indexed, so that the number of indexes grows with the logarithm of vectors.
const SEAL_SHARE: u64 = 16;

/// What has an index, and what waits for one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Indexed {
    /// Vectors in sealed segments, each of which has its index.
    pub rows: u64,
    /// Those segments.
    pub segments: u64,
    /// Vectors in the open segment. A search compares them one by one.
    pub open_rows: u64,
    /// With as many the open segment will be sealed.
    pub seal_at: u64,
}

/// A table of vectors.
#[derive(Debug, sqlx::FromRow)]
struct Segment {
    number: i32,
    open: bool,
    indexed: bool,
}

impl Store {
    /// Seals the open segment of a generation, if it is worth an index, and builds the HNSW index of every sealed one that has none. Neither
    /// writers nor searches are blocked. `progress` is called with vectors done and vectors in all. A build that broke off is begun anew.
    pub async fn build_index(
        &self,
        generation: i32,
        mut progress: impl FnMut(u64, u64) + Send,
    ) -> Result<Indexed, StoreError> {
        let generation = self.generation(generation).await?;
        let mut rows = Vec::new();
        for segment in self.segments(generation.id).await? {
            let count = self.count(&part(generation.id, segment.number)).await?;
            rows.push((segment, count));
        }
        let (mut found, mut open) = (Indexed::default(), None);
        for (segment, count) in &rows {
            match segment.open {
                true => (open, found.open_rows) = (Some(segment.number), *count),
                false => (found.segments, found.rows) = (found.segments + 1, found.rows + count),
            }
        }
        found.seal_at = if found.segments == 0 { 1 } else { SEAL_MIN.max(found.rows / SEAL_SHARE) };
        if let Some(number) = open.filter(|_| found.open_rows >= found.seal_at) {
            sqlx::query("SELECT spawn.seal($1, $2)")
                .bind(generation.id)
                .bind(number)
                .execute(&self.pool)
                .await?;
            found = Indexed {
                rows: found.rows + found.open_rows,
                segments: found.segments + 1,
                open_rows: 0,
                seal_at: SEAL_MIN.max((found.rows + found.open_rows) / SEAL_SHARE),
            };
        } else {
            rows.retain(|(segment, _)| !segment.open);
        }
        let total = rows.iter().map(|(_, count)| count).sum();
        let mut done: u64 = rows.iter().filter(|(segment, _)| segment.indexed).map(|(_, count)| count).sum();
        progress(done, total);
        for (segment, count) in rows.iter().filter(|(segment, _)| !segment.indexed) {
            let part = part(generation.id, segment.number);
            self.build_part(&part, *count, generation.dimension, |of_part| {
                progress(done + of_part.min(*count), total);
            })
            .await?;
            done += count;
            progress(done, total);
        }
        if !rows.iter().all(|(segment, _)| segment.indexed) {
            // The planner needs to know how many rows there are.
            let sql = format!("ANALYZE spawn.embedding_{}", generation.id);
            sqlx::query(AssertSqlSafe(sql)).execute(&self.pool).await?;
        }
        Ok(found)
    }

    /// Builds the index of one table, on a connection of its own.
    async fn build_part(
        &self,
        table: &str,
        rows: u64,
        dimension: i32,
        mut progress: impl FnMut(u64) + Send,
    ) -> Result<(), StoreError> {
        let mut builder = options(&self.url, "spawn-index")?.connect().await?;
        let backend: i32 = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut builder).await?;
        let (index, work_mem_mb) = (format!("{table}_hnsw"), work_mem_mb(rows, dimension));
        let mut build = std::pin::pin!(build(&mut builder, table, &index, work_mem_mb));
        loop {
            match tokio::time::timeout(PROGRESS_INTERVAL, &mut build).await {
                Ok(built) => return Ok(built?),
                Err(_) => {
                    if let Some(done) = self.index_progress(backend).await? {
                        progress(done as u64);
                    }
                }
            }
        }
    }

    /// All tables of a generation's vectors.
    async fn segments(&self, generation: i32) -> Result<Vec<Segment>, StoreError> {
        Ok(sqlx::query_as(
            "SELECT s.number, s.number >= g.segment AS open,
                    coalesce((SELECT i.indisvalid FROM pg_index i
                               WHERE i.indexrelid = to_regclass(format('spawn.embedding_%s_s%s_hnsw', g.id, s.number))), false) AS indexed
               FROM spawn.generation g CROSS JOIN LATERAL generate_series(0, g.segment) AS s(number)
              WHERE g.id = $1 AND to_regclass(format('spawn.embedding_%s_s%s', g.id, s.number)) IS NOT NULL
              ORDER BY s.number",
        )
        .bind(generation)
        .fetch_all(&self.pool)
        .await?)
    }

    async fn count(&self, table: &str) -> Result<u64, StoreError> {
        let sql = format!("SELECT count(*) FROM spawn.{table}");
        let rows: i64 = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&self.pool).await?;
        Ok(rows as u64)
    }

    async fn index_progress(&self, backend: i32) -> Result<Option<i64>, StoreError> {
        Ok(sqlx::query_scalar("SELECT tuples_done FROM pg_stat_progress_create_index WHERE pid = $1")
            .bind(backend)
            .fetch_optional(&self.pool)
            .await?)
    }
}

fn part(generation: i32, segment: i32) -> String {
    format!("embedding_{generation}_s{segment}")
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
fn work_mem_mb(rows: u64, dimension: i32) -> i64 {
    let bytes = i64::try_from(rows).unwrap_or(i64::MAX).saturating_mul(i64::from(dimension) * 2 + 600);
    (bytes / 1_000_000).saturating_mul(5).saturating_div(4).clamp(WORK_MEM_MIN_MB, WORK_MEM_MAX_MB)
}
