//! The configuration: `config/default.toml` < file < environment < flags.
//!
//! Only here are files and the environment read; everything below takes structs. Unknown keys are errors that name the nearest known one.

use anyhow::{Context, Result, bail};
use config::{File, FileFormat, Source as _, Value, ValueKind};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The lowest layer, compiled in.
pub const DEFAULTS: &str = include_str!("../../../config/default.toml");

/// Names that other tools use, read below `SPAWN__*`.
const ALIASES: [(&str, &str); 3] =
    [("DATABASE_URL", "postgres.url"), ("KAFKA_BROKERS", "kafka.brokers"), ("SPAWN_MODELS", "models.dir")];

/// Tables whose keys are the user's own.
const FREE_TABLES: [&str; 1] = ["kafka.properties"];

macro_rules! section {
    ($(#[$doc:meta])* $name:ident { $($(#[$attribute:meta])* $field:ident: $type:ty),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Deserialize, Serialize)]
        #[serde(deny_unknown_fields)]
        #[allow(missing_docs, reason = "each key is documented in config/default.toml, and a test sees to it")]
        pub struct $name { $($(#[$attribute])* pub $field: $type),* }
    };
}

section!(
    /// Everything; see `config/default.toml`.
    Settings {
        kafka: Kafka, postgres: Postgres, fetch: Fetch, memory: Memory, line: Line, lanes: Lanes, reuse: Reuse, image: Image, audio: Audio, text: Text,
        dlq: Dlq, redrive: Redrive, models: Models, api: Api, metrics: Metrics, health: Health, log: Log, pipeline: Vec<Pipeline>,
    }
);
section!(
    /// `[kafka]`
    Kafka {
        brokers: String, group_prefix: String, start: String, session_timeout_ms: u32, fetch_min_bytes: u32, queue_bytes_max: usize,
        partitions: i32, replication: i32, properties: BTreeMap<String, String>,
    }
);
section!(
    /// `[postgres]`
    Postgres { url: String, pool_max: u32 }
);
section!(
    /// `[fetch]`
    Fetch {
        file_roots: String, http: bool, http_hosts: String, http_private: bool, payload_bytes_max: usize, expected_bytes: usize, timeout_seconds: f64,
        connect_timeout_seconds: f64, per_host_concurrency: usize, redirects_max: usize, circuit_failures: u32,
        circuit_seconds_max: u64,
    }
);
section!(
    /// `[memory]`
    Memory { raw_bytes: usize, decoded_bytes: usize }
);
section!(
    /// `[line]`
    Line {
        crew_threads: usize, model_callers: usize, intra_op_threads: usize, fetch_window: usize, unit_records: usize, unit_calls: usize, unit_bytes: usize,
        linger_ms: u64, drain_seconds: u64, failure_budget_percent: u32, failure_budget_records: u64,
    }
);
section!(
    /// `[lanes]`
    Lanes { bulk_share: f64, bulk_call_ms: u64, live_p95_seconds: f64, live_lag_seconds: f64 }
);
section!(
    /// `[reuse]`
    Reuse { enabled: bool, answer_ms: u64 }
);
section!(
    /// `[image]`
    Image { pixels_max: u64 }
);
section!(
    /// `[audio]`
    Audio { seconds_max: f64 }
);
section!(
    /// `[text]`
    Text { tokens_max: usize }
);
section!(
    /// `[dlq]`
    Dlq { relay: bool, topic_prefix: String, batch_records: usize, batch_bytes: usize, retention_days: u32 }
);
section!(
    /// `[redrive]`
    Redrive {
        delay_seconds: u64, delay_seconds_max: u64, give_up_seconds: u64, lease_seconds: u64, batch_records: usize, batch_bytes: usize,
    }
);
section!(
    /// `[models]`
    Models { dir: PathBuf, device: String, cuda_graphs: bool }
);
section!(
    /// `[api]`
    Api {
        listen: String, cache_bytes: u64, cache_seconds: u64, body_bytes_max: usize, concurrency_max: usize, timeout_seconds: u64,
    }
);
section!(
    /// `[metrics]`
    Metrics { listen: String }
);
section!(
    /// `[health]`
    Health { stuck_seconds: u64 }
);
section!(
    /// `[log]`
    Log { filter: String, format: String }
);
section!(
    /// `[[pipeline]]`
    Pipeline { name: String, topic: String, model: String, collection: String, #[serde(default = "live")] lane: String,
        #[serde(default)] p95_ms: u64,
    }
);

/// The lane of a pipeline that names none.
fn live() -> String {
    "live".into()
}

/// The settings in force, and where each came from.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// Checked.
    pub settings: Settings,
    /// Dotted key -> value as text, secrets masked, and the name of its layer.
    pub provenance: BTreeMap<String, (String, String)>,
}

/// Reads all layers. `sets` are `key=value` from flags.
pub fn load(file: Option<&Path>, env: &BTreeMap<String, String>, sets: &[String]) -> Result<Loaded> {
    let mut builder = config::Config::builder().add_source(File::from_str(DEFAULTS, FileFormat::Toml));
    if let Some(file) = file {
        let text = std::fs::read_to_string(file)
            .with_context(|| format!("cannot read the configuration {}", file.display()))?;
        check_keys(&text, &file.display().to_string())?;
        builder = builder.add_source(File::from(file).format(FileFormat::Toml));
    }
    let mut layers: BTreeMap<String, String> = BTreeMap::new();
    for (key, value, origin) in environment(env)?.into_iter().chain(flags(sets)?) {
        check_key(&key, &origin)?;
        builder = builder.set_override(&key, value)?;
        layers.insert(key, origin);
    }
    let config = builder.build().context("the configuration does not parse")?;
    let mut provenance = BTreeMap::new();
    for (key, value) in config.collect()? {
        flatten(&key, &value, &mut |key, value| {
            let origin = layers
                .get(key)
                .cloned()
                .or_else(|| value.origin().map(str::to_owned))
                .unwrap_or_else(|| "default".into());
            provenance.insert(key.to_owned(), (mask(key, &value.to_string()), origin));
        });
    }
    let settings: Settings =
        config.try_deserialize().context("the configuration has a value of the wrong type")?;
    settings.check()?;
    Ok(Loaded { settings, provenance })
}

/// The process's environment, as far as it is UTF-8.
pub fn process_environment() -> BTreeMap<String, String> {
    std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?))).collect()
}

