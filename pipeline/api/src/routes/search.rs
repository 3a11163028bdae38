//! `POST /api/v1/search`: by text, by an item, by a vector, or by an uploaded picture or sound.

use super::result::missing;
use super::search_body::{Like, read};
use super::{accepted, json};
use crate::cache::SERVER_TIMING;
use crate::problem::Problem;
use crate::state::{ApiState, QueryVector};
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use spawn_core::Modality;
use spawn_postgres::{Hit, Narrow, SearchFilter};
use std::time::Instant;

/// Neighbours, nearest first; that there are fewer than asked for is said by `requested` and `returned`.
pub async fn search(State(state): State<ApiState>, request: Request) -> Result<Response, Problem> {
    let ask = read(request, state.config.body_bytes_max).await?;
    let limit = accepted(ask.options.limit.unwrap_or(10))?;
    let started = Instant::now();
    let (query, generation) = vector(&state, ask.like, ask.options.generation).await?;
    if let Some(wanted) = ask.options.modality.filter(|wanted| *wanted != query.modality) {
        let detail = format!("the query is {}, its neighbours cannot be {wanted}", query.modality);
        return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "modality.mismatch", detail));
    }
    let embedded = Instant::now();
    let filter = SearchFilter { modality: query.modality, exact: ask.options.exact.unwrap_or(false), limit };
    let narrow = Narrow { generation, label: ask.options.label, metadata: None };
    let found = state.store.search_narrow(&query.vector, &filter, &narrow).await?;
    let ms = |from: Instant, to: Instant| (to - from).as_secs_f64() * 1e3;
    let timing =
        format!("embed;dur={:.3}, db;dur={:.3}", ms(started, embedded), ms(embedded, Instant::now()));
    let hits: Vec<Value> = found.hits.iter().map(|hit| shown(hit, query.modality)).collect();
    let body = json(&json!({
        "generation": found.generation,
        "exact": found.exact,
        "requested": found.requested,
        "returned": found.returned,
        "hits": hits,
        "took_ms": ms(started, Instant::now()),
    }))?;
    Ok(([(header::CONTENT_TYPE, "application/json"), (SERVER_TIMING, timing.as_str())], body).into_response())
}

fn shown(hit: &Hit, modality: Modality) -> Value {
    json!({
        "rank": hit.rank,
        "id": hit.id,
        "chunk": hit.chunk,
        "score": hit.cosine,
        "metric": "cosine",
        "modality": modality,
        "labels": hit.labels,
        "metadata": hit.metadata,
        "source_uri": hit.source_uri,
    })
}

/// The query's vector, and the generation that it is compared with if that is not the active one of its modality.
async fn vector(
    state: &ApiState,
    like: Like,
    generation: Option<i32>,
) -> Result<(QueryVector, Option<i32>), Problem> {
    match like {
        Like::Query(query) => Ok((state.embedder.embed(query).await?, generation)),
        Like::Vector(modality, vector) => Ok((QueryVector { modality, vector }, generation)),
        Like::Item(id) => {
            let result = state.store.result(&id).await?.ok_or_else(|| missing(&id))?;
            let vector = state.store.vector_of(&id).await?.ok_or_else(|| missing(&id))?;
            // Another collection's generation may hold vectors of another model.
            Ok((
                QueryVector { modality: result.modality, vector },
                Some(generation.unwrap_or(result.generation)),
            ))
        }
    }
}
