//! Similarity search in one generation, grouped by item: of an item with several chunks the nearest one counts.

use crate::errors::StoreError;
use crate::results::{LabelRow, hash_range, label_pattern};
use crate::store::{Generation, Store};
use pgvector::HalfVector;
use serde::Serialize;
use serde_json::Value;
use spawn_core::Modality;
use sqlx::types::Json;
use sqlx::{AssertSqlSafe, PgConnection};

/// Most hits of one search.
const HITS_MAX: i64 = 1000;
/// Most vectors that one search reads from the index, while several chunks of one item crowd the others out.
const NEAR_MAX: i64 = 16_384;
/// pgvector's own limit.
const EF_SEARCH_MAX: i64 = 1000;
/// Recall at 10 passes 0.95 with it; the default of 40 does not on clustered vectors.
const EF_SEARCH_MIN: i64 = 120;

/// What is searched.
#[derive(Clone, Copy, Debug)]
pub struct SearchFilter {
    /// The active generation of this kind.
    pub modality: Modality,
    /// Compare with every vector instead of asking the index.
    pub exact: bool,
    /// Most hits, 1 to 1,000.
    pub limit: i64,
}

/// Narrows a search down.
#[derive(Clone, Debug, Default)]
pub struct Narrow {
    /// This generation instead of the active one.
    pub generation: Option<i32>,
    /// Items that have this label.
    pub label: Option<String>,
    /// Items whose metadata contains this JSON.
    pub metadata: Option<Value>,
}

/// A near item.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Hit {
    /// From 1.
    pub rank: usize,
    /// Public id.
    pub id: String,
    /// The nearest chunk; -1 is the pooled vector of the whole item.
    pub chunk: i32,
    /// -1 to 1.
    pub cosine: f64,
    /// Best first.
    pub labels: Vec<LabelRow>,
    /// Where the media lies.
    pub source_uri: Option<String>,
    /// What the producer sent along.
    pub metadata: Value,
}

/// What a search found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Found {
    /// The generation searched.
    pub generation: i32,
    /// Whether every vector was compared.
    pub exact: bool,
    /// Hits wanted.
    pub requested: i64,
    /// Hits found.
    pub returned: usize,
    /// Nearest first.
    pub hits: Vec<Hit>,
}

#[derive(sqlx::FromRow)]
struct Row {
    id: String,
    chunk: i32,
    distance: f64,
    labels: Json<Vec<LabelRow>>,
    source_uri: Option<String>,
    metadata: Value,
    scanned: i64,
}

impl Store {
    /// The items nearest to `vector` in the active generation.
    pub async fn search(&self, vector: &[f32], filter: &SearchFilter) -> Result<Found, StoreError> {
        self.search_narrow(vector, filter, &Narrow::default()).await
    }

    /// The items nearest to `vector` among those that `narrow` leaves.
    pub async fn search_narrow(
        &self,
        vector: &[f32],
        filter: &SearchFilter,
        narrow: &Narrow,
    ) -> Result<Found, StoreError> {
        let generation = self.searched(filter, narrow).await?;
        let query = query_vector(vector, &generation)?;
        let requested = filter.limit.clamp(1, HITS_MAX);
        let mut near = requested + requested / 2 + 8;
        let rows = loop {
            let rows = self.nearest(&query, &generation, filter.exact, narrow, near, requested).await?;
            let scanned = rows.first().map_or(0, |row| row.scanned);
            // Fewer items than wanted though the scan was full: chunks of few items took all places.
            if (rows.len() as i64) < requested && scanned == near && near < NEAR_MAX {
                near = (near * 4).min(NEAR_MAX);
            } else {
                break rows;
            }
        };
        crate::telemetry::pool(&self.pool);
        let hits: Vec<Hit> = rows.into_iter().enumerate().map(|(i, row)| row.hit(i + 1)).collect();
        Ok(Found { generation: generation.id, exact: filter.exact, requested, returned: hits.len(), hits })
    }

