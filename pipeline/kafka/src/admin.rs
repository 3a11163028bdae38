//! Questions to the cluster, and topics. For its release see [`crate::version`].

use crate::config::admin;
use crate::errors::fault;
use crate::topic_id::Asker;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::types::RDKafkaErrorCode;
use spawn_core::{Fault, FaultClass};
use std::collections::BTreeMap;
use std::time::Duration;

/// Longest wait for an answer.
pub(crate) const ANSWER_MAX: Duration = Duration::from_secs(10);
/// Largest message that topics made here accept.
const TOPIC_MESSAGE_BYTES_MAX: &str = "16777216";

/// Creates the topics that are missing. Existing ones stay as they are, and where all exist the right to create some is not needed.
pub async fn ensure_topics(
    brokers: &str,
    properties: &BTreeMap<String, String>,
    topics: &[String],
    partitions: i32,
    replication: i32,
) -> Result<(), Fault> {
    let found = self::partitions(brokers, properties, topics).await?;
    let missing = topics.iter().filter(|topic| found.get(*topic).is_none_or(Option::is_none));
    let new: Vec<NewTopic<'_>> = missing
        .map(|t| {
            NewTopic::new(t, partitions, TopicReplication::Fixed(replication))
                .set("max.message.bytes", TOPIC_MESSAGE_BYTES_MAX)
        })
        .collect();
    if new.is_empty() {
        return Ok(());
    }
    let client: AdminClient<DefaultClientContext> =
        admin(brokers, properties).create().map_err(|e| fault("cannot create the admin client", &e))?;
    let options = AdminOptions::new().operation_timeout(Some(ANSWER_MAX)).request_timeout(Some(ANSWER_MAX));
    let created = client.create_topics(&new, &options).await;
    for result in created.map_err(|e| unanswered(brokers, &e))? {
        match result {
            Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((topic, code)) => {
                return Err(Fault::new(
                    FaultClass::Operator,
                    "kafka",
                    format!("cannot create the topic {topic}: {code}"),
                ));
            }
        }
    }
    Ok(())
}

/// Deletes a topic, with everything in it. One that is not there is no error.
pub async fn delete_topic(
    brokers: &str,
    properties: &BTreeMap<String, String>,
    topic: &str,
) -> Result<(), Fault> {
    let client: AdminClient<DefaultClientContext> =
        admin(brokers, properties).create().map_err(|e| fault("cannot create the admin client", &e))?;
    let options = AdminOptions::new().operation_timeout(Some(ANSWER_MAX)).request_timeout(Some(ANSWER_MAX));
    let answers = client.delete_topics(&[topic], &options).await;
    for answer in answers.map_err(|e| fault("cannot delete a topic", &e))? {
        if let Err((topic, code)) = answer
            && code != RDKafkaErrorCode::UnknownTopicOrPartition
        {
            return Err(Fault::new(
                FaultClass::Operator,
                "kafka",
                format!("cannot delete the topic {topic}: {code}"),
            ));
        }
    }
    Ok(())
}

/// The topic's id, which another topic of the same name does not have; `None` where the brokers tell none.
pub async fn topic_id(
    brokers: &str,
    properties: &BTreeMap<String, String>,
    topic: &str,
) -> Result<Option<String>, Fault> {
    let (client, topic) = (admin(brokers, properties), topic.to_owned());
    asked(brokers, move || Asker::new(client, topic)?.ask()).await
}

/// The next offset to be written of every partition of a topic.
pub async fn end_offsets(
    brokers: &str,
    properties: &BTreeMap<String, String>,
    topic: &str,
) -> Result<BTreeMap<i32, i64>, Fault> {
    let all = watermarks(brokers, properties, topic).await?;
    Ok(all.into_iter().map(|(partition, (_, high))| (partition, high)).collect())
}

/// The first offset and the next one to be written of every partition of a topic.
pub async fn watermarks(
    brokers: &str,
    properties: &BTreeMap<String, String>,
    topic: &str,
) -> Result<BTreeMap<i32, (i64, i64)>, Fault> {
    let (client, topic) = (admin(brokers, properties), topic.to_owned());
    asked(brokers, move || {
        let consumer: BaseConsumer = client.create()?;
        let metadata = consumer.fetch_metadata(Some(&topic), ANSWER_MAX)?;
        let partitions = metadata.topics().iter().flat_map(|t| t.partitions()).map(|p| p.id());
        partitions.map(|p| Ok((p, consumer.fetch_watermarks(&topic, p, ANSWER_MAX)?))).collect()
    })
    .await
}

/// Partitions of each topic, `None` for one that does not exist.
pub async fn partitions(
    brokers: &str,
    properties: &BTreeMap<String, String>,
    topics: &[String],
) -> Result<BTreeMap<String, Option<usize>>, Fault> {
    let (client, topics) = (admin(brokers, properties), topics.to_vec());
    asked(brokers, move || {
        let consumer: BaseConsumer = client.create()?;
        let metadata = consumer.fetch_metadata(None, ANSWER_MAX)?;
        let found = |name: &String| {
            let topic = metadata.topics().iter().find(|t| t.name() == name)?;
            Some(topic.partitions().len()).filter(|n| *n > 0)
        };
        Ok(topics.iter().map(|name| (name.clone(), found(name))).collect())
    })
    .await
}

/// The client's questions block: they are asked on a thread of their own, which ends after [`ANSWER_MAX`] at the latest.
pub(crate) async fn asked<T: Send + 'static>(
    brokers: &str,
    question: impl FnOnce() -> Result<T, rdkafka::error::KafkaError> + Send + 'static,
) -> Result<T, Fault> {
    let (answer_tx, answer_rx) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || drop(answer_tx.send(question())));
    let answer =
        answer_rx.await.map_err(|_| Fault::new(FaultClass::Systemic, "kafka", "the asking thread ended"))?;
    answer.map_err(|e| unanswered(brokers, &e))
}

fn unanswered(brokers: &str, error: &rdkafka::error::KafkaError) -> Fault {
    fault(&format!("no answer from Kafka at {brokers}; is it running, is kafka.brokers right?"), error)
}
