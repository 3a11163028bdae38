//! The seam that the line sees: a handle to the poll thread.

use crate::config::ConsumerConfig;
use crate::errors::fault;
use crate::outbox::Parcel;
use crate::poll::Poller;
use crate::rebalance::{Group, lock};
use crate::topic_id::TopicWatch;
use crate::wishes::Wishes;
use rdkafka::consumer::{BaseConsumer, Consumer};
use spawn_core::{BoxFuture, CheckpointDelta, Claimed, Event, Fault, FaultClass, Pulse, Source};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::sync::{Arc, Mutex as StdMutex};
use std::time::{Duration, Instant};
use tokio::sync::{Mutex, mpsc};

/// Events between the poll thread and the line; each has at most [`crate::outbox::RECORDS_PER_EVENT`] records.
const EVENTS_MAX: usize = 8;
/// Longest wait for the consumer to leave its group. Closing may hang when brokers are gone.
const CLOSE_MAX: Duration = Duration::from_secs(3);

/// Records of one topic for one consumer group, read by a thread of its own.
pub struct KafkaSource {
    wishes: Arc<StdMutex<Wishes>>,
    events_rx: Mutex<mpsc::Receiver<Parcel>>,
    queued_bytes: Arc<AtomicUsize>,
    stopped: AtomicBool,
    topic: Arc<TopicWatch>,
    rounds: Arc<Rounds>,
    /// Disconnected once the thread has left the group and closed the consumer.
    closed_rx: StdMutex<Receiver<()>>,
}

/// When the poll thread last went round.
pub(crate) struct Rounds {
    started: Instant,
    last_ms: AtomicU64,
}

impl Rounds {
    /// Called by the poll thread, each time.
    pub(crate) fn went_round(&self) {
        self.last_ms.store(self.started.elapsed().as_millis() as u64, Relaxed);
    }

    fn since_last(&self) -> Duration {
        self.started.elapsed().saturating_sub(Duration::from_millis(self.last_ms.load(Relaxed)))
    }
}

impl std::fmt::Debug for KafkaSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KafkaSource")
    }
}

impl KafkaSource {
    /// Joins the group and starts the poll thread. An unreachable broker is no error: it may come.
    pub fn start(config: ConsumerConfig) -> Result<Self, Fault> {
        let (events_tx, events_rx) = mpsc::channel(EVENTS_MAX);
        let consumer: BaseConsumer<Group> = config
            .client()
            .create_with_context(Group::new(events_tx))
            .map_err(|e| fault("cannot create the consumer; check kafka.properties", &e))?;
        consumer.subscribe(&[&config.topic]).map_err(|e| fault("cannot subscribe", &e))?;
        let queued_bytes = consumer.context().outbox.queued_bytes();
        let wishes = Arc::<StdMutex<Wishes>>::default();
        let (closed_tx, closed_rx) = sync_channel::<()>(1);
        let topic = Arc::new(TopicWatch::start(&config)?);
        let rounds = Arc::new(Rounds { started: Instant::now(), last_ms: AtomicU64::new(0) });
        let shared = (wishes.clone(), topic.clone(), rounds.clone());
        let poller = Poller::new(consumer, config.clone(), shared);
        // Not joined: a close that hangs must not hang us. `closed_rx` tells when it is through.
        std::thread::Builder::new()
            .name(format!("poll-{}", config.group))
            .spawn(move || {
                let _closed = closed_tx;
                poller.run();
            })
            .map_err(|e| {
                Fault::new(FaultClass::Operator, "kafka", format!("cannot start the poll thread: {e}"))
            })?;
        Ok(Self {
            wishes,
            events_rx: Mutex::new(events_rx),
            queued_bytes,
            stopped: AtomicBool::new(false),
            topic,
            rounds,
            closed_rx: StdMutex::new(closed_rx),
        })
    }

    /// Bytes of polled records that wait for the line.
    pub fn queued_bytes(&self) -> usize {
        self.queued_bytes.load(Relaxed)
    }

    fn wish(&self, change: impl FnOnce(&mut Wishes)) -> Result<(), Fault> {
        change(&mut lock(&self.wishes));
        match lock(&self.closed_rx).try_recv() {
            Err(std::sync::mpsc::TryRecvError::Disconnected) => Err(thread_ended()),
            _ => Ok(()),
        }
    }
}

fn thread_ended() -> Fault {
    Fault::new(FaultClass::Operator, "kafka", "the poll thread ended; the process must restart")
}

impl Source for KafkaSource {
    fn next(&self) -> BoxFuture<'_, Result<Event, Fault>> {
        Box::pin(async {
            match self.events_rx.lock().await.recv().await {
                Some((event, bytes)) => {
                    self.queued_bytes.fetch_sub(bytes, Relaxed);
                    event
                }
                None if self.stopped.load(Relaxed) => Ok(Event::End),
                // A thread that died must not look like a line that is done.
                None => Err(thread_ended()),
            }
        })
    }

    fn start(&self, claimed: Vec<Claimed>) -> BoxFuture<'_, Result<(), Fault>> {
        Box::pin(async move { self.wish(|w| w.start.extend(claimed.into_iter().map(|c| (c.partition, c)))) })
    }

    fn reclaim(&self, partitions: Vec<i32>) -> BoxFuture<'_, Result<(), Fault>> {
        Box::pin(async move { self.wish(|w| w.reclaim.extend(partitions)) })
    }

    fn commit(&self, delta: &CheckpointDelta) {
        let positions = delta.iter().map(|(partition, span)| (*partition, (span.claim, span.to)));
        lock(&self.wishes).commit.extend(positions);
    }

    fn confirm(&self) -> BoxFuture<'_, Result<(), Fault>> {
        Box::pin(self.topic.confirm())
    }

    fn pulse(&self) -> Pulse {
        Pulse { since_polled: self.rounds.since_last(), trouble: self.topic.trouble() }
    }

    fn stop(&self) {
        self.stopped.store(true, Relaxed);
        lock(&self.wishes).stop = true;
    }
}

impl Drop for KafkaSource {
    /// Lets the thread leave the group, for a while; one that hangs is left behind.
    fn drop(&mut self) {
        lock(&self.wishes).close = true;
        self.events_rx.get_mut().close();
        if lock(&self.closed_rx).recv_timeout(CLOSE_MAX) == Err(RecvTimeoutError::Timeout) {
            tracing::warn!(
                "the consumer did not close in time, its partitions move on after the session timeout"
            );
        }
    }
}
