//! Deferred records: taken for another try, and settled in place.
//!
//! Taking commits at once and holds no lock: it pushes `due_at` forward by a lease. Settling deletes the row under the lock of its
//! partition, and whoever finds no row has nothing to settle. So two takers of one record - after a lease that ran out - settle it once.

use crate::connect::Lane;
use crate::errors::{class, fault, rejection_code, sqlstate};
use crate::rows::Rows;
use crate::sink::PgSink;
use crate::write::{SERIALISATION_RETRIES, interval};
use spawn_core::{Claim, Envelope, Fault, FaultClass, Inferred, Origin, Outcome, Record, Rejection};
use std::time::Duration;

/// When a deferred record is tried again, and how many at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deferral {
    /// Wait before the first further try; doubles with each.
    pub delay: Duration,
    /// Longest wait between two tries.
    pub delay_max: Duration,
    /// From the first failure to the rejection.
    pub give_up: Duration,
    /// How long a taker has for its records before another may take them.
    pub lease: Duration,
    /// Most records taken at once.
    pub records_max: usize,
    /// Most bytes of original records taken at once; a larger record is taken alone.
    pub bytes_max: usize,
}

impl Default for Deferral {
    fn default() -> Self {
        Self {
            delay: Duration::from_secs(30),
            delay_max: Duration::from_secs(3600),
            give_up: Duration::from_secs(24 * 3600),
            lease: Duration::from_secs(300),
            records_max: 32,
            bytes_max: 32 << 20,
        }
    }
}

/// A deferred record that was taken for another try.
#[derive(Clone, Debug)]
pub struct Deferred {
    /// As it was polled, but for its claim.
    pub record: Record,
    /// Whether a later tombstone of its key makes the try pointless.
    pub superseded: bool,
    /// Whether [`TAKES_MAX`] takers before this one have said nothing of it.
    pub suspect: bool,
}

/// Deferred records of one source that wait.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Waiting {
    /// How many.
    pub records: u64,
    /// Seconds since the oldest one failed first.
    pub oldest_seconds: f64,
}

/// The deferred records of one pipeline.
#[derive(Debug)]
pub struct Redrive {
    lane: Lane,
    source: i32,
    generation: i32,
    topic: std::sync::Arc<str>,
    deferral: Deferral,
}

/// Times that a record is taken without a word of what became of it before it is suspected of killing its takers.
pub const TAKES_MAX: i32 = 3;

type Row = (i32, i64, Option<Vec<u8>>, Option<Vec<u8>>, Vec<String>, Vec<Vec<u8>>, i64, bool, bool);

impl Redrive {
    /// Of the source that `sink` writes. Connects on the first call.
    pub fn of(sink: &PgSink, url: &str) -> Result<Self, Fault> {
        Ok(Self {
            lane: Lane::new(url, &format!("spawn-redrive-{}", sink.identity.pipeline))?,
            source: sink.source,
            generation: sink.generation,
            topic: sink.identity.topic.as_str().into(),
            deferral: sink.deferral,
        })
    }

    /// Takes records that are due, in the order of each partition. Empty when none is.
    pub async fn take(&self) -> Result<Vec<Deferred>, Fault> {
        let Deferral { lease, records_max, bytes_max, .. } = self.deferral;
        let asked = self.lane.ask(async |connection| {
            sqlx::query_as(
                "SELECT partition, \"offset\", key, value, header_names, header_values, timestamp_ms, superseded_at IS NOT NULL,
                        takes > $5
                   FROM spawn.take_deferred($1, $2, $3, $4)",
            )
            .bind(self.source)
            .bind(records_max.clamp(1, 10_000) as i32)
            .bind(bytes_max as i64)
            .bind(interval(lease))
            .bind(TAKES_MAX)
            .fetch_all(connection)
            .await
        });
        let mut rows: Vec<Row> = asked.await.map_err(|e| fault(&e))?;
        rows.sort_by_key(|row| (row.0, row.1));
        Ok(rows.into_iter().map(|row| self.read(row)).collect())
    }

