//! A topic that is made anew while it is read, on the broker of `KAFKA_BROKERS`.

use super::source::{Line, config, produce_to};
use crate::{ConsumerConfig, KafkaSource, ensure_topics, topic_id};
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use spawn_core::{Event, Fault, FaultClass, Source};
use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

const TOO_LONG: Duration = Duration::from_secs(30);

/// A topic of its own on the real broker.
struct Topic {
    brokers: String,
    name: String,
}

impl Topic {
    async fn create() -> Self {
        let brokers = std::env::var("KAFKA_BROKERS")
            .expect("KAFKA_BROKERS is not set: run the tests through setup/with-services");
        let stamp = SystemTime::UNIX_EPOCH.elapsed().expect("after 1970").as_nanos();
        let topic = Self { brokers, name: format!("kafka-test-{stamp}") };
        topic.ensure().await;
        topic
    }

    async fn ensure(&self) {
        ensure_topics(&self.brokers, &BTreeMap::new(), std::slice::from_ref(&self.name), 1, 1)
            .await
            .expect("creates");
    }

    async fn make_anew(&self) {
        let client: AdminClient<DefaultClientContext> =
            crate::config::admin(&self.brokers, &BTreeMap::new()).create().expect("creates");
        let options = AdminOptions::new().operation_timeout(Some(TOO_LONG));
        client.delete_topics(&[&self.name], &options).await.expect("asks")[0].as_ref().expect("deletes");
        let deadline = Instant::now() + TOO_LONG;
        // The name is taken until every broker has heard of the deletion.
        while self.id().await.is_ok() {
            assert!(Instant::now() < deadline, "not deleted");
        }
        self.ensure().await;
    }

    async fn id(&self) -> Result<Option<String>, Fault> {
        topic_id(&self.brokers, &BTreeMap::new(), &self.name).await
    }

    fn source(&self) -> KafkaSource {
        let brokers = self.brokers.clone();
        let config = ConsumerConfig {
            brokers,
            group: self.name.clone(),
            topic: self.name.clone(),
            pipeline: "p".into(),
            ..ConsumerConfig::default()
        };
        KafkaSource::start(config).expect("starts")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_made_anew_is_never_confirmed_and_is_told_with_both_ids() {
    let topic = Topic::create().await;
    produce_to(&topic.brokers, &topic.name, 0..5).await;
    let (source, mut line) = (topic.source(), Line::default());
    line.until(&source, |line| line.records.len() >= 5).await;
    let before = topic.id().await.expect("answers").expect("has an id");
    assert_eq!(line.topic_ids, [Some(before.clone())], "announced with the assignment");
    source.confirm().await.expect("the same");
    topic.make_anew().await;
    let after = topic.id().await.expect("answers").expect("has an id");
    assert_ne!(before, after);
    // More than before, so that the old position points into it.
    produce_to(&topic.brokers, &topic.name, 0..20).await;
    let fault = source.confirm().await.expect_err("another topic");
    assert_eq!(fault.class, FaultClass::Operator);
    for word in [&before[..], &after, "spawn pipelines adopt-topic --pipeline p --topic"] {
        assert!(fault.detail.contains(word), "{fault}");
    }
    // A line that writes nothing is told as well.
    let told = tokio::time::timeout(TOO_LONG, async {
        loop {
            match source.next().await {
                Err(fault) if fault.class == FaultClass::Operator => return fault,
                Ok(Event::End) => panic!("ended"),
                _ => {}
            }
        }
    });
    assert!(told.await.expect("in time").detail.contains(&after));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_confirmation_is_quick_beside_a_fetch_that_waits() {
    let topic = Topic::create().await;
    produce_to(&topic.brokers, &topic.name, 0..1).await;
    let (source, mut line) = (topic.source(), Line::default());
    line.until(&source, |line| !line.marks.is_empty()).await;
    let mut quickest = TOO_LONG;
    for _ in 0..10 {
        let started = Instant::now();
        source.confirm().await.expect("the same");
        quickest = quickest.min(started.elapsed());
    }
    assert!(quickest < Duration::from_millis(100), "{quickest:?}: waits behind a fetch?");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_gone_is_trouble_and_confirms_nothing() {
    let broker = super::source::broker(1);
    let source = KafkaSource::start(config(&broker)).expect("starts");
    let mut line = Line::default();
    line.until(&source, |line| !line.marks.is_empty()).await;
    assert!(source.pulse().since_polled < TOO_LONG && source.pulse().trouble.is_none());
    drop(broker);
    assert!(matches!(&line.topic_ids[..], [Some(_)]), "{:?}", line.topic_ids);
    let fault = source.confirm().await.expect_err("nobody answers");
    assert_eq!(fault.class, FaultClass::Systemic);
    assert!(source.pulse().trouble.is_some());
}