    /// How the database would run [`Store::search_narrow`]: the plan as text.
    pub async fn explain_search(
        &self,
        vector: &[f32],
        filter: &SearchFilter,
        narrow: &Narrow,
    ) -> Result<String, StoreError> {
        let generation = self.searched(filter, narrow).await?;
        let query = query_vector(vector, &generation)?;
        let limit = filter.limit.clamp(1, HITS_MAX);
        let near = limit + limit / 2 + 8;
        let sql =
            format!("EXPLAIN (COSTS OFF) {}", statement(&generation, filter.exact, narrow, near, limit));
        let mut transaction = self.pool.begin().await?;
        tune(&mut transaction, near).await?;
        let lines: Vec<String> = sqlx::query_scalar(AssertSqlSafe(sql))
            .bind(query)
            .bind(narrow.label.as_deref().map(label_pattern))
            .bind(&narrow.metadata)
            .persistent(false)
            .fetch_all(&mut *transaction)
            .await?;
        Ok(lines.join("\n"))
    }

    /// The vector of a whole item in an active generation: the pooled one, or that of its only chunk.
    pub async fn vector_of(&self, id: &str) -> Result<Option<Vec<f32>>, StoreError> {
        let (low, high) = hash_range(id)?;
        let found: Option<(i32, i64)> = sqlx::query_as(
            "SELECT d.generation, d.item FROM spawn.dedupe d
              WHERE d.generation = ANY (ARRAY (SELECT id FROM spawn.generation WHERE active)) AND d.id_hash BETWEEN $1 AND $2
              ORDER BY d.item DESC LIMIT 1",
        )
        .bind(&low[..])
        .bind(&high[..])
        .fetch_optional(&self.pool)
        .await?;
        let Some((generation, item)) = found else { return Ok(None) };
        let sql =
            format!("SELECT vector FROM spawn.embedding_{generation} WHERE item = $1 ORDER BY chunk LIMIT 1");
        let vector: Option<HalfVector> =
            sqlx::query_scalar(AssertSqlSafe(sql)).bind(item).fetch_optional(&self.pool).await?;
        Ok(vector.map(|v| wide(&v)))
    }

    /// How many of the latest items, at most 1,000, a search by their own vector finds first, and how many were asked. An item whose
    /// vector another one has too counts as found.
    pub async fn found_again(&self, modality: Modality) -> Result<(i64, i64), StoreError> {
        let generation = self.active(modality).await?.id;
        let mut transaction = self.pool.begin().await?;
        tune(&mut transaction, 1).await?;
        let sql = format!(
            "WITH asked AS MATERIALIZED (
                SELECT DISTINCT ON (item) item, vector FROM spawn.embedding_{generation} ORDER BY item DESC, chunk LIMIT 1000)
             SELECT count(*) FILTER (WHERE near.item = a.item OR near.vector = a.vector), count(*)
               FROM asked a CROSS JOIN LATERAL (
                    SELECT e.item, e.vector FROM spawn.embedding_{generation} e ORDER BY e.vector <=> a.vector LIMIT 1) near"
        );
        Ok(sqlx::query_as(AssertSqlSafe(sql)).fetch_one(&mut *transaction).await?)
    }

    /// All stored vectors of a result with their chunk numbers; -1 is the pooled one.
    pub async fn vectors_of(&self, id: &str, generation: i32) -> Result<Vec<(i32, Vec<f32>)>, StoreError> {
        let (low, high) = hash_range(id)?;
        let sql = format!(
            "SELECT e.chunk, e.vector FROM spawn.dedupe d JOIN spawn.embedding_{generation} e ON e.item = d.item
              WHERE d.generation = $1 AND d.id_hash BETWEEN $2 AND $3 ORDER BY e.item DESC, e.chunk"
        );
        let rows: Vec<(i32, HalfVector)> = sqlx::query_as(AssertSqlSafe(sql))
            .bind(generation)
            .bind(&low[..])
            .bind(&high[..])
            .fetch_all(&self.pool)
            .await?;
        Ok(rows.into_iter().map(|(chunk, vector)| (chunk, wide(&vector))).collect())
    }

    async fn searched(&self, filter: &SearchFilter, narrow: &Narrow) -> Result<Generation, StoreError> {
        match narrow.generation {
            Some(id) => self.generation(id).await,
            None => self.active(filter.modality).await,
        }
    }

    async fn nearest(
        &self,
        query: &HalfVector,
        generation: &Generation,
        exact: bool,
        narrow: &Narrow,
        near: i64,
        limit: i64,
    ) -> Result<Vec<Row>, StoreError> {
        let mut transaction = self.pool.begin().await?;
        tune(&mut transaction, near).await?;
        let rows = sqlx::query_as(AssertSqlSafe(statement(generation, exact, narrow, near, limit)))
            .bind(query)
            .bind(narrow.label.as_deref().map(label_pattern))
            .bind(&narrow.metadata)
            // A plan kept for any limit would not trust the index.
            .persistent(false)
            .fetch_all(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok(rows)
    }
}

