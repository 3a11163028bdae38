//! The poll thread: one per source, the only one that touches the consumer.
//!
//! It never waits for the line: events that find no room wait in an outbox while the partitions are paused, and polling goes on, because
//! a consumer that does not poll loses its partitions. Each record is stamped with the claim under which its partition was started.

use crate::config::{ConsumerConfig, Start};
use crate::errors::fault;
use crate::job::{Raw, parse};
use crate::rebalance::{Client, lock};
use crate::telemetry;
use bytes::Bytes;
use rdkafka::consumer::{CommitMode, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use spawn_core::{Assignment, Claim, Claimed, Envelope, Event, Origin, Payload, Record};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Most records handed over at once: enough to spare wake-ups, few enough to be fair between partitions.
pub(crate) const RECORDS_PER_EVENT: usize = 64;
/// What a record costs beside its key and value, so that many small ones have a bound too.
const RECORD_OVERHEAD_BYTES: usize = 512;
/// Longest wait for a record; also how soon a command is seen.
const POLL_MAX: Duration = Duration::from_millis(10);
/// Longest wait for an answer about watermarks. Other partitions stand still meanwhile.
const WATERMARKS_MAX: Duration = Duration::from_secs(5);
/// Between two looks at the lag.
const LAG_EVERY: Duration = Duration::from_secs(5);

/// What the source asks of the thread.
pub(crate) enum Command {
    Start(Vec<Claimed>),
    Reclaim(Vec<i32>),
    Commit(Vec<(i32, i64)>),
    Stop,
}

/// A partition that is being read.
struct Reading {
    claim: Claim,
    ordinal: u64,
    position: i64,
}

pub(crate) struct Poller {
    consumer: Client,
    config: ConsumerConfig,
    topic: Arc<str>,
    commands_rx: Receiver<Command>,
    reading: HashMap<i32, Reading>,
    paused: bool,
    stopping: bool,
    lag_seen: Instant,
}

impl Poller {
    pub(crate) fn new(consumer: Client, config: ConsumerConfig, commands_rx: Receiver<Command>) -> Self {
        let topic = config.topic.as_str().into();
        let lag_seen = Instant::now();
        Self {
            consumer,
            config,
            topic,
            commands_rx,
            reading: HashMap::new(),
            paused: false,
            stopping: false,
            lag_seen,
        }
    }

    /// Runs until the source is dropped.
    pub(crate) fn run(mut self) {
        while self.obey() {
            if !self.consumer.context().deliver() && !self.stopping {
                break;
            }
            self.forget_gone();
            self.announce();
            self.regulate();
            self.poll();
            self.report_lag();
        }
        // Leaves the group now, not after the session timeout; then the consumer is dropped, here, where a hang holds up nobody.
        self.consumer.unsubscribe();
        let deadline = Instant::now() + Duration::from_millis(500);
        while Instant::now() < deadline && self.consumer.assignment().is_ok_and(|a| a.count() > 0) {
            drop(self.consumer.poll(POLL_MAX));
        }
    }

    /// Takes all commands that wait. `false` once the source is gone.
    fn obey(&mut self) -> bool {
        loop {
            match self.commands_rx.try_recv() {
                Ok(Command::Start(claimed)) => self.start(claimed),
                Ok(Command::Reclaim(partitions)) => self.reclaim(&partitions),
                Ok(Command::Commit(positions)) => self.commit(&positions),
                Ok(Command::Stop) => self.stop(),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    fn start(&mut self, claimed: Vec<Claimed>) {
        if self.stopping {
            return;
        }
        let assigned = self.owned();
        let list = self.list(
            claimed.iter().filter(|c| assigned.contains(&c.partition)).map(|c| (c.partition, c.position)),
        );
        if list.count() == 0 {
            return;
        }
        if let Err(error) = self.consumer.incremental_assign(&list) {
            // Announced again: the line claims again, at the price of an epoch.
            self.consumer.context().post(Err(fault("cannot start reading", &error)), 0);
            lock(&self.consumer.context().assigned).extend(list.elements().iter().map(|e| e.partition()));
            return;
        }
        for Claimed { partition, claim, position } in
            claimed.into_iter().filter(|c| assigned.contains(&c.partition))
        {
            self.reading.insert(partition, Reading { claim, ordinal: 0, position });
        }
        // A pause survives revoke and assign, on either side.
        self.set_paused(self.paused);
    }

    /// Partitions that the group gave us and has not taken back.
    fn owned(&self) -> Vec<i32> {
        lock(&self.consumer.context().owned).iter().copied().collect()
    }

    fn reclaim(&mut self, partitions: &[i32]) {
        let ours: Vec<i32> = self.owned().into_iter().filter(|p| partitions.contains(p)).collect();
        let reading: Vec<i32> = ours.iter().copied().filter(|p| self.reading.remove(p).is_some()).collect();
        let list = self.list(reading.iter().map(|p| (*p, 0)));
        if let Err(error) = self.consumer.incremental_unassign(&list) {
            tracing::warn!(%error, "cannot stop reading fenced partitions");
        }
        lock(&self.consumer.context().assigned).extend(ours);
    }

    fn commit(&self, positions: &[(i32, i64)]) {
        if let Err(error) = self.consumer.commit(&self.list(positions.iter().copied()), CommitMode::Async) {
            tracing::debug!(%error, "group offsets not committed; they are for dashboards only");
        }
    }

    fn stop(&mut self) {
        if std::mem::replace(&mut self.stopping, true) {
            return;
        }
        let list = self.list(self.reading.keys().map(|p| (*p, 0)));
        self.reading.clear();
        if let Err(error) = self.consumer.incremental_unassign(&list) {
            tracing::debug!(%error, "unassign");
        }
        self.consumer.context().post(Ok(Event::End), 0);
    }

    fn forget_gone(&mut self) {
        for partition in lock(&self.consumer.context().gone).drain(..) {
            self.reading.remove(&partition);
        }
    }

    /// Tells the line of new partitions, each with a concrete offset to start at if nobody ever claimed it.
    fn announce(&mut self) {
        let waiting: Vec<i32> = lock(&self.consumer.context().assigned).iter().copied().collect();
        if waiting.is_empty() || self.stopping {
            return;
        }
        let mut wanted = Vec::with_capacity(waiting.len());
        for partition in waiting {
            match self.consumer.fetch_watermarks(&self.topic, partition, WATERMARKS_MAX) {
                Ok((low, high)) => {
                    let first_offset = if self.config.start == Start::Latest { high } else { low };
                    wanted.push(Assignment { partition, first_offset });
                }
                Err(error) => {
                    self.consumer.context().post(Err(fault("cannot ask for watermarks", &error)), 0);
                    break;
                }
            }
        }
        let mut assigned = lock(&self.consumer.context().assigned);
        assigned.retain(|p| !wanted.iter().any(|a| a.partition == *p));
        drop(assigned);
        if !wanted.is_empty() {
            self.consumer.context().post(Ok(Event::Assigned(wanted)), 0);
        }
    }

    /// Pauses when the line has enough to do, resumes at half of that: pausing throws the prefetched records away.
    fn regulate(&mut self) {
        let queued = self.consumer.context().queued_bytes.load(Relaxed);
        let bound = if self.paused { self.config.queue_bytes_max / 2 } else { self.config.queue_bytes_max };
        let wanted = queued >= bound;
        if wanted != self.paused {
            self.paused = wanted;
            self.set_paused(wanted);
        }
    }

    fn set_paused(&self, paused: bool) {
        let list = self.list(self.reading.keys().map(|p| (*p, 0)));
        let done = if paused { self.consumer.pause(&list) } else { self.consumer.resume(&list) };
        if let Err(error) = done {
            tracing::debug!(%error, paused, "pause or resume");
        }
    }

    /// One wait for a record, then whatever is there already.
    fn poll(&mut self) {
        let (mut records, mut bytes, mut wait) = (Vec::new(), 0, POLL_MAX);
        let Self { consumer, reading, topic, .. } = self;
        let mut out_of_range = false;
        while records.len() < RECORDS_PER_EVENT {
            let Some(polled) = consumer.poll(wait) else { break };
            wait = Duration::ZERO;
            match polled {
                Ok(message) => {
                    bytes += message.payload_len() + message.key_len() + RECORD_OVERHEAD_BYTES;
                    records.extend(envelope(topic, reading, &message));
                }
                Err(KafkaError::MessageConsumption(RDKafkaErrorCode::AutoOffsetReset)) => out_of_range = true,
                Err(error) => consumer.context().post(Err(fault("polling", &error)), 0),
            }
        }
        if let Some(oldest) = records.first().map(|e: &Envelope<Payload>| e.record.timestamp_ms) {
            telemetry::oldest_unprocessed(&self.topic, age_seconds(oldest));
            telemetry::polled(&self.topic, bytes);
            self.consumer.context().post(Ok(Event::Records(records)), bytes);
        }
        if out_of_range {
            self.find_out_of_range();
        }
    }

    /// The client says that some position is not in the topic, not which; that partition stands still by itself.
    fn find_out_of_range(&mut self) {
        for (partition, reading) in &self.reading {
            let Ok((low, high)) = self.consumer.fetch_watermarks(&self.topic, *partition, WATERMARKS_MAX)
            else {
                continue;
            };
            if reading.position < low || reading.position > high {
                let event = Event::OutOfRange {
                    partition: *partition,
                    position: reading.position,
                    available: (low, high),
                };
                self.consumer.context().post(Ok(event), 0);
            }
        }
    }

    fn report_lag(&mut self) {
        if self.lag_seen.elapsed() < LAG_EVERY {
            return;
        }
        self.lag_seen = Instant::now();
        for (partition, reading) in &self.reading {
            // From the client's memory of the last fetch, no request.
            if let Some(high) = cached_high(&self.consumer, &self.topic, *partition) {
                telemetry::lag(&self.topic, *partition, (high - reading.position).max(0));
            }
        }
    }

    fn list(&self, positions: impl Iterator<Item = (i32, i64)>) -> TopicPartitionList {
        let mut list = TopicPartitionList::new();
        for (partition, position) in positions {
            if let Err(error) = list.add_partition_offset(&self.topic, partition, Offset::Offset(position)) {
                tracing::error!(%error, partition, position, "impossible position");
            }
        }
        list
    }
}

/// Stamps a record; `None` for a partition that is not ours (any more).
fn envelope(
    topic: &Arc<str>,
    reading: &mut HashMap<i32, Reading>,
    message: &BorrowedMessage<'_>,
) -> Option<Envelope<Payload>> {
    let reading = reading.get_mut(&message.partition())?;
    if message.offset() < reading.position {
        return None;
    }
    reading.ordinal += 1;
    reading.position = message.offset() + 1;
    let headers = message.headers().map_or_else(Vec::new, |headers| {
        headers
            .iter()
            .map(|h| (h.key.to_owned(), h.value.map_or_else(Bytes::new, Bytes::copy_from_slice)))
            .collect()
    });
    let record = Record {
        origin: Origin { topic: topic.clone(), partition: message.partition(), offset: message.offset() },
        claim: reading.claim,
        ordinal: reading.ordinal,
        key: message.key().map(Bytes::copy_from_slice),
        value: message.payload().map(Bytes::copy_from_slice),
        headers,
        timestamp_ms: message.timestamp().to_millis().unwrap_or(0),
    };
    let raw = Raw { topic, key: record.key.as_ref(), value: record.value.as_ref(), headers: &record.headers };
    let (job, body) = parse(raw);
    Some(Envelope::new(record, job, body))
}

/// The end of a partition as of the last fetch.
fn cached_high(consumer: &Client, topic: &str, partition: i32) -> Option<i64> {
    let topic = std::ffi::CString::new(topic).ok()?;
    let (mut low, mut high) = (-1, -1);
    // SAFETY: the client lives as long as `consumer`, the name is NUL-terminated, and both offsets are writable.
    let code = unsafe {
        rdkafka_sys::rd_kafka_get_watermark_offsets(
            consumer.client().native_ptr(),
            topic.as_ptr(),
            partition,
            &mut low,
            &mut high,
        )
    };
    (code == rdkafka_sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR && high >= 0).then_some(high)
}

/// Seconds since a record was produced.
fn age_seconds(timestamp_ms: i64) -> f64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64());
    now - timestamp_ms as f64 / 1e3
}
