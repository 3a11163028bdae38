//! The relay: dead letters from the table to `dlq.<source topic>`, so that whoever watches Kafka sees them.
//!
//! One worker at a time does it, whoever holds the lease. A dead letter is marked as published only after its delivery report; a worker that
//! dies in between, or loses its lease in the middle of a portion, publishes it twice: at least once, never less. It also removes payloads
//! whose retention is over. Trouble is logged and tried again; the line never waits for it.

use crate::config::Settings;
use crate::telemetry;
use bytes::Bytes;
use spawn_core::Fault;
use spawn_kafka::{Message, Producer, ProducerConfig, SendError};
use spawn_postgres::{LETTERS_RELAY, Letter, Purge, RelayLimits, Store, StoreError};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Between two looks into the table while nothing waits.
const IDLE: Duration = Duration::from_secs(1);
/// After trouble; doubles up to [`TROUBLE_MAX`].
const TROUBLE: Duration = Duration::from_secs(1);
const TROUBLE_MAX: Duration = Duration::from_secs(30);
/// Longer than a portion can take, which the producer gives up after 30 s.
const LEASE: Duration = Duration::from_secs(60);
/// Payloads are purged this often.
const PURGE_EVERY: Duration = Duration::from_secs(3600);
/// Longest time for the portion under way when a worker is told to stop: less than what is left after the line has drained.
const STOP_MAX: Duration = Duration::from_millis(500);
/// Longest time for what waits at the end of a worker that stops by itself.
const LAST_MAX: Duration = Duration::from_secs(10);

/// Runs beside the line of a worker.
#[derive(Debug)]
pub struct Relay {
    stop_tx: watch::Sender<bool>,
    task: JoinHandle<Publisher>,
}

/// Why a portion did not arrive.
#[derive(Debug)]
enum Trouble {
    Store(StoreError),
    Kafka(Fault),
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Store(error) => error.fmt(f),
            Self::Kafka(fault) => fault.fmt(f),
        }
    }
}

impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<Fault> for Trouble {
    fn from(fault: Fault) -> Self {
        Self::Kafka(fault)
    }
}

impl Relay {
    /// Starts it; `None` where the configuration wants none and keeps payloads for ever.
    pub fn start(settings: &Settings, store: Store) -> Result<Option<Self>, Fault> {
        if !settings.dlq.relay && settings.dlq.retention_days == 0 {
            return Ok(None);
        }
        let publisher = Publisher::new(settings.clone(), store)?;
        let (stop_tx, stop_rx) = watch::channel(false);
        Ok(Some(Self { stop_tx, task: tokio::spawn(publisher.run(stop_rx)) }))
    }

    /// Ends it. What waits in the table is published by the next worker, or, where `all` is wanted, now, as far as that goes in ten seconds.
    pub async fn stop(self, all: bool) {
        self.stop_tx.send_replace(true);
        let rest = async {
            let Ok(mut publisher) = self.task.await else { return };
            if all && let Err(trouble) = publisher.rest().await {
                tracing::warn!(%trouble, "dead letters wait for the next worker");
            }
            if let Err(error) = publisher.store.end_lease(LETTERS_RELAY, publisher.holder).await {
                tracing::debug!(%error, "the relay's lease ends by itself");
            }
        };
        let time = if all { LAST_MAX } else { STOP_MAX };
        if tokio::time::timeout(time, rest).await.is_err() {
            tracing::warn!("the relay did not end in time, dead letters wait for the next worker");
        }
    }
}

/// What the task owns.
struct Publisher {
    settings: Settings,
    store: Store,
    producer: Producer,
    /// Tells this process's lease from another's.
    holder: u128,
    /// Topics known to be there.
    topics: BTreeSet<String>,
    purged: Option<Instant>,
}

impl Publisher {
    fn new(settings: Settings, store: Store) -> Result<Self, Fault> {
        let config = ProducerConfig::new(&settings.kafka.brokers, &settings.kafka.properties);
        let (producer, holder) = (Producer::new(config)?, uuid::Uuid::new_v4().as_u128());
        Ok(Self { settings, store, producer, holder, topics: BTreeSet::new(), purged: None })
    }

    async fn run(mut self, mut stop: watch::Receiver<bool>) -> Self {
        let mut trouble = TROUBLE;
        while !*stop.borrow() {
            let wait = match self.step().await {
                Ok(true) => Duration::ZERO,
                Ok(false) => IDLE,
                Err(error) => {
                    tracing::warn!(%error, "dead letters cannot be published for now");
                    trouble = (trouble * 2).min(TROUBLE_MAX);
                    trouble
                }
            };
            if wait <= IDLE {
                trouble = TROUBLE;
            }
            // A closed channel is a worker that is gone.
            let stopped = tokio::time::timeout(wait, stop.wait_for(|stop| *stop)).await;
            if matches!(stopped, Ok(Err(_))) {
                break;
            }
        }
        self
    }

