//! `GET /api/v1/results`

use super::{accepted, json};
use crate::problem::Problem;
use crate::state::ApiState;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::HeaderMap;
use axum::response::Response;
use serde::Deserialize;
use spawn_core::Modality;
use spawn_postgres::ResultFilter;

/// The query string.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Page {
    modality: Option<Modality>,
    label: Option<String>,
    collection: Option<String>,
    generation: Option<i32>,
    cursor: Option<String>,
    /// 1 to 200; 50 without it.
    limit: Option<i64>,
}

/// A page, newest first.
pub async fn list(
    State(state): State<ApiState>,
    page: Result<Query<Page>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let Query(page) = page.map_err(|e| Problem::query(e.body_text()))?;
    let limit = accepted(page.limit.unwrap_or(50))?;
    let key = format!("results/{page:?}");
    let filter = ResultFilter {
        modality: page.modality,
        collection: page.collection,
        generation: page.generation,
        label: page.label,
        metadata: None,
    };
    let compute = async { json(&state.store.results(&filter, page.cursor.as_deref(), limit).await?) };
    state.cache.answer(key, &headers, compute).await
}
