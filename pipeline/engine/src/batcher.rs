//! Entries become commit units.
//!
//! A unit is what one transaction writes: a window of a few model calls. It leaves when it is full, when its first record has waited
//! for the linger time, when somebody wants it flushed, or when memory runs short - but never before there is a place for it
//! downstream, so that it goes on growing for as long as it would only wait there. How large it may grow and how long it lingers
//! moves where records have to be on time; see `pace`.

use crate::budget::Share;
use crate::claims::Claims;
use crate::meter::{Meter, State};
use crate::pace::Pace;
use crate::prepare::Ready;
use crate::steps::reached;
use crate::telemetry::Stats;
use spawn_core::{Batch, Body, Entry, Progress, Step};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::{Receiver, Sender};
use tokio::time::Instant;

/// When a commit unit is full, and how long its first record waits for company.
#[derive(Clone, Copy, Debug)]
pub struct UnitLimits {
    /// Most records.
    pub records_max: usize,
    /// Most chunks; one record with more makes a unit of its own.
    pub chunks_max: usize,
    /// Most cost, as the sum of chunks' lengths.
    pub cost_max: usize,
    /// Most bytes of features and original values.
    pub bytes_max: usize,
    /// Longest wait of the first record.
    pub linger: Duration,
}

/// Cuts units until the input ends.
pub(crate) async fn batched(
    mut entries: Receiver<Entry<Ready>>,
    out: Sender<Batch<Ready>>,
    (limits, pace): (UnitLimits, Arc<Pace>),
    decoded: Share,
    claims: Claims,
    meter: Arc<Meter>,
    stats: Arc<Stats>,
) {
    let mut unit = Unit::new(limits, pace, claims);
    let mut reason = None;
    let mut open = true;
    while open || !unit.is_empty() {
        reason = reason.or_else(|| unit.due(open));
        meter.enter(if reason.is_some() { State::Blocked } else { State::Starved });
        tokio::select! {
            biased;
            permit = out.reserve(), if reason.is_some() => {
                let Ok(permit) = permit else { return };
                meter.enter(State::Busy);
                reached("batched");
                let waited = unit.since.elapsed();
                if let Some(batch) = unit.cut() {
                    stats.dispatched(reason.unwrap_or("end"), batch.envelopes.len());
                    stats.stage_took("batch", waited);
                    meter.add_items(batch.envelopes.len() as u64);
                    permit.send(batch);
                }
                reason = None;
            }
            entry = entries.recv(), if open && !unit.is_full() => match entry {
                Some(entry) => unit.push(entry),
                None => open = false,
            },
            () = tokio::time::sleep_until(unit.deadline()), if reason.is_none() && !unit.is_empty() => reason = Some("linger"),
            () = decoded.pressed(), if reason.is_none() && !unit.is_empty() => reason = Some("memory"),
        }
    }
}

/// The unit that is growing, and how far each partition was cut.
struct Unit {
    limits: UnitLimits,
    pace: Arc<Pace>,
    claims: Claims,
    entries: Vec<Entry<Ready>>,
    since: Instant,
    records: usize,
    chunks: usize,
    cost: usize,
    bytes: usize,
    flush: bool,
    progress: Progress,
}

impl Unit {
    fn new(limits: UnitLimits, pace: Arc<Pace>, claims: Claims) -> Self {
        Self {
            limits,
            pace,
            claims,
            entries: Vec::new(),
            since: Instant::now(),
            records: 0,
            chunks: 0,
            cost: 0,
            bytes: 0,
            flush: false,
            progress: Progress::default(),
        }
    }

    fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn is_full(&self) -> bool {
        self.records >= self.pace.records_max()
            || self.chunks >= self.limits.chunks_max
            || self.cost >= self.limits.cost_max
            || self.bytes >= self.limits.bytes_max
    }

