//! The entry: dispatches by scheme, and retries what may pass.

use crate::circuit::Circuits;
use crate::guard::Guard;
use crate::{file, http, telemetry};
use bytes::Bytes;
use spawn_core::{BoxFuture, Media, Payload, Refusal, Rejection};
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use url::Url;

/// Longest time that one record may spend on retries in the line. An ordered line waits for its slowest record: what takes longer is
/// deferred and tried again outside of it.
const RETRY_WITHIN: Duration = Duration::from_secs(2);
/// First wait between tries; doubles.
const RETRY_FIRST: Duration = Duration::from_millis(100);

/// What may be fetched, and how much of it.
#[derive(Clone, Debug)]
pub struct FetchConfig {
    /// Folders below which `file://` references may lie; none without one.
    pub file_roots: Vec<PathBuf>,
    /// Whether `http(s)://` is followed.
    pub http_allowed: bool,
    /// Hosts that may be asked; all without one.
    pub hosts_allowed: Vec<String>,
    /// Whether loopback, private and link-local addresses may be asked.
    pub private_addresses_allowed: bool,
    /// Bytes of one payload.
    pub bytes_max: usize,
    /// Bytes that a reference over HTTP is taken to have until its host tells.
    pub bytes_expected: usize,
    /// One attempt, with its connection and all redirects.
    pub timeout: Duration,
    /// Longest wait for a connection.
    pub connect_timeout: Duration,
    /// Requests to one host at the same time, so that a slow one does not take every place of the window.
    pub per_host_concurrency: usize,
    /// Redirects followed.
    pub redirects_max: usize,
    /// References of one host in a row that could not be fetched, after which it is left alone; 0: never.
    pub circuit_failures: u32,
    /// Longest time for which it is left alone.
    pub circuit_max: Duration,
}

impl Default for FetchConfig {
    fn default() -> Self {
        Self {
            file_roots: Vec::new(),
            http_allowed: true,
            hosts_allowed: Vec::new(),
            private_addresses_allowed: false,
            bytes_max: 32 << 20,
            bytes_expected: 256 << 10,
            timeout: Duration::from_secs(2),
            connect_timeout: Duration::from_secs(1),
            per_host_concurrency: 64,
            redirects_max: 3,
            circuit_failures: 5,
            circuit_max: Duration::from_secs(60),
        }
    }
}

/// Fetches payloads. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Fetcher {
    roots: Vec<file::Root>,
    http: Option<http::Client>,
    bytes_max: usize,
    bytes_expected: usize,
    timeout: Duration,
    circuits: Circuits,
}

/// Why an attempt gave nothing.
#[derive(Debug)]
pub(crate) enum Failed {
    /// For good.
    Rejected(Rejection),
    /// It may work later.
    Transient(String),
    /// Room for so many bytes is missing; nothing was wrong.
    NoRoom(usize),
}

/// Memory that a payload may occupy while it is fetched.
pub trait Room: Send {
    /// Makes it `bytes` if that is possible at once.
    fn try_grow(&mut self, bytes: usize) -> bool;
    /// Waits until it is `bytes`.
    fn grow(&mut self, bytes: usize) -> BoxFuture<'_, ()>;
}

/// For single items: no bound but the largest payload.
#[derive(Debug)]
pub struct Unbounded;

impl Room for Unbounded {
    fn try_grow(&mut self, _: usize) -> bool {
        true
    }
    fn grow(&mut self, _: usize) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}

pub(crate) fn reject(code: &'static str, detail: impl std::fmt::Display) -> Failed {
    Failed::Rejected(Rejection::new("fetch", code, detail))
}

impl Fetcher {
    /// Checks the folders and builds the client.
    pub fn new(config: FetchConfig) -> Result<Self, FetchConfigError> {
        let root = |path: &PathBuf| {
            file::Root::new(path)
                .map_err(|e| FetchConfigError(format!("fetch.file_roots: {}: {e}", path.display())))
        };
        let roots = config.file_roots.iter().map(root).collect::<Result<_, _>>()?;
        let http = match config.http_allowed {
            true => Some(http::Client::new(&config, Guard::new(&config)).map_err(FetchConfigError)?),
            false => None,
        };
        let circuits = Circuits::new(config.circuit_failures, config.circuit_max);
        let (bytes_max, bytes_expected) = (config.bytes_max, config.bytes_expected.min(config.bytes_max));
        Ok(Self { roots, http, bytes_max, bytes_expected, timeout: config.timeout, circuits })
    }

    /// Bytes that the payload has, or for a reference probably has: nobody is asked.
    pub fn size_expected(&self, payload: &Payload) -> usize {
        match payload {
            Payload::Inline(bytes) => bytes.len(),
            Payload::Reference(_) => self.bytes_expected,
        }
    }

