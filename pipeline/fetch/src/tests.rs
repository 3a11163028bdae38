//! Against files in a temporary folder and a small HTTP server on loopback.
#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

use crate::{FetchConfig, Fetcher};
use bytes::Bytes;
use spawn_core::{Payload, Refusal};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("spawn-fetch-{name}-{}", std::process::id()));
        std::fs::create_dir_all(path.join("open")).unwrap();
        Self(path.canonicalize().unwrap())
    }

    fn fetcher(&self) -> Fetcher {
        let config =
            FetchConfig { file_roots: vec![self.0.join("open")], bytes_max: 100, ..FetchConfig::default() };
        Fetcher::new(config).unwrap()
    }

    fn uri(&self, path: &str) -> Payload {
        Payload::Reference(format!("file://{}/{path}", self.0.display()))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

async fn code(fetcher: &Fetcher, payload: Payload) -> String {
    match fetcher.fetch(payload, None, &mut crate::Unbounded).await {
        Ok(media) => format!("ok {}", media.bytes.len()),
        Err(Refusal::Reject(rejection)) => rejection.code.into_owned(),
        Err(Refusal::Defer(rejection)) => format!("deferred {}", rejection.code),
    }
}

#[tokio::test]
async fn files_are_read_below_their_roots_and_nowhere_else() {
    let folder = Folder::new("files");
    std::fs::write(folder.0.join("open/a"), [1; 60]).unwrap();
    std::fs::write(folder.0.join("open/empty"), []).unwrap();
    std::fs::write(folder.0.join("open/big"), [1; 101]).unwrap();
    std::fs::write(folder.0.join("secret"), [1; 10]).unwrap();
    std::os::unix::fs::symlink(folder.0.join("secret"), folder.0.join("open/link")).unwrap();
    std::os::unix::fs::symlink(folder.0.join("open/loop"), folder.0.join("open/loop")).unwrap();
    let made = std::process::Command::new("mkfifo").arg(folder.0.join("open/fifo")).status().unwrap();
    assert!(made.success());
    let fetcher = folder.fetcher();
    for (path, expected) in [
        ("open/a", "ok 60"),
        ("open/empty", "payload.empty"),
        ("open/big", "payload.too_large"),
        ("open/missing", "payload.not_found"),
        ("secret", "payload.denied"),
        ("open/link", "payload.denied"),
        ("open/../secret", "payload.denied"),
        ("open", "payload.denied"),
        ("missing", "payload.denied"),
        ("open/a/b", "payload.not_found"),
        ("open/%00", "payload.uri"),
        ("open/fifo", "payload.denied"),
        ("open/loop", "payload.not_found"),
    ] {
        assert_eq!(code(&fetcher, folder.uri(path)).await, expected, "{path}");
    }
    assert_eq!(code(&fetcher, Payload::Reference("ftp://host/x".into())).await, "payload.uri");
    assert_eq!(code(&fetcher, Payload::Reference("no uri".into())).await, "payload.uri");
    assert_eq!(code(&fetcher, Payload::Inline(Bytes::from_static(&[1; 101]))).await, "payload.too_large");
}

/// Answers each request with the next of `answers`, the last one for ever; counts the requests.
async fn server(answers: Vec<String>) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            let answer = answers[counted.fetch_add(1, Relaxed).min(answers.len() - 1)].clone();
            tokio::spawn(async move {
                let mut request = [0; 1024];
                let _read = socket.read(&mut request).await;
                let _written = socket.write_all(answer.as_bytes()).await;
            });
        }
    });
    (format!("http://{address}/x?token=secret"), count)
}

fn answer(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {}\r\n{headers}\r\n{body}", body.len())
}

fn private() -> Fetcher {
    Fetcher::new(FetchConfig { private_addresses_allowed: true, bytes_max: 100, ..FetchConfig::default() })
        .unwrap()
}

#[tokio::test]
async fn statuses_decide_between_now_later_and_never() {
    for (answers, expected, requests) in [
        (vec![answer("200 OK", "content-type: image/png\r\n", "abc")], "ok 3", 1),
        (vec![answer("404 Not Found", "", "")], "payload.not_found", 1),
        (vec![answer("403 Forbidden", "", "")], "payload.http_status", 1),
        (vec![answer("503 Busy", "", ""), answer("200 OK", "", "abc")], "ok 3", 2),
        (vec![answer("200 OK", "", &"x".repeat(101))], "payload.too_large", 1),
    ] {
        let (uri, count) = server(answers).await;
        assert_eq!(code(&private(), Payload::Reference(uri)).await, expected);
        assert_eq!(count.load(Relaxed), requests, "{expected}");
    }
}

#[tokio::test]
async fn what_stays_away_is_deferred_after_two_seconds_of_tries() {
    let (uri, count) = server(vec![answer("503 Busy", "", "")]).await;
    let started = std::time::Instant::now();
    assert_eq!(code(&private(), Payload::Reference(uri)).await, "deferred payload.unreachable");
    assert!(count.load(Relaxed) >= 3, "{} tries", count.load(Relaxed));
    assert!(started.elapsed().as_secs_f64() < 3.0);
}

#[tokio::test]
async fn private_addresses_are_refused_by_literal_by_name_and_by_redirect() {
    let (uri, count) = server(vec![answer("200 OK", "", "abc")]).await;
    let guarded = Fetcher::new(FetchConfig::default()).unwrap();
    assert_eq!(code(&guarded, Payload::Reference(uri.clone())).await, "payload.denied");
    assert_eq!(
        code(&guarded, Payload::Reference(uri.replace("127.0.0.1", "localhost"))).await,
        "payload.denied"
    );
    assert_eq!(count.load(Relaxed), 0, "nobody was asked");
    let only = FetchConfig {
        hosts_allowed: vec!["127.0.0.1".into()],
        private_addresses_allowed: true,
        ..FetchConfig::default()
    };
    let elsewhere = answer("302 Found", "location: http://localhost/\r\n", "");
    let (uri, _) = server(vec![elsewhere]).await;
    assert_eq!(code(&Fetcher::new(only).unwrap(), Payload::Reference(uri)).await, "payload.denied");
}

