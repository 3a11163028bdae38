//! `spawn dlq show`

use crate::cli::DlqShow;
use crate::config::Settings;
use crate::exit::{Code, Failure, OrExit, Outcome};
use crate::hints::hint;
use crate::output::Output;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::json;
use spawn_postgres::{Letter, LetterName, Store};
use std::io::Write;
use std::path::Path;

/// Characters of a value that are shown to a person.
const SHOWN_MAX: usize = 400;

pub(super) async fn run(args: DlqShow, settings: Settings, out: Output) -> Outcome {
    let name: LetterName = args.name.parse().map_err(super::asked)?;
    let store = super::store(&settings).await?;
    let letter = only(&store, &name, &args.name).await?;
    if let Some(path) = &args.output {
        write(path, &letter)?;
        if path == Path::new("-") {
            return Ok(());
        }
    }
    match out.json {
        true => print_json(&letter, out),
        false => print(&letter, out),
    }
    Ok(())
}

/// The one dead letter that is meant.
async fn only(store: &Store, name: &LetterName, written: &str) -> Outcome<Letter> {
    let numbers = store.letter_numbers(name).await.map_err(super::asked)?;
    let [number] = numbers[..] else {
        return Err(match numbers.len() {
            0 => Failure::new(
                Code::Data,
                format!("there is no dead letter {written}: `spawn dlq ls` lists them"),
            ),
            n => {
                let mut origins = Vec::new();
                for number in numbers.iter().take(5) {
                    if let Some(letter) = store.letter(*number).await.map_err(super::asked)? {
                        let o = letter.row.origin;
                        origins.push(format!(
                            "{}/{}@{} of pipeline {}",
                            o.topic, o.partition, o.offset, letter.row.pipeline
                        ));
                    }
                }
                Failure::new(
                    Code::Data,
                    format!(
                        "{n} dead letters are called {written}; name one by its origin: {}",
                        origins.join(", ")
                    ),
                )
            }
        });
    };
    let gone = || Failure::new(Code::Data, format!("dead letter {written} was replayed just now"));
    store.letter(number).await.map_err(super::asked)?.ok_or_else(gone)
}

fn write(path: &Path, letter: &Letter) -> Outcome {
    if letter.row.purged {
        return Err(Failure::new(Code::Data, "its original bytes were purged: their retention is over"));
    }
    let Some(value) = &letter.record.value else {
        return Err(Failure::new(Code::Data, "its value is null, so there is nothing to write"));
    };
    match path == Path::new("-") {
        true => std::io::stdout().write_all(value).or_exit(Code::Unavailable),
        false => std::fs::write(path, value)
            .map_err(|e| Failure::new(Code::Data, format!("cannot write {}: {e}", path.display()))),
    }
}

fn print_json(letter: &Letter, out: Output) {
    let encoded = |bytes: &Option<Vec<u8>>| bytes.as_ref().map(|b| BASE64.encode(b));
    let record = &letter.record;
    let headers: Vec<_> = record
        .headers
        .iter()
        .map(|(name, value)| json!({"name": name, "value_base64": BASE64.encode(value)}))
        .collect();
    out.json(
        "dlq.show",
        json!({"rejection": letter.row, "hint": hint(&letter.row.code), "timestamp_ms": record.timestamp_ms, "headers": headers,
               "key_base64": encoded(&record.key), "value_base64": encoded(&record.value)}),
    );
}

fn print(letter: &Letter, out: Output) {
    let (row, record) = (&letter.row, &letter.record);
    out.line(format_args!("{}/{}@{}", row.origin.topic, row.origin.partition, row.origin.offset));
    let tried = if row.deliveries == 1 { "once".into() } else { format!("{} times", row.deliveries) };
    let hint = hint(&row.code).unwrap_or("-");
    for (name, value) in [
        ("id", row.id.as_str()),
        ("pipeline", &row.pipeline),
        ("code", &row.code),
        ("stage", &row.stage),
        ("detail", &row.detail),
        ("to do", hint),
        ("first failed", &row.first_failed_at),
        ("tried", &tried),
    ] {
        out.line(format_args!("  {name:<13} {value}"));
    }
    if row.superseded {
        out.line("  superseded    its key was deleted later: replayed in place it is skipped");
    }
    if row.purged {
        out.line("  purged        its original bytes are gone");
        return;
    }
    for (name, value) in &record.headers {
        out.line(format_args!("  header        {name}: {}", shown(value)));
    }
    for (name, bytes) in [("key", &record.key), ("value", &record.value)] {
        match bytes {
            None => out.line(format_args!("  {name:<13} null")),
            Some(bytes) => out.line(format_args!("  {name:<13} {} bytes: {}", bytes.len(), shown(bytes))),
        }
    }
}

/// Text as it is, everything else in hexadecimal; cut.
fn shown(bytes: &[u8]) -> String {
    let printable = |text: &&str| !text.chars().any(|c| c.is_control() && !c.is_whitespace());
    match std::str::from_utf8(bytes).ok().filter(printable) {
        Some(text) => cut(text.chars().map(|c| if c.is_whitespace() { ' ' } else { c })),
        None => {
            cut(bytes.iter().take(SHOWN_MAX).flat_map(|b| format!("{b:02x}").into_bytes()).map(char::from))
        }
    }
}

fn cut(chars: impl Iterator<Item = char>) -> String {
    let mut text: String = chars.take(SHOWN_MAX + 1).collect();
    if text.chars().count() > SHOWN_MAX {
        text.pop();
        text.push_str("...");
    }
    text
}