    fn due(&self, open: bool) -> Option<&'static str> {
        match self {
            _ if self.is_empty() => None,
            _ if self.is_full() => Some("full"),
            _ if self.flush => Some("flush"),
            _ if !open => Some("end"),
            _ => None,
        }
    }

    fn deadline(&self) -> Instant {
        self.since + self.pace.linger()
    }

    fn push(&mut self, entry: Entry<Ready>) {
        if !self.claims.is_current(entry.partition(), entry.claim()) {
            return;
        }
        if self.is_empty() {
            self.since = Instant::now();
        }
        match &entry {
            Entry::Mark(mark) => self.flush |= mark.flushed.is_some(),
            Entry::Item(envelope) => {
                self.records += 1;
                self.bytes += envelope.record.value.as_ref().map_or(0, |v| v.len());
                if let Body::Work(ready) = &envelope.body {
                    self.chunks += ready.chunks().len();
                    self.cost += ready.chunks().iter().map(spawn_core::Features::length).sum::<usize>();
                    self.bytes += ready.chunks().iter().map(spawn_core::Features::bytes).sum::<usize>();
                }
            }
        }
        self.entries.push(entry);
    }

    /// Takes everything out as one batch; `None` when nothing in it is worth a transaction.
    fn cut(&mut self) -> Option<Batch<Ready>> {
        let mut batch = Batch {
            envelopes: Vec::with_capacity(self.records),
            delta: Default::default(),
            flushed: Vec::new(),
        };
        // One table for the whole cut: a claim that came in between would mix with the one before.
        let held = self.claims.lock();
        for entry in std::mem::take(&mut self.entries) {
            let step = Step {
                partition: entry.partition(),
                claim: entry.claim(),
                position: entry.position_after(),
                ordinal: entry.ordinal(),
            };
            // Since push the partition may have been lost; its next owner reads these records again.
            if !self.progress.settle(&held, &mut batch.delta, step) {
                continue;
            }
            match entry {
                Entry::Item(envelope) => batch.envelopes.push(envelope),
                Entry::Mark(mark) => batch.flushed.extend(mark.flushed),
            }
        }
        drop(held);
        (self.records, self.chunks, self.cost, self.bytes, self.flush) = (0, 0, 0, 0, false);
        batch.delta.retain(|_, span| span.to > span.from);
        (!batch.delta.is_empty() || !batch.flushed.is_empty()).then_some(batch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::write::tests::{CLAIM, claimed, entry_at, mark_at};
    use spawn_core::{Claim, PartitionSpan};

    fn unit() -> Unit {
        let claims = Claims::default();
        claims.insert(&[claimed(0, 10), claimed(1, 0)]);
        let limits = UnitLimits {
            records_max: 3,
            chunks_max: 100,
            cost_max: 1000,
            bytes_max: 1 << 20,
            linger: Duration::from_secs(1),
        };
        Unit::new(limits, Arc::new(Pace::new(&limits)), claims)
    }

    #[test]
    fn spans_tile_across_holes_and_units() {
        let mut unit = unit();
        unit.push(entry_at(0, 12, 1)); // 10 and 11 are a hole (compaction)
        unit.push(entry_at(1, 0, 1));
        let first = unit.cut().expect("has records");
        assert_eq!(first.delta[&0], PartitionSpan { from: 10, to: 13, claim: CLAIM, records: 1 });
        unit.push(entry_at(0, 20, 2));
        unit.push(mark_at(0, 25, 2)); // aborted records up to 25
        let second = unit.cut().expect("has records");
        assert_eq!(second.delta[&0], PartitionSpan { from: 13, to: 25, claim: CLAIM, records: 1 });
        assert!(!second.delta.contains_key(&1));
    }

    #[test]
    fn a_record_lost_inside_the_line_shows_in_the_count() {
        let mut unit = unit();
        unit.push(entry_at(1, 0, 1));
        unit.push(entry_at(1, 2, 3)); // ordinal 2 never arrived
        let batch = unit.cut().expect("has records");
        assert_eq!((batch.envelopes.len(), batch.delta[&1].records), (2, 3));
    }

    #[test]
    fn stale_entries_are_left_out_and_a_new_claim_starts_at_its_position() {
        let mut unit = unit();
        unit.push(entry_at(0, 10, 1));
        let newer = spawn_core::Claimed { claim: Claim { epoch: 2, token: 9 }, ..claimed(0, 10) };
        unit.claims.insert(&[newer]);
        assert!(unit.cut().is_none(), "only stale records");
        let mut entry = entry_at(0, 10, 1);
        if let Entry::Item(envelope) = &mut entry {
            envelope.record.claim = newer.claim;
        }
        unit.push(entry);
        assert_eq!(unit.cut().expect("has a record").delta[&0].from, 10);
    }

    #[test]
    fn a_mark_that_moves_nothing_costs_no_transaction() {
        let mut unit = unit();
        unit.push(mark_at(0, 10, 0));
        assert!(unit.cut().is_none());
    }
}
