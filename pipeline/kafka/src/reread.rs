//! Reading what a topic still has, beside the line and without a group: one record again, or the offsets of a range.

use crate::config::reader;
use crate::errors::fault;
use crate::stamp::{Parts, copy};
use bytes::Bytes;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::{Offset, TopicPartitionList};
use spawn_core::{Fault, FaultClass};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Offsets of one portion: 80 kB.
const PORTION_OFFSETS: usize = 10_000;
/// Portions that wait for whoever compares them.
const PORTIONS_MAX: usize = 2;
/// Longest silence of the brokers.
const SILENCE_MAX: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(100);

/// Which brokers, and how.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// Bootstrap brokers.
    pub brokers: String,
    /// Any other librdkafka setting.
    pub properties: BTreeMap<String, String>,
}

/// A record as it lies in its topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRecord {
    /// The key.
    pub key: Option<Bytes>,
    /// The value; `None` is a tombstone.
    pub value: Option<Bytes>,
    /// The headers in order.
    pub headers: Vec<(String, Bytes)>,
    /// Milliseconds since 1970-01-01 UTC.
    pub timestamp_ms: i64,
}

/// The offsets of the committed records in `[from, to)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OffsetPortion {
    /// First position.
    pub from: i64,
    /// Next position after it.
    pub to: i64,
    /// Rising.
    pub offsets: Vec<i64>,
}

/// Reads the offsets of `[from, to)` again, which must lie within what the topic has. Portions follow each other without a gap; the last one
/// ends at `to`. Payloads are dropped as they come.
pub fn offsets(
    cluster: &Cluster,
    topic: &str,
    partition: i32,
    (from, to): (i64, i64),
) -> Result<mpsc::Receiver<Result<OffsetPortion, Fault>>, Fault> {
    let consumer = assigned(cluster, topic, partition, from)?;
    let (portions_tx, portions_rx) = mpsc::channel(PORTIONS_MAX);
    spawn("reread", move || {
        let mut portion = OffsetPortion { from, to: from, offsets: Vec::new() };
        let read = each(&consumer, |message| {
            let offset = message.offset();
            if offset >= to {
                return false;
            }
            portion.offsets.push(offset);
            portion.to = offset + 1;
            if portion.offsets.len() < PORTION_OFFSETS && offset + 1 < to {
                return true;
            }
            let next = OffsetPortion { from: portion.to, to: portion.to, offsets: Vec::new() };
            let full = std::mem::replace(&mut portion, next);
            // Nobody listens any more.
            portions_tx.blocking_send(Ok(full)).is_ok() && offset + 1 < to
        });
        portion.to = to;
        let last = read.map(|()| portion);
        // As above: who has gone wants no answer.
        let _gone = portions_tx.blocking_send(last);
    })?;
    Ok(portions_rx)
}

/// The record at this place; `None` where the topic does not have it any more.
pub async fn record_at(
    cluster: &Cluster,
    topic: &str,
    partition: i32,
    offset: i64,
) -> Result<Option<StoredRecord>, Fault> {
    let consumer = assigned(cluster, topic, partition, offset)?;
    let (answer_tx, answer_rx) = tokio::sync::oneshot::channel();
    spawn("record-at", move || {
        let mut found = None;
        let read = each(&consumer, |message| {
            found = (message.offset() == offset).then(|| {
                let Parts { key, value, headers, .. } = copy(message);
                let timestamp_ms = message.timestamp().to_millis().unwrap_or(0);
                StoredRecord { key, value, headers, timestamp_ms }
            });
            false
        });
        // Whoever asked may have gone.
        let _gone = answer_tx.send(read.map(|()| found));
    })?;
    answer_rx.await.map_err(|_| Fault::new(FaultClass::Systemic, "kafka", "the asking thread ended"))?
}

fn assigned(cluster: &Cluster, topic: &str, partition: i32, from: i64) -> Result<BaseConsumer, Fault> {
    let consumer: BaseConsumer = reader(&cluster.brokers, &cluster.properties)
        .create()
        .map_err(|e| fault("cannot create the consumer; check kafka.properties", &e))?;
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, partition, Offset::Offset(from))
        .and_then(|()| consumer.assign(&list))
        .map_err(|e| fault("cannot read the topic again", &e))?;
    Ok(consumer)
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), Fault> {
    let started = std::thread::Builder::new().name(name.into()).spawn(work);
    started
        .map(drop)
        .map_err(|e| Fault::new(FaultClass::Operator, "kafka", format!("cannot start a thread: {e}")))
}

/// Hands out records until `more` is false or the partition ends. An offset that the topic does not have is an end as well.
fn each(consumer: &BaseConsumer, mut more: impl FnMut(&BorrowedMessage<'_>) -> bool) -> Result<(), Fault> {
    let mut heard = Instant::now();
    let mut last_error = None;
    loop {
        match consumer.poll(POLL) {
            Some(Ok(message)) => {
                if !more(&message) {
                    return Ok(());
                }
                // Only now: the time that the other side needs is not the brokers' silence.
                heard = Instant::now();
            }
            Some(Err(KafkaError::PartitionEOF(_))) => return Ok(()),
            Some(Err(error)) => match error.rdkafka_error_code() {
                Some(RDKafkaErrorCode::OffsetOutOfRange | RDKafkaErrorCode::AutoOffsetReset) => return Ok(()),
                _ => last_error = Some(error),
            },
            None => {}
        }
        if heard.elapsed() > SILENCE_MAX {
            let seconds = SILENCE_MAX.as_secs();
            let why = last_error.map_or_else(String::new, |e| format!(": {e}"));
            let detail = format!("no record from Kafka within {seconds} s{why}; is it running?");
            return Err(Fault::new(FaultClass::Systemic, "kafka", detail));
        }
    }
}
