//! What a record asks for.
//!
//! Accepted, in this order: a null value (tombstone); CloudEvents 1.0 in binary mode (`ce_*` headers) and structured mode; a plain JSON job;
//! and anything else as the media itself, because most people start with `kcat -P photo.jpg`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use serde_json::{Map, Value};
use spawn_core::{Body, ItemId, Job, Payload, Rejection};

/// Longest id and source: they are hashed, and stored in an index.
const ID_BYTES_MAX: usize = 1024;
/// Longest URI or subject.
const URI_BYTES_MAX: usize = 8 * 1024;
/// Longest media type.
const MEDIA_TYPE_BYTES_MAX: usize = 255;
/// Largest metadata as JSON: it is stored beside every result.
const METADATA_BYTES_MAX: usize = 64 * 1024;
/// CloudEvents attributes that are understood or say nothing of the item; any other is kept as metadata.
const ATTRIBUTES: [&str; 9] =
    ["id", "source", "specversion", "type", "time", "subject", "datacontenttype", "dataschema", "dataref"];

/// A polled record's parts, before anything is known of it.
#[derive(Clone, Copy, Debug)]
pub struct Raw<'a> {
    /// Topic it lies in.
    pub topic: &'a str,
    /// Kafka key.
    pub key: Option<&'a Bytes>,
    /// Kafka value; `None` is a tombstone.
    pub value: Option<&'a Bytes>,
    /// Kafka headers.
    pub headers: &'a [(String, Bytes)],
}

/// Parses a record. Never fails: what cannot be understood is a job with a rejection.
pub fn parse(raw: Raw<'_>) -> (Job, Body<Payload>) {
    let of_record = |content: &[u8]| ItemId::of_record(raw.topic, raw.key.map_or(&[], |k| k), content);
    let mut job = Job {
        id: ItemId([0; 32]),
        event_id: None,
        source: raw.topic.to_owned(),
        source_uri: None,
        media_type: None,
        metadata: Map::new(),
    };
    let Some(value) = raw.value else {
        job.id = of_record(&[]);
        return (job, Body::Delete);
    };
    let payload = match raw.form() {
        Form::Binary => binary(raw, value, &mut job),
        Form::Structured => object(value).and_then(|event| structured(event, &mut job)),
        Form::Plain => object(value).and_then(|plain| plain_job(plain, &mut job)),
        Form::Media => Ok(media(raw, value, &mut job)),
    };
    // The W3C trace context goes through to the row; in structured mode it is one of the event's own keys.
    if let Some(context) = raw.text("traceparent") {
        job.metadata.entry("traceparent").or_insert_with(|| context.into());
    }
    let payload = payload.and_then(|payload| check(&job).map(|()| payload));
    job.id = match (&job.event_id, &payload) {
        (Some(id), _) => ItemId::of_event(&job.source, id),
        // Without a value the reference is all there is.
        (None, Ok(Payload::Reference(uri))) if value.is_empty() => of_record(uri.as_bytes()),
        _ => of_record(value),
    };
    (job, payload.map_or_else(Body::Rejected, Body::Work))
}

enum Form {
    Binary,
    Structured,
    Plain,
    Media,
}

impl<'a> Raw<'a> {
    fn header(&self, name: &str) -> Option<&'a Bytes> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    fn text(&self, name: &str) -> Option<&'a str> {
        self.header(name).and_then(|value| std::str::from_utf8(value).ok())
    }

    /// A header that must be text where it is there at all.
    fn attribute(&self, name: &str) -> Result<Option<&'a str>, Rejection> {
        let Some(value) = self.header(name) else { return Ok(None) };
        std::str::from_utf8(value).map(Some).map_err(|_| field(&format!("header {name}"), "UTF-8 text"))
    }

    /// Without parameters.
    fn media_type(&self) -> Option<&'a str> {
        self.text("content-type").map(|t| t.split(';').next().unwrap_or(t).trim())
    }

    /// Lower case and without parameters.
    fn content_type(&self) -> Option<String> {
        self.media_type().map(str::to_ascii_lowercase)
    }

    fn form(&self) -> Form {
        let binary = ["ce_specversion", "ce_id", "ce_dataref"].iter().any(|name| self.header(name).is_some());
        match self.media_type() {
            Some(t) if t.eq_ignore_ascii_case("application/cloudevents+json") => Form::Structured,
            _ if binary => Form::Binary,
            Some(t) if t.eq_ignore_ascii_case("application/json") => Form::Plain,
            // Text that begins with a brace is rarely meant as text; a text pipeline's producers say `text/plain`.
            None if self.value.is_some_and(|v| looks_like_job(v)) => Form::Plain,
            _ => Form::Media,
        }
    }

    /// Extension attributes, without their prefix.
    fn extensions(&self) -> impl Iterator<Item = (String, Value)> + 'a {
        self.headers.iter().filter_map(|(key, value)| {
            let (prefix, name) = key.split_at_checked(3)?;
            let known =
                !prefix.eq_ignore_ascii_case("ce_") || ATTRIBUTES.contains(&&*name.to_ascii_lowercase());
            let text = std::str::from_utf8(value).ok().filter(|_| !known && !name.is_empty())?;
            Some((name.to_ascii_lowercase(), text.into()))
        })
    }
}

