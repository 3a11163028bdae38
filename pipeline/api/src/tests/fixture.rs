//! An API over the database of `DATABASE_URL`. Tests that need results write their own, in a collection of their own, so that neither
//! other tests nor what is there already disturbs them.

use crate::cache::AnswerCache;
use crate::*;
use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response};
use serde_json::{Value, json};
use spawn_core::{
    Assignment, Batch, Body as Work, BoxFuture, ContentHash, Embedding, Envelope, Inference, Inferred,
    ItemId, Job, Label, MediaFacts, Modality, Origin, PartitionSpan, Provenance, Record, Rejection, Sink,
};
use spawn_postgres::{PgSink, PipelineIdentity, Store};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

pub(super) const BODY_BYTES_MAX: usize = 4000;
pub(super) const TIMEOUT: Duration = Duration::from_millis(500);

/// Texts have the vector (1, 0, 0, ..) but for some that misbehave; pictures are refused.
struct Fake;

impl QueryEmbedder for Fake {
    fn embed(&self, query: Query) -> BoxFuture<'_, Result<QueryVector, EmbedError>> {
        Box::pin(async move {
            match query {
                Query::Text(text) if text == "panic" => panic!("planted"),
                Query::Text(text) if text == "slow" => std::future::pending().await,
                Query::Text(text) if text == "nobody" => Err(EmbedError::NoModel("none here".into())),
                Query::Text(text) if text == "broken" => Err(EmbedError::Failed("the device is gone".into())),
                Query::Text(_) => Ok(QueryVector { modality: Modality::Text, vector: along(0, 4) }),
                Query::Media { media_type, bytes, .. } if media_type.as_deref() == Some("audio/wav") => {
                    Ok(QueryVector {
                        modality: Modality::Text,
                        vector: along(usize::from(bytes[0] - b'0'), 4),
                    })
                }
                Query::Media { .. } => {
                    Err(EmbedError::Rejected(Rejection::new("prepare", "decode.truncated", "half")))
                }
            }
        })
    }
}

/// The unit vector along `axis`.
pub(super) fn along(axis: usize, dimension: usize) -> Vec<f32> {
    (0..dimension).map(|i| if i == axis { 1.0 } else { 0.0 }).collect()
}

pub(super) fn database() -> String {
    std::env::var("DATABASE_URL")
        .expect("DATABASE_URL is not set: run the tests through setup/with-services, or point it at a PostgreSQL with pgvector")
}

pub(super) fn config() -> ApiConfig {
    ApiConfig {
        cache_bytes: 1 << 20,
        cache_age: Duration::from_secs(60),
        body_bytes_max: BODY_BYTES_MAX,
        concurrency_max: 64,
        timeout: TIMEOUT,
    }
}

pub(super) async fn state() -> ApiState {
    let url = database();
    spawn_postgres::migrate(&url).await.unwrap();
    let config = config();
    ApiState {
        store: Store::connect(&url, 2).await.unwrap(),
        embedder: Arc::new(Fake),
        models: Arc::new(vec![json!({"name": "m"})]),
        metrics: Arc::new(|| "spawn_up 1\n".into()),
        checks: Arc::new(|_| vec![Check { id: "line", ok: true, found: "moves".into(), ..Check::default() }]),
        cache: AnswerCache::new(config.cache_bytes, config.cache_age),
        config,
    }
}

pub(super) async fn ask(
    router: &Router,
    method: &str,
    path: &str,
    kind: &str,
    body: impl Into<Body>,
) -> Response<Body> {
    use tower::ServiceExt;
    let request = Request::builder().method(method).uri(path).header("content-type", kind);
    router.clone().oneshot(request.body(body.into()).unwrap()).await.unwrap()
}

pub(super) async fn json_of(response: Response<Body>) -> Value {
    let bytes = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
    serde_json::from_slice(&bytes).unwrap_or_else(|_| panic!("not JSON: {bytes:?}"))
}

/// Three results of a text pipeline; the vector of the i-th lies along axis i, its label is unique to these three.
pub(super) struct Written {
    pub(super) ids: Vec<String>,
    pub(super) label: String,
    pub(super) generation: i32,
}

pub(super) async fn written(store: &Store) -> Written {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos();
    let own = format!("api-test-{now}-{}", COUNT.fetch_add(1, Ordering::Relaxed));
    let identity = PipelineIdentity {
        pipeline: own.clone(),
        topic: own.clone(),
        collection: own.clone(),
        modality: Modality::Text,
        model: "m@1".into(),
        model_hash: "1".into(),
        preparation: "p/1".into(),
        dtype: "f32".into(),
        dimension: 4,
    };
    let sink = PgSink::open(&database(), identity).await.unwrap();
    let claimed = sink.claim(vec![Assignment::new(0, 0)]).await.unwrap()[0];
    let envelopes: Vec<_> = (0..3).map(|i| envelope(&own, i, claimed.claim)).collect();
    let ids = envelopes.iter().map(|e| e.job.id.public()).collect();
    let span = PartitionSpan { from: 0, to: 3, claim: claimed.claim, records: 3 };
    let batch = Batch { envelopes, delta: [(0, span)].into(), flushed: Vec::new() };
    assert_eq!(sink.write(&batch).await.unwrap().outcomes, [3, 0, 0, 0]);
    let generations = store.generations().await.unwrap();
    let generation = generations.iter().find(|g| g.collection == own).unwrap().id;
    Written { ids, label: own, generation }
}

fn envelope(own: &str, i: usize, claim: spawn_core::Claim) -> Envelope<Inferred> {
    let id = format!("{own}/{i}");
    let record = Record {
        origin: Origin { topic: own.into(), partition: 0, offset: i as i64 },
        claim,
        ordinal: i as u64 + 1,
        key: None,
        value: Some(id.clone().into()),
        headers: Vec::new(),
        timestamp_ms: 1_700_000_000_000,
    };
    let job = Job {
        id: ItemId::of_event("test", &id),
        event_id: Some(id.clone()),
        source: "test".into(),
        source_uri: Some(format!("file:///{i}")),
        media_type: None,
        metadata: serde_json::Map::new(),
    };
    let inference = Inference {
        embedding: Some(Embedding::try_new(along(i, 4), 4).unwrap()),
        labels: vec![Label { name: own.into(), score: 0.75 }],
    };
    let inferred = Inferred {
        chunks: vec![inference],
        pooled: None,
        facts: MediaFacts { media_type: "text/plain".into(), ..MediaFacts::default() },
        provenance: Provenance {
            content: ContentHash::of(id.as_bytes()),
            preparation: "p/1".into(),
            model: "m@1".into(),
            dtype: "f32".into(),
        },
    };
    Envelope::new(record, job, Work::Work(inferred))
}
