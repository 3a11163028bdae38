//! Workers that die, come and go: the table is the same as if nothing had happened.

use crate::world::{World, figure, rounds};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const STEPS: [&str; 7] = ["claimed", "admitted", "prepared", "batched", "inferred", "writing", "written"];

pub fn assert_all_there(world: &World, count: usize) {
    world.assert_ledger("text", [count as i64, 0, 0, 0]);
    assert_eq!(world.count("SELECT count(DISTINCT event_id) FROM spawn.result"), count as i64);
}

/// Next offset of each partition.
pub fn positions(world: &World) -> BTreeMap<i64, i64> {
    let rows = world.sql("SELECT partition || ':' || next_offset FROM spawn.checkpoint");
    let number = |text: &str| text.parse().unwrap();
    rows.lines().filter_map(|row| row.split_once(':')).map(|(p, next)| (number(p), number(next))).collect()
}

/// End of each partition that was ever claimed.
fn ends(world: &World) -> BTreeMap<i64, i64> {
    if positions(world).is_empty() {
        return BTreeMap::new();
    }
    let report = &world.json(&["audit"])[0];
    let partitions = report["partitions"].as_array().unwrap().iter();
    partitions.map(|p| (p["partition"].as_i64().unwrap(), p["end_offset"].as_i64().unwrap())).collect()
}

#[test]
fn killed_workers_lose_and_double_nothing() {
    let world = World::new("kill");
    let kills = i64::from(rounds("SPAWN_KILLS", 5));
    let count = 600 * kills as usize;
    world.run(&["migrate"]);
    world.ingest_texts(0, count);
    let settled = || world.count("SELECT count(*) FROM spawn.record");
    let mut slowest = Duration::ZERO;
    for kill in 1..=kills {
        let (before, settled_before, ends) = (positions(&world), settled(), ends(&world));
        // Small units, so that each kill meets a worker in the middle of its work.
        let worker = world.worker(&["--pipeline", "text", "--set", "line.unit_records=32"]);
        let started = Instant::now();
        world.wait("each partition goes on after a kill", 30, || {
            let now = positions(&world);
            let goes_on = |(p, next): (&i64, &i64)| {
                *next > before.get(p).copied().unwrap_or(0) || ends.get(p) == Some(next)
            };
            now.len() == 4 && now.iter().all(goes_on)
        });
        slowest = slowest.max(started.elapsed());
        let wanted = settled_before + (count as i64 - settled_before) / (kills + 2 - kill);
        world.wait("more of it", 60, || settled() >= wanted);
        worker.signal("-9");
        assert_eq!(worker.end(10), None, "killed by a signal");
    }
    assert!(settled() < count as i64, "all was done before the last kill: nothing was proved");
    assert_eq!(world.worker(&["--pipeline", "text", "--exit-at-end"]).end(120), Some(0), "{}", world.log());
    assert_all_there(&world, count);
    figure("crash.kills", kills);
    figure("crash.progress_again_max", slowest.as_secs_f64());
}

#[test]
fn a_death_at_every_step_gives_the_same_table() {
    let rounds = rounds("SPAWN_STEP_ROUNDS", 1) as usize;
    let count = 60 * rounds;
    let undisturbed = World::new("calm");
    undisturbed.ingest_texts(0, count);
    assert_eq!(undisturbed.worker(&["--pipeline", "text", "--exit-at-end"]).end(300), Some(0));
    let world = World::new("steps");
    world.ingest_texts(0, count);
    for step in STEPS.repeat(rounds) {
        let mut command = world.command(&["worker", "--pipeline", "text", "--set", "line.unit_records=5"]);
        let output = command.env("SPAWN_DIE_AT", step).output().unwrap();
        assert!(
            output.status.code().is_none(),
            "did not reach `{step}`: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    assert_eq!(world.worker(&["--pipeline", "text", "--exit-at-end"]).end(300), Some(0), "{}", world.log());
    let table =
        "SELECT string_agg(event_id || encode(content_hash, 'hex'), ',' ORDER BY event_id) FROM spawn.result";
    assert_eq!(world.sql(table), undisturbed.sql(table));
    assert_all_there(&world, count);
    figure("steps.kills", STEPS.len() * rounds);
}

#[test]
fn workers_that_join_and_leave_share_the_work() {
    let world = World::new("rebalance");
    let count = 1200;
    world.ingest_texts(0, count);
    let settled = || world.count("SELECT count(*) FROM spawn.record");
    let first = world.worker(&["--pipeline", "text"]);
    world.wait("the first worker's progress", 60, || {
        world.log().contains("partition claimed") && settled() > 100
    });
    let second = world.worker(&["--pipeline", "text"]);
    world.wait("a partition moves", 60, || {
        world.count("SELECT count(*) FROM spawn.checkpoint WHERE owner_epoch > 1") > 0
    });
    first.signal("-TERM");
    assert_eq!(first.end(20), Some(0), "drains on SIGTERM: {}", world.log());
    world.wait("the second worker finishes", 120, || settled() >= count as i64);
    second.signal("-TERM");
    assert_eq!(second.end(20), Some(0), "{}", world.log());
    assert_all_there(&world, count);
}
