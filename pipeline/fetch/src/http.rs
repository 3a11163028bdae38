//! `http(s)://` references: every hop is checked, every size and wait is bounded.

use crate::fetcher::{Failed, FetchConfig, Room, reject, too_large};
use crate::guard::{Guard, denied};
use bytes::{Bytes, BytesMut};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::{CONTENT_TYPE, LOCATION};
use reqwest::redirect::Policy;
use reqwest::{Response, StatusCode};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use url::Url;

/// A client with the guard in its resolver. No proxy: it would resolve names behind the guard's back.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    client: reqwest::Client,
    guard: Guard,
    hosts: Hosts,
    redirects_max: usize,
}

impl Client {
    pub(crate) fn new(config: &FetchConfig, guard: Guard) -> Result<Self, String> {
        let client = reqwest::Client::builder()
            .redirect(Policy::none())
            .no_proxy()
            .timeout(config.timeout)
            .connect_timeout(config.connect_timeout)
            .pool_max_idle_per_host(32)
            .pool_idle_timeout(Duration::from_secs(30))
            .user_agent(concat!("spawn/", env!("CARGO_PKG_VERSION")))
            .dns_resolver(Arc::new(GuardedResolver(guard.clone())))
            .build()
            .map_err(|e| format!("cannot build the HTTP client: {e}"))?;
        let hosts = Hosts::new(config.per_host_concurrency);
        Ok(Self { client, guard, hosts, redirects_max: config.redirects_max })
    }

    /// The body and its declared media type.
    pub(crate) async fn get(
        &self,
        mut url: Url,
        bytes_max: usize,
        room: &mut dyn Room,
        asked_at: &OnceLock<Instant>,
    ) -> Result<(Bytes, Option<String>), Failed> {
        for _ in 0..=self.redirects_max {
            self.guard.check_url(&url)?;
            let _place = self.hosts.place(url.host_str().unwrap_or_default()).await;
            asked_at.get_or_init(Instant::now);
            let response = self.client.get(url.clone()).send().await.map_err(|e| self.failed(&e))?;
            if !response.status().is_redirection() {
                return body(response, bytes_max, room).await;
            }
            let location = response.headers().get(LOCATION).and_then(|l| l.to_str().ok());
            let location =
                location.ok_or_else(|| reject("payload.http_status", "a redirect without a location"))?;
            url =
                url.join(location).map_err(|e| reject("payload.uri", format!("redirect to no URI: {e}")))?;
        }
        Err(reject("payload.http_status", format!("more than {} redirects", self.redirects_max)))
    }

    fn failed(&self, error: &reqwest::Error) -> Failed {
        // The resolver's refusal lies somewhere below the client's own errors.
        let mut cause: Option<&dyn std::error::Error> = Some(error);
        while let Some(below) = cause {
            if let Some(Refused(address)) = below.downcast_ref() {
                return denied(address.ip());
            }
            cause = below.source();
        }
        match error.is_builder() {
            true => reject("payload.uri", "no request can be made of this URI"),
            false => Failed::Transient(describe(error)),
        }
    }
}

/// Places for requests, per host. Whoever waits for one does so within its attempt's time.
#[derive(Clone, Debug)]
struct Hosts {
    places: Arc<Mutex<HashMap<String, Arc<Semaphore>>>>,
    concurrency: usize,
}

/// Hosts remembered; idle ones are forgotten beyond that.
const HOSTS_MAX: usize = 1024;

impl Hosts {
    fn new(concurrency: usize) -> Self {
        Self { places: Arc::default(), concurrency: concurrency.max(1) }
    }

    async fn place(&self, host: &str) -> OwnedSemaphorePermit {
        let semaphore = {
            let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
            if places.len() >= HOSTS_MAX {
                places.retain(|_, semaphore| Arc::strong_count(semaphore) > 1);
            }
            let fresh = || Arc::new(Semaphore::new(self.concurrency));
            places.entry(host.to_owned()).or_insert_with(fresh).clone()
        };
        semaphore.acquire_owned().await.expect("never closed. This is a bug.")
    }
}

/// Without the URL, which may carry credentials.
fn describe(error: &reqwest::Error) -> String {
    let kind = if error.is_timeout() {
        "timed out"
    } else if error.is_connect() {
        "no connection"
    } else {
        "the answer broke off"
    };
    let host = error.url().and_then(Url::host_str).unwrap_or("the host");
    format!("{host}: {kind}")
}

async fn body(
    mut response: Response,
    bytes_max: usize,
    room: &mut dyn Room,
) -> Result<(Bytes, Option<String>), Failed> {
    let status = response.status();
    if !status.is_success() {
        return Err(refusal(status));
    }
    if let Some(length) = response.content_length().filter(|n| *n > bytes_max as u64) {
        return Err(Failed::Rejected(too_large(length, bytes_max)));
    }
    let told = response.content_length().unwrap_or(0) as usize;
    if !room.try_grow(told) {
        return Err(Failed::NoRoom(told));
    }
    let media_type = response.headers().get(CONTENT_TYPE).and_then(|t| t.to_str().ok()).map(str::to_owned);
    let mut bytes = BytesMut::with_capacity(told);
    while let Some(chunk) = response.chunk().await.map_err(|e| Failed::Transient(describe(&e)))? {
        if bytes.len() + chunk.len() > bytes_max {
            return Err(Failed::Rejected(too_large((bytes.len() + chunk.len()) as u64, bytes_max)));
        }
        let needed = bytes.len() + chunk.len();
        if needed > bytes.capacity() {
            // Nobody told how long it is: it grows by doubling, and whoever finds no room asks for the most.
            let larger = (2 * needed).min(bytes_max);
            if !room.try_grow(larger) {
                return Err(Failed::NoRoom(bytes_max));
            }
            bytes.reserve(larger - bytes.len());
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok((bytes.freeze(), media_type))
}

fn refusal(status: StatusCode) -> Failed {
    match status {
        StatusCode::NOT_FOUND | StatusCode::GONE => {
            reject("payload.not_found", format!("the host answered {status}"))
        }
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS => {
            Failed::Transient(format!("the host answered {status}"))
        }
        s if s.is_server_error() => Failed::Transient(format!("the host answered {s}")),
        s => reject("payload.http_status", format!("the host answered {s}")),
    }
}

/// Resolves names and refuses those that lead to addresses the guard refuses: also for a name that changes between two questions.
struct GuardedResolver(Guard);

#[derive(Debug)]
struct Refused(SocketAddr);

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} is refused", self.0.ip())
    }
}

impl std::error::Error for Refused {}

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let guard = self.0.clone();
        Box::pin(async move {
            let addresses: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            if let Some(address) = addresses.iter().find(|a| !guard.allows(a.ip())) {
                return Err(Refused(*address).into());
            }
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}
