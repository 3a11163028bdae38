//! Labelled steps at which a test lets the process die, to prove that the table is the same afterwards. In production the label is never set and a
//! step costs one atomic load.

use std::sync::OnceLock;

static DIE_AT: OnceLock<String> = OnceLock::new();

/// From now on the process aborts when it reaches `step`: `claimed`, `admitted`, `prepared`, `batched`, `inferred`, `writing`, `written`.
pub fn die_at(step: String) {
    // A second call changes nothing: the first label stands.
    let _already_set = DIE_AT.set(step);
}

pub(crate) fn reached(step: &str) {
    if DIE_AT.get().is_some_and(|wanted| wanted == step) {
        std::process::abort();
    }
}
