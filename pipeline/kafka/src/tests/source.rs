//! The source, the producer and the embedded broker together.

use crate::message::JobMessage;
use crate::{ConsumerConfig, EmbeddedBroker, KafkaSource, Message, Producer, ProducerConfig, Start};
use bytes::Bytes;
use serde_json::{Map, Value};
use spawn_core::{
    Assignment, Body, CheckpointDelta, Claim, Claimed, Envelope, Event, Modality, PartitionSpan, Payload,
    Source,
};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

const TOPIC: &str = "jobs";
const TOO_LONG: Duration = Duration::from_secs(30);

pub(super) fn broker(partitions: i32) -> EmbeddedBroker {
    EmbeddedBroker::start(&[TOPIC.to_owned()], partitions).expect("starts")
}

pub(super) fn config(broker: &EmbeddedBroker) -> ConsumerConfig {
    ConsumerConfig {
        brokers: broker.brokers(),
        group: "g".into(),
        topic: TOPIC.into(),
        session_timeout_ms: 6000,
        properties: BTreeMap::from([("heartbeat.interval.ms".into(), "200".into())]),
        ..ConsumerConfig::default()
    }
}

fn source(broker: &EmbeddedBroker) -> KafkaSource {
    KafkaSource::start(config(broker)).expect("starts")
}

fn job(id: u32, payload: Payload) -> Message {
    let job = JobMessage {
        topic: TOPIC,
        modality: Modality::Text,
        source: "test",
        id: &id.to_string(),
        subject: None,
        media_type: "text/plain",
        payload,
        metadata: &Map::<String, Value>::new(),
    };
    job.encode()
}

async fn produce(broker: &EmbeddedBroker, ids: std::ops::Range<u32>) {
    produce_to(&broker.brokers(), TOPIC, ids).await;
}

pub(super) async fn produce_to(brokers: &str, topic: &str, ids: std::ops::Range<u32>) {
    let producer = Producer::new(ProducerConfig::new(brokers, &BTreeMap::new())).expect("creates");
    let sent = ids.map(|id| {
        let message =
            Message { topic: topic.into(), ..job(id, Payload::Inline(format!("text {id}").into())) };
        let producer = producer.clone();
        tokio::spawn(async move { producer.send(message).await })
    });
    for sent in sent.collect::<Vec<_>>() {
        sent.await.expect("no panic").expect("delivered");
    }
}

/// What the line and the sink do, in small: claims with rising epochs, remembers positions as the database would.
#[derive(Default)]
pub(super) struct Line {
    positions: BTreeMap<i32, i64>,
    epoch: i64,
    pub(super) records: Vec<Envelope<Payload>>,
    pub(super) marks: Vec<(i32, Claim, i64, u64)>,
    pub(super) topic_ids: Vec<Option<String>>,
    owned: BTreeSet<i32>,
    refused: Vec<(i32, i64, (i64, i64))>,
    ended: bool,
}

impl Line {
    fn at(positions: BTreeMap<i32, i64>) -> Self {
        Self { positions, ..Self::default() }
    }

    fn claim(&mut self, wanted: &[Assignment]) -> Vec<Claimed> {
        self.epoch += 1;
        let claim = Claim { epoch: self.epoch, token: 2 };
        let position = |a: &Assignment| *self.positions.get(&a.partition).unwrap_or(&a.first_offset);
        wanted.iter().map(|a| Claimed { partition: a.partition, claim, position: position(a) }).collect()
    }

    async fn take(&mut self, source: &KafkaSource, event: Event) {
        match event {
            Event::Assigned(wanted) => {
                self.owned.extend(wanted.iter().map(|a| a.partition));
                self.topic_ids.extend(wanted.iter().map(|a| a.topic_id.as_deref().map(str::to_owned)));
                source.start(self.claim(&wanted)).await.expect("starts");
            }
            Event::Records(envelopes) => {
                for envelope in envelopes {
                    self.positions.insert(envelope.origin().partition, envelope.origin().offset + 1);
                    self.records.push(envelope);
                }
            }
            Event::Revoked { partitions, flushed: _flushed } => {
                self.owned.retain(|p| !partitions.contains(p));
            }
            Event::Lost(partitions) => self.owned.retain(|p| !partitions.contains(p)),
            Event::EndOfPartition { partition, claim, position, ordinal } => {
                self.marks.push((partition, claim, position, ordinal));
            }
            Event::OutOfRange { partition, position, available } => {
                self.refused.push((partition, position, available));
            }
            Event::End => self.ended = true,
        }
    }

