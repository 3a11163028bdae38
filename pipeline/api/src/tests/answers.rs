//! What the routes answer when all is well.

use super::fixture::*;
use crate::{Check, router};
use axum::body::Body;
use axum::http::{Request, StatusCode};
use serde_json::{Value, json};
use std::sync::Arc;
use tower::ServiceExt;

#[tokio::test(flavor = "multi_thread")]
async fn health_metrics_and_models_answer() {
    let router = router(state().await);
    for (path, pointer, expected) in [
        ("/healthz", "/ok", json!(true)),
        ("/readyz", "/checks/0/id", json!("postgres")),
        ("/readyz", "/checks/1/found", json!("moves")),
        ("/api/v1/models", "/models/0/name", json!("m")),
        ("/api/v1/results?label=no-such-label", "/results", json!([])),
        ("/version", "/spawn", json!(env!("CARGO_PKG_VERSION"))),
    ] {
        let response = ask(&router, "GET", path, "", "").await;
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        let found = json_of(response).await;
        assert_eq!(found.pointer(pointer), Some(&expected), "{path}: {found}");
    }
    let metrics = ask(&router, "GET", "/metrics", "", "").await;
    assert_eq!(metrics.headers()["content-type"], "text/plain; version=0.0.4");
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_is_lost_when_one_check_fails() {
    let mut state = state().await;
    state.checks =
        Arc::new(|_| vec![Check { id: "line", ok: false, found: "stands".into(), ..Check::default() }]);
    let response = ask(&router(state), "GET", "/readyz", "", "").await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    let found = json_of(response).await;
    assert_eq!((&found["ok"], &found["checks"][0]["ok"]), (&json!(false), &json!(true)));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_stuck_ends_liveness_and_what_waits_does_not() {
    for (stuck, waits_for, alive) in [(vec!["write"], vec![], 503), (vec![], vec!["postgres"], 200)] {
        let mut state = state().await;
        let check = Check { id: "line", pipeline: Some("text".into()), stuck, waits_for, ..Check::default() };
        state.checks = Arc::new(move |_| vec![check.clone()]);
        let router = router(state);
        let response = ask(&router, "GET", "/healthz", "", "").await;
        assert_eq!(response.status(), alive);
        let found = json_of(response).await;
        assert_eq!((&found["ok"], &found["checks"][0]["pipeline"]), (&json!(alive == 200), &json!("text")));
        assert_eq!(ask(&router, "GET", "/readyz", "", "").await.status(), StatusCode::SERVICE_UNAVAILABLE);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn results_are_found_by_id_and_in_pages() {
    let state = state().await;
    let written = written(&state.store).await;
    let router = router(state);
    let path = format!("/api/v1/results/{}", written.ids[1]);
    let result = json_of(ask(&router, "GET", &path, "", "").await).await;
    assert_eq!((&result["id"], &result["source_uri"]), (&json!(written.ids[1]), &json!("file:///1")));
    let of_it = format!("{path}?generation={}", written.generation);
    assert_eq!(json_of(ask(&router, "GET", &of_it, "", "").await).await, result);
    let list = format!("/api/v1/results?label={}&modality=text&limit=2", written.label);
    let first = json_of(ask(&router, "GET", &list, "", "").await).await;
    assert_eq!(ids(&first["results"]), [&*written.ids[2], &written.ids[1]]);
    let next = format!("{list}&cursor={}", first["next"].as_str().unwrap());
    let last = json_of(ask(&router, "GET", &next, "", "").await).await;
    assert_eq!((ids(&last["results"]), &last["next"]), (vec![&*written.ids[0]], &Value::Null));
}

fn ids(rows: &Value) -> Vec<&str> {
    rows.as_array().unwrap().iter().map(|row| row["id"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn neighbours_are_found_by_text_item_vector_and_upload() {
    let state = state().await;
    let written = written(&state.store).await;
    let router = router(state);
    let g = written.generation;
    let part =
        |head: &str, body: &str| format!("--b\r\ncontent-disposition: form-data; {head}\r\n{body}\r\n");
    let upload = part("name=f; filename=a.wav", "content-type: audio/wav\r\n\r\n1")
        + &part("name=generation", &format!("\r\n{g}"))
        + "--b--";
    let (json_type, plain) = ("application/json", "/api/v1/search");
    for (path, kind, body, nearest) in [
        (plain, json_type, json!({"text": "x", "generation": g}).to_string(), 0),
        (plain, json_type, json!({"id": written.ids[2], "exact": true}).to_string(), 2),
        (
            plain,
            json_type,
            json!({"vector": along(1, 4), "modality": "text", "generation": g}).to_string(),
            1,
        ),
        (&format!("{plain}?generation={g}"), "audio/wav", "2".into(), 2),
        (plain, "multipart/form-data; boundary=b", upload, 1),
        (plain, json_type, json!({"text": "x", "generation": g, "label": written.label}).to_string(), 0),
    ] {
        let response = ask(&router, "POST", path, kind, body.clone()).await;
        assert!(
            response.headers().get("server-timing").is_some_and(|t| t.to_str().unwrap().contains("db;dur="))
        );
        let found = json_of(response).await;
        let (hit, case) = (&found["hits"][0], format!("{body}: {found}"));
        assert_eq!((&hit["id"], &hit["metric"]), (&json!(written.ids[nearest]), &json!("cosine")), "{case}");
        assert!(hit["score"].as_f64().unwrap() > 0.999, "{case}");
        let counts = (&found["requested"], &found["returned"], &found["generation"]);
        assert_eq!(counts, (&json!(10), &json!(3), &json!(g)), "{case}");
    }
    let none = json!({"text": "x", "generation": g, "label": "no such"}).to_string();
    assert_eq!(json_of(ask(&router, "POST", plain, json_type, none).await).await["hits"], json!([]));
    for (vector, code) in [(vec![1.0], "vector.dimension"), (vec![0.0; 4], "vector.direction")] {
        let body = json!({"vector": vector, "modality": "text", "generation": g}).to_string();
        let response = ask(&router, "POST", plain, json_type, body).await;
        assert_eq!(response.status(), StatusCode::UNPROCESSABLE_ENTITY);
        assert_eq!(json_of(response).await["code"], code);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_cached_and_tagged_and_errors_are_not() {
    let state = state().await;
    let written = written(&state.store).await;
    let router = router(state);
    let path = format!("/api/v1/results/{}", written.ids[0]);
    let first = ask(&router, "GET", &path, "", "").await;
    assert_eq!(first.headers()["x-cache"], "miss");
    let etag = first.headers()["etag"].to_str().unwrap().to_owned();
    let second = ask(&router, "GET", &path, "", "").await;
    assert_eq!(second.headers()["x-cache"], "hit");
    assert_eq!(second.headers()["etag"], etag);
    for (tags, status) in [
        (etag.clone(), 304),
        (format!("\"x\", W/{etag}"), 304),
        ("*".into(), 304),
        ("\"x\"".into(), 200),
        (etag[1..].into(), 200),
    ] {
        let request =
            Request::builder().uri(&path).header("if-none-match", &tags).body(Body::empty()).unwrap();
        let response = router.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status().as_u16(), status, "{tags}");
        assert_eq!(response.headers()["etag"], etag, "{tags}");
        let body = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
        assert_eq!(body.is_empty(), status == 304, "{tags}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_that_was_missed_is_found_once_it_is_written() {
    let state = state().await;
    let (store, router) = (state.store.clone(), router(state));
    let missing = format!("/api/v1/results/{}", "f".repeat(32));
    for _ in 0..2 {
        let response = ask(&router, "GET", &missing, "", "").await;
        assert_eq!(response.status(), StatusCode::NOT_FOUND);
        assert!(!response.headers().contains_key("x-cache"));
    }
    let written = written(&store).await;
    let path = format!("/api/v1/results/{}", written.ids[0]);
    assert_eq!(ask(&router, "GET", &path, "", "").await.status(), StatusCode::OK);
}
