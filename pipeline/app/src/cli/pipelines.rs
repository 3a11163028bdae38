//! Arguments of `spawn pipelines`.

use clap::{Args, Subcommand};

/// `spawn pipelines`
#[derive(Subcommand, Debug)]
pub enum Pipelines {
    /// Every pipeline that ever ran, whether it is paused, and why.
    #[command(after_help = "Examples:\n  spawn pipelines ls\n  spawn pipelines ls --json")]
    Ls,
    /// Let all workers of a pipeline stand still, within seconds. They keep their place; nothing is lost.
    #[command(
        after_help = "Examples:\n  spawn pipelines pause image\n  spawn pipelines pause image --reason \"moving the store\""
    )]
    Pause(PipelinePause),
    /// Let them go on, whatever paused them. What the failure budget held back is written as it is.
    #[command(
        after_help = "Examples:\n  spawn pipelines resume image\n  spawn pipelines resume image --dry-run"
    )]
    Resume(PipelineResume),
    /// Write off records that retention took before they were read.
    #[command(
        after_help = "Examples:\n  spawn pipelines accept-gap --pipeline text --partition 3 --dry-run\n  spawn pipelines accept-gap --pipeline text --partition 3"
    )]
    AcceptGap(AcceptGap),
    /// End the reading of a topic that was deleted, made anew or cut, and begin at the start of what is there now.
    #[command(
        after_help = "Examples:\n  spawn pipelines adopt-topic --pipeline text --dry-run\n  spawn pipelines adopt-topic --pipeline text"
    )]
    AdoptTopic(AdoptTopic),
}

/// `spawn pipelines pause`
#[derive(Args, Debug)]
pub struct PipelinePause {
    /// The pipeline.
    #[arg(value_name = "NAME")]
    pub name: String,
    /// Shown by `spawn pipelines ls` and in the workers' logs.
    #[arg(
        long,
        value_name = "TEXT",
        env = "SPAWN_PIPELINES_REASON",
        default_value = "paused by an operator"
    )]
    pub reason: String,
    /// Say what would be done, change nothing.
    #[arg(long, env = "SPAWN_DRY_RUN")]
    pub dry_run: bool,
}

/// `spawn pipelines resume`
#[derive(Args, Debug)]
pub struct PipelineResume {
    /// The pipeline.
    #[arg(value_name = "NAME")]
    pub name: String,
    /// Say what would be done, change nothing.
    #[arg(long, env = "SPAWN_DRY_RUN")]
    pub dry_run: bool,
}

/// `spawn pipelines accept-gap`
#[derive(Args, Debug)]
pub struct AcceptGap {
    /// The pipeline.
    #[arg(long, value_name = "NAME", env = "SPAWN_PIPELINES_PIPELINE")]
    pub pipeline: String,
    /// Its topic; that of the configuration without it.
    #[arg(long, value_name = "TOPIC", env = "SPAWN_PIPELINES_TOPIC")]
    pub topic: Option<String>,
    /// The partition.
    #[arg(long, value_name = "N", env = "SPAWN_PIPELINES_PARTITION")]
    pub partition: i32,
    /// Say what would be written off, change nothing.
    #[arg(long, env = "SPAWN_DRY_RUN")]
    pub dry_run: bool,
}

/// `spawn pipelines adopt-topic`
#[derive(Args, Debug)]
pub struct AdoptTopic {
    /// The pipeline.
    #[arg(long, value_name = "NAME", env = "SPAWN_PIPELINES_PIPELINE")]
    pub pipeline: String,
    /// Its topic; that of the configuration without it.
    #[arg(long, value_name = "TOPIC", env = "SPAWN_PIPELINES_TOPIC")]
    pub topic: Option<String>,
    /// Say what would be written off, change nothing.
    #[arg(long, env = "SPAWN_DRY_RUN")]
    pub dry_run: bool,
}
