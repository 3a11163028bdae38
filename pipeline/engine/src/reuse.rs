//! Content that was computed before is not computed again.
//!
//! Every content is looked up in the sink while its record goes on through the line; nobody waits for the answer. Where it has come
//! when the crew takes the record, the record is not decoded; where it has come at the model call, it is not inferred. What is being
//! computed now, or was a moment ago and may not be written yet, is shared in memory: the same content is with the model once.

use crate::telemetry::Stats;
use spawn_core::{ContentHash, Inferred, Refusal, Sink};
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};

/// Contents of one question.
const CONTENTS_MAX: usize = 256;
/// Contents that wait for the next question; further ones are computed.
const WAITING_MAX: usize = 1024;
/// After a question that was not answered in time none is asked for so long.
const REST: Duration = Duration::from_secs(5);
/// Results that are remembered until they are surely written,
const RECENT_MAX: usize = 1024;
/// each of at most this many elements, so that all of them stay below 64 MiB.
const ELEMENTS_MAX: usize = 16 << 10;

/// Lookups of one pipeline and what it computes at the moment. The default knows nothing: everything is computed.
#[derive(Clone, Default)]
pub(crate) struct Reuse(Option<Shared>);

#[derive(Clone)]
struct Shared {
    ask_tx: mpsc::Sender<Ask>,
    recent: Arc<Mutex<Recent>>,
    stats: Arc<Stats>,
}

struct Ask {
    content: ContentHash,
    answer_tx: oneshot::Sender<Inferred>,
}

/// An answer that may come.
#[derive(Debug, Default)]
pub struct Lookup(Option<oneshot::Receiver<Inferred>>);

impl Lookup {
    /// What has come until now.
    fn found(&mut self) -> Option<Inferred> {
        self.0.as_mut()?.try_recv().ok()
    }
}

impl Reuse {
    /// Asks `sink`, whose answers are taken if they come within `answer_max`. The future answers the lookups until nobody can ask any more.
    pub(crate) fn new(
        sink: Arc<dyn Sink>,
        answer_max: Duration,
        stats: Arc<Stats>,
    ) -> (Self, impl Future<Output = ()> + Send) {
        let (ask_tx, asks) = mpsc::channel(WAITING_MAX);
        (Self(Some(Shared { ask_tx, recent: Arc::default(), stats })), answer(asks, sink, answer_max))
    }

    /// Asks for a content, without waiting.
    pub(crate) fn look_up(&self, content: ContentHash) -> Lookup {
        let Some(Shared { ask_tx, .. }) = &self.0 else { return Lookup::default() };
        let (answer_tx, answer_rx) = oneshot::channel();
        // Where too many wait already, this one is computed.
        Lookup(ask_tx.try_send(Ask { content, answer_tx }).is_ok().then_some(answer_rx))
    }

    /// What the sink knew, if the answer has come.
    pub(crate) fn found(&self, lookup: &mut Lookup) -> Option<Inferred> {
        let found = lookup.found()?;
        if let Some(Shared { stats, .. }) = &self.0 {
            stats.reused("stored");
        }
        Some(found)
    }

    /// Who computes this content. Whoever leads says what came of it; whoever follows waits for that.
    pub(crate) fn turn(&self, content: ContentHash) -> Turn {
        let Some(Shared { recent, stats, .. }) = &self.0 else { return Turn::Lead(Lead(None)) };
        let mut all = lock(recent);
        if let Some(landing) = all.landings.get(&content).filter(|landing| is_alive(landing)) {
            stats.reused("shared");
            return Turn::Follow(Follow(landing.clone()));
        }
        let (result_tx, landing) = watch::channel(None);
        if all.landings.insert(content, landing).is_none() {
            all.order.push_back(content);
        }
        if all.order.len() > RECENT_MAX
            && let Some(oldest) = all.order.pop_front()
        {
            all.landings.remove(&oldest);
        }
        Turn::Lead(Lead(Some(Landing { content, result_tx, recent: recent.clone() })))
    }
}

/// See [`Reuse::turn`].
pub(crate) enum Turn {
    Lead(Lead),
    Follow(Follow),
}

