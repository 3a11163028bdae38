//! What the group tells the poll thread, and what is known of each partition that it gave us.
//!
//! The callback runs inside `poll`, on the poll thread, and other partitions stand still meanwhile. An assignment is therefore only noted:
//! the group is told at once that it was heard (with an empty list, else it would wait for us and take no part in the next rebalance),
//! and a partition joins the client's assignment when it has been claimed, however long that takes. Lists may be empty: that is
//! ordinary with the cooperative protocol, and has to be answered all the same.
//!
//! A revocation is acted on at once, because closing hangs otherwise; it first gives the line two seconds to write what it has. Only
//! partitions that were started are in the client's assignment; unassigning any other refuses the whole list, and with it the answer.

use crate::outbox::{Outbox, Parcel};
use rdkafka::client::ClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::RDKafkaRespErr;
use spawn_core::{Claim, Event, Hold};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::mpsc::Sender;

/// Longest wait for the line to write what it has of revoked partitions.
const FLUSH_MAX: Duration = Duration::from_secs(2);

/// Longest wait for the group's offsets. Other partitions stand still meanwhile.
const COMMITTED_MAX: Duration = Duration::from_secs(1);

/// The consumer with our callbacks.
pub(crate) type Client = BaseConsumer<Group>;

/// A partition that the group gave us.
#[derive(Debug)]
pub(crate) enum Owned {
    /// The line does not know of it yet.
    New,
    /// The line was told and is claiming it.
    Announced,
    /// Claimed, and in the client's assignment.
    Reading(Reading),
}

/// How far a partition was read under its claim.
#[derive(Debug)]
pub(crate) struct Reading {
    pub(crate) claim: Claim,
    /// Records polled under the claim.
    pub(crate) ordinal: u64,
    /// Next offset to read.
    pub(crate) position: i64,
    /// Position of the last end-of-partition mark.
    pub(crate) marked: Option<i64>,
}

/// State shared by the callback and the poll loop. Both run on one thread; the locks are never contended.
pub(crate) struct Group {
    pub(crate) outbox: Outbox,
    pub(crate) owned: Mutex<BTreeMap<i32, Owned>>,
    /// Reading was stopped for good; the line only drains.
    pub(crate) stopping: AtomicBool,
}

impl Group {
    pub(crate) fn new(events_tx: Sender<Parcel>) -> Self {
        Self { outbox: Outbox::new(events_tx), owned: Mutex::default(), stopping: AtomicBool::new(false) }
    }

    /// Forgets partitions and tells the line, which may still write what it has of them unless they are lost.
    fn leave(&self, partitions: &[i32], lost: bool) {
        let left: Vec<(i32, Owned)> = {
            let mut owned = lock(&self.owned);
            partitions.iter().filter_map(|p| owned.remove_entry(p)).collect()
        };
        let told: Vec<i32> =
            left.iter().filter(|(_, state)| !matches!(state, Owned::New)).map(|(p, _)| *p).collect();
        if told.is_empty() {
            return;
        }
        if lost {
            self.outbox.post(Event::Lost(told));
            return;
        }
        let (flushed_tx, flushed_rx) = sync_channel::<()>(1);
        self.outbox.post(Event::Revoked { partitions: told, flushed: Hold::new(Flushed(flushed_tx)) });
        // Nothing to wait for: no record of them was read, or the line has been told that nothing more comes.
        if self.stopping.load(Relaxed) || !left.iter().any(|(_, state)| matches!(state, Owned::Reading(_))) {
            return;
        }
        let deadline = Instant::now() + FLUSH_MAX;
        while Instant::now() < deadline {
            if !self.outbox.deliver() {
                return;
            }
            // The hold is dropped once the line has written everything before it; its channel is disconnected then.
            match flushed_rx.recv_timeout(Duration::from_millis(5)) {
                Err(RecvTimeoutError::Timeout) => {}
                Ok(()) | Err(RecvTimeoutError::Disconnected) => return,
            }
        }
        tracing::warn!(
            "the line did not flush revoked partitions in time, their next owner reads the rest again"
        );
    }
}

/// Disconnects when dropped; nothing is ever sent.
struct Flushed(#[allow(dead_code, reason = "only its drop matters")] SyncSender<()>);

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes those of `partitions` that are in the client's assignment out of it. Also an empty list is an answer to the group.
pub(crate) fn unassign(consumer: &Client, partitions: &[i32]) -> KafkaResult<()> {
    let mut list = TopicPartitionList::new();
    for element in consumer.assignment()?.elements() {
        if partitions.contains(&element.partition()) {
            list.add_partition(element.topic(), element.partition());
        }
    }
    consumer.incremental_unassign(&list)
}

/// What the group has committed, as far as it answers in time: only to notice a store that was set back.
pub(crate) fn committed(consumer: &Client, topic: &str, partitions: &[i32]) -> BTreeMap<i32, i64> {
    let mut list = TopicPartitionList::new();
    for partition in partitions {
        list.add_partition(topic, *partition);
    }
    match consumer.committed_offsets(list, COMMITTED_MAX) {
        Ok(answered) => {
            let offset = |offset| if let Offset::Offset(offset) = offset { Some(offset) } else { None };
            let elements = answered.elements();
            elements.iter().filter_map(|e| Some((e.partition(), offset(e.offset())?))).collect()
        }
        Err(error) => {
            tracing::debug!(%error, "the group's offsets are not known");
            BTreeMap::new()
        }
    }
}

impl ClientContext for Group {
    fn error(&self, error: KafkaError, reason: &str) {
        // The end of a partition is told like an error, and is none.
        if error.rdkafka_error_code() != Some(RDKafkaErrorCode::PartitionEOF) {
            tracing::warn!(%error, reason, "kafka client trouble");
        }
    }
}

impl ConsumerContext for Group {
    fn rebalance(&self, consumer: &Client, code: RDKafkaRespErr, list: &mut TopicPartitionList) {
        let partitions: Vec<i32> = list.elements().iter().map(|e| e.partition()).collect();
        let answered = if code == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            tracing::debug!(?partitions, "partitions come");
            let mut owned = lock(&self.owned);
            for partition in &partitions {
                owned.entry(*partition).or_insert(Owned::New);
            }
            drop(owned);
            consumer.incremental_assign(&TopicPartitionList::new())
        } else {
            let lost = consumer.assignment_lost();
            tracing::debug!(?partitions, lost, "partitions leave");
            self.leave(&partitions, lost);
            unassign(consumer, &partitions)
        };
        if let Err(error) = answered {
            // The client goes on only once it got an answer: without one this member would be stuck, silently.
            tracing::error!(%error, ?partitions, "the rebalance was not answered");
            self.outbox.fault(crate::errors::fault("answering a rebalance", &error));
        }
    }
}
