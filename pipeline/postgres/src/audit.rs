//! Proof that every offset is accounted for, from one snapshot.
//!
//! Three things must hold: the spans of a partition tile `[first_offset, next_offset)`; each span's counts are those of its ledger rows;
//! and what the ledger calls deferred or rejected has its row in `redrive` or `rejection`, and nothing else has. The questions are asked
//! of whole tables, so that ten million rows take seconds; rows are only named where a sum is wrong.

use crate::errors::StoreError;
use crate::store::Store;
use serde::Serialize;
use sqlx::PgConnection;
use std::collections::HashMap;

/// Faults of one kind that are named per audit; the first ones say enough.
const NAMED_MAX: i64 = 1000;

/// What an audit found. Fields as `spawn audit --json` prints them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AuditReport {
    /// Nothing is wrong.
    pub ok: bool,
    /// When the snapshot was taken, UTC, RFC 3339.
    pub snapshot_at: String,
    /// Every partition that was ever claimed.
    pub partitions: Vec<PartitionAudit>,
}

/// One partition.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PartitionAudit {
    /// The pipeline.
    pub pipeline: String,
    /// Its topic.
    pub topic: String,
    /// The topic's id, where the broker told it.
    pub topic_id: Option<String>,
    /// An operator has ended this reading: the topic was made anew, and another one reads that.
    pub ended: bool,
    /// The partition.
    pub partition: i32,
    /// Where the first claim started.
    pub first_offset: i64,
    /// Next position to read.
    pub next_offset: i64,
    /// The broker's end, filled in by whoever can ask it.
    pub end_offset: Option<i64>,
    /// Transactions that settled it.
    pub spans: i64,
    /// Records that they settled.
    pub records: i64,
    /// Of which written.
    pub results: i64,
    /// Of which dead letters.
    pub rejected: i64,
    /// Of which nothing to do.
    pub skipped: i64,
    /// Of which to be tried again.
    pub deferred: i64,
    /// Intervals in which something should be and is not.
    pub missing: Vec<Difference>,
    /// Intervals in which something is twice, or should not be.
    pub doubled: Vec<Difference>,
    /// Intervals `[from, to)` that no span covers.
    pub holes: Vec<[i64; 2]>,
    /// Intervals that an operator has written off.
    pub gaps: Vec<Gap>,
}

/// An interval of positions in which two counts differ.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// First position.
    pub from: i64,
    /// Next position after it.
    pub to: i64,
    /// What was counted: `ledger`, `span`, `redrive` or `rejection`.
    pub what: &'static str,
    /// As many should be there.
    pub expected: i64,
    /// As many are.
    pub found: i64,
}

/// An interval that an operator has written off.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Gap {
    /// First position.
    pub from: i64,
    /// Next position after it.
    pub to: i64,
    /// Why.
    pub reason: Option<String>,
}

/// Source and partition.
type Place = (i32, i32);
type Found = HashMap<Place, PartitionAudit>;

impl Store {
    /// Audits all pipelines.
    pub async fn audit(&self) -> Result<AuditReport, StoreError> {
        self.audit_of(None).await
    }

    /// Audits one pipeline, or all.
    pub async fn audit_of(&self, pipeline: Option<&str>) -> Result<AuditReport, StoreError> {
        let mut transaction = self.pool.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
        let snapshot_at: String = sqlx::query_scalar(
            "SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')
               FROM set_config('statement_timeout', '600s', true) AS a, set_config('work_mem', '64MB', true) AS b",
        )
        .fetch_one(&mut *transaction)
        .await?;
        let mut found = partitions(&mut transaction, pipeline).await?;
        let sources: Vec<i32> = found.keys().map(|place| place.0).collect();
        spans(&mut transaction, &sources, &mut found).await?;
        ledger(&mut transaction, &sources, &mut found).await?;
        letters(&mut transaction, &sources, &mut found).await?;
        transaction.commit().await?;
        let mut partitions: Vec<PartitionAudit> = found.into_values().collect();
        partitions.sort_by(|a, b| {
            (&a.pipeline, &a.topic, !a.ended, a.partition).cmp(&(
                &b.pipeline,
                &b.topic,
                !b.ended,
                b.partition,
            ))
        });
        let ok =
            partitions.iter().all(|p| p.missing.is_empty() && p.doubled.is_empty() && p.holes.is_empty());
        Ok(AuditReport { ok, snapshot_at, partitions })
    }
}

