//! Errors.

use super::fixture::*;
use crate::router;
use crate::trace::trace_id_of;
use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use axum::middleware::from_fn;
use axum::routing::get;
use tower::ServiceExt;

const JSON: &str = "application/json";
const SEARCH: &str = "/api/v1/search";

fn part(head: &str, body: &str) -> String {
    format!("--b\r\ncontent-disposition: form-data; {head}\r\n\r\n{body}\r\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_error_is_a_problem_with_a_code() {
    let router = router(state().await);
    let none = format!("/api/v1/results/{}", "0".repeat(32));
    let id = format!("{{\"id\": \"{}\"}}", "0".repeat(32));
    let form = "multipart/form-data; boundary=b";
    let (limit, unknown) = (part("name=limit", "many"), part("name=colour", "red"));
    let file = part("name=f; filename=a.png", "x");
    let (limit, unknown, twice) =
        (format!("{limit}--b--"), format!("{unknown}--b--"), format!("{file}{file}--b--"));
    let too_large = "x".repeat(BODY_BYTES_MAX + 1);
    for (method, path, kind, body, status, code) in [
        ("GET", "/nowhere", JSON, "", 404, "route.not_found"),
        ("DELETE", "/api/v1/results", JSON, "", 405, "method.not_allowed"),
        ("GET", SEARCH, JSON, "", 405, "method.not_allowed"),
        ("BREW", "/healthz", JSON, "", 405, "method.not_allowed"),
        ("GET", "/api/v1/results/nonsense", JSON, "", 400, "id.invalid"),
        ("GET", "/api/v1/results/%ff", JSON, "", 400, "id.invalid"),
        ("GET", &none, JSON, "", 404, "result.not_found"),
        ("GET", &format!("{none}?generation=x"), JSON, "", 400, "query.invalid"),
        ("GET", "/api/v1/results?limit=0", JSON, "", 400, "query.invalid"),
        ("GET", "/api/v1/results?limit=201", JSON, "", 400, "query.invalid"),
        ("GET", "/api/v1/results?limit=x", JSON, "", 400, "query.invalid"),
        ("GET", "/api/v1/results?colour=red", JSON, "", 400, "query.invalid"),
        ("GET", "/api/v1/results?modality=video", JSON, "", 400, "query.invalid"),
        ("GET", "/api/v1/results?cursor=x", JSON, "", 400, "cursor.invalid"),
        ("GET", "/api/v1/results?label=%00", JSON, "", 422, "query.value"),
        ("POST", SEARCH, "", "{}", 415, "body.type"),
        ("POST", SEARCH, "text/csv", "", 415, "body.type"),
        ("POST", SEARCH, JSON, "{", 400, "body.invalid"),
        ("POST", SEARCH, JSON, "{\"limit\": \"x\"}", 422, "body.invalid"),
        ("POST", SEARCH, JSON, "{\"colour\": \"red\"}", 422, "body.invalid"),
        ("POST", SEARCH, JSON, "{}", 400, "query.invalid"),
        ("POST", SEARCH, JSON, "{\"text\": \"a\", \"id\": \"b\"}", 400, "query.invalid"),
        ("POST", SEARCH, JSON, "{\"text\": \"a\", \"limit\": 0}", 400, "query.invalid"),
        ("POST", SEARCH, JSON, "{\"vector\": [1]}", 400, "query.invalid"),
        ("POST", SEARCH, JSON, "{\"text\": \"a\", \"modality\": \"audio\"}", 422, "modality.mismatch"),
        ("POST", SEARCH, JSON, "{\"text\": \"a\", \"generation\": 2000000000}", 404, "generation.not_found"),
        ("POST", SEARCH, JSON, &id, 404, "result.not_found"),
        ("POST", SEARCH, JSON, "{\"id\": \"x\"}", 400, "id.invalid"),
        ("POST", SEARCH, JSON, "{\"text\": \"nobody\"}", 503, "model.unavailable"),
        ("POST", SEARCH, JSON, "{\"text\": \"broken\"}", 503, "model.failed"),
        ("POST", SEARCH, JSON, "{\"text\": \"slow\"}", 503, "timeout"),
        ("POST", SEARCH, JSON, "{\"text\": \"panic\"}", 500, "internal"),
        ("POST", SEARCH, "image/png", "x", 422, "decode.truncated"),
        ("POST", SEARCH, "image/png", "", 400, "query.invalid"),
        ("POST", SEARCH, "image/png", &too_large, 413, "body.too_large"),
        ("POST", SEARCH, JSON, &too_large, 413, "body.too_large"),
        ("POST", SEARCH, form, &too_large, 413, "body.too_large"),
        ("POST", SEARCH, "multipart/form-data", "", 400, "body.invalid"),
        ("POST", SEARCH, form, "nonsense", 400, "body.invalid"),
        ("POST", SEARCH, form, &limit, 400, "query.invalid"),
        ("POST", SEARCH, form, &unknown, 400, "query.invalid"),
        ("POST", SEARCH, form, &twice, 400, "query.invalid"),
    ] {
        let response = ask(&router, method, path, kind, body.to_owned()).await;
        let case = format!("{method} {path} {kind} {}", &body[..body.len().min(80)]);
        let headers = response.headers().clone();
        let found = response.status().as_u16();
        assert_eq!(headers["content-type"], "application/problem+json", "{case}");
        assert_eq!(headers["cache-control"], "no-store", "{case}");
        assert_eq!(headers.contains_key("retry-after"), status == 503, "{case}");
        assert_eq!(headers.contains_key("allow"), status == 405, "{case}");
        let problem = json_of(response).await;
        assert_eq!((found, problem["code"].as_str()), (status, Some(code)), "{case}: {problem}");
        assert_eq!(problem["status"], status, "{case}");
        assert_eq!(problem["trace_id"].as_str().unwrap().len(), 32, "{case}");
    }
}

#[tokio::test]
async fn an_error_of_the_framework_becomes_a_problem() {
    let teapot = || async { (StatusCode::IM_A_TEAPOT, "plain") };
    let list = || async { (StatusCode::SERVICE_UNAVAILABLE, axum::Json(["a check"])) };
    let router = Router::new().route("/teapot", get(teapot)).route("/list", get(list));
    let router = router.layer(from_fn(crate::problem::only_problems));
    let response = ask(&router, "GET", "/teapot", "", "").await;
    assert_eq!(response.headers()["content-type"], "application/problem+json");
    assert_eq!(json_of(response).await["code"], "http.418");
    assert_eq!(json_of(ask(&router, "GET", "/list", "", "").await).await[0], "a check");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_asker_finds_his_own_trace_id_in_the_error() {
    let id = "4bf92f3577b34da6a3ce929d0e0e4736";
    let request = Request::builder().uri("/x").header("traceparent", format!("00-{id}-00f067aa0ba902b7-01"));
    let response = router(state().await).oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!(json_of(response).await["trace_id"], id);
}

#[test]
fn only_well_formed_trace_ids_are_taken_over() {
    let zeros = "0".repeat(32);
    for wrong in
        ["", "00", "00-abc-1-01", &format!("00-{zeros}-1-01"), &format!("00-{}-1-01", "G".repeat(32))]
    {
        assert_eq!(trace_id_of(wrong), None, "{wrong}");
    }
}
