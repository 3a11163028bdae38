//! `GET /version`

use crate::problem::Problem;
use crate::state::ApiState;
use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

/// Of this program and of the database.
pub async fn version(State(state): State<ApiState>) -> Result<Json<Value>, Problem> {
    let versions = state.store.versions().await?;
    Ok(Json(
        json!({"spawn": env!("CARGO_PKG_VERSION"), "postgres": versions.postgres, "pgvector": versions.pgvector}),
    ))
}
