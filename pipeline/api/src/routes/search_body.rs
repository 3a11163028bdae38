//! What a search asks for.
//!
//! The body is a JSON object (`{"text"}`, `{"id"}` or `{"vector", "modality"}`, with the options), a multipart form with a file in any
//! field and the options as fields, or the media itself under its own content type with the options in the query string.

use crate::problem::Problem;
use crate::state::Query as Asked;
use axum::Json;
use axum::body::Bytes;
use axum::extract::multipart::{Field, MultipartError};
use axum::extract::{DefaultBodyLimit, FromRequest, FromRequestParts, Multipart, Query, Request};
use axum::http::{StatusCode, header};
use serde::Deserialize;
use spawn_core::Modality;

/// Longest text of a query, in bytes.
const TEXT_BYTES_MAX: usize = 64 * 1024;
/// A vector of 16,000 elements (the most that the store takes) with 20 digits each, and a text, fit.
const JSON_BYTES_MAX: usize = 512 * 1024;

/// What is asked for and how.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Options {
    text: Option<String>,
    id: Option<String>,
    vector: Option<Vec<f32>>,
    pub(super) modality: Option<Modality>,
    /// Only items that have this label.
    pub(super) label: Option<String>,
    /// In this generation instead of the active one.
    pub(super) generation: Option<i32>,
    /// 1 to 200; 10 without it.
    pub(super) limit: Option<i64>,
    /// Compare with every vector instead of asking the index.
    pub(super) exact: Option<bool>,
}

/// What the neighbours are to be like.
#[derive(Debug)]
pub(super) enum Like {
    /// Something that needs a vector first.
    Query(Asked),
    /// An item that has one.
    Item(String),
    /// A vector.
    Vector(Modality, Vec<f32>),
}

/// A search.
#[derive(Debug)]
pub(super) struct Ask {
    pub(super) options: Options,
    pub(super) like: Like,
}

struct Upload {
    bytes: Bytes,
    media_type: Option<String>,
}

/// Reads query string and body, of which at most `body_bytes_max` are taken, of JSON less.
pub(super) async fn read(request: Request, body_bytes_max: usize) -> Result<Ask, Problem> {
    let (mut parts, body) = request.into_parts();
    let options = Query::<Options>::from_request_parts(&mut parts, &()).await;
    let Query(options) = options.map_err(|e| Problem::query(e.body_text()))?;
    let kind = parts.headers.get(header::CONTENT_TYPE).and_then(|t| t.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let request = Request::from_parts(parts, body);
    let (options, upload) = match kind.as_str() {
        "application/json" => (object(options, request, body_bytes_max.min(JSON_BYTES_MAX)).await?, None),
        "multipart/form-data" => form(options, request).await?,
        _ if kind.starts_with("image/") || kind.starts_with("audio/") => {
            let bytes = Bytes::from_request(request, &())
                .await
                .map_err(|e| Problem::body(e.status(), e.body_text()))?;
            (options, Some(Upload { bytes, media_type: Some(kind) }))
        }
        _ => {
            let detail = "send application/json, multipart/form-data, or a picture or sound under its own content type";
            return Err(Problem::body(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail));
        }
    };
    ask(options, upload)
}

async fn object(query: Options, mut request: Request, bytes_max: usize) -> Result<Options, Problem> {
    DefaultBodyLimit::max(bytes_max).apply(&mut request);
    let body = Json::<Options>::from_request(request, &()).await;
    let Json(body) = body.map_err(|e| Problem::body(e.status(), e.body_text()))?;
    Ok(Options {
        text: body.text.or(query.text),
        id: body.id.or(query.id),
        vector: body.vector.or(query.vector),
        modality: body.modality.or(query.modality),
        label: body.label.or(query.label),
        generation: body.generation.or(query.generation),
        limit: body.limit.or(query.limit),
        exact: body.exact.or(query.exact),
    })
}

async fn form(mut options: Options, request: Request) -> Result<(Options, Option<Upload>), Problem> {
    let unreadable = |e: MultipartError| Problem::body(e.status(), e.body_text());
    let form = Multipart::from_request(request, &()).await;
    let mut form = form.map_err(|e| Problem::body(e.status(), e.body_text()))?;
    let mut upload = None;
    while let Some(field) = form.next_field().await.map_err(unreadable)? {
        if field.file_name().is_none() {
            set(&mut options, field).await?;
            continue;
        }
        if upload.is_some() {
            return Err(Problem::query("one file at a time is searched for"));
        }
        let media_type = field.content_type().map(str::to_owned);
        upload = Some(Upload { bytes: field.bytes().await.map_err(unreadable)?, media_type });
    }
    Ok((options, upload))
}

/// An option from a form's field.
async fn set(options: &mut Options, field: Field<'_>) -> Result<(), Problem> {
    let name = field.name().unwrap_or_default().to_owned();
    let value = field.text().await.map_err(|e| Problem::body(e.status(), e.body_text()))?;
    let wrong = || {
        Problem::query(format!(
            "field `{name}`: `{}` is not accepted",
            &value.chars().take(64).collect::<String>()
        ))
    };
    match name.as_str() {
        "text" => options.text = Some(value),
        "id" => options.id = Some(value),
        "label" => options.label = Some(value),
        "modality" => options.modality = Some(value.parse().map_err(|_| wrong())?),
        "generation" => options.generation = Some(value.parse().map_err(|_| wrong())?),
        "limit" => options.limit = Some(value.parse().map_err(|_| wrong())?),
        "exact" => options.exact = Some(value.parse().map_err(|_| wrong())?),
        _ => {
            let known = "a file, text, id, label, modality, generation, limit and exact";
            return Err(Problem::query(format!("field `{name}` is unknown; there are {known}")));
        }
    }
    Ok(())
}

fn ask(mut options: Options, upload: Option<Upload>) -> Result<Ask, Problem> {
    let like = match (upload, options.text.take(), options.id.take(), options.vector.take()) {
        (Some(Upload { bytes, media_type }), None, None, None) => {
            if bytes.is_empty() {
                return Err(Problem::query("the uploaded file is empty"));
            }
            Like::Query(Asked::Media { modality: options.modality, bytes, media_type })
        }
        (None, Some(text), None, None) if text.len() > TEXT_BYTES_MAX => {
            return Err(Problem::query(format!(
                "the text has {} bytes; {TEXT_BYTES_MAX} are accepted",
                text.len()
            )));
        }
        (None, Some(text), None, None) => Like::Query(Asked::Text(text)),
        (None, None, Some(id), None) => Like::Item(id),
        (None, None, None, Some(vector)) => {
            let modality = options.modality;
            Like::Vector(
                modality.ok_or_else(|| Problem::query("a vector needs the modality that it belongs to"))?,
                vector,
            )
        }
        _ => return Err(Problem::query("exactly one of text, id, vector and an uploaded file is wanted")),
    };
    Ok(Ask { options, like })
}
