//! Checks a commit unit before anything of it is sent. What fails here is a bug of the line, never a record's fault: the line stops,
//! and the next claim reads everything again from the checkpoint.

use crate::identity::PipelineIdentity;
use spawn_core::{Batch, Body, Fault, FaultClass, Inferred};
use std::collections::HashMap;

/// Every record lies in its partition's span, under its claim, and they are as many as were polled; every vector is of this
/// generation.
pub(crate) fn check(batch: &Batch<Inferred>, identity: &PipelineIdentity) -> Result<(), Fault> {
    let mut counts: HashMap<i32, u64> = HashMap::new();
    for envelope in &batch.envelopes {
        let origin = envelope.origin();
        let Some(span) = batch.delta.get(&origin.partition) else {
            return Err(bug(format!("{origin} is in a unit that does not settle its partition")));
        };
        if span.claim != envelope.record.claim {
            return Err(bug(format!("{origin} was read under another claim than its unit")));
        }
        if !(span.from..span.to).contains(&origin.offset) {
            return Err(bug(format!("{origin} is outside of [{}, {})", span.from, span.to)));
        }
        *counts.entry(origin.partition).or_default() += 1;
        if let Body::Work(inferred) = &envelope.body {
            check_provenance(inferred, identity).map_err(|why| bug(format!("{origin}: {why}")))?;
        }
    }
    for (partition, span) in &batch.delta {
        let found = counts.get(partition).copied().unwrap_or(0);
        if found != span.records {
            return Err(bug(format!(
                "the line lost records: [{}, {}) of partition {partition} holds {found} of {} polled",
                span.from, span.to, span.records
            )));
        }
    }
    Ok(())
}

fn check_provenance(inferred: &Inferred, identity: &PipelineIdentity) -> Result<(), String> {
    let made = &inferred.provenance;
    for (what, made, wanted) in [
        ("model", &made.model, &identity.model),
        ("preparation", &made.preparation, &identity.preparation),
        ("number type", &made.dtype, &identity.dtype),
    ] {
        if **made != **wanted {
            return Err(format!("its {what} is `{made}`, the generation's is `{wanted}`"));
        }
    }
    let vectors = inferred.chunks.iter().filter_map(|c| c.embedding.as_ref()).chain(&inferred.pooled);
    match vectors.map(|v| v.as_slice().len()).find(|n| *n != identity.dimension) {
        Some(n) => Err(format!("its vector has {n} elements, the generation's have {}", identity.dimension)),
        None => Ok(()),
    }
}

fn bug(detail: String) -> Fault {
    Fault::new(FaultClass::Operator, "postgres", format!("{detail}. This is a bug; a restart reads it again"))
}
