//! A value on its way through the line, or what became of it instead.

use crate::{Job, Origin, Record, Rejection};
use std::fmt;

/// A record with whatever the line has made of it so far. The origin cannot be lost, because only the body changes.
#[derive(Debug)]
pub struct Envelope<T> {
    /// The record as polled.
    pub record: Box<Record>,
    /// What it asks for.
    pub job: Box<Job>,
    /// How far it is.
    pub body: Body<T>,
    /// Memory it occupies in the budgets; given back when the envelope is dropped.
    pub holds: Vec<Hold>,
}

/// How far a record is. Everything but `Work` is final and travels to the sink untouched.
#[derive(Debug)]
pub enum Body<T> {
    /// Still to be worked on.
    Work(T),
    /// Refused for good.
    Rejected(Rejection),
    /// Nothing to do; the reason is a stable word such as `duplicate`.
    Skipped(&'static str),
    /// A dependency of this one record failed for now: to be tried again outside the line.
    Deferred(Rejection),
    /// A tombstone: delete what this key's earlier records wrote.
    Delete,
}

/// Why a step gives a record up.
#[derive(Debug, Clone, PartialEq)]
pub enum Refusal {
    /// For good.
    Reject(Rejection),
    /// For now.
    Defer(Rejection),
}

impl From<Rejection> for Refusal {
    fn from(rejection: Rejection) -> Self {
        Self::Reject(rejection)
    }
}

impl<T> Body<T> {
    /// Runs `f` on work and turns its refusal into the body; everything else passes through.
    pub fn try_map<U, E: Into<Refusal>>(self, f: impl FnOnce(T) -> Result<U, E>) -> Body<U> {
        match self {
            Self::Work(work) => match f(work).map_err(Into::into) {
                Ok(done) => Body::Work(done),
                Err(Refusal::Reject(rejection)) => Body::Rejected(rejection),
                Err(Refusal::Defer(rejection)) => Body::Deferred(rejection),
            },
            Self::Rejected(rejection) => Body::Rejected(rejection),
            Self::Skipped(reason) => Body::Skipped(reason),
            Self::Deferred(rejection) => Body::Deferred(rejection),
            Self::Delete => Body::Delete,
        }
    }
}

impl<T> Envelope<T> {
    /// An envelope that holds no memory yet.
    pub fn new(record: Record, job: Job, body: Body<T>) -> Self {
        Self { record: Box::new(record), job: Box::new(job), body, holds: Vec::new() }
    }

    /// Where the record lies.
    pub fn origin(&self) -> &Origin {
        &self.record.origin
    }

    /// See [`Body::try_map`].
    pub fn try_map<U, E: Into<Refusal>>(self, f: impl FnOnce(T) -> Result<U, E>) -> Envelope<U> {
        Envelope { record: self.record, job: self.job, body: self.body.try_map(f), holds: self.holds }
    }

    /// Takes the work out, leaving the rest to be put together again by [`Envelope::join`].
    pub fn split(self) -> (Envelope<()>, Option<T>) {
        let (body, work) = match self.body {
            Body::Work(work) => (Body::Work(()), Some(work)),
            Body::Rejected(rejection) => (Body::Rejected(rejection), None),
            Body::Skipped(reason) => (Body::Skipped(reason), None),
            Body::Deferred(rejection) => (Body::Deferred(rejection), None),
            Body::Delete => (Body::Delete, None),
        };
        (Envelope { record: self.record, job: self.job, body, holds: self.holds }, work)
    }
}

impl Envelope<()> {
    /// Puts back what became of the work that [`Envelope::split`] took out; `None` for an envelope that had none.
    pub fn join<U, E: Into<Refusal>>(self, done: Option<Result<U, E>>) -> Envelope<U> {
        self.try_map(|()| {
            done.expect("an envelope with work is joined with what became of it. This is a bug.")
        })
    }
}

/// Something that is given back when the last of the envelope is dropped: a share of a memory budget, or the promise
/// that a revoked partition was flushed. Opaque here, because `core` knows no runtime.
pub struct Hold(#[allow(dead_code, reason = "only its drop matters")] Box<dyn Send + Sync>);

impl Hold {
    /// Keeps `guard` until this hold is dropped.
    pub fn new(guard: impl Send + Sync + 'static) -> Self {
        Self(Box::new(guard))
    }
}

impl fmt::Debug for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hold")
    }
}