/// Computes a content, perhaps for others too.
pub(crate) struct Lead(Option<Landing>);

struct Landing {
    content: ContentHash,
    result_tx: watch::Sender<Option<Computed>>,
    recent: Arc<Mutex<Recent>>,
}

type Computed = Result<Inferred, Refusal>;

impl Lead {
    /// Tells those who follow.
    pub(crate) fn land(self, outcome: &Computed) {
        let Some(Landing { content, result_tx, recent }) = self.0 else { return };
        let elements = |i: &Inferred| {
            i.chunks.iter().filter_map(|c| Some(c.embedding.as_ref()?.as_slice().len())).sum::<usize>()
        };
        // A refusal may have been the moment's; those who wait already share it.
        if !outcome.as_ref().is_ok_and(|inferred| elements(inferred) <= ELEMENTS_MAX) {
            lock(&recent).forget(content);
        }
        result_tx.send_replace(Some(outcome.clone()));
    }
}

/// Waits for whoever computes the same content.
pub(crate) struct Follow(watch::Receiver<Option<Computed>>);

impl Follow {
    /// What came of it; none when whoever led has failed.
    pub(crate) async fn outcome(mut self) -> Option<Computed> {
        self.0.wait_for(Option::is_some).await.ok()?.clone()
    }
}

/// Contents that are being computed or were a moment ago, oldest first.
#[derive(Default)]
struct Recent {
    landings: HashMap<ContentHash, watch::Receiver<Option<Computed>>>,
    order: VecDeque<ContentHash>,
}

impl Recent {
    fn forget(&mut self, content: ContentHash) {
        self.landings.remove(&content);
        self.order.retain(|c| *c != content);
    }
}

fn lock(recent: &Mutex<Recent>) -> std::sync::MutexGuard<'_, Recent> {
    recent.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Has landed, or still can.
fn is_alive(landing: &watch::Receiver<Option<Computed>>) -> bool {
    landing.borrow().is_some() || landing.has_changed().is_ok()
}

