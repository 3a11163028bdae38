//! The id that joins an error answer to the lines that the log has about it: the asker's own, where a W3C `traceparent` brings one.

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{SystemTime, UNIX_EPOCH};

tokio::task_local! {
    static TRACE_ID: String;
}

/// Gives the request its id.
pub(crate) async fn traced(request: Request, next: Next) -> Response {
    let brought = request.headers().get("traceparent").and_then(|value| trace_id_of(value.to_str().ok()?));
    TRACE_ID.scope(brought.unwrap_or_else(fresh), next.run(request)).await
}

/// The id of the request that is being answered: 32 hexadecimal digits.
pub(crate) fn current() -> String {
    TRACE_ID.try_with(Clone::clone).unwrap_or_else(|_| fresh())
}

/// The second field of `version-traceid-parentid-flags`; all zeros are invalid.
pub(crate) fn trace_id_of(traceparent: &str) -> Option<String> {
    let id = traceparent.split('-').nth(1)?;
    let well_formed = id.len() == 32 && id.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    (well_formed && id.bytes().any(|b| b != b'0')).then(|| id.to_owned())
}

/// Unique in this process, and told apart from those of others by the time.
fn fresh() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as u64);
    format!("{now:016x}{:016x}", COUNT.fetch_add(1, Relaxed))
}