#[tokio::test]
async fn details_keep_credentials_to_themselves() {
    let (uri, _) = server(vec![answer("403 Forbidden", "", "")]).await;
    let refusal = private().fetch(Payload::Reference(uri), None, &mut crate::Unbounded).await.unwrap_err();
    let (Refusal::Reject(rejection) | Refusal::Defer(rejection)) = refusal;
    assert!(!rejection.detail.contains("secret"), "{rejection}");
}

#[tokio::test]
async fn redirects_and_slow_answers_share_one_time_limit() {
    let (uri, count) = server(vec![answer("302 Found", "location: /again\r\n", "")]).await;
    assert_eq!(code(&private(), Payload::Reference(uri)).await, "payload.http_status");
    assert_eq!(count.load(Relaxed), 4, "three redirects");
    // Says that more will come, and sends nothing more.
    let (uri, _) = server(vec!["HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\nabc".into()]).await;
    let started = std::time::Instant::now();
    assert_eq!(code(&private(), Payload::Reference(uri)).await, "deferred payload.unreachable");
    assert!(started.elapsed().as_secs_f64() < 2.5, "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_host_that_fails_is_left_alone_until_it_answers_a_probe() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("http://{}/x", listener.local_addr().unwrap());
    let (count, well) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let (counted, is_well) = (count.clone(), well.clone());
    tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            counted.fetch_add(1, Relaxed);
            let said =
                if is_well.load(Relaxed) { answer("200 OK", "", "abc") } else { answer("503 Busy", "", "") };
            let mut request = [0; 1024];
            let _read = socket.read(&mut request).await;
            let _written = socket.write_all(said.as_bytes()).await;
        }
    });
    let fetcher = private();
    let failing: Vec<_> = (0..5)
        .map(|_| {
            let (fetcher, uri) = (fetcher.clone(), uri.clone());
            tokio::spawn(async move { code(&fetcher, Payload::Reference(uri)).await })
        })
        .collect();
    for fetch in failing {
        assert_eq!(fetch.await.unwrap(), "deferred payload.unreachable");
    }
    let (asked, started) = (count.load(Relaxed), std::time::Instant::now());
    for _ in 0..50 {
        assert_eq!(code(&fetcher, Payload::Reference(uri.clone())).await, "deferred payload.unreachable");
    }
    assert!(started.elapsed().as_secs_f64() < 0.5, "nobody waits: {:?}", started.elapsed());
    assert_eq!(count.load(Relaxed), asked, "nobody asks");
    well.store(true, Relaxed);
    while code(&fetcher, Payload::Reference(uri.clone())).await != "ok 3" {
        assert!(started.elapsed().as_secs_f64() < 5.0, "no probe");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(count.load(Relaxed), asked + 1, "the probe was enough");
    assert_eq!(code(&fetcher, Payload::Reference(uri)).await, "ok 3");
}

#[tokio::test]
async fn a_host_gets_only_so_many_requests_at_once() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("http://{}/x", listener.local_addr().unwrap());
    let config = FetchConfig {
        private_addresses_allowed: true,
        per_host_concurrency: 1,
        timeout: std::time::Duration::from_millis(1900),
        ..FetchConfig::default()
    };
    let fetcher = Fetcher::new(config).unwrap();
    let fetches: Vec<_> = (0..3)
        .map(|_| {
            let (fetcher, uri) = (fetcher.clone(), uri.clone());
            tokio::spawn(async move { code(&fetcher, Payload::Reference(uri)).await })
        })
        .collect();
    for _ in 0..fetches.len() {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut request = [0; 1024];
        let _read = socket.read(&mut request).await.unwrap();
        // Nobody else comes while this one is not answered.
        let another = std::time::Duration::from_millis(50);
        assert!(tokio::time::timeout(another, listener.accept()).await.is_err());
        socket.write_all(answer("200 OK", "", "abc").as_bytes()).await.unwrap();
    }
    for fetch in fetches {
        assert_eq!(fetch.await.unwrap(), "ok 3");
    }
}

#[tokio::test]
async fn waiting_for_each_other_is_not_the_hosts_failure() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("http://{}/x", listener.local_addr().unwrap());
    // Slow and well: each of our places gets one answer in two seconds.
    tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut request = [0; 1024];
                let _read = socket.read(&mut request).await;
                tokio::time::sleep(std::time::Duration::from_millis(1200)).await;
                let _written = socket.write_all(answer("200 OK", "", "abc").as_bytes()).await;
            });
        }
    });
    let config = FetchConfig {
        private_addresses_allowed: true,
        per_host_concurrency: 1,
        circuit_failures: 3,
        ..FetchConfig::default()
    };
    let fetcher = Fetcher::new(config).unwrap();
    let fetches: Vec<_> = (0..8)
        .map(|_| {
            let (fetcher, uri) = (fetcher.clone(), uri.clone());
            tokio::spawn(async move { code(&fetcher, Payload::Reference(uri)).await })
        })
        .collect();
    let mut answers = Vec::new();
    for fetch in fetches {
        answers.push(fetch.await.unwrap());
    }
    assert!(answers.iter().any(|a| a == "ok 3"), "{answers:?}");
    assert!(answers.iter().filter(|a| a.starts_with("deferred")).count() >= 5, "{answers:?}");
    assert_eq!(code(&fetcher, Payload::Reference(uri)).await, "ok 3", "the host is not left alone");
}
