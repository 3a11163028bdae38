//! `spawn results`

use crate::cli::Results;
use crate::config::Settings;
use crate::exit::{Code, Failure, Outcome};
use crate::output::Output;
use spawn_postgres::ResultFilter;

pub(super) async fn run(args: Results, settings: Settings, out: Output) -> Outcome {
    let store = super::store(&settings).await?;
    if let Some(id) = args.id {
        let Some(result) = store.result(&id).await.map_err(super::asked)? else {
            return Err(Failure::new(Code::Data, format!("no result has the id {id}")));
        };
        if out.json {
            out.json("results", &result);
        } else {
            out.line(serde_json::to_string_pretty(&result)?);
        }
        return Ok(());
    }
    let filter = ResultFilter { modality: args.modality, ..ResultFilter::default() };
    let page =
        store.results(&filter, args.cursor.as_deref(), i64::from(args.limit)).await.map_err(super::asked)?;
    if out.json {
        out.json("results", &page);
        return Ok(());
    }
    for result in &page.results {
        let label = result.labels.first().map(|l| format!("{} {:.2}", l.name, l.score)).unwrap_or_default();
        out.line(format_args!(
            "{}  {:<5}  {:<40}  {label}",
            result.id,
            result.modality,
            result.source_uri.as_deref().unwrap_or("-")
        ));
    }
    if let Some(cursor) = &page.next {
        out.note(format_args!("more: --cursor {cursor}"));
    }
    Ok(())
}
