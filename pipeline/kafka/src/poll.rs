//! The poll thread: one per source, the only one that touches the consumer.
//!
//! It never waits for the line: events that find no room wait in the outbox, at the byte budget the partitions are paused, and polling goes
//! on, because a consumer that does not poll loses its partitions. Each record is stamped with the claim under which its partition was
//! started, and counted.

mod out_of_range;

use crate::config::{ConsumerConfig, Start};
use crate::errors::fault;
use crate::rebalance::{Client, Owned, Reading, committed, lock, unassign};
use crate::source::Rounds;
use crate::stamp::stamp;
use crate::telemetry::{self, PollTimes};
use crate::topic_id::TopicWatch;
use crate::wishes::Wishes;
use rdkafka::consumer::{CommitMode, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use spawn_core::{Assignment, Claim, Claimed, Event, Fault, FaultClass};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Longest wait for a record; also how soon a wish is seen.
const POLL_MAX: Duration = Duration::from_millis(10);
/// Longest time for questions about watermarks between two polls. Other partitions stand still meanwhile.
const WATERMARKS_MAX: Duration = Duration::from_secs(2);
/// Longest time for one of them.
const WATERMARK_MAX: Duration = Duration::from_millis(1500);
/// Before a question or an assignment that failed is tried again.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Between two reports of lag and times.
const REPORT_EVERY: Duration = Duration::from_secs(5);

pub(crate) struct Poller {
    consumer: Client,
    config: ConsumerConfig,
    topic: Arc<str>,
    wishes: Arc<Mutex<Wishes>>,
    topic_watch: Arc<TopicWatch>,
    /// The question for the topic's id whose answer is awaited.
    question: Option<u64>,
    rounds: Arc<Rounds>,
    paused: bool,
    /// The client said that some position is not in the topic; which one is to be found out.
    out_of_range: bool,
    turn: usize,
    retry_at: Instant,
    reported: Instant,
    /// Partitions whose lag was told.
    lag_told: BTreeSet<i32>,
    times: PollTimes,
}

impl Poller {
    pub(crate) fn new(
        consumer: Client,
        config: ConsumerConfig,
        (wishes, topic_watch, rounds): (Arc<Mutex<Wishes>>, Arc<TopicWatch>, Arc<Rounds>),
    ) -> Self {
        let topic = config.topic.as_str().into();
        let now = Instant::now();
        Self {
            consumer,
            config,
            topic,
            wishes,
            topic_watch,
            question: None,
            rounds,
            paused: false,
            out_of_range: false,
            turn: 0,
            retry_at: now,
            reported: now,
            lag_told: BTreeSet::new(),
            times: PollTimes::default(),
        }
    }

    /// Runs until the source is dropped. The consumer is dropped with `self`, here, where a close that hangs holds up nobody.
    pub(crate) fn run(mut self) {
        while self.obey() && self.consumer.context().outbox.deliver() {
            self.regulate();
            self.poll();
            self.rounds.went_round();
            if Instant::now() >= self.retry_at && !self.stopping() {
                self.tell_made_anew();
                self.announce();
                self.find_out_of_range();
            }
            self.report();
        }
        tracing::debug!(topic = %self.topic, "leaving the group");
    }

    fn stopping(&self) -> bool {
        self.consumer.context().stopping.load(Relaxed)
    }

    /// Fulfils what the line wants. `false` once the source is gone.
    fn obey(&mut self) -> bool {
        let wishes = std::mem::take(&mut *lock(&self.wishes));
        if !wishes.start.is_empty() {
            self.start(wishes.start.into_values().collect());
        }
        if !wishes.reclaim.is_empty() {
            self.reclaim(&wishes.reclaim.into_iter().collect::<Vec<_>>());
        }
        if !wishes.commit.is_empty() {
            self.commit(&wishes.commit);
        }
        if wishes.stop && !self.stopping() {
            self.stop();
        }
        !wishes.close
    }

    /// Starts what is still ours and was announced. One that is being read already is read anew: the newer claim is the one that counts.
    fn start(&mut self, mut claimed: Vec<Claimed>) {
        let outbox = &self.consumer.context().outbox;
        let mut owned = lock(&self.consumer.context().owned);
        claimed.retain(|c| {
            matches!(owned.get(&c.partition), Some(Owned::Announced | Owned::Reading(_))) && c.position >= 0
        });
        if claimed.is_empty() || self.stopping() {
            return;
        }
        let partitions: Vec<i32> = claimed.iter().map(|c| c.partition).collect();
        let list = self.list(claimed.iter().map(|c| (c.partition, c.position)));
        let done =
            unassign(&self.consumer, &partitions).and_then(|()| self.consumer.incremental_assign(&list));
        if let Err(error) = done {
            // Announced again: the line claims again, at the price of an epoch.
            outbox.fault(fault("cannot start reading", &error));
            owned.extend(partitions.into_iter().map(|p| (p, Owned::New)));
            drop(owned);
            self.retry_at = Instant::now() + RETRY_AFTER;
            return;
        }
        for Claimed { partition, claim, position } in claimed {
            owned.insert(partition, Owned::Reading(Reading { claim, ordinal: 0, position, marked: None }));
        }
        drop(owned);
        // A pause survives revoke and assign, on either side.
        self.set_paused(self.paused);
    }

    fn reclaim(&mut self, partitions: &[i32]) {
        if self.stopping() {
            return;
        }
        if let Err(error) = unassign(&self.consumer, partitions) {
            tracing::warn!(%error, "cannot stop reading fenced partitions");
        }
        let mut owned = lock(&self.consumer.context().owned);
        for partition in partitions {
            owned.entry(*partition).and_modify(|state| *state = Owned::New);
        }
    }

    /// Only what is still read under the claim that reached it: what we lost is for its next owner to say.
    fn commit(&self, positions: &BTreeMap<i32, (Claim, i64)>) {
        let owned = lock(&self.consumer.context().owned);
        let ours = positions.iter().filter(
            |(partition, (claim, _))| matches!(owned.get(partition), Some(Owned::Reading(r)) if r.claim == *claim),
        );
        let list = self.list(ours.map(|(partition, (_, position))| (*partition, *position)));
        drop(owned);
        if list.count() == 0 {
            return;
        }
        if let Err(error) = self.consumer.commit(&list, CommitMode::Async) {
            tracing::debug!(%error, "group offsets not committed; they are for dashboards only");
        }
    }

    /// Stays in the group until the source is dropped, so that nobody takes over while the line still writes.
    fn stop(&mut self) {
        let context = self.consumer.context();
        context.stopping.store(true, Relaxed);
        let partitions: Vec<i32> = lock(&context.owned).keys().copied().collect();
        if let Err(error) = unassign(&self.consumer, &partitions) {
            tracing::debug!(%error, "unassign");
        }
        context.outbox.post(Event::End);
    }

    /// Tells the line of new partitions, each with a concrete offset to start at if nobody ever claimed it.
    fn announce(&mut self) {
        let context = self.consumer.context();
        let new = |(p, state): (&i32, &Owned)| matches!(state, Owned::New).then_some(*p);
        let mut waiting: Vec<i32> = lock(&context.owned).iter().filter_map(new).collect();
        if waiting.is_empty() {
            return;
        }
        let Some(topic_id) = self.topic_id() else { return };
        // Another one first each time: those without a leader must not stand before the others for ever.
        self.turn = (self.turn + 1) % waiting.len();
        waiting.rotate_left(self.turn);
        let context = self.consumer.context();
        let watermarks = self.watermarks(&waiting);
        let committed = committed(&self.consumer, &self.topic, &waiting);
        let mut owned = lock(&context.owned);
        // A group that was here before has lost its checkpoints: nothing after its own offset is skipped.
        let first = |partition, (low, high)| match self.config.start {
            Start::Latest { partitions: n } if partition < n => *committed.get(&partition).unwrap_or(&high),
            Start::Latest { .. } | Start::Earliest => low,
        };
        let wanted: Vec<Assignment> = watermarks
            .into_iter()
            .map(|(partition, available)| Assignment {
                partition,
                first_offset: first(partition, available).clamp(available.0, available.1),
                topic_id: topic_id.clone(),
                committed: committed.get(&partition).copied(),
            })
            .inspect(|a| owned.extend([(a.partition, Owned::Announced)]))
            .collect();
        drop(owned);
        if wanted.len() < waiting.len() {
            self.retry_at = Instant::now() + RETRY_AFTER;
        }
        if !wanted.is_empty() {
            context.outbox.post(Event::Assigned(wanted));
        }
    }

    /// The topic's id, if it has one, as of after the first of these calls; `None` until there is an answer, and when there is none.
    fn topic_id(&mut self) -> Option<Option<Arc<str>>> {
        let number = *self.question.get_or_insert_with(|| self.topic_watch.ask());
        let answer = self.topic_watch.announce(number)?;
        self.question = None;
        match answer {
            Ok(id) => Some(id),
            Err(fault) => {
                self.consumer.context().outbox.fault(fault);
                self.retry_at = Instant::now() + RETRY_AFTER;
                None
            }
        }
    }

    /// While nothing is written nobody asks for a confirmation: a topic that was made anew is told from here.
    fn tell_made_anew(&mut self) {
        if let Err(fault) = self.topic_watch.judge()
            && fault.class == FaultClass::Operator
        {
            self.consumer.context().outbox.fault(fault);
            self.retry_at = Instant::now() + RETRY_AFTER;
        }
    }

    /// First and next offset of as many of these partitions as answer in time. No callback runs meanwhile.
    fn watermarks(&self, partitions: &[i32]) -> BTreeMap<i32, (i64, i64)> {
        let deadline = Instant::now() + WATERMARKS_MAX;
        let mut found = BTreeMap::new();
        for partition in partitions {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            // One without a leader must not hold up the others.
            match self.consumer.fetch_watermarks(&self.topic, *partition, left.min(WATERMARK_MAX)) {
                Ok(watermarks) => drop(found.insert(*partition, watermarks)),
                Err(error) => {
                    self.consumer.context().outbox.fault(fault("cannot ask for watermarks", &error));
                }
            }
        }
        found
    }

    /// Pauses when the line has enough to do, resumes at half of that: pausing throws the prefetched records away.
    fn regulate(&mut self) {
        let bound = if self.paused { self.config.queue_bytes_max / 2 } else { self.config.queue_bytes_max };
        let wanted = self.consumer.context().outbox.bytes() >= bound;
        if wanted != self.paused {
            self.paused = wanted;
            self.set_paused(wanted);
        }
    }

    fn set_paused(&self, paused: bool) {
        let done = self.consumer.assignment().and_then(|list| match paused {
            true => self.consumer.pause(&list),
            false => self.consumer.resume(&list),
        });
        if let Err(error) = done {
            tracing::warn!(%error, paused, "cannot pause or resume reading");
        }
    }

    /// One wait for a record, then whatever is there already, up to one event.
    fn poll(&mut self) {
        let outbox = &self.consumer.context().outbox;
        let (mut wait, mut room) = (POLL_MAX, true);
        while room {
            let asked = (!wait.is_zero()).then(Instant::now);
            let polled = self.consumer.poll(wait);
            if let Some(asked) = asked {
                self.times.waited(asked.elapsed(), self.paused);
            }
            wait = Duration::ZERO;
            match polled {
                None => break,
                Some(Ok(message)) => {
                    let envelope = {
                        let mut owned = lock(&self.consumer.context().owned);
                        match owned.get_mut(&message.partition()) {
                            Some(Owned::Reading(reading)) => stamp(&self.topic, reading, &message),
                            _ => None,
                        }
                    };
                    room = envelope.is_none_or(|e| outbox.gather(e))
                        && outbox.bytes() < self.config.queue_bytes_max;
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => self.mark(partition),
                Some(Err(KafkaError::MessageConsumption(RDKafkaErrorCode::AutoOffsetReset))) => {
                    self.out_of_range = true;
                }
                Some(Err(error)) => outbox.fault(fault("polling", &error)),
            }
        }
        if let Some((oldest, bytes)) = outbox.hand_over() {
            self.times.brought(bytes);
            telemetry::polled(&self.topic, oldest);
        }
    }

    /// The end of a partition. The client's position counts control and aborted records too, in the order of the queue; before the first
    /// record it has none, and the claimed one holds.
    fn mark(&self, partition: i32) {
        let position = self.consumer.position().ok().and_then(|list| {
            match list.find_partition(&self.topic, partition)?.offset() {
                Offset::Offset(position) => Some(position),
                _ => None,
            }
        });
        let context = self.consumer.context();
        let mut owned = lock(&context.owned);
        let Some(Owned::Reading(reading)) = owned.get_mut(&partition) else { return };
        reading.position = reading.position.max(position.unwrap_or(0));
        if reading.marked == Some(reading.position) {
            return;
        }
        reading.marked = Some(reading.position);
        let Reading { claim, position, ordinal, .. } = *reading;
        drop(owned);
        context.outbox.post(Event::EndOfPartition { partition, claim, position, ordinal });
    }

    fn report(&mut self) {
        let elapsed = self.reported.elapsed();
        if elapsed < REPORT_EVERY {
            return;
        }
        self.reported = Instant::now();
        self.times.report(&self.topic, elapsed);
        let positions = self.positions();
        telemetry::lag(&self.consumer, &self.topic, &positions, &mut self.lag_told);
    }

    /// Where each partition is read.
    fn positions(&self) -> BTreeMap<i32, i64> {
        let position = |(p, state): (&i32, &Owned)| match state {
            Owned::Reading(reading) => Some((*p, reading.position)),
            _ => None,
        };
        lock(&self.consumer.context().owned).iter().filter_map(position).collect()
    }

    fn list(&self, positions: impl Iterator<Item = (i32, i64)>) -> TopicPartitionList {
        let mut list = TopicPartitionList::new();
        for (partition, position) in positions {
            if let Err(error) = list.add_partition_offset(&self.topic, partition, Offset::Offset(position)) {
                let impossible = format!("partition {partition} cannot be read from {position}: {error}");
                let fault = Fault::new(FaultClass::Operator, "kafka", impossible);
                self.consumer.context().outbox.fault(fault);
            }
        }
        list
    }
}