/// A JSON object, or the torso of one: whoever sent that wants to hear what is wrong with it, not that it is no picture.
fn looks_like_job(value: &[u8]) -> bool {
    let start = value.trim_ascii_start();
    if start.first() != Some(&b'{') {
        return false;
    }
    serde_json::from_slice::<serde::de::IgnoredAny>(start).is_ok()
        || [&b"\"source\""[..], b"\"uri\"", b"\"text\"", b"\"inline_base64\""]
            .iter()
            .any(|key| start[..start.len().min(4096)].windows(key.len()).any(|w| w == *key))
}

fn binary(raw: Raw<'_>, value: &Bytes, job: &mut Job) -> Result<Payload, Rejection> {
    check_version(raw.attribute("ce_specversion")?, "header ce_specversion")?;
    job.event_id = raw.attribute("ce_id")?.map(str::to_owned);
    if let Some(source) = raw.attribute("ce_source")? {
        job.source = source.to_owned();
    }
    job.source_uri = raw.attribute("ce_subject")?.map(without_credentials);
    job.metadata = raw.extensions().collect();
    if let Some(metadata) = raw.header("spawn-metadata") {
        job.metadata.extend(object_at(metadata, "header spawn-metadata")?);
    }
    let content_type = raw.content_type();
    if let Some(uri) = raw.attribute("ce_dataref")? {
        return Ok(reference(uri, raw.attribute("ce_datacontenttype")?.or(content_type.as_deref()), job));
    }
    if content_type.as_deref() == Some("application/json") {
        return plain_job(object(value)?, job);
    }
    job.media_type = content_type;
    Ok(Payload::Inline(value.clone()))
}

fn media(raw: Raw<'_>, value: &Bytes, job: &mut Job) -> Payload {
    job.media_type = raw.content_type();
    Payload::Inline(value.clone())
}

fn structured(mut event: Map<String, Value>, job: &mut Job) -> Result<Payload, Rejection> {
    check_version(take_text(&mut event, "specversion", "")?.as_deref(), "/specversion")?;
    job.event_id = take_text(&mut event, "id", "")?;
    if let Some(source) = take_text(&mut event, "source", "")? {
        job.source = source;
    }
    job.source_uri = take_text(&mut event, "subject", "")?.map(|s| without_credentials(&s));
    job.media_type = take_text(&mut event, "datacontenttype", "")?;
    if let Some(uri) = take_text(&mut event, "dataref", "")? {
        let media_type = job.media_type.take();
        event.retain(|name, _| !ATTRIBUTES.contains(&name.as_str()) && !name.starts_with("data"));
        job.metadata.extend(event);
        return Ok(reference(&uri, media_type.as_deref(), job));
    }
    let (encoded, data) = (take_text(&mut event, "data_base64", "")?, event.remove("data"));
    event.retain(|name, _| !ATTRIBUTES.contains(&name.as_str()));
    job.metadata.extend(event);
    if let Some(encoded) = encoded {
        let bytes = decode_base64(&encoded, "/data_base64")?;
        return match job.media_type.as_deref() {
            Some("application/json") => plain_job(object_at(&bytes, "/data_base64")?, job),
            _ => Ok(Payload::Inline(bytes)),
        };
    }
    match data {
        Some(Value::String(text)) => Ok(Payload::Inline(text.into())),
        Some(Value::Object(plain)) => plain_job(plain, job),
        Some(_) => Err(field("/data", "a string or an object")),
        None => Err(field("/data", "one of data, data_base64 and dataref")),
    }
}

