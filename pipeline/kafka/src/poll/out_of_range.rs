//! Positions that the topic does not have.

use super::{Poller, RETRY_AFTER};
use crate::errors::fault;
use crate::rebalance::{Owned, lock, unassign};
use rdkafka::consumer::Consumer;
use spawn_core::Event;
use std::collections::BTreeMap;
use std::time::Instant;

impl Poller {
    /// The client says that some position is not in the topic, not which; that partition stands still by itself. So all are looked at:
    /// invalid ones are told and taken out, the others are set going again where they were.
    pub(super) fn find_out_of_range(&mut self) {
        if !self.out_of_range {
            return;
        }
        if self.topic_id().is_none() {
            return;
        }
        let context = self.consumer.context();
        let positions = self.positions();
        let partitions: Vec<i32> = positions.keys().copied().collect();
        let watermarks = self.watermarks(&partitions);
        if watermarks.len() < partitions.len() {
            self.retry_at = Instant::now() + RETRY_AFTER;
            return;
        }
        let (valid, invalid): (BTreeMap<i32, i64>, BTreeMap<i32, i64>) =
            positions.into_iter().partition(|(p, position)| {
                let (low, high) = watermarks[p];
                (low..=high).contains(position)
            });
        let list = self.list(valid.into_iter());
        let done =
            unassign(&self.consumer, &partitions).and_then(|()| self.consumer.incremental_assign(&list));
        if let Err(error) = done {
            context.outbox.fault(fault("cannot go on reading", &error));
            self.retry_at = Instant::now() + RETRY_AFTER;
            return;
        }
        self.out_of_range = false;
        self.set_paused(self.paused);
        for (partition, position) in invalid {
            lock(&context.owned).insert(partition, Owned::Announced);
            context.outbox.post(Event::OutOfRange { partition, position, available: watermarks[&partition] });
        }
    }
}
