//! The metrics of this crate. Hosts come from messages, so none is a label.

use metrics::{counter, gauge};

/// So many hosts more (or fewer) are left alone.
pub(crate) fn hosts_alone(change: i64) {
    gauge!("spawn_fetch_circuit_open_hosts").increment(change as f64);
}

/// A reference was deferred without a request.
pub(crate) fn deferred_at_once() {
    counter!("spawn_fetch_circuit_deferred_total").increment(1);
}
