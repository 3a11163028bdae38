//! The database and the model of it decide alike, so that what the simulation shows holds here.

use super::fixture::{Db, claim, unit, with_db, works};
use spawn_core::{Checkpoint, Claimed, Sink, Verdict};

#[tokio::test]
async fn the_database_judges_as_the_model_does() {
    with_db(|db: Db| async move {
        let sink = db.sink().await;
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut random = move |bound: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % bound
        };
        let (mut model, mut claims, mut spans) = (None::<Checkpoint>, Vec::<Claimed>::new(), Vec::new());
        let (mut records, mut seen) = (0, [0; 3]);
        for step in 0..300 {
            if claims.is_empty() || random(6) == 0 {
                let claimed = claim(&sink, 0).await;
                let taken = Checkpoint::claim(model, claimed.position, claimed.claim.token);
                assert_eq!((taken.owner, taken.next), (claimed.claim, claimed.position), "step {step}");
                model = Some(taken);
                claims.push(claimed);
                continue;
            }
            let Some(stored) = model.as_mut() else { continue };
            // Mostly the newest claim, at the position or where an earlier unit began.
            let old = if random(4) == 0 { random(claims.len() as u64) as usize } else { claims.len() - 1 };
            let (from, to) = match spans.last() {
                Some(last) if random(3) == 0 => *last,
                _ if random(5) == 0 => (stored.next + 1, stored.next + 2),
                _ => (stored.next, stored.next + 1 + random(3) as i64),
            };
            let at = Claimed { position: from, ..claims[old] };
            let batch = unit(&[at], works(&at, "a", from..to));
            let verdict = stored.judge(&batch.delta[&0], spans.contains(&(from, to)));
            let written = sink.write(&batch).await.unwrap();
            assert_eq!(written.fenced.is_empty(), verdict != Verdict::Fenced, "step {step}: {verdict:?}");
            if verdict == Verdict::Written {
                stored.next = to;
                spans.push((from, to));
                records += to - from;
            }
            seen[verdict as usize] += 1;
            assert_eq!(
                db.number("SELECT next_offset FROM spawn.checkpoint").await,
                stored.next,
                "step {step}"
            );
            assert_eq!(db.number("SELECT count(*) FROM spawn.record").await, records, "step {step}");
        }
        assert!(seen.iter().all(|n| *n > 10), "each verdict has to occur: {seen:?}");
        db.audited().await;
    })
    .await;
}
