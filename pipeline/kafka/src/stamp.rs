//! A message of the client becomes a record of the line: owned bytes, its claim, its ordinal, and what it asks for.

use crate::job::{Raw, parse};
use crate::rebalance::Reading;
use bytes::Bytes;
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka_sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR;
use rdkafka_sys::{rd_kafka_header_cnt, rd_kafka_header_get_all, rd_kafka_message_headers};
use spawn_core::{Body, Envelope, Origin, Payload, Record, Rejection};
use std::ffi::CStr;
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
    let Parts { key, value, headers, readable } = copy(message);
    let record = Record {
        origin: Origin { topic: topic.clone(), partition: message.partition(), offset: message.offset() },
        claim: reading.claim,
        ordinal: reading.ordinal,
        key,
        value,
        headers,
        timestamp_ms: message.timestamp().to_millis().unwrap_or(0),
    };
    let raw = Raw { topic, key: record.key.as_ref(), value: record.value.as_ref(), headers: &record.headers };
    let (job, mut body) = parse(raw);
    if !readable {
        let detail = "the name of a header is not UTF-8";
        body = Body::Rejected(Rejection::new("envelope", "envelope.header", detail));
    }
    Some(Envelope::new(record, job, body))
}

/// A message's own bytes.
pub(crate) struct Parts {
    pub(crate) key: Option<Bytes>,
    pub(crate) value: Option<Bytes>,
    /// In order.
    pub(crate) headers: Vec<(String, Bytes)>,
    /// Whether all names of headers are UTF-8.
    pub(crate) readable: bool,
}

/// Copies a message out of the client's memory. Key, value and headers' values are slices of one buffer: one allocation instead of one each.
pub(crate) fn copy(message: &BorrowedMessage<'_>) -> Parts {
    let (key, value, headers) = (message.key(), message.payload(), headers(message));
    let bytes = || key.into_iter().chain(value).chain(headers.iter().map(|(_, value)| *value));
    let mut all = Vec::with_capacity(bytes().map(<[u8]>::len).sum());
    bytes().for_each(|part| all.extend_from_slice(part));
    let mut all = Bytes::from(all);
    let mut owned = |part: &[u8]| all.split_to(part.len());
    Parts {
        key: key.map(&mut owned),
        value: value.map(&mut owned),
        readable: headers.iter().all(|(name, _)| name.to_str().is_ok()),
        headers: headers
            .into_iter()
            .map(|(name, value)| (name.to_string_lossy().into_owned(), owned(value)))
            .collect(),
    }
}

/// Headers in order; a value that is null is empty. Not through `message.headers()`, which panics where a name is not UTF-8.
fn headers<'a>(message: &'a BorrowedMessage<'_>) -> Vec<(&'a CStr, &'a [u8])> {
    let mut list = std::ptr::null_mut();
    // SAFETY: the message is borrowed for as long as what is returned, and the list of headers belongs to it.
    if unsafe { rd_kafka_message_headers(message.ptr(), &mut list) } != RD_KAFKA_RESP_ERR_NO_ERROR {
        return Vec::new();
    }
    // SAFETY: as above.
    let mut headers = Vec::with_capacity(unsafe { rd_kafka_header_cnt(list) });
    let (mut name, mut value, mut bytes) = (std::ptr::null(), std::ptr::null(), 0);
    // SAFETY: as above; an index past the end answers an error and writes nothing.
    while unsafe { rd_kafka_header_get_all(list, headers.len(), &mut name, &mut value, &mut bytes) }
        == RD_KAFKA_RESP_ERR_NO_ERROR
    {
        // SAFETY: a name ends with NUL; it lives as long as the message.
        let name = unsafe { CStr::from_ptr(name) };
        let value = match value.is_null() {
            true => &[][..],
            // SAFETY: a value that is there has `bytes` bytes, and lives as long as the message.
            false => unsafe { std::slice::from_raw_parts(value.cast(), bytes) },
        };
        headers.push((name, value));
    }
    headers
}
