//! Limits and the cache, without a database.

use super::fixture::{ask, json_of};
use crate::Problem;
use crate::cache::AnswerCache;
use crate::guard::{Gate, guarded};
use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{get, post};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::Semaphore;

/// `/wait` answers when `go` has a permit for it; `/other` shares its gate.
fn gated(gate: Gate, go: &Arc<Semaphore>) -> Router {
    async fn wait(State(go): State<Arc<Semaphore>>) {
        go.acquire().await.unwrap().forget();
    }
    let routes =
        Router::new().route("/wait", get(wait).post(wait)).route("/other", post(wait).get(|| async {}));
    routes.layer(from_fn_with_state(gate, guarded)).with_state(go.clone())
}

#[tokio::test]
async fn one_request_too_many_is_told_to_come_back() {
    let go = Arc::new(Semaphore::new(0));
    let router = gated(Gate::new(1, 1000, Duration::from_secs(60)), &go);
    let waiting = tokio::spawn({
        let router = router.clone();
        async move { ask(&router, "GET", "/wait", "", "").await.status() }
    });
    // Until the first one is inside, the other route answers.
    let shed = loop {
        let response = ask(&router, "GET", "/other", "", "").await;
        if response.status() != StatusCode::OK {
            break response;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!((shed.status().as_u16(), &shed.headers()["retry-after"]), (503, &"1".parse().unwrap()));
    assert_eq!(json_of(shed).await["code"], "overloaded");
    go.add_permits(1);
    assert_eq!(waiting.await.unwrap(), StatusCode::OK);
    assert_eq!(ask(&router, "GET", "/other", "", "").await.status(), StatusCode::OK);
}

#[tokio::test]
async fn bodies_at_once_are_bounded_by_their_bytes() {
    let go = Arc::new(Semaphore::new(0));
    let router = gated(Gate::new(1000, 10 * 1024, Duration::from_secs(60)), &go);
    // Bodies whose length is not told count as the largest: eight fit.
    let ask_all = (0..9).map(|_| {
        let router = router.clone();
        tokio::spawn(async move { ask(&router, "POST", "/wait", "", Body::empty()).await.status().as_u16() })
    });
    let mut asked: Vec<_> = ask_all.collect();
    let (first, _, rest) = select(&mut asked).await;
    assert_eq!(first, 503);
    go.add_permits(8);
    for waiting in rest {
        assert_eq!(waiting.await.unwrap(), 200);
    }
}

/// The first of them that ends.
async fn select(
    tasks: &mut Vec<tokio::task::JoinHandle<u16>>,
) -> (u16, usize, Vec<tokio::task::JoinHandle<u16>>) {
    let ended = std::future::poll_fn(|cx| {
        for (i, task) in tasks.iter_mut().enumerate() {
            if let std::task::Poll::Ready(status) = std::pin::Pin::new(task).poll(cx) {
                return std::task::Poll::Ready((status.unwrap(), i));
            }
        }
        std::task::Poll::Pending
    });
    let (status, i) = ended.await;
    drop(tasks.remove(i));
    (status, i, std::mem::take(tasks))
}

#[tokio::test(start_paused = true)]
async fn a_request_that_takes_too_long_is_ended() {
    let router = gated(Gate::new(1, 1000, Duration::from_secs(2)), &Arc::new(Semaphore::new(0)));
    for _ in 0..2 {
        let response = ask(&router, "GET", "/wait", "", "").await;
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(json_of(response).await["code"], "timeout");
    }
}

#[tokio::test]
async fn many_that_ask_at_once_cause_one_computation() {
    let cache = AnswerCache::new(1 << 20, Duration::from_secs(60));
    let (count, go) = (Arc::new(AtomicU64::new(0)), Arc::new(Semaphore::new(0)));
    let all: Vec<_> = (0..20)
        .map(|_| {
            let (cache, count, go) = (cache.clone(), count.clone(), go.clone());
            tokio::spawn(async move {
                let compute = async {
                    count.fetch_add(1, Ordering::Relaxed);
                    go.acquire().await.unwrap().forget();
                    Ok(b"{}".to_vec())
                };
                cache.answer("key".into(), &HeaderMap::new(), compute).await.unwrap().headers()["x-cache"]
                    .clone()
            })
        })
        .collect();
    // All of them run up to where they wait before this task goes on: there is one thread.
    tokio::task::yield_now().await;
    go.add_permits(20);
    let mut misses = 0;
    for one in all {
        misses += u64::from(one.await.unwrap() == "miss");
    }
    assert_eq!((count.load(Ordering::Relaxed), misses), (1, 1));
}

#[tokio::test]
async fn errors_and_answers_that_are_too_large_are_not_kept() {
    let cache = AnswerCache::new(10_000, Duration::from_secs(60));
    let headers = HeaderMap::new();
    let missing = async { Err(Problem::new(StatusCode::NOT_FOUND, "x", "y")) };
    assert_eq!(cache.answer("a".into(), &headers, missing).await.unwrap_err().code, "x");
    let cached = async |key: &str, bytes: usize| {
        let response = cache.answer(key.into(), &headers, async { Ok(vec![b' '; bytes]) }).await.unwrap();
        cache.settle().await;
        response.headers()["x-cache"].to_str().unwrap().to_owned()
    };
    assert_eq!([cached("a", 10).await, cached("a", 10).await], ["miss", "hit"]);
    assert_eq!([cached("b", 20_000).await, cached("b", 20_000).await], ["miss", "miss"]);
}

#[tokio::test]
async fn metrics_name_the_pattern_of_a_route_and_known_methods() {
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let _local = metrics::set_default_local_recorder(&recorder);
    let router = Router::new().route("/r/{id}", get(|| async {})).layer(from_fn(crate::telemetry::timed));
    ask(&router, "GET", "/r/1", "", "").await;
    ask(&router, "GET", "/r/2", "", "").await;
    ask(&router, "BREW", "/r/2", "", "").await;
    let text = recorder.handle().render();
    let line = "spawn_http_request_duration_seconds_count{route=\"/r/{id}\",method=\"GET\",status=\"200\"} 2";
    assert!(text.contains(line), "{text}");
    assert!(text.contains("method=\"other\",status=\"405\"") && !text.contains("/r/1"), "{text}");
}
