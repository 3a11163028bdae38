//! Proof that every offset is accounted for, from one snapshot.
//!
//! Three things must hold: the spans of a partition tile `[first_offset, next_offset)`; each span's counts are those of its ledger rows;
//! and what the ledger calls deferred or rejected has its row in `redrive` or `rejection`, and nothing else has. The questions are asked
//! of whole tables, so that ten million rows take seconds; rows are only named where a sum is wrong. A range of offsets is asked of the
//! spans that lie in it, whole: their counts are what can be compared.

use crate::audit_report::{AuditReport, AuditScope, Difference, Gap, PartitionAudit};
use crate::errors::StoreError;
use crate::store::Store;
use sqlx::PgConnection;
use std::collections::HashMap;

/// Faults of one kind that are named per audit; the first ones say enough.
const NAMED_MAX: i64 = 1000;

/// Source and partition.
type Place = (i32, i32);
type Found = HashMap<Place, PartitionAudit>;

impl Store {
    /// Audits all pipelines.
    pub async fn audit(&self) -> Result<AuditReport, StoreError> {
        self.audit_of(&AuditScope::default()).await
    }

    /// Audits what is asked for.
    pub async fn audit_of(&self, scope: &AuditScope) -> Result<AuditReport, StoreError> {
        let mut transaction = self.pool.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
        let snapshot_at: String = sqlx::query_scalar(
            "SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')
               FROM set_config('statement_timeout', '600s', true) AS a, set_config('work_mem', '64MB', true) AS b",
        )
        .fetch_one(&mut *transaction)
        .await?;
        let mut found = partitions(&mut transaction, scope).await?;
        let sources: Vec<i32> = found.keys().map(|place| place.0).collect();
        let extents = spans(&mut transaction, &sources, scope, &mut found).await?;
        ledger(&mut transaction, &sources, scope, &extents, &mut found).await?;
        letters(&mut transaction, &sources, scope, &mut found).await?;
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
        let ok = partitions.iter().all(PartitionAudit::ok);
        Ok(AuditReport { ok, snapshot_at, partitions })
    }
}

async fn partitions(connection: &mut PgConnection, scope: &AuditScope) -> Result<Found, StoreError> {
    type Row = (i32, i32, String, String, Option<String>, bool, i64, i64);
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT c.source, c.partition, s.pipeline, s.topic, s.topic_id, s.retired_at IS NOT NULL, c.first_offset, c.next_offset
           FROM spawn.checkpoint c JOIN spawn.source s ON s.id = c.source
          WHERE ($1::text IS NULL OR s.pipeline = $1) AND ($2::text IS NULL OR s.topic = $2)",
    )
    .bind(&scope.pipeline)
    .bind(&scope.topic)
    .fetch_all(connection)
    .await?;
    let read = |(source, partition, pipeline, topic, topic_id, ended, first_offset, next_offset): Row| {
        let audit = PartitionAudit {
            source,
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

/// From where to where the spans of a partition reach that the scope asks for.
type Extents = HashMap<Place, (i64, i64)>;

/// Sums of the spans, and whether they tile.
async fn spans(
    connection: &mut PgConnection,
    sources: &[i32],
    scope: &AuditScope,
    found: &mut Found,
) -> Result<Extents, StoreError> {
    type Sums = (i32, i32, i64, i64, i64, i64, i64, i64, i64, i64);
    let sums: Vec<Sums> = sqlx::query_as(
        "SELECT source, partition, count(*), sum(records)::bigint, sum(results)::bigint, sum(rejected)::bigint,
                sum(skipped)::bigint, sum(deferred)::bigint, min(from_position), max(to_position)
           FROM spawn.span
          WHERE source = ANY ($1) AND ($2::bigint IS NULL OR to_position > $2) AND ($3::bigint IS NULL OR from_position < $3)
          GROUP BY source, partition",
    )
    .bind(sources)
    .bind(scope.from)
    .bind(scope.to)
    .fetch_all(&mut *connection)
    .await?;
    let mut extents = Extents::new();
    for (source, partition, spans, records, results, rejected, skipped, deferred, low, high) in sums {
        extents.insert((source, partition), (low, high));
        if let Some(p) = found.get_mut(&(source, partition)) {
            (p.spans, p.records, p.results, p.rejected, p.skipped, p.deferred) =
                (spans, records, results, rejected, skipped, deferred);
        }
    }
    // Each span begins where all before it end; a last row stands for the checkpoint. Nulls leave `greatest` and `least` as they are.
    let seams: Vec<(i32, i32, i64, i64)> = sqlx::query_as(
        "SELECT source, partition, reached, from_position FROM (
            SELECT e.source, e.partition, e.from_position,
                   coalesce(max(e.to_position) OVER (PARTITION BY e.source, e.partition ORDER BY e.from_position, e.to_position
                            ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), e.first_offset) AS reached
              FROM (SELECT t.source, t.partition, greatest(t.from_position, $3) AS from_position,
                           least(t.to_position, $4) AS to_position, greatest(c.first_offset, $3) AS first_offset
                      FROM spawn.span t JOIN spawn.checkpoint c USING (source, partition)
                     WHERE t.source = ANY ($1) AND ($3::bigint IS NULL OR t.to_position > $3)
                       AND ($4::bigint IS NULL OR t.from_position < $4)
                    UNION ALL
                    SELECT c.source, c.partition, greatest(least(c.next_offset, $4), c.first_offset, $3), 9223372036854775807,
                           greatest(c.first_offset, $3)
                      FROM spawn.checkpoint c WHERE c.source = ANY ($1)) e
         ) seam WHERE reached <> from_position ORDER BY source, partition, from_position LIMIT $2",
    )
    .bind(sources)
    .bind(NAMED_MAX)
    .bind(scope.from)
    .bind(scope.to)
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
          WHERE kind = 'gap' AND source = ANY ($1) AND ($3::bigint IS NULL OR to_position > $3)
            AND ($4::bigint IS NULL OR from_position < $4)
          ORDER BY from_position LIMIT $2",
    )
    .bind(sources)
    .bind(NAMED_MAX)
    .bind(scope.from)
    .bind(scope.to)
    .fetch_all(connection)
    .await?;
    for (source, partition, from, to, reason) in gaps {
        if let Some(p) = found.get_mut(&(source, partition)) {
            p.gaps.push(Gap { from, to, reason });
        }
    }
    Ok(extents)
}

