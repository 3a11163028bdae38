//! `spawn delete`

use crate::cli::Delete;
use crate::config::Settings;
use crate::exit::{Code, Failure, Outcome};
use crate::output::Output;
use serde_json::json;

pub(super) async fn run(args: Delete, settings: Settings, out: Output) -> Outcome {
    let store = super::store(&settings).await?;
    if !store.knows_topic(&args.topic).await.map_err(super::asked)? {
        return Err(Failure::new(
            Code::Data,
            format!("no pipeline has ever read topic {}; `spawn audit` lists those that were", args.topic),
        ));
    }
    let deleted = store
        .delete_key(&args.topic, args.partition, args.key.as_bytes(), args.dry_run)
        .await
        .map_err(super::asked)?;
    if out.json {
        let answer = json!({"topic": args.topic, "partition": args.partition, "dry_run": args.dry_run,
            "results": deleted.results, "vectors": deleted.vectors, "deferred": deleted.deferred, "rejected": deleted.rejected});
        out.json("delete", answer);
        return Ok(());
    }
    let verb = if args.dry_run { "would be deleted" } else { "deleted" };
    out.line(format_args!("{} results with {} vectors {verb}", deleted.results, deleted.vectors));
    out.line(format_args!(
        "{} deferred records and {} dead letters will not come back",
        deleted.deferred, deleted.rejected
    ));
    Ok(())
}