    /// Takes events until `done`.
    pub(super) async fn until(&mut self, source: &KafkaSource, done: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + TOO_LONG;
        while !done(self) {
            let left = deadline.saturating_duration_since(Instant::now());
            let event = tokio::time::timeout(left, source.next()).await.expect("in time").expect("no fault");
            self.take(source, event).await;
        }
    }

    /// Whether the records are every offset once, in order per partition, each counted.
    fn assert_whole(&self, count: usize) {
        let mut next: BTreeMap<i32, (i64, u64)> = BTreeMap::new();
        for envelope in &self.records {
            let expected = next.entry(envelope.origin().partition).or_insert((0, 1));
            assert_eq!(
                (envelope.origin().offset, envelope.record.ordinal),
                *expected,
                "{}",
                envelope.origin()
            );
            *expected = (expected.0 + 1, expected.1 + 1);
        }
        assert_eq!(self.records.len(), count);
    }
}

/// Two workers until `done`, both answering events.
async fn both(
    (one, line_one): (&KafkaSource, &mut Line),
    (two, line_two): (&KafkaSource, &mut Line),
    done: impl Fn(&Line, &Line) -> bool,
) {
    let deadline = Instant::now() + TOO_LONG;
    while !done(line_one, line_two) {
        assert!(
            Instant::now() < deadline,
            "{:?} and {:?} after {TOO_LONG:?}",
            line_one.owned,
            line_two.owned
        );
        tokio::select! {
            event = one.next() => line_one.take(one, event.expect("no fault")).await,
            event = two.next() => line_two.take(two, event.expect("no fault")).await,
            () = tokio::time::sleep(Duration::from_millis(100)) => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn records_come_in_order_with_claim_and_ordinal() {
    let broker = broker(3);
    produce(&broker, 0..600).await;
    let (source, mut line) = (source(&broker), Line::default());
    line.until(&source, |line| line.records.len() >= 600).await;
    line.assert_whole(600);
    assert!(line.records.iter().all(|e| e.record.claim.token == 2 && e.record.claim.epoch >= 1));
    source.stop();
    line.until(&source, |line| line.ended).await;
    assert_eq!(line.records.len(), 600);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_partition_is_marked_once_and_again_when_it_moved() {
    let broker = broker(1);
    produce(&broker, 0..5).await;
    let (source, mut line) = (source(&broker), Line::at(BTreeMap::from([(0, 2)])));
    let claim = Claim { epoch: 1, token: 2 };
    line.until(&source, |line| !line.marks.is_empty()).await;
    assert_eq!((line.records.len(), &line.marks[..]), (3, &[(0, claim, 5, 3)][..]));
    produce(&broker, 5..6).await;
    line.until(&source, |line| line.marks.len() > 1).await;
    assert_eq!(line.marks[1..], [(0, claim, 6, 4)]);
    source.reclaim(vec![0]).await.expect("asks");
    line.until(&source, |line| line.marks.len() > 2).await;
    assert_eq!(line.marks[2..], [(0, Claim { epoch: 2, token: 2 }, 6, 0)], "a new claim, a new mark");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_decides_where_reading_starts_also_the_second_time() {
    let broker = broker(1);
    produce(&broker, 0..20).await;
    let (source, mut line) = (source(&broker), Line::at(BTreeMap::from([(0, 5)])));
    line.until(&source, |line| line.records.len() >= 15).await;
    assert_eq!(line.records[0].origin().offset, 5);
    line.positions.insert(0, 12);
    source.reclaim(vec![0]).await.expect("asks");
    line.until(&source, |line| line.records.len() >= 23).await;
    let again = &line.records[15..];
    assert!(again.iter().map(|e| e.origin().offset).eq(12..20));
    assert_eq!((again[0].record.ordinal, again[0].record.claim.epoch), (1, 2), "counts anew, newer claim");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_begins_at_the_end_reads_partitions_that_came_later_from_their_start() {
    let broker = broker(3);
    produce(&broker, 0..60).await;
    let config = ConsumerConfig { start: Start::Latest { partitions: 2 }, ..config(&broker) };
    let (source, mut line) = (KafkaSource::start(config).expect("starts"), Line::default());
    line.until(&source, |line| line.marks.len() >= 3).await;
    assert_eq!(line.records[0].origin().offset, 0);
    assert!(line.records.iter().all(|e| e.origin().partition == 2), "the others begin at their ends");
}

#[tokio::test(flavor = "multi_thread")]
async fn members_come_and_go_and_every_partition_is_read() {
    let broker = broker(4);
    let (one, mut line_one) = (source(&broker), Line::default());
    line_one.until(&one, |line| line.owned.len() == 4).await;
    let (two, mut line_two) = (source(&broker), Line::default());
    // A member without partitions, empty assignments on the way, and a revocation.
    both((&one, &mut line_one), (&two, &mut line_two), |a, b| a.owned.len() == 2 && b.owned.len() == 2).await;
    assert!(line_one.owned.is_disjoint(&line_two.owned));
    produce(&broker, 0..40).await;
    both((&one, &mut line_one), (&two, &mut line_two), |a, b| a.records.len() + b.records.len() >= 40).await;
    line_one.positions.extend(line_two.positions.iter());
    drop(two);
    line_one.until(&one, |line| line.owned.len() == 4).await;
    produce(&broker, 40..60).await;
    let all = |line: &Line| line.records.len() + line_two.records.len() >= 60;
    line_one.until(&one, all).await;
    let texts: BTreeSet<&[u8]> =
        line_one.records.iter().chain(&line_two.records).filter_map(|e| e.record.value.as_deref()).collect();
    assert_eq!(texts.len(), 60);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_takes_long_holds_up_neither_the_group_nor_a_revocation() {
    let broker = broker(4);
    produce(&broker, 0..40).await;
    let (one, mut line_one) = (source(&broker), Line::default());
    let wanted = loop {
        if let Event::Assigned(wanted) = one.next().await.expect("no fault") {
            break wanted;
        }
    };
    // The database does not answer; meanwhile another worker comes and gets its share.
    let (two, mut line_two) = (source(&broker), Line::default());
    line_two.until(&two, |line| line.owned.len() == 2 && line.marks.len() >= 2).await;
    // Now it does: two of the four are gone.
    one.start(line_one.claim(&wanted)).await.expect("starts");
    line_one.owned.extend(wanted.iter().map(|a| a.partition));
    let whole = |a: &Line, b: &Line| a.records.len() + b.records.len() >= 40;
    both((&one, &mut line_one), (&two, &mut line_two), whole).await;
    let partitions =
        |line: &Line| -> BTreeSet<i32> { line.records.iter().map(|e| e.origin().partition).collect() };
    assert!(partitions(&line_one).is_disjoint(&partitions(&line_two)), "the revoked ones were not started");
    // And a revocation of started and not yet started partitions at once is answered: the group goes on.
    drop(two);
    line_one.until(&one, |line| line.owned.len() == 4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_that_does_not_listen_bounds_what_is_queued_and_loses_nothing() {
    let broker = broker(2);
    let config = ConsumerConfig { queue_bytes_max: 64 * 1024, ..config(&broker) };
    produce(&broker, 0..2000).await;
    let (source, mut line) = (KafkaSource::start(config).expect("starts"), Line::default());
    line.until(&source, |line| !line.records.is_empty()).await;
    let deadline = Instant::now() + TOO_LONG;
    while source.queued_bytes() < 64 * 1024 {
        assert!(Instant::now() < deadline, "{} bytes", source.queued_bytes());
        tokio::task::yield_now().await;
    }
    // Stays there: paused, and polling goes on.
    for _ in 0..20 {
        assert!(source.queued_bytes() < 72 * 1024, "{} bytes", source.queued_bytes());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    line.until(&source, |line| line.records.len() >= 2000).await;
    line.assert_whole(2000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_position_that_the_topic_does_not_have_is_told() {
    let broker = broker(2);
    produce(&broker, 0..20).await;
    let (source, mut line) = (source(&broker), Line::at(BTreeMap::from([(1, 1000)])));
    line.until(&source, |line| !line.refused.is_empty() && !line.marks.is_empty()).await;
    let [(partition, position, (low, high))] = line.refused[..] else { panic!("{:?}", line.refused) };
    assert_eq!((partition, position, low), (1, 1000, 0));
    assert!(high < 1000);
    assert!(line.marks.iter().all(|m| m.0 == 0), "the other one is read");
    // An operator decided: it goes on from the start.
    line.positions.insert(1, 0);
    source.reclaim(vec![1]).await.expect("asks");
    line.until(&source, |line| line.records.len() >= 20).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_flood_of_commits_keeps_a_stop_or_a_reclaim_from_being_heard() {
    let broker = broker(1);
    produce(&broker, 0..3).await;
    let (source, mut line) = (source(&broker), Line::default());
    line.until(&source, |line| line.records.len() >= 3).await;
    let span = PartitionSpan { from: 0, to: 3, claim: line.records[0].record.claim, records: 3 };
    for _ in 0..10_000 {
        source.commit(&CheckpointDelta::from([(0, span)]));
    }
    line.positions.insert(0, 0);
    source.reclaim(vec![0]).await.expect("asks");
    line.until(&source, |line| line.records.len() >= 6).await;
    (0..10_000).for_each(|_| source.commit(&CheckpointDelta::from([(0, span)])));
    source.stop();
    line.until(&source, |line| line.ended).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reference_has_an_empty_value_and_is_no_tombstone() {
    let broker = broker(1);
    let producer = Producer::new(ProducerConfig::new(&broker.brokers(), &BTreeMap::new())).expect("creates");
    let uri = "https://host/a.jpg".to_owned();
    producer.send(job(1, Payload::Reference(uri.clone()))).await.expect("delivered");
    producer.send(Message { value: None, ..job(1, Payload::Inline(Bytes::new())) }).await.expect("delivered");
    let (source, mut line) = (source(&broker), Line::default());
    line.until(&source, |line| line.records.len() >= 2).await;
    assert!(matches!(&line.records[0].body, Body::Work(Payload::Reference(found)) if *found == uri));
    assert!(matches!(line.records[1].body, Body::Delete));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_over_the_limit_is_refused_before_it_is_sent() {
    let broker = broker(1);
    let config = ProducerConfig {
        message_bytes_max: 4096,
        ..ProducerConfig::new(&broker.brokers(), &BTreeMap::new())
    };
    let producer = Producer::new(config).expect("creates");
    let message = job(1, Payload::Inline(vec![0; 5000].into()));
    let error = producer.send(message).await.expect_err("too large");
    assert!(error.to_string().contains("reference"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_whose_name_is_no_text_costs_that_record_only() {
    let broker = broker(1);
    let mut message = job(0, Payload::Inline("text".into()));
    // SAFETY: breaks the promise of `String` on purpose, as a producer in C does; its bytes are only copied on the way to the broker.
    message.headers.push((unsafe { String::from_utf8_unchecked(vec![0xff, 0xfe]) }, "v".into()));
    let producer = Producer::new(ProducerConfig::new(&broker.brokers(), &BTreeMap::new())).expect("creates");
    producer.send(message).await.expect("delivered");
    produce(&broker, 1..2).await;
    let (source, mut line) = (source(&broker), Line::default());
    line.until(&source, |line| line.records.len() == 2).await;
    let codes: Vec<Option<&str>> = line
        .records
        .iter()
        .map(|e| if let Body::Rejected(rejection) = &e.body { Some(&*rejection.code) } else { None })
        .collect();
    assert_eq!(codes, [Some("envelope.header"), None]);
    assert_eq!(line.records[0].record.headers.last().expect("kept").1, "v");
}
