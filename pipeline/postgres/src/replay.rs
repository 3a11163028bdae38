//! Dead letters sent back into the line at their own offsets, and payloads whose time is over.

use crate::errors::{StoreError, sqlstate};
use crate::letters::Wanted;
use crate::rows::key_hash;
use crate::store::Store;
use sqlx::types::Uuid;
use std::time::Duration;

/// Payloads removed in one transaction.
const PURGE_RECORDS: i64 = 1000;
/// Deadlocks with writers of other partitions end by themselves.
const SERIALISATION_RETRIES: u32 = 5;

/// Which payloads are removed.
#[derive(Clone, Debug)]
pub struct Purge {
    /// First failed longer ago than this.
    pub older_than: Duration,
    /// Only of this code.
    pub code: Option<String>,
    /// Not those that still have to go to the dead-letter topic.
    pub keep_unpublished: bool,
}

impl Store {
    /// Numbers of the wanted dead letters that have their bytes yet, in rising order after `after`. In place, those of a reading that an
    /// operator has ended are left out: nobody would take them.
    pub async fn replayable(
        &self,
        wanted: &Wanted,
        in_place: bool,
        after: i64,
        records_max: i64,
    ) -> Result<Vec<i64>, StoreError> {
        let (code, numbers) = wanted.parameters();
        Ok(sqlx::query_scalar(
            "SELECT r.id FROM spawn.rejection r
              WHERE r.id > $1 AND r.purged_at IS NULL AND ($2::text IS NULL OR r.code = $2)
                AND ($3::bigint[] IS NULL OR r.id = ANY ($3))
                AND NOT ($5 AND EXISTS (SELECT 1 FROM spawn.source s WHERE s.id = r.source AND s.retired_at IS NOT NULL))
              ORDER BY r.id LIMIT $4",
        )
        .bind(after)
        .bind(code)
        .bind(numbers)
        .bind(records_max)
        .bind(in_place)
        .fetch_all(&self.pool)
        .await?)
    }

    /// Turns these dead letters into deferred records at the same offsets, due now, in one transaction. Answers how many were still there.
    pub async fn replay(&self, numbers: &[i64], give_up: Duration) -> Result<i64, StoreError> {
        let keys: Vec<(i64, Option<Vec<u8>>)> =
            sqlx::query_as("SELECT r.id, r.key FROM spawn.rejection r WHERE r.id = ANY ($1)")
                .bind(numbers)
                .fetch_all(&self.pool)
                .await?;
        let hashes: Vec<Option<Uuid>> = keys.iter().map(|(_, key)| key.as_deref().map(key_hash)).collect();
        let numbers: Vec<i64> = keys.iter().map(|(number, _)| *number).collect();
        let mut tries = 0;
        loop {
            let replayed = sqlx::query_scalar("SELECT spawn.replay($1, $2, $3)")
                .bind(&numbers)
                .bind(&hashes)
                .bind(give_up)
                .fetch_one(&self.pool)
                .await;
            match replayed {
                Err(error)
                    if tries < SERIALISATION_RETRIES && sqlstate(&error).as_deref() == Some("40P01") =>
                {
                    tries += 1;
                }
                other => return Ok(other?),
            }
        }
    }

    /// How many payloads [`Store::purge`] would remove.
    pub async fn purgeable(&self, purge: &Purge) -> Result<i64, StoreError> {
        Ok(sqlx::query_scalar(
            "SELECT count(*) FROM spawn.rejection r
              WHERE r.purged_at IS NULL AND r.first_failed_at < now() - $1 AND ($2::text IS NULL OR r.code = $2)
                AND NOT ($3 AND NOT r.published AND r.unpublishable IS NULL)",
        )
        .bind(purge.older_than)
        .bind(&purge.code)
        .bind(purge.keep_unpublished)
        .fetch_one(&self.pool)
        .await?)
    }

    /// Removes key, value and headers of old dead letters, a thousand per transaction; what was refused and why stays, as does the
    /// ledger. Answers how many.
    pub async fn purge(&self, purge: &Purge) -> Result<u64, StoreError> {
        let mut purged = 0;
        loop {
            let rows = sqlx::query(
                "UPDATE spawn.rejection SET purged_at = now(), key = NULL, value = NULL, header_names = '{}', header_values = '{}'
                  WHERE id = ANY (ARRAY (
                        SELECT r.id FROM spawn.rejection r
                         WHERE r.purged_at IS NULL AND r.first_failed_at < now() - $1 AND ($2::text IS NULL OR r.code = $2)
                           AND NOT ($3 AND NOT r.published AND r.unpublishable IS NULL)
                         ORDER BY r.first_failed_at LIMIT $4 FOR UPDATE SKIP LOCKED))",
            )
            .bind(purge.older_than)
            .bind(&purge.code)
            .bind(purge.keep_unpublished)
            .bind(PURGE_RECORDS)
            .execute(&self.pool)
            .await?
            .rows_affected();
            purged += rows;
            if rows < PURGE_RECORDS as u64 {
                return Ok(purged);
            }
        }
    }
}
