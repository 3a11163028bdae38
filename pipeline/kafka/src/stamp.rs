//! A message of the client becomes a record of the line: owned bytes, its claim, its ordinal, and what it asks for.

use crate::job::{Raw, parse};
use crate::rebalance::Reading;
use bytes::Bytes;
use rdkafka::message::{BorrowedMessage, Headers, Message};
use spawn_core::{Envelope, Origin, Payload, Record};
use std::sync::Arc;

/// Stamps a message; `None` for one that lies before the position, which was read already.
pub(crate) fn stamp(
    topic: &Arc<str>,
    reading: &mut Reading,
    message: &BorrowedMessage<'_>,
) -> Option<Envelope<Payload>> {
    if message.offset() < reading.position {
        return None;
    }
    reading.ordinal += 1;
    reading.position = message.offset() + 1;
    let headers = message.headers().map_or_else(Vec::new, |headers| {
        headers
            .iter()
            .map(|h| (h.key.to_owned(), h.value.map_or_else(Bytes::new, Bytes::copy_from_slice)))
            .collect()
    });
    let record = Record {
        origin: Origin { topic: topic.clone(), partition: message.partition(), offset: message.offset() },
        claim: reading.claim,
        ordinal: reading.ordinal,
        key: message.key().map(Bytes::copy_from_slice),
        value: message.payload().map(Bytes::copy_from_slice),
        headers,
        timestamp_ms: message.timestamp().to_millis().unwrap_or(0),
    };
    let raw = Raw { topic, key: record.key.as_ref(), value: record.value.as_ref(), headers: &record.headers };
    let (job, body) = parse(raw);
    Some(Envelope::new(record, job, body))
}
