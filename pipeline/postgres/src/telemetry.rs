//! The metrics of this crate. The duration of a write is the line's to measure.

use sqlx::PgPool;

/// After a write: rows of all tables that it filled.
pub(crate) fn rows_written(rows: u64) {
    metrics::counter!("spawn_copy_rows_total").increment(rows);
}

/// Records that the store itself refused, by code.
pub(crate) fn rejected(pipeline: &str, code: &str) {
    metrics::counter!("spawn_rejections_total", "pipeline" => pipeline.to_owned(), "code" => code.to_owned())
        .increment(1);
}

/// Connections of the readers' pool. A writer has its own and no pool.
pub(crate) fn pool(pool: &PgPool) {
    let idle = pool.num_idle();
    let used = (pool.size() as usize).saturating_sub(idle);
    for (state, connections) in [("idle", idle), ("used", used)] {
        metrics::gauge!("spawn_db_pool_connections", "state" => state).set(connections as f64);
    }
}
