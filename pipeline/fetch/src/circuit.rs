//! Hosts that fail several times in a row are left alone for a while.
//!
//! Without it each reference to a dead host would hold up its partition for the two seconds of its tries. Counted are references, not
//! requests: a host that is back within those two seconds is not noticed at all.

use crate::telemetry;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// First time for which a host is left alone; doubles with every probe that fails.
const WAIT_FIRST: Duration = Duration::from_secs(1);
/// Failing hosts remembered. Messages name the hosts, so there may be any number of them; those beyond it are simply tried.
const HOSTS_MAX: usize = 1024;

/// The failing hosts. A host that answers is forgotten.
#[derive(Clone, Debug)]
pub(crate) struct Circuits {
    hosts: Arc<Mutex<HashMap<String, Failing>>>,
    failures_max: u32,
    wait_max: Duration,
}

/// How a reference may ask its host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pass {
    /// Like everybody.
    Free,
    /// Alone: what becomes of it decides for the others.
    Probe,
}

#[derive(Clone, Copy, Debug)]
struct Failing {
    failures: u32,
    wait: Duration,
    /// Set once the host is left alone: nobody asks before this, then one does.
    alone_until: Option<Instant>,
}

impl Circuits {
    /// Leaves a host alone after `failures_max` failures in a row (0: never), for at most `wait_max` at a time.
    pub(crate) fn new(failures_max: u32, wait_max: Duration) -> Self {
        Self { hosts: Arc::default(), failures_max, wait_max }
    }

    /// Whether `host` may be asked now; if not, for how long it is still left alone.
    pub(crate) fn enter(&self, host: &str, now: Instant) -> Result<Pass, Duration> {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((failing, until)) = hosts.get_mut(host).and_then(|f| f.alone_until.map(|until| (f, until)))
        else {
            return Ok(Pass::Free);
        };
        if now < until {
            return Err(until - now);
        }
        // Should this one never report, the next goes after the same time.
        failing.alone_until = Some(now + failing.wait);
        Ok(Pass::Probe)
    }

    /// The host answered, whatever it said.
    pub(crate) fn answered(&self, host: &str) {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        if hosts.remove(host).is_some_and(|failing| failing.alone_until.is_some()) {
            telemetry::hosts_alone(-1);
        }
    }

    /// A reference of the host could not be fetched.
    pub(crate) fn failed(&self, host: &str, pass: Pass, now: Instant) {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        if self.failures_max == 0
            || (hosts.len() >= HOSTS_MAX && !hosts.contains_key(host)) && !make_room(&mut hosts, now)
        {
            return;
        }
        let first = Failing { failures: 0, wait: WAIT_FIRST.min(self.wait_max), alone_until: None };
        let failing = hosts.entry(host.to_owned()).or_insert(first);
        failing.failures = failing.failures.saturating_add(1);
        match (failing.alone_until, pass) {
            (None, _) if failing.failures < self.failures_max => return,
            (None, _) => {
                telemetry::hosts_alone(1);
                tracing::warn!(host, failures = failing.failures, "host left alone");
            }
            (Some(_), Pass::Probe) => failing.wait = (failing.wait * 2).min(self.wait_max),
            // It was under way already when the host was left alone.
            (Some(_), Pass::Free) => return,
        }
        failing.alone_until = Some(now + failing.wait);
    }
}

/// Forgets hosts that are not left alone (any more); whether that made room.
fn make_room(hosts: &mut HashMap<String, Failing>, now: Instant) -> bool {
    let alone =
        |hosts: &HashMap<String, Failing>| hosts.values().filter(|f| f.alone_until.is_some()).count() as i64;
    let before = alone(hosts);
    hosts.retain(|_, f| f.alone_until.is_some_and(|until| now < until));
    telemetry::hosts_alone(alone(hosts) - before);
    hosts.len() < HOSTS_MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAIT_MAX: Duration = Duration::from_secs(3);

    #[test]
    fn a_failing_host_is_left_alone_and_probed_by_one() {
        let (circuits, now) = (Circuits::new(3, WAIT_MAX), Instant::now());
        for _ in 0..2 {
            circuits.failed("a", Pass::Free, now);
        }
        assert_eq!(circuits.enter("a", now), Ok(Pass::Free), "two in a row are not three");
        for _ in 0..10 {
            // Also those that were under way: they do not make the wait longer.
            circuits.failed("a", Pass::Free, now);
        }
        assert_eq!(circuits.enter("a", now), Err(WAIT_FIRST));
        assert_eq!(circuits.enter("b", now), Ok(Pass::Free), "another host has nothing to do with it");
        let mut now = now;
        for wait in [1, 2, 3, 3] {
            assert_eq!(circuits.enter("a", now), Err(Duration::from_secs(wait)));
            now += Duration::from_secs(wait);
            assert_eq!(circuits.enter("a", now), Ok(Pass::Probe));
            assert!(circuits.enter("a", now).is_err(), "one probe at a time");
            circuits.failed("a", Pass::Probe, now);
        }
        now += WAIT_MAX;
        assert_eq!(circuits.enter("a", now), Ok(Pass::Probe));
        circuits.answered("a");
        assert_eq!(circuits.enter("a", now), Ok(Pass::Free));
        circuits.failed("a", Pass::Free, now);
        assert_eq!(circuits.enter("a", now), Ok(Pass::Free), "an answer begins the count anew");
    }

    #[test]
    fn the_memory_of_hosts_is_bounded() {
        let (circuits, now) = (Circuits::new(1, WAIT_MAX), Instant::now());
        for i in 0..HOSTS_MAX + 10 {
            circuits.failed(&i.to_string(), Pass::Free, now);
        }
        assert_eq!(circuits.hosts.lock().expect("lock").len(), HOSTS_MAX);
        assert_eq!(circuits.enter(&(HOSTS_MAX + 1).to_string(), now), Ok(Pass::Free));
        let later = now + WAIT_MAX;
        circuits.failed("late", Pass::Free, later);
        assert!(circuits.enter("late", later).is_err(), "those whose time is over make room");
    }
}
