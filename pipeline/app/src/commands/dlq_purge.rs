//! `spawn dlq purge`

use crate::cli::DlqPurge;
use crate::config::Settings;
use crate::exit::Outcome;
use crate::output::Output;
use serde_json::json;
use spawn_postgres::Purge;

pub(super) async fn run(args: DlqPurge, settings: Settings, out: Output) -> Outcome {
    let store = super::store(&settings).await?;
    // What the relay has still to publish must not lose its bytes before.
    let careful =
        Purge { older_than: args.older_than, code: args.code, keep_unpublished: settings.dlq.relay };
    let all = Purge { keep_unpublished: false, ..careful.clone() };
    let found = store.purgeable(&careful).await.map_err(super::asked)?;
    let kept = store.purgeable(&all).await.map_err(super::asked)? - found;
    let purged = match args.dry_run {
        true => 0,
        false => store.purge(&careful).await.map_err(super::asked)?,
    };
    if out.json {
        let answer =
            json!({"found": found, "purged": purged, "kept_for_relay": kept, "dry_run": args.dry_run});
        out.json("dlq.purge", answer);
        return Ok(());
    }
    match args.dry_run {
        true => out.line(format_args!("{found} dead letters would lose their original bytes")),
        false => out.line(format_args!("{purged} dead letters have lost their original bytes")),
    }
    if kept > 0 {
        out.note(format_args!("{kept} more are kept until they are published (dlq.relay)"));
    }
    Ok(())
}
