//! The gate of the decoded bytes, entered in order before the crew.
//!
//! The stage tells from the header how much memory the media will need, and refuses what is over a limit before anything is decoded.

use crate::budget::{Reservation, Share};
use crate::claims::Claims;
use crate::fetch::Fetched;
use crate::meter::{Meter, State};
use crate::reuse::{Lookup, Reuse};
use crate::steps::reached;
use crate::telemetry::Stats;
use spawn_core::{Entry, Hold, Rejection, Stage};
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::mpsc::{Receiver, Sender};

/// Media that may be decoded.
#[derive(Debug)]
pub struct Decodable {
    /// The bytes and their room.
    pub fetched: Fetched,
    /// Room for what they become.
    pub decoded: Reservation,
    /// Whether the content was seen before.
    pub lookup: Lookup,
}

/// Lets entries pass as memory allows. Stale ones are dropped here, before they cost any work.
pub(crate) async fn admit(
    mut entries: Receiver<Entry<Fetched>>,
    out: Sender<Entry<Decodable>>,
    stage: Box<dyn Stage>,
    decoded: Share,
    claims: Claims,
    reuse: Reuse,
    (meter, stats): (Arc<Meter>, Arc<Stats>),
) {
    while let Some(entry) = meter.during(State::Starved, entries.recv()).await {
        if !claims.is_current(entry.partition(), entry.claim()) {
            continue;
        }
        let entry = match entry {
            Entry::Mark(mark) => Entry::Mark(mark),
            Entry::Item(envelope) => {
                let (mut rest, work) = envelope.split();
                let decodable = match work {
                    None => None,
                    Some(mut fetched) => Some(match footprint(&*stage, &fetched) {
                        Ok(bytes) => {
                            let lookup = reuse.look_up(fetched.media.content);
                            let begun = Instant::now();
                            let decoded = meter.during(State::Blocked, decoded.acquire(bytes)).await;
                            stats.stage_took("admit", begun.elapsed());
                            Ok(Decodable { fetched, decoded, lookup })
                        }
                        Err(rejection) => {
                            // The original value stays until it is written as a dead letter.
                            fetched.raw.shrink_to(rest.record.value.as_ref().map_or(0, |v| v.len()));
                            rest.holds.push(Hold::new(fetched.raw));
                            Err(rejection)
                        }
                    }),
                };
                reached("admitted");
                meter.add_items(1);
                Entry::Item(rest.join(decodable))
            }
        };
        if meter.during(State::Blocked, out.send(entry)).await.is_err() {
            return;
        }
    }
}

fn footprint(stage: &dyn Stage, fetched: &Fetched) -> Result<usize, Rejection> {
    // Header parsers read hostile bytes: a panic in one is that record's end, not the line's.
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| stage.footprint(&fetched.media))).unwrap_or_else(
        |panic| Err(Rejection::new("prepare", "stage.panic", crate::crew::panic_message(&*panic))),
    )
}
