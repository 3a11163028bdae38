//! The command line: one enum variant per command, one file per command in `commands/`.
//!
//! Data goes to stdout, talk to stderr. Exit codes follow sysexits: 64 usage, 65 data, 69 unavailable, 70 internal,
//! 75 not all was settled before the deadline, 78 configuration.

mod ledger;
mod pipelines;

pub use ledger::{Audit, By, Delete, Dlq, DlqLs, DlqPurge, DlqReplay, DlqShow, Explain};
pub use pipelines::{AcceptGap, AdoptTopic, PipelinePause, PipelineResume, Pipelines};

use clap::{Args, Parser, Subcommand};
use spawn_core::Modality;
use std::path::PathBuf;

/// Multimodal pipelines from Kafka through libtorch into PostgreSQL: every offset accounted for, every vector reproducible.
#[derive(Parser, Debug)]
#[command(name = "spawn", version, max_term_width = 110, propagate_version = true)]
#[command(
    after_help = "Examples:\n  spawn demo --exit\n  spawn submit photo.jpg voice.wav\n  spawn search \"two dogs\"\n  spawn audit"
)]
pub struct Cli {
    /// What every command understands.
    #[command(flatten)]
    pub common: Common,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Flags of every command.
#[derive(Args, Debug, Clone)]
pub struct Common {
    /// Configuration file, above the built-in defaults.
    #[arg(long, global = true, value_name = "FILE", env = "SPAWN_CONFIG")]
    pub config: Option<PathBuf>,
    /// One setting, for example `line.linger_ms=5`; may be repeated, separated by commas in the environment.
    #[arg(long, global = true, value_name = "KEY=VALUE", env = "SPAWN_SET")]
    pub set: Vec<String>,
    /// One JSON object (or one a line) on stdout instead of text.
    #[arg(long, global = true, env = "SPAWN_JSON")]
    pub json: bool,
    /// No progress bars and no notes on stderr, only warnings.
    #[arg(long, short, global = true, env = "SPAWN_QUIET")]
    pub quiet: bool,
}

/// The commands.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Send real photographs, speech and text through the whole line and search them.
    #[command(
        after_help = "Examples:\n  spawn demo\n  spawn demo --exit --json\n  spawn demo --broker embedded"
    )]
    Demo(Demo),
    /// Read the pipelines' topics and fill the tables, until SIGTERM.
    #[command(after_help = "Examples:\n  spawn worker\n  spawn worker --pipeline image --pipeline text")]
    Worker(Worker),
    /// Serve results and similarity search over HTTP.
    #[command(after_help = "Examples:\n  spawn api\n  spawn api --set api.listen=127.0.0.1:8080")]
    Api(Api),
    /// Put files, or text from stdin, on the pipelines' topics and print their ids.
    #[command(
        after_help = "Examples:\n  spawn submit photo.jpg voice.wav notes.txt\n  echo hello | spawn submit - --modality text"
    )]
    Submit(Submit),
    /// Put a whole folder or a CSV or Parquet manifest on the topics.
    #[command(after_help = "Examples:\n  spawn ingest ./photos\n  spawn ingest manifest.parquet --dry-run")]
    Ingest(Ingest),
    /// Find similar items by text, by a picture or sound, or by an item's id.
    #[command(
        after_help = "Examples:\n  spawn search \"two dogs\"\n  spawn search photo.jpg --limit 5\n  spawn search voice.wav --json"
    )]
    Search(Search),
    /// Show one result by its id, or the latest ones.
    #[command(
        after_help = "Examples:\n  spawn results\n  spawn results 0123456789abcdef0123456789abcdef\n  spawn results --modality audio --limit 5"
    )]
    Results(Results),
    /// List the models with their golden check, or make one smaller and faster.
    #[command(
        after_help = "Examples:\n  spawn models\n  spawn models --json\n  spawn models quantize minilm-l6"
    )]
    Models(Models),
    /// Tell what Spawn would make of files, without Kafka, database or model.
    #[command(after_help = "Examples:\n  spawn probe photo.jpg broken.png\n  spawn probe --json clip.flac")]
    Probe(Files),
    /// Run files through stage and model only and print the vectors.
    #[command(after_help = "Examples:\n  spawn embed photo.jpg --json\n  spawn embed notes.txt")]
    Embed(Files),
    /// Prove that every offset between first claim and checkpoint is accounted for.
    #[command(
        after_help = "Examples:\n  spawn audit\n  spawn audit --json || alert\n  spawn audit --topic spawn.jobs.image.v1 --from 1000 --to 2000 --kafka"
    )]
    Audit(Audit),
    /// Work with dead letters: list, show, replay, purge.
    #[command(
        subcommand,
        after_help = "Examples:\n  spawn dlq ls --by code\n  spawn dlq replay --code payload.denied --dry-run"
    )]
    Dlq(Dlq),
    /// Tell where a result comes from, make it again, and compare.
    #[command(
        after_help = "Examples:\n  spawn explain 0123456789abcdef0123456789abcdef\n  spawn explain 0123456789abcdef0123456789abcdef --json"
    )]
    Explain(Explain),
    /// Delete what the records of a Kafka key wrote.
    #[command(
        after_help = "Examples:\n  spawn delete --key user-42 --topic spawn.jobs.image.v1 --dry-run\n  spawn delete --key user-42 --topic spawn.jobs.image.v1"
    )]
    Delete(Delete),
    /// Build the vector indexes of loaded generations.
    #[command(after_help = "Examples:\n  spawn index\n  spawn index --modality image")]
    Index(Index),
    /// Decide about readings that no worker can continue by itself.
    #[command(
        subcommand,
        after_help = "Examples:\n  spawn pipelines accept-gap --pipeline text --partition 3 --dry-run\n  spawn pipelines adopt-topic --pipeline text"
    )]
    Pipelines(Pipelines),
    /// Check the whole line without starting it: models, memory, database, stored rows, client settings, broker, topics.
    /// Ends with 69 when something is wrong; warnings are only told.
    #[command(after_help = "Examples:\n  spawn check\n  spawn check --json")]
    Check,
    /// The configuration.
    #[command(subcommand, after_help = "Examples:\n  spawn config show")]
    Config(Config),
    /// Bring the database schema up to this version.
    #[command(after_help = "Examples:\n  spawn migrate\n  spawn migrate --dry-run")]
    Migrate(Migrate),
    /// Check this machine: libraries, versions, memory, devices.
    #[command(after_help = "Examples:\n  spawn doctor\n  spawn doctor --json")]
    Doctor,
    /// Watch a running worker: rates, queues, where each stage's time goes, and which one sets the pace.
    #[command(
        after_help = "Examples:\n  spawn top\n  spawn top --once --json\n  spawn top --worker 10.0.0.7:9464 --interval 5"
    )]
    Top(Top),
    /// Tries records for a worker that suspects them.
    #[command(hide = true)]
    Trial,
    /// Measure.
    #[command(subcommand, after_help = "Examples:\n  spawn bench line --json")]
    Bench(Bench),
}

