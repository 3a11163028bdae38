//! One world of broker, store and workers, driven by one seed: faults for eight simulated seconds, then calm.
#![allow(unreachable_pub, missing_docs)]

pub mod bug;
mod store;
mod worker;

use bug::Bug;
use store::{Row, Store};
use worker::{Effect, Notice, Worker};

/// Faults happen until then, in milliseconds.
const FAULTS_END: u64 = 8_000;
/// No restore after that: a partition in which nothing is written any more cannot notice one.
const RESTORES_END: u64 = 6_500;
/// Everything has to be finished then.
const CALM_END: u64 = FAULTS_END + 30_000;
/// A member that is not heard of for that long loses its partitions.
const SESSION_MAX: u64 = 1_000;

/// splitmix64.
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// Records of a partition with holes: offset, position after it and its control records, when it is there.
#[derive(Debug)]
pub struct Partition(Vec<(i64, i64, u64)>);

impl Partition {
    fn new(random: &mut Random) -> Self {
        let (mut position, mut records) = (0, Vec::new());
        let mut times: Vec<u64> = (0..20 + random.below(20)).map(|_| random.below(6_000)).collect();
        times.push(RESTORES_END + 200 + random.below(1_000));
        times.sort_unstable();
        for at in times {
            let offset = position + if random.one_in(4) { random.below(4) as i64 } else { 0 };
            position = offset + 1 + i64::from(random.one_in(3));
            records.push((offset, position, at));
        }
        Self(records)
    }

    fn next(&self, position: i64, now: u64) -> Option<i64> {
        let at = self.0.partition_point(|r| r.0 < position);
        self.0.get(at).filter(|r| r.2 <= now).map(|r| r.0)
    }

    fn end(&self, now: u64) -> i64 {
        let seen = self.0.partition_point(|r| r.2 <= now);
        seen.checked_sub(1).map_or(0, |last| self.0[last].1)
    }

    fn between(&self, from: i64, to: i64) -> impl Iterator<Item = i64> + '_ {
        self.0.iter().map(|r| r.0).filter(move |offset| (from..to).contains(offset))
    }
}

/// What became of a seed that failed.
#[derive(Debug)]
pub struct Failure {
    /// Begins with the check that found it: safety or liveness.
    pub what: String,
    /// What happened before, if asked for.
    pub trace: Vec<String>,
}

struct World {
    random: Random,
    now: u64,
    ids: u64,
    topic: Vec<Partition>,
    store: Store,
    down_until: u64,
    snapshots: Vec<Vec<Row>>,
    workers: Vec<Worker>,
    owner: Vec<Option<usize>>,
    moving: Vec<Option<usize>>,
    trace: Option<Vec<String>>,
}

/// Runs one world.
pub fn run(seed: u64, bug: Option<Bug>, traced: bool) -> Result<(), Failure> {
    let mut random = Random(seed.wrapping_mul(0x2545_f491_4f6c_dd1d) ^ 0x5bd1_e995);
    let partitions = 1 + random.below(3) as usize;
    let workers = 2 + random.below(3) as usize;
    let topic: Vec<Partition> = (0..partitions).map(|_| Partition::new(&mut random)).collect();
    let rows = vec![Row::default(); partitions];
    let mut world = World {
        random,
        now: 0,
        ids: 0,
        topic,
        store: Store { rows, up: true, ..Store::default() },
        down_until: 0,
        snapshots: Vec::new(),
        workers: (0..workers).map(|_| Worker::new(partitions, 0)).collect(),
        owner: vec![None; partitions],
        moving: vec![None; partitions],
        trace: traced.then(Vec::new),
    };
    world.live(bug).map_err(|what| Failure { what, trace: world.trace.take().unwrap_or_default() })
}

impl World {
    fn live(&mut self, bug: Option<Bug>) -> Result<(), String> {
        while self.now < CALM_END {
            self.now += 1 + self.random.below(8);
            if self.now < FAULTS_END && self.random.one_in(40) {
                self.fault();
            }
            self.store.up = self.now >= self.down_until;
            self.coordinate();
            for (worker, id, answer) in self.store.work(self.now, bug, &mut self.random, &self.topic)? {
                self.note(|| format!("store answers {id} of worker {worker}: {answer:?}"));
                self.workers[worker].inbox.push_back(Notice::Answer(id, answer));
            }
            for _ in 0..2 {
                self.act(bug);
            }
            if self.now >= FAULTS_END && self.finished() {
                return Ok(());
            }
        }
        let next = |row: &Row| row.checkpoint.map(|c| c.next);
        let at: Vec<_> = self.store.rows.iter().map(next).collect();
        let ends: Vec<_> = self.topic.iter().map(|p| p.end(self.now)).collect();
        Err(format!("liveness: 30 s after the last fault the positions are {at:?} of {ends:?}"))
    }

