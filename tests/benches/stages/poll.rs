//! Records off a real topic, as the line takes them: what is allocated for each beyond its bytes is the most that was copied once more.
//! librdkafka's own buffers are not counted; out of them a payload is copied once.

use crate::allocations;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use spawn_core::{Claim, Claimed, Event, Source};
use spawn_kafka::{ConsumerConfig, FetchProfile, KafkaSource};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const RECORDS: u64 = 2_000;
const LONG: Duration = Duration::from_secs(60);

pub(crate) fn bench() {
    if std::env::var_os("SPAWN_ALLOCATIONS").is_none() {
        return;
    }
    let brokers = std::env::var("KAFKA_BROKERS").expect("KAFKA_BROKERS is set by setup/with-services");
    let runtime = tokio::runtime::Runtime::new().expect("starts");
    for (name, size) in [("poll/1kb", 1_000), ("poll/100kb", 100_000)] {
        let stamp = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_nanos();
        let topic = format!("bench-poll-{size}-{stamp}");
        runtime.block_on(fill(&brokers, &topic, size));
        allocations::tell(name, RECORDS, size as u64, || runtime.block_on(read(&brokers, &topic)));
    }
}

async fn fill(brokers: &str, topic: &str, size: usize) {
    let mut client = ClientConfig::new();
    client.set("bootstrap.servers", brokers).set("message.max.bytes", "1048576");
    let admin: AdminClient<DefaultClientContext> = client.create().expect("a client");
    let new = NewTopic::new(topic, 1, TopicReplication::Fixed(1));
    admin.create_topics([&new], &AdminOptions::new()).await.expect("answers")[0].as_ref().expect("a topic");
    let producer: BaseProducer = client.create().expect("a producer");
    let value = vec![b'x'; size];
    for number in 0..RECORDS {
        let id = number.to_string();
        let headers = rdkafka::message::OwnedHeaders::new()
            .insert(rdkafka::message::Header { key: "ce_specversion", value: Some("1.0") })
            .insert(rdkafka::message::Header { key: "ce_id", value: Some(&id) })
            .insert(rdkafka::message::Header { key: "ce_source", value: Some("bench") })
            .insert(rdkafka::message::Header { key: "ce_type", value: Some("io.spawn.job.text.v1") })
            .insert(rdkafka::message::Header { key: "content-type", value: Some("text/plain") });
        let mut record = BaseRecord::<(), [u8]>::to(topic).payload(&value[..]).headers(headers);
        while let Err((_full, again)) = producer.send(record) {
            producer.poll(Duration::from_millis(10));
            record = again;
        }
    }
    producer.flush(LONG).expect("all are delivered");
}

async fn read(brokers: &str, topic: &str) {
    let source = KafkaSource::start(ConsumerConfig {
        brokers: brokers.to_owned(),
        group: format!("{topic}-{:?}", SystemTime::now()),
        topic: topic.to_owned(),
        fetch: FetchProfile::THROUGHPUT,
        ..ConsumerConfig::default()
    })
    .expect("starts");
    let mut seen = 0;
    while seen < RECORDS {
        match source.next().await.expect("no fault") {
            Event::Assigned(wanted) => {
                let claimed = wanted.into_iter().map(|a| Claimed {
                    partition: a.partition,
                    claim: Claim { epoch: 1, token: 1 },
                    position: a.first_offset,
                });
                source.start(claimed.collect()).await.expect("starts");
            }
            Event::Records(envelopes) => seen += envelopes.len() as u64,
            _ => {}
        }
    }
    source.stop();
}