/// Whether a query is the public id of an item.
pub fn is_id(query: &str) -> bool {
    query.len() == 32 && query.bytes().all(|b| b.is_ascii_hexdigit())
}

/// `spawn models`
#[derive(Args, Debug)]
pub struct Models {
    /// Without it: the list.
    #[command(subcommand)]
    pub action: Option<ModelsAction>,
}

/// What can be done with models.
#[derive(Subcommand, Debug)]
pub enum ModelsAction {
    /// The same weights in fewer bits: a new model beside the old one.
    #[command(
        after_help = "Examples:\n  spawn models quantize minilm-l6\n  spawn models quantize minilm-l6 --to bf16\n  spawn models quantize efficientnet-lite0 --calibrate ./photos\n  spawn models quantize minilm-l6 --name minilm-small --cosine-min 0.995"
    )]
    Quantize(Quantize),
}

/// `spawn models quantize`
#[derive(Args, Debug)]
pub struct Quantize {
    /// Its folder below models.dir.
    pub model: String,
    /// Number type: int8 on the CPU, bf16 or f16 for layers that gain by it.
    #[arg(long, value_name = "DTYPE", env = "SPAWN_MODELS_QUANTIZE_TO", default_value = "int8", value_parser = ["int8", "bf16", "f16"])]
    pub to: String,
    /// Folder with media as the model will see them: int8 reads up to 256 files to learn the range of each convolution's numbers.
    /// Convolutions stay in f32 without it.
    #[arg(long, value_name = "DIR", env = "SPAWN_MODELS_QUANTIZE_CALIBRATE")]
    pub calibrate: Option<PathBuf>,
    /// Folder and name of the new model; the old name and the number type without it.
    #[arg(long, value_name = "NAME", env = "SPAWN_MODELS_QUANTIZE_NAME")]
    pub name: Option<String>,
    /// Least cosine, 0.9 to 1, between its vectors and the golden ones. Below it the model is refused, now and at every start.
    #[arg(long, value_name = "COSINE", env = "SPAWN_MODELS_QUANTIZE_COSINE_MIN", default_value_t = 0.99)]
    pub cosine_min: f64,
}

