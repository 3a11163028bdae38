//! Parsing by table. The source runs against librdkafka's mock cluster in `source`.

mod source;
mod topic_id;

use crate::job::{Raw, parse};
use bytes::Bytes;
use serde_json::json;
use spawn_core::{Body, ItemId, Job, Payload, Rejection};

fn parsed(headers: &[(&str, &str)], value: &str) -> (Job, Body<Payload>) {
    let headers: Vec<(String, Bytes)> =
        headers.iter().map(|(k, v)| ((*k).to_owned(), Bytes::copy_from_slice(v.as_bytes()))).collect();
    let value = Bytes::copy_from_slice(value.as_bytes());
    parse(Raw { topic: "t", key: None, value: Some(&value), headers: &headers })
}

fn work(body: Body<Payload>) -> Payload {
    match body {
        Body::Work(payload) => payload,
        other => panic!("not work: {other:?}"),
    }
}

fn rejection(body: Body<Payload>) -> Rejection {
    match body {
        Body::Rejected(rejection) => rejection,
        other => panic!("not rejected: {other:?}"),
    }
}

#[test]
fn every_accepted_form_gives_the_same_work() {
    let inline = |text: &'static str| Payload::Inline(Bytes::from_static(text.as_bytes()));
    let binary =
        [("ce_specversion", "1.0"), ("ce_id", "7"), ("ce_source", "/cam"), ("content-type", "text/plain")];
    let structured = json!({"specversion": "1.0", "id": "7", "source": "/cam", "datacontenttype": "text/plain", "data": "hi"});
    let encoded = json!({"specversion": "1.0", "id": "7", "source": "/cam", "data_base64": "aGk="});
    let structured_type = [("content-type", "application/cloudevents+json; charset=utf-8")];
    for (job, body) in [
        parsed(&binary, "hi"),
        parsed(&structured_type, &structured.to_string()),
        parsed(&structured_type, &encoded.to_string()),
    ] {
        assert_eq!((job.id, job.source.as_str()), (ItemId::of_event("/cam", "7"), "/cam"));
        assert_eq!(work(body), inline("hi"));
    }
    for plain in [json!({"id": "7", "source": {"text": "hi"}}), json!({"id": "7", "text": "hi"})] {
        let (job, body) = parsed(&[], &plain.to_string());
        assert_eq!((job.id, work(body)), (ItemId::of_event("t", "7"), inline("hi")));
    }
    assert_eq!(work(parsed(&[], "just text {").1), inline("just text {"));
}

#[test]
fn an_event_of_another_version_is_refused() {
    let structured = json!({"specversion": "9", "id": "7", "data": "hi"}).to_string();
    for (_, body) in [
        parsed(&[("ce_specversion", "2.0"), ("ce_id", "7")], "hi"),
        parsed(&[("content-type", "application/cloudevents+json")], &structured),
    ] {
        assert_eq!(rejection(body).code, "envelope.field");
    }
}

#[test]
fn the_trace_context_goes_with_the_metadata() {
    let context = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let (binary, _) = parsed(&[("ce_id", "7"), ("traceparent", context)], "hi");
    let event = json!({"id": "7", "data": "hi", "traceparent": context});
    let (structured, _) = parsed(&[("content-type", "application/cloudevents+json")], &event.to_string());
    for job in [binary, structured] {
        assert_eq!(job.metadata.get("traceparent"), Some(&json!(context)));
    }
}

#[test]
fn references_keep_their_credentials_to_themselves() {
    let (job, body) =
        parsed(&[], &json!({"uri": "https://me:secret@host/a.jpg?token=x", "extra": 1}).to_string());
    assert_eq!(job.source_uri.as_deref(), Some("https://host/a.jpg"));
    assert_eq!(work(body), Payload::Reference("https://me:secret@host/a.jpg?token=x".into()));
    assert_eq!(job.metadata["extra"], 1);
}

