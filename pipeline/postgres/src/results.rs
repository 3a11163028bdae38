//! Results by id and in pages.
//!
//! Pages go from the newest to the oldest by a rising number that never changes, so what was there when the first page was read comes
//! exactly once, whatever is written meanwhile. The cursor holds that number; nothing is skipped by counting.

use crate::errors::StoreError;
use crate::store::{Store, modality};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use spawn_core::Modality;
use sqlx::types::Json;

/// Most results of one page.
const PAGE_MAX: i64 = 1000;

/// Which results are wanted. Nothing set: those of all active generations.
#[derive(Clone, Debug, Default)]
pub struct ResultFilter {
    /// Of one kind.
    pub modality: Option<Modality>,
    /// Of one collection.
    pub collection: Option<String>,
    /// Of this generation, active or not.
    pub generation: Option<i32>,
    /// That have this label.
    pub label: Option<String>,
    /// Whose metadata contains this JSON.
    pub metadata: Option<Value>,
}

/// A label with its probability.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LabelRow {
    /// Its name.
    pub name: String,
    /// 0 to 1.
    pub score: f32,
}

/// Where the record lay in Kafka.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OriginRow {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The offset.
    pub offset: i64,
}

/// One result with what made it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ResultRow {
    /// 32 hexadecimal digits, from the event's source and id.
    pub id: String,
    /// The producer's own id.
    pub event_id: Option<String>,
    /// The producer.
    pub source: String,
    /// Where the media lies.
    pub source_uri: Option<String>,
    /// Its kind.
    pub modality: Modality,
    /// Where it may be found.
    pub collection: String,
    /// Best first.
    pub labels: Vec<LabelRow>,
    /// What the producer sent along.
    pub metadata: Value,
    /// What the stage learnt about the media.
    pub facts: Value,
    /// BLAKE3 of the media, hexadecimal.
    pub content_hash: String,
    /// Which generation it is of.
    pub generation: i32,
    /// `name@version`.
    pub model: String,
    /// The stage's specification.
    pub preparation: String,
    /// Number type of the computation.
    pub dtype: String,
    /// Where the record lay.
    pub origin: OriginRow,
    /// When it was written, UTC, RFC 3339.
    pub created_at: String,
}

/// Some results, and how to get more.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ResultPage {
    /// Newest first.
    pub results: Vec<ResultRow>,
    /// For the next page; none when there is none.
    pub next: Option<String>,
}