/// Whether each span's counts are its ledger rows, and whether any row lies outside of all spans.
async fn ledger(
    connection: &mut PgConnection,
    sources: &[i32],
    scope: &AuditScope,
    extents: &Extents,
    found: &mut Found,
) -> Result<(), StoreError> {
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
          WHERE t.source = ANY ($1) AND ($3::bigint IS NULL OR t.to_position > $3) AND ($4::bigint IS NULL OR t.from_position < $4)
            AND (l.records <> t.records OR l.results <> t.results OR l.rejected <> t.rejected OR l.skipped <> t.skipped
                 OR l.deferred <> t.deferred)
          ORDER BY t.source, t.partition, t.from_position LIMIT $2",
    )
    .bind(sources)
    .bind(NAMED_MAX)
    .bind(scope.from)
    .bind(scope.to)
    .fetch_all(&mut *connection)
    .await?;
    for (source, partition, from, to, expected, rows) in wrong {
        let Some(p) = found.get_mut(&(source, partition)) else { continue };
        let list = if rows > expected { &mut p.doubled } else { &mut p.missing };
        list.push(Difference { from, to, what: "ledger", expected, found: rows });
    }
    for ((source, partition), rows) in totals(connection, sources, scope, extents, found).await? {
        // A ledger row of a partition that was never claimed has no report of its own to stand in.
        let p = found.entry((source, partition)).or_insert_with(|| PartitionAudit {
            source,
            partition,
            ..Default::default()
        });
        if rows != p.records {
            p.doubled.extend(outside(connection, (source, partition), scope).await?);
        }
    }
    Ok(())
}

/// Ledger rows of each partition: all, or those between the ends of the spans that a range touches and the range itself.
async fn totals(
    connection: &mut PgConnection,
    sources: &[i32],
    scope: &AuditScope,
    extents: &Extents,
    found: &Found,
) -> Result<Vec<((i32, i32), i64)>, StoreError> {
    if scope.from.is_none() && scope.to.is_none() {
        let rows: Vec<(i32, i32, i64)> = sqlx::query_as(
            "SELECT source, partition, count(*) FROM spawn.record WHERE source = ANY ($1) GROUP BY source, partition",
        )
        .bind(sources)
        .fetch_all(connection)
        .await?;
        return Ok(rows.into_iter().map(|(source, partition, rows)| ((source, partition), rows)).collect());
    }
    let mut totals = Vec::new();
    for place in found.keys() {
        let (low, high) = extents.get(place).copied().unwrap_or((i64::MAX, 0));
        let rows: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM spawn.record WHERE source = $1 AND partition = $2 AND \"offset\" >= $3 AND \"offset\" < $4",
        )
        .bind(place.0)
        .bind(place.1)
        .bind(low.min(scope.from.unwrap_or(0)))
        .bind(high.max(scope.to.unwrap_or(i64::MAX)))
        .fetch_one(&mut *connection)
        .await?;
        totals.push((*place, rows));
    }
    Ok(totals)
}

/// The ledger rows of a partition that lie beyond the last span that begins before them.
async fn outside(
    connection: &mut PgConnection,
    (source, partition): (i32, i32),
    scope: &AuditScope,
) -> Result<Option<Difference>, StoreError> {
    let (from, to, found): (Option<i64>, Option<i64>, i64) = sqlx::query_as(
        "SELECT min(r.\"offset\"), max(r.\"offset\") + 1, count(*) FROM spawn.record r
          WHERE r.source = $1 AND r.partition = $2 AND r.\"offset\" >= coalesce($3, 0)
            AND r.\"offset\" < coalesce($4, 9223372036854775807)
            AND r.\"offset\" >= coalesce(
                (SELECT t.to_position FROM spawn.span t
                  WHERE t.source = r.source AND t.partition = r.partition AND t.from_position <= r.\"offset\"
                  ORDER BY t.from_position DESC LIMIT 1), 0)",
    )
    .bind(source)
    .bind(partition)
    .bind(scope.from)
    .bind(scope.to)
    .fetch_one(connection)
    .await?;
    Ok(from.zip(to).map(|(from, to)| Difference { from, to, what: "ledger", expected: 0, found }))
}

/// Whether deferred and rejected records have their bytes, and only those.
async fn letters(
    connection: &mut PgConnection,
    sources: &[i32],
    scope: &AuditScope,
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
          WHERE (l.source IS NULL OR k.source IS NULL)
            AND ($3::bigint IS NULL OR coalesce(l.\"offset\", k.\"offset\") >= $3)
            AND ($4::bigint IS NULL OR coalesce(l.\"offset\", k.\"offset\") < $4)
          LIMIT $2",
    )
    .bind(sources)
    .bind(NAMED_MAX)
    .bind(scope.from)
    .bind(scope.to)
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
