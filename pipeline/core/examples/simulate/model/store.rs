//! The store: checkpoint rows with locks, spans and the ledger, judged by the same code as the protocol's.

use super::Random;
use super::bug::Bug;
use spawn_core::{Checkpoint, CheckpointDelta, Claim, Claimed, PartitionSpan, Verdict};

/// A record in the ledger or on its way: partition, offset, the claim it was polled under.
pub type Item = (i32, i64, Claim);

#[derive(Clone, Debug, Default)]
pub struct Row {
    pub checkpoint: Option<Checkpoint>,
    pub ledger: Vec<i64>,
    pub spans: Vec<(i64, i64)>,
    locked: bool,
}

#[derive(Clone, Debug)]
pub enum Ask {
    Claim { partition: i32, token: u128 },
    Write { delta: CheckpointDelta, items: Vec<Item> },
}

#[derive(Clone, Debug)]
pub enum Answer {
    Claimed(Claimed),
    Written { fenced: Vec<i32> },
}

#[derive(Debug)]
pub struct Request {
    pub id: u64,
    pub worker: usize,
    pub ask: Ask,
    /// Arrives at the store then; later, once it has its locks, commits then.
    pub due: u64,
    pub answered: bool,
    seen: Option<Vec<Option<Checkpoint>>>,
    verdicts: Option<Vec<(i32, Verdict)>>,
}

#[derive(Debug, Default)]
pub struct Store {
    pub rows: Vec<Row>,
    pub up: bool,
    pub requests: Vec<Request>,
}

impl Store {
    pub fn send(&mut self, (id, worker): (u64, usize), ask: Ask, due: u64, answered: bool) {
        self.requests.push(Request { id, worker, ask, due, answered, seen: None, verdicts: None });
    }

    /// Another state takes the place of this one; what is under way is lost.
    pub fn replace(&mut self, rows: Vec<Row>) {
        self.rows = rows;
        self.rows.iter_mut().for_each(|row| row.locked = false);
        self.requests.clear();
    }

    /// Does what is due. Answers of `(worker, request)`; a broken promise is an error.
    pub fn work(
        &mut self,
        now: u64,
        bug: Option<Bug>,
        random: &mut Random,
        topic: &[super::Partition],
    ) -> Result<Vec<(usize, u64, Answer)>, String> {
        let mut answers = Vec::new();
        let mut at = 0;
        while at < self.requests.len() {
            if self.requests[at].due > now {
                at += 1;
                continue;
            }
            let mut request = self.requests.swap_remove(at);
            if !self.up && request.verdicts.is_none() {
                continue;
            }
            match self.step(now, bug, random, topic, &mut request)? {
                Some(answer) if request.answered => answers.push((request.worker, request.id, answer)),
                Some(_) => {}
                None => {
                    self.requests.push(request);
                    let last = self.requests.len() - 1;
                    self.requests.swap(at, last);
                    at += 1;
                }
            }
        }
        Ok(answers)
    }

    fn step(
        &mut self,
        now: u64,
        bug: Option<Bug>,
        random: &mut Random,
        topic: &[super::Partition],
        request: &mut Request,
    ) -> Result<Option<Answer>, String> {
        let rows = &mut self.rows;
        match &request.ask {
            Ask::Claim { partition, token } => {
                let row = &mut rows[*partition as usize];
                if row.locked && bug != Some(Bug::ClaimDoesNotWait) {
                    return Ok(None);
                }
                let taken = Checkpoint::claim(row.checkpoint, 0, *token);
                row.checkpoint = Some(taken);
                let claimed = Claimed { partition: *partition, claim: taken.owner, position: taken.next };
                Ok(Some(Answer::Claimed(claimed)))
            }
            Ask::Write { delta, items } => {
                if let Some(verdicts) = &request.verdicts {
                    let fenced = commit(rows, topic, delta, items, verdicts)?;
                    if bug == Some(Bug::WholeBatch) && !fenced.is_empty() {
                        request.answered = false;
                    }
                    return Ok(Some(Answer::Written { fenced }));
                }
                let now_seen = || rows.iter().map(|row| row.checkpoint).collect::<Vec<_>>();
                if bug == Some(Bug::StaleRead) && request.seen.is_none() {
                    request.seen = Some(now_seen());
                }
                if delta.keys().any(|p| rows[*p as usize].locked) {
                    return Ok(None);
                }
                let seen = request.seen.take().unwrap_or_else(now_seen);
                let mut verdicts: Vec<(i32, Verdict)> = Vec::with_capacity(delta.len());
                for (p, span) in delta {
                    let row = &mut rows[*p as usize];
                    row.locked = true;
                    let stored = row.spans.last() == Some(&(span.from, span.to));
                    verdicts.push((*p, judge(seen[*p as usize], span, stored, bug)));
                }
                if bug == Some(Bug::WholeBatch) && verdicts.iter().any(|v| v.1 == Verdict::Fenced) {
                    verdicts.iter_mut().for_each(|v| v.1 = Verdict::Fenced);
                }
                request.verdicts = Some(verdicts);
                request.due = now + random.below(30);
                Ok(None)
            }
        }
    }
}

fn judge(row: Option<Checkpoint>, span: &PartitionSpan, stored: bool, bug: Option<Bug>) -> Verdict {
    let Some(row) = row else { return Verdict::Fenced };
    let mut span = *span;
    match bug {
        Some(Bug::NoToken) if row.owner.epoch == span.claim.epoch => span.claim.token = row.owner.token,
        Some(Bug::NoPosition) if row.owner == span.claim => return Verdict::Written,
        _ => {}
    }
    row.judge(&span, stored)
}

/// Commits what was judged, and looks at every promise of it.
fn commit(
    rows: &mut [Row],
    topic: &[super::Partition],
    delta: &CheckpointDelta,
    items: &[Item],
    verdicts: &[(i32, Verdict)],
) -> Result<Vec<i32>, String> {
    let mut fenced = Vec::new();
    for (p, verdict) in verdicts {
        let (row, span) = (&mut rows[*p as usize], delta[p]);
        row.locked = false;
        match verdict {
            Verdict::Fenced => fenced.push(*p),
            Verdict::WrittenBefore => {}
            Verdict::Written => {
                let broken = |what: &str| Err(format!("safety: partition {p} {span:?}: {what}"));
                let checkpoint = row.checkpoint.as_mut().expect("it was judged");
                let own: Vec<Item> = items.iter().copied().filter(|item| item.0 == *p).collect();
                if checkpoint.owner != span.claim || own.iter().any(|item| item.2 != span.claim) {
                    return broken("rows of a stale claim");
                }
                if checkpoint.next != span.from {
                    return broken("spans do not tile");
                }
                let offsets = own.iter().map(|item| item.1);
                let last = row.ledger.last().copied().unwrap_or(-1);
                if own.windows(2).any(|w| w[0].1 >= w[1].1) || own.first().is_some_and(|i| i.1 <= last) {
                    return broken("an offset has two rows");
                }
                if own.len() as u64 != span.records {
                    return broken("the count is another than was polled");
                }
                if !topic[*p as usize].between(span.from, span.to).eq(offsets.clone()) {
                    return broken("records were skipped, or come from elsewhere");
                }
                row.ledger.extend(offsets);
                row.spans.push((span.from, span.to));
                checkpoint.next = span.to;
            }
        }
    }
    Ok(fenced)
}
