//! Puts the parts together: models on the device, stages on the crew, one pipeline per section of the configuration.

use crate::config::{Pipeline as PipelineSettings, Settings};
use crate::embedder::Embedder;
use crate::exit::{Code, Failure, OrExit, Outcome};
use crate::fetching::{Fetching, fetcher};
use crate::redriving::Redriving;
use crate::registry;
use crate::trial::ChildTrial;
use spawn_core::{Fault, Modality, Stage};
use spawn_engine::{
    Budget, Crew, Device, FailureLimits, Lane, LaneRules, Limits, Pipeline, Share, Stats, Summary, UnitLimits,
};
use spawn_kafka::{ConsumerConfig, FetchProfile, KafkaSource, Start};
use spawn_postgres::{Deferral, PgSink, PipelineIdentity, Redrive};
use spawn_torch::{Manifest, TorchModel, Tuning};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Most model calls at once where the configuration leaves it open: each keeps the activations of a call.
const CALLERS_MAX: usize = 4;
/// Model calls at once on each GPU: one that computes, one whose inputs are copied.
const GPU_CALLERS: usize = 2;

/// A loaded model with what `spawn models` tells of it.
pub struct LoadedModel {
    /// Its manifest.
    pub manifest: Manifest,
    /// Its folder.
    pub folder: PathBuf,
    /// The model, until a device takes it.
    pub model: TorchModel,
}

/// What all pipelines of a process share.
pub struct Runtime {
    /// In force.
    pub settings: Settings,
    /// CPU threads.
    pub crew: Crew,
    /// The inference threads.
    pub device: Device,
    /// Manifest and stage of each model by its name.
    models: BTreeMap<String, (Manifest, Box<dyn Stage>)>,
    shares: Shares,
    /// What `/models` tells of them.
    pub model_infos: Vec<serde_json::Value>,
}

/// Loads and verifies the models of these pipelines.
pub fn load_models(settings: &Settings, pipelines: &[PipelineSettings]) -> Outcome<Vec<LoadedModel>> {
    load_on(settings, pipelines, &devices(settings)?[0])
}

/// The devices of `models.device`. All are looked for before a model is loaded: with its first call libtorch decides for good whether there
/// is a GPU.
pub fn devices(settings: &Settings) -> Outcome<Vec<spawn_torch::Device>> {
    let found = |name: &str| {
        let device = name.trim().parse().or_exit(Code::Config)?;
        spawn_torch::runtime::resolve(&device).or_exit(Code::Data)
    };
    settings.models.device.split(',').map(found).collect()
}

