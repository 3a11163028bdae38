//! Labelled steps at which a test lets the process die, to prove that the table is the same afterwards. In production the label is never set and a
//! step costs one atomic load.

use std::sync::OnceLock;

static DIE_AT: OnceLock<String> = OnceLock::new();

/// From now on the process aborts when it reaches `step`: `claimed`, `admitted`, `prepared`, `batched`, `inferred`, `writing`, `written`; or, as
/// `media=WORDS`, when it prepares media that contain these words.
pub fn die_at(step: String) {
    // A second call changes nothing: the first label stands.
    let _already_set = DIE_AT.set(step);
}

pub(crate) fn reached(step: &str) {
    if DIE_AT.get().is_some_and(|wanted| wanted == step) {
        std::process::abort();
    }
}

/// These media are prepared now.
pub fn preparing(media: &[u8]) {
    let words = DIE_AT.get().and_then(|wanted| wanted.strip_prefix("media="));
    if words.is_some_and(|words| media.windows(words.len()).any(|window| window == words.as_bytes())) {
        std::process::abort();
    }
}
