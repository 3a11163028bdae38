//! The product: configuration, assembly and commands. The only crate that knows all the others.
//!
//! # Layout
//!
//! - [`mod@cli`]: the command line; [`mod@commands`]: one file per command
//! - [`mod@config`]: the layers of the configuration
//! - [`mod@registry`]: what there is, one line per modality
//! - [`mod@fetching`]: joins the fetcher to configuration and line
//! - [`mod@line`]: puts models, stages, source and sink together
//! - [`mod@relay`]: dead letters from the table to their topics; [`mod@hints`]: what to do about each code
//! - [`mod@redriving`]: deferred records from the table to the line
//! - [`mod@embedder`]: single items through stage and model
//! - `trial`: records that may kill a process, in one of their own
//! - [`mod@scrape`]: the metrics of a running worker
//! - [`mod@telemetry`], [`mod@output`], [`mod@exit`]: logs and metrics, stdout and stderr, exit codes

pub mod cli;
pub mod commands;
pub mod config;
pub mod embedder;
pub mod exit;
pub mod fetching;
pub mod hints;
pub mod line;
pub mod output;
pub mod redriving;
pub mod registry;
pub mod relay;
pub mod scrape;
pub mod telemetry;
mod trial;

use clap::Parser;
use clap::error::ErrorKind;
use exit::{Code, OrExit, Outcome};
use output::Output;
use std::ffi::OsString;

/// Threads that read files and ask for names. Each keeps an allocator's pages, and a fetch window without a bound had 150 of them.
const BLOCKING_THREADS: usize = 16;

/// Parses the arguments, runs the command, returns its exit code.
pub fn main(args: impl IntoIterator<Item = OsString>) -> u8 {
    let cli = match cli::Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            // Nothing is left to do where even the message cannot be written.
            let _written = error.print();
            let wanted = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            return if wanted { 0 } else { Code::Usage as u8 };
        }
    };
    let out = Output { json: cli.common.json, quiet: cli.common.quiet };
    match run(cli, out) {
        Ok(()) => 0,
        Err(failure) => {
            Output { quiet: false, ..out }.note(format_args!("error: {:#}", failure.error));
            failure.code as u8
        }
    }
}

fn run(cli: cli::Cli, out: Output) -> Outcome {
    let loaded = config::load(cli.common.config.as_deref(), &config::process_environment(), &cli.common.set)
        .or_exit(Code::Config)?;
    telemetry::init_log(&loaded.settings.log, out.quiet)?;
    telemetry::recorder();
    // For tests of what a sudden death leaves behind.
    if let Ok(step) = std::env::var("SPAWN_DIE_AT") {
        spawn_engine::steps::die_at(step);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("runtime")
        .max_blocking_threads(BLOCKING_THREADS)
        .build()?;
    let result = runtime.block_on(commands::run(cli.command, loaded, out));
    // Threads of a driver that hangs must not keep the process.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    result
}
