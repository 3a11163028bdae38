//! Commit units become results: cut into model calls, put back into record order.
//!
//! What was computed before is left out. The other chunks of a unit are sorted by length, so that a call pads little. Calls of two
//! units are under way at once: while one runs, the next is ready.

use crate::device::DeviceHandle;
use crate::lanes::Lane;
use crate::meter::{Meter, State};
use crate::prepare::Ready;
use crate::reuse::{Follow, Lead, Reuse, Turn};
use crate::steps::reached;
use crate::telemetry::Stats;
use spawn_core::{
    Batch, Envelope, Fault, FaultClass, Features, Inference, Inferred, ModelSpec, Provenance, Refusal,
};
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::mpsc::{Receiver, Sender};
use tokio::task::JoinHandle;

/// Units in inference at once: one whose calls run, one whose calls are queued behind them.
const UNITS_MAX: usize = 2;

/// What the verb needs.
#[derive(Clone)]
pub struct Infer {
    /// Where the model lives.
    pub device: DeviceHandle,
    /// Who goes first on it.
    pub lane: Lane,
    /// The model.
    pub spec: ModelSpec,
    /// The stage's specification.
    pub preparation: Arc<str>,
    /// What was computed before.
    pub(crate) reuse: Reuse,
    /// Time.
    pub meter: Arc<Meter>,
    /// Counts.
    pub stats: Arc<Stats>,
}

impl Infer {
    /// Runs until the input ends. A fault here means that the model cannot go on.
    pub async fn run(
        self,
        mut units: Receiver<Batch<Ready>>,
        out: Sender<Batch<Inferred>>,
    ) -> Result<(), Fault> {
        let mut running: VecDeque<JoinHandle<Result<Batch<Inferred>, Fault>>> = VecDeque::new();
        let mut open = true;
        while open || !running.is_empty() {
            self.meter.enter(if running.is_empty() { State::Starved } else { State::Busy });
            tokio::select! {
                biased;
                done = async { running.front_mut().expect("checked by the guard. This is a bug.").await }, if !running.is_empty() => {
                    running.pop_front();
                    let batch = done.map_err(|e| Fault::new(FaultClass::Operator, "model", format!("inference task: {e}")))??;
                    reached("inferred");
                    self.meter.add_items(batch.envelopes.len() as u64);
                    if self.meter.during(State::Blocked, out.send(batch)).await.is_err() {
                        return Ok(());
                    }
                }
                unit = units.recv(), if open && running.len() < UNITS_MAX => match unit {
                    None => open = false,
                    Some(unit) => {
                        let infer = self.clone();
                        running.push_back(tokio::spawn(async move { infer.unit(unit).await }));
                    }
                },
            }
        }
        Ok(())
    }

    async fn unit(&self, unit: Batch<Ready>) -> Result<Batch<Inferred>, Fault> {
        let mut chunks: Vec<Option<Features>> = Vec::new();
        let mut waiting: Vec<(Envelope<()>, Option<Waiting>)> = Vec::with_capacity(unit.envelopes.len());
        for envelope in unit.envelopes {
            let (rest, work) = envelope.split();
            waiting.push((rest, work.map(|ready| self.waiting(ready, &mut chunks))));
        }
        let mut results = self.call_all(&mut chunks).await?.into_iter();
        let mut envelopes = Vec::with_capacity(waiting.len());
        for (rest, work) in waiting {
            let inferred = match work {
                None => None,
                Some(Waiting::Known(inferred)) => Some(Ok(inferred)),
                Some(Waiting::Called(called)) => Some(self.join(called, &mut results)),
                // Whoever leads came before this one: earlier in this unit, or in one whose calls are under way.
                Some(Waiting::Follows(follow)) => Some(follow.outcome().await.ok_or_else(|| {
                    Fault::new(FaultClass::Operator, "model", "the call with the same content has failed")
                })?),
            };
            envelopes.push(rest.join(inferred));
        }
        Ok(Batch { envelopes, delta: unit.delta, flushed: unit.flushed })
    }

    /// Decides who makes what of a record, and adds its chunks to those that are to be called.
    fn waiting(&self, ready: Ready, chunks: &mut Vec<Option<Features>>) -> Waiting {
        let (mut prepared, content, mut lookup) = match ready {
            Ready::Known(inferred) => return Waiting::Known(inferred),
            Ready::Features { prepared, content, lookup } => (prepared, content, lookup),
        };
        if let Some(known) = self.reuse.found(&mut lookup) {
            return Waiting::Known(known);
        }
        let lead = match self.reuse.turn(content) {
            Turn::Follow(follow) => return Waiting::Follows(follow),
            Turn::Lead(lead) => lead,
        };
        let count = prepared.chunks.len();
        chunks.extend(prepared.chunks.drain(..).map(Some));
        Waiting::Called(Called { count, facts: prepared.facts, content, lead })
    }