async fn answer(mut asks: mpsc::Receiver<Ask>, sink: Arc<dyn Sink>, answer_max: Duration) {
    let mut waiting = Vec::new();
    while asks.recv_many(&mut waiting, CONTENTS_MAX).await > 0 {
        // Those that were computed meanwhile.
        waiting.retain(|ask| !ask.answer_tx.is_closed());
        let mut contents: Vec<ContentHash> = waiting.iter().map(|ask| ask.content).collect();
        contents.sort_unstable_by_key(|content| content.0);
        contents.dedup();
        match tokio::time::timeout(answer_max, sink.known(&contents)).await {
            Ok(Ok(known)) => {
                let known: HashMap<ContentHash, Inferred> =
                    known.into_iter().map(|inferred| (inferred.provenance.content, inferred)).collect();
                for Ask { content, answer_tx } in waiting.drain(..) {
                    if let Some(inferred) = known.get(&content) {
                        // Whoever asked may have gone on.
                        drop(answer_tx.send(inferred.clone()));
                    }
                }
            }
            late => {
                let reason = match late {
                    Ok(Err(fault)) => fault.to_string(),
                    _ => format!("no answer within {} ms", answer_max.as_millis()),
                };
                tracing::debug!(
                    reason,
                    "known results are not looked up for a while, everything is computed"
                );
                waiting.clear();
                tokio::time::sleep(REST).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meter::Meter;
    use spawn_core::{Assignment, Batch, BoxFuture, Claimed, Fault, MediaFacts, Provenance, Written};
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    /// Knows every content whose hash begins with 1, and takes its time.
    struct Knowing {
        takes: Duration,
        asked: AtomicUsize,
    }

    impl Sink for Knowing {
        fn claim(&self, _: Vec<Assignment>) -> BoxFuture<'_, Result<Vec<Claimed>, Fault>> {
            unreachable!("nobody claims")
        }
        fn write<'a>(&'a self, _: &'a Batch<Inferred>) -> BoxFuture<'a, Result<Written, Fault>> {
            unreachable!("nobody writes")
        }
        fn known<'a>(&'a self, contents: &'a [ContentHash]) -> BoxFuture<'a, Result<Vec<Inferred>, Fault>> {
            self.asked.fetch_add(1, Relaxed);
            Box::pin(async move {
                tokio::time::sleep(self.takes).await;
                Ok(contents.iter().filter(|c| c.0[0] == 1).map(|c| of(*c)).collect())
            })
        }
    }

    fn of(content: ContentHash) -> Inferred {
        let text: Arc<str> = "test".into();
        let provenance = Provenance { content, preparation: text.clone(), model: text.clone(), dtype: text };
        Inferred { chunks: Vec::new(), pooled: None, facts: MediaFacts::default(), provenance }
    }

    fn content(first: u8, second: u8) -> ContentHash {
        let mut bytes = [0; 32];
        (bytes[0], bytes[1]) = (first, second);
        ContentHash(bytes)
    }

    fn reuse(takes: Duration) -> (Reuse, Arc<Knowing>) {
        let sink = Arc::new(Knowing { takes, asked: AtomicUsize::new(0) });
        let stats = Arc::new(Stats::new(&Arc::from("test"), vec![Arc::new(Meter::new("infer"))]));
        let (reuse, answering) = Reuse::new(sink.clone(), Duration::from_millis(100), stats);
        tokio::spawn(answering);
        (reuse, sink)
    }

    #[tokio::test(start_paused = true)]
    async fn many_contents_are_one_question_and_nobody_waits_for_it() {
        let (reuse, sink) = reuse(Duration::from_millis(20));
        let mut lookups: Vec<Lookup> = (0..100).map(|i| reuse.look_up(content(i % 2, i))).collect();
        assert!(lookups.iter_mut().all(|lookup| reuse.found(lookup).is_none()), "asked just now");
        tokio::time::sleep(Duration::from_millis(50)).await;
        let found = lookups.iter_mut().filter_map(|lookup| reuse.found(lookup)).count();
        assert_eq!((found, sink.asked.load(Relaxed)), (50, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_sink_is_left_alone_for_a_while() {
        let (reuse, sink) = reuse(Duration::from_secs(60));
        for _ in 0..20 {
            let mut lookup = reuse.look_up(content(1, 1));
            tokio::time::sleep(Duration::from_millis(200)).await;
            assert!(reuse.found(&mut lookup).is_none());
        }
        assert_eq!(sink.asked.load(Relaxed), 1);
    }

    #[tokio::test]
    async fn the_same_content_is_computed_once_and_again_after_a_failure() {
        let (reuse, _) = reuse(Duration::ZERO);
        let same = content(0, 7);
        let Turn::Lead(lead) = reuse.turn(same) else { panic!("nobody has it") };
        let Turn::Follow(early) = reuse.turn(same) else { panic!("it is being computed") };
        lead.land(&Ok(of(same)));
        let Turn::Follow(late) = reuse.turn(same) else { panic!("it was computed") };
        for follow in [early, late] {
            assert_eq!(follow.outcome().await, Some(Ok(of(same))));
        }

        let other = content(0, 8);
        let Turn::Lead(lead) = reuse.turn(other) else { panic!("nobody has it") };
        let Turn::Follow(waits) = reuse.turn(other) else { panic!("it is being computed") };
        drop(lead);
        assert_eq!(waits.outcome().await, None, "whoever led has failed");
        assert!(matches!(reuse.turn(other), Turn::Lead(_)), "the next one leads");
    }

    #[tokio::test]
    async fn what_is_remembered_is_bounded() {
        let (reuse, _) = reuse(Duration::ZERO);
        for i in 0..=RECENT_MAX {
            let content = content((i >> 8) as u8, i as u8);
            let Turn::Lead(lead) = reuse.turn(content) else { panic!("each is new") };
            lead.land(&Ok(of(content)));
        }
        assert!(matches!(reuse.turn(content(0, 0)), Turn::Lead(_)), "the oldest was forgotten");
        assert!(matches!(reuse.turn(content(0, 9)), Turn::Follow(_)));
    }
}
