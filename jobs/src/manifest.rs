//! A CSV or Parquet manifest, read in a streaming way: rows arrive in small frames and none is kept.

use crate::media::{Item, Origin};
use polars::prelude::{
    AnyValue, Column, DataFrame, DataType, Engine, LazyCsvReader, LazyFileListReader, LazyFrame, PlRefPath,
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
            // Writers that quote everything, or know no nulls, leave cells empty.
            Some(i) => known[i] = Some(text(name, &value)?).filter(|text| !text.is_empty()),
            None => drop(metadata.insert(name.to_owned(), json(name, &value)?)),
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

/// Whole numbers that a 64-bit float holds exactly.
const EXACT_MAX: f64 = 9_007_199_254_740_992.0;

/// A cell that must be text. Numbers are taken where they are whole and exact, whatever their type: an `id` column with gaps is one of floats.
fn text(column: &str, value: &AnyValue<'_>) -> Result<String, ManifestError> {
    let whole = |number: f64| number.fract() == 0.0 && number.abs() < EXACT_MAX;
    match value {
        AnyValue::Binary(bytes) => utf8(column, bytes),
        AnyValue::BinaryOwned(bytes) => utf8(column, bytes),
        AnyValue::Boolean(b) => Ok(b.to_string()),
        other if other.is_integer() => {
            Ok(other.extract::<i128>().map_or_else(String::new, |n| n.to_string()))
        }
        other if other.is_float() => match other.extract::<f64>() {
            Some(number) if whole(number) => Ok(format!("{number:.0}")),
            _ => Err(format!("column {column}: {other} is no whole number; write it as text")),
        },
        other => match other.get_str() {
            Some(text) => Ok(text.to_owned()),
            None => Err(format!("column {column} has values of type {}; text is wanted", other.dtype())),
        },
    }
}

fn utf8(column: &str, bytes: &[u8]) -> Result<String, ManifestError> {
    String::from_utf8(bytes.to_vec()).map_err(|_| format!("column {column} has bytes that are no UTF-8 text"))
}

/// A cell of the metadata: lists and structs as such, dates and decimals as text.
fn json(column: &str, value: &AnyValue<'_>) -> Result<Value, ManifestError> {
    Ok(match value {
        AnyValue::Null => Value::Null,
        AnyValue::Boolean(b) => Value::from(*b),
        AnyValue::Binary(bytes) => Value::from(utf8(column, bytes)?),
        AnyValue::BinaryOwned(bytes) => Value::from(utf8(column, bytes)?),
        AnyValue::List(items) | AnyValue::Array(items, _) => {
            items.iter().map(|item| json(column, &item)).collect::<Result<Vec<_>, _>>()?.into()
        }
        AnyValue::Struct(..) | AnyValue::StructOwned(_) => {
            let DataType::Struct(fields) = value.dtype() else { return Ok(Value::Null) };
            let mut values = Vec::new();
            value._materialize_struct_av(&mut values);
            let named = fields.iter().zip(&values);
            named
                .map(|(field, value)| Ok((field.name().to_string(), json(column, value)?)))
                .collect::<Result<Map<_, _>, ManifestError>>()?
                .into()
        }
        other if other.is_integer() => {
            other.extract::<i64>().map_or_else(|| Value::from(other.to_string()), Value::from)
        }
        other if other.is_float() => other.extract::<f64>().map_or(Value::Null, Value::from),
        other => Value::from(other.get_str().map_or_else(|| other.to_string(), str::to_owned)),
    })
}
