//! The metrics of the Kafka clients.

use metrics::{counter, gauge};

/// Records between our position and the end of the partition.
pub(crate) fn lag(topic: &str, partition: i32, records: i64) {
    gauge!("spawn_kafka_lag_records", "topic" => topic.to_owned(), "partition" => partition.to_string())
        .set(records as f64);
}

/// Age of the record that was polled last: how far behind the line reads.
pub(crate) fn oldest_unprocessed(topic: &str, seconds: f64) {
    gauge!("spawn_oldest_unprocessed_seconds", "topic" => topic.to_owned()).set(seconds.max(0.0));
}

/// Bytes of values that were polled.
pub(crate) fn polled(topic: &str, bytes: usize) {
    counter!("spawn_kafka_polled_bytes_total", "topic" => topic.to_owned()).increment(bytes as u64);
}
