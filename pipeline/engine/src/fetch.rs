//! Payloads become media: references are fetched in parallel, order is kept.

use crate::budget::Reservation;
use crate::health::{Health, Step, Working};
use crate::intake::Admitted;
use crate::meter::Meter;
use crate::ordered::map_ordered;
use crate::telemetry::Stats;
use crate::trial::Suspects;
use spawn_core::{BoxFuture, Entry, Envelope, Hold, Media, Payload, Refusal};
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::mpsc::{Receiver, Sender};

/// Resolves payloads. Implemented outside, so that the line needs no HTTP client.
pub trait Fetch: Send + Sync {
    /// Bytes of the payload, or for a reference what it probably has.
    fn size_expected(&self, payload: &Payload) -> usize;
    /// The bytes, or why there are none. Whoever finds more bytes than `room` has grows it before it takes them.
    fn fetch<'a>(
        &'a self,
        payload: Payload,
        hint: Option<String>,
        room: &'a mut Room<'_>,
    ) -> BoxFuture<'a, Result<Media, Refusal>>;
}

/// The memory that a payload occupies while it is fetched. Waiting for more is not the fetch's work: it counts as such to nobody's health.
pub struct Room<'a> {
    raw: &'a mut Reservation,
    health: &'a Health,
    working: Option<Working<'a>>,
}

impl<'a> Room<'a> {
    fn new(raw: &'a mut Reservation, health: &'a Health) -> Self {
        Self { raw, health, working: Some(health.begin(Step::Fetch)) }
    }

    /// See [`Reservation::try_grow`].
    pub fn try_grow(&mut self, bytes: usize) -> bool {
        self.raw.try_grow(bytes)
    }

    /// See [`Reservation::grow`].
    pub async fn grow(&mut self, bytes: usize) {
        self.working = None;
        self.raw.grow(bytes).await;
        self.working = Some(self.health.begin(Step::Fetch));
    }
}

/// Media with the room that its bytes occupy.
#[derive(Debug)]
pub struct Fetched {
    /// The bytes.
    pub media: Media,
    /// Their share of the raw pool.
    pub raw: Reservation,
}

/// Fetches up to `window` payloads at once.
pub(crate) async fn fetch_ordered(
    entries: Receiver<Entry<Admitted>>,
    out: Sender<Entry<Fetched>>,
    fetch: Arc<dyn Fetch>,
    window: usize,
    meter: Arc<Meter>,
    stats: Arc<Stats>,
    suspects: Suspects,
) {
    map_ordered(entries, out, window, meter, move |envelope| {
        let (fetch, stats, suspects) = (fetch.clone(), stats.clone(), suspects.clone());
        async move { fetch_one(&*fetch, &stats, &suspects, envelope).await }
    })
    .await;
}

async fn fetch_one(
    fetch: &dyn Fetch,
    stats: &Stats,
    suspects: &Suspects,
    envelope: Envelope<Admitted>,
) -> Envelope<Fetched> {
    let (mut rest, work) = envelope.split();
    let Some(Admitted { payload, mut raw }) = work else {
        return rest.join(None::<Result<_, Refusal>>);
    };
    let started = Instant::now();
    let hint = rest.job.media_type.clone();
    let fetched = fetch.fetch(payload, hint, &mut Room::new(&mut raw, &stats.health)).await;
    stats.stage_took("fetch", started.elapsed());
    // The original value stays until it is written: a refused one as a dead letter.
    let kept = rest.record.value.as_ref().map_or(0, |v| v.len());
    raw.shrink_to(fetched.as_ref().map_or(0, |media| media.bytes.len()).max(kept));
    let fetched = match fetched {
        Ok(media) => suspects.check(&rest.record, &media).await.map(|()| media).map_err(Refusal::from),
        refused => refused,
    };
    let result = match fetched {
        Ok(media) => Ok(Fetched { media, raw }),
        Err(refusal) => {
            rest.holds.push(Hold::new(raw));
            Err(refusal)
        }
    };
    rest.join(Some(result))
}
