//! A database, topics and a configuration of a test's own.

use crate::proxy::Proxy;
use crate::servers::Postgres;
use serde_json::Value;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

pub struct World {
    pub dir: TempDir,
    database: String,
    admin: String,
    url: String,
    brokers: String,
}

/// The folder of the checkout.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn env(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| {
        panic!("{name} is not set: run `make test`, or `setup/with-services cargo test ..`")
    })
}

/// How often a fault is repeated; a campaign asks for more (`tests/evidence/delivery`).
pub fn rounds(variable: &str, quick: u32) -> u32 {
    std::env::var(variable).map_or(quick, |count| count.parse().unwrap())
}

/// Tells a campaign what a test has done, once all of its assertions hold.
pub fn figure(name: &str, value: impl Into<Value>) {
    let Ok(path) = std::env::var("SPAWN_FIGURES") else { return };
    let mut file = std::fs::File::options().create(true).append(true).open(path).unwrap();
    writeln!(file, "{}", serde_json::json!({name: value.into()})).unwrap();
}

/// The demo's media.
pub fn data() -> PathBuf {
    env("SPAWN_DATA").into()
}

/// Files of a sub-folder of the demo's media, sorted, the first `count`.
pub fn media(folder: &str, count: usize) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = Vec::new();
    let mut open = vec![data().join(folder)];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(&folder)
            .unwrap_or_else(|e| panic!("{}: {e}; run setup/install data", folder.display()))
        {
            let path = entry.unwrap().path();
            if path.is_dir() { open.push(path) } else { files.push(path) }
        }
    }
    files.sort();
    assert!(files.len() >= count, "only {} files in {folder}", files.len());
    files.truncate(count);
    files
}

fn binary() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let binary = own.parent().unwrap().parent().unwrap().join("spawn");
    assert!(binary.is_file(), "{} is missing: cargo build --release --workspace", binary.display());
    binary
}

impl World {
    pub fn new(name: &str) -> Self {
        Self::on(name, &env("KAFKA_BROKERS"))
    }

    /// With another broker.
    pub fn on(name: &str, brokers: &str) -> Self {
        Self::of(name, brokers, env("DATABASE_URL"))
    }

    /// In another database server.
    pub fn within(name: &str, postgres: &Postgres) -> Self {
        Self::of(name, &env("KAFKA_BROKERS"), postgres.url())
    }

    fn of(name: &str, brokers: &str, admin: String) -> Self {
        let dir = TempDir::new().unwrap();
        let stamp = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos();
        let database = format!("it_{name}_{stamp}");
        psql(&admin, &format!("CREATE DATABASE {database}"));
        let url = format!("{}/{database}", admin.rsplit_once('/').unwrap().0);
        let pipelines = [("image", "efficientnet-lite0"), ("audio", "resemblyzer"), ("text", "minilm-l6")].map(|(kind, model)| {
            format!("[[pipeline]]\nname = \"{kind}\"\ntopic = \"{database}.{kind}\"\nmodel = \"{model}\"\ncollection = \"default\"\n")
        });
        let config = format!(
            "[kafka]\ngroup_prefix = \"{database}\"\nsession_timeout_ms = 1000\npartitions = 4\n[fetch]\nfile_roots = \"{},{}\"\n\
             [metrics]\nlisten = \"\"\n[log]\nfilter = \"warn,spawn_engine=info\"\n{}",
            data().display(),
            dir.path().display(),
            pipelines.concat()
        );
        std::fs::write(dir.path().join("spawn.toml"), config).unwrap();
        Self { dir, database, admin, url, brokers: brokers.to_owned() }
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command
            .arg("--config")
            .arg(self.dir.path().join("spawn.toml"))
            .args(args)
            .env("DATABASE_URL", &self.url)
            .env("KAFKA_BROKERS", &self.brokers)
            .env_remove("SPAWN_JSON");
        command.stdin(Stdio::null());
        command
    }