/// `{"id", "source": {"uri" | "text" | "inline_base64", "media_type"}, "params": {}, "metadata": {}}`, or the source's keys at the top.
fn plain_job(mut plain: Map<String, Value>, job: &mut Job) -> Result<Payload, Rejection> {
    job.event_id = take_text(&mut plain, "id", "")?.or(job.event_id.take());
    let (mut source, at) = match plain.remove("source") {
        Some(Value::Object(source)) => (source, "/source"),
        Some(_) => return Err(field("/source", "an object")),
        None => {
            let keys = ["uri", "text", "inline_base64", "media_type"];
            let found = keys.iter().filter_map(|key| Some(((*key).to_owned(), plain.remove(*key)?)));
            (found.collect(), "")
        }
    };
    match plain.remove("metadata") {
        Some(Value::Object(metadata)) => job.metadata.extend(metadata),
        Some(_) => return Err(field("/metadata", "an object")),
        None => {}
    }
    if plain.get("params").is_some_and(|params| !params.is_object()) {
        return Err(field("/params", "an object"));
    }
    // What we do not know may matter to whoever sent it.
    job.metadata.extend(plain);
    let media_type = take_text(&mut source, "media_type", at)?;
    let uri = take_text(&mut source, "uri", at)?;
    let text = take_text(&mut source, "text", at)?;
    let encoded = take_text(&mut source, "inline_base64", at)?;
    match (uri, text, encoded) {
        (Some(uri), None, None) => Ok(reference(&uri, media_type.as_deref(), job)),
        (None, Some(text), None) => {
            job.media_type = media_type.or_else(|| Some("text/plain".into()));
            Ok(Payload::Inline(text.into()))
        }
        (None, None, Some(encoded)) => {
            job.media_type = media_type;
            decode_base64(&encoded, &format!("{at}/inline_base64")).map(Payload::Inline)
        }
        _ => Err(field(
            if at.is_empty() { "/" } else { at },
            "exactly one of uri, text and inline_base64 (or a content-type header, if this is the media itself)",
        )),
    }
}

fn reference(uri: &str, media_type: Option<&str>, job: &mut Job) -> Payload {
    job.source_uri = Some(without_credentials(uri));
    job.media_type = media_type.map(str::to_owned);
    Payload::Reference(uri.to_owned())
}

fn decode_base64(encoded: &str, at: &str) -> Result<Bytes, Rejection> {
    BASE64.decode(encoded).map(Bytes::from).map_err(|e| field(at, &format!("standard base64 ({e})")))
}

fn object(value: &[u8]) -> Result<Map<String, Value>, Rejection> {
    object_at(value, "the value")
}

fn object_at(value: &[u8], what: &str) -> Result<Map<String, Value>, Rejection> {
    let malformed = |detail: String| Rejection::new("envelope", "envelope.malformed", detail);
    match serde_json::from_slice(value) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(malformed(format!("{what} is JSON, but not an object"))),
        Err(error) => Err(malformed(format!("{what} is not valid JSON: {error}"))),
    }
}

fn take_text(object: &mut Map<String, Value>, key: &str, at: &str) -> Result<Option<String>, Rejection> {
    match object.remove(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(field(&format!("{at}/{key}"), "a string")),
    }
}

fn field(pointer: &str, wanted: &str) -> Rejection {
    Rejection::new("envelope", "envelope.field", format!("{pointer}: {wanted} is wanted"))
}

/// CloudEvents promise that all of 1.x can be read as 1.0.
fn check_version(version: Option<&str>, at: &str) -> Result<(), Rejection> {
    match version {
        Some(version) if version != "1" && !version.starts_with("1.") => Err(field(at, "CloudEvents 1.0")),
        _ => Ok(()),
    }
}

fn check(job: &Job) -> Result<(), Rejection> {
    if job.event_id.as_ref().is_some_and(String::is_empty) {
        return Err(field("/id", "text that is not empty, or no id at all,"));
    }
    let metadata: usize = job.metadata.iter().map(|(k, v)| k.len() + v.to_string().len()).sum();
    let length = |text: &Option<String>| text.as_ref().map_or(0, String::len);
    let limits = [
        ("/id", length(&job.event_id), ID_BYTES_MAX),
        ("/source", job.source.len(), ID_BYTES_MAX),
        ("/source/uri", length(&job.source_uri), URI_BYTES_MAX),
        ("/source/media_type", length(&job.media_type), MEDIA_TYPE_BYTES_MAX),
        ("/metadata", metadata, METADATA_BYTES_MAX),
    ];
    match limits.into_iter().find(|(_, bytes, bytes_max)| bytes > bytes_max) {
        Some((pointer, bytes, bytes_max)) => {
            Err(field(pointer, &format!("at most {bytes_max} bytes, not {bytes},")))
        }
        None => Ok(()),
    }
}

/// A URI without what stands before the @ of its authority, and without its query: both carry credentials.
fn without_credentials(uri: &str) -> String {
    let uri = uri.split_once('?').map_or(uri, |(head, _)| head);
    let Some((scheme, rest)) = uri.split_once("://") else { return uri.to_owned() };
    let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    format!("{scheme}://{host}{path}")
}
