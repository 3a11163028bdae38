//! Joins the deferred records of the store to the line: what comes back is parsed like what was polled.

use spawn_core::{Body, BoxFuture, Envelope, Fault, Inferred, Outcome, Payload};
use spawn_engine::redrive::Taken;
use spawn_kafka::job::{Raw, parse};
use spawn_postgres::Redrive;

/// The store's queue under the name that the line knows.
pub(crate) struct Redriving(pub(crate) Redrive);

impl spawn_engine::Deferred for Redriving {
    fn take(&self) -> BoxFuture<'_, Result<Vec<Taken>, Fault>> {
        let taken = |deferred: spawn_postgres::Deferred| Taken {
            suspect: deferred.suspect,
            envelope: envelope(deferred),
        };
        Box::pin(async move { Ok(self.0.take().await?.into_iter().map(taken).collect()) })
    }

    fn settle<'a>(
        &'a self,
        envelope: &'a Envelope<Inferred>,
    ) -> BoxFuture<'a, Result<Option<Outcome>, Fault>> {
        Box::pin(self.0.settle(envelope))
    }

    fn waiting(&self) -> BoxFuture<'_, Result<(u64, f64), Fault>> {
        Box::pin(async { self.0.waiting().await.map(|waiting| (waiting.records, waiting.oldest_seconds)) })
    }
}

fn envelope(deferred: spawn_postgres::Deferred) -> Envelope<Payload> {
    let record = deferred.record;
    let raw = Raw {
        topic: &record.origin.topic,
        key: record.key.as_ref(),
        value: record.value.as_ref(),
        headers: &record.headers,
    };
    let (job, body) = parse(raw);
    // Nothing is fetched for a record whose key was deleted meanwhile.
    let body = if deferred.superseded { Body::Skipped("superseded") } else { body };
    Envelope::new(record, job, body)
}