    /// Infers every chunk; the results lie in the chunks' order.
    async fn call_all(
        &self,
        chunks: &mut [Option<Features>],
    ) -> Result<Vec<Result<Inference, Refusal>>, Fault> {
        let lengths: Vec<usize> = chunks.iter().map(|c| c.as_ref().map_or(0, Features::length)).collect();
        let calls = plan(&lengths, &self.device.call_limits(self.lane, &self.spec));
        let answers = calls.iter().map(|call| {
            let longest = call.iter().map(|i| lengths[*i]).max().unwrap_or(0);
            let useful: usize = call.iter().map(|i| lengths[*i]).sum();
            let padding = 1.0 - useful as f64 / (longest * call.len()).max(1) as f64;
            let features: Vec<Features> = call.iter().filter_map(|i| chunks[*i].take()).collect();
            self.call(features, padding)
        });
        let answers = futures::future::try_join_all(answers.collect::<Vec<_>>()).await?;
        let mut results: Vec<Option<Result<Inference, Refusal>>> = (0..lengths.len()).map(|_| None).collect();
        for (call, answer) in calls.iter().zip(answers) {
            call.iter().zip(answer).for_each(|(i, result)| results[*i] = Some(result));
        }
        Ok(results.into_iter().map(|r| r.expect("every chunk is in one call. This is a bug.")).collect())
    }

    async fn call(
        &self,
        features: Vec<Features>,
        padding: f64,
    ) -> Result<Vec<Result<Inference, Refusal>>, Fault> {
        let count = features.len();
        let answer = self.device.infer(self.lane, &self.spec.name, features, Some(self.stats.clone())).await;
        // A fault of the model is not waited out: the process restarts from the checkpoint with a fresh device.
        let answer = answer.map_err(|fault| Fault { class: FaultClass::Operator, ..fault })?;
        self.meter.add_cpu(answer.cpu);
        self.stats.called(&self.spec, count, padding, &answer);
        self.stats.stage_took("infer", answer.took);
        Ok(answer.results)
    }

    /// One record's chunks together. A record of which one chunk is refused is refused.
    fn join(
        &self,
        Called { count, facts, content, lead }: Called,
        results: &mut impl Iterator<Item = Result<Inference, Refusal>>,
    ) -> Result<Inferred, Refusal> {
        let chunks: Vec<Result<Inference, Refusal>> = results.take(count).collect();
        let chunks: Result<Vec<Inference>, Refusal> = chunks.into_iter().collect();
        let inferred = chunks.map(|chunks| Inferred {
            pooled: self.spec.pooling.pool(&chunks),
            chunks,
            facts,
            provenance: Provenance {
                content,
                preparation: self.preparation.clone(),
                model: self.spec.id(),
                dtype: self.spec.dtype.clone(),
            },
        });
        lead.land(&inferred);
        inferred
    }
}

/// A record of a unit whose calls are under way.
enum Waiting {
    /// Was computed before.
    Known(Inferred),
    /// Its chunks are with the model.
    Called(Called),
    /// Another record's chunks are, with the same content.
    Follows(Follow),
}

struct Called {
    count: usize,
    facts: spawn_core::MediaFacts,
    content: spawn_core::ContentHash,
    lead: Lead,
}

