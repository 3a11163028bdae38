//! Finding dead letters: counted by what they have in common, named one by one, or all that are wanted in bounded portions.

use crate::errors::StoreError;
use crate::rejections::{COLUMNS, DeadLetter, RejectionRow, Row};
use crate::results::hash_range;
use crate::store::Store;
use serde::Serialize;
use sqlx::AssertSqlSafe;
use std::str::FromStr;

/// Dead letters that one name may mean: an item may be refused again and again.
const NAMED_MAX: i64 = 1000;

/// What dead letters are counted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupBy {
    /// Why they were refused.
    Code,
    /// Who refused them.
    Pipeline,
    /// Where they lie.
    Topic,
}

/// Dead letters with something in common.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, sqlx::FromRow)]
pub struct LetterGroup {
    /// The code, pipeline or topic.
    pub name: String,
    /// How many.
    pub records: i64,
    /// Bytes of their original values.
    pub bytes: i64,
    /// Of which the original bytes are gone.
    pub purged: i64,
    /// First failure of the oldest, UTC, RFC 3339.
    pub oldest: String,
    /// First failure of the newest, UTC, RFC 3339.
    pub newest: String,
}

/// How an operator names a dead letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LetterName {
    /// The item's public id.
    Id(String),
    /// Where the record lies; several pipelines may have refused it.
    Origin {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// The offset.
        offset: i64,
    },
}

/// Which dead letters are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// All of a code.
    Code(String),
    /// These, by their numbers.
    Numbers(Vec<i64>),
}

/// How many of the wanted dead letters there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, sqlx::FromRow)]
pub struct LetterCounts {
    /// All.
    pub records: i64,
    /// Whose original bytes are gone.
    pub purged: i64,
    /// With bytes, but a tombstone or a deletion of their key came later.
    pub superseded: i64,
    /// With bytes, but of a reading that an operator has ended: they cannot be replayed in place.
    pub ended: i64,
}

/// A dead letter with its original bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter {
    /// Rises in the order of writing; never leaves the program.
    pub number: i64,
    /// Where it comes from.
    pub row: RejectionRow,
    /// The original record; empty once it was purged.
    pub record: DeadLetter,
}

#[derive(sqlx::FromRow)]
pub(crate) struct LetterRow {
    #[sqlx(flatten)]
    row: Row,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    header_names: Vec<String>,
    header_values: Vec<Vec<u8>>,
    timestamp_ms: i64,
}

impl LetterRow {
    /// Beside [`COLUMNS`].
    pub(crate) const BYTES: &str = "r.key, r.value, r.header_names, r.header_values, r.timestamp_ms";

    pub(crate) fn read(self) -> Letter {
        let record = DeadLetter {
            key: self.key,
            value: self.value,
            headers: self.header_names.into_iter().zip(self.header_values).collect(),
            timestamp_ms: self.timestamp_ms,
        };
        Letter { number: self.row.number, row: self.row.read(), record }
    }
}

impl FromStr for LetterName {
    type Err = StoreError;
    fn from_str(name: &str) -> Result<Self, StoreError> {
        let origin = || {
            let (place, offset) = name.rsplit_once('@')?;
            let (topic, partition) = place.rsplit_once('/')?;
            let (partition, offset) = (partition.parse().ok()?, offset.parse().ok()?);
            (!topic.is_empty()).then(|| Self::Origin { topic: topic.to_owned(), partition, offset })
        };
        match (hash_range(name), origin()) {
            (Ok(_), _) => Ok(Self::Id(name.to_owned())),
            (_, Some(origin)) => Ok(origin),
            _ => Err(StoreError::LetterName(name.chars().take(64).collect())),
        }
    }
}

impl Wanted {
    /// As two parameters, of which one is null.
    pub(crate) fn parameters(&self) -> (Option<&str>, Option<&[i64]>) {
        match self {
            Self::Code(code) => (Some(code), None),
            Self::Numbers(numbers) => (None, Some(numbers)),
        }
    }
}