fn load_on(
    settings: &Settings,
    pipelines: &[PipelineSettings],
    device: &spawn_torch::Device,
) -> Outcome<Vec<LoadedModel>> {
    init_torch(settings)?;
    let mut names: Vec<&str> = pipelines.iter().map(|p| p.model.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    names
        .into_iter()
        .map(|name| {
            let (manifest, folder) = registry::manifest(settings, name)?;
            let tuning = Tuning { cuda_graphs: settings.models.cuda_graphs, ..Tuning::default() };
            let model = TorchModel::load_with(&folder, device, tuning).or_exit(Code::Data)?;
            Ok(LoadedModel { manifest, folder, model })
        })
        .collect()
}

/// Gives libtorch its threads. To be called before the first model is loaded.
pub fn init_torch(settings: &Settings) -> Outcome {
    let intra_op = match settings.line.intra_op_threads {
        0 => spawn_torch::cores_granted().div_ceil(callers(settings)),
        n => n,
    };
    spawn_torch::init(spawn_torch::Threads { intra_op }).or_exit(Code::Unavailable)?;
    Ok(())
}

/// Model calls at once on a CPU.
fn callers(settings: &Settings) -> usize {
    match settings.line.model_callers {
        0 => spawn_torch::cores_granted().min(CALLERS_MAX),
        n => n,
    }
}

/// Bytes of polled records that may wait for so many pipelines, and the least that `memory.raw_bytes` must be with them.
pub fn raw_bytes_least(settings: &Settings, pipelines: usize) -> (usize, usize) {
    // The client's own queue and ours behind it.
    let queues = settings.kafka.queue_bytes_max.saturating_mul(2 * pipelines);
    (queues, settings.fetch.payload_bytes_max.saturating_mul(2 * pipelines).saturating_add(queues))
}

/// How the memory is divided.
struct Shares {
    /// Of the raw and the decoded pool, by pipeline.
    pipelines: BTreeMap<String, (Share, Share)>,
    /// The decoded bytes of single items: what no pipeline has as its floor.
    single: Share,
}

/// Each pipeline's queues of polled records and its reserve for growing come first, half of the rest is floors.
fn shares(settings: &Settings, pipelines: &[PipelineSettings]) -> Outcome<Shares> {
    let (memory, payload_max) = (&settings.memory, settings.fetch.payload_bytes_max);
    let count = pipelines.len().max(1);
    let (queues, least) = raw_bytes_least(settings, count);
    if memory.raw_bytes < least {
        return Err(Failure::new(
            Code::Config,
            format!(
                "memory.raw_bytes is {}, {count} pipelines need {least}: twice kafka.queue_bytes_max and twice fetch.payload_bytes_max \
                 each; raise it or lower those",
                memory.raw_bytes
            ),
        ));
    }
    let raw = Budget::new("raw", memory.raw_bytes - queues);
    let raw_floor = (raw.bytes_total() - count * payload_max) / 2 / count;
    let decoded = Budget::new("decoded", memory.decoded_bytes);
    let decoded_floor = memory.decoded_bytes / 2 / count;
    let share = |_| (raw.share(raw_floor, payload_max), decoded.share(decoded_floor, 0));
    let pipelines = pipelines.iter().map(|p| (p.name.clone(), share(p))).collect();
    Ok(Shares { pipelines, single: decoded.share(0, 0) })
}

impl Runtime {
    /// Loads what these pipelines need.
    pub fn load(settings: Settings, pipelines: &[PipelineSettings]) -> Outcome<Self> {
        let workers = match settings.line.crew_threads {
            0 => spawn_torch::cores_granted(),
            n => n,
        };
        let crew =
            Crew::new(workers, settings.lanes.bulk_share).map_err(|e| Failure::new(Code::Unavailable, e))?;
        let mut models = BTreeMap::new();
        let devices = devices(&settings)?;
        let mut boxed: Vec<Vec<Box<dyn spawn_core::Model>>> = vec![Vec::new()];
        let loaded = load_on(&settings, pipelines, &devices[0])?;
        let model_infos = crate::commands::model_infos(&loaded, &settings)?;
        for LoadedModel { manifest, folder, model } in loaded {
            let stage = registry::stage(&manifest, &folder, &settings)?;
            models.insert(manifest.name.clone(), (manifest, stage));
            boxed[0].push(Box::new(model));
        }
        for device in &devices[1..] {
            let loaded = load_on(&settings, pipelines, device)?;
            boxed.push(loaded.into_iter().map(|loaded| Box::new(loaded.model) as _).collect());
        }
        boxed.iter().flatten().for_each(|model| crate::telemetry::model(model.spec()));
        let on_gpu = boxed.iter().flatten().any(|model| model.spec().device.starts_with("cuda"));
        let callers = if on_gpu { GPU_CALLERS } else { callers(&settings) };
        let device = Device::start(callers, &boxed, rules(&settings, pipelines))?;
        let shares = shares(&settings, pipelines)?;
        Ok(Self { settings, crew, device, models, shares, model_infos })
    }

    /// For single items.
    pub fn embedder(&self) -> Embedder {
        let handle = self.device.handle();
        let parts = self
            .models
            .iter()
            .filter_map(|(name, (_, stage))| Some((stage.fork(), handle.spec(name)?.clone())));
        Embedder::new(self.crew.clone(), handle.clone(), self.shares.single.clone(), parts.collect())
    }

    /// The modality of a pipeline's model.
    pub fn modality(&self, pipeline: &PipelineSettings) -> Option<Modality> {
        self.models.get(&pipeline.model).map(|(manifest, _)| manifest.modality)
    }

    /// Who a pipeline is, for the tables.
    pub fn identity(&self, pipeline: &PipelineSettings) -> Outcome<PipelineIdentity> {
        let handle = self.device.handle();
        let (Some((_, stage)), Some(spec)) = (self.models.get(&pipeline.model), handle.spec(&pipeline.model))
        else {
            return Err(Failure::new(
                Code::Internal,
                format!("model `{}` is not loaded. This is a bug.", pipeline.model),
            ));
        };
        Ok(PipelineIdentity {
            pipeline: pipeline.name.clone(),
            topic: pipeline.topic.clone(),
            collection: pipeline.collection.clone(),
            modality: spec.modality,
            model: spec.id().to_string(),
            model_hash: spec.version.to_string(),
            preparation: stage.spec().to_owned(),
            dtype: spec.dtype.to_string(),
            dimension: spec.dimension,
        })
    }

    /// Connects one pipeline to its topic and its tables.
    pub async fn pipeline(&self, pipeline: &PipelineSettings) -> Outcome<Pipeline> {
        let settings = &self.settings;
        let sink = PgSink::open(&settings.postgres.url, self.identity(pipeline)?)
            .await
            .or_exit(Code::Unavailable)?
            .deferring(deferral(settings));
        let deferred = Redrive::of(&sink, &settings.postgres.url).or_exit(Code::Unavailable)?;
        let start = start(settings, pipeline, &sink).await?;
        let source = KafkaSource::start(ConsumerConfig { start, ..consumer(settings, pipeline) })
            .or_exit(Code::Unavailable)?;
        let handle = self.device.handle();
        let (_, stage) = &self.models[&pipeline.model];
        let (raw, decoded) = &self.shares.pipelines[&pipeline.name];
        let spec = handle.spec(&pipeline.model).expect("identity checked it. This is a bug.").clone();
        let unit = UnitLimits {
            records_max: settings.line.unit_records,
            chunks_max: settings.line.unit_calls * spec.chunks_max,
            cost_max: settings.line.unit_calls * spec.padded_cost_max,
            bytes_max: settings.line.unit_bytes,
            linger: Duration::from_millis(settings.line.linger_ms),
        };
        Ok(Pipeline {
            name: pipeline.name.as_str().into(),
            source: Arc::new(source),
            fetch: Arc::new(Fetching(fetcher(settings)?)),
            stage: stage.fork(),
            crew: self.crew.clone(),
            device: handle,
            model: spec,
            sink: Arc::new(sink),
            deferred: Some(Arc::new(Redriving(deferred))),
            raw: raw.clone(),
            decoded: decoded.clone(),
            lane: lane(pipeline),
            trial: Some(Arc::new(ChildTrial::new(settings, pipeline))),
            limits: Limits {
                fetch_window: settings.line.fetch_window,
                unit,
                failures: FailureLimits {
                    percent_max: settings.line.failure_budget_percent,
                    records_min: settings.line.failure_budget_records,
                    ..FailureLimits::default()
                },
                drain_max: Duration::from_secs(settings.line.drain_seconds),
                p95_max: (pipeline.p95_ms > 0).then(|| Duration::from_millis(pipeline.p95_ms)),
                reuse_within: settings.reuse.enabled.then(|| Duration::from_millis(settings.reuse.answer_ms)),
                stuck_after: Duration::from_secs(settings.health.stuck_seconds),
            },
        })
    }
}

/// Pipelines that run, and the means to stop them.
pub struct Running {
    /// What each has done so far.
    pub stats: Vec<Arc<Stats>>,
    stop_tx: watch::Sender<bool>,
    tasks: JoinSet<(String, Result<Summary, Fault>)>,
}

impl Running {
    /// Starts pipelines side by side.
    pub async fn start(runtime: &Runtime, pipelines: &[PipelineSettings]) -> Outcome<Self> {
        if runtime.settings.reuse.enabled {
            // Beside the start, because a large table takes its time; until then everything is computed.
            tokio::spawn(index_contents(runtime.settings.postgres.url.clone()));
        }
        let (stop_tx, stop_rx) = watch::channel(false);
        let mut running = Self { stats: Vec::new(), stop_tx, tasks: JoinSet::new() };
        for settings in pipelines {
            let pipeline = runtime.pipeline(settings).await?;
            let (stats, name) = (pipeline.stats(), settings.name.clone());
            running.stats.push(stats.clone());
            let mut stop = stop_rx.clone();
            let stopped = async move { drop(stop.wait_for(|stop| *stop).await) };
            running.tasks.spawn(async move { (name, pipeline.run(stats, stopped).await) });
        }
        Ok(running)
    }

    /// Asks all to drain.
    pub fn stop(&self) {
        self.stop_tx.send_replace(true);
    }

    /// Waits for the first pipeline that ends, `None` when all have. A fault names its pipeline.
    pub async fn ended(&mut self) -> Option<Outcome<(String, Summary)>> {
        let ended = self.tasks.join_next().await?;
        Some(match ended {
            Ok((name, Ok(summary))) => Ok((name, summary)),
            Ok((name, Err(fault))) => {
                Err(Failure::new(Code::Unavailable, format!("pipeline {name}: {fault}")))
            }
            Err(panic) => Err(Failure::new(Code::Internal, panic)),
        })
    }

    /// Drains all and hands out their summaries.
    pub async fn finish(mut self) -> Outcome<Vec<(String, Summary)>> {
        self.stop();
        let mut summaries = Vec::new();
        while let Some(ended) = self.ended().await {
            summaries.push(ended?);
        }
        Ok(summaries)
    }
}

/// Lets known contents be found. Without the index nothing is wrong, only computed again.
async fn index_contents(url: String) {
    if let Err(error) = spawn_postgres::index_contents(&url).await {
        tracing::warn!(%error, "the index of contents was not built, known results are not reused");
    }
}

/// Where a pipeline begins in partitions that nobody has claimed yet.
async fn start(settings: &Settings, pipeline: &PipelineSettings, sink: &PgSink) -> Outcome<Start> {
    let kafka = &settings.kafka;
    let topic = std::slice::from_ref(&pipeline.topic);
    let known =
        spawn_kafka::partitions(&kafka.brokers, &kafka.properties, topic).await.or_exit(Code::Unavailable)?;
    let now = known.into_values().flatten().next().unwrap_or(0);
    let partitions =
        sink.first_partitions(i32::try_from(now).unwrap_or(i32::MAX)).await.or_exit(Code::Unavailable)?;
    Ok(if kafka.start == "latest" { Start::Latest { partitions } } else { Start::Earliest })
}

/// The consumer of a pipeline's topic, but for where it starts.
pub fn consumer(settings: &Settings, pipeline: &PipelineSettings) -> ConsumerConfig {
    let kafka = &settings.kafka;
    let fetch = match lane(pipeline) {
        Lane::Live => FetchProfile::LATENCY,
        Lane::Bulk => FetchProfile::THROUGHPUT,
    };
    ConsumerConfig {
        pipeline: pipeline.name.clone(),
        brokers: kafka.brokers.clone(),
        group: format!("{}.{}", kafka.group_prefix, pipeline.name),
        topic: pipeline.topic.clone(),
        client_id: format!("spawn-{}-{}", pipeline.name, uuid::Uuid::new_v4().simple()),
        start: Start::Earliest,
        fetch: FetchProfile {
            min_bytes: if kafka.fetch_min_bytes > 0 { kafka.fetch_min_bytes } else { fetch.min_bytes },
            ..fetch
        },
        queue_bytes_max: kafka.queue_bytes_max,
        session_timeout_ms: kafka.session_timeout_ms,
        properties: kafka.properties.clone(),
    }
}

fn lane(pipeline: &PipelineSettings) -> Lane {
    match pipeline.lane.as_str() {
        "bulk" => Lane::Bulk,
        _ => Lane::Live,
    }
}

/// How the lanes share the device.
fn rules(settings: &Settings, pipelines: &[PipelineSettings]) -> LaneRules {
    let lanes = &settings.lanes;
    let live = pipelines.iter().any(|pipeline| lane(pipeline) == Lane::Live);
    LaneRules {
        bulk_call_max: live.then(|| Duration::from_millis(lanes.bulk_call_ms)),
        bulk_share: lanes.bulk_share,
        live_p95_max: Duration::from_secs_f64(lanes.live_p95_seconds),
        live_lag_max: Duration::from_secs_f64(lanes.live_lag_seconds),
    }
}

/// When deferred records are tried again.
fn deferral(settings: &Settings) -> Deferral {
    let redrive = &settings.redrive;
    Deferral {
        delay: Duration::from_secs(redrive.delay_seconds),
        delay_max: Duration::from_secs(redrive.delay_seconds_max),
        give_up: Duration::from_secs(redrive.give_up_seconds),
        lease: Duration::from_secs(redrive.lease_seconds),
        records_max: redrive.batch_records,
        bytes_max: redrive.batch_bytes,
    }
}