    /// Runs to the end; panics with what was said when it fails.
    pub fn run(&self, args: &[&str]) -> Output {
        let output = self.command(args).output().unwrap();
        assert!(
            output.status.success(),
            "spawn {args:?} ended with {}\n{}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        output
    }

    /// The JSON objects that a command prints, one a line.
    pub fn json(&self, args: &[&str]) -> Vec<Value> {
        let output = self.run(&[args, &["--json"]].concat());
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
            .collect()
    }

    /// Texts numbered from `from` to `to`, as one manifest onto the text topic.
    pub fn ingest_texts(&self, from: usize, to: usize) {
        let rows: String =
            (from..to).map(|i| format!("t{i},text number {i} about a lake and {} boats\n", i % 7)).collect();
        let manifest = self.dir.path().join("texts.csv");
        std::fs::write(&manifest, format!("id,text\n{rows}")).unwrap();
        self.run(&["ingest", manifest.to_str().unwrap()]);
    }

    pub fn worker(&self, args: &[&str]) -> Worker {
        self.worker_with(args, &[], "worker")
    }

    /// With other variables, and a log of this name.
    pub fn worker_with(&self, args: &[&str], envs: &[(&str, &str)], log: &str) -> Worker {
        let log = self.dir.path().join(format!("{log}.log"));
        let log = std::fs::File::options().create(true).append(true).open(log).unwrap();
        let mut command = self.command(&[&["worker"], args].concat());
        Worker(command.envs(envs.iter().copied()).stdout(Stdio::null()).stderr(log).spawn().unwrap())
    }

    pub fn log(&self) -> String {
        self.log_of("worker")
    }

    pub fn log_of(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir.path().join(format!("{name}.log"))).unwrap_or_default()
    }

    /// Topic of a pipeline.
    pub fn topic(&self, kind: &str) -> String {
        format!("{}.{kind}", self.database)
    }

    /// Host and port of the database.
    pub fn database_address(&self) -> String {
        let (_, rest) = self.url.split_once('@').unwrap();
        rest.split_once('/').unwrap().0.to_owned()
    }

    /// The database's URL through a proxy.
    pub fn database_through(&self, proxy: &Proxy) -> String {
        self.url.replace(&self.database_address(), &format!("127.0.0.1:{}", proxy.port))
    }

    /// A psql of its own.
    pub fn psql(&self, sql: &str) -> Command {
        psql_command(&self.url, sql)
    }

    /// A question to the database whose answer is one value.
    pub fn sql(&self, sql: &str) -> String {
        psql(&self.url, sql)
    }

    pub fn count(&self, sql: &str) -> i64 {
        self.sql(sql).parse().unwrap()
    }

    /// Waits until `done`, at most `seconds`.
    pub fn wait(&self, what: &str, seconds: u64, mut done: impl FnMut() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(seconds);
        while !done() {
            assert!(Instant::now() < deadline, "not within {seconds} s: {what}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Everything is accounted for, and the ledger of a pipeline has exactly these: results, rejected, skipped, deferred.
    pub fn assert_ledger(&self, kind: &str, wanted: [i64; 4]) {
        let report = &self.json(&["audit"])[0];
        assert_eq!(report["ok"], true, "{report}");
        let all = report["partitions"].as_array().unwrap().iter().filter(|p| p["pipeline"] == kind);
        let mut got = [0; 4];
        for partition in all {
            for (i, key) in ["results", "rejected", "skipped", "deferred"].iter().enumerate() {
                got[i] += partition[key].as_i64().unwrap();
            }
        }
        assert_eq!(got, wanted, "{kind}: results, rejected, skipped, deferred");
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let drop = format!("DROP DATABASE {} WITH (FORCE)", self.database);
        if !std::thread::panicking() {
            psql(&self.admin, &drop);
        }
    }
}

/// A worker process; killed with the test.
pub struct Worker(pub Child);

impl Worker {
    pub fn signal(&self, signal: &str) {
        let status = Command::new("kill").args([signal, &self.0.id().to_string()]).status().unwrap();
        assert!(status.success());
    }

    /// Waits for the end, at most `seconds`; the exit code.
    pub fn end(mut self, seconds: u64) -> Option<i32> {
        let deadline = Instant::now() + Duration::from_secs(seconds);
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status.code();
            }
            assert!(Instant::now() < deadline, "the worker did not end within {seconds} s");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // It may have ended long ago.
        let _ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// A port that nobody listens on now.
pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Status and body; `None` where nobody listens.
pub fn http_get(port: u16, path: &str) -> Option<(u16, String)> {
    use std::io::Read;
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

fn psql_command(url: &str, sql: &str) -> Command {
    let psql = std::env::var("SPAWN_PG_BIN")
        .map_or_else(|_| PathBuf::from("psql"), |bin| Path::new(&bin).join("psql"));
    let mut command = Command::new(psql);
    command.args([url, "-qAt", "-v", "ON_ERROR_STOP=1", "-c", sql]);
    command
}

fn psql(url: &str, sql: &str) -> String {
    let output = psql_command(url, sql).output().unwrap();
    assert!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}
