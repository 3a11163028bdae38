//! How long a connection may stay without being of use.
//!
//! The limit on headers that the HTTP/1 reader has begins only when it is known which protocol is spoken, so whoever connects and says
//! nothing, or half of HTTP/2's preface, would stay for ever; so would one who never reads the answer. This clock sees all of them.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::Instant;
use tower::Service;

/// When a connection was last of use.
#[derive(Debug)]
pub(crate) struct Usage {
    /// Requests being answered, and when that number last changed.
    now: Mutex<(usize, Instant)>,
    /// Time until the first request, headers included.
    first_max: Duration,
    /// Time between an answer and the next request.
    idle_max: Duration,
    accepted: Instant,
}

impl Usage {
    pub(crate) fn new(first_max: Duration, idle_max: Duration) -> Arc<Self> {
        let accepted = Instant::now();
        Arc::new(Self { now: Mutex::new((0, accepted)), first_max, idle_max, accepted })
    }

    /// Completes once the connection has been idle for too long.
    pub(crate) async fn idle(&self) {
        loop {
            let (open, changed) = *self.now.lock().unwrap_or_else(PoisonError::into_inner);
            let limit = if changed == self.accepted { self.first_max } else { self.idle_max };
            match (open, limit.saturating_sub(changed.elapsed())) {
                (0, Duration::ZERO) => return,
                (0, left) => tokio::time::sleep(left).await,
                _ => tokio::time::sleep(self.idle_max).await,
            }
        }
    }

    fn change(&self, by: impl FnOnce(usize) -> usize) {
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        *now = (by(now.0), Instant::now());
    }
}

/// A service that tells `usage` of its requests.
#[derive(Clone, Debug)]
pub(crate) struct Counted<S> {
    pub(crate) inner: S,
    pub(crate) usage: Arc<Usage>,
}

struct Open(Arc<Usage>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.change(|open| open - 1);
    }
}

impl<R, S> Service<R> for Counted<S>
where
    S: Service<R>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: R) -> Self::Future {
        self.usage.change(|open| open + 1);
        let open = Open(self.usage.clone());
        let answer = self.inner.call(request);
        Box::pin(async move {
            let _open = open;
            answer.await
        })
    }
}
