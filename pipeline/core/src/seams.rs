//! The four seams of the line. Async ones return boxed futures, so that they can be trait objects without a runtime here.

use crate::{
    Batch, CheckpointDelta, Claim, ContentHash, Envelope, Fault, Features, Hold, Inference, Inferred, Media,
    ModelSpec, Payload, Prepared, Rejection,
};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

/// A future that can be a trait object's answer.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A partition that the group gave to this source, not yet read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Assignment {
    /// The partition.
    pub partition: i32,
    /// Where to start if nobody ever claimed it: a concrete offset, resolved from the watermarks.
    pub first_offset: i64,
    /// The topic's id, which a topic of the same name that is made later does not have; `None` where the source has none.
    pub topic_id: Option<Arc<str>>,
    /// How far the group's own offset is. Only for dashboards, but a store that is behind it was set back.
    pub committed: Option<i64>,
}

impl Assignment {
    /// A partition of a topic without an id.
    pub fn new(partition: i32, first_offset: i64) -> Self {
        Self { partition, first_offset, ..Self::default() }
    }
}

/// A partition that the sink gave out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claimed {
    /// The partition.
    pub partition: i32,
    /// The stamp for every record read from now on.
    pub claim: Claim,
    /// The position to read from.
    pub position: i64,
}

/// What a source has to say.
#[derive(Debug)]
pub enum Event {
    /// Records, in the order of each partition.
    Records(Vec<Envelope<Payload>>),
    /// Partitions to be claimed and then handed to [`Source::start`]. Also after [`Source::reclaim`].
    Assigned(Vec<Assignment>),
    /// Partitions that go to somebody else. What is in the line may still be written; drop `flushed` once it is. The source
    /// waits for that at most two seconds.
    Revoked {
        /// The partitions.
        partitions: Vec<i32>,
        /// Dropped when flushed.
        flushed: Hold,
    },
    /// Partitions that are gone already. What is in the line will be fenced: drop it.
    Lost(Vec<i32>),
    /// Everything before `position` was read, and there is no record left now.
    EndOfPartition {
        /// The partition.
        partition: i32,
        /// Whose reading it was.
        claim: Claim,
        /// Next offset to read.
        position: i64,
        /// Records polled under `claim`.
        ordinal: u64,
    },
    /// The stored position is not in the topic (any more): records were lost to retention, or the topic was made anew.
    OutOfRange {
        /// The partition.
        partition: i32,
        /// The position that was asked for.
        position: i64,
        /// First and next offset that the topic has.
        available: (i64, i64),
    },
    /// Nothing will follow: the source was asked to stop.
    End,
}

/// How a source is, for the health of its line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pulse {
    /// Time since whatever reads for it last went round. Small also when there is nothing to read.
    pub since_polled: Duration,
    /// Why the brokers do not answer, if they do not.
    pub trouble: Option<String>,
}

/// Where records come from. Shared by the intake (`next`, `start`, `reclaim`) and the end of the line (`commit`).
pub trait Source: Send + Sync {
    /// The next event. Waits until there is one. Called by one task at a time. A systemic fault may be followed by events.
    fn next(&self) -> BoxFuture<'_, Result<Event, Fault>>;
    /// Starts reading claimed partitions at their positions. Those revoked in the meantime are ignored.
    fn start(&self, claimed: Vec<Claimed>) -> BoxFuture<'_, Result<(), Fault>>;
    /// Stops reading these partitions and announces them again by [`Event::Assigned`], if they still belong to this source.
    fn reclaim(&self, partitions: Vec<i32>) -> BoxFuture<'_, Result<(), Fault>>;
    /// Tells the broker how far we are. Advisory, for lag dashboards; never waits, never fails.
    fn commit(&self, delta: &CheckpointDelta);
    /// Waits until it is certain that everything read before this call came from the topic that was announced. Asked before each
    /// write; a fault of class `Operator` means that it was another one, and nothing may be written.
    fn confirm(&self) -> BoxFuture<'_, Result<(), Fault>> {
        Box::pin(async { Ok(()) })
    }
    /// How it is.
    fn pulse(&self) -> Pulse {
        Pulse::default()
    }
    /// Asks for the end: no more records, then [`Event::End`].
    fn stop(&self);
}

/// What became of a write.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Written {
    /// Partitions of the batch that belong to somebody else (or stand elsewhere) and were left out.
    pub fenced: Vec<i32>,
    /// Records by outcome as written, duplicates counted as skipped: results, rejected, skipped, deferred.
    pub outcomes: [u64; 4],
}

/// Newest claim and next position of each partition, as stored.
pub type Standing = BTreeMap<i32, (Claim, i64)>;

/// Why a pipeline stands still.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pause {
    /// For a person.
    pub reason: String,
    /// The partition whose owner tries now and then whether things are well again; none when only an operator may resume.
    pub probe: Option<i32>,
}

