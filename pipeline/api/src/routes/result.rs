//! `GET /api/v1/results/{id}`

use super::json;
use crate::problem::Problem;
use crate::state::ApiState;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use serde::Deserialize;

/// The query string.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Which {
    /// Of this generation instead of the active one.
    generation: Option<i32>,
}

/// One result as the active generation has it.
pub async fn get(
    State(state): State<ApiState>,
    id: Result<Path<String>, PathRejection>,
    which: Result<Query<Which>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let Path(id) = id.map_err(|e| Problem::new(StatusCode::BAD_REQUEST, "id.invalid", e.body_text()))?;
    let Query(Which { generation }) = which.map_err(|e| Problem::query(e.body_text()))?;
    let compute = async {
        match state.store.result_of(&id, generation).await? {
            Some(result) => json(&result),
            None => Err(missing(&id)),
        }
    };
    let key = format!("result/{id}/{generation:?}");
    state.cache.answer(key, &headers, compute).await
}

/// There is no such result.
pub(crate) fn missing(id: &str) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "result.not_found", format!("no result has the id {id}"))
}
