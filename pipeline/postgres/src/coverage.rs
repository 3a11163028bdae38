//! The ledger against what Kafka still has. The offsets come in portions; the database compares them, so that neither side holds more than
//! one portion.
//!
//! A record in Kafka that the ledger does not know is missing. A ledger row whose record Kafka no longer has is no fault: retention or
//! compaction took the record, the row is there to tell of it.

use crate::errors::StoreError;
use crate::store::Store;
use serde::Serialize;

/// Missing records that are named; the first ones say enough.
const NAMED_MAX: i64 = 1000;

/// What the comparison of one partition has found so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Coverage {
    /// Records that Kafka has in the range.
    pub read: i64,
    /// Of which without a ledger row.
    pub missing: i64,
    /// Where those lie: intervals `[from, to)`, the first thousand.
    #[serde(skip)]
    pub missing_at: Vec<[i64; 2]>,
    /// Ledger rows without a record in Kafka, by why.
    pub unread: Vec<Unread>,
}

/// Ledger rows whose records Kafka no longer has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Unread {
    /// First of them.
    pub from: i64,
    /// After the last of them.
    pub to: i64,
    /// How many there are in between.
    pub records: i64,
    /// `retention`: before the topic's first record; `compaction`: between records; `topic.truncated`: behind the topic's end.
    pub reason: String,
}

/// What Kafka has between two positions.
#[derive(Clone, Copy, Debug)]
pub struct Portion<'a> {
    /// First position.
    pub from: i64,
    /// Next position after it.
    pub to: i64,
    /// The offsets of its records, rising.
    pub offsets: &'a [i64],
    /// The first offset that the topic has.
    pub low: i64,
    /// The next offset that the topic will have.
    pub end: i64,
}

impl Store {
    /// Compares one portion of a partition with the ledger and adds what was found.
    pub async fn cover(
        &self,
        (source, partition): (i32, i32),
        portion: Portion<'_>,
        coverage: &mut Coverage,
    ) -> Result<(), StoreError> {
        coverage.read += portion.offsets.len() as i64;
        // What an operator has written off is told as a gap.
        let missing: Vec<i64> = sqlx::query_scalar(
            "SELECT k.\"offset\" FROM unnest($3::bigint[]) AS k(\"offset\")
              WHERE NOT EXISTS (SELECT 1 FROM spawn.record r
                                 WHERE r.source = $1 AND r.partition = $2 AND r.\"offset\" = k.\"offset\")
                AND NOT EXISTS (SELECT 1 FROM spawn.span t
                                 WHERE t.source = $1 AND t.partition = $2 AND t.kind = 'gap' AND t.from_position <= k.\"offset\"
                                   AND t.to_position > k.\"offset\")
              ORDER BY 1",
        )
        .bind(source)
        .bind(partition)
        .bind(portion.offsets)
        .fetch_all(&self.pool)
        .await?;
        missing.into_iter().for_each(|offset| coverage.miss(offset));
        let unread: Vec<(String, i64, i64, i64)> = sqlx::query_as(
            "SELECT CASE WHEN r.\"offset\" < $6 THEN 'retention' WHEN r.\"offset\" >= $7 THEN 'topic.truncated' ELSE 'compaction' END,
                    min(r.\"offset\"), max(r.\"offset\") + 1, count(*)
               FROM spawn.record r LEFT JOIN unnest($3::bigint[]) AS k(\"offset\") ON k.\"offset\" = r.\"offset\"
              WHERE r.source = $1 AND r.partition = $2 AND r.\"offset\" >= $4 AND r.\"offset\" < $5 AND k.\"offset\" IS NULL
              GROUP BY 1 ORDER BY 2",
        )
        .bind(source)
        .bind(partition)
        .bind(portion.offsets)
        .bind(portion.from)
        .bind(portion.to)
        .bind(portion.low)
        .bind(portion.end)
        .fetch_all(&self.pool)
        .await?;
        for (reason, from, to, records) in unread {
            match coverage.unread.iter_mut().find(|u| u.reason == reason) {
                Some(known) => (known.to, known.records) = (to, known.records + records),
                None => coverage.unread.push(Unread { from, to, records, reason }),
            }
        }
        Ok(())
    }
}

impl Coverage {
    fn miss(&mut self, offset: i64) {
        self.missing += 1;
        match self.missing_at.last_mut() {
            Some(last) if last[1] == offset => last[1] += 1,
            _ if self.missing <= NAMED_MAX => self.missing_at.push([offset, offset + 1]),
            _ => {}
        }
    }
}
