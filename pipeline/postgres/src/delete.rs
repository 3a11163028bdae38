//! What a key has left in the tables, deleted when an operator says so. A producer's own way is a tombstone: it keeps its place in the
//! order of its partition.

use crate::errors::{StoreError, sqlstate};
use crate::rows::key_hash;
use crate::store::Store;
use serde::Serialize;

/// Deadlocks with writers of other partitions end by themselves.
const SERIALISATION_RETRIES: u32 = 5;

/// What was deleted, or would be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, sqlx::FromRow)]
pub struct Deleted {
    /// Results, in all generations.
    pub results: i64,
    /// Their vectors.
    pub vectors: i64,
    /// Deferred records that will be skipped as superseded.
    pub deferred: i64,
    /// Dead letters that a replay will skip as superseded.
    pub rejected: i64,
}

impl Store {
    /// Deletes what the records of a Kafka key on a topic wrote, on one partition or all. A dry run undoes it. The ledger stays.
    pub async fn delete_key(
        &self,
        topic: &str,
        partition: Option<i32>,
        key: &[u8],
        dry_run: bool,
    ) -> Result<Deleted, StoreError> {
        let mut tries = 0;
        loop {
            let mut transaction = self.pool.begin().await?;
            let deleted = sqlx::query_as(
                "SELECT o_results AS results, o_vectors AS vectors, o_deferred AS deferred, o_rejected AS rejected
                   FROM spawn.delete_key($1, $2, $3)",
            )
            .bind(topic)
            .bind(partition)
            .bind(key_hash(key))
            .fetch_one(&mut *transaction)
            .await;
            match (deleted, dry_run) {
                (Err(error), _)
                    if tries < SERIALISATION_RETRIES && sqlstate(&error).as_deref() == Some("40P01") =>
                {
                    tries += 1;
                }
                (Err(error), _) => return Err(error.into()),
                (Ok(deleted), true) => {
                    transaction.rollback().await?;
                    return Ok(deleted);
                }
                (Ok(deleted), false) => {
                    transaction.commit().await?;
                    return Ok(deleted);
                }
            }
        }
    }

    /// Whether any pipeline ever read this topic.
    pub async fn knows_topic(&self, topic: &str) -> Result<bool, StoreError> {
        Ok(sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM spawn.source s WHERE s.topic = $1)")
            .bind(topic)
            .fetch_one(&self.pool)
            .await?)
    }
}
