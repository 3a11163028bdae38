//! Workers that die at the same head of a partition, again and again.
//!
//! `checkpoint.deaths` counts claims since the last progress whose work did not end in peace: a claim adds one, a peaceful end takes it
//! back, and a write sets it to nothing.

use crate::errors::fault;
use crate::sink::PgSink;
use spawn_core::{Claimed, Fault};
use sqlx::types::Uuid;

/// So many workers may die at the same head before one of its records is suspected.
const DEATHS_MAX: i32 = 3;

/// The partitions at whose heads more workers than [`DEATHS_MAX`] have died.
pub(crate) async fn begun(sink: &PgSink, claimed: &[Claimed]) -> Result<Vec<i32>, Fault> {
    let counted = count(sink, claimed, 1).await?;
    // This claim is one of them, and it lives.
    Ok(counted
        .into_iter()
        .filter(|(_, deaths)| *deaths > DEATHS_MAX)
        .map(|(partition, _)| partition)
        .collect())
}

pub(crate) async fn ended(sink: &PgSink, claimed: &[Claimed]) -> Result<(), Fault> {
    count(sink, claimed, -1).await.map(drop)
}

/// Adds `more` where the claim is still the newest; answers the partitions with their counts.
async fn count(sink: &PgSink, claimed: &[Claimed], more: i32) -> Result<Vec<(i32, i32)>, Fault> {
    let partitions: Vec<i32> = claimed.iter().map(|c| c.partition).collect();
    let epochs: Vec<i64> = claimed.iter().map(|c| c.claim.epoch).collect();
    let tokens: Vec<Uuid> = claimed.iter().map(|c| Uuid::from_u128(c.claim.token)).collect();
    let asked = sink.claimer.ask(async |connection| {
        sqlx::query_as(
            // Locked in the order in which writes lock them.
            "WITH ours AS (
                SELECT c.partition FROM spawn.checkpoint c
                  JOIN unnest($2, $3, $4) AS w(partition, epoch, token) USING (partition)
                 WHERE c.source = $1 AND c.owner_epoch = w.epoch AND c.owner = w.token
                 ORDER BY c.partition FOR UPDATE OF c)
             UPDATE spawn.checkpoint c SET deaths = greatest(c.deaths + $5, 0)
               FROM ours WHERE c.source = $1 AND c.partition = ours.partition
             RETURNING c.partition, c.deaths",
        )
        .bind(sink.source)
        .bind(&partitions)
        .bind(&epochs)
        .bind(&tokens)
        .bind(more)
        .fetch_all(connection)
        .await
    });
    asked.await.map_err(|e| fault(&e))
}
