//! Parallel work whose results leave in the order of each partition.
//!
//! A partition that waits for a slow record does not hold up the others. At most `window` entries are inside at once,
//! finished or not, so a slow head also bounds what piles up behind it.

use crate::meter::{Meter, State};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use spawn_core::{Entry, Envelope};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use tokio::sync::mpsc::{Receiver, Sender};

/// Applies `work` to every item of `entries`; marks pass in their place. Ends when the input has ended and all is sent, or when
/// nobody listens any more.
pub async fn map_ordered<A, B, F>(
    mut entries: Receiver<Entry<A>>,
    out: Sender<Entry<B>>,
    window: usize,
    meter: Arc<Meter>,
    work: impl Fn(Envelope<A>) -> F,
) where
    F: Future<Output = Envelope<B>>,
{
    let mut running = FuturesUnordered::new();
    let mut lanes = Lanes::default();
    let mut open = true;
    while open || !running.is_empty() || lanes.has_ready() {
        meter.enter(match (running.is_empty(), lanes.has_ready()) {
            (false, _) => State::Busy,
            (true, true) => State::Blocked,
            (true, false) => State::Starved,
        });
        tokio::select! {
            biased;
            permit = out.reserve(), if lanes.has_ready() => {
                let Ok(permit) = permit else { return };
                let entry = lanes.pop_ready().expect("checked by the guard. This is a bug.");
                meter.add_items(u64::from(matches!(entry, Entry::Item(_))));
                permit.send(entry);
            }
            Some((ticket, done)) = running.next(), if !running.is_empty() => lanes.finish(ticket, Entry::Item(done)),
            entry = entries.recv(), if open && lanes.len() < window => match entry {
                None => open = false,
                Some(Entry::Mark(mark)) => {
                    let ticket = lanes.enter(mark.partition);
                    lanes.finish(ticket, Entry::Mark(mark));
                }
                Some(Entry::Item(envelope)) => {
                    let ticket = lanes.enter(envelope.record.origin.partition);
                    let future = work(envelope);
                    running.push(async move { (ticket, future.await) });
                }
            },
        }
    }
}

/// A place in a partition's queue.
#[derive(Clone, Copy, Debug)]
struct Ticket {
    partition: i32,
    number: u64,
}

/// One queue per partition, and what may leave now.
struct Lanes<T> {
    lanes: HashMap<i32, Lane<T>>,
    ready: VecDeque<T>,
    inside: usize,
}

struct Lane<T> {
    first: u64,
    slots: VecDeque<Option<T>>,
}

impl<T> Default for Lanes<T> {
    fn default() -> Self {
        Self { lanes: HashMap::new(), ready: VecDeque::new(), inside: 0 }
    }
}

impl<T> Lanes<T> {
    fn len(&self) -> usize {
        self.inside
    }

    fn enter(&mut self, partition: i32) -> Ticket {
        let lane = self.lanes.entry(partition).or_insert_with(|| Lane { first: 0, slots: VecDeque::new() });
        lane.slots.push_back(None);
        self.inside += 1;
        Ticket { partition, number: lane.first + lane.slots.len() as u64 - 1 }
    }

    fn finish(&mut self, ticket: Ticket, value: T) {
        let lane = self.lanes.get_mut(&ticket.partition).expect("a ticket's lane exists. This is a bug.");
        lane.slots[(ticket.number - lane.first) as usize] = Some(value);
        while let Some(Some(_)) = lane.slots.front() {
            self.ready.extend(lane.slots.pop_front().flatten());
            lane.first += 1;
        }
    }

    fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    fn pop_ready(&mut self) -> Option<T> {
        let value = self.ready.pop_front()?;
        self.inside -= 1;
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::write::tests::{envelope, offsets_by_partition};
    use std::time::Duration;
    use tokio::sync::mpsc;

    /// Records with odd offsets take long; partition 1 has only quick ones.
    async fn run(window: usize, count: i64) -> Vec<Entry<i64>> {
        let (in_tx, in_rx) = mpsc::channel(8);
        let (out_tx, mut out_rx) = mpsc::channel(1);
        let meter = Arc::new(Meter::new("test"));
        tokio::spawn(map_ordered(in_rx, out_tx, window, meter, |e: Envelope<()>| async move {
            if e.origin().partition == 0 && e.origin().offset % 2 == 1 {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            let offset = e.origin().offset;
            e.try_map(|()| Ok::<_, spawn_core::Rejection>(offset))
        }));
        tokio::spawn(async move {
            for offset in 0..count {
                for partition in 0..2 {
                    drop(in_tx.send(Entry::Item(envelope(partition, offset))).await);
                }
            }
        });
        let mut all = Vec::new();
        while let Some(entry) = out_rx.recv().await {
            all.push(entry);
        }
        all
    }

    #[tokio::test(start_paused = true)]
    async fn each_partition_keeps_its_order_and_none_is_lost() {
        let all = run(16, 40).await;
        for (_, offsets) in offsets_by_partition(&all) {
            assert_eq!(offsets, (0..40).collect::<Vec<_>>());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_partition_does_not_hold_up_the_other() {
        let all = run(16, 4).await;
        let order: Vec<(i32, i64)> =
            all.iter().map(|e| (e.partition(), e.position_after().map_or(0, |p| p - 1))).collect();
        let place = |wanted| order.iter().position(|o| *o == wanted).expect("is there");
        assert!(place((1, 3)) < place((0, 1)), "partition 1 waited for partition 0: {order:?}");
    }
}
