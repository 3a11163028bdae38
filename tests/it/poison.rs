//! Among good records one in a hundred is bad and one in a hundred never gets an answer.

use crate::kills::positions;
use crate::supply::{PARTITIONS, Supply, send, text};
use crate::world::{World, figure, rounds};
use std::collections::BTreeSet;
use std::net::TcpListener;
use std::time::{Duration, Instant};

/// Records per quarter of a second: less than any machine can do, so that whoever is late was held up.
const PIECE: usize = 25;

/// Where the records lie, with the code that they must have.
fn found(world: &World, table: &str) -> BTreeSet<String> {
    let rows = world.sql(&format!("SELECT partition || ':' || \"offset\" || ':' || code FROM spawn.{table}"));
    rows.lines().map(str::to_owned).collect()
}

#[test]
fn bad_and_silent_records_end_where_they_belong_and_hold_nobody_up() {
    let world = World::new("poison");
    let count = rounds("SPAWN_POISON", 1000) as usize;
    world.run(&["migrate"]);
    let supply = Supply::new(&world, &[]);
    // It accepts connections and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    let worker = world.worker(&["--pipeline", "text", "--set", "fetch.http_private=true"]);
    let mut sent: [Vec<Instant>; PARTITIONS] = Default::default();
    let (mut rejected, mut deferred) = (BTreeSet::new(), BTreeSet::new());
    let late = |sent: &[Vec<Instant>; PARTITIONS]| {
        let waits =
            |(partition, next): (i64, i64)| sent[partition as usize].get(next as usize).map(Instant::elapsed);
        positions(&world).into_iter().filter_map(waits).max().unwrap_or_default()
    };
    let warm = (0..PARTITIONS).map(|p| (p as i32, "", text(count + p)));
    send(supply.topic(), warm);
    sent.iter_mut().for_each(|times| times.push(Instant::now()));
    let settled = || world.count("SELECT count(*) FROM spawn.record");
    world.wait("the worker is at work", 60, || settled() == PARTITIONS as i64);

    let mut latest = Duration::ZERO;
    for start in (0..count).step_by(PIECE) {
        let began = Instant::now();
        let mut jobs = Vec::new();
        for i in start..(start + PIECE).min(count) {
            // Each partition has its share of each kind.
            let partition = (i + i / 100) % PARTITIONS;
            let place = format!("{partition}:{}", sent[partition].len());
            let job = match (i % 100, i / 100 % 2) {
                (37, 0) => {
                    rejected.insert(format!("{place}:envelope.field"));
                    format!(r#"{{"id": 5, "text": "number {i} whose id is no text"}}"#)
                }
                (37, _) => {
                    rejected.insert(format!("{place}:text.not_utf8"));
                    format!(
                        r#"{{"id": "bad{i}", "inline_base64": "//76IG5vdCB0ZXh0", "media_type": "text/plain"}}"#
                    )
                }
                (73, _) => {
                    deferred.insert(format!("{place}:payload.unreachable"));
                    format!(r#"{{"id": "silent{i}", "uri": "http://{address}/{i}"}}"#)
                }
                _ => text(i),
            };
            sent[partition].push(Instant::now());
            jobs.push((partition as i32, "", job));
        }
        send(supply.topic(), jobs);
        latest = latest.max(late(&sent));
        std::thread::sleep(Duration::from_millis(250).saturating_sub(began.elapsed()));
    }
    world.wait("all of them are settled", 60, || {
        latest = latest.max(late(&sent));
        settled() == (count + PARTITIONS) as i64
    });
    worker.signal("-TERM");
    assert_eq!(worker.end(15), Some(0), "{}", world.log());
    assert!(latest <= Duration::from_secs(5), "a partition was {latest:?} late");
    assert_eq!(found(&world, "rejection"), rejected);
    assert_eq!(found(&world, "redrive"), deferred);
    let (bad, slow) = (rejected.len() as i64, deferred.len() as i64);
    world.assert_ledger("text", [(count + PARTITIONS) as i64 - bad - slow, bad, 0, slow]);
    figure("poison.records", count);
    figure("poison.late_max", latest.as_secs_f64());
}
