//! `GET /metrics`: Prometheus text.

use crate::state::ApiState;
use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;

/// All metrics of this process.
pub async fn text(State(state): State<ApiState>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], (state.metrics)())
}
