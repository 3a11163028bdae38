//! The limits before a route: requests at once, bytes of all bodies at once, and time.
//!
//! Who comes when there is no room is sent away at once with 503 and `retry-after`: a queue would only make everybody late.

use crate::problem::Problem;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// So many bodies of the largest size may be in memory at once; many more of the usual size.
const LARGEST_BODIES_MAX: usize = 8;

/// Room for the requests of some routes. All of its routes share it; axum would copy a concurrency layer for each of them.
#[derive(Clone, Debug)]
pub(crate) struct Gate {
    requests: Arc<Semaphore>,
    /// One permit per KiB of a body.
    bodies: Arc<Semaphore>,
    body_bytes_max: usize,
    timeout: Duration,
}

impl Gate {
    /// For `requests_max` requests at once, each with a body of at most `body_bytes_max` bytes and done within `timeout`.
    pub(crate) fn new(requests_max: usize, body_bytes_max: usize, timeout: Duration) -> Self {
        let bodies = blocks(body_bytes_max) as usize * LARGEST_BODIES_MAX;
        Self {
            requests: Arc::new(Semaphore::new(requests_max)),
            bodies: Arc::new(Semaphore::new(bodies)),
            body_bytes_max,
            timeout,
        }
    }

    /// Bytes that the body will have at most. Who does not say it gets the largest share.
    fn body_bytes(&self, request: &Request) -> Result<usize, Problem> {
        let declared =
            request.headers().get(header::CONTENT_LENGTH).and_then(|l| l.to_str().ok()?.parse().ok());
        let chunked = request.headers().contains_key(header::TRANSFER_ENCODING);
        match declared {
            Some(bytes) if bytes > self.body_bytes_max => Err(Problem::too_large(self.body_bytes_max)),
            Some(bytes) => Ok(bytes),
            None if chunked || request.method() == axum::http::Method::POST => Ok(self.body_bytes_max),
            None => Ok(0),
        }
    }
}

/// Lets a request through when there is room for it, and ends it when it takes too long.
pub(crate) async fn guarded(State(gate): State<Gate>, request: Request, next: Next) -> Response {
    let busy = || {
        let detail = "the server has as many requests as it can do; come back in a moment";
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", detail).into_response()
    };
    let bytes = match gate.body_bytes(&request) {
        Ok(bytes) => bytes,
        Err(problem) => return problem.into_response(),
    };
    let (Ok(_request), Ok(_body)) =
        (gate.requests.try_acquire(), gate.bodies.try_acquire_many(blocks(bytes)))
    else {
        return busy();
    };
    match tokio::time::timeout(gate.timeout, next.run(request)).await {
        Ok(response) => response,
        Err(_) => {
            let detail = format!("the request was not done within {:.1} s", gate.timeout.as_secs_f64());
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "timeout", detail).into_response()
        }
    }
}

fn blocks(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX / 64)
}
