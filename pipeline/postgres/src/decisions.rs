//! What an operator decides when records are gone that no worker can bring back. Each decision is one transaction, and the audit lists
//! it as a gap.

use crate::errors::StoreError;
use crate::store::Store;
use serde::Serialize;

/// What was left of a partition and is written off: `[from, to)` of positions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WrittenOff {
    /// The partition.
    pub partition: i32,
    /// First position.
    pub from: i64,
    /// Next position after it; `None` when nobody can say how far the old topic went.
    pub to: Option<i64>,
}

/// A reading that ended, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Adopted {
    /// The id that the topic had, where it was known.
    pub topic_id_before: Option<String>,
    /// Its rest.
    pub written_off: Vec<WrittenOff>,
}

/// Which reading a decision is about.
#[derive(Clone, Copy, Debug)]
pub struct Reading<'a> {
    /// The pipeline.
    pub pipeline: &'a str,
    /// Its topic.
    pub topic: &'a str,
    /// The id that the topic has now, where the brokers tell it.
    pub topic_id: Option<&'a str>,
}

impl Store {
    /// Writes off what lies between the checkpoint and `low`, the first offset that the topic still has. A dry run undoes it.
    pub async fn accept_gap(
        &self,
        reading: Reading<'_>,
        (partition, low): (i32, i64),
        dry_run: bool,
    ) -> Result<WrittenOff, StoreError> {
        let mut transaction = self.pool.begin().await?;
        let (from, to): (i64, i64) =
            sqlx::query_as("SELECT o_from, o_to FROM spawn.accept_gap($1, $2, $3, $4, $5)")
                .bind(reading.pipeline)
                .bind(reading.topic)
                .bind(reading.topic_id)
                .bind(partition)
                .bind(low)
                .fetch_one(&mut *transaction)
                .await?;
        match dry_run {
            true => transaction.rollback().await?,
            false => transaction.commit().await?,
        }
        Ok(WrittenOff { partition, from, to: Some(to) })
    }

    /// Ends the reading of a topic, and begins that of the one which has its name now. `ends` are its partitions with the next offset
    /// to be written: a reading that has the same id and lies within them goes on by itself, and is refused. A dry run undoes it.
    pub async fn adopt_topic(
        &self,
        reading: Reading<'_>,
        ends: &[(i32, i64)],
        dry_run: bool,
    ) -> Result<Adopted, StoreError> {
        type Row = (Option<String>, Option<Vec<i32>>, Option<Vec<i64>>);
        let mut transaction = self.pool.begin().await?;
        let (topic_id_before, partitions, from): Row = sqlx::query_as(
            "SELECT o_topic_id, o_partition, o_from FROM spawn.adopt_topic($1, $2, $3, $4, $5)",
        )
        .bind(reading.pipeline)
        .bind(reading.topic)
        .bind(reading.topic_id)
        .bind(ends.iter().map(|(partition, _)| *partition).collect::<Vec<_>>())
        .bind(ends.iter().map(|(_, end)| *end).collect::<Vec<_>>())
        .fetch_one(&mut *transaction)
        .await?;
        // The new reading begins at the start of each partition, whatever a first reading would.
        sqlx::query("UPDATE spawn.source SET partitions = 0 WHERE pipeline = $1 AND topic = $2 AND retired_at IS NULL")
            .bind(reading.pipeline)
            .bind(reading.topic)
            .execute(&mut *transaction)
            .await?;
        match dry_run {
            true => transaction.rollback().await?,
            false => transaction.commit().await?,
        }
        let partitions = partitions.unwrap_or_default().into_iter().zip(from.unwrap_or_default());
        let written_off =
            partitions.map(|(partition, from)| WrittenOff { partition, from, to: None }).collect();
        Ok(Adopted { topic_id_before, written_off })
    }
}
