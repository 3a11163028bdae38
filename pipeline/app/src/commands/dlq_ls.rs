//! `spawn dlq ls`

use crate::cli::{By, DlqLs};
use crate::config::Settings;
use crate::exit::Outcome;
use crate::hints::hint;
use crate::output::Output;
use serde_json::{Value, json};
use spawn_postgres::{GroupBy, LetterGroup, Store};

pub(super) async fn run(args: DlqLs, settings: Settings, out: Output) -> Outcome {
    let store = super::store(&settings).await?;
    match args.by {
        Some(by) => groups(by, args, &store, out).await,
        None => letters(args, &store, out).await,
    }
}

async fn groups(by: By, args: DlqLs, store: &Store, out: Output) -> Outcome {
    let group_by = match by {
        By::Code => GroupBy::Code,
        By::Pipeline => GroupBy::Pipeline,
        By::Topic => GroupBy::Topic,
    };
    let mut groups = store.letter_groups(group_by, args.code.as_deref()).await.map_err(super::asked)?;
    let more = groups.len().saturating_sub(args.limit.into());
    groups.truncate(args.limit.into());
    let hint_of = |group: &LetterGroup| (by == By::Code).then(|| hint(&group.name)).flatten();
    if out.json {
        let mut all = Vec::new();
        for group in &groups {
            let mut group_json = serde_json::to_value(group)?;
            group_json["hint"] = json!(hint_of(group));
            all.push(group_json);
        }
        let by = format!("{by:?}").to_lowercase();
        out.json("dlq.ls", json!({"by": by, "groups": Value::Array(all), "left_out": more}));
        return Ok(());
    }
    for group in &groups {
        let hint = hint_of(group).map_or_else(String::new, |hint| format!("  -> {hint}"));
        out.line(format_args!("{:>8}  {:<24}  newest {}{hint}", group.records, group.name, group.newest));
    }
    if groups.is_empty() {
        out.note("no dead letters");
    }
    if more > 0 {
        out.note(format_args!("{more} groups more: raise --limit"));
    }
    Ok(())
}

async fn letters(args: DlqLs, store: &Store, out: Output) -> Outcome {
    let page = store
        .rejections(args.code.as_deref(), args.cursor.as_deref(), i64::from(args.limit))
        .await
        .map_err(super::asked)?;
    if out.json {
        let mut letters = Vec::new();
        for row in &page.rejections {
            let mut letter = serde_json::to_value(row)?;
            letter["hint"] = json!(hint(&row.code));
            letters.push(letter);
        }
        out.json("dlq.ls", json!({"rejections": letters, "next": page.next}));
        return Ok(());
    }
    for row in &page.rejections {
        let marks = [(row.purged, "purged"), (row.superseded, "superseded"), (row.published, "published")];
        let marks: Vec<&str> = marks.iter().filter(|(set, _)| *set).map(|(_, word)| *word).collect();
        out.line(format_args!(
            "{}/{}@{}  {}  {:<20}  {} bytes  {}  {}",
            row.origin.topic,
            row.origin.partition,
            row.origin.offset,
            row.id,
            row.code,
            row.value_bytes,
            marks.join(","),
            row.detail
        ));
    }
    if page.rejections.is_empty() {
        out.note("no dead letters");
    }
    if let Some(cursor) = &page.next {
        out.note(format_args!("more: --cursor {cursor}"));
    }
    Ok(())
}