async fn partitions(connection: &mut PgConnection, pipeline: Option<&str>) -> Result<Found, StoreError> {
    type Row = (i32, i32, String, String, Option<String>, bool, i64, i64);
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT c.source, c.partition, s.pipeline, s.topic, s.topic_id, s.retired_at IS NOT NULL, c.first_offset, c.next_offset
           FROM spawn.checkpoint c JOIN spawn.source s ON s.id = c.source WHERE $1::text IS NULL OR s.pipeline = $1",
    )
    .bind(pipeline)
    .fetch_all(connection)
    .await?;
    let read = |(source, partition, pipeline, topic, topic_id, ended, first_offset, next_offset): Row| {
        let audit = PartitionAudit {
            pipeline,
            topic,
            topic_id,
            ended,
            partition,
            first_offset,
            next_offset,
            ..Default::default()
        };
        ((source, partition), audit)
    };
    Ok(rows.into_iter().map(read).collect())
}

/// Sums of the spans, and whether they tile.
async fn spans(connection: &mut PgConnection, sources: &[i32], found: &mut Found) -> Result<(), StoreError> {
    type Sums = (i32, i32, i64, i64, i64, i64, i64, i64);
    let sums: Vec<Sums> = sqlx::query_as(
        "SELECT source, partition, count(*), sum(records)::bigint, sum(results)::bigint, sum(rejected)::bigint,
                sum(skipped)::bigint, sum(deferred)::bigint
           FROM spawn.span WHERE source = ANY ($1) GROUP BY source, partition",
    )
    .bind(sources)
    .fetch_all(&mut *connection)
    .await?;
    for (source, partition, spans, records, results, rejected, skipped, deferred) in sums {
        if let Some(p) = found.get_mut(&(source, partition)) {
            (p.spans, p.records, p.results, p.rejected, p.skipped, p.deferred) =
                (spans, records, results, rejected, skipped, deferred);
        }
    }
    // Each span begins where all before it end; a last row stands for the checkpoint.
    let seams: Vec<(i32, i32, i64, i64)> = sqlx::query_as(
        "SELECT source, partition, reached, from_position FROM (
            SELECT e.source, e.partition, e.from_position,
                   coalesce(max(e.to_position) OVER (PARTITION BY e.source, e.partition ORDER BY e.from_position, e.to_position
                            ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), e.first_offset) AS reached
              FROM (SELECT t.source, t.partition, t.from_position, t.to_position, c.first_offset
                      FROM spawn.span t JOIN spawn.checkpoint c USING (source, partition) WHERE t.source = ANY ($1)
                    UNION ALL
                    SELECT c.source, c.partition, c.next_offset, 9223372036854775807, c.first_offset
                      FROM spawn.checkpoint c WHERE c.source = ANY ($1)) e
         ) seam WHERE reached <> from_position ORDER BY source, partition, from_position LIMIT $2",
    )
    .bind(sources)
    .bind(NAMED_MAX)
    .fetch_all(&mut *connection)
    .await?;
    for (source, partition, reached, from) in seams {
        let Some(p) = found.get_mut(&(source, partition)) else { continue };
        if reached < from {
            p.holes.push([reached, from]);
        } else {
            p.doubled.push(Difference { from, to: reached, what: "span", expected: 1, found: 2 });
        }
    }
    let gaps: Vec<(i32, i32, i64, i64, Option<String>)> = sqlx::query_as(
        "SELECT source, partition, from_position, to_position, reason FROM spawn.span
          WHERE kind = 'gap' AND source = ANY ($1) ORDER BY from_position LIMIT $2",
    )
    .bind(sources)
    .bind(NAMED_MAX)
    .fetch_all(connection)
    .await?;
    for (source, partition, from, to, reason) in gaps {
        if let Some(p) = found.get_mut(&(source, partition)) {
            p.gaps.push(Gap { from, to, reason });
        }
    }
    Ok(())
}

