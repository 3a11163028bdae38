//! Every error of the API: RFC 9457 problem details with a stable code.

use crate::state::EmbedError;
use crate::trace;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde_json::json;
use spawn_core::FaultClass;
use spawn_postgres::StoreError;

/// Seconds after which a busy server may be asked again.
const RETRY_AFTER: &str = "1";

/// What went wrong, for a program and for a person.
#[derive(Clone, Debug)]
pub struct Problem {
    /// HTTP status.
    pub status: StatusCode,
    /// Stable, machine-readable.
    pub code: String,
    /// What was found and what would be accepted.
    pub detail: String,
}

impl Problem {
    /// A problem.
    pub fn new(status: StatusCode, code: impl Into<String>, detail: impl std::fmt::Display) -> Self {
        Self { status, code: code.into(), detail: detail.to_string() }
    }

    /// Something in the query that is not accepted.
    pub fn query(detail: impl std::fmt::Display) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "query.invalid", detail)
    }

    /// A body that cannot be read, with the status that the reader gave it.
    pub fn body(status: StatusCode, detail: impl std::fmt::Display) -> Self {
        let code = match status {
            StatusCode::PAYLOAD_TOO_LARGE => "body.too_large",
            StatusCode::UNSUPPORTED_MEDIA_TYPE => "body.type",
            _ => "body.invalid",
        };
        Self::new(status, code, detail)
    }

    /// A body over the limit.
    pub fn too_large(bytes_max: usize) -> Self {
        Self::body(StatusCode::PAYLOAD_TOO_LARGE, format_args!("at most {bytes_max} bytes are accepted"))
    }

    /// A bug; the cause goes to the log, not to the asker.
    pub fn internal(error: impl std::fmt::Display) -> Self {
        tracing::error!(trace_id = trace::current(), %error, "internal error");
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "an internal error; the log has it under the trace id",
        )
    }
}

/// Which status an error of the store has.
impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        let (status, code) = match &error {
            StoreError::Cursor => (StatusCode::BAD_REQUEST, "cursor.invalid"),
            StoreError::Id(_) | StoreError::LetterName(_) => (StatusCode::BAD_REQUEST, "id.invalid"),
            StoreError::NoGeneration(_) | StoreError::UnknownGeneration(_) => {
                (StatusCode::NOT_FOUND, "generation.not_found")
            }
            StoreError::Dimension { .. } => (StatusCode::UNPROCESSABLE_ENTITY, "vector.dimension"),
            StoreError::NoDirection => (StatusCode::UNPROCESSABLE_ENTITY, "vector.direction"),
            // A NUL in a label, for example.
            StoreError::Fault(fault) if fault.class == FaultClass::Store => {
                let detail = "the database cannot hold a value of this query";
                return Self::new(StatusCode::UNPROCESSABLE_ENTITY, "query.value", detail);
            }
            StoreError::Fault(fault) => {
                tracing::warn!(trace_id = trace::current(), error = %fault, "the store does not answer");
                let detail = "the database does not answer; the log has the cause under the trace id";
                return Self::new(StatusCode::SERVICE_UNAVAILABLE, "store.unavailable", detail);
            }
        };
        Self::new(status, code, error)
    }
}

impl From<EmbedError> for Problem {
    fn from(error: EmbedError) -> Self {
        match error {
            EmbedError::Rejected(r) => {
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, r.code.into_owned(), r.detail)
            }
            EmbedError::NoModel(detail) => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "model.unavailable", detail)
            }
            EmbedError::Failed(detail) => Self::new(StatusCode::SERVICE_UNAVAILABLE, "model.failed", detail),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = json!({
            "type": format!("urn:spawn:problem:{}", self.code),
            "title": self.status.canonical_reason().unwrap_or("error"),
            "status": self.status.as_u16(),
            "detail": self.detail,
            "code": self.code,
            "trace_id": trace::current(),
        });
        let mut response = (self.status, Body::from(body.to_string())).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if matches!(self.status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER));
        }
        response
    }
}

/// The net below everything: an error of the framework that no handler turned into a problem becomes one here.
pub(crate) async fn only_problems(request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    let status = response.status();
    let kind = response.headers().get(header::CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    // `/readyz` answers 503 with its list of checks.
    if !(status.is_client_error() || status.is_server_error()) || kind.ends_with(b"json") {
        return response;
    }
    let detail = "the request is not one that this route understands";
    Problem::new(status, format!("http.{}", status.as_u16()), detail).into_response()
}
