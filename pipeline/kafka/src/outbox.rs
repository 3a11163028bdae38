//! Events on their way to the line.
//!
//! The poll thread never waits for the line. What finds no room in the channel waits here; its bytes count against the budget, at which the
//! poll thread pauses reading, so this queue is bounded by the same number. Records are gathered into one event until something else has
//! to be said: a revocation must not overtake the records that were polled before it.

use crate::rebalance::lock;
use spawn_core::{Envelope, Event, Fault, Payload};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use tokio::sync::mpsc::Sender;
use tokio::sync::mpsc::error::TrySendError;

/// Most records handed over at once: enough to spare wake-ups, few enough to be fair between partitions.
pub(crate) const RECORDS_PER_EVENT: usize = 64;
/// Most bytes handed over at once, unless one record alone has more.
const BYTES_PER_EVENT: usize = 4 << 20;
/// What an event costs beside keys, values and headers, so that many small ones have a bound too.
const OVERHEAD_BYTES: usize = 512;

/// An event and the bytes that it keeps in the queue.
pub(crate) type Parcel = (Result<Event, Fault>, usize);

/// See the module.
pub(crate) struct Outbox {
    inner: Mutex<Inner>,
    events_tx: Sender<Parcel>,
    /// Bytes in events that the line has not taken yet.
    queued_bytes: Arc<AtomicUsize>,
}

#[derive(Default)]
struct Inner {
    waiting: VecDeque<Parcel>,
    gathered: Vec<Envelope<Payload>>,
    gathered_bytes: usize,
    ended: bool,
}

impl Outbox {
    pub(crate) fn new(events_tx: Sender<Parcel>) -> Self {
        Self { inner: Mutex::default(), events_tx, queued_bytes: Arc::default() }
    }

    /// The count of bytes that wait; whoever takes an event subtracts its bytes.
    pub(crate) fn queued_bytes(&self) -> Arc<AtomicUsize> {
        self.queued_bytes.clone()
    }

    /// Bytes that wait.
    pub(crate) fn bytes(&self) -> usize {
        self.queued_bytes.load(Relaxed)
    }

    /// Adds a record to the event that is being gathered. `false` once that is full.
    pub(crate) fn gather(&self, envelope: Envelope<Payload>) -> bool {
        let bytes = size(&envelope);
        self.queued_bytes.fetch_add(bytes, Relaxed);
        let mut inner = lock(&self.inner);
        inner.gathered.push(envelope);
        inner.gathered_bytes += bytes;
        inner.gathered.len() < RECORDS_PER_EVENT && inner.gathered_bytes < BYTES_PER_EVENT
    }

    /// Closes the event that is being gathered. Returns the timestamp of its oldest record and its bytes.
    pub(crate) fn hand_over(&self) -> Option<(i64, usize)> {
        let handed = lock(&self.inner).close();
        self.deliver();
        handed
    }

    /// Queues an event behind everything before it. After the end nothing is queued.
    pub(crate) fn post(&self, event: Event) {
        let mut inner = lock(&self.inner);
        if inner.ended {
            return;
        }
        inner.close();
        inner.ended = matches!(event, Event::End);
        self.queued_bytes.fetch_add(OVERHEAD_BYTES, Relaxed);
        inner.waiting.push_back((Ok(event), OVERHEAD_BYTES));
        drop(inner);
        self.deliver();
    }

    /// Queues a fault, unless one waits already: while the line does not listen, the first says enough.
    pub(crate) fn fault(&self, fault: Fault) {
        let mut inner = lock(&self.inner);
        if inner.ended || inner.waiting.iter().any(|(event, _)| event.is_err()) {
            drop(inner);
            tracing::debug!(%fault, "kafka fault while another waits");
            return;
        }
        inner.close();
        inner.waiting.push_back((Err(fault), 0));
        drop(inner);
        self.deliver();
    }

    /// Hands over what the line has room for. `false` once nobody listens any more.
    pub(crate) fn deliver(&self) -> bool {
        let mut inner = lock(&self.inner);
        while let Some(parcel) = inner.waiting.pop_front() {
            match self.events_tx.try_send(parcel) {
                Ok(()) => {}
                Err(TrySendError::Full(parcel)) => {
                    inner.waiting.push_front(parcel);
                    return true;
                }
                Err(TrySendError::Closed(_)) => return false,
            }
        }
        !self.events_tx.is_closed()
    }
}

impl Inner {
    fn close(&mut self) -> Option<(i64, usize)> {
        let oldest = self.gathered.first()?.record.timestamp_ms;
        let bytes = std::mem::take(&mut self.gathered_bytes);
        self.waiting.push_back((Ok(Event::Records(std::mem::take(&mut self.gathered))), bytes));
        Some((oldest, bytes))
    }
}

fn size(envelope: &Envelope<Payload>) -> usize {
    let record = &envelope.record;
    let headers: usize = record.headers.iter().map(|(key, value)| key.len() + value.len()).sum();
    OVERHEAD_BYTES
        + record.key.as_ref().map_or(0, |k| k.len())
        + record.value.as_ref().map_or(0, |v| v.len())
        + headers
}
