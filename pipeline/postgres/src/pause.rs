//! Pipelines that stand still: what workers read and write of it, and what operators do.

use crate::errors::{StoreError, fault};
use crate::sink::PgSink;
use crate::store::Store;
use serde::Serialize;
use spawn_core::{Fault, Orders, Pause};

/// A pipeline as an operator sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, sqlx::FromRow)]
pub struct PipelineRow {
    /// Its name.
    pub pipeline: String,
    /// The topic it reads.
    pub topic: String,
    /// Whether all its workers stand still.
    pub paused: bool,
    /// Why.
    pub paused_reason: Option<String>,
    /// Since when: UTC, RFC 3339.
    pub paused_at: Option<String>,
    /// Whether it goes on by itself once a probe finds that things are well again.
    pub resumes_by_itself: bool,
    /// Partitions that were claimed at some time.
    pub partitions: i64,
    /// Deferred records that wait for another try.
    pub deferred: i64,
}

pub(crate) async fn orders(sink: &PgSink) -> Result<Orders, Fault> {
    let asked = sink.warden.ask(async |connection| {
        sqlx::query_as(
            "SELECT paused, coalesce(paused_reason, ''), paused_probe, resumed_by_operator FROM spawn.source WHERE id = $1",
        )
        .bind(sink.source)
        .fetch_one(connection)
        .await
    });
    let (paused, reason, probe, by_operator): (bool, String, Option<i32>, bool) =
        asked.await.map_err(|e| fault(&e))?;
    Ok(if paused { Orders::Pause(Pause { reason, probe }) } else { Orders::GoOn { by_operator } })
}

pub(crate) async fn pause(sink: &PgSink, pause: &Pause) -> Result<(), Fault> {
    let asked = sink.warden.ask(async |connection| {
        sqlx::query(
            "UPDATE spawn.source SET paused = true, paused_reason = $2, paused_at = now(), paused_probe = $3
              WHERE id = $1 AND NOT paused",
        )
        .bind(sink.source)
        .bind(pause.reason.replace('\0', ""))
        .bind(pause.probe)
        .execute(connection)
        .await
    });
    asked.await.map(drop).map_err(|e| fault(&e))
}

pub(crate) async fn resume(sink: &PgSink) -> Result<(), Fault> {
    let asked = sink.warden.ask(async |connection| {
        // What an operator paused, an operator resumes.
        sqlx::query(
            "UPDATE spawn.source SET paused = false, paused_reason = NULL, paused_at = NULL, paused_probe = NULL,
                    resumed_by_operator = false
              WHERE id = $1 AND paused_probe IS NOT NULL",
        )
        .bind(sink.source)
        .execute(connection)
        .await
    });
    asked.await.map(drop).map_err(|e| fault(&e))
}

impl Store {
    /// All pipelines that ever ran, by name.
    pub async fn pipelines(&self) -> Result<Vec<PipelineRow>, StoreError> {
        Ok(sqlx::query_as(
            "SELECT s.pipeline, s.topic, s.paused, s.paused_reason,
                    to_char(s.paused_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"') AS paused_at,
                    s.paused_probe IS NOT NULL AS resumes_by_itself,
                    (SELECT count(*) FROM spawn.checkpoint c WHERE c.source = s.id) AS partitions,
                    (SELECT count(*) FROM spawn.redrive d WHERE d.source = s.id) AS deferred
               FROM spawn.source s WHERE s.retired_at IS NULL ORDER BY s.pipeline, s.topic",
        )
        .fetch_all(&self.pool)
        .await?)
    }

    /// Lets all workers of a pipeline stand still until somebody resumes it. `false` where there is no such pipeline.
    pub async fn pause_pipeline(&self, pipeline: &str, reason: &str) -> Result<bool, StoreError> {
        let done = sqlx::query(
            "UPDATE spawn.source SET paused = true, paused_reason = $2, paused_at = now(), paused_probe = NULL
              WHERE pipeline = $1 AND retired_at IS NULL",
        )
        .bind(pipeline)
        .bind(reason.replace('\0', ""))
        .execute(&self.pool)
        .await?;
        Ok(done.rows_affected() > 0)
    }

    /// Lets them go on, whatever paused them. `false` where there is no such pipeline.
    pub async fn resume_pipeline(&self, pipeline: &str) -> Result<bool, StoreError> {
        let done = sqlx::query(
            "UPDATE spawn.source SET paused = false, paused_reason = NULL, paused_at = NULL, paused_probe = NULL,
                    resumed_by_operator = true
              WHERE pipeline = $1 AND retired_at IS NULL",
        )
        .bind(pipeline)
        .execute(&self.pool)
        .await?;
        Ok(done.rows_affected() > 0)
    }
}
