//! One file per command. Each takes its arguments and the configuration, speaks through [`Output`], and returns how it ended.

mod api;
mod audit;
mod bench_line;
mod check;
mod check_kafka;
mod check_models;
mod check_postgres;
mod config_show;
mod delete;
mod demo;
mod demo_report;
mod dlq_ls;
mod dlq_purge;
mod dlq_replay;
mod dlq_show;
mod doctor;
mod embed;
mod explain;
mod index;
mod ingest;
mod migrate;
mod models;
mod models_quantize;
mod pipelines;
mod probe;
mod results;
mod search;
mod submit;
mod top;
mod worker;

pub(crate) use api::infos as model_infos;

use crate::cli::{Bench, Command, Config, Dlq, Models, ModelsAction};
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
        Command::Models(Models { action: None }) => models::run(settings, out),
        Command::Models(Models { action: Some(ModelsAction::Quantize(args)) }) => {
            models_quantize::run(args, settings, out)
        }
        Command::Probe(args) => probe::run(args, settings, out),
        Command::Embed(args) => embed::run(args, settings, out).await,
        Command::Audit(args) => audit::run(args, settings, out).await,
        Command::Dlq(Dlq::Ls(args)) => dlq_ls::run(args, settings, out).await,
        Command::Dlq(Dlq::Show(args)) => dlq_show::run(args, settings, out).await,
        Command::Dlq(Dlq::Replay(args)) => dlq_replay::run(args, settings, out).await,
        Command::Dlq(Dlq::Purge(args)) => dlq_purge::run(args, settings, out).await,
        Command::Explain(args) => explain::run(args, settings, out).await,
        Command::Delete(args) => delete::run(args, settings, out).await,
        Command::Index(args) => index::run(args, settings, out).await,
        Command::Pipelines(args) => pipelines::run(args, settings, out).await,
        Command::Check => check::run(settings, out).await,
        Command::Config(Config::Show) => config_show::run(&loaded, out),
        Command::Migrate(args) => migrate::run(args, settings, out).await,
        Command::Doctor => doctor::run(settings, out),
        Command::Top(args) => top::run(args, settings, out).await,
        Command::Trial => crate::trial::serve().await,
        Command::Bench(Bench::Line(args)) => bench_line::run(args, settings, out).await,
    }
}

/// The reading side of the database.
async fn store(settings: &crate::config::Settings) -> Outcome<Store> {
    Store::connect(&settings.postgres.url, settings.postgres.pool_max).await.or_exit(Code::Unavailable)
}

/// Which topics are read again, and where.
fn cluster(settings: &crate::config::Settings) -> spawn_kafka::Cluster {
    let kafka = &settings.kafka;
    spawn_kafka::Cluster { brokers: kafka.brokers.clone(), properties: kafka.properties.clone() }
}

/// An error of the store with the exit code of whoever is at fault: the question, what is stored, or the database.
fn asked(error: spawn_postgres::StoreError) -> crate::exit::Failure {
    use spawn_postgres::StoreError;
    let code = match &error {
        StoreError::LetterName(_) | StoreError::Id(_) | StoreError::Cursor => Code::Usage,
        // Our own refusals.
        StoreError::Fault(fault) if !fault.detail.contains("(SQLSTATE SP") => Code::Unavailable,
        _ => Code::Data,
    };
    crate::exit::Failure::new(code, error)
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
