//! The listener: a bound on connections and on what each may do, and an end that does not take long.

use crate::connection::{Counted, Usage};
use crate::router::router;
use crate::state::ApiState;
use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Longest time that open requests have after the end was asked for.
const DRAIN_MAX: Duration = Duration::from_secs(5);
/// Longest time that a connection is kept for its next request, or for its last answer to be read.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// Connections for each request that is answered at once; most of them are idle.
const CONNECTIONS_PER_REQUEST: usize = 4;
/// Most streams of one HTTP/2 connection.
const STREAMS_MAX: u32 = 128;
/// Bytes of a request's head.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// Serves until `shutdown`, then lets open requests finish for at most five seconds; later ones are cut off.
pub async fn serve(listener: TcpListener, state: ApiState, shutdown: impl Future<Output = ()>) {
    let timeout = state.config.timeout;
    let connections = Arc::new(Semaphore::new(state.config.concurrency_max * CONNECTIONS_PER_REQUEST));
    let router = router(state);
    let builder = builder(timeout);
    let (open, mut tasks) = (GracefulShutdown::new(), JoinSet::new());
    tokio::pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            () = &mut shutdown => break,
            accepted = accept(&listener, &connections) => accepted,
        };
        let Some((socket, permit)) = accepted else { continue };
        while tasks.try_join_next().is_some() {}
        let usage = Usage::new(timeout, IDLE_MAX);
        let service =
            TowerToHyperService::new(Counted::<Router> { inner: router.clone(), usage: usage.clone() });
        let connection = open.watch(builder.serve_connection(TokioIo::new(socket), service).into_owned());
        tasks.spawn(async move {
            let _permit = permit;
            tokio::select! {
                ended = connection => if let Err(error) = ended {
                    tracing::debug!(%error, "connection ended");
                },
                () = usage.idle() => tracing::debug!("idle connection closed"),
            }
        });
    }
    drop(listener);
    if tokio::time::timeout(DRAIN_MAX, open.shutdown()).await.is_err() {
        tracing::warn!("some requests did not end in time");
    }
}

type Permit = tokio::sync::OwnedSemaphorePermit;

/// The next connection, once there is room for one more.
async fn accept(listener: &TcpListener, connections: &Arc<Semaphore>) -> Option<(TcpStream, Permit)> {
    let permit = connections.clone().acquire_owned().await.expect("never closed. This is a bug.");
    match listener.accept().await {
        Ok((socket, _)) => {
            // Answers are written whole; waiting to fill a packet would only delay them. Where it cannot be set, they are late.
            let _set = socket.set_nodelay(true);
            Some((socket, permit))
        }
        Err(error) => {
            // Out of file descriptors, most likely: some will come free.
            tracing::warn!(%error, "cannot accept a connection");
            tokio::time::sleep(Duration::from_millis(50)).await;
            None
        }
    }
}

/// HTTP/1 and HTTP/2. Whoever sends headers drop by drop is cut off; `axum::serve` has no such limit.
fn builder(timeout: Duration) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(timeout).max_buf_size(HEAD_BYTES_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(HEAD_BYTES_MAX as u32)
        .max_concurrent_streams(STREAMS_MAX)
        .keep_alive_interval(Some(timeout));
    builder
}
