//! The metrics of the Kafka clients.

use crate::rebalance::Client;
use metrics::{counter, gauge};
use rdkafka::consumer::Consumer;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Records between each position and the end of its partition, from the client's memory of the last fetch, without a request. The
/// partitions of `told` that have gone to somebody else have none any more.
pub(crate) fn lag(consumer: &Client, topic: &str, positions: &BTreeMap<i32, i64>, told: &mut BTreeSet<i32>) {
    let gauge = |partition: i32| gauge!("spawn_kafka_lag_records", "topic" => topic.to_owned(), "partition" => partition.to_string());
    told.retain(|partition| {
        positions.contains_key(partition) || {
            gauge(*partition).set(0.0);
            false
        }
    });
    let mut behind = false;
    for (partition, position) in positions {
        let Some(high) = cached_high(consumer, topic, *partition) else { continue };
        gauge(*partition).set((high - position).max(0) as f64);
        told.insert(*partition);
        behind |= high > *position;
    }
    if !behind {
        gauge!("spawn_oldest_unprocessed_seconds", "topic" => topic.to_owned()).set(0.0);
    }
}

/// The age of the oldest of the records that were polled: how far behind the line reads.
pub(crate) fn polled(topic: &str, oldest_timestamp_ms: i64) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64());
    let age_seconds = (now - oldest_timestamp_ms as f64 / 1e3).max(0.0);
    gauge!("spawn_oldest_unprocessed_seconds", "topic" => topic.to_owned()).set(age_seconds);
}

/// What the poll thread did with its time since the last report.
#[derive(Debug, Default)]
pub(crate) struct PollTimes {
    starved: Duration,
    blocked: Duration,
    bytes: usize,
}

impl PollTimes {
    /// It waited in the client: for records, or, while paused, for the line.
    pub(crate) fn waited(&mut self, time: Duration, paused: bool) {
        *(if paused { &mut self.blocked } else { &mut self.starved }) += time;
    }

    /// It brought so many bytes.
    pub(crate) fn brought(&mut self, bytes: usize) {
        self.bytes += bytes;
    }

    /// Sets the gauges for the time that `elapsed` and begins anew.
    pub(crate) fn report(&mut self, topic: &str, elapsed: Duration) {
        let Self { starved, blocked, bytes } = std::mem::take(self);
        counter!("spawn_kafka_polled_bytes_total", "topic" => topic.to_owned()).increment(bytes as u64);
        gauge!("spawn_kafka_polled_bytes_per_second", "topic" => topic.to_owned())
            .set(bytes as f64 / elapsed.as_secs_f64());
        let ratio = |time: Duration| (time.as_secs_f64() / elapsed.as_secs_f64()).min(1.0);
        let busy = elapsed.saturating_sub(starved + blocked);
        gauge!("spawn_kafka_poll_busy_ratio", "topic" => topic.to_owned()).set(ratio(busy));
        gauge!("spawn_kafka_poll_starved_ratio", "topic" => topic.to_owned()).set(ratio(starved));
        gauge!("spawn_kafka_poll_blocked_ratio", "topic" => topic.to_owned()).set(ratio(blocked));
    }
}

/// The end of a partition as of the last fetch.
fn cached_high(consumer: &Client, topic: &str, partition: i32) -> Option<i64> {
    let topic = std::ffi::CString::new(topic).ok()?;
    let (mut low, mut high) = (-1, -1);
    // SAFETY: the client lives as long as `consumer`, the name is NUL-terminated, and both offsets are writable.
    let code = unsafe {
        rdkafka_sys::rd_kafka_get_watermark_offsets(
            consumer.client().native_ptr(),
            topic.as_ptr(),
            partition,
            &mut low,
            &mut high,
        )
    };
    (code == rdkafka_sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR && high >= 0).then_some(high)
}
