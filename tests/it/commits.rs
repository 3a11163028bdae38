//! Writes whose answer is lost, and workers that wake up after their partitions have moved on.

use crate::proxy::Proxy;
use crate::world::{World, figure, rounds};
use std::time::{Duration, Instant};

#[test]
fn a_commit_without_an_answer_loses_and_doubles_nothing() {
    let world = World::new("cuts");
    let cuts = rounds("SPAWN_CUTS", 20);
    // Units of five, so that every second one or so is cut.
    let count = cuts as usize * 15;
    world.ingest_texts(0, count);
    world.run(&["migrate"]);
    let proxy = Proxy::before(&world.database_address());
    proxy.cut_writes(cuts);
    let through = world.database_through(&proxy);
    let args = ["--pipeline", "text", "--exit-at-end", "--set", "line.unit_records=5"];
    let worker = world.worker_with(&args, &[("DATABASE_URL", &through)], "worker");
    assert_eq!(worker.end(60 + u64::from(cuts) * 2), Some(0), "{}", world.log());
    let [before, after] = proxy.cuts();
    assert_eq!(before + after, cuts, "{before} before the answer, {after} after it");
    assert!(before > 0 && after > 0, "{before} before the answer, {after} after it");
    world.assert_ledger("text", [count as i64, 0, 0, 0]);
    assert_eq!(world.count("SELECT count(DISTINCT event_id) FROM spawn.result"), count as i64);
    figure("commit.cuts", cuts);
}

#[test]
fn a_zombie_is_fenced_and_every_partition_goes_on() {
    let world = World::new("zombie");
    world.run(&["migrate"]);
    let proxy = Proxy::before(&world.database_address());
    let through = world.database_through(&proxy);
    let args = ["--pipeline", "text", "--set", "line.unit_records=10"];
    let rounds = rounds("SPAWN_ZOMBIES", 3);
    let (mut sent, mut slowest) = (0, Duration::ZERO);
    let mut send = |count: usize| {
        world.ingest_texts(sent, sent + count);
        sent += count;
        sent as i64
    };
    let settled = || world.count("SELECT count(*) FROM spawn.record");
    let heir = world.worker_with(&args, &[], "heir");
    for round in 1..=rounds {
        let log = format!("zombie{round}");
        let zombie = world.worker_with(&args, &[("DATABASE_URL", &through)], &log);
        world.wait("the zombie has partitions", 60, || world.log_of(&log).contains("partition claimed"));
        let all = send(400);
        // Its write is on the way when it freezes; it arrives only after its partitions have gone to the other.
        proxy.hold_next_write();
        zombie.signal("-STOP");
        world.wait("the other one finishes alone", 60, || settled() == all);
        proxy.release_write();
        assert_eq!(settled(), all, "the late write changed nothing");
        zombie.signal("-CONT");
        // Whichever it hears of first: the database's answer, or the group's.
        let told = ["fenced: another claim is newer", "partitions lost"];
        world.wait("the zombie hears of it", 30, || {
            told.iter().any(|words| world.log_of(&log).contains(words))
        });
        slowest = slowest.max(progresses(&world, || send(80)));
        zombie.signal("-TERM");
        assert_eq!(zombie.end(15), Some(0), "{}", world.log_of(&log));
    }
    heir.signal("-TERM");
    assert_eq!(heir.end(15), Some(0), "{}", world.log_of("heir"));
    world.assert_ledger("text", [sent as i64, 0, 0, 0]);
    assert_eq!(world.count("SELECT count(DISTINCT event_id) FROM spawn.result"), sent as i64);
    figure("zombie.fenced", rounds);
    figure("zombie.progress_again_max", slowest.as_secs_f64());
}

/// Every partition moves, and all is settled, within 30 s; how long it took.
fn progresses(world: &World, send: impl FnOnce() -> i64) -> Duration {
    let positions = || {
        world.sql("SELECT string_agg(partition || ':' || next_offset, ',' ORDER BY partition) FROM spawn.checkpoint")
    };
    let (before, started) = (positions(), Instant::now());
    let all = send();
    world.wait("all partitions go on", 30, || world.count("SELECT count(*) FROM spawn.record") == all);
    let after = positions();
    let moved = before.split(',').zip(after.split(',')).filter(|(before, after)| before != after).count();
    assert!(moved >= 3, "of four partitions {moved} had records and moved: {before} and {after}");
    let took = started.elapsed();
    assert!(took < Duration::from_secs(30), "{took:?}");
    took
}
