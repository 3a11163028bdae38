//! Joins the fetcher to the configuration and to the line.

use crate::config::{Settings, file_roots, list};
use crate::exit::{Code, OrExit, Outcome};
use spawn_core::{BoxFuture, Media, Payload, Refusal};
use spawn_engine::Room;
use spawn_fetch::{FetchConfig, Fetcher};
use std::time::Duration;

/// The fetcher with the configuration's guards.
pub fn fetcher(settings: &Settings) -> Outcome<Fetcher> {
    let fetch = &settings.fetch;
    Fetcher::new(FetchConfig {
        file_roots: file_roots(settings),
        http_allowed: fetch.http,
        hosts_allowed: list(&fetch.http_hosts),
        private_addresses_allowed: fetch.http_private,
        bytes_max: fetch.payload_bytes_max,
        bytes_expected: fetch.expected_bytes,
        timeout: Duration::from_secs_f64(fetch.timeout_seconds),
        connect_timeout: Duration::from_secs_f64(fetch.connect_timeout_seconds),
        per_host_concurrency: fetch.per_host_concurrency,
        redirects_max: fetch.redirects_max,
        circuit_failures: fetch.circuit_failures,
        circuit_max: Duration::from_secs(fetch.circuit_seconds_max),
    })
    .or_exit(Code::Config)
}

/// Joins the fetcher to the line, which knows only its own seam.
pub(crate) struct Fetching(pub(crate) Fetcher);

impl spawn_engine::Fetch for Fetching {
    fn size_expected(&self, payload: &Payload) -> usize {
        self.0.size_expected(payload)
    }
    fn fetch<'a>(
        &'a self,
        payload: Payload,
        hint: Option<String>,
        room: &'a mut Room<'_>,
    ) -> BoxFuture<'a, Result<Media, Refusal>> {
        Box::pin(async move { self.0.fetch(payload, hint, &mut InLine(room)).await })
    }
}

/// The line's memory, as the fetcher sees it.
struct InLine<'a, 'b>(&'a mut Room<'b>);

impl spawn_fetch::Room for InLine<'_, '_> {
    fn try_grow(&mut self, bytes: usize) -> bool {
        self.0.try_grow(bytes)
    }
    fn grow(&mut self, bytes: usize) -> BoxFuture<'_, ()> {
        Box::pin(self.0.grow(bytes))
    }
}