/// `spawn top`
#[derive(Args, Debug)]
pub struct Top {
    /// Where the worker serves its metrics; metrics.listen without it.
    #[arg(long, value_name = "HOST:PORT", env = "SPAWN_TOP_WORKER")]
    pub worker: Option<String>,
    /// Seconds between two looks.
    #[arg(long, value_name = "SECONDS", env = "SPAWN_TOP_INTERVAL", default_value_t = 1.0)]
    pub interval: f64,
    /// One look, then end. Times are then those since the worker's start.
    #[arg(long, env = "SPAWN_TOP_ONCE")]
    pub once: bool,
}

/// `spawn demo`
#[derive(Args, Debug)]
pub struct Demo {
    /// Folder of demo media with its index.csv.
    #[arg(long, value_name = "DIR", env = "SPAWN_DATA", default_value = "data")]
    pub data: PathBuf,
    /// Stop when done instead of serving until Ctrl-C. Implied when stdout is no terminal.
    #[arg(long, env = "SPAWN_DEMO_EXIT")]
    pub exit: bool,
    /// kafka, or embedded: a broker inside this process that forgets everything at the end and needs no Java.
    #[arg(long, value_name = "BROKER", env = "SPAWN_DEMO_BROKER", default_value = "kafka", value_parser = ["kafka", "embedded"])]
    pub broker: String,
    /// Only so many files of each modality.
    #[arg(long, value_name = "N", env = "SPAWN_DEMO_LIMIT")]
    pub limit: Option<usize>,
    /// Print each file of the demo with its source and licence, and stop.
    #[arg(long, env = "SPAWN_DEMO_LIST_DATA")]
    pub list_data: bool,
}

/// `spawn worker`
#[derive(Args, Debug)]
pub struct Worker {
    /// Only this pipeline; may be repeated. All of the configuration without it.
    #[arg(long, value_name = "NAME", env = "SPAWN_WORKER_PIPELINE", value_delimiter = ',')]
    pub pipeline: Vec<String>,
    /// Stop by itself once every partition was read to its end.
    #[arg(long, env = "SPAWN_WORKER_EXIT_AT_END")]
    pub exit_at_end: bool,
}

/// `spawn api`
#[derive(Args, Debug)]
pub struct Api {
    /// Answer results only: load no models, refuse searches by text or media.
    #[arg(long, env = "SPAWN_API_NO_MODELS")]
    pub no_models: bool,
}

/// `spawn submit`
#[derive(Args, Debug)]
pub struct Submit {
    /// Files, or - for stdin.
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// What they are; by extension and content without it.
    #[arg(long, value_name = "MODALITY", env = "SPAWN_SUBMIT_MODALITY")]
    pub modality: Option<Modality>,
    /// Wait until each has a result, at most this many seconds.
    #[arg(long, value_name = "SECONDS", env = "SPAWN_SUBMIT_WAIT")]
    pub wait: Option<f64>,
    /// Say what would be sent, send nothing.
    #[arg(long, env = "SPAWN_DRY_RUN")]
    pub dry_run: bool,
}