impl Store {
    /// Dead letters counted, most first; of one code or all.
    pub async fn letter_groups(
        &self,
        by: GroupBy,
        code: Option<&str>,
    ) -> Result<Vec<LetterGroup>, StoreError> {
        let name = match by {
            GroupBy::Code => "r.code",
            GroupBy::Pipeline => "s.pipeline",
            GroupBy::Topic => "s.topic",
        };
        let sql = format!(
            "SELECT {name} AS name, count(*) AS records, coalesce(sum(length(r.value)), 0)::bigint AS bytes,
                    count(r.purged_at) AS purged,
                    to_char(min(r.first_failed_at) AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') AS oldest,
                    to_char(max(r.first_failed_at) AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') AS newest
               FROM spawn.rejection r JOIN spawn.source s ON s.id = r.source
              WHERE $1::text IS NULL OR r.code = $1 GROUP BY 1 ORDER BY records DESC, name"
        );
        Ok(sqlx::query_as(AssertSqlSafe(sql)).bind(code).fetch_all(&self.pool).await?)
    }

    /// The numbers of the dead letters that a name means, oldest first, at most 1,000.
    pub async fn letter_numbers(&self, name: &LetterName) -> Result<Vec<i64>, StoreError> {
        let numbers = match name {
            LetterName::Id(id) => {
                let (low, high) = hash_range(id)?;
                sqlx::query_scalar(
                    "SELECT r.id FROM spawn.rejection r WHERE r.id_hash BETWEEN $1 AND $2 ORDER BY r.id LIMIT $3",
                )
                .bind(low.to_vec())
                .bind(high.to_vec())
                .bind(NAMED_MAX)
                .fetch_all(&self.pool)
                .await?
            }
            LetterName::Origin { topic, partition, offset } => {
                sqlx::query_scalar(
                    "SELECT r.id FROM spawn.rejection r JOIN spawn.source s ON s.id = r.source
                      WHERE s.topic = $1 AND r.partition = $2 AND r.\"offset\" = $3 ORDER BY r.id LIMIT $4",
                )
                .bind(topic)
                .bind(partition)
                .bind(offset)
                .bind(NAMED_MAX)
                .fetch_all(&self.pool)
                .await?
            }
        };
        Ok(numbers)
    }

    /// How many are wanted, and how many of them cannot be brought back.
    pub async fn count_letters(&self, wanted: &Wanted) -> Result<LetterCounts, StoreError> {
        let (code, numbers) = wanted.parameters();
        Ok(sqlx::query_as(
            "SELECT count(*) AS records, count(r.purged_at) AS purged,
                    count(*) FILTER (WHERE r.superseded_at IS NOT NULL AND r.purged_at IS NULL) AS superseded,
                    count(*) FILTER (WHERE s.retired_at IS NOT NULL AND r.purged_at IS NULL) AS ended
               FROM spawn.rejection r JOIN spawn.source s ON s.id = r.source WHERE ($1::text IS NULL OR r.code = $1) AND ($2::bigint[] IS NULL OR r.id = ANY ($2))",
        )
        .bind(code)
        .bind(numbers)
        .fetch_one(&self.pool)
        .await?)
    }

    /// The dead letter of this number, with its bytes where they are there yet.
    pub async fn letter(&self, number: i64) -> Result<Option<Letter>, StoreError> {
        let bytes = LetterRow::BYTES;
        let sql = format!(
            "SELECT {COLUMNS}, {bytes} FROM spawn.rejection r JOIN spawn.source s ON s.id = r.source WHERE r.id = $1"
        );
        let row: Option<LetterRow> =
            sqlx::query_as(AssertSqlSafe(sql)).bind(number).fetch_optional(&self.pool).await?;
        Ok(row.map(LetterRow::read))
    }
}
