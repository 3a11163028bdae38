//! Settings of the clients. Every queue inside librdkafka gets an explicit bound from ours.

use rdkafka::ClientConfig;
use std::collections::BTreeMap;

/// Where the first claim of a partition starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// At the first record that the topic still has.
    Earliest,
    /// After the last record that it has then. Partitions that the topic was given after its first so many hold only records that came
    /// later: they start at their first.
    Latest {
        /// How many the topic had when it was read for the first time.
        partitions: i32,
    },
}

/// What the brokers' answers are tuned for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FetchProfile {
    /// Bytes that a broker waits for before it answers.
    pub min_bytes: u32,
    /// Milliseconds that it waits for them at most. A partition that is assigned while a fetch without it is under way waits as long.
    pub wait_ms: u32,
}

impl FetchProfile {
    /// Whatever there is, at once.
    pub const LATENCY: Self = Self { min_bytes: 1, wait_ms: 100 };
    /// Large answers, which cost client and broker less for each byte.
    pub const THROUGHPUT: Self = Self { min_bytes: 1 << 20, wait_ms: 500 };
}

/// Settings of one pipeline's consumer.
#[derive(Clone, Debug)]
pub struct ConsumerConfig {
    /// Name of the pipeline, for what people are told.
    pub pipeline: String,
    /// Bootstrap brokers.
    pub brokers: String,
    /// Consumer group.
    pub group: String,
    /// The topic; one pipeline reads exactly one.
    pub topic: String,
    /// Unique per process and pipeline.
    pub client_id: String,
    /// For partitions that nobody ever claimed.
    pub start: Start,
    /// What fetches wait for.
    pub fetch: FetchProfile,
    /// Most bytes of polled records that wait for the line; librdkafka's own queue has the same bound.
    pub queue_bytes_max: usize,
    /// Milliseconds without a heartbeat until the group gives our partitions away.
    pub session_timeout_ms: u32,
    /// Any other librdkafka setting; wins over all above.
    pub properties: BTreeMap<String, String>,
}

impl Default for ConsumerConfig {
    fn default() -> Self {
        Self {
            pipeline: String::new(),
            brokers: String::new(),
            group: String::new(),
            topic: String::new(),
            client_id: "spawn".into(),
            start: Start::Earliest,
            fetch: FetchProfile::LATENCY,
            queue_bytes_max: 16 << 20,
            session_timeout_ms: 10_000,
            properties: BTreeMap::new(),
        }
    }
}

impl ConsumerConfig {
    pub(crate) fn client(&self) -> ClientConfig {
        let mut client = base(&self.brokers, &self.client_id);
        client
            .set("group.id", &self.group)
            // Positions live in PostgreSQL: nothing is committed or reset behind our back.
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "error")
            .set("isolation.level", "read_committed")
            .set("check.crcs", "true")
            .set("partition.assignment.strategy", "cooperative-sticky")
            // The bundled librdkafka has a fatal rejoin fault with the newer protocol.
            .set("group.protocol", "classic")
            .set("session.timeout.ms", self.session_timeout_ms.to_string())
            .set("heartbeat.interval.ms", (self.session_timeout_ms / 4).clamp(100, 3000).to_string())
            .set("fetch.min.bytes", self.fetch.min_bytes.to_string())
            .set("fetch.wait.max.ms", self.fetch.wait_ms.to_string())
            // The default of a second halves the throughput once the queue was full.
            .set("fetch.queue.backoff.ms", "5")
            // Of one partition in one answer: what waits in the others comes soon after. A larger message still comes whole. Less than a fetch
            // waits for, and a partition alone would make it wait in full each time.
            .set("fetch.message.max.bytes", self.fetch.min_bytes.saturating_mul(2).max(512 << 10).to_string())
            // One answer of a broker must not be a multiple of the budget.
            .set("fetch.max.bytes", self.queue_bytes_max.clamp(16 << 20, 50 << 20).to_string())
            // Without it, control and aborted records before the end would never be settled.
            .set("enable.partition.eof", "true")
            .set("queued.max.messages.kbytes", (self.queue_bytes_max / 1024).max(1024).to_string())
            .set("topic.metadata.refresh.interval.ms", "30000");
        apply(&mut client, &self.properties);
        client
    }
}

/// Settings of a producer.
#[derive(Clone, Debug)]
pub struct ProducerConfig {
    /// Bootstrap brokers.
    pub brokers: String,
    /// Largest message in bytes; at most what the topic accepts.
    pub message_bytes_max: usize,
    /// Most bytes of messages without a delivery report; a further one waits.
    pub inflight_bytes_max: usize,
    /// Milliseconds until a message without a delivery report has failed.
    pub delivery_timeout_ms: u32,
    /// Any other librdkafka setting.
    pub properties: BTreeMap<String, String>,
}

impl ProducerConfig {
    /// The usual settings.
    pub fn new(brokers: &str, properties: &BTreeMap<String, String>) -> Self {
        Self {
            brokers: brokers.to_owned(),
            message_bytes_max: 16 << 20,
            inflight_bytes_max: 64 << 20,
            delivery_timeout_ms: 30_000,
            properties: properties.clone(),
        }
    }

    pub(crate) fn client(&self) -> ClientConfig {
        let mut client = base(&self.brokers, "spawn-producer");
        client
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("linger.ms", "5")
            .set("message.max.bytes", self.message_bytes_max.to_string())
            .set("queue.buffering.max.kbytes", (self.inflight_bytes_max / 512).to_string())
            .set("message.timeout.ms", self.delivery_timeout_ms.to_string());
        apply(&mut client, &self.properties);
        client
    }
}

/// A client that only asks questions.
pub(crate) fn admin(brokers: &str, properties: &BTreeMap<String, String>) -> ClientConfig {
    let mut client = base(brokers, "spawn-admin");
    apply(&mut client, properties);
    client
}

/// A consumer outside of every group, which is told what to read and stores nothing.
pub(crate) fn reader(brokers: &str, properties: &BTreeMap<String, String>) -> ClientConfig {
    let mut client = base(brokers, "spawn-reader");
    client
        // Never joined, but the client does not assign without one.
        .set("group.id", "spawn-reader")
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "error")
        .set("isolation.level", "read_committed")
        .set("check.crcs", "true")
        .set("enable.partition.eof", "true")
        .set("fetch.message.max.bytes", "16777216")
        .set("queued.max.messages.kbytes", "16384")
        .set("fetch.queue.backoff.ms", "5");
    apply(&mut client, properties);
    client
}

fn base(brokers: &str, client_id: &str) -> ClientConfig {
    let mut client = ClientConfig::new();
    client
        .set("bootstrap.servers", brokers)
        .set("client.id", client_id)
        .set("socket.keepalive.enable", "true");
    client.set_log_level(rdkafka::config::RDKafkaLogLevel::Error);
    client
}

fn apply(client: &mut ClientConfig, properties: &BTreeMap<String, String>) {
    properties.iter().for_each(|(key, value)| {
        client.set(key, value);
    });
}

#[cfg(test)]
mod tests {
    use super::{ConsumerConfig, FetchProfile};

    #[test]
    fn one_partition_alone_can_bring_what_a_fetch_waits_for() {
        for min_bytes in [1, 1 << 20, 16 << 20] {
            let fetch = FetchProfile { min_bytes, ..FetchProfile::THROUGHPUT };
            let client = ConsumerConfig { fetch, ..ConsumerConfig::default() }.client();
            let most: u64 = client.get("fetch.message.max.bytes").expect("is set").parse().expect("a number");
            assert!(most > u64::from(min_bytes), "{most} for {min_bytes}");
        }
    }
}