/// Cuts chunks of these lengths into calls, longest first, so that padding and calls cost the least that the limits allow. A few long
/// chunks among short ones get a call of their own where padding the others would cost more.
///
/// Of chunks in order of length some best plan takes neighbours together, so it is found by looking, for each chunk, where the last call
/// up to it should begin: `chunks * chunks_max` steps.
pub fn plan(lengths: &[usize], spec: &ModelSpec) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|i| std::cmp::Reverse(lengths[*i]));
    // Of the first `n` chunks: the least cost, and where the last call begins.
    let mut best = vec![(0, 0)];
    for end in 1..=order.len() {
        let calls = (0..end).rev().take_while(|begin| spec.fits(end - begin, lengths[order[*begin]]));
        let costs = calls.map(|begin| {
            let padded = (end - begin) * lengths[order[begin]];
            (best[begin].0 + padded + spec.call_cost, begin)
        });
        best.push(costs.min().expect("one chunk always fits. This is a bug."));
    }
    let (mut calls, mut end) = (Vec::new(), order.len());
    while end > 0 {
        let begin = best[end].1;
        calls.push(order[begin..end].to_vec());
        end = begin;
    }
    calls.reverse();
    calls
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use spawn_core::{Array, ArrayData, Embedding, Modality, Model, Pooling};

    /// A model that fails as told, by chunk length and by count.
    #[derive(Clone)]
    pub(crate) struct FakeModel {
        pub(crate) poison: Option<usize>,
        pub(crate) panics: Option<usize>,
        pub(crate) sick: bool,
        pub(crate) memory: usize,
        pub(crate) spec: ModelSpec,
    }

    impl Default for FakeModel {
        fn default() -> Self {
            Self { poison: None, panics: None, sick: false, memory: usize::MAX, spec: spec() }
        }
    }

    pub(crate) fn spec() -> ModelSpec {
        ModelSpec {
            name: "fake".into(),
            version: "0123456789abcdef".into(),
            modality: Modality::Text,
            dimension: 2,
            dtype: "f32".into(),
            device: "cpu".into(),
            pooling: Pooling::Mean,
            chunks_max: 8,
            padded_cost_max: 100,
            call_cost: 10,
        }
    }

    pub(crate) fn chunk(length: usize) -> Features {
        Features {
            arrays: vec![Array { name: "ids", shape: vec![length], data: ArrayData::I64(vec![1; length]) }],
        }
    }

    impl Model for FakeModel {
        fn spec(&self) -> &ModelSpec {
            &self.spec
        }
        fn infer(&mut self, chunks: &[&Features]) -> Result<Vec<Inference>, Fault> {
            assert!(chunks.iter().all(|c| Some(c.length()) != self.panics), "planted panic");
            if chunks.len() > self.memory {
                return Err(Fault::new(FaultClass::Resource, "model", "out of memory"));
            }
            if chunks.iter().any(|c| Some(c.length()) == self.poison) {
                return Err(Fault::new(FaultClass::Batch, "model", "bad chunk"));
            }
            let embedding = |c: &&Features| Embedding::try_new(vec![c.length() as f32, 1.0], 2).ok();
            Ok(chunks.iter().map(|c| Inference { embedding: embedding(c), labels: Vec::new() }).collect())
        }
        fn control(&mut self) -> Result<(), Fault> {
            if self.sick { Err(Fault::new(FaultClass::Systemic, "model", "sick")) } else { Ok(()) }
        }
        fn fork(&self) -> Box<dyn Model> {
            Box::new(self.clone())
        }
    }

    #[test]
    fn a_plan_covers_every_chunk_once_within_the_limits() {
        let lengths = [40, 3, 60, 3, 3, 50, 3, 200, 3, 3, 3, 3, 3, 3];
        let calls = plan(&lengths, &spec());
        let mut all: Vec<usize> = calls.concat();
        all.sort_unstable();
        assert_eq!(all, (0..lengths.len()).collect::<Vec<_>>());
        for call in &calls {
            let longest = call.iter().map(|i| lengths[*i]).max().expect("not empty");
            assert!(call.len() == 1 || longest * call.len() <= 100, "{call:?}");
            assert!(call.len() <= 8);
        }
        assert_eq!(calls[0], [7], "what exceeds the cost alone goes alone");
    }

    #[test]
    fn outliers_go_apart_where_padding_costs_more_than_a_call() {
        let spec = ModelSpec { chunks_max: 64, padded_cost_max: 16_384, call_cost: 64, ..spec() };
        let cost = |calls: &[Vec<usize>], lengths: &[usize]| -> usize {
            calls.iter().map(|call| 64 + call.len() * lengths[call[0]]).sum()
        };
        let mut lengths = vec![10; 62];
        lengths.extend([256, 250]);
        let calls = plan(&lengths, &spec);
        assert_eq!(calls.iter().map(Vec::len).collect::<Vec<_>>(), [2, 62]);
        assert_eq!(cost(&calls, &lengths), 2 * 64 + 2 * 256 + 62 * 10);
        assert_eq!(plan(&[12, 11, 10, 9], &spec).len(), 1, "a little padding is cheaper than a call");
        // Never dearer than a call for each run of equal lengths, nor than calls that are filled up.
        let lengths: Vec<usize> = (0..200).map(|i| 5 + i * 37 % 190).collect();
        let mut sorted = lengths.clone();
        sorted.sort_unstable_by(|a, b| b.cmp(a));
        let filled: usize = sorted.chunks(64).map(|call| 64 + call.len() * call[0]).sum();
        assert!(cost(&plan(&lengths, &spec), &lengths) < filled * 9 / 10);
    }
}
