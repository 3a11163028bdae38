//! A process of its own for records that may kill it: `spawn trial`, started by a worker and fed over its standard input.
//!
//! Both sides speak frames: eight bytes of length, little-endian, then the bytes. The child gets its settings, answers [`READY`] once its
//! model is loaded, then gets media (declared type, bytes) and answers [`DONE`] for each.

use crate::config::{Pipeline as PipelineSettings, Settings};
use crate::embedder::Refused;
use crate::exit::{Code, Failure, OrExit, Outcome};
use crate::line::Runtime;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use spawn_core::{BoxFuture, Fault, FaultClass, Media};
use std::io::{Read, Write};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::Mutex;

/// The model is loaded.
const READY: u8 = b'R';
/// The media have passed, whatever the stage said of them.
const DONE: u8 = b'D';
/// The model could not be asked: nothing is known of the media.
const UNKNOWN: u8 = b'?';
/// Loading a model takes seconds.
const START_MAX: Duration = Duration::from_secs(60);
/// An hour of sound takes a minute on a slow machine; what takes longer would hold up its partition for good.
const WORK_MAX: Duration = Duration::from_secs(300);

/// What a child must know.
#[derive(Serialize, Deserialize)]
struct Brief {
    settings: Settings,
    pipeline: PipelineSettings,
}

/// The worker's side.
pub(crate) struct ChildTrial {
    brief: Brief,
    /// One record at a time; the child is kept for the next one.
    child: Mutex<Option<Running>>,
}

struct Running {
    _process: Child,
    to: ChildStdin,
    from: ChildStdout,
}

/// What a child said of media.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Lives,
    Died,
}

impl ChildTrial {
    pub(crate) fn new(settings: &Settings, pipeline: &PipelineSettings) -> Self {
        let brief = Brief { settings: settings.clone(), pipeline: pipeline.clone() };
        Self { brief, child: Mutex::default() }
    }

    async fn start(&self) -> std::io::Result<Running> {
        let mut process = Command::new(std::env::current_exe()?)
            .arg("trial")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let (to, from) =
            process.stdin.take().zip(process.stdout.take()).expect("both are piped. This is a bug.");
        let mut running = Running { _process: process, to, from };
        running.send(&serde_json::to_vec(&self.brief)?).await?;
        match tokio::time::timeout(START_MAX, running.from.read_u8()).await {
            Ok(Ok(READY)) => Ok(running),
            other => Err(std::io::Error::other(format!("the trial process did not start: {other:?}"))),
        }
    }

    /// Runs media through the child that is there, or a new one.
    async fn run(&self, kept: &mut Option<Running>, media: &Media) -> std::io::Result<End> {
        let mut child = match kept.take() {
            Some(child) => child,
            None => self.start().await?,
        };
        let answer = async {
            child.send(media.hint.as_deref().unwrap_or_default().as_bytes()).await?;
            child.send(&media.bytes).await?;
            child.from.read_u8().await
        };
        match tokio::time::timeout(WORK_MAX, answer).await {
            Ok(Ok(DONE)) => {
                *kept = Some(child);
                Ok(End::Lives)
            }
            Ok(Ok(_unknown)) => Err(std::io::Error::other("the trial process could not ask its model")),
            // It ended, or does not come to an end.
            Ok(Err(_)) | Err(_) => Ok(End::Died),
        }
    }
}

impl Running {
    async fn send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.to.write_u64_le(bytes.len() as u64).await?;
        self.to.write_all(bytes).await?;
        self.to.flush().await
    }
}

impl spawn_engine::Trial for ChildTrial {
    fn survives<'a>(&'a self, media: &'a Media) -> BoxFuture<'a, Result<bool, Fault>> {
        Box::pin(async move {
            let mut kept = self.child.lock().await;
            let cannot = |e: std::io::Error| Fault::new(FaultClass::Systemic, "trial", e);
            // The first death may be the fault of what the child did before; only one that has done nothing else is alone.
            for _ in 0..3 {
                if self.run(&mut kept, media).await.map_err(cannot)? == End::Lives {
                    return Ok(true);
                }
            }
            Ok(false)
        })
    }
}

/// The child's side, until its standard input ends.
pub(crate) async fn serve() -> Outcome {
    // Where memory ends, this process goes before the worker.
    let _advisory = std::fs::write("/proc/self/oom_score_adj", "1000");
    let (mut from, mut to) = (std::io::stdin().lock(), std::io::stdout().lock());
    let mut say = |word: u8| to.write_all(&[word]).and_then(|()| to.flush()).or_exit(Code::Internal);
    let missing = || Failure::new(Code::Usage, "`spawn trial` is started by a worker, not by hand");
    let brief = receive(&mut from)?.ok_or_else(missing)?;
    let Brief { settings, pipeline } = serde_json::from_slice(&brief).or_exit(Code::Usage)?;
    let runtime = Runtime::load(settings, std::slice::from_ref(&pipeline))?;
    let modality = runtime.modality(&pipeline).ok_or_else(missing)?;
    let embedder = runtime.embedder();
    say(READY)?;
    while let Some(hint) = receive(&mut from)? {
        let Some(bytes) = receive(&mut from)? else { break };
        spawn_engine::steps::preparing(&bytes);
        let hint = String::from_utf8(hint).ok().filter(|hint| !hint.is_empty());
        match embedder.embed(modality, Bytes::from(bytes), hint).await {
            Ok(_) | Err(Refused::Media(_)) => say(DONE)?,
            Err(Refused::System(_)) => say(UNKNOWN)?,
        }
    }
    Ok(())
}

/// The next frame, or none at the end.
fn receive(from: &mut impl Read) -> Outcome<Option<Vec<u8>>> {
    let mut length = [0; 8];
    if from.read_exact(&mut length).is_err() {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    from.take(u64::from_le_bytes(length)).read_to_end(&mut bytes).or_exit(Code::Internal)?;
    Ok(Some(bytes))
}
