//! A worker: the line of one process, which can freeze or die between any two of its steps.

use super::bug::Bug;
use super::store::{Answer, Ask, Item};
use super::{Partition, Random};
use spawn_core::{CheckpointDelta, Claim, Held, Progress, Step};
use std::collections::VecDeque;

/// Without an answer for that long a connection counts as broken, in milliseconds.
const ANSWER_MAX: u64 = 300;
/// A revoked partition is given up after that long, written or not, in milliseconds.
const FLUSH_MAX: u64 = 500;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Owned {
    No,
    New,
    Announced,
    Reading { claim: Claim, ordinal: u64, position: i64, marked: i64 },
}

#[derive(Clone, Debug)]
pub enum Notice {
    Assigned(i32),
    Revoked(i32),
    Lost(i32),
    Answer(u64, Answer),
}

#[derive(Debug)]
struct Writing {
    id: u64,
    since: u64,
    delta: CheckpointDelta,
    items: Vec<Item>,
}

#[derive(Debug)]
pub struct Worker {
    owned: Vec<Owned>,
    held: Held,
    /// How far each partition was read, for the bugs that go on from there.
    reached: Vec<Option<i64>>,
    progress: Progress,
    line: VecDeque<(Step, Option<i64>)>,
    writing: Option<Writing>,
    claiming: Option<(u64, u64, i32)>,
    again: Vec<(u64, i32)>,
    revoking: Vec<(i32, u64)>,
    pub inbox: VecDeque<Notice>,
    /// Frozen until then.
    pub frozen: u64,
    /// Dead until then; 0 while alive.
    pub dead: u64,
    pub heartbeat: u64,
}

/// What a step wants of the world.
pub enum Effect {
    Nothing,
    Ask(u64, Ask),
    Released(i32),
}

impl Worker {
    pub fn new(partitions: usize, now: u64) -> Self {
        Self {
            owned: vec![Owned::No; partitions],
            held: Held::default(),
            reached: vec![None; partitions],
            progress: Progress::default(),
            line: VecDeque::new(),
            writing: None,
            claiming: None,
            again: Vec::new(),
            revoking: Vec::new(),
            inbox: VecDeque::new(),
            frozen: 0,
            dead: 0,
            heartbeat: now,
        }
    }

    /// One step of a random kind.
    pub fn step(
        &mut self,
        now: u64,
        bug: Option<Bug>,
        random: &mut Random,
        topic: &[Partition],
        id: u64,
    ) -> Effect {
        self.heartbeat = now;
        match random.below(8) {
            0 | 1 => {
                if let Some(notice) = self.inbox.pop_front() {
                    self.hear(notice, now, bug, random);
                }
                Effect::Nothing
            }
            2 => self.claim(now, random, id),
            3 => self.release(now),
            4 | 5 => self.write(now, bug, random, id),
            _ => {
                self.poll(random.below(topic.len() as u64) as usize, now, bug, random, topic);
                Effect::Nothing
            }
        }
    }

    fn hear(&mut self, notice: Notice, now: u64, bug: Option<Bug>, random: &mut Random) {
        match notice {
            Notice::Assigned(p) if self.owned[p as usize] == Owned::No => self.owned[p as usize] = Owned::New,
            Notice::Assigned(_) => {}
            Notice::Revoked(p) => {
                self.owned[p as usize] = Owned::No;
                self.revoking.push((p, now + FLUSH_MAX));
            }
            Notice::Lost(p) => {
                self.owned[p as usize] = Owned::No;
                self.held.lost(&[p]);
            }
            Notice::Answer(id, Answer::Claimed(claimed)) => {
                let Some((_, _, p)) = self.claiming.take_if(|c| c.0 == id) else { return };
                self.held.claimed(&[claimed]);
                if !matches!(self.owned[p as usize], Owned::Announced | Owned::Reading { .. }) {
                    return;
                }
                let kept = self.reached[p as usize];
                let position = match bug {
                    Some(Bug::KeepsReading) => kept.unwrap_or(claimed.position),
                    Some(Bug::KeepsPosition) => kept.unwrap_or(0).max(claimed.position),
                    _ => claimed.position,
                };
                self.owned[p as usize] =
                    Owned::Reading { claim: claimed.claim, ordinal: 0, position, marked: -1 };
            }
            Notice::Answer(id, Answer::Written { fenced }) => {
                let Some(writing) = self.writing.take_if(|w| w.id == id) else { return };
                for p in self.held.fenced(&writing.delta, &fenced) {
                    if bug != Some(Bug::NeverClaimAgain) {
                        self.again.push((now + 50 + random.below(450), p));
                    }
                }
            }
        }
    }

