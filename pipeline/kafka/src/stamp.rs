//! A message of the client becomes a record of the line: owned bytes, its claim, its ordinal, and what it asks for.

use crate::job::{Raw, parse};
use crate::rebalance::Reading;
use bytes::Bytes;
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka_sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR;
use rdkafka_sys::{rd_kafka_header_get_all, rd_kafka_message_headers};
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
    let (headers, headers_readable) = headers(message);
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
    let (job, mut body) = parse(raw);
    if !headers_readable {
        let detail = "the name of a header is not UTF-8";
        body = Body::Rejected(Rejection::new("envelope", "envelope.header", detail));
    }
    Some(Envelope::new(record, job, body))
}

/// Headers in order, and whether all names are UTF-8. Not through `message.headers()`, which panics where one is not.
pub(crate) fn headers(message: &BorrowedMessage<'_>) -> (Vec<(String, Bytes)>, bool) {
    let (mut headers, mut readable) = (Vec::new(), true);
    let mut list = std::ptr::null_mut();
    // SAFETY: the message is borrowed for the whole function, and the list of headers belongs to it.
    if unsafe { rd_kafka_message_headers(message.ptr(), &mut list) } != RD_KAFKA_RESP_ERR_NO_ERROR {
        return (headers, readable);
    }
    let (mut name, mut value, mut bytes) = (std::ptr::null(), std::ptr::null(), 0);
    // SAFETY: as above; an index past the end answers an error and writes nothing.
    while unsafe { rd_kafka_header_get_all(list, headers.len(), &mut name, &mut value, &mut bytes) }
        == RD_KAFKA_RESP_ERR_NO_ERROR
    {
        // SAFETY: a name ends with NUL; both live as long as the message.
        let name = unsafe { CStr::from_ptr(name) };
        readable &= name.to_str().is_ok();
        let value = match value.is_null() {
            true => Bytes::new(),
            // SAFETY: a value that is there has `bytes` bytes.
            false => Bytes::copy_from_slice(unsafe { std::slice::from_raw_parts(value.cast(), bytes) }),
        };
        headers.push((name.to_string_lossy().into_owned(), value));
    }
    (headers, readable)
}
