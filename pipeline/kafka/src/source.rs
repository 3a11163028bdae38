//! The seam that the line sees: a handle to the poll thread.

use crate::config::ConsumerConfig;
use crate::errors::fault;
use crate::poll::{Command, Poller};
use crate::rebalance::{Group, Parcel};
use rdkafka::consumer::{BaseConsumer, Consumer};
use spawn_core::{BoxFuture, CheckpointDelta, Claimed, Event, Fault, FaultClass, Source};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex as StdMutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::{Mutex, mpsc};

/// Events between the poll thread and the line; each has at most [`crate::poll::RECORDS_PER_EVENT`] records.
const EVENTS_MAX: usize = 8;
/// Commands to the poll thread; it takes them every few milliseconds.
const COMMANDS_MAX: usize = 64;
/// Longest wait for the consumer to leave its group. Closing may hang when brokers are gone.
const CLOSE_MAX: Duration = Duration::from_secs(3);

/// Records of one topic for one consumer group, read by a thread of its own.
pub struct KafkaSource {
    commands_tx: StdMutex<Option<SyncSender<Command>>>,
    events_rx: Mutex<mpsc::Receiver<Parcel>>,
    queued_bytes: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
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
        let (commands_tx, commands_rx) = sync_channel(COMMANDS_MAX);
        let consumer: BaseConsumer<Group> = config
            .client()
            .create_with_context(Group::new(events_tx))
            .map_err(|e| fault("cannot create the consumer; check kafka.properties", &e))?;
        consumer.subscribe(&[&config.topic]).map_err(|e| fault("cannot subscribe", &e))?;
        let queued_bytes = consumer.context().queued_bytes.clone();
        let poller = Poller::new(consumer, config.clone(), commands_rx);
        let thread = std::thread::Builder::new()
            .name(format!("poll-{}", config.group))
            .spawn(move || poller.run())
            .map_err(|e| {
                Fault::new(FaultClass::Operator, "kafka", format!("cannot start the poll thread: {e}"))
            })?;
        Ok(Self {
            commands_tx: StdMutex::new(Some(commands_tx)),
            events_rx: Mutex::new(events_rx),
            queued_bytes,
            thread: Some(thread),
        })
    }

    fn command(&self, command: Command) -> Result<(), Fault> {
        let commands_tx = crate::rebalance::lock(&self.commands_tx).clone();
        let gone =
            || Fault::new(FaultClass::Operator, "kafka", "the poll thread ended; the process must restart");
        // The queue is drained every few milliseconds; a full one means that the thread hangs in the client.
        commands_tx.ok_or_else(gone)?.try_send(command).map_err(|error| match error {
            std::sync::mpsc::TrySendError::Full(_) => {
                Fault::new(FaultClass::Systemic, "kafka", "the poll thread does not answer")
            }
            std::sync::mpsc::TrySendError::Disconnected(_) => gone(),
        })
    }
}

impl Source for KafkaSource {
    fn next(&self) -> BoxFuture<'_, Result<Event, Fault>> {
        Box::pin(async {
            match self.events_rx.lock().await.recv().await {
                Some((event, bytes)) => {
                    self.queued_bytes.fetch_sub(bytes, Relaxed);
                    event
                }
                None => Ok(Event::End),
            }
        })
    }

    fn start(&self, claimed: Vec<Claimed>) -> BoxFuture<'_, Result<(), Fault>> {
        Box::pin(async move { self.command(Command::Start(claimed)) })
    }

    fn reclaim(&self, partitions: Vec<i32>) -> BoxFuture<'_, Result<(), Fault>> {
        Box::pin(async move { self.command(Command::Reclaim(partitions)) })
    }

    fn commit(&self, delta: &CheckpointDelta) {
        let positions = delta.iter().map(|(partition, span)| (*partition, span.to)).collect();
        if let Err(fault) = self.command(Command::Commit(positions)) {
            tracing::debug!(%fault, "group offsets not committed; they are for dashboards only");
        }
    }

    fn stop(&self) {
        if let Err(fault) = self.command(Command::Stop) {
            tracing::warn!(%fault, "cannot stop reading");
        }
    }
}

impl Drop for KafkaSource {
    /// Lets the thread leave the group, for a while; one that hangs is left behind.
    fn drop(&mut self) {
        drop(crate::rebalance::lock(&self.commands_tx).take());
        let deadline = Instant::now() + CLOSE_MAX;
        while let Some(thread) = &self.thread {
            if thread.is_finished() || Instant::now() > deadline {
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        if self.thread.as_ref().is_some_and(|thread| !thread.is_finished()) {
            tracing::warn!(
                "the consumer did not close in time, its partitions move on after the session timeout"
            );
        }
    }
}
