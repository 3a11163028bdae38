//! Dead letters on their way to a topic: a lease, so that one worker does it, and portions in the order of their numbers. What was read
//! is marked only once it arrived; who dies in between leaves it to be read again.

use crate::errors::StoreError;
use crate::letters::{Letter, LetterRow};
use crate::rejections::COLUMNS;
use crate::store::Store;
use sqlx::AssertSqlSafe;
use sqlx::types::Uuid;
use std::time::Duration;

/// The lease of the one who publishes dead letters.
pub const LETTERS_RELAY: &str = "letters.relay";

/// Bounds of one portion.
#[derive(Clone, Copy, Debug)]
pub struct RelayLimits {
    /// Dead letters.
    pub records_max: usize,
    /// Bytes of keys, values and headers together; a larger one goes alone.
    pub bytes_max: usize,
}

impl Store {
    /// Takes a lease or renews it; false while somebody else has it. `holder` is random and one process's own.
    pub async fn take_lease(&self, name: &str, holder: u128, time: Duration) -> Result<bool, StoreError> {
        Ok(sqlx::query_scalar("SELECT spawn.take_lease($1, $2, $3)")
            .bind(name)
            .bind(Uuid::from_u128(holder))
            .bind(time)
            .fetch_one(&self.pool)
            .await?)
    }

    /// Gives a lease back, so that the next one need not wait for its end.
    pub async fn end_lease(&self, name: &str, holder: u128) -> Result<(), StoreError> {
        sqlx::query("DELETE FROM spawn.lease WHERE name = $1 AND holder = $2")
            .bind(name)
            .bind(Uuid::from_u128(holder))
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// The next dead letters that are in no topic yet, in the order of their numbers. Locks nothing.
    pub async fn unpublished(&self, limits: RelayLimits) -> Result<Vec<Letter>, StoreError> {
        let bytes = LetterRow::BYTES;
        // Lengths are known without reading the values.
        let sql = format!(
            "WITH next AS (
                SELECT r.id, coalesce(length(r.key), 0) + coalesce(length(r.value), 0)
                             + coalesce((SELECT sum(length(v)) FROM unnest(r.header_values) AS v), 0) AS bytes
                  FROM spawn.rejection r WHERE NOT r.published AND r.purged_at IS NULL AND r.unpublishable IS NULL
                 ORDER BY r.id LIMIT $1
             ), fitting AS (
                SELECT n.id, sum(n.bytes) OVER (ORDER BY n.id) AS filled, row_number() OVER (ORDER BY n.id) AS place FROM next n
             )
             SELECT {COLUMNS}, {bytes} FROM fitting f JOIN spawn.rejection r ON r.id = f.id JOIN spawn.source s ON s.id = r.source
              WHERE (f.filled <= $2 OR f.place = 1) AND r.purged_at IS NULL ORDER BY r.id"
        );
        let rows: Vec<LetterRow> = sqlx::query_as(AssertSqlSafe(sql))
            .bind(limits.records_max.max(1) as i64)
            .bind(limits.bytes_max as i64)
            .fetch_all(&self.pool)
            .await?;
        Ok(rows.into_iter().map(LetterRow::read).collect())
    }

    /// How many wait for the relay.
    pub async fn unpublished_count(&self) -> Result<i64, StoreError> {
        Ok(sqlx::query_scalar(
            "SELECT count(*) FROM spawn.rejection r WHERE NOT r.published AND r.purged_at IS NULL AND r.unpublishable IS NULL",
        )
        .fetch_one(&self.pool)
        .await?)
    }

    /// Says that these have arrived in their topic. One that was replayed meanwhile is not there any more.
    pub async fn published(&self, numbers: &[i64]) -> Result<(), StoreError> {
        sqlx::query("UPDATE spawn.rejection SET published = true WHERE id = ANY ($1)")
            .bind(numbers)
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// Says why one can never be published, so that it does not hold up the others.
    pub async fn unpublishable(&self, number: i64, why: &str) -> Result<(), StoreError> {
        sqlx::query("UPDATE spawn.rejection SET unpublishable = $2 WHERE id = $1")
            .bind(number)
            .bind(why)
            .execute(&self.pool)
            .await?;
        Ok(())
    }
}
