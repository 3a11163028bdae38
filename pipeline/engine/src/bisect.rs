//! What is done when a model call fails: less memory, or the one record to blame.

use crate::crew::panic_message;
use spawn_core::{Fault, FaultClass, Features, Inference, Model, Refusal, Rejection};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// A model with what was learnt about its limits while running.
pub struct Careful {
    model: Box<dyn Model>,
    /// Most chunks at which no call ran out of memory.
    chunks_safe: usize,
    /// Good calls since the limit last changed.
    calls_good: u32,
}

/// Good calls after which one chunk more is tried: soon enough to recover, seldom enough not to fail all the time.
const CALLS_BEFORE_GROWTH: u32 = 16;

impl Careful {
    /// Starts with the model's own limit.
    pub fn new(model: Box<dyn Model>) -> Self {
        let chunks_safe = model.spec().chunks_max.max(1);
        Self { model, chunks_safe, calls_good: 0 }
    }

    /// The model's description.
    pub fn spec(&self) -> &spawn_core::ModelSpec {
        self.model.spec()
    }

    /// See [`Model::device_bytes`].
    pub(crate) fn device_bytes(&self) -> [u64; 2] {
        self.model.device_bytes()
    }

    /// Infers all chunks, each for itself if need be. `Err` is the system's fault and blames no record.
    pub fn infer(&mut self, chunks: &[&Features]) -> Result<Vec<Result<Inference, Refusal>>, Fault> {
        let mut results = Vec::with_capacity(chunks.len());
        let mut rest = chunks;
        while !rest.is_empty() {
            let (call, after) = rest.split_at(rest.len().min(self.chunks_safe));
            match self.call(call) {
                Ok(inferences) => {
                    results.extend(inferences.into_iter().map(Ok));
                    self.grow();
                    rest = after;
                }
                Err(fault) if fault.class == FaultClass::Resource && call.len() > 1 => {
                    (self.chunks_safe, self.calls_good) = (call.len() / 2, 0);
                    tracing::warn!(model = %self.model.spec().name, chunks = self.chunks_safe, %fault, "out of memory, halving the call");
                }
                Err(fault) if matches!(fault.class, FaultClass::Resource | FaultClass::Batch) => {
                    results.extend(self.bisect(call, fault)?);
                    rest = after;
                }
                Err(fault) => return Err(fault),
            }
        }
        Ok(results)
    }

    /// One call. A panic in it may be one chunk's fault, like an error.
    fn call(&mut self, call: &[&Features]) -> Result<Vec<Inference>, Fault> {
        let inferences = guarded(FaultClass::Batch, || self.model.infer(call))?;
        if inferences.len() != call.len() {
            let detail = format!("{} inferences for {} chunks", inferences.len(), call.len());
            return Err(Fault::new(FaultClass::Systemic, "model", detail));
        }
        Ok(inferences)
    }

    fn grow(&mut self) {
        self.calls_good += 1;
        if self.calls_good >= CALLS_BEFORE_GROWTH {
            (self.chunks_safe, self.calls_good) =
                ((self.chunks_safe + 1).min(self.model.spec().chunks_max.max(1)), 0);
        }
    }

    /// Halves a failing call until single chunks fail. A chunk is to blame only if the model is healthy right afterwards; one for which
    /// there is no memory even alone is tried again later, because memory may be there then.
    fn bisect(&mut self, call: &[&Features], fault: Fault) -> Result<Vec<Result<Inference, Refusal>>, Fault> {
        if call.len() == 1 && fault.class == FaultClass::Resource {
            let later = Rejection::new("infer", "model.memory", fault.detail);
            return Ok(vec![Err(Refusal::Defer(later))]);
        }
        if call.len() == 1 {
            guarded(FaultClass::Systemic, || self.model.control()).map_err(|sick| {
                Fault::new(
                    FaultClass::Systemic,
                    "model",
                    format!("{fault}; and the golden input fails as well: {sick}"),
                )
            })?;
            return Ok(vec![Err(Rejection::new("infer", "model.rejected", fault.detail).into())]);
        }
        let mut results = Vec::with_capacity(call.len());
        for half in [&call[..call.len() / 2], &call[call.len() / 2..]] {
            match self.call(half) {
                Ok(inferences) => results.extend(inferences.into_iter().map(Ok)),
                Err(fault) if matches!(fault.class, FaultClass::Resource | FaultClass::Batch) => {
                    results.extend(self.bisect(half, fault)?);
                }
                Err(fault) => return Err(fault),
            }
        }
        Ok(results)
    }
}

/// A panic becomes a fault of `class`.
fn guarded<T>(class: FaultClass, work: impl FnOnce() -> Result<T, Fault>) -> Result<T, Fault> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|panic| Err(Fault::new(class, "model", panic_message(&*panic))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::infer::tests::{FakeModel, chunk};

    fn outcomes(careful: &mut Careful, lengths: &[usize]) -> Result<Vec<bool>, Fault> {
        let chunks: Vec<Features> = lengths.iter().map(|l| chunk(*l)).collect();
        let refs: Vec<&Features> = chunks.iter().collect();
        careful.infer(&refs).map(|all| all.iter().map(Result::is_ok).collect())
    }

    #[test]
    fn only_the_poisonous_chunk_is_rejected() {
        let mut careful = Careful::new(Box::new(FakeModel { poison: Some(13), ..FakeModel::default() }));
        let got = outcomes(&mut careful, &[1, 2, 13, 4, 5, 13, 7]).expect("no fault");
        assert_eq!(got, [true, true, false, true, true, false, true]);
    }

    #[test]
    fn a_sick_model_blames_nobody() {
        let mut careful =
            Careful::new(Box::new(FakeModel { poison: Some(13), sick: true, ..FakeModel::default() }));
        let fault = outcomes(&mut careful, &[1, 13]).expect_err("the control fails");
        assert_eq!(fault.class, FaultClass::Systemic);
    }

    #[test]
    fn a_panic_in_a_call_is_that_chunks_end_only() {
        let mut careful = Careful::new(Box::new(FakeModel { panics: Some(13), ..FakeModel::default() }));
        assert_eq!(outcomes(&mut careful, &[1, 13, 4]).expect("no fault"), [true, false, true]);
    }

    #[test]
    fn without_memory_for_one_chunk_it_is_tried_again_later() {
        let mut careful = Careful::new(Box::new(FakeModel { memory: 0, ..FakeModel::default() }));
        let results = careful.infer(&[&chunk(1)]).expect("no fault");
        assert!(matches!(&results[..], [Err(Refusal::Defer(r))] if r.code == "model.memory"), "{results:?}");
    }

    #[test]
    fn out_of_memory_halves_and_remembers() {
        let mut careful = Careful::new(Box::new(FakeModel { memory: 3, ..FakeModel::default() }));
        assert_eq!(outcomes(&mut careful, &[1; 8]).expect("no fault"), [true; 8]);
        assert!(careful.chunks_safe <= 3, "remembers: {}", careful.chunks_safe);
    }
}
