//! Workers that join and leave all the time, that get the same ids at once, and that get more than they can do.

use crate::kills::assert_all_there;
use crate::supply::{PARTITIONS, Supply, send, text};
use crate::world::{World, figure, rounds};
use std::time::{Duration, Instant};

const TEXT: [&str; 2] = ["--pipeline", "text"];
/// Texts that wait at least, so that nobody is idle.
const WAITING: usize = 2000;

fn settled(world: &World) -> i64 {
    world.count("SELECT count(*) FROM spawn.record")
}

/// Texts per second while there is always more to do, over so many.
fn calm_rate(world: &World, supply: &mut Supply, count: i64) -> f64 {
    let (before, started) = (settled(world), Instant::now());
    world.wait("the calm rate is known", 120, || supply.keep(world, WAITING) >= before + count);
    (settled(world) - before) as f64 / started.elapsed().as_secs_f64()
}

#[test]
fn workers_that_join_and_leave_all_the_time_lose_and_double_nothing() {
    let world = World::new("storm");
    let rebalances = rounds("SPAWN_REBALANCES", 4);
    world.run(&["migrate"]);
    let mut supply = Supply::new(&world, &[]);
    supply.more(WAITING);
    let first = world.worker(&TEXT);
    world.wait("the first worker's progress", 60, || settled(&world) > 200);
    let calm = calm_rate(&world, &mut supply, 2 * WAITING as i64);
    let (before, started) = (settled(&world), Instant::now());
    let (mut second, mut slowest) = (None, Duration::ZERO);
    for rebalance in 0..rebalances {
        let log = format!("second{rebalance}");
        second = match second {
            None => {
                let worker = world.worker_with(&TEXT, &[], &log);
                world.wait("the second worker has partitions", 60, || {
                    supply.keep(&world, WAITING);
                    world.log_of(&log).contains("partition claimed")
                });
                Some(worker)
            }
            // In turn asked to leave, and killed.
            Some(worker) => {
                let asked = rebalance % 4 == 1;
                worker.signal(if asked { "-TERM" } else { "-9" });
                assert_eq!(worker.end(15), asked.then_some(0), "{}", world.log());
                None
            }
        };
        supply.keep(&world, WAITING);
        slowest = slowest.max(supply.all_go_on(&world));
    }
    let stormy = (settled(&world) - before) as f64 / started.elapsed().as_secs_f64();
    let claims = world.count("SELECT sum(owner_epoch) FROM spawn.checkpoint");
    assert!(claims >= PARTITIONS as i64 + i64::from(rebalances), "{claims} claims: nothing moved");
    for worker in [Some(first), second].into_iter().flatten() {
        worker.signal("-TERM");
        assert_eq!(worker.end(15), Some(0), "{}", world.log());
    }
    assert_eq!(world.worker(&["--pipeline", "text", "--exit-at-end"]).end(300), Some(0), "{}", world.log());
    assert_all_there(&world, supply.sent);
    figure("rebalance.count", rebalances);
    figure("rebalance.progress_again_max", slowest.as_secs_f64());
    figure("rebalance.throughput", stormy / calm);
}

#[test]
fn the_same_ids_from_four_workers_become_one_result_each() {
    let world = World::new("same");
    let count = rounds("SPAWN_SAME_IDS", 1000) as usize;
    world.run(&["migrate"]);
    let supply = Supply::new(&world, &[]);
    let logs = ["a", "b", "c", "d"];
    let workers =
        logs.map(|log| world.worker_with(&["--pipeline", "text", "--set", "line.unit_records=64"], &[], log));
    world.wait("each worker has a partition", 120, || {
        logs.iter().all(|log| world.log_of(log).contains("partition claimed"))
    });
    // Two partitions have them forwards and two backwards, so that units meet the same ids in any order.
    let jobs = (0..count).flat_map(|i| {
        (0..PARTITIONS).map(move |p| (p as i32, "", text(if p % 2 == 0 { i } else { count - 1 - i })))
    });
    send(supply.topic(), jobs);
    let all = (count * PARTITIONS) as i64;
    world.wait("all of them are settled", 120 + count as u64 / 20, || settled(&world) == all);
    for (worker, log) in workers.into_iter().zip(logs) {
        worker.signal("-TERM");
        assert_eq!(worker.end(15), Some(0), "{}", world.log_of(log));
    }
    world.assert_ledger("text", [count as i64, 0, all - count as i64, 0]);
    assert_eq!(world.count("SELECT count(DISTINCT event_id) FROM spawn.result"), count as i64);
    let partitions = world.count("SELECT count(DISTINCT partition) FROM spawn.result");
    assert!(partitions > 1, "one partition won each time: they did not meet");
    let deadlocks = world.count("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()");
    assert_eq!(deadlocks, 0);
    figure("duplicates.ids", count);
    figure("duplicates.deadlocks", deadlocks);
}

/// Resident memory of a process in kB.
pub fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn ten_times_what_a_worker_can_do_costs_lag_and_no_memory() {
    let world = World::new("overload");
    let seconds = u64::from(rounds("SPAWN_OVERLOAD_SECONDS", 10)).max(6);
    world.run(&["migrate"]);
    let mut supply = Supply::new(&world, &[]);
    supply.more(WAITING);
    let worker = world.worker(&TEXT);
    world.wait("the worker's progress", 60, || settled(&world) > 500);
    let best = calm_rate(&world, &mut supply, 2 * WAITING as i64);
    let (before, started) = (settled(&world), Instant::now());
    let (mut memory, mut lags) = ([0; 2], Vec::new());
    for second in 1..=seconds {
        supply.more((best * 10.0) as usize);
        lags.push(supply.sent as i64 - settled(&world));
        // The rate that is asked for, until this second is over.
        while started.elapsed() < Duration::from_secs(second) {
            let half = &mut memory[usize::from(second > seconds / 2)];
            *half = resident(worker.0.id()).max(*half);
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    let took = started.elapsed();
    let goodput = (settled(&world) - before) as f64 / took.as_secs_f64() / best;
    assert!(took < Duration::from_secs(seconds * 2), "the producer could not keep the rate: {took:?}");
    assert!(lags.is_sorted() && lags[0] > 0, "the lag grows: {lags:?}");
    let growth = memory[1] as f64 / memory[0] as f64;
    assert!(growth < 1.25, "{memory:?} kB");
    worker.signal("-TERM");
    assert_eq!(worker.end(15), Some(0), "{}", world.log());
    let report = &world.json(&["audit"])[0];
    assert_eq!(report["ok"], true, "{report}");
    assert_eq!(world.count("SELECT count(DISTINCT event_id) FROM spawn.result"), settled(&world));
    figure("overload.goodput", goodput);
    figure("overload.memory", growth);
}
