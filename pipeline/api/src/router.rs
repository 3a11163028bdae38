//! All routes, and around them, from the outside in: the clock, the trace id, the net for errors that are not ours, the net for
//! panics, the limits.

use crate::guard::{Gate, guarded};
use crate::problem::{self, Problem};
use crate::state::ApiState;
use crate::{routes, telemetry, trace};
use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::StatusCode;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use std::any::Any;
use std::time::Duration;
use tower_http::catch_panic::CatchPanicLayer;

/// Requests at once to health, readiness, metrics and version: they have room of their own, so that they answer also when everything
/// else is busy.
const OPERATOR_REQUESTS_MAX: usize = 16;
/// They take no body to speak of.
const OPERATOR_BODY_BYTES_MAX: usize = 1024;
const OPERATOR_TIMEOUT: Duration = Duration::from_secs(5);

/// The API and the operator's routes.
pub fn router(state: ApiState) -> Router {
    let config = &state.config;
    let gate = Gate::new(config.concurrency_max, config.body_bytes_max, config.timeout);
    let api = Router::new()
        .route("/api/v1/models", get(routes::models::list))
        .route("/api/v1/results", get(routes::results::list))
        .route("/api/v1/results/{id}", get(routes::result::get))
        .route("/api/v1/search", post(routes::search::search))
        .layer(DefaultBodyLimit::max(config.body_bytes_max))
        .layer(from_fn_with_state(gate, guarded));
    let gate = Gate::new(OPERATOR_REQUESTS_MAX, OPERATOR_BODY_BYTES_MAX, OPERATOR_TIMEOUT);
    let operator = Router::new()
        .route("/healthz", get(routes::health::alive))
        .route("/metrics", get(routes::metrics::text))
        .route("/readyz", get(routes::health::ready))
        .route("/version", get(routes::version::version))
        .layer(from_fn_with_state(gate, guarded));
    api.merge(operator)
        .fallback(nothing_here)
        .method_not_allowed_fallback(wrong_method)
        .layer(CatchPanicLayer::custom(panicked))
        .layer(from_fn(problem::only_problems))
        .layer(from_fn(trace::traced))
        .layer(from_fn(telemetry::timed))
        .with_state(state)
}

async fn nothing_here() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "route.not_found", "there is nothing here; the API is below /api/v1")
}

async fn wrong_method() -> Problem {
    let detail = "this route does not take this method; the header `allow` names those that it takes";
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method.not_allowed", detail)
}

/// A bug in one handler is one answer, not the end of the process.
fn panicked(payload: Box<dyn Any + Send>) -> Response {
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    Problem::internal(format_args!("a handler panicked: {}", text.unwrap_or("no message"))).into_response()
}
