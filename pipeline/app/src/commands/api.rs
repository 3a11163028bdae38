//! `spawn api`, and the same server inside the demo and for a worker's probes.

use super::{models, store};
use crate::cli::Api;
use crate::config::Settings;
use crate::embedder::{Embedder, Refused, item_vector, modality_of};
use crate::exit::{Code, Failure, OrExit, Outcome};
use crate::line::{LoadedModel, Runtime};
use crate::output::Output;
use crate::telemetry;
use serde_json::Value;
use spawn_api::{ApiConfig, ApiState, Check, EmbedError, Gone, Query, QueryEmbedder, QueryVector};
use spawn_core::{BoxFuture, Modality, Rejection};
use spawn_engine::Stats;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

pub(super) async fn run(args: Api, settings: Settings, out: Output) -> Outcome {
    let runtime = match args.no_models {
        true => None,
        false => Some(Runtime::load(settings.clone(), &settings.pipeline)?),
    };
    let served = Served::start(&settings, runtime.as_ref(), &[]).await?;
    out.note(format_args!("the API listens on {}", served.url));
    super::interrupted().await;
    served.stop().await;
    Ok(())
}

/// A server that runs.
pub(super) struct Served {
    pub(super) url: String,
    stop_tx: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Served {
    /// The whole API, with models for queries where a runtime has them.
    pub(super) async fn start(
        settings: &Settings,
        runtime: Option<&Runtime>,
        stats: &[Arc<Stats>],
    ) -> Outcome<Self> {
        Self::listen(&settings.api.listen, settings, runtime, stats).await
    }

    async fn listen(
        address: &str,
        settings: &Settings,
        runtime: Option<&Runtime>,
        stats: &[Arc<Stats>],
    ) -> Outcome<Self> {
        let in_use = |e| {
            Failure::new(
                Code::Unavailable,
                format!("cannot listen on {address}: {e}; set api.listen to another port"),
            )
        };
        let listener = TcpListener::bind(address).await.map_err(in_use)?;
        let url = format!("http://{}", listener.local_addr()?);
        let (stop_tx, stop_rx) = oneshot::channel();
        let state = state(settings, runtime, stats).await?;
        let task = tokio::spawn(spawn_api::serve(listener, state, async move { drop(stop_rx.await) }));
        Ok(Self { url, stop_tx, task })
    }

    /// Lets open requests finish.
    pub(super) async fn stop(self) {
        drop(self.stop_tx);
        if let Err(error) = self.task.await {
            tracing::warn!(%error, "the API ended badly");
        }
    }
}

/// Health and metrics of a worker; nothing where `metrics.listen` is empty.
pub(super) async fn serve_probes(settings: &Settings, stats: &[Arc<Stats>]) -> Outcome<Option<Served>> {
    match settings.metrics.listen.as_str() {
        "" => Ok(None),
        address => Served::listen(address, settings, None, stats).await.map(Some),
    }
}

async fn state(settings: &Settings, runtime: Option<&Runtime>, stats: &[Arc<Stats>]) -> Outcome<ApiState> {
    let api = &settings.api;
    let config = ApiConfig {
        cache_bytes: api.cache_bytes,
        cache_age: Duration::from_secs(api.cache_seconds),
        body_bytes_max: api.body_bytes_max,
        concurrency_max: api.concurrency_max,
        timeout: Duration::from_secs(api.timeout_seconds),
    };
    let stats = stats.to_vec();
    Ok(ApiState {
        store: store(settings).await?,
        embedder: Arc::new(Queries(runtime.map(Runtime::embedder))),
        models: Arc::new(runtime.map_or_else(Vec::new, |r| r.model_infos.clone())),
        metrics: Arc::new(telemetry::render),
        checks: Arc::new(move |gone| stats.iter().map(|s| progress(s, gone)).collect()),
        cache: spawn_api::cache::AnswerCache::new(config.cache_bytes, config.cache_age),
        config,
    })
}

/// Ready is what moves, not what is up.
fn progress(stats: &Stats, gone: &[Gone]) -> Check {
    let health = stats.health.read(gone);
    let stuck = health.stuck();
    let found = if let Some(step) = health.steps.iter().find(|s| s.stuck) {
        let (step, seconds) = (step, step.oldest.as_secs_f64());
        format!(
            "{} does not move: {} under way, the oldest for {seconds:.0} s",
            step.step.name(),
            step.in_flight
        )
    } else if let Some((dependency, why)) = health.waits_for.iter().next() {
        format!("waits for {dependency}: {why}")
    } else {
        format!("moves; last commit or first record {:.0} s ago", stats.seconds_since_progress())
    };
    Check {
        id: "line",
        ok: stuck.is_empty() && health.waits_for.is_empty(),
        found,
        pipeline: Some(stats.pipeline.to_string()),
        stuck,
        waits_for: health.waits_for.into_keys().collect(),
    }
}

/// Joins the embedder to the API, which knows no stage and no model.
struct Queries(Option<Embedder>);

impl QueryEmbedder for Queries {
    fn embed(&self, query: Query) -> BoxFuture<'_, Result<QueryVector, EmbedError>> {
        Box::pin(async move {
            let none = || EmbedError::NoModel("this server has no models: ask by id or vector".into());
            let embedder = self.0.as_ref().ok_or_else(none)?;
            let (modality, bytes, hint) = match query {
                Query::Text(text) => (Modality::Text, text.into(), None),
                Query::Media { modality, bytes, media_type } => {
                    let declared = media_type.as_deref().and_then(|t| t.split('/').next()?.parse().ok());
                    // The content decides, before what somebody says of it.
                    let sniffed = || modality_of(Path::new(""), &bytes).ok();
                    let found = modality.or_else(sniffed).or(declared);
                    let unknown = || {
                        let detail =
                            "neither picture, sound nor text by its first bytes; if it is, say `modality`";
                        EmbedError::Rejected(Rejection::new("prepare", "decode.unsupported", detail))
                    };
                    (found.ok_or_else(unknown)?, bytes, media_type)
                }
            };
            let inferred = embedder.embed(modality, bytes, hint).await.map_err(|refused| match refused {
                Refused::Media(rejection) => EmbedError::Rejected(rejection),
                Refused::System(detail) => EmbedError::Failed(detail),
            })?;
            let vector = item_vector(&inferred)
                .ok_or_else(|| EmbedError::Failed("the model made no vector".into()))?;
            Ok(QueryVector { modality, vector: vector.to_vec() })
        })
    }
}

/// What `/models` tells of each loaded model.
pub(crate) fn infos(loaded: &[LoadedModel], settings: &Settings) -> Outcome<Vec<Value>> {
    loaded
        .iter()
        .map(|model| models::info(model, settings))
        .collect::<Outcome<_>>()
        .map_err(|f| f.error)
        .or_exit(Code::Config)
}
