//! Finding the records whose values the store refuses, by probes that are undone, so that the unit itself stays one transaction.

use crate::errors::rejection_code;
use crate::rows::{Override, Overrides, Rows};
use crate::sink::PgSink;
use crate::write::{Trouble, call, conflicts};
use spawn_core::{Batch, Body, Fault, FaultClass, Inferred, Rejection};
use std::ops::Range;

/// So many records of one unit may be refused in any case; beyond, most of a unit being refused means that not the records are wrong.
const REFUSED_MIN: usize = 8;

/// Adds a rejection for each record that the store refuses on its own. `why` is what it said of the whole unit.
pub(crate) async fn bisect(
    sink: &PgSink,
    batch: &Batch<Inferred>,
    overrides: &mut Overrides,
    why: (&str, &str),
) -> Result<(), Fault> {
    let mut refused = 0;
    let mut ranges: Vec<Range<usize>> = Vec::new();
    ranges.push(0..batch.envelopes.len());
    while let Some(range) = ranges.pop() {
        let probed = {
            let rows = Rows::of(batch, overrides, range.clone());
            call(sink, batch, &rows, true).await
        };
        match probed {
            Ok(_) => {}
            Err(Trouble::Conflicts(places)) => {
                conflicts(overrides, &places);
                ranges.push(range);
            }
            Err(Trouble::Refused(code, message)) if range.len() == 1 => {
                let place = range.start;
                if overrides.contains_key(&place) || !matches!(batch.envelopes[place].body, Body::Work(_)) {
                    // Its dead letter is refused: nothing is left that could be written for it.
                    return Err(hopeless(&code, &message));
                }
                let rejection =
                    Rejection::new("store", rejection_code(&code), format!("{message} (SQLSTATE {code})"));
                overrides.insert(place, Override::Rejected(rejection));
                refused += 1;
            }
            Err(Trouble::Refused(..)) => {
                let middle = range.start + range.len() / 2;
                ranges.push(middle..range.end);
                ranges.push(range.start..middle);
            }
            Err(Trouble::Fault(fault)) => return Err(fault),
        }
    }
    if refused == 0 || refused > REFUSED_MIN.max(batch.envelopes.len() / 2) {
        return Err(hopeless(why.0, why.1));
    }
    Ok(())
}

/// The store refuses a unit, and no record can be blamed.
pub(crate) fn hopeless(code: &str, message: &str) -> Fault {
    Fault::new(
        FaultClass::Operator,
        "postgres",
        format!(
            "the store refuses the unit, and it is not single records' fault: {message} (SQLSTATE {code}); compare the schema with \
             `spawn migrate --dry-run`"
        ),
    )
}