    /// One portion, if the lease is ours; whether there may be more.
    async fn step(&mut self) -> Result<bool, Trouble> {
        if !self.store.take_lease(LETTERS_RELAY, self.holder, LEASE).await? {
            return Ok(false);
        }
        let more = self.settings.dlq.relay && self.portion().await?;
        if !more {
            self.purge().await?;
        }
        Ok(more)
    }

    /// Everything that waits.
    async fn rest(&mut self) -> Result<(), Trouble> {
        while self.step().await? {}
        Ok(())
    }

    async fn portion(&mut self) -> Result<bool, Trouble> {
        let dlq = &self.settings.dlq;
        let limits = RelayLimits { records_max: dlq.batch_records, bytes_max: dlq.batch_bytes };
        let letters = self.store.unpublished(limits).await?;
        if letters.is_empty() {
            telemetry::letters_waiting(0);
            return Ok(false);
        }
        telemetry::letters_waiting(self.store.unpublished_count().await?);
        self.ensure_topics(&letters).await?;
        // All at once, in order: the idempotent producer keeps it within a partition.
        let sent = letters.iter().map(|letter| self.producer.send(self.message(letter)));
        let sent = futures::future::join_all(sent).await;
        let (mut arrived, mut refused) = (Vec::new(), None);
        for (letter, sent) in letters.iter().zip(sent) {
            match sent {
                Ok(_) => {
                    arrived.push(letter.number);
                    telemetry::letter_published(&letter.row.origin.topic);
                }
                Err(error @ SendError::TooLarge { .. }) => {
                    let origin = &letter.row.origin;
                    tracing::warn!(topic = %origin.topic, partition = origin.partition, offset = origin.offset, %error,
                        "a dead letter is too large for its topic and stays in the table only");
                    self.store.unpublishable(letter.number, &error.to_string()).await?;
                }
                Err(SendError::Refused(fault)) => refused = Some(fault),
            }
        }
        self.store.published(&arrived).await?;
        match refused {
            Some(fault) => Err(fault.into()),
            None => Ok(true),
        }
    }

    async fn ensure_topics(&mut self, letters: &[Letter]) -> Result<(), Trouble> {
        let kafka = &self.settings.kafka;
        let wanted: BTreeSet<String> = letters.iter().map(|l| self.topic(l)).collect();
        let new: Vec<String> = wanted.difference(&self.topics).cloned().collect();
        if !new.is_empty() {
            let (partitions, replication) = (kafka.partitions, kafka.replication);
            spawn_kafka::ensure_topics(&kafka.brokers, &kafka.properties, &new, partitions, replication)
                .await?;
            self.topics.extend(new);
        }
        Ok(())
    }

    fn topic(&self, letter: &Letter) -> String {
        format!("{}{}", self.settings.dlq.topic_prefix, letter.row.origin.topic)
    }

    /// The original record untouched, with what became of it behind its own headers.
    fn message(&self, letter: &Letter) -> Message {
        let (row, origin) = (&letter.row, &letter.row.origin);
        let added = [
            ("__dlq.errors.topic", origin.topic.clone()),
            ("__dlq.errors.partition", origin.partition.to_string()),
            ("__dlq.errors.offset", origin.offset.to_string()),
            ("__dlq.errors.group", format!("{}.{}", self.settings.kafka.group_prefix, row.pipeline)),
            ("__dlq.errors.delivery.count", row.deliveries.to_string()),
            ("__dlq.errors.message", row.detail.clone()),
            ("spawn-origin", format!("{}/{}@{}", origin.topic, origin.partition, origin.offset)),
            ("spawn-error-code", row.code.clone()),
            ("spawn-error-stage", row.stage.clone()),
            ("spawn-first-failed-at", row.first_failed_at.clone()),
            ("spawn-version", env!("CARGO_PKG_VERSION").to_owned()),
        ];
        let mut message = original(letter, self.topic(letter));
        message.headers.extend(added.map(|(name, value)| (name.to_owned(), value.into())));
        message
    }

    async fn purge(&mut self) -> Result<(), Trouble> {
        let dlq = &self.settings.dlq;
        if dlq.retention_days == 0 || self.purged.is_some_and(|at| at.elapsed() < PURGE_EVERY) {
            return Ok(());
        }
        self.purged = Some(Instant::now());
        let older_than = Duration::from_secs(u64::from(dlq.retention_days) * 86_400);
        let purge = Purge { older_than, code: None, keep_unpublished: dlq.relay };
        let purged = self.store.purge(&purge).await?;
        if purged > 0 {
            tracing::info!(purged, days = dlq.retention_days, "payloads of old dead letters removed");
        }
        Ok(())
    }
}

impl std::fmt::Debug for Publisher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Publisher")
    }
}

/// A dead letter's original key, value and headers as a record for a topic.
pub fn original(letter: &Letter, topic: String) -> Message {
    let record = &letter.record;
    let headers = record.headers.iter().map(|(name, value)| (name.clone(), Bytes::copy_from_slice(value)));
    Message {
        topic,
        key: record.key.clone().map(Bytes::from),
        value: record.value.clone().map(Bytes::from),
        headers: headers.collect(),
    }
}
