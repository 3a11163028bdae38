//! Serialised answers in memory. Many that ask for the same at once wait for one computation.
//!
//! An answer may follow the active generation, which changes at any time, so it is kept for a short time only and askers have to come
//! back with its tag. Errors are not kept at all: what is not there now may be written in the next moment.

use crate::problem::Problem;
use crate::telemetry;
use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use bytes::Bytes;
use moka::future::Cache;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Bytes that an entry takes beside its key and its body.
const ENTRY_BYTES: usize = 256;

/// A JSON answer with its tag.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    body: Bytes,
    etag: HeaderValue,
}

/// Answers by request.
#[derive(Clone, Debug)]
pub struct AnswerCache {
    cache: Cache<String, Answer>,
}

impl AnswerCache {
    /// At most `bytes` of answers, none older than `age`.
    pub fn new(bytes: u64, age: Duration) -> Self {
        let weigh = |key: &String, answer: &Answer| {
            u32::try_from(key.len() + answer.body.len() + ENTRY_BYTES).unwrap_or(u32::MAX)
        };
        Self { cache: Cache::builder().max_capacity(bytes).weigher(weigh).time_to_live(age).build() }
    }

    /// Lets the cache evict now what it would evict soon.
    #[cfg(test)]
    pub(crate) async fn settle(&self) {
        self.cache.run_pending_tasks().await;
    }

    /// The stored answer to `key`, or the one that `compute` makes. Errors are not stored.
    pub async fn answer(
        &self,
        key: String,
        request: &HeaderMap,
        compute: impl Future<Output = Result<Vec<u8>, Problem>>,
    ) -> Result<Response, Problem> {
        let (started, computed) = (Instant::now(), AtomicBool::new(false));
        let made = async {
            computed.store(true, Relaxed);
            compute.await.map(Answer::new)
        };
        let found =
            self.cache.try_get_with(key, made).await.map_err(|problem: Arc<Problem>| (*problem).clone());
        let hit = !computed.load(Relaxed);
        telemetry::cache(hit && found.is_ok());
        let mut response = found?.respond(request);
        let timing =
            format!("{};dur={:.3}", if hit { "cache" } else { "db" }, started.elapsed().as_secs_f64() * 1e3);
        let headers = response.headers_mut();
        headers.insert("x-cache", HeaderValue::from_static(if hit { "hit" } else { "miss" }));
        headers.extend(HeaderValue::from_str(&timing).ok().map(|timing| (SERVER_TIMING, timing)));
        Ok(response)
    }
}

/// Where the time went, as browsers show it.
pub(crate) const SERVER_TIMING: header::HeaderName = header::HeaderName::from_static("server-timing");

impl Answer {
    pub(crate) fn new(body: Vec<u8>) -> Self {
        let hash = spawn_core::ContentHash::of(&body).to_string();
        let etag = HeaderValue::from_str(&format!("\"{}\"", &hash[..32]))
            .expect("hexadecimal digits. This is a bug.");
        Self { body: body.into(), etag }
    }

    /// The answer, or only that the asker has it already.
    pub(crate) fn respond(self, request: &HeaderMap) -> Response {
        let mut response = Response::default();
        if request.get_all(header::IF_NONE_MATCH).iter().any(|tags| names(tags, &self.etag)) {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
        } else {
            *response.body_mut() = Body::from(self.body);
            response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        let headers = response.headers_mut();
        headers.insert(header::ETAG, self.etag);
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        response
    }
}

/// Whether `if-none-match` names this tag. A proxy that compresses makes tags weak; they still stand for the same (RFC 9110, 13.1.2).
fn names(tags: &HeaderValue, etag: &HeaderValue) -> bool {
    let Ok(tags) = tags.to_str() else { return false };
    tags.split(',').map(str::trim).any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag)
}