/// Whether each span's counts are its ledger rows, and whether any row lies outside of all spans.
async fn ledger(connection: &mut PgConnection, sources: &[i32], found: &mut Found) -> Result<(), StoreError> {
    // Spans follow each other as ledger rows do, so this reads the ledger once, in its own order.
    let wrong: Vec<(i32, i32, i64, i64, i64, i64)> = sqlx::query_as(
        "SELECT t.source, t.partition, t.from_position, t.to_position, t.records::bigint, l.records
           FROM spawn.span t CROSS JOIN LATERAL (
                SELECT count(*) AS records, count(*) FILTER (WHERE r.outcome = 0) AS results,
                       count(*) FILTER (WHERE r.outcome = 1) AS rejected, count(*) FILTER (WHERE r.outcome = 2) AS skipped,
                       count(*) FILTER (WHERE r.outcome = 3) AS deferred
                  FROM spawn.record r
                 WHERE r.source = t.source AND r.partition = t.partition AND r.\"offset\" >= t.from_position
                   AND r.\"offset\" < t.to_position) l
          WHERE t.source = ANY ($1)
            AND (l.records <> t.records OR l.results <> t.results OR l.rejected <> t.rejected OR l.skipped <> t.skipped
                 OR l.deferred <> t.deferred)
          ORDER BY t.source, t.partition, t.from_position LIMIT $2",
    )
    .bind(sources)
    .bind(NAMED_MAX)
    .fetch_all(&mut *connection)
    .await?;
    for (source, partition, from, to, expected, rows) in wrong {
        let Some(p) = found.get_mut(&(source, partition)) else { continue };
        let list = if rows > expected { &mut p.doubled } else { &mut p.missing };
        list.push(Difference { from, to, what: "ledger", expected, found: rows });
    }
    let totals: Vec<(i32, i32, i64)> = sqlx::query_as(
        "SELECT source, partition, count(*) FROM spawn.record WHERE source = ANY ($1) GROUP BY source, partition",
    )
    .bind(sources)
    .fetch_all(&mut *connection)
    .await?;
    for (source, partition, rows) in totals {
        // A ledger row of a partition that was never claimed has no report of its own to stand in.
        let p = found
            .entry((source, partition))
            .or_insert_with(|| PartitionAudit { partition, ..Default::default() });
        if rows != p.records {
            p.doubled.extend(outside(connection, source, partition).await?);
        }
    }
    Ok(())
}

/// The ledger rows of a partition that lie beyond the last span that begins before them.
async fn outside(
    connection: &mut PgConnection,
    source: i32,
    partition: i32,
) -> Result<Option<Difference>, StoreError> {
    let (from, to, found): (Option<i64>, Option<i64>, i64) = sqlx::query_as(
        "SELECT min(r.\"offset\"), max(r.\"offset\") + 1, count(*) FROM spawn.record r
          WHERE r.source = $1 AND r.partition = $2
            AND r.\"offset\" >= coalesce(
                (SELECT t.to_position FROM spawn.span t
                  WHERE t.source = r.source AND t.partition = r.partition AND t.from_position <= r.\"offset\"
                  ORDER BY t.from_position DESC LIMIT 1), 0)",
    )
    .bind(source)
    .bind(partition)
    .fetch_one(connection)
    .await?;
    Ok(from.zip(to).map(|(from, to)| Difference { from, to, what: "ledger", expected: 0, found }))
}

/// Whether deferred and rejected records have their bytes, and only those.
async fn letters(
    connection: &mut PgConnection,
    sources: &[i32],
    found: &mut Found,
) -> Result<(), StoreError> {
    type Row = (i32, i32, bool, i64, bool);
    let wrong: Vec<Row> = sqlx::query_as(
        "SELECT coalesce(l.source, k.source), coalesce(l.partition, k.partition), coalesce(l.outcome, k.outcome) = 3,
                coalesce(l.\"offset\", k.\"offset\"), k.source IS NULL
           FROM (SELECT source, partition, \"offset\", outcome FROM spawn.record WHERE outcome IN (1, 3) AND source = ANY ($1)) l
           FULL JOIN (SELECT source, partition, \"offset\", 3::smallint AS outcome FROM spawn.redrive WHERE source = ANY ($1)
                      UNION ALL
                      SELECT source, partition, \"offset\", 1::smallint FROM spawn.rejection WHERE source = ANY ($1)) k
             ON k.source = l.source AND k.partition = l.partition AND k.\"offset\" = l.\"offset\" AND k.outcome = l.outcome
          WHERE l.source IS NULL OR k.source IS NULL LIMIT $2",
    )
    .bind(sources)
    .bind(NAMED_MAX)
    .fetch_all(connection)
    .await?;
    for (source, partition, deferred, offset, missing) in wrong {
        let Some(p) = found.get_mut(&(source, partition)) else { continue };
        let what = if deferred { "redrive" } else { "rejection" };
        let (expected, rows) = (i64::from(missing), i64::from(!missing));
        let list = if missing { &mut p.missing } else { &mut p.doubled };
        list.push(Difference { from: offset, to: offset + 1, what, expected, found: rows });
    }
    Ok(())
}