type Layer = Vec<(String, String, String)>;

fn environment(env: &BTreeMap<String, String>) -> Result<Layer> {
    let mut layer = Layer::new();
    for (name, key) in ALIASES {
        if let Some(value) = env.get(name).filter(|v| !v.is_empty()) {
            layer.push((key.into(), value.clone(), format!("environment {name}")));
        }
    }
    for (name, value) in env.iter().filter(|(name, _)| name.starts_with("SPAWN__")) {
        let key = name["SPAWN__".len()..].to_lowercase().replace("__", ".");
        match key.strip_suffix("_file").filter(|base| known_keys().contains(*base)) {
            Some(base) => {
                let secret = std::fs::read_to_string(value)
                    .with_context(|| format!("{name} names {value}, which cannot be read"))?;
                layer.push((base.into(), secret.trim().into(), format!("file of environment {name}")));
            }
            None => layer.push((key, value.clone(), format!("environment {name}"))),
        }
    }
    Ok(layer)
}

fn flags(sets: &[String]) -> Result<Layer> {
    sets.iter()
        .map(|set| match set.split_once('=') {
            Some((key, value)) => Ok((key.trim().to_owned(), value.to_owned(), "flag --set".to_owned())),
            None => bail!("--set {set}: write it as section.key=value"),
        })
        .collect()
}

/// Every dotted key of the defaults; keys of `[[pipeline]]` without an index.
fn known_keys() -> BTreeSet<String> {
    let mut keys = BTreeSet::new();
    let defaults = File::from_str(DEFAULTS, FileFormat::Toml).collect().unwrap_or_default();
    for (key, value) in defaults {
        flatten(&key, &value, &mut |key, _| keys.extend([without_index(key)]));
    }
    keys
}

fn check_keys(text: &str, file: &str) -> Result<()> {
    let table = File::from_str(text, FileFormat::Toml)
        .collect()
        .with_context(|| format!("{file} is not valid TOML"))?;
    let mut unknown = Vec::new();
    for (key, value) in table {
        flatten(&key, &value, &mut |key, _| {
            let leaf = key.rsplit('.').next().unwrap_or(key);
            let line = text.lines().position(|l| l.trim_start().starts_with(leaf)).map_or(0, |i| i + 1);
            unknown.extend(check_key(key, &format!("{file}:{line}")).err());
        });
    }
    unknown.into_iter().next().map_or(Ok(()), Err)
}

fn check_key(key: &str, at: &str) -> Result<()> {
    let (key, known) = (without_index(key), known_keys());
    if known.contains(&key) || FREE_TABLES.iter().any(|table| key.starts_with(&format!("{table}."))) {
        return Ok(());
    }
    let nearest =
        known.iter().max_by(|a, b| strsim::jaro_winkler(a, &key).total_cmp(&strsim::jaro_winkler(b, &key)));
    bail!("{at}: there is no key `{key}`; did you mean `{}`?", nearest.map_or("", String::as_str))
}

fn without_index(key: &str) -> String {
    key.split_once('[').map_or_else(
        || key.to_owned(),
        |(table, rest)| format!("{table}{}", rest.split_once(']').map_or("", |(_, tail)| tail)),
    )
}

fn flatten(key: &str, value: &Value, visit: &mut impl FnMut(&str, &Value)) {
    match &value.kind {
        ValueKind::Table(table) => table.iter().for_each(|(k, v)| flatten(&format!("{key}.{k}"), v, visit)),
        ValueKind::Array(items) => {
            items.iter().enumerate().for_each(|(i, v)| flatten(&format!("{key}[{i}]"), v, visit));
        }
        _ => visit(key, value),
    }
}

