//! What the group tells the poll thread, and where it is kept until that thread acts on it.
//!
//! The callback runs inside `poll`, on the poll thread. An assignment is only noted: its positions lie in the database, and other
//! partitions stand still while the callback runs. A revocation is acted on at once, because closing hangs otherwise; it first gives
//! the line two seconds to write what it has.

use rdkafka::client::ClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::topic_partition_list::TopicPartitionList;
use rdkafka::types::RDKafkaRespErr;
use spawn_core::{Event, Fault, Hold};
use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::mpsc::Sender;
use tokio::sync::mpsc::error::TrySendError;

/// Longest wait for the line to write what it has of revoked partitions.
const FLUSH_MAX: Duration = Duration::from_secs(2);

/// The consumer with our callbacks.
pub(crate) type Client = BaseConsumer<Group>;

/// State shared by the callback and the poll loop. Both run on one thread; the locks are never contended.
pub(crate) struct Group {
    outbox: Mutex<VecDeque<Parcel>>,
    events_tx: Sender<Parcel>,
    /// Given to us by the group.
    pub(crate) owned: Mutex<BTreeSet<i32>>,
    /// Those of them that the line does not know yet.
    pub(crate) assigned: Mutex<BTreeSet<i32>>,
    /// Taken from us; the loop forgets their claims.
    pub(crate) gone: Mutex<Vec<i32>>,
    /// Bytes in events that the line has not taken yet.
    pub(crate) queued_bytes: Arc<AtomicUsize>,
}

/// An event and the bytes that it keeps in the queue.
pub(crate) type Parcel = (Result<Event, Fault>, usize);

impl Group {
    pub(crate) fn new(events_tx: Sender<Parcel>) -> Self {
        Self {
            outbox: Mutex::default(),
            events_tx,
            owned: Mutex::default(),
            assigned: Mutex::default(),
            gone: Mutex::default(),
            queued_bytes: Arc::default(),
        }
    }

    /// Queues an event behind those that wait already.
    pub(crate) fn post(&self, event: Result<Event, Fault>, bytes: usize) {
        self.queued_bytes.fetch_add(bytes, Relaxed);
        lock(&self.outbox).push_back((event, bytes));
        self.deliver();
    }

    /// Hands over what the line has room for. `false` once nobody listens any more.
    pub(crate) fn deliver(&self) -> bool {
        let mut outbox = lock(&self.outbox);
        while let Some(parcel) = outbox.pop_front() {
            match self.events_tx.try_send(parcel) {
                Ok(()) => {}
                Err(TrySendError::Full(parcel)) => {
                    outbox.push_front(parcel);
                    return true;
                }
                Err(TrySendError::Closed(_)) => return false,
            }
        }
        true
    }

    fn revoke(&self, partitions: Vec<i32>, lost: bool) {
        lock(&self.owned).retain(|p| !partitions.contains(p));
        lock(&self.assigned).retain(|p| !partitions.contains(p));
        lock(&self.gone).extend(&partitions);
        if lost {
            self.post(Ok(Event::Lost(partitions)), 0);
            return;
        }
        // The hold is dropped once the line has written everything before it; its channel is disconnected then.
        let (flushed_tx, flushed_rx) = sync_channel::<()>(1);
        self.post(Ok(Event::Revoked { partitions, flushed: Hold::new(Flushed(flushed_tx)) }), 0);
        let deadline = Instant::now() + FLUSH_MAX;
        while Instant::now() < deadline {
            if !self.deliver() {
                return;
            }
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

impl ClientContext for Group {
    fn error(&self, error: rdkafka::error::KafkaError, reason: &str) {
        tracing::warn!(%error, reason, "kafka client trouble");
    }
}

impl ConsumerContext for Group {
    fn rebalance(&self, consumer: &Client, code: RDKafkaRespErr, list: &mut TopicPartitionList) {
        let partitions: Vec<i32> = list.elements().iter().map(|e| e.partition()).collect();
        if code == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            tracing::debug!(?partitions, "assigned");
            lock(&self.owned).extend(&partitions);
            lock(&self.assigned).extend(partitions);
            return;
        }
        // Empty lists are ordinary with the cooperative protocol.
        if !partitions.is_empty() {
            let lost = consumer.assignment_lost();
            tracing::info!(?partitions, lost, "partitions leave");
            self.revoke(partitions, lost);
        }
        // Partitions that were assigned but never started are unknown to the client: that is no error here.
        if let Err(error) = consumer.incremental_unassign(list) {
            tracing::debug!(%error, "unassign");
        }
    }
}
