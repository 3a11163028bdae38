//! `spawn migrate`

use crate::cli::Migrate;
use crate::config::Settings;
use crate::exit::{Code, OrExit, Outcome};
use crate::output::Output;

pub(super) async fn run(args: Migrate, settings: Settings, out: Output) -> Outcome {
    let url = &settings.postgres.url;
    let (verb, versions) = if args.dry_run {
        ("would apply", spawn_postgres::pending(url).await.or_exit(Code::Unavailable)?)
    } else {
        ("applied", spawn_postgres::migrate(url).await.or_exit(Code::Unavailable)?)
    };
    if out.json {
        out.json("migrate", serde_json::json!({"dry_run": args.dry_run, "migrations": versions}));
    } else if versions.is_empty() {
        out.line("the schema is up to date");
    } else {
        versions.iter().for_each(|v| out.line(format_args!("{verb} {v}")));
    }
    Ok(())
}
