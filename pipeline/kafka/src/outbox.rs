//! Events on their way to the line.
//!
//! The poll thread never waits for the line. What finds no room in the channel waits here; its bytes count against the budget, at which the
//! poll thread pauses reading, so this queue is bounded by the same number. Records are gathered into one event until something else has
//! to be said.
//!
//! What the group says goes before records: a claim or a flush that waited behind a full queue would come too late. Records of a
//! partition that leaves are dropped here, because its next owner reads them again; so are all records at the end.

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
    /// Assigned, revoked, lost: in their order, before everything that waits.
    urgent: VecDeque<Parcel>,
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

    /// Queues an event; see the module for its place. After the end nothing is queued.
    pub(crate) fn post(&self, event: Event) {
        let mut inner = lock(&self.inner);
        if inner.ended {
            return;
        }
        inner.close();
        let dropped = match &event {
            Event::Revoked { partitions, .. } | Event::Lost(partitions) => {
                inner.forget(|p| partitions.contains(&p))
            }
            Event::End => inner.forget(|_| true),
            _ => 0,
        };
        self.queued_bytes.fetch_sub(dropped, Relaxed);
        self.queued_bytes.fetch_add(OVERHEAD_BYTES, Relaxed);
        inner.ended = matches!(event, Event::End);
        let urgent = matches!(event, Event::Assigned(_) | Event::Revoked { .. } | Event::Lost(_));
        let queue = if urgent { &mut inner.urgent } else { &mut inner.waiting };
        queue.push_back((Ok(event), OVERHEAD_BYTES));
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
        let Inner { urgent, waiting, .. } = &mut *inner;
        for queue in [urgent, waiting] {
            while let Some(parcel) = queue.pop_front() {
                match self.events_tx.try_send(parcel) {
                    Ok(()) => {}
                    Err(TrySendError::Full(parcel)) => {
                        queue.push_front(parcel);
                        return true;
                    }
                    Err(TrySendError::Closed(_)) => return false,
                }
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

    /// Drops records and marks of these partitions that wait. Returns their bytes.
    fn forget(&mut self, leaves: impl Fn(i32) -> bool) -> usize {
        let mut dropped = 0;
        self.waiting.retain_mut(|(event, bytes)| {
            let keep = match event {
                Ok(Event::Records(envelopes)) => {
                    let before = *bytes;
                    envelopes.retain(|envelope| {
                        let leaves = leaves(envelope.record.origin.partition);
                        *bytes -= if leaves { size(envelope) } else { 0 };
                        !leaves
                    });
                    dropped += before - *bytes;
                    !envelopes.is_empty()
                }
                Ok(Event::EndOfPartition { partition, .. }) => !leaves(*partition),
                _ => true,
            };
            // An emptied event of records has given its bytes back already.
            dropped += if keep { 0 } else { std::mem::take(bytes) };
            keep
        });
        dropped
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

#[cfg(test)]
mod tests {
    use super::*;
    use spawn_core::{Assignment, Body, Claim, Hold, ItemId, Job, Origin, Record};
    use tokio::sync::mpsc::{Receiver, channel};

    fn envelope(partition: i32, offset: i64) -> Envelope<Payload> {
        let record = Record {
            origin: Origin { topic: "t".into(), partition, offset },
            claim: Claim { epoch: 1, token: 1 },
            ordinal: offset as u64 + 1,
            key: None,
            value: Some(vec![0; 1000].into()),
            headers: Vec::new(),
            timestamp_ms: 0,
        };
        let job = Job {
            id: ItemId([0; 32]),
            event_id: None,
            source: "t".into(),
            source_uri: None,
            media_type: None,
            metadata: serde_json::Map::new(),
        };
        Envelope::new(record, job, Body::Work(Payload::Inline(bytes::Bytes::new())))
    }

    /// Room for one event in the channel, which a first record takes; three of each partition wait behind it.
    fn full() -> (Outbox, Receiver<Parcel>) {
        let (events_tx, events_rx) = channel(1);
        let outbox = Outbox::new(events_tx);
        outbox.gather(envelope(9, 0));
        outbox.hand_over();
        for offset in 0..3 {
            outbox.gather(envelope(0, offset));
            outbox.gather(envelope(1, offset));
            outbox.hand_over();
        }
        (outbox, events_rx)
    }

    /// What the line hears: `+0` records of partition 0, and so on. Checks that every byte is given back.
    fn heard(outbox: &Outbox, mut events_rx: Receiver<Parcel>) -> Vec<String> {
        let mut heard = Vec::new();
        while let Ok((event, bytes)) = events_rx.try_recv() {
            outbox.queued_bytes.fetch_sub(bytes, Relaxed);
            match event.expect("no fault") {
                Event::Records(all) => heard
                    .extend(all.iter().map(|e| format!("{}@{}", e.origin().partition, e.origin().offset))),
                Event::EndOfPartition { partition, .. } => heard.push(format!("{partition} ends")),
                Event::Assigned(_) => heard.push("assigned".into()),
                Event::Revoked { .. } => heard.push("revoked".into()),
                Event::Lost(_) => heard.push("lost".into()),
                Event::OutOfRange { .. } => heard.push("out of range".into()),
                Event::End => heard.push("end".into()),
            }
            outbox.deliver();
        }
        assert_eq!(outbox.bytes(), 0);
        heard
    }

    #[test]
    fn an_assignment_does_not_wait_behind_records() {
        let (outbox, events_rx) = full();
        outbox.post(Event::Assigned(vec![Assignment::new(2, 0)]));
        assert_eq!(heard(&outbox, events_rx), ["9@0", "assigned", "0@0", "1@0", "0@1", "1@1", "0@2", "1@2"]);
    }

    #[test]
    fn what_waits_of_a_partition_that_leaves_is_dropped() {
        for (event, word) in [
            (Event::Revoked { partitions: vec![1], flushed: Hold::new(()) }, "revoked"),
            (Event::Lost(vec![1]), "lost"),
        ] {
            let (outbox, events_rx) = full();
            let claim = Claim { epoch: 1, token: 1 };
            outbox.post(Event::EndOfPartition { partition: 1, claim, position: 3, ordinal: 3 });
            outbox.post(event);
            assert_eq!(heard(&outbox, events_rx), ["9@0", word, "0@0", "0@1", "0@2"]);
        }
    }

    #[test]
    fn the_end_waits_for_nothing() {
        let (outbox, events_rx) = full();
        outbox.post(Event::End);
        outbox.post(Event::Lost(vec![0]));
        assert_eq!(heard(&outbox, events_rx), ["9@0", "end"]);
    }
}
