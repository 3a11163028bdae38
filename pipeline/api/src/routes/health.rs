//! `GET /healthz`: the process is up. `GET /readyz`: it can answer, with the reasons if not.

use crate::state::{ApiState, Check};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde_json::{Value, json};
use std::time::Duration;

/// A database that takes longer to say anything is not ready; whoever asks has a timeout of their own.
const PING_MAX: Duration = Duration::from_secs(2);

/// 200 for as long as the process answers at all.
pub async fn alive() -> Json<Value> {
    Json(json!({"ok": true}))
}

/// 200, or 503 with the same list when a check fails.
pub async fn ready(State(state): State<ApiState>) -> (StatusCode, Json<Value>) {
    let found = match tokio::time::timeout(PING_MAX, state.store.ping()).await {
        Ok(Ok(())) => Ok("answers".to_owned()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {} s", PING_MAX.as_secs())),
    };
    let ok = found.is_ok();
    let mut checks = vec![Check { id: "postgres", ok, found: found.unwrap_or_else(|error| error) }];
    checks.extend((state.checks)());
    let ok = checks.iter().all(|check| check.ok);
    let status = if ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(json!({"ok": ok, "checks": checks})))
}