    fn finished(&self) -> bool {
        self.topic.iter().zip(&self.store.rows).all(|(partition, row)| {
            row.checkpoint.is_some_and(|c| c.next == partition.end(self.now))
                && row.ledger.iter().copied().eq(partition.between(0, i64::MAX))
        })
    }

    fn act(&mut self, bug: Option<Bug>) {
        let w = self.random.below(self.workers.len() as u64) as usize;
        let worker = &mut self.workers[w];
        if worker.dead > self.now || (worker.frozen > self.now && self.now < FAULTS_END) {
            return;
        }
        if worker.dead > 0 {
            *worker = Worker::new(self.topic.len(), self.now);
            self.expel(w);
            return;
        }
        self.ids += 1;
        match worker.step(self.now, bug, &mut self.random, &self.topic, self.ids) {
            Effect::Nothing => {}
            Effect::Released(p) => {
                // A member that was expelled meanwhile has nothing to give back.
                if self.owner[p as usize] == Some(w)
                    && let Some(to) = self.moving[p as usize].take()
                {
                    self.give(p, to);
                }
            }
            Effect::Ask(id, ask) => {
                let faulty = self.now < FAULTS_END;
                let late = if faulty && self.random.one_in(20) { self.random.below(3_000) } else { 0 };
                let due = self.now + 1 + self.random.below(10) + late;
                let lost = faulty && self.random.one_in(20);
                let answered = !(faulty && self.random.one_in(15));
                self.note(|| {
                    format!("worker {w} asks {id}, lost {lost}, answered {answered}, due {due}: {ask:?}")
                });
                if !lost {
                    self.store.send((id, w), ask, due, answered);
                }
            }
        }
    }

    /// The group's coordinator: expels who is silent, gives out what nobody has.
    fn coordinate(&mut self) {
        for w in 0..self.workers.len() {
            if self.workers[w].heartbeat + SESSION_MAX < self.now && self.owner.contains(&Some(w)) {
                self.expel(w);
            }
        }
        for p in 0..self.owner.len() {
            if self.owner[p].is_none() {
                let to = self.random.below(self.workers.len() as u64) as usize;
                if self.workers[to].heartbeat + SESSION_MAX >= self.now && self.workers[to].dead == 0 {
                    self.give(p as i32, to);
                }
            }
        }
    }

    fn give(&mut self, p: i32, to: usize) {
        self.note(|| format!("partition {p} goes to worker {to}"));
        self.owner[p as usize] = Some(to);
        self.workers[to].inbox.push_back(Notice::Assigned(p));
    }

    fn expel(&mut self, w: usize) {
        for p in 0..self.owner.len() {
            if self.owner[p] == Some(w) {
                (self.owner[p], self.moving[p]) = (None, None);
                self.note(|| format!("worker {w} loses partition {p}"));
                self.workers[w].inbox.push_back(Notice::Lost(p as i32));
            }
        }
    }

    fn fault(&mut self) {
        let w = self.random.below(self.workers.len() as u64) as usize;
        let p = self.random.below(self.owner.len() as u64) as usize;
        let wait = self.random.below(3_000);
        let until = (self.now + wait).min(FAULTS_END);
        match self.random.below(12) {
            0 => {
                self.note(|| format!("worker {w} dies until {until}"));
                self.workers[w].dead = until;
            }
            1 | 2 => {
                self.note(|| format!("worker {w} freezes until {until}"));
                self.workers[w].frozen = until;
            }
            3 => {
                self.note(|| "the store is out".to_owned());
                self.down_until = (self.now + wait / 5).min(FAULTS_END);
            }
            4 => {
                self.note(|| "failover".to_owned());
                let rows = self.store.rows.clone();
                self.store.replace(rows);
            }
            5 | 6 if self.now < RESTORES_END && !self.snapshots.is_empty() => {
                let at = self.random.below(self.snapshots.len() as u64) as usize;
                self.note(|| format!("restore of snapshot {at}"));
                self.store.replace(self.snapshots[at].clone());
            }
            7 => self.snapshots.push(self.store.rows.clone()),
            _ => {
                let Some(from) = self.owner[p].filter(|from| *from != w) else { return };
                if self.moving[p].is_none() {
                    self.note(|| format!("partition {p} is to move from {from} to {w}"));
                    self.moving[p] = Some(w);
                    self.workers[from].inbox.push_back(Notice::Revoked(p as i32));
                }
            }
        }
    }

    fn note(&mut self, line: impl FnOnce() -> String) {
        if self.trace.is_some() {
            let line = format!("{:>6} ms  {}", self.now, line());
            self.trace.iter_mut().for_each(|trace| trace.push(line.clone()));
        }
    }
}
