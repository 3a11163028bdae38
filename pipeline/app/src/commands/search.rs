//! `spawn search`

use super::embed::embedder;
use super::probe::read;
use crate::cli::{Search, is_id};
use crate::config::Settings;
use crate::embedder::{Refused, item_vector, modality_of};
use crate::exit::{Code, Failure, OrExit, Outcome};
use crate::output::Output;
use bytes::Bytes;
use spawn_core::Modality;
use spawn_postgres::{SearchFilter, Store};
use std::path::Path;

pub(super) async fn run(args: Search, settings: Settings, out: Output) -> Outcome {
    let store = super::store(&settings).await?;
    let (modality, vector) = match is_id(&args.query) {
        true => stored(&store, &args.query).await?,
        false => embedded(&args.query, &settings).await?,
    };
    let filter = SearchFilter { modality, exact: args.exact, limit: i64::from(args.limit) };
    let found = store.search(&vector, &filter).await.or_exit(Code::Data)?;
    if out.json {
        out.json("search", &found);
        return Ok(());
    }
    for hit in &found.hits {
        let label = hit.labels.first().map(|l| l.name.as_str()).unwrap_or_default();
        out.line(format_args!(
            "{:.3}  {}  {:<50}  {label}",
            hit.cosine,
            hit.id,
            hit.source_uri.as_deref().unwrap_or("-")
        ));
    }
    if (found.returned as i64) < found.requested {
        out.note(format_args!("{} of {}", found.returned, found.requested));
    }
    Ok(())
}

async fn stored(store: &Store, id: &str) -> Outcome<(Modality, Vec<f32>)> {
    let missing = || Failure::new(Code::Data, format!("no result has the id {id}"));
    let result = store.result(id).await.or_exit(Code::Unavailable)?.ok_or_else(missing)?;
    let vector = store.vector_of(id).await.or_exit(Code::Unavailable)?.ok_or_else(missing)?;
    Ok((result.modality, vector))
}

/// A file that is there is read; everything else is words.
async fn embedded(query: &str, settings: &Settings) -> Outcome<(Modality, Vec<f32>)> {
    let path = Path::new(query);
    let (modality, bytes) = if path.is_file() {
        let bytes = read(path, settings.fetch.payload_bytes_max).map_err(|r| Failure::new(Code::Data, r))?;
        (modality_of(path, &bytes)?, Bytes::from(bytes))
    } else if !query.contains(' ')
        && matches!(spawn_jobs::modality_of(path, &[]), Some(Modality::Image | Modality::Audio))
    {
        return Err(Failure::new(Code::Data, format!("{query}: no such file")));
    } else {
        (Modality::Text, Bytes::copy_from_slice(query.as_bytes()))
    };
    let (_runtime, embedder) = embedder(settings, &[modality])?;
    let inferred = embedder.embed(modality, bytes, None).await.map_err(|refused| match refused {
        Refused::Media(rejection) => Failure::new(Code::Data, rejection),
        Refused::System(detail) => Failure::new(Code::Unavailable, detail),
    })?;
    let vector =
        item_vector(&inferred).ok_or_else(|| Failure::new(Code::Data, "the model made no vector"))?;
    Ok((modality, vector.to_vec()))
}
