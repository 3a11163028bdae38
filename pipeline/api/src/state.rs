//! What the routes share.

use crate::cache::AnswerCache;
use bytes::Bytes;
use serde::Serialize;
use serde_json::Value;
use spawn_core::{BoxFuture, Modality, Rejection};
use spawn_postgres::Store;
use std::sync::Arc;
use std::time::Duration;

/// Limits of the API.
#[derive(Clone, Debug)]
pub struct ApiConfig {
    /// Bytes of serialised answers in memory.
    pub cache_bytes: u64,
    /// How old an answer may be.
    pub cache_age: Duration,
    /// Bytes of a request body.
    pub body_bytes_max: usize,
    /// Requests at once.
    pub concurrency_max: usize,
    /// Time for one request, and for its headers to arrive.
    pub timeout: Duration,
}

/// What to search for.
#[derive(Clone, Debug)]
pub enum Query {
    /// Words.
    Text(String),
    /// An uploaded picture or sound.
    Media {
        /// What it is, if the asker said so.
        modality: Option<Modality>,
        /// Encoded.
        bytes: Bytes,
        /// Declared media type.
        media_type: Option<String>,
    },
}

/// A query as a vector.
#[derive(Clone, Debug)]
pub struct QueryVector {
    /// Whose vectors it can be compared with.
    pub modality: Modality,
    /// As long as the model's dimension.
    pub vector: Vec<f32>,
}

/// Why a query has no vector.
#[derive(Debug)]
pub enum EmbedError {
    /// The media's fault.
    Rejected(Rejection),
    /// No model here for this kind of query.
    NoModel(String),
    /// The model's fault.
    Failed(String),
}

/// Makes vectors of queries. The API does not know libtorch.
pub trait QueryEmbedder: Send + Sync {
    /// Stage and model for one query.
    fn embed(&self, query: Query) -> BoxFuture<'_, Result<QueryVector, EmbedError>>;
}

/// One line of `/readyz`.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Check {
    /// What was looked at.
    pub id: &'static str,
    /// Whether it is well.
    pub ok: bool,
    /// What was found.
    pub found: String,
    /// The pipeline that was looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pipeline: Option<String>,
    /// Steps that do not move, and would not without a restart: what makes `/healthz` fail.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stuck: Vec<&'static str>,
    /// Dependencies that are gone, which a restart would not bring back.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub waits_for: Vec<&'static str>,
}

/// A dependency that does not answer, and its last words.
pub type Gone = (&'static str, String);

/// Looks at what the API does not know.
pub type Checks = dyn Fn(&[Gone]) -> Vec<Check> + Send + Sync;

/// Shared by all requests.
#[derive(Clone)]
pub struct ApiState {
    /// Where answers come from.
    pub store: Store,
    /// Makes vectors of queries.
    pub embedder: Arc<dyn QueryEmbedder>,
    /// What `/models` tells.
    pub models: Arc<Vec<Value>>,
    /// The text of `/metrics`.
    pub metrics: Arc<dyn Fn() -> String + Send + Sync>,
    /// Further lines of `/readyz`, beside the database; told what was found not to answer.
    pub checks: Arc<Checks>,
    /// Limits.
    pub config: ApiConfig,
    /// Serialised answers.
    pub cache: AnswerCache,
}