const COLUMNS: &str = "r.item, encode(substr(r.id_hash, 1, 16), 'hex') AS id, r.event_id, r.event_source, r.source_uri, g.modality,
    c.name AS collection, r.labels, r.metadata, r.facts, encode(r.content_hash, 'hex') AS content_hash, r.generation, g.model,
    g.preparation, g.dtype, s.topic, r.partition, r.\"offset\",
    to_char(r.created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') AS created_at";

const JOINS: &str =
    "JOIN spawn.generation g ON g.id = r.generation JOIN spawn.collection c ON c.id = g.collection
    JOIN spawn.source s ON s.id = r.source";

#[derive(sqlx::FromRow)]
struct Row {
    item: i64,
    id: String,
    event_id: Option<String>,
    event_source: String,
    source_uri: Option<String>,
    modality: String,
    collection: String,
    labels: Json<Vec<LabelRow>>,
    metadata: Value,
    facts: Value,
    content_hash: String,
    generation: i32,
    model: String,
    preparation: String,
    dtype: String,
    topic: String,
    partition: i32,
    offset: i64,
    created_at: String,
}

impl Store {
    /// The result of this id in an active generation.
    pub async fn result(&self, id: &str) -> Result<Option<ResultRow>, StoreError> {
        self.result_of(id, None).await
    }

    /// The result of this id in this generation, or in an active one.
    pub async fn result_of(
        &self,
        id: &str,
        generation: Option<i32>,
    ) -> Result<Option<ResultRow>, StoreError> {
        let (low, high) = hash_range(id)?;
        let sql = format!(
            "SELECT {COLUMNS} FROM spawn.dedupe d
               JOIN spawn.result r ON r.generation = d.generation AND r.item = d.item {JOINS}
              WHERE d.generation = ANY (ARRAY (SELECT id FROM spawn.generation WHERE id = $3 OR ($3 IS NULL AND active)))
                AND d.id_hash BETWEEN $1 AND $2
              ORDER BY r.item DESC LIMIT 1"
        );
        let row: Option<Row> = sqlx::query_as(sqlx::AssertSqlSafe(sql))
            .bind(&low[..])
            .bind(&high[..])
            .bind(generation)
            .fetch_optional(&self.pool)
            .await?;
        row.map(Row::read).transpose()
    }

    /// A page of at most `limit` (1 to 1,000) results, newest first. `cursor` is the `next` of the page before.
    pub async fn results(
        &self,
        filter: &ResultFilter,
        cursor: Option<&str>,
        limit: i64,
    ) -> Result<ResultPage, StoreError> {
        let before = cursor.map(read_cursor).transpose()?.unwrap_or(i64::MAX);
        let limit = limit.clamp(1, PAGE_MAX);
        // Each generation gives its newest; the primary key (generation, item) keeps them in order.
        let sql = format!(
            "SELECT {COLUMNS} FROM spawn.generation w
               JOIN spawn.collection n ON n.id = w.collection
              CROSS JOIN LATERAL (
                    SELECT * FROM spawn.result x
                     WHERE x.generation = w.id AND x.item < $1 AND ($2::jsonb IS NULL OR x.labels @> $2)
                       AND ($3::jsonb IS NULL OR x.metadata @> $3)
                     ORDER BY x.item DESC LIMIT $4) r {JOINS}
              WHERE CASE WHEN $5::int IS NULL THEN w.active ELSE w.id = $5 END
                AND ($6::text IS NULL OR w.modality = $6) AND ($7::text IS NULL OR n.name = $7)
              ORDER BY r.item DESC LIMIT $4"
        );
        let rows: Vec<Row> = sqlx::query_as(sqlx::AssertSqlSafe(sql))
            .bind(before)
            .bind(filter.label.as_deref().map(label_pattern))
            .bind(&filter.metadata)
            // One more tells whether there is a next page.
            .bind(limit + 1)
            .bind(filter.generation)
            .bind(filter.modality.map(Modality::as_str))
            .bind(&filter.collection)
            .fetch_all(&self.pool)
            .await?;
        let more = rows.len() as i64 > limit;
        let kept = rows.len().min(limit as usize);
        let next = if more { rows.get(kept - 1).map(|last| write_cursor(last.item)) } else { None };
        let results = rows.into_iter().take(kept).map(Row::read).collect::<Result<_, _>>()?;
        crate::telemetry::pool(&self.pool);
        Ok(ResultPage { results, next })
    }
}

impl Row {
    fn read(self) -> Result<ResultRow, StoreError> {
        Ok(ResultRow {
            id: self.id,
            event_id: self.event_id,
            source: self.event_source,
            source_uri: self.source_uri,
            modality: modality(&self.modality)?,
            collection: self.collection,
            labels: self.labels.0,
            metadata: self.metadata,
            facts: self.facts,
            content_hash: self.content_hash,
            generation: self.generation,
            model: self.model,
            preparation: self.preparation,
            dtype: self.dtype,
            origin: OriginRow { topic: self.topic, partition: self.partition, offset: self.offset },
            created_at: self.created_at,
        })
    }
}

/// For `labels @>`.
pub(crate) fn label_pattern(name: &str) -> Value {
    serde_json::json!([{"name": name}])
}

/// All item hashes that begin with a public id.
pub(crate) fn hash_range(id: &str) -> Result<([u8; 32], [u8; 32]), StoreError> {
    let wrong = || StoreError::Id(id.chars().take(64).collect());
    if id.len() != 32 {
        return Err(wrong());
    }
    let (mut low, mut high) = ([0; 32], [0xff; 32]);
    for (i, digits) in id.as_bytes().chunks(2).enumerate() {
        let digits = std::str::from_utf8(digits).map_err(|_| wrong())?;
        if !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        low[i] = u8::from_str_radix(digits, 16).map_err(|_| wrong())?;
        high[i] = low[i];
    }
    Ok((low, high))
}

/// A cursor begins with its version and ends with a check digit pair, so that garbage is told from a place.
pub(crate) fn write_cursor(place: i64) -> String {
    format!("1{place:016x}{:02x}", check_digits(place))
}

/// The place of a cursor.
pub(crate) fn read_cursor(cursor: &str) -> Result<i64, StoreError> {
    let digits = cursor
        .strip_prefix('1')
        .filter(|rest| rest.len() == 18 && rest.is_ascii())
        .ok_or(StoreError::Cursor)?;
    let place = i64::from_str_radix(&digits[..16], 16).map_err(|_| StoreError::Cursor)?;
    let check = u8::from_str_radix(&digits[16..], 16).map_err(|_| StoreError::Cursor)?;
    if check == check_digits(place) { Ok(place) } else { Err(StoreError::Cursor) }
}

fn check_digits(place: i64) -> u8 {
    place.to_le_bytes().iter().fold(0x5a, |sum: u8, byte| sum.rotate_left(3) ^ byte)
}
