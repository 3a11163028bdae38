//! Kafka: where records come from, and how jobs get there.
//!
//! # Layout
//!
//! - [`mod@source`]: [`KafkaSource`], the seam that the line sees
//! - `poll`: the thread behind it, the only one that touches the consumer; `rebalance`: what the group tells it; `wishes`: what the
//!   line tells it; `stamp`: messages become records; `outbox`: events on their way to the line
//! - `topic_id`: whether the topic is still the one that was announced
//! - [`mod@job`]: what a record asks for (CloudEvents binary and structured, plain JSON, bare media)
//! - [`mod@message`], [`mod@producer`]: jobs on their way to Kafka; success only by delivery report
//! - [`mod@reread`]: what a topic still has, read beside the line
//! - [`mod@admin`]: topics, offsets; [`mod@version`]: the broker's release; [`mod@embedded`]: a broker inside the process
//! - [`mod@inspect`]: what is asked before a start
//! - [`mod@config`], [`mod@errors`], `telemetry`

pub mod admin;
pub mod config;
pub mod embedded;
pub mod errors;
pub mod inspect;
pub mod job;
pub mod message;
mod outbox;
mod poll;
pub mod producer;
mod rebalance;
pub mod reread;
pub mod source;
mod stamp;
mod telemetry;
mod topic_id;
pub mod version;
mod wishes;

#[cfg(test)]
mod tests;

pub use admin::{delete_topic, end_offsets, ensure_topics, partitions, topic_id, watermarks};
pub use config::{ConsumerConfig, FetchProfile, ProducerConfig, Start};
pub use embedded::EmbeddedBroker;
pub use inspect::{ClusterSeen, TopicSeen};
pub use message::{JobMessage, Message};
pub use producer::{Producer, SendError};
pub use reread::{Cluster, OffsetPortion, StoredRecord, record_at};
pub use source::KafkaSource;
pub use version::broker_version;
