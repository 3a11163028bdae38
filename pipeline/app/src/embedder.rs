//! Single items through stage and model: for queries, `spawn embed` and whoever wants a vector now.

use crate::exit::{Code, Failure, Outcome};
use bytes::Bytes;
use spawn_core::{
    Inference, Inferred, Media, MediaFacts, Modality, ModelSpec, Provenance, Refusal, Rejection, Stage,
};
use spawn_engine::{Crew, DeviceHandle, Lane, Share};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Stage and model of each modality, ready for single items.
#[derive(Clone)]
pub struct Embedder {
    crew: Crew,
    device: DeviceHandle,
    /// Of the pool of decoded bytes.
    decoded: Share,
    by_modality: Arc<BTreeMap<Modality, Parts>>,
}

/// A stage to fork, and what is known of the model on the device.
type Parts = (Mutex<Box<dyn Stage>>, ModelSpec);

/// Why there is no vector.
#[derive(Debug)]
pub enum Refused {
    /// The media's fault.
    Media(Rejection),
    /// The system's.
    System(String),
}

impl Embedder {
    /// One stage and one model per modality.
    pub fn new(
        crew: Crew,
        device: DeviceHandle,
        decoded: Share,
        parts: Vec<(Box<dyn Stage>, ModelSpec)>,
    ) -> Self {
        let by_modality =
            parts.into_iter().map(|(stage, spec)| (spec.modality, (Mutex::new(stage), spec))).collect();
        Self { crew, device, decoded, by_modality: Arc::new(by_modality) }
    }

    /// The model of a modality.
    pub fn spec(&self, modality: Modality) -> Option<&ModelSpec> {
        self.by_modality.get(&modality).map(|(_, spec)| spec)
    }

    /// All chunks of one item.
    pub async fn embed(
        &self,
        modality: Modality,
        bytes: Bytes,
        hint: Option<String>,
    ) -> Result<Inferred, Refused> {
        self.embed_timed(modality, bytes, hint).await.map(|(inferred, _)| inferred)
    }

    /// The same with the time that preparing and inferring took, waits included.
    pub async fn embed_timed(
        &self,
        modality: Modality,
        bytes: Bytes,
        hint: Option<String>,
    ) -> Result<(Inferred, [Duration; 2]), Refused> {
        let started = Instant::now();
        let system = |detail: String| Refused::System(detail);
        let Some((_, spec)) = self.by_modality.get(&modality) else {
            return Err(system(format!("no pipeline has a model for {modality}")));
        };
        let (spec, parts) = (spec.clone(), self.by_modality.clone());
        let media = Media::new(bytes, hint);
        let content = media.content;
        let look = move |_| {
            let stage = parts[&modality].0.lock().unwrap_or_else(PoisonError::into_inner).fork();
            let footprint = stage.footprint(&media)?;
            Ok((stage, media, footprint))
        };
        let (mut stage, media, footprint) =
            self.crew.run(Lane::Live, look).await.map_err(system)?.map_err(Refused::Media)?;
        let room = self.decoded.acquire(footprint).await;
        let prepare = move |_| {
            let prepared = stage.process(&media);
            drop(room);
            prepared.map(|prepared| (prepared, stage.spec().into()))
        };
        let (prepared, preparation): (_, Arc<str>) =
            self.crew.run(Lane::Live, prepare).await.map_err(system)?.map_err(Refused::Media)?;
        let prepared_at = Instant::now();
        let answers =
            spawn_engine::infer::plan(&prepared.chunks.iter().map(|c| c.length()).collect::<Vec<_>>(), &spec);
        let mut chunks: Vec<Option<Inference>> = (0..prepared.chunks.len()).map(|_| None).collect();
        for call in answers {
            let features = call.iter().map(|i| prepared.chunks[*i].clone()).collect();
            let answer = self
                .device
                .infer(Lane::Live, &spec.name, features, None)
                .await
                .map_err(|f| system(f.to_string()))?;
            for (i, result) in call.into_iter().zip(answer.results) {
                let refused = |(Refusal::Reject(r) | Refusal::Defer(r))| Refused::Media(r);
                chunks[i] = Some(result.map_err(refused)?);
            }
        }
        let chunks: Vec<Inference> = chunks.into_iter().flatten().collect();
        let pooled = spec.pooling.pool(&chunks);
        let provenance = Provenance { content, preparation, model: spec.id(), dtype: spec.dtype.clone() };
        let took = [prepared_at - started, prepared_at.elapsed()];
        Ok((Inferred { chunks, pooled, facts: prepared.facts, provenance }, took))
    }
}

/// The vector that stands for the whole item: pooled where there is one, else its only chunk's.
pub fn item_vector(inferred: &Inferred) -> Option<&[f32]> {
    let only = || inferred.chunks.first().and_then(|c| c.embedding.as_ref());
    inferred.pooled.as_ref().or_else(only).map(|e| e.as_slice())
}

/// Said of a file that is none of the three.
pub const UNKNOWN_KIND: &str = "neither picture, sound nor text, by its first bytes and its name; if it is, say --modality image|audio|text";

/// What a file is by its first bytes, else by its extension.
pub fn modality_of(path: &std::path::Path, bytes: &[u8]) -> Outcome<Modality> {
    spawn_jobs::modality_of(path, bytes)
        .ok_or_else(|| Failure::new(Code::Data, format!("{} is {UNKNOWN_KIND}", path.display())))
}

/// Facts as JSON.
pub fn facts_json(facts: &MediaFacts) -> serde_json::Value {
    serde_json::to_value(facts).unwrap_or_default()
}
