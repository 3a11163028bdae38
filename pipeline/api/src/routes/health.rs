//! `GET /healthz`: nothing is stuck that a restart would set going. `GET /readyz`: it can do its work, with the reasons if not.

use crate::state::{ApiState, Check, Gone};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde_json::{Value, json};
use std::time::Duration;

/// A database that takes longer to say anything is not ready; whoever asks has a timeout of their own.
const PING_MAX: Duration = Duration::from_secs(2);

/// 200, or 503 when something in the line does not move that a restart would set going.
pub async fn alive(State(state): State<ApiState>) -> (StatusCode, Json<Value>) {
    let mut checks = (state.checks)(&[]);
    if checks.iter().any(|check| !check.stuck.is_empty())
        && let Err(error) = ping(&state).await
    {
        // What looks stuck may be waiting for a database that does not answer: then a restart helps nobody.
        checks = (state.checks)(&[("postgres", error)]);
    }
    answer(checks.iter().all(|check| check.stuck.is_empty()), &checks)
}

/// 200, or 503 with the same list when a check fails.
pub async fn ready(State(state): State<ApiState>) -> (StatusCode, Json<Value>) {
    let found = ping(&state).await;
    let gone: Vec<Gone> = found.as_ref().err().map(|error| ("postgres", error.clone())).into_iter().collect();
    let ok = found.is_ok();
    let found = found.map_or_else(|error| error, |()| "answers".to_owned());
    let mut checks = vec![Check { id: "postgres", ok, found, ..Check::default() }];
    checks.extend((state.checks)(&gone));
    answer(checks.iter().all(|check| check.ok), &checks)
}

async fn ping(state: &ApiState) -> Result<(), String> {
    match tokio::time::timeout(PING_MAX, state.store.ping()).await {
        Ok(answer) => answer.map_err(|error| error.to_string()),
        Err(_) => Err(format!("no answer within {} s", PING_MAX.as_secs())),
    }
}

fn answer(ok: bool, checks: &[Check]) -> (StatusCode, Json<Value>) {
    let status = if ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(json!({"ok": ok, "checks": checks})))
}