#[test]
fn what_is_wrong_is_named_by_its_pointer() {
    for (value, code, pointer) in [
        ("{\"source\": {\"text\": 1}}", "envelope.field", "/source/text"),
        ("{\"source\": {}}", "envelope.field", "/source"),
        ("{\"source\": {\"inline_base64\": \"%%\"}}", "envelope.field", "/source/inline_base64"),
        ("{\"text\": \"a\", \"uri\": \"b\"}", "envelope.field", "/"),
        ("{\"text\": \"a\", \"metadata\": 1}", "envelope.field", "/metadata"),
        ("{\"text\": \"a\", \"params\": []}", "envelope.field", "/params"),
        ("{\"text\": \"a\", \"id\": 7}", "envelope.field", "/id"),
        ("{\"text\": \"a\", \"id\": \"\"}", "envelope.field", "/id"),
        ("{\"id\": \"7\"}", "envelope.field", "content-type"),
        ("{\"text\": ", "envelope.malformed", "JSON"),
    ] {
        let rejection = rejection(parsed(&[], value).1);
        assert_eq!(rejection.code, code, "{value}");
        assert!(rejection.detail.contains(pointer), "{value}: {rejection}");
    }
}

#[test]
fn what_is_not_understood_stays_in_the_metadata() {
    let binary = [("ce_id", "7"), ("ce_Camera", "door"), ("spawn-metadata", "{\"a\": 1}"), ("ce_type", "t")];
    let structured = json!({"id": "7", "source": "/s", "camera": "door", "a": 1, "data": "hi"});
    let event = [("content-type", "Application/CloudEvents+JSON")];
    for (job, body) in [parsed(&binary, "hi"), parsed(&event, &structured.to_string())] {
        assert_eq!(serde_json::Value::Object(job.metadata), json!({"camera": "door", "a": 1}));
        assert_eq!(work(body), Payload::Inline(Bytes::from_static(b"hi")));
    }
}

#[test]
fn limits_and_encodings_of_headers_are_checked() {
    let long = "x".repeat(1025);
    for headers in [[("ce_id", long.as_str()), ("ce_source", "s")], [("ce_id", "1"), ("ce_source", &long)]] {
        assert!(rejection(parsed(&headers, "hi").1).detail.contains("at most 1024 bytes"));
    }
    let headers = [("ce_id".to_owned(), Bytes::from_static(b"\xff"))];
    let value = Bytes::from_static(b"hi");
    let refused = parse(Raw { topic: "t", key: None, value: Some(&value), headers: &headers }).1;
    assert!(rejection(refused).detail.contains("header ce_id"));
}

#[test]
fn a_null_value_is_a_tombstone() {
    assert!(matches!(parse(Raw { topic: "t", key: None, value: None, headers: &[] }).1, Body::Delete));
}

#[test]
fn no_bytes_make_the_parser_panic() {
    // A fixed linear congruential generator: the same bytes on every run.
    let mut state = 1_u32;
    let mut random = move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    let template = json!({"id": "x", "source": {"uri": "https://h/p", "text": null}, "metadata": {"a": [1]}})
        .to_string();
    for round in 0..5_000_usize {
        let mut value = template.clone().into_bytes();
        for _ in 0..round % 7 {
            let at = usize::from(random()) % value.len();
            value[at] = random();
        }
        let value = Bytes::from(value);
        let types = ["application/json", "application/cloudevents+json", "image/jpeg"];
        let names = ["ce_id", "ce_source", "ce_dataref", "ce_subject", "spawn-metadata", "ce_\u{e9}"];
        let mut headers = vec![("content-type".to_owned(), Bytes::from_static(types[round % 3].as_bytes()))];
        let junk: Vec<u8> = (0..round % 9).map(|_| random()).collect();
        headers.push((names[round % 6].to_owned(), junk.into()));
        parse(Raw { topic: "t", key: None, value: Some(&value), headers: &headers });
    }
}
