//! One file per command. Each takes its arguments and the configuration, speaks through [`Output`], and returns how it ended.

mod api;
mod audit;
mod bench_line;
mod check;
mod config_show;
mod demo;
mod demo_report;
mod doctor;
mod embed;
mod index;
mod ingest;
mod migrate;
mod models;
mod pipelines;
mod probe;
mod results;
mod search;
mod submit;
mod worker;

pub(crate) use api::infos as model_infos;

use crate::cli::{Bench, Command, Config};
use crate::config::Loaded;
use crate::exit::{Code, OrExit, Outcome};
use crate::output::Output;
use spawn_postgres::Store;

/// Runs a command.
pub async fn run(command: Command, loaded: Loaded, out: Output) -> Outcome {
    let settings = loaded.settings.clone();
    match command {
        Command::Demo(args) => demo::run(args, settings, out).await,
        Command::Worker(args) => worker::run(args, settings, out).await,
        Command::Api(args) => api::run(args, settings, out).await,
        Command::Submit(args) => submit::run(args, settings, out).await,
        Command::Ingest(args) => ingest::run(args, settings, out).await,
        Command::Search(args) => search::run(args, settings, out).await,
        Command::Results(args) => results::run(args, settings, out).await,
        Command::Models => models::run(settings, out),
        Command::Probe(args) => probe::run(args, settings, out),
        Command::Embed(args) => embed::run(args, settings, out).await,
        Command::Audit => audit::run(settings, out).await,
        Command::Index(args) => index::run(args, settings, out).await,
        Command::Pipelines(args) => pipelines::run(args, settings, out).await,
        Command::Check => check::run(settings, out).await,
        Command::Config(Config::Show) => config_show::run(&loaded, out),
        Command::Migrate(args) => migrate::run(args, settings, out).await,
        Command::Doctor => doctor::run(settings, out),
        Command::Bench(Bench::Line(args)) => bench_line::run(args, settings, out).await,
    }
}

/// The reading side of the database.
async fn store(settings: &crate::config::Settings) -> Outcome<Store> {
    Store::connect(&settings.postgres.url, settings.postgres.pool_max).await.or_exit(Code::Unavailable)
}

/// Completes on SIGTERM or SIGINT.
async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};
    match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
        (Ok(mut term), Ok(mut int)) => {
            tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
        }
        // Without handlers the signals end the process at once, which loses nothing either.
        _ => std::future::pending().await,
    }
}
