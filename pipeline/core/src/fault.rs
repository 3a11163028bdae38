//! Bad data travels on as a [`Rejection`]; a broken system stops the line with a [`Fault`].

use std::borrow::Cow;
use std::fmt;

/// Why one record was refused. About the record, never about the system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// The step that refused it: `envelope`, `fetch`, `prepare`, `infer` or `store`.
    pub stage: &'static str,
    /// Stable, machine-readable and dotted, for example `decode.truncated`. The list is in `docs/rejections.md`.
    pub code: Cow<'static, str>,
    /// For a person: what was found and what would be accepted. No payload, no credentials, at most 500 characters.
    pub detail: String,
}

impl Rejection {
    /// A rejection with its detail cut to 500 characters.
    pub fn new(stage: &'static str, code: impl Into<Cow<'static, str>>, detail: impl fmt::Display) -> Self {
        let detail: String = detail.to_string().chars().filter(|c| *c != '\0').take(500).collect();
        Self { stage, code: code.into(), detail }
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}): {}", self.code, self.stage, self.detail)
    }
}

/// What is to be done about a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultClass {
    /// A device ran out of memory: halve the call and try again.
    Resource,
    /// A model call failed for a reason that may be one record's: bisect.
    Batch,
    /// The store refused a value (SQLSTATE 22, 23, 54): bisect to the record.
    Store,
    /// A dependency is gone: keep everything, try again with back-off.
    Systemic,
    /// Only an operator can decide (another spec owns the topic, the topic was made anew): stop this pipeline loudly.
    Operator,
}

/// A broken dependency. Never the fault of a healthy record.
#[derive(Debug)]
pub struct Fault {
    /// What is to be done.
    pub class: FaultClass,
    /// Which dependency: `kafka`, `postgres`, `model`, `fetch`.
    pub domain: &'static str,
    /// What happened and, where it is known, what would mend it.
    pub detail: String,
}

impl Fault {
    /// A fault of `class` in `domain`.
    pub fn new(class: FaultClass, domain: &'static str, detail: impl fmt::Display) -> Self {
        Self { class, domain, detail: detail.to_string() }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.domain, self.detail)
    }
}

impl std::error::Error for Fault {}
