//! Writing one commit unit: one call, one transaction.
//!
//! The call is a statement of its own, so the server commits when the function has returned, and says `ReadyForQuery` only after the
//! commit; a commit that fails is an error answer. There is no COMMIT whose tag would have to be checked. An answer that was lost is
//! asked for again by the same call: a partition that is ours and stands where the unit ends was written.

use crate::bisect;
use crate::check::check;
use crate::errors::{ID_CONFLICT, PROBE_DONE, class, fault, sqlstate};
use crate::rows::{Override, Overrides, Rows, buried};
use crate::sink::PgSink;
use crate::telemetry;
use spawn_core::{Batch, Fault, FaultClass, Inferred, Rejection, Written};
use sqlx::postgres::PgDatabaseError;
use sqlx::postgres::types::PgInterval;
use sqlx::types::Uuid;
use std::time::Duration;

/// Deadlocks with a tombstone of another partition end by themselves; more than this many in a row mean something else.
pub(crate) const SERIALISATION_RETRIES: u32 = 5;

const CALL: &str = "SELECT * FROM spawn.write_batch($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, \
                    $19, $20, $21, $22, $23, $24, $25, $26, $27, $28, $29, $30, $31, $32, $33, $34, $35, $36, $37)";

/// Partition, state (0 written, 1 written before, 2 fenced), and its outcomes.
type Answer = Vec<(i32, i16, i64, i64, i64, i64)>;

/// How a call can end without having written.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// These places of the unit bring an id again with other content.
    Conflicts(Vec<usize>),
    /// A value was refused: the SQLSTATE and the server's words.
    Refused(String, String),
    /// Anything else.
    Fault(Fault),
}

/// See [`spawn_core::Sink::write`].
pub(crate) async fn write(sink: &PgSink, batch: &Batch<Inferred>) -> Result<Written, Fault> {
    check(batch, &sink.identity)?;
    if batch.delta.values().all(|span| span.to == span.from) {
        return Ok(Written::default());
    }
    let mut overrides = buried(batch);
    let mut bisected = false;
    loop {
        let rows = Rows::of(batch, &overrides, 0..batch.envelopes.len());
        match call(sink, batch, &rows, false).await {
            Ok(answer) => {
                let written = read(batch, &answer);
                telemetry::rows_written(rows.count());
                report(sink, &overrides);
                return Ok(written);
            }
            Err(Trouble::Conflicts(places)) => conflicts(&mut overrides, &places),
            Err(Trouble::Refused(code, message)) if bisected => {
                return Err(bisect::hopeless(&code, &message));
            }
            Err(Trouble::Refused(code, message)) => {
                bisected = true;
                bisect::bisect(sink, batch, &mut overrides, (&code, &message)).await?;
            }
            Err(Trouble::Fault(fault)) => return Err(fault),
        }
    }
}

/// Turns these records into dead letters.
pub(crate) fn conflicts(overrides: &mut Overrides, places: &[usize]) {
    for place in places {
        let rejection = Rejection::new(
            "store",
            "id.conflict",
            "this source and id came before with other content, which was kept",
        );
        overrides.insert(*place, Override::Rejected(rejection));
    }
}

/// One call of the function; a probe undoes everything and looks at no checkpoint.
pub(crate) async fn call(
    sink: &PgSink,
    batch: &Batch<Inferred>,
    rows: &Rows<'_>,
    probe: bool,
) -> Result<Answer, Trouble> {
    for _ in 0..SERIALISATION_RETRIES {
        match once(sink, batch, rows, probe).await {
            Err(error) if matches!(sqlstate(&error).as_deref(), Some("40001" | "40P01")) => {
                tracing::warn!(%error, "deadlock, writing again");
            }
            Err(error) if probe && sqlstate(&error).as_deref() == Some(PROBE_DONE) => {
                return Ok(Answer::new());
            }
            other => return other.map_err(|error| trouble(&error, rows)),
        }
    }
    let detail = format!("{SERIALISATION_RETRIES} deadlocks in a row");
    Err(Trouble::Fault(Fault::new(FaultClass::Systemic, "postgres", detail)))
}

