//! Parsing by table, and the source against librdkafka's mock cluster.

use crate::job::{Raw, parse};
use crate::message::JobMessage;
use crate::{ConsumerConfig, EmbeddedBroker, KafkaSource, Producer, ProducerConfig};
use bytes::Bytes;
use serde_json::{Map, Value, json};
use spawn_core::*;
use std::collections::BTreeMap;
use std::time::Duration;

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
        ("{\"text\": ", "envelope.malformed", "JSON"),
    ] {
        let rejection = rejection(parsed(&[], value).1);
        assert_eq!(rejection.code, code, "{value}");
        assert!(rejection.detail.contains(pointer), "{value}: {rejection}");
    }
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
        let headers = [("content-type".to_owned(), Bytes::from_static(types[round % 3].as_bytes()))];
        parse(Raw { topic: "t", key: None, value: Some(&value), headers: &headers });
    }
}

// ---- against the mock cluster -------------------------------------------------------------------------------------

const TOPIC: &str = "jobs";

fn broker(partitions: i32) -> EmbeddedBroker {
    EmbeddedBroker::start(&[TOPIC.to_owned()], partitions).expect("starts")
}

fn source(broker: &EmbeddedBroker) -> KafkaSource {
    let properties = [("session.timeout.ms", "6000"), ("heartbeat.interval.ms", "200")];
    let config = ConsumerConfig {
        brokers: broker.brokers(),
        group: "g".into(),
        topic: TOPIC.into(),
        properties: properties.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
        ..ConsumerConfig::default()
    };
    KafkaSource::start(config).expect("starts")
}

async fn produce(broker: &EmbeddedBroker, ids: std::ops::Range<u32>) {
    let producer = Producer::new(ProducerConfig::new(&broker.brokers(), &BTreeMap::new())).expect("creates");
    for id in ids {
        let message = JobMessage {
            topic: TOPIC,
            modality: Modality::Text,
            source: "test",
            id: &id.to_string(),
            subject: None,
            media_type: "text/plain",
            payload: Payload::Inline(format!("text {id}").into()),
            metadata: &Map::<String, Value>::new(),
        };
        producer.send(message.encode()).await.expect("delivered");
    }
}

/// Claims whatever is assigned at the positions given, collects `count` records, and answers revocations.
async fn read(
    source: &KafkaSource,
    positions: &mut BTreeMap<i32, i64>,
    count: usize,
) -> Vec<Envelope<Payload>> {
    let mut records = Vec::new();
    while records.len() < count {
        let event = tokio::time::timeout(Duration::from_secs(30), source.next()).await.expect("in time");
        match event.expect("no fault") {
            Event::Assigned(wanted) => {
                let claim = |a: &Assignment| Claimed {
                    partition: a.partition,
                    claim: Claim { epoch: 1, token: 2 },
                    position: *positions.entry(a.partition).or_insert(a.first_offset),
                };
                source.start(wanted.iter().map(claim).collect()).await.expect("starts");
            }
            Event::Records(envelopes) => {
                for envelope in envelopes {
                    positions.insert(envelope.origin().partition, envelope.origin().offset + 1);
                    records.push(envelope);
                }
            }
            Event::Revoked { .. } | Event::Lost(_) => {}
            other => panic!("unexpected {other:?}"),
        }
    }
    records
}

#[tokio::test(flavor = "multi_thread")]
async fn records_come_in_order_with_claim_and_ordinal() {
    let broker = broker(3);
    produce(&broker, 0..60).await;
    let source = source(&broker);
    let records = read(&source, &mut BTreeMap::new(), 60).await;
    let mut next: BTreeMap<i32, (i64, u64)> = BTreeMap::new();
    for envelope in &records {
        let expected = next.entry(envelope.origin().partition).or_insert((0, 1));
        assert_eq!((envelope.origin().offset, envelope.record.ordinal), *expected);
        assert_eq!(envelope.record.claim, Claim { epoch: 1, token: 2 });
        *expected = (expected.0 + 1, expected.1 + 1);
    }
    assert_eq!(next.values().map(|(offset, _)| offset).sum::<i64>(), 60);
    source.stop();
    assert!(matches!(source.next().await, Ok(Event::End)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_decides_where_reading_starts_also_the_second_time() {
    let broker = broker(1);
    produce(&broker, 0..20).await;
    let source = source(&broker);
    let mut positions = BTreeMap::from([(0, 5)]);
    let first = read(&source, &mut positions, 15).await;
    assert_eq!(first[0].origin().offset, 5);
    positions.insert(0, 12);
    source.reclaim(vec![0]).await.expect("asks");
    let again = read(&source, &mut positions, 8).await;
    assert_eq!(again.iter().map(|e| e.origin().offset).collect::<Vec<_>>(), (12..20).collect::<Vec<_>>());
    assert_eq!(again[0].record.ordinal, 1, "counts anew under the new claim");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_member_takes_over_and_nothing_is_left_unread() {
    let broker = broker(4);
    produce(&broker, 0..40).await;
    let first = source(&broker);
    let mut positions = BTreeMap::new();
    assert_eq!(read(&first, &mut positions, 40).await.len(), 40);
    drop(first);
    produce(&broker, 40..60).await;
    let second = source(&broker);
    let records = read(&second, &mut positions, 20).await;
    let texts: Vec<Bytes> = records.iter().filter_map(|e| e.record.value.clone()).collect();
    assert!((40..60).all(|id| texts.contains(&Bytes::from(format!("text {id}")))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_over_the_limit_is_refused_before_it_is_sent() {
    let broker = broker(1);
    let config = ProducerConfig {
        message_bytes_max: 4096,
        ..ProducerConfig::new(&broker.brokers(), &BTreeMap::new())
    };
    let producer = Producer::new(config).expect("creates");
    let message = crate::Message {
        topic: TOPIC.into(),
        key: None,
        value: Some(Bytes::from(vec![0; 5000])),
        headers: Vec::new(),
    };
    let error = producer.send(message).await.expect_err("too large");
    assert!(error.to_string().contains("reference"), "{error}");
}
