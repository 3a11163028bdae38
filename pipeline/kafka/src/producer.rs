//! The producer: idempotent, bounded, and only a delivery report counts as success. (A 4 MB message was once lost although the client's
//! `flush` said that all was well.)

use crate::config::ProducerConfig;
use crate::errors::fault;
use crate::message::Message;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use spawn_core::Fault;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// Puts messages on topics.
#[derive(Clone)]
pub struct Producer {
    producer: FutureProducer,
    config: Arc<ProducerConfig>,
    /// One permit per KiB in flight.
    inflight: Arc<Semaphore>,
}

/// Why a message is not in its topic.
#[derive(Debug)]
pub enum SendError {
    /// It is larger than allowed; send a reference instead.
    TooLarge {
        /// Size of key, value and headers in bytes.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
    /// The broker did not take it.
    Refused(Fault),
}

impl std::fmt::Display for SendError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::TooLarge { bytes, bytes_max } => {
                write!(
                    f,
                    "the message has {bytes} bytes, the limit is {bytes_max}: send a reference (file:// or https://) instead"
                )
            }
            Self::Refused(fault) => fault.fmt(f),
        }
    }
}

impl std::error::Error for SendError {}

impl std::fmt::Debug for Producer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Producer")
    }
}

impl Producer {
    /// Connects in the background.
    pub fn new(config: ProducerConfig) -> Result<Self, Fault> {
        let producer = config
            .client()
            .create()
            .map_err(|e| fault("cannot create the producer; check kafka.properties", &e))?;
        let inflight = Arc::new(Semaphore::new((config.inflight_bytes_max / 1024).max(1)));
        Ok(Self { producer, config: Arc::new(config), inflight })
    }

    /// Sends one message; waits for room first, then for its delivery report. Returns partition and offset.
    pub async fn send(&self, message: Message) -> Result<(i32, i64), SendError> {
        let headers_bytes: usize = message.headers.iter().map(|(k, v)| k.len() + v.len()).sum();
        let bytes = headers_bytes
            + message.key.as_ref().map_or(0, |k| k.len())
            + message.value.as_ref().map_or(0, |v| v.len());
        let bytes_max = self.config.message_bytes_max;
        if bytes + 512 > bytes_max {
            return Err(SendError::TooLarge { bytes, bytes_max });
        }
        let blocks = (bytes / 1024 + 1).min(self.config.inflight_bytes_max / 1024).max(1);
        let _room = self.inflight.acquire_many(blocks as u32).await.expect("never closed. This is a bug.");
        let headers = message.headers.iter().fold(OwnedHeaders::new(), |headers, (key, value)| {
            headers.insert(Header { key, value: Some(&value[..]) })
        });
        let mut record = FutureRecord::to(&message.topic).headers(headers);
        if let Some(key) = &message.key {
            record = record.key(&key[..]);
        }
        if let Some(value) = &message.value {
            record = record.payload(&value[..]);
        }
        // The client's own queue may be full for a moment; it makes room as reports come in.
        let queue_wait = Duration::from_millis(u64::from(self.config.delivery_timeout_ms));
        match self.producer.send(record, queue_wait).await {
            Ok(delivery) => Ok((delivery.partition, delivery.offset)),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::MessageSizeTooLarge), _)) => {
                Err(SendError::TooLarge { bytes, bytes_max })
            }
            Err((error, _)) => {
                Err(SendError::Refused(fault(&format!("sending to {}", message.topic), &error)))
            }
        }
    }
}