async fn once(
    sink: &PgSink,
    batch: &Batch<Inferred>,
    rows: &Rows<'_>,
    probe: bool,
) -> Result<Answer, sqlx::Error> {
    let spans: Vec<_> = batch.delta.iter().filter(|(_, span)| span.to > span.from).collect();
    sink.writer
        .ask(async |connection| {
            sqlx::query_as(CALL)
                .bind(sink.source)
                .bind(sink.generation)
                .bind(probe)
                .bind(spans.iter().map(|(partition, _)| **partition).collect::<Vec<_>>())
                .bind(spans.iter().map(|(_, s)| s.from).collect::<Vec<_>>())
                .bind(spans.iter().map(|(_, s)| s.to).collect::<Vec<_>>())
                .bind(spans.iter().map(|(_, s)| s.claim.epoch).collect::<Vec<_>>())
                .bind(spans.iter().map(|(_, s)| Uuid::from_u128(s.claim.token)).collect::<Vec<_>>())
                .bind(spans.iter().map(|(_, s)| s.records as i64).collect::<Vec<_>>())
                .bind(&rows.r_partition)
                .bind(&rows.r_offset)
                .bind(&rows.r_outcome)
                .bind(&rows.r_reason)
                .bind(&rows.r_id)
                .bind(&rows.r_key)
                .bind(&rows.r_content)
                .bind(&rows.r_event_id)
                .bind(&rows.r_event_source)
                .bind(&rows.r_source_uri)
                .bind(&rows.r_metadata)
                .bind(&rows.r_facts)
                .bind(&rows.r_labels)
                .bind(&rows.c_row)
                .bind(&rows.c_chunk)
                .bind(&rows.c_vector)
                .bind(&rows.l_row)
                .bind(&rows.l_stage)
                .bind(&rows.l_detail)
                .bind(&rows.l_key)
                .bind(&rows.l_value)
                .bind(&rows.l_timestamp)
                .bind(&rows.h_row)
                .bind(&rows.h_name)
                .bind(&rows.h_value)
                .bind(&rows.t_row)
                .bind(interval(sink.deferral.delay))
                .bind(interval(sink.deferral.give_up))
                .fetch_all(connection)
                .await
        })
        .await
}

/// A duration as PostgreSQL takes it; at most 290,000 years.
pub(crate) fn interval(duration: Duration) -> PgInterval {
    let microseconds = i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
    PgInterval { months: 0, days: 0, microseconds }
}

fn trouble(error: &sqlx::Error, rows: &Rows<'_>) -> Trouble {
    let code = sqlstate(error).unwrap_or_default();
    let server = error.as_database_error().and_then(|e| e.try_downcast_ref::<PgDatabaseError>());
    if code == ID_CONFLICT {
        let detail = server.and_then(|e| e.detail()).unwrap_or_default();
        let places = detail.split(',').filter_map(|row| row.parse::<usize>().ok());
        let places: Vec<usize> =
            places.filter_map(|row| rows.place.get(row.wrapping_sub(1)).copied()).collect();
        // Without a place the same call would be made for ever.
        return if places.is_empty() { Trouble::Fault(fault(error)) } else { Trouble::Conflicts(places) };
    }
    match (class(error), server) {
        (FaultClass::Store, Some(server)) => Trouble::Refused(code, server.message().to_owned()),
        _ => Trouble::Fault(fault(error)),
    }
}

fn read(batch: &Batch<Inferred>, answer: &Answer) -> Written {
    let mut written = Written::default();
    for (partition, span) in &batch.delta {
        match answer.iter().find(|row| row.0 == *partition) {
            Some((_, 0 | 1, results, rejected, skipped, deferred)) => {
                let counts = [*results, *rejected, *skipped, *deferred];
                written.outcomes.iter_mut().zip(counts).for_each(|(sum, n)| *sum += n as u64);
            }
            // Without a position to move there was nothing to compare.
            None if span.to == span.from => {}
            _ => written.fenced.push(*partition),
        }
    }
    written
}

/// Tells of records that the store refused, once they are dead letters.
fn report(sink: &PgSink, overrides: &Overrides) {
    for rejection in overrides.values().filter_map(|o| match o {
        Override::Rejected(rejection) => Some(rejection),
        Override::Buried => None,
    }) {
        telemetry::rejected(&sink.identity.pipeline, &rejection.code);
        tracing::info!(pipeline = %sink.identity.pipeline, %rejection, "record refused by the store");
    }
}