/// The elements as they would be read back from the table: rounded to 16-bit floats.
pub fn as_stored(vector: &[f32]) -> Vec<f32> {
    wide(&HalfVector::from_f32_slice(vector))
}

fn wide(vector: &HalfVector) -> Vec<f32> {
    vector.as_slice().iter().map(|x| x.to_f32()).collect()
}

impl Row {
    fn hit(self, rank: usize) -> Hit {
        Hit {
            rank,
            id: self.id,
            chunk: self.chunk,
            cosine: 1.0 - self.distance,
            labels: self.labels.0,
            source_uri: self.source_uri,
            metadata: self.metadata,
        }
    }
}

/// For this transaction: how far the index looks around, and that it goes on when a filter leaves too few.
async fn tune(connection: &mut PgConnection, near: i64) -> Result<(), StoreError> {
    sqlx::query(
        "SELECT set_config('hnsw.ef_search', $1, true), set_config('hnsw.iterative_scan', 'relaxed_order', true)",
    )
    .bind(near.clamp(EF_SEARCH_MIN, EF_SEARCH_MAX).to_string())
    .execute(connection)
    .await?;
    Ok(())
}

fn statement(generation: &Generation, exact: bool, narrow: &Narrow, near: i64, limit: i64) -> String {
    let id = generation.id;
    // An expression around the distance keeps the index out.
    let order = if exact { "(e.vector <=> $1) + 0" } else { "e.vector <=> $1" };
    let filter = if narrow.label.is_none() && narrow.metadata.is_none() {
        // Mentions the parameters, which have to be somewhere; constants, so they cost nothing.
        "WHERE $2::jsonb IS NULL AND $3::jsonb IS NULL".to_owned()
    } else {
        format!(
            "JOIN spawn.result x ON x.generation = {id} AND x.item = e.item
             WHERE ($2::jsonb IS NULL OR x.labels @> $2) AND ($3::jsonb IS NULL OR x.metadata @> $3)"
        )
    };
    format!(
        "WITH near AS MATERIALIZED (
            SELECT e.item, e.chunk, e.vector <=> $1 AS distance FROM spawn.embedding_{id} e {filter} ORDER BY {order} LIMIT {near}
         ), best AS (
            SELECT DISTINCT ON (item) item, chunk, distance FROM near WHERE distance <> 'NaN' ORDER BY item, distance
         )
         SELECT encode(substr(r.id_hash, 1, 16), 'hex') AS id, b.chunk, b.distance, r.labels, r.source_uri, r.metadata,
                (SELECT count(*) FROM near) AS scanned
           FROM best b JOIN spawn.result r ON r.generation = {id} AND r.item = b.item
          ORDER BY b.distance, r.item LIMIT {limit}"
    )
}

fn query_vector(vector: &[f32], generation: &Generation) -> Result<HalfVector, StoreError> {
    if vector.len() != generation.dimension as usize {
        return Err(StoreError::Dimension {
            generation: generation.id,
            want: generation.dimension as usize,
            got: vector.len(),
        });
    }
    let half = HalfVector::from_f32_slice(vector);
    let finite = half.as_slice().iter().all(|x| x.is_finite());
    let directed = half.as_slice().iter().any(|x| x.to_f32() != 0.0);
    if finite && directed { Ok(half) } else { Err(StoreError::NoDirection) }
}