    fn claim(&mut self, now: u64, random: &mut Random, id: u64) -> Effect {
        let owned = &mut self.owned;
        self.again.retain(|(at, p)| {
            let due = *at <= now;
            if due && owned[*p as usize] != Owned::No {
                owned[*p as usize] = Owned::New;
            }
            !due
        });
        let partition = match self.claiming {
            Some((_, since, p)) if since + ANSWER_MAX < now => p,
            Some(_) => return Effect::Nothing,
            None => match owned.iter().position(|o| *o == Owned::New) {
                Some(p) => p as i32,
                None => return Effect::Nothing,
            },
        };
        if owned[partition as usize] == Owned::New {
            owned[partition as usize] = Owned::Announced;
        }
        self.claiming = Some((id, now, partition));
        Effect::Ask(id, Ask::Claim { partition, token: u128::from(random.next()) })
    }

    fn release(&mut self, now: u64) -> Effect {
        let busy = |p: i32| {
            self.line.iter().any(|(step, _)| step.partition == p)
                || self.writing.as_ref().is_some_and(|w| w.delta.contains_key(&p))
        };
        let done = self.revoking.iter().position(|(p, until)| *until <= now || !busy(*p));
        done.map_or(Effect::Nothing, |at| Effect::Released(self.revoking.swap_remove(at).0))
    }

    fn poll(&mut self, p: usize, now: u64, bug: Option<Bug>, random: &mut Random, topic: &[Partition]) {
        for _ in 0..1 + random.below(4) {
            let Owned::Reading { claim, ordinal, position, marked } = &mut self.owned[p] else { return };
            if self.line.len() > 30 {
                return;
            }
            let (offset, after) = match topic[p].next(*position, now) {
                Some(offset) => (Some(offset), offset + 1),
                None if bug == Some(Bug::NoEndMark) => return,
                None => (None, topic[p].end(now).max(*position)),
            };
            if offset.is_none() && *marked == after {
                return;
            }
            match offset {
                Some(_) => *ordinal += 1,
                None => *marked = after,
            }
            *position = after;
            self.reached[p] = Some(after);
            let step = Step { partition: p as i32, claim: *claim, position: Some(after), ordinal: *ordinal };
            self.line.push_back((step, offset));
        }
    }

    fn write(&mut self, now: u64, bug: Option<Bug>, random: &mut Random, id: u64) -> Effect {
        if let Some(writing) = &mut self.writing {
            if writing.since + ANSWER_MAX >= now {
                return Effect::Nothing;
            }
            match bug {
                Some(Bug::UnansweredDone) => {
                    self.writing = None;
                    return Effect::Nothing;
                }
                Some(Bug::UnansweredFailed) => {
                    let held = &self.held;
                    for (p, span) in &mut writing.delta {
                        let Some(newer) = held.get(*p).filter(|c| c.claim != span.claim) else {
                            continue;
                        };
                        (span.from, span.claim) = (newer.position, newer.claim);
                        span.to = span.to.max(span.from + 1);
                        writing.items.iter_mut().filter(|i| i.0 == *p).for_each(|i| i.2 = newer.claim);
                    }
                    self.again.extend(writing.delta.keys().map(|p| (now, *p)));
                }
                _ => {}
            }
            (writing.id, writing.since) = (id, now);
            let (delta, items) = (writing.delta.clone(), writing.items.clone());
            return Effect::Ask(id, Ask::Write { delta, items });
        }
        let (mut delta, mut items) = (CheckpointDelta::new(), Vec::new());
        for _ in 0..(1 + random.below(12)).min(self.line.len() as u64) {
            let Some((mut step, offset)) = self.line.pop_front() else { break };
            if let (Some(Bug::StampedAtWrite), Some(held)) = (bug, self.held.get(step.partition)) {
                step.claim = held.claim;
            }
            if self.progress.settle(&self.held, &mut delta, step) {
                items.extend(offset.map(|offset| (step.partition, offset, step.claim)));
            }
        }
        delta.retain(|_, span| span.to > span.from);
        if delta.is_empty() {
            return Effect::Nothing;
        }
        self.writing = Some(Writing { id, since: now, delta: delta.clone(), items: items.clone() });
        Effect::Ask(id, Ask::Write { delta, items })
    }
}
