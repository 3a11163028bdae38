//! `ingest`: a folder or a manifest onto the topics, always through Kafka.
//!
//! A reading thread lists items, reads their files and hands messages over through a short channel, so that neither a large folder nor a
//! large manifest is ever in memory, and nothing blocks the senders. An item counts as sent once its delivery report has come. Ids derive from origin and content: a second run gives duplicates only.

use crate::folder::Walk;
use crate::manifest;
use crate::media::{Item, Origin, head, message_for_item, modality_of, modality_of_uri};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use spawn_core::Modality;
use spawn_kafka::{Message, Producer, SendError};
use std::collections::BTreeMap;
use std::path::PathBuf;
use tokio::sync::mpsc::{Receiver, channel};

/// Messages between the reading thread and the producer, each of at most [`crate::media::INLINE_BYTES_MAX`].
const READ_MAX: usize = 4;
/// Messages without a delivery report; their bytes are bounded by the producer.
const INFLIGHT_MAX: usize = 512;
/// Failures that the report describes; the others are counted.
const FAILURES_DESCRIBED: usize = 10;

/// What to ingest.
#[derive(Clone, Debug)]
pub struct IngestOptions {
    /// A folder, or a `.csv` or `.parquet` manifest.
    pub path: PathBuf,
    /// Where each kind of media goes.
    pub topics: BTreeMap<Modality, String>,
    /// Folders that workers may read: large files below them go as references.
    pub file_roots: Vec<PathBuf>,
    /// Only this kind.
    pub modality: Option<Modality>,
    /// At most so many items.
    pub limit: Option<u64>,
    /// Read and check, send nothing.
    pub dry_run: bool,
}

/// How far it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Items listed.
    pub seen: u64,
    /// Items with a delivery report (or, in a dry run, that would have been sent).
    pub sent: u64,
    /// Items that are no media or not wanted.
    pub skipped: u64,
    /// Items that could not be sent.
    pub failed: u64,
    /// Bytes of the messages.
    pub bytes: u64,
}

/// How it ended.
#[derive(Clone, Debug, Default)]
pub struct IngestReport {
    /// Totals.
    pub progress: Progress,
    /// By kind of media.
    pub by_modality: BTreeMap<Modality, u64>,
    /// The first failures: number of the item from 1, what was wrong.
    pub failures: Vec<(u64, String)>,
}

/// Why it could not go on.
#[derive(Debug)]
pub enum IngestError {
    /// The folder or manifest cannot be read.
    Input(String),
    /// Kafka does not take messages.
    Kafka(SendError),
}

impl std::fmt::Display for IngestError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Input(detail) => f.write_str(detail),
            Self::Kafka(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for IngestError {}

/// A message, `None` for what is no media or not wanted, or what is wrong with the item.
type Read = Result<Option<(Modality, Message)>, String>;
/// Number of the item and its delivery report.
type Report = (u64, Result<(i32, i64), SendError>);
type Reading = std::thread::JoinHandle<Result<(), String>>;

/// Sends everything that `options` names; calls `progress` after every item.
pub async fn ingest(
    options: IngestOptions,
    producer: &Producer,
    progress: impl Fn(&Progress) + Send + Sync,
) -> Result<IngestReport, IngestError> {
    let (mut items, reading) = read(&options)?;
    let mut report = IngestReport::default();
    let mut sending = FuturesUnordered::new();
    while let Some(item) = items.recv().await {
        if options.limit.is_some_and(|limit| report.progress.sent + sending.len() as u64 >= limit) {
            break;
        }
        report.progress.seen += 1;
        let number = report.progress.seen;
        match item {
            Ok(None) => report.progress.skipped += 1,
            Err(detail) => report.fail(number, detail),
            Ok(Some((modality, message))) => {
                *report.by_modality.entry(modality).or_default() += 1;
                report.progress.bytes += message.value.as_ref().map_or(0, |v| v.len() as u64);
                if options.dry_run {
                    report.progress.sent += 1;
                } else {
                    sending.push(async move { (number, producer.send(message).await) });
                }
            }
        }
        while sending.len() >= INFLIGHT_MAX {
            report.settle(sending.next().await)?;
        }
        progress(&report.progress);
    }
    // A reader that still reads (limit reached) ends as soon as nobody takes its items.
    drop(items);
    while !sending.is_empty() {
        report.settle(sending.next().await)?;
        progress(&report.progress);
    }
    match reading.join() {
        Ok(read) => read.map_err(IngestError::Input)?,
        Err(_) => return Err(IngestError::Input("the reading thread panicked. This is a bug.".into())),
    }
    Ok(report)
}

impl IngestReport {
    fn fail(&mut self, number: u64, detail: String) {
        self.progress.failed += 1;
        if self.failures.len() < FAILURES_DESCRIBED {
            self.failures.push((number, detail));
        }
    }

    fn settle(&mut self, report: Option<Report>) -> Result<(), IngestError> {
        match report {
            None => {}
            Some((_, Ok(_))) => self.progress.sent += 1,
            Some((number, Err(error @ SendError::TooLarge { .. }))) => self.fail(number, error.to_string()),
            Some((_, Err(error))) => return Err(IngestError::Kafka(error)),
        }
        Ok(())
    }
}

fn message(item: Item, options: &IngestOptions) -> Read {
    let found = match (&item.origin, item.modality) {
        (_, Some(modality)) => Some(modality),
        (Origin::File(path), None) => modality_of(path, &head(path)),
        (Origin::Uri(uri), None) => Some(modality_of_uri(uri).ok_or_else(|| {
            format!("{uri}: its ending does not tell what it is; add a column `modality` with image, audio or text")
        })?),
        (Origin::Text(_), None) => Some(Modality::Text),
    };
    let Some(modality) = found.filter(|found| options.modality.is_none_or(|wanted| wanted == *found)) else {
        return Ok(None);
    };
    let Some(topic) = options.topics.get(&modality) else {
        return Ok(None);
    };
    let (_, message) =
        message_for_item(&item, modality, topic, &options.file_roots).map_err(|e| match &item.origin {
            Origin::File(path) => format!("{}: {e}", path.display()),
            _ => e.to_string(),
        })?;
    Ok(Some((modality, message)))
}

/// Lists and reads items on a thread of its own: reading blocks.
fn read(options: &IngestOptions) -> Result<(Receiver<Read>, Reading), IngestError> {
    let path = options.path.clone();
    let meta =
        std::fs::metadata(&path).map_err(|e| IngestError::Input(format!("{}: {e}", path.display())))?;
    let (items_tx, items_rx) = channel(READ_MAX);
    let options = options.clone();
    let reading = std::thread::spawn(move || {
        // An error of `send` is the end: nobody takes items any more.
        let each = |item: Result<Item, String>| {
            items_tx.blocking_send(item.and_then(|item| message(item, &options))).is_ok()
        };
        if meta.is_dir() {
            let walk = Walk::new(&path).map_err(|e| format!("{}: {e}", path.display()))?;
            walk.map(|item| item.map_err(|e| e.to_string())).all(each);
            return Ok(());
        }
        manifest::read(&path, each)
    });
    Ok((items_rx, reading))
}
