//! A CSV or Parquet manifest, read in a streaming way: rows arrive in small frames and none is kept.

use crate::media::{Item, Origin};
use polars::prelude::{
    AnyValue, Column, DataFrame, Engine, LazyCsvReader, LazyFileListReader, LazyFrame, PlRefPath,
    PlanCallback, PolarsResult, ScanArgsParquet,
};
use serde_json::{Map, Value};
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::mpsc::sync_channel;

/// Rows of one frame.
const ROWS_PER_FRAME: NonZeroUsize = NonZeroUsize::new(4096).expect("not zero");

/// Columns with a meaning; every other one goes into the metadata.
const COLUMNS: [&str; 6] = ["path", "uri", "text", "id", "modality", "media_type"];

/// Why a manifest, or one row of it, cannot be read.
pub type ManifestError = String;

/// Calls `each` with every row; it returns `false` to stop. Relative paths are relative to the manifest.
pub fn read(
    path: &Path,
    mut each: impl FnMut(Result<Item, ManifestError>) -> bool,
) -> Result<(), ManifestError> {
    let wrong = |e: polars::prelude::PolarsError| format!("{}: {e}", path.display());
    let folder = path.parent().unwrap_or(Path::new("."));
    let (frames_tx, frames_rx) = sync_channel(1);
    let deliver = PlanCallback::new(move |frame: DataFrame| {
        // `true` ends the query: nobody takes frames any more.
        Ok(frames_tx.send(frame).is_err())
    });
    let query = open(path)
        .and_then(|frame| frame.sink_batches(deliver, true, Some(ROWS_PER_FRAME)))
        .map_err(wrong)?;
    let reading = std::thread::spawn(move || query.collect_with_engine(Engine::Streaming).map(drop));
    let mut checked = false;
    for frame in frames_rx {
        if !checked && !frame.get_column_names().iter().any(|name| COLUMNS[..3].contains(&name.as_str())) {
            return Err(format!("{}: a column path, uri or text is wanted", path.display()));
        }
        checked = true;
        if !rows(&frame, folder, &mut each) {
            return Ok(());
        }
    }
    reading.join().map_err(|_| format!("{}: the reader panicked", path.display()))?.map_err(wrong)
}

fn open(path: &Path) -> PolarsResult<LazyFrame> {
    let source = PlRefPath::new(path.to_string_lossy().as_ref());
    match path.extension().and_then(|e| e.to_str()) {
        Some("parquet") => LazyFrame::scan_parquet(source, ScanArgsParquet::default()),
        // Without guessing: `007` stays what it is.
        _ => LazyCsvReader::new(source).with_infer_schema_length(Some(0)).finish(),
    }
}

fn rows(
    frame: &DataFrame,
    folder: &Path,
    each: &mut impl FnMut(Result<Item, ManifestError>) -> bool,
) -> bool {
    let columns: Vec<&Column> = frame.columns().iter().collect();
    (0..frame.height()).all(|row| {
        let values =
            columns.iter().map(|column| (column.name().as_str(), column.get(row).unwrap_or(AnyValue::Null)));
        each(item(values, folder))
    })
}

fn item<'a>(
    values: impl Iterator<Item = (&'a str, AnyValue<'a>)>,
    folder: &Path,
) -> Result<Item, ManifestError> {
    let mut known: [Option<String>; COLUMNS.len()] = Default::default();
    let mut metadata = Map::new();
    for (name, value) in values.filter(|(_, value)| !value.is_null()) {
        match COLUMNS.iter().position(|column| *column == name) {
            Some(i) => known[i] = Some(text(&value)),
            None => drop(metadata.insert(name.to_owned(), json(&value))),
        }
    }
    let [path, uri, words, id, modality, media_type] = known;
    let origin = match (path, uri, words) {
        (Some(path), None, None) => Origin::File(folder.join(path)),
        (None, Some(uri), None) => Origin::Uri(uri),
        (None, None, Some(words)) => Origin::Text(words),
        _ => return Err("exactly one of path, uri and text is wanted".into()),
    };
    let modality = modality.map(|m| m.parse()).transpose()?;
    Ok(Item { origin, modality, media_type, id, metadata })
}

fn text(value: &AnyValue<'_>) -> String {
    value.get_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn json(value: &AnyValue<'_>) -> Value {
    match value {
        AnyValue::Boolean(b) => Value::from(*b),
        other if other.is_integer() => {
            other.extract::<i64>().map_or_else(|| Value::from(other.to_string()), Value::from)
        }
        other if other.is_float() => other.extract::<f64>().map_or(Value::Null, Value::from),
        other => Value::from(text(other)),
    }
}
