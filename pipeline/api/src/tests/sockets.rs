//! The listener with real sockets.

use super::fixture::*;
use crate::connection::Usage;
use crate::serve;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

struct Server {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<()>,
}

async fn server() -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel();
    let serving = tokio::spawn(serve(listener, state().await, async { drop(stopped.await) }));
    Server { address, stop, serving }
}

/// Sends `bytes` and reads until the server closes, which it does within five seconds.
async fn exchange(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut socket = TcpStream::connect(address).await.unwrap();
    socket.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    let closed = timeout(Duration::from_secs(5), socket.read_to_end(&mut answer)).await;
    assert!(closed.is_ok(), "still open after {:?}", String::from_utf8_lossy(bytes));
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_does_not_get_on_with_it_is_cut_off() {
    let server = server().await;
    let half = b"GET /healthz HTTP/1.1\r\nhost: x\r\n";
    let preface = b"PRI * HT";
    for begun in [&half[..], b"", preface, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
        let answer = exchange(server.address, begun).await;
        assert!(!answer.starts_with(b"HTTP/1.1 200"), "{:?}", String::from_utf8_lossy(&answer));
    }
    let whole = b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    assert!(exchange(server.address, whole).await.starts_with(b"HTTP/1.1 200"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_under_way_is_answered_before_the_end() {
    let server = server().await;
    let mut socket = TcpStream::connect(server.address).await.unwrap();
    let body = "{\"text\": \"slow\"}";
    let head = "POST /api/v1/search HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nexpect: 100-continue\r\n";
    socket.write_all(format!("{head}content-length: {}\r\n\r\n", body.len()).as_bytes()).await.unwrap();
    // The handler asks for the body: so the request is under way.
    let mut begun = [0; 25];
    socket.read_exact(&mut begun).await.unwrap();
    assert!(begun.starts_with(b"HTTP/1.1 100"), "{}", String::from_utf8_lossy(&begun));
    server.stop.send(()).unwrap();
    socket.write_all(body.as_bytes()).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    assert!(answer.contains("\"code\":\"timeout\""), "{answer}");
    let ended = Instant::now();
    server.serving.await.unwrap();
    assert!(ended.elapsed() < Duration::from_secs(3));
    assert!(TcpStream::connect(server.address).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_connection_is_idle_only_without_an_open_request() {
    let (first, idle, began) = (Duration::from_secs(10), Duration::from_secs(60), Instant::now());
    Usage::new(first, idle).idle().await;
    assert_eq!(began.elapsed().as_secs(), 10);
    let usage = Usage::new(first, idle);
    let (go, wait) = oneshot::channel::<()>();
    let service = tower::service_fn(move |wait: oneshot::Receiver<()>| wait);
    let mut service = crate::connection::Counted { inner: service, usage: usage.clone() };
    let answer = tokio::spawn(tower::Service::call(&mut service, wait));
    assert!(timeout(Duration::from_secs(1000), usage.idle()).await.is_err());
    go.send(()).unwrap();
    answer.await.unwrap().unwrap();
    assert!(timeout(Duration::from_secs(55), usage.idle()).await.is_err());
    assert!(timeout(Duration::from_secs(10), usage.idle()).await.is_ok());
}
