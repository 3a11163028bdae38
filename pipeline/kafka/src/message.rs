//! A job on its way to Kafka, as a CloudEvent in binary mode.

use bytes::Bytes;
use serde_json::{Map, Value};
use spawn_core::{ItemId, Modality, Payload};

/// A record to be produced.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// Topic.
    pub topic: String,
    /// Key; records of one key stay in one partition.
    pub key: Option<Bytes>,
    /// Value; `None` is a tombstone.
    pub value: Option<Bytes>,
    /// Headers in order.
    pub headers: Vec<(String, Bytes)>,
}

/// What a job message says.
#[derive(Clone, Debug)]
pub struct JobMessage<'a> {
    /// Topic.
    pub topic: &'a str,
    /// What it is; names the event's type.
    pub modality: Modality,
    /// `ce_source`: who sends. With `id` it is the item's identity.
    pub source: &'a str,
    /// `ce_id`.
    pub id: &'a str,
    /// For people: where the media came from.
    pub subject: Option<&'a str>,
    /// Declared media type.
    pub media_type: &'a str,
    /// The media, or a URI that holds it.
    pub payload: Payload,
    /// Stored beside the result.
    pub metadata: &'a Map<String, Value>,
}

impl JobMessage<'_> {
    /// The id under which the result can be found.
    pub fn item(&self) -> ItemId {
        ItemId::of_event(self.source, self.id)
    }

    /// The record. Its key is the item's id, so that a later tombstone with that key deletes it.
    pub fn encode(self) -> Message {
        let text = |text: &str| Bytes::copy_from_slice(text.as_bytes());
        let mut headers = vec![
            ("ce_specversion".to_owned(), text("1.0")),
            ("ce_id".into(), text(self.id)),
            ("ce_source".into(), text(self.source)),
            ("ce_type".into(), text(&format!("io.spawn.job.{}.v1", self.modality))),
        ];
        headers.extend(self.subject.map(|subject| ("ce_subject".into(), text(subject))));
        if !self.metadata.is_empty() {
            let json = serde_json::to_vec(self.metadata).expect("a JSON object serialises. This is a bug.");
            headers.push(("spawn-metadata".into(), json.into()));
        }
        let key = Some(text(&self.item().public()));
        headers.push(("content-type".into(), text(self.media_type)));
        let value = match self.payload {
            Payload::Inline(bytes) => bytes,
            Payload::Reference(uri) => {
                headers.push(("ce_dataref".into(), uri.into()));
                Bytes::new()
            }
        };
        Message { topic: self.topic.to_owned(), key, value: Some(value), headers }
    }
}