/// What the workers of a pipeline are to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Orders {
    /// Work.
    GoOn {
        /// Whether an operator ended the last pause, and not a probe.
        by_operator: bool,
    },
    /// Stand still.
    Pause(Pause),
}

/// Where results go.
pub trait Sink: Send + Sync {
    /// Takes ownership of partitions and tells where each continues.
    fn claim(&self, wanted: Vec<Assignment>) -> BoxFuture<'_, Result<Vec<Claimed>, Fault>>;
    /// Writes all of the batch whose claims still hold, in one transaction. Safe to call again with the same batch after any
    /// fault: positions are compared, so what is already there is recognised.
    fn write<'a>(&'a self, batch: &'a Batch<Inferred>) -> BoxFuture<'a, Result<Written, Fault>>;
    /// Work on claimed partitions begins. Answers those at whose heads several workers have died, one after the other, without progress.
    fn begun<'a>(&'a self, _claimed: &'a [Claimed]) -> BoxFuture<'a, Result<Vec<i32>, Fault>> {
        Box::pin(async { Ok(Vec::new()) })
    }
    /// It ended in peace.
    fn ended<'a>(&'a self, _claimed: &'a [Claimed]) -> BoxFuture<'a, Result<(), Fault>> {
        Box::pin(async { Ok(()) })
    }
    /// What the same model has made of these contents from the same preparation, as it was written: at most one of each, in any order.
    /// What is not there is computed.
    fn known<'a>(&'a self, _contents: &'a [ContentHash]) -> BoxFuture<'a, Result<Vec<Inferred>, Fault>> {
        Box::pin(async { Ok(Vec::new()) })
    }
    /// Who owns each partition, and where it stands. None where the sink cannot tell.
    fn standing(&self) -> BoxFuture<'_, Result<Option<Standing>, Fault>> {
        Box::pin(async { Ok(None) })
    }
    /// Whether the pipeline stands still, in all workers. Asked before the first record and every few seconds.
    fn orders(&self) -> BoxFuture<'_, Result<Orders, Fault>> {
        Box::pin(async { Ok(Orders::GoOn { by_operator: false }) })
    }
    /// Lets all workers of the pipeline stand still; changes nothing where they do already.
    fn pause<'a>(&'a self, _pause: &'a Pause) -> BoxFuture<'a, Result<(), Fault>> {
        Box::pin(async { Ok(()) })
    }
    /// Ends a pause that a probe may end.
    fn resume(&self) -> BoxFuture<'_, Result<(), Fault>> {
        Box::pin(async { Ok(()) })
    }
}

/// Prepares media for a model. Pure and synchronous; each worker of the crew has its own fork.
///
/// ```
/// # use spawn_core::{Media, Prepared, Rejection, Stage};
/// fn prepare(stage: &mut dyn Stage, media: &Media) -> Result<Prepared, Rejection> {
///     let _bytes = stage.footprint(media)?; // reserve this much memory, then
///     stage.process(media)
/// }
/// ```
pub trait Stage: Send + Sync {
    /// Canonical text of everything that changes the output: name, version, settings. Part of [`crate::Provenance`].
    fn spec(&self) -> &str;
    /// Most bytes that [`Stage::process`] will hold at once for this media, from its header alone. Checks the limits on pixels and
    /// seconds before anything is decoded.
    fn footprint(&self, media: &Media) -> Result<usize, Rejection>;
    /// Decodes and prepares. A refused record leaves the stage usable.
    fn process(&mut self, media: &Media) -> Result<Prepared, Rejection>;
    /// A worker of its own, with its own buffers.
    fn fork(&self) -> Box<dyn Stage>;
}

/// Runs a model. Each caller lives on a thread of its own.
pub trait Model: Send {
    /// What it is.
    fn spec(&self) -> &ModelSpec;
    /// One call: pads the chunks to the longest, runs, returns one inference per chunk, in order. At most
    /// [`ModelSpec::chunks_max`] chunks. A fault of class `Batch` may be one chunk's fault, of class `Resource` asks for less.
    fn infer(&mut self, chunks: &[&Features]) -> Result<Vec<Inference>, Fault>;
    /// Is the model itself healthy? Runs its golden input and compares. Asked before a record is blamed for a failed call.
    fn control(&mut self) -> Result<(), Fault>;
    /// Another caller of the same weights, with its own buffers.
    fn fork(&self) -> Box<dyn Model>;
    /// Bytes that tensors take on its device, now and at most so far; zeros where that is main memory.
    fn device_bytes(&self) -> [u64; 2] {
        [0; 2]
    }
}

/// So that tests and single calls can use a stage without knowing memory budgets.
impl dyn Stage {
    /// Header check, then process.
    pub fn check_and_process(&mut self, media: &Media) -> Result<Prepared, Rejection> {
        self.footprint(media)?;
        self.process(media)
    }
}