    fn read(
        &self,
        (partition, offset, key, value, names, values, timestamp_ms, superseded, suspect): Row,
    ) -> Deferred {
        let headers = names.into_iter().zip(values.into_iter().map(Into::into)).collect();
        let record = Record {
            origin: Origin { topic: self.topic.clone(), partition, offset },
            // Nobody's: the right to settle is the row itself.
            claim: Claim { epoch: 0, token: 0 },
            ordinal: 0,
            key: key.map(Into::into),
            value: value.map(Into::into),
            headers,
            timestamp_ms,
        };
        Deferred { record, superseded, suspect }
    }

    /// Writes what became of a record, in one transaction. Answers the outcome as written (`Deferred`: put off again), or none when
    /// somebody else has settled it.
    pub async fn settle(&self, envelope: &Envelope<Inferred>) -> Result<Option<Outcome>, Fault> {
        match self.call(&Rows::one(envelope, None)).await {
            Err(error) if class(&error) == FaultClass::Store => {
                let code = sqlstate(&error).unwrap_or_default();
                let message = error.as_database_error().map_or("", |e| e.message());
                let why =
                    Rejection::new("store", rejection_code(&code), format!("{message} (SQLSTATE {code})"));
                let refused = crate::rows::Override::Rejected(why);
                self.call(&Rows::one(envelope, Some(&refused))).await.map_err(|e| fault(&e))
            }
            other => other.map_err(|e| fault(&e)),
        }
    }

    async fn call(&self, rows: &Rows<'_>) -> Result<Option<Outcome>, sqlx::Error> {
        let mut tries = 0;
        loop {
            tries += 1;
            match self.once(rows).await {
                // With a tombstone of another partition; ends by itself.
                Err(error)
                    if tries < SERIALISATION_RETRIES
                        && matches!(sqlstate(&error).as_deref(), Some("40001" | "40P01")) => {}
                other => return other,
            }
        }
    }

    async fn once(&self, rows: &Rows<'_>) -> Result<Option<Outcome>, sqlx::Error> {
        let first = |texts: &[Option<std::borrow::Cow<'_, str>>]| texts[0].as_deref().map(str::to_owned);
        let asked = self.lane.ask(async |connection| {
            sqlx::query_scalar(
                "SELECT o_outcome FROM spawn.settle($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19)",
            )
            .bind(self.source)
            .bind(self.generation)
            .bind(rows.r_partition[0])
            .bind(rows.r_offset[0])
            .bind(rows.r_outcome[0])
            .bind(rows.r_reason[0])
            .bind(rows.l_stage.first())
            .bind(rows.l_detail.first().map(|detail| &**detail))
            .bind(rows.r_content[0])
            .bind(first(&rows.r_event_id))
            .bind(first(&rows.r_event_source))
            .bind(first(&rows.r_source_uri))
            .bind(&rows.r_metadata[0])
            .bind(&rows.r_facts[0])
            .bind(&rows.r_labels[0])
            .bind(&rows.c_chunk)
            .bind(&rows.c_vector)
            .bind(interval(self.deferral.delay))
            .bind(interval(self.deferral.delay_max))
            .fetch_one(connection)
            .await
        });
        let outcome: Option<i16> = asked.await?;
        Ok(outcome.map(|outcome| match outcome {
            0 => Outcome::Result,
            1 => Outcome::Rejected,
            2 => Outcome::Skipped,
            _ => Outcome::Deferred,
        }))
    }

    /// How many wait, for the metrics.
    pub async fn waiting(&self) -> Result<Waiting, Fault> {
        let asked = self.lane.ask(async |connection| {
            sqlx::query_as(
                "SELECT count(*), coalesce(extract(epoch FROM now() - min(first_failed_at)), 0)::float8
                   FROM spawn.redrive WHERE source = $1",
            )
            .bind(self.source)
            .fetch_one(connection)
            .await
        });
        let (records, oldest_seconds): (i64, f64) = asked.await.map_err(|e| fault(&e))?;
        Ok(Waiting { records: records as u64, oldest_seconds })
    }
}
