//! The line's end: claims partitions and writes commit units.

use crate::connect::Lane;
use crate::errors::fault;
use crate::identity::PipelineIdentity;
use crate::redrive::Deferral;
use crate::{claim, deaths, known, pause, write};
use spawn_core::{
    Assignment, Batch, BoxFuture, Claimed, ContentHash, Fault, Inferred, Orders, Pause, Sink, Standing,
    Written,
};
use std::sync::atomic::AtomicBool;

/// Writes what one pipeline makes.
#[derive(Debug)]
pub struct PgSink {
    /// Writes units, one after the other.
    pub(crate) writer: Lane,
    /// Claims partitions meanwhile.
    pub(crate) claimer: Lane,
    /// Ends those who block a claim, and asks whether the pipeline is paused.
    pub(crate) warden: Lane,
    /// Looks up what is known of contents.
    pub(crate) reader: Lane,
    /// Whether that can be asked quickly.
    pub(crate) contents_indexed: AtomicBool,
    pub(crate) identity: PipelineIdentity,
    pub(crate) spec_hash: [u8; 32],
    /// `spawn.source.id`.
    pub(crate) source: i32,
    /// `spawn.generation.id`.
    pub(crate) generation: i32,
    /// When deferred records are tried again.
    pub(crate) deferral: Deferral,
}

impl PgSink {
    /// Connects, and finds or makes the pipeline's source, generation and vector table. The schema must be there already
    /// ([`crate::migrate()`]).
    pub async fn open(url: &str, identity: PipelineIdentity) -> Result<Self, Fault> {
        let lane = |work: &str| Lane::new(url, &format!("spawn-{work}-{}", identity.pipeline));
        let (writer, claimer, warden, reader) =
            (lane("writer")?, lane("claimer")?, lane("warden")?, lane("reuse")?);
        let spec_hash = identity.spec_hash();
        let opened = claimer.ask(async |connection| {
            sqlx::query_as(
                "SELECT o.* FROM spawn.open_source($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) o
                  CROSS JOIN LATERAL spawn.own_generation(o.o_generation, $5, $11)",
            )
            .bind(&identity.pipeline)
            .bind(&identity.topic)
            .bind(&identity.collection)
            .bind(identity.modality.as_str())
            .bind(&identity.model)
            .bind(&identity.preparation)
            .bind(&identity.dtype)
            .bind(i32::try_from(identity.dimension).unwrap_or(i32::MAX))
            .bind(&spec_hash[..])
            .bind(identity.spec())
            .bind(&identity.model_hash)
            .fetch_one(connection)
            .await
        });
        let (source, generation) = opened.await.map_err(|e| fault(&e))?;
        Ok(Self {
            writer,
            claimer,
            warden,
            reader,
            contents_indexed: AtomicBool::new(false),
            identity,
            spec_hash,
            source,
            generation,
            deferral: Deferral::default(),
        })
    }

    /// How many partitions the topic had when its reading began: `now`, if it begins with this.
    pub async fn first_partitions(&self, now: i32) -> Result<i32, Fault> {
        let asked = self.claimer.ask(async |connection| {
            sqlx::query("UPDATE spawn.source SET partitions = $2 WHERE id = $1 AND partitions IS NULL")
                .bind(self.source)
                .bind(now)
                .execute(&mut *connection)
                .await?;
            sqlx::query_scalar("SELECT partitions FROM spawn.source WHERE id = $1")
                .bind(self.source)
                .fetch_one(connection)
                .await
        });
        asked.await.map_err(|e| fault(&e))
    }

    /// The same with other times for deferred records.
    pub fn deferring(self, deferral: Deferral) -> Self {
        Self { deferral, ..self }
    }

    /// The generation that it fills.
    pub fn generation(&self) -> i32 {
        self.generation
    }
}

impl Sink for PgSink {
    fn claim(&self, wanted: Vec<Assignment>) -> BoxFuture<'_, Result<Vec<Claimed>, Fault>> {
        Box::pin(claim::claim(self, wanted))
    }

    fn write<'a>(&'a self, batch: &'a Batch<Inferred>) -> BoxFuture<'a, Result<Written, Fault>> {
        Box::pin(write::write(self, batch))
    }

    fn begun<'a>(&'a self, claimed: &'a [Claimed]) -> BoxFuture<'a, Result<Vec<i32>, Fault>> {
        Box::pin(deaths::begun(self, claimed))
    }

    fn ended<'a>(&'a self, claimed: &'a [Claimed]) -> BoxFuture<'a, Result<(), Fault>> {
        Box::pin(deaths::ended(self, claimed))
    }

    fn standing(&self) -> BoxFuture<'_, Result<Option<Standing>, Fault>> {
        Box::pin(claim::standing(self))
    }

    fn known<'a>(&'a self, contents: &'a [ContentHash]) -> BoxFuture<'a, Result<Vec<Inferred>, Fault>> {
        Box::pin(known::known(self, contents))
    }

    fn orders(&self) -> BoxFuture<'_, Result<Orders, Fault>> {
        Box::pin(pause::orders(self))
    }

    fn pause<'a>(&'a self, pause: &'a Pause) -> BoxFuture<'a, Result<(), Fault>> {
        Box::pin(pause::pause(self, pause))
    }

    fn resume(&self) -> BoxFuture<'_, Result<(), Fault>> {
        Box::pin(pause::resume(self))
    }
}
