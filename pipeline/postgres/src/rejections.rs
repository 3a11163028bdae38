//! Dead letters: listed without their payload, shown with it.

use crate::errors::StoreError;
use crate::results::{OriginRow, read_cursor, write_cursor};
use crate::store::Store;
use serde::Serialize;
use sqlx::AssertSqlSafe;

const PAGE_MAX: i64 = 1000;

/// A dead letter without its payload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RejectionRow {
    /// The pipeline that refused it.
    pub pipeline: String,
    /// Where the record lies.
    pub origin: OriginRow,
    /// Public id of the item it asked for.
    pub id: String,
    /// Stable, machine-readable.
    pub code: String,
    /// The step that refused it.
    pub stage: String,
    /// For a person.
    pub detail: String,
    /// Bytes of the original value.
    pub value_bytes: i64,
    /// UTC, RFC 3339.
    pub first_failed_at: String,
    /// Whether it went to the dead-letter topic.
    pub published: bool,
    /// Whether the original bytes are gone: their retention has passed.
    pub purged: bool,
    /// Whether its key was deleted later: replayed in place it would be skipped.
    pub superseded: bool,
    /// How often it was tried.
    pub deliveries: i32,
}

/// Some dead letters, and how to get more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RejectionPage {
    /// Newest first.
    pub rejections: Vec<RejectionRow>,
    /// For the next page.
    pub next: Option<String>,
}

/// The original record, byte for byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// The Kafka key.
    pub key: Option<Vec<u8>>,
    /// The Kafka value.
    pub value: Option<Vec<u8>>,
    /// The Kafka headers in order.
    pub headers: Vec<(String, Vec<u8>)>,
    /// Milliseconds since 1970-01-01 UTC.
    pub timestamp_ms: i64,
}

#[derive(sqlx::FromRow)]
pub(crate) struct Row {
    pub(crate) number: i64,
    pipeline: String,
    topic: String,
    partition: i32,
    offset: i64,
    id: String,
    code: String,
    stage: String,
    detail: String,
    value_bytes: i64,
    first_failed_at: String,
    published: bool,
    purged: bool,
    superseded: bool,
    deliveries: i32,
}

/// What [`Row`] is read from: `FROM spawn.rejection r JOIN spawn.source s`.
pub(crate) const COLUMNS: &str = "r.id AS number, s.pipeline, s.topic, r.partition, r.\"offset\",
    encode(substr(r.id_hash, 1, 16), 'hex') AS id, r.code, r.stage, r.detail, coalesce(length(r.value), 0)::bigint AS value_bytes,
    r.published, r.purged_at IS NOT NULL AS purged, r.superseded_at IS NOT NULL AS superseded, r.deliveries,
    to_char(r.first_failed_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') AS first_failed_at";

impl Store {
    /// A page of at most `limit` (1 to 1,000) dead letters, newest first, of one code or all.
    pub async fn rejections(
        &self,
        code: Option<&str>,
        cursor: Option<&str>,
        limit: i64,
    ) -> Result<RejectionPage, StoreError> {
        let before = cursor.map(read_cursor).transpose()?.unwrap_or(i64::MAX);
        let limit = limit.clamp(1, PAGE_MAX);
        let sql = format!(
            "SELECT {COLUMNS} FROM spawn.rejection r JOIN spawn.source s ON s.id = r.source
              WHERE r.id < $1 AND ($2::text IS NULL OR r.code = $2) ORDER BY r.id DESC LIMIT $3"
        );
        let mut rows: Vec<Row> = sqlx::query_as(AssertSqlSafe(sql))
            .bind(before)
            .bind(code)
            .bind(limit + 1)
            .fetch_all(&self.pool)
            .await?;
        let more = rows.len() as i64 > limit;
        rows.truncate(limit as usize);
        let next = if more { rows.last().map(|row| write_cursor(row.number)) } else { None };
        Ok(RejectionPage { rejections: rows.into_iter().map(Row::read).collect(), next })
    }

    /// The original record of a dead letter; none where there is none or its payload was purged.
    pub async fn dead_letter(
        &self,
        pipeline: &str,
        origin: &OriginRow,
    ) -> Result<Option<DeadLetter>, StoreError> {
        type Letter = (Option<Vec<u8>>, Option<Vec<u8>>, Vec<String>, Vec<Vec<u8>>, i64);
        let row: Option<Letter> = sqlx::query_as(
            "SELECT r.key, r.value, r.header_names, r.header_values, r.timestamp_ms
               FROM spawn.rejection r JOIN spawn.source s ON s.id = r.source
              WHERE s.pipeline = $1 AND s.topic = $2 AND r.partition = $3 AND r.\"offset\" = $4 AND r.purged_at IS NULL",
        )
        .bind(pipeline)
        .bind(&origin.topic)
        .bind(origin.partition)
        .bind(origin.offset)
        .fetch_optional(&self.pool)
        .await?;
        Ok(row.map(|(key, value, names, values, timestamp_ms)| DeadLetter {
            key,
            value,
            headers: names.into_iter().zip(values).collect(),
            timestamp_ms,
        }))
    }
}

impl Row {
    pub(crate) fn read(self) -> RejectionRow {
        RejectionRow {
            pipeline: self.pipeline,
            origin: OriginRow { topic: self.topic, partition: self.partition, offset: self.offset },
            id: self.id,
            code: self.code,
            stage: self.stage,
            detail: self.detail,
            value_bytes: self.value_bytes,
            first_failed_at: self.first_failed_at,
            published: self.published,
            purged: self.purged,
            superseded: self.superseded,
            deliveries: self.deliveries,
        }
    }
}
