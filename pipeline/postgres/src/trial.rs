//! Taking back what a trial wrote, so that it leaves nothing that a search could follow.

use crate::errors::StoreError;
use crate::store::Store;
use sqlx::AssertSqlSafe;

impl Store {
    /// Takes back all that a trial has written: the collection of its own that it filled, with everything that led there.
    pub async fn forget_trial(&self, collection: &str) -> Result<(), StoreError> {
        let mut transaction = self.pool.begin().await?;
        let generations: Vec<i32> = sqlx::query_scalar(
            "SELECT g.id FROM spawn.generation g JOIN spawn.collection c ON c.id = g.collection WHERE c.name = $1",
        )
        .bind(collection)
        .fetch_all(&mut *transaction)
        .await?;
        for table in ["record", "span", "checkpoint", "rejection", "redrive"] {
            let sql = format!(
                "DELETE FROM spawn.{table} WHERE source IN (SELECT id FROM spawn.source WHERE generation = ANY ($1))"
            );
            sqlx::query(AssertSqlSafe(sql)).bind(&generations).execute(&mut *transaction).await?;
        }
        for table in ["result", "dedupe", "source"] {
            let sql = format!("DELETE FROM spawn.{table} WHERE generation = ANY ($1)");
            sqlx::query(AssertSqlSafe(sql)).bind(&generations).execute(&mut *transaction).await?;
        }
        for generation in &generations {
            let sql = format!("DROP TABLE spawn.embedding_{generation} CASCADE");
            sqlx::query(AssertSqlSafe(sql)).execute(&mut *transaction).await?;
        }
        sqlx::query("DELETE FROM spawn.generation WHERE id = ANY ($1)")
            .bind(&generations)
            .execute(&mut *transaction)
            .await?;
        sqlx::query("DELETE FROM spawn.collection WHERE name = $1")
            .bind(collection)
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok(())
    }
}