    /// The bytes. Refusals name what was found; never credentials or queries of a URI.
    /// What turns out larger than expected asks `room` before it takes the bytes.
    pub async fn fetch(
        &self,
        payload: Payload,
        hint: Option<String>,
        room: &mut dyn Room,
    ) -> Result<Media, Refusal> {
        let (bytes, hint) = match payload {
            Payload::Inline(bytes) => (bytes, hint),
            Payload::Reference(uri) => {
                let (bytes, found) = self.resolve(&uri, room).await?;
                (bytes, hint.or(found))
            }
        };
        if bytes.is_empty() {
            return Err(Rejection::new("fetch", "payload.empty", "the payload has no bytes").into());
        }
        if bytes.len() > self.bytes_max {
            return Err(too_large(bytes.len() as u64, self.bytes_max).into());
        }
        Ok(Media::new(bytes, hint))
    }

    /// Tries for a while, then leaves it for later.
    async fn resolve(&self, uri: &str, room: &mut dyn Room) -> Result<(Bytes, Option<String>), Refusal> {
        let url =
            Url::parse(uri).map_err(|e| Rejection::new("fetch", "payload.uri", format!("not a URI: {e}")))?;
        let (mut started, mut wait) = (Instant::now(), RETRY_FIRST);
        let defer = |detail: String| Refusal::Defer(Rejection::new("fetch", "payload.unreachable", detail));
        let place = match (url.host_str(), url.port_or_known_default()) {
            (Some(host), Some(port)) => format!("{host}:{port}"),
            _ => file::place(&url, &self.roots),
        };
        let pass = self.circuits.enter(&place, started).map_err(|left| {
            telemetry::deferred_at_once();
            defer(format!(
                "{place} failed several times and is left alone for {:.1} s more",
                left.as_secs_f64()
            ))
        })?;
        let (mut allowed, mut failed_host) = (self.timeout, false);
        loop {
            let asked_at = OnceLock::new();
            let (failed, of_host) =
                match tokio::time::timeout(allowed, self.attempt(&url, room, &asked_at)).await {
                    Ok(Err(Failed::Transient(detail))) => (detail, true),
                    Ok(Err(Failed::NoRoom(bytes))) => {
                        // No connection is kept while waiting for memory, and the wait is not the host's: it is asked again afterwards.
                        let asked = Instant::now();
                        room.grow(bytes).await;
                        started += asked.elapsed();
                        continue;
                    }
                    Err(_elapsed) => {
                        // Our own queue before a busy host says nothing about that host: it must have had half of the time.
                        let asked = asked_at.get().is_some_and(|at: &Instant| at.elapsed() >= allowed / 2);
                        (format!("{place}: timed out"), asked)
                    }
                    Ok(answered) => {
                        self.circuits.answered(&place);
                        return answered.map_err(|failed| match failed {
                            Failed::Rejected(rejection) => rejection.into(),
                            Failed::Transient(detail) => defer(detail),
                            Failed::NoRoom(bytes) => defer(format!("no memory for {bytes} bytes")),
                        });
                    }
                };
            failed_host |= of_host;
            if started.elapsed() + wait >= RETRY_WITHIN {
                if failed_host {
                    self.circuits.failed(&place, pass, Instant::now());
                }
                return Err(defer(failed));
            }
            tokio::time::sleep(wait).await;
            wait *= 2;
            // A further try has what is left: together they stay within the bound.
            allowed = self.timeout.min(RETRY_WITHIN.saturating_sub(started.elapsed()));
        }
    }

    /// `asked_at` is set once whoever has the bytes is asked.
    async fn attempt(
        &self,
        url: &Url,
        room: &mut dyn Room,
        asked_at: &OnceLock<Instant>,
    ) -> Result<(Bytes, Option<String>), Failed> {
        match (url.scheme(), &self.http) {
            ("file", _) => {
                asked_at.get_or_init(Instant::now);
                file::read(url, &self.roots, self.bytes_max, room).await.map(|bytes| (bytes, None))
            }
            ("http" | "https", Some(client)) => client.get(url.clone(), self.bytes_max, room, asked_at).await,
            ("http" | "https", None) => {
                Err(reject("payload.denied", "fetch.http is off: http references are not followed"))
            }
            (scheme, _) => {
                Err(reject("payload.uri", format!("scheme `{scheme}`: file, http and https are understood")))
            }
        }
    }
}

pub(crate) fn too_large(bytes: u64, bytes_max: usize) -> Rejection {
    Rejection::new(
        "fetch",
        "payload.too_large",
        format!("{bytes} bytes, fetch.payload_bytes_max is {bytes_max}"),
    )
}

/// A setting of the fetcher that cannot work.
#[derive(Debug)]
pub struct FetchConfigError(String);

impl std::fmt::Display for FetchConfigError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for FetchConfigError {}
