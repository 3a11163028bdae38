//! What `spawn check` asks about the cluster, its topics and our own settings. Changes nothing.

use crate::ConsumerConfig;
use crate::admin::{ANSWER_MAX, asked};
use crate::config::admin;
use crate::errors::fault;
use rdkafka::admin::{AdminClient, AdminOptions, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use spawn_core::Fault;
use std::collections::BTreeMap;

/// A cluster and some of its topics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterSeen {
    /// Brokers that are up.
    pub brokers: usize,
    /// By name; `None` for a topic that does not exist.
    pub topics: BTreeMap<String, Option<TopicSeen>>,
}

/// A topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicSeen {
    /// How many it has.
    pub partitions: usize,
    /// Copies of the partition that has the fewest.
    pub replicas: usize,
    /// Its `max.message.bytes`; `None` where the brokers do not tell.
    pub message_bytes_max: Option<usize>,
}

/// Looks at the cluster and at these topics.
pub async fn inspect(
    brokers: &str,
    properties: &BTreeMap<String, String>,
    topics: &[String],
) -> Result<ClusterSeen, Fault> {
    let (client, names) = (admin(brokers, properties), topics.to_vec());
    let mut seen = asked(brokers, move || {
        let consumer: BaseConsumer = client.create()?;
        let metadata = consumer.fetch_metadata(None, ANSWER_MAX)?;
        let topic = |name: &String| {
            let partitions = metadata.topics().iter().find(|t| t.name() == name)?.partitions();
            let replicas = partitions.iter().map(|p| p.replicas().len()).min()?;
            Some(TopicSeen { partitions: partitions.len(), replicas, message_bytes_max: None })
        };
        let topics = names.iter().map(|name| (name.clone(), topic(name))).collect();
        Ok(ClusterSeen { brokers: metadata.brokers().len(), topics })
    })
    .await?;
    let client: AdminClient<DefaultClientContext> =
        admin(brokers, properties).create().map_err(|e| fault("cannot create the admin client", &e))?;
    let options = AdminOptions::new().request_timeout(Some(ANSWER_MAX));
    for (name, topic) in &mut seen.topics {
        let Some(topic) = topic else { continue };
        let answers = client.describe_configs(&[ResourceSpecifier::Topic(name)], &options).await;
        let answers = answers.map_err(|e| fault(&format!("cannot read the settings of topic {name}"), &e))?;
        // Without the right to see them there is an error in their place.
        topic.message_bytes_max = answers
            .iter()
            .filter_map(|answer| answer.as_ref().ok()?.get("max.message.bytes")?.value.as_ref()?.parse().ok())
            .next();
    }
    Ok(seen)
}

/// Whether the client library accepts these settings together; it names the one that it does not. Nothing is joined or read.
pub fn accepted(config: &ConsumerConfig) -> Result<(), Fault> {
    config.client().create::<BaseConsumer>().map(drop).map_err(|e| fault("settings refused", &e))
}