/// Hides the password of a URL and whatever is called a password or secret.
pub fn mask(key: &str, value: &str) -> String {
    if ["password", "secret", "token"].iter().any(|word| key.contains(word)) {
        return "***".into();
    }
    match url::Url::parse(value) {
        Ok(mut url) if url.password().is_some() => {
            let masked = url.set_password(Some("***"));
            if masked.is_ok() { url.to_string() } else { "***".into() }
        }
        _ => value.to_owned(),
    }
}

impl Settings {
    /// What the types cannot say.
    fn check(&self) -> Result<()> {
        let mut names: Vec<&str> = self.pipeline.iter().map(|p| p.name.as_str()).collect();
        names.sort_unstable();
        if let Some(twice) = names.windows(2).find(|w| w[0] == w[1]) {
            bail!("two pipelines are called `{}`; names must differ", twice[0]);
        }
        if !["earliest", "latest"].contains(&self.kafka.start.as_str()) {
            bail!("kafka.start is `{}`; it must be earliest or latest", self.kafka.start);
        }
        for (key, value) in [
            ("line.unit_records", self.line.unit_records),
            ("line.unit_calls", self.line.unit_calls),
            ("line.fetch_window", self.line.fetch_window),
            ("line.failure_budget_records", self.line.failure_budget_records as usize),
            ("fetch.payload_bytes_max", self.fetch.payload_bytes_max),
            ("health.stuck_seconds", self.health.stuck_seconds as usize),
            ("dlq.batch_records", self.dlq.batch_records),
            ("fetch.per_host_concurrency", self.fetch.per_host_concurrency),
            ("redrive.batch_records", self.redrive.batch_records),
            ("redrive.lease_seconds", self.redrive.lease_seconds as usize),
        ] {
            if value == 0 {
                bail!("{key} is 0; it must be at least 1");
            }
        }
        if let Some(p) = self.pipeline.iter().find(|p| !["live", "bulk"].contains(&p.lane.as_str())) {
            bail!("pipeline `{}` has lane `{}`; it must be live or bulk", p.name, p.lane);
        }
        if !(0.01..=0.9).contains(&self.lanes.bulk_share) {
            bail!("lanes.bulk_share is {}; it must be between 0.01 and 0.9", self.lanes.bulk_share);
        }
        for (key, seconds) in [
            ("lanes.live_p95_seconds", self.lanes.live_p95_seconds),
            ("lanes.live_lag_seconds", self.lanes.live_lag_seconds),
        ] {
            if !(0.0..1e9).contains(&seconds) {
                bail!("{key} is {seconds}; it must be a number of seconds");
            }
        }
        if self.dlq.relay && self.dlq.topic_prefix.is_empty() {
            bail!("dlq.topic_prefix is empty: dead letters would go to the topics that they came from");
        }
        Ok(())
    }

    /// The pipeline of this name.
    pub fn pipeline(&self, name: &str) -> Option<&Pipeline> {
        self.pipeline.iter().find(|p| p.name == name)
    }
}

/// The folders that references may name.
pub fn file_roots(settings: &Settings) -> Vec<PathBuf> {
    list(&settings.fetch.file_roots).into_iter().map(PathBuf::from).collect()
}

/// A comma-separated list as its trimmed, non-empty parts.
pub fn list(value: &str) -> Vec<String> {
    value.split(',').map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn later_layers_win_and_say_so() {
        let env = env(&[("SPAWN__LINE__LINGER_MS", "7"), ("DATABASE_URL", "postgres://me:hunter2@db/x")]);
        let loaded = load(None, &env, &["line.unit_calls=9".into()]).expect("loads");
        assert_eq!((loaded.settings.line.linger_ms, loaded.settings.line.unit_calls), (7, 9));
        let (url, origin) = &loaded.provenance["postgres.url"];
        assert_eq!((url.as_str(), origin.as_str()), ("postgres://me:***@db/x", "environment DATABASE_URL"));
        assert_eq!(loaded.provenance["line.unit_calls"].1, "flag --set");
        assert_eq!(loaded.provenance["memory.raw_bytes"].1, "default");
    }

    #[test]
    fn an_unknown_key_names_its_place_and_the_nearest_known_one() {
        let dir = std::env::temp_dir().join(format!("spawn-config-{}", std::process::id()));
        std::fs::write(&dir, "[kafka]\nboostrap = 1\nbrockers = \"x\"\n").expect("writes");
        let error = format!("{:#}", load(Some(&dir), &env(&[]), &[]).expect_err("refuses"));
        std::fs::remove_file(&dir).expect("removes");
        assert!(
            error.contains(":2: there is no key")
                || error.contains(":3: there is no key `kafka.brockers`; did you mean `kafka.brokers`"),
            "{error}"
        );
    }

    #[test]
    fn every_default_key_has_a_comment_above_it() {
        let lines: Vec<&str> = DEFAULTS.lines().collect();
        let keys = lines.iter().enumerate().filter(|(_, l)| l.contains(" = ") && !l.starts_with('#'));
        let first_pipeline_end =
            DEFAULTS.match_indices("[[pipeline]]").nth(1).map_or(0, |(at, _)| DEFAULTS[..at].lines().count());
        for (i, line) in keys.filter(|(i, _)| *i < first_pipeline_end) {
            assert!(lines[i - 1].starts_with("# "), "no comment above `{line}`");
        }
    }
}
