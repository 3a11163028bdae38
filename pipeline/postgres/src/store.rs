//! The reading side, for the API and the command line.

use crate::errors::StoreError;
use crate::{connect, telemetry};
use serde::Serialize;
use spawn_core::{Fault, Modality};
use sqlx::PgPool;
use std::collections::BTreeMap;

/// Answers questions about what was written.
#[derive(Clone, Debug)]
pub struct Store {
    pub(crate) pool: PgPool,
    /// For work that needs a connection with other limits.
    pub(crate) url: String,
}

/// What runs the database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Versions {
    /// The server, for example `18.4`.
    pub postgres: String,
    /// The extension, for example `0.8.5`.
    pub pgvector: String,
}

/// What one model made with one preparation and number type.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Generation {
    /// Its number.
    pub id: i32,
    /// Where its results may be found together with others'.
    pub collection: String,
    /// What it is of.
    pub modality: Modality,
    /// `name@version`.
    pub model: String,
    /// The stage's specification.
    pub preparation: String,
    /// Number type of the computation.
    pub dtype: String,
    /// Elements of a vector.
    pub dimension: i32,
    /// Whether results and searches follow it.
    pub active: bool,
    /// `filling`, `sealed` or `retired`.
    pub state: String,
    /// Whether it has sealed segments of vectors, each with a valid index.
    pub indexed: bool,
}

/// Records by outcome of one pipeline's topic.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, sqlx::FromRow)]
pub struct OutcomeCounts {
    /// The pipeline.
    pub pipeline: String,
    /// Its topic.
    pub topic: String,
    /// Written.
    pub results: i64,
    /// Dead letters.
    pub rejected: i64,
    /// Nothing to do.
    pub skipped: i64,
    /// To be tried again.
    pub deferred: i64,
}

impl Store {
    /// Connects with at most `connections_max` connections.
    pub async fn connect(url: &str, connections_max: u32) -> Result<Self, Fault> {
        let pool = connect::readers(url, connections_max).await?;
        telemetry::pool(&pool);
        Ok(Self { pool, url: url.to_owned() })
    }

    /// Whether the database answers.
    pub async fn ping(&self) -> Result<(), StoreError> {
        sqlx::query("SELECT 1").execute(&self.pool).await?;
        telemetry::pool(&self.pool);
        Ok(())
    }

    /// What runs the database.
    pub async fn versions(&self) -> Result<Versions, StoreError> {
        let (postgres, pgvector): (String, String) = sqlx::query_as(
            "SELECT split_part(current_setting('server_version'), ' ', 1),
                    coalesce((SELECT extversion FROM pg_extension WHERE extname = 'vector'), 'none')",
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(Versions { postgres, pgvector })
    }

    /// All generations, oldest first.
    pub async fn generations(&self) -> Result<Vec<Generation>, StoreError> {
        let rows: Vec<GenerationRow> = sqlx::query_as(
            "SELECT g.id, c.name AS collection, g.modality, g.model, g.preparation, g.dtype, g.dimension, g.active, g.state,
                    coalesce((SELECT bool_and(coalesce(i.indisvalid, false))
                                FROM generate_series(0, g.segment - 1) AS s(number)
                                LEFT JOIN pg_index i ON i.indexrelid = to_regclass(format('spawn.embedding_%s_s%s_hnsw', g.id, s.number))
                               WHERE to_regclass(format('spawn.embedding_%s_s%s', g.id, s.number)) IS NOT NULL), false) AS indexed
               FROM spawn.generation g JOIN spawn.collection c ON c.id = g.collection ORDER BY g.id",
        )
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter().map(GenerationRow::read).collect()
    }

    /// One generation.
    pub async fn generation(&self, id: i32) -> Result<Generation, StoreError> {
        let all = self.generations().await?;
        all.into_iter().find(|g| g.id == id).ok_or(StoreError::UnknownGeneration(id))
    }

    /// The generation that searches of this modality follow; of several collections the oldest.
    pub async fn active(&self, modality: Modality) -> Result<Generation, StoreError> {
        let all = self.generations().await?;
        all.into_iter().find(|g| g.active && g.modality == modality).ok_or(StoreError::NoGeneration(modality))
    }

    /// Lets results and searches of its collection and modality follow this generation, in one transaction. The way back is the same
    /// call with the other one.
    pub async fn activate(&self, generation: i32) -> Result<(), StoreError> {
        let found: bool =
            sqlx::query_scalar("SELECT spawn.activate($1)").bind(generation).fetch_one(&self.pool).await?;
        found.then_some(()).ok_or(StoreError::UnknownGeneration(generation))
    }

    /// Records by outcome, of one pipeline or all.
    pub async fn counts_by_outcome(&self, pipeline: Option<&str>) -> Result<Vec<OutcomeCounts>, StoreError> {
        Ok(sqlx::query_as(
            "SELECT s.pipeline, s.topic, coalesce(sum(t.results), 0)::bigint AS results,
                    coalesce(sum(t.rejected), 0)::bigint AS rejected, coalesce(sum(t.skipped), 0)::bigint AS skipped,
                    coalesce(sum(t.deferred), 0)::bigint AS deferred
               FROM spawn.source s LEFT JOIN spawn.span t ON t.source = s.id
              WHERE $1::text IS NULL OR s.pipeline = $1
              GROUP BY s.id ORDER BY s.pipeline, s.topic",
        )
        .bind(pipeline)
        .fetch_all(&self.pool)
        .await?)
    }

    /// Next offset to read of every partition that the pipeline has claimed of its topic.
    pub async fn positions(&self, pipeline: &str, topic: &str) -> Result<BTreeMap<i32, i64>, StoreError> {
        let rows: Vec<(i32, i64)> = sqlx::query_as(
            "SELECT c.partition, c.next_offset FROM spawn.checkpoint c JOIN spawn.source s ON s.id = c.source
              WHERE s.pipeline = $1 AND s.topic = $2 AND s.retired_at IS NULL",
        )
        .bind(pipeline)
        .bind(topic)
        .fetch_all(&self.pool)
        .await?;
        Ok(rows.into_iter().collect())
    }

    /// Dead letters by code, of the records of these topics.
    pub async fn rejection_codes(&self, topics: &[String]) -> Result<BTreeMap<String, i64>, StoreError> {
        let rows: Vec<(String, i64)> = sqlx::query_as(
            "SELECT r.code, count(*) FROM spawn.rejection r JOIN spawn.source s ON s.id = r.source
              WHERE s.topic = ANY ($1) GROUP BY r.code",
        )
        .bind(topics)
        .fetch_all(&self.pool)
        .await?;
        Ok(rows.into_iter().collect())
    }
}

#[derive(sqlx::FromRow)]
struct GenerationRow {
    id: i32,
    collection: String,
    modality: String,
    model: String,
    preparation: String,
    dtype: String,
    dimension: i32,
    active: bool,
    state: String,
    indexed: bool,
}

impl GenerationRow {
    fn read(self) -> Result<Generation, StoreError> {
        Ok(Generation {
            id: self.id,
            collection: self.collection,
            modality: modality(&self.modality)?,
            model: self.model,
            preparation: self.preparation,
            dtype: self.dtype,
            dimension: self.dimension,
            active: self.active,
            state: self.state,
            indexed: self.indexed,
        })
    }
}

/// The table's check keeps other words out.
pub(crate) fn modality(word: &str) -> Result<Modality, StoreError> {
    word.parse()
        .map_err(|e: String| StoreError::Fault(Fault::new(spawn_core::FaultClass::Operator, "postgres", e)))
}