/// `spawn ingest`
#[derive(Args, Debug)]
pub struct Ingest {
    /// A folder, or a .csv or .parquet manifest with a column path, uri or text.
    #[arg(value_name = "PATH")]
    pub path: PathBuf,
    /// Only this modality.
    #[arg(long, value_name = "MODALITY", env = "SPAWN_INGEST_MODALITY")]
    pub modality: Option<Modality>,
    /// At most so many items.
    #[arg(long, value_name = "N", env = "SPAWN_INGEST_LIMIT")]
    pub limit: Option<u64>,
    /// Say what would be sent, send nothing.
    #[arg(long, env = "SPAWN_DRY_RUN")]
    pub dry_run: bool,
}

/// `spawn search`
#[derive(Args, Debug)]
pub struct Search {
    /// Text, a picture or sound file, or an item's id.
    #[arg(value_name = "QUERY")]
    pub query: String,
    /// Most hits, 1 to 200.
    #[arg(long, value_name = "N", env = "SPAWN_SEARCH_LIMIT", default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=200))]
    pub limit: u16,
    /// Compare with every vector instead of asking the index.
    #[arg(long, env = "SPAWN_SEARCH_EXACT")]
    pub exact: bool,
}

/// `spawn results`
#[derive(Args, Debug)]
pub struct Results {
    /// One item's id.
    #[arg(value_name = "ID")]
    pub id: Option<String>,
    /// Only this modality.
    #[arg(long, value_name = "MODALITY", env = "SPAWN_RESULTS_MODALITY")]
    pub modality: Option<Modality>,
    /// Most rows, 1 to 200.
    #[arg(long, value_name = "N", env = "SPAWN_RESULTS_LIMIT", default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=200))]
    pub limit: u16,
    /// Where the last page ended.
    #[arg(long, value_name = "CURSOR", env = "SPAWN_RESULTS_CURSOR")]
    pub cursor: Option<String>,
}

/// Files for `probe` and `embed`.
#[derive(Args, Debug)]
pub struct Files {
    /// Files.
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// What they are; by extension and content without it.
    #[arg(long, value_name = "MODALITY", env = "SPAWN_MODALITY")]
    pub modality: Option<Modality>,
}

/// `spawn index`
#[derive(Args, Debug)]
pub struct Index {
    /// Only this modality.
    #[arg(long, value_name = "MODALITY", env = "SPAWN_INDEX_MODALITY")]
    pub modality: Option<Modality>,
}

/// `spawn config`
#[derive(Subcommand, Debug)]
pub enum Config {
    /// Print every value with the layer it comes from; secrets are masked.
    #[command(after_help = "Examples:\n  spawn config show\n  spawn config show --json")]
    Show,
}

/// `spawn migrate`
#[derive(Args, Debug)]
pub struct Migrate {
    /// Say what would be applied, change nothing.
    #[arg(long, env = "SPAWN_DRY_RUN")]
    pub dry_run: bool,
}

/// `spawn bench`
#[derive(Subcommand, Debug)]
pub enum Bench {
    /// The whole line against the bound that its stages set.
    #[command(
        after_help = "Examples:\n  spawn bench line --json\n  spawn bench line --modality image --records 2000"
    )]
    Line(BenchLine),
}

/// `spawn bench line`
#[derive(Args, Debug)]
pub struct BenchLine {
    /// Which pipeline's line.
    #[arg(long, value_name = "MODALITY", env = "SPAWN_BENCH_MODALITY", default_value = "image")]
    pub modality: Modality,
    /// Records to send through it.
    #[arg(long, value_name = "N", env = "SPAWN_BENCH_RECORDS", default_value_t = 1000)]
    pub records: usize,
    /// Folder of media.
    #[arg(long, value_name = "DIR", env = "SPAWN_DATA", default_value = "data")]
    pub data: PathBuf,
}
