//! `GET /api/v1/models`

use super::json;
use crate::cache::Answer;
use crate::problem::Problem;
use crate::state::ApiState;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;

/// The models that queries are asked of.
pub async fn list(State(state): State<ApiState>, headers: HeaderMap) -> Result<Response, Problem> {
    let body = json(&serde_json::json!({"models": *state.models}))?;
    Ok(Answer::new(body).respond(&headers))
}
