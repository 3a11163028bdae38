//! SIGTERM while a dependency is dead or frozen: out in less than ten seconds, and nothing is lost by it.

use crate::proxy::{Proxy, Way};
use crate::servers::Kafka;
use crate::world::{World, figure, rounds};
use std::time::{Duration, Instant};

/// Everything in the line was written, or some of it was left to the next owner.
const SETTLED: Option<i32> = Some(0);
const UNSETTLED: Option<i32> = Some(75);
const TEXTS: usize = 400;
const ARGS: [&str; 4] = ["--pipeline", "text", "--set", "line.unit_records=5"];

/// Asks the worker to stop; its exit code.
fn stop(world: &World, worker: crate::world::Worker) -> Option<i32> {
    let asked = Instant::now();
    worker.signal("-TERM");
    let code = worker.end(12);
    let took = asked.elapsed();
    assert!(took < Duration::from_secs(10), "{took:?}\n{}", world.log());
    eprintln!("ended after {took:.1?} with {code:?}");
    code
}

fn in_the_middle(world: &World) {
    let settled = || world.count("SELECT count(*) FROM spawn.record");
    world.wait("some are settled", 60, || settled() > 20);
    assert!(settled() < TEXTS as i64, "all was done already: nothing was proved");
}

/// The next worker finds everything.
fn finish(world: &World) {
    let next = world.worker(&["--pipeline", "text", "--exit-at-end"]);
    assert_eq!(next.end(120), Some(0), "{}", world.log());
    world.assert_ledger("text", [TEXTS as i64, 0, 0, 0]);
}

fn with_database(name: &str, trouble: impl Fn(&Proxy)) {
    let world = World::new(name);
    world.ingest_texts(0, TEXTS);
    world.run(&["migrate"]);
    let proxy = Proxy::before(&world.database_address());
    // Slow enough to be in the middle of it.
    proxy.delay(Way::ToClient, Duration::from_millis(20));
    let worker = world.worker_with(&ARGS, &[("DATABASE_URL", &world.database_through(&proxy))], "worker");
    in_the_middle(&world);
    trouble(&proxy);
    assert_eq!(stop(&world, worker), UNSETTLED, "{}", world.log());
    finish(&world);
}

#[test]
fn a_dead_database_does_not_keep_a_worker() {
    with_database("drain_dead", Proxy::kill);
}

#[test]
fn a_frozen_database_does_not_keep_a_worker() {
    with_database("drain_frozen", |proxy| proxy.freeze(&[Way::ToServer, Way::ToClient], true));
}

#[test]
fn a_database_that_comes_back_in_time_lets_the_worker_finish() {
    let world = World::new("drain_back");
    world.ingest_texts(0, TEXTS);
    world.run(&["migrate"]);
    let proxy = Proxy::before(&world.database_address());
    proxy.delay(Way::ToClient, Duration::from_millis(20));
    let worker = world.worker_with(&ARGS, &[("DATABASE_URL", &world.database_through(&proxy))], "worker");
    in_the_middle(&world);
    proxy.kill();
    world.wait("the worker has noticed", 30, || world.log().contains("dependency gone"));
    worker.signal("-TERM");
    proxy.revive();
    assert_eq!(worker.end(12), SETTLED, "{}", world.log());
    finish(&world);
}

#[test]
fn a_dead_or_frozen_broker_does_not_keep_a_worker() {
    let mut kafka = Kafka::start();
    let world = World::on("drain_broker", &kafka.brokers());
    world.run(&["migrate"]);
    world.ingest_texts(0, TEXTS);
    let before = world.worker(&ARGS);
    in_the_middle(&world);
    kafka.signal("-STOP");
    let code = stop(&world, before);
    assert!([SETTLED, UNSETTLED].contains(&code), "{code:?}\n{}", world.log());
    kafka.signal("-CONT");
    let worker = world.worker(&ARGS);
    let settled = || world.count("SELECT count(*) FROM spawn.record");
    let before = settled();
    world.wait("it goes on", 60, || settled() > before);
    kafka.kill();
    let code = stop(&world, worker);
    assert!([SETTLED, UNSETTLED].contains(&code), "{code:?}\n{}", world.log());
    kafka.start_again();
    finish(&world);
}

#[test]
fn workers_asked_to_stop_again_and_again_end_in_time() {
    let stops = rounds("SPAWN_SIGTERMS", 5);
    let mut kafka = Kafka::start();
    let world = World::on("drain_often", &kafka.brokers());
    world.run(&["migrate"]);
    let proxy = Proxy::before(&world.database_address());
    proxy.delay(Way::ToClient, Duration::from_millis(20));
    let through = world.database_through(&proxy);
    let (both, mut sent, mut slowest) = ([Way::ToServer, Way::ToClient], 0, Duration::ZERO);
    let settled = || world.count("SELECT count(*) FROM spawn.record");
    for stop in 0..stops {
        let before = settled();
        if (sent as i64) < before + TEXTS as i64 {
            world.ingest_texts(sent, sent + 2 * TEXTS);
            sent += 2 * TEXTS;
        }
        let worker = world.worker_with(&ARGS, &[("DATABASE_URL", &through)], "worker");
        world.wait("the worker is in the middle of it", 30, || settled() > before + 20);
        assert!(settled() < sent as i64, "all was done already: nothing was proved");
        match stop % 5 {
            1 => proxy.kill(),
            2 => proxy.freeze(&both, true),
            3 => kafka.signal("-STOP"),
            4 => kafka.kill(),
            _ => {}
        }
        let asked = Instant::now();
        worker.signal("-TERM");
        let code = worker.end(12);
        slowest = slowest.max(asked.elapsed());
        assert!(slowest < Duration::from_secs(10), "round {stop}: {slowest:?}\n{}", world.log());
        assert!([SETTLED, UNSETTLED].contains(&code), "round {stop}: {code:?}\n{}", world.log());
        match stop % 5 {
            1 => proxy.revive(),
            2 => {
                // What the proxy still holds goes with the connections.
                proxy.kill();
                proxy.freeze(&both, false);
                proxy.revive();
            }
            3 => kafka.signal("-CONT"),
            4 => kafka.start_again(),
            _ => {}
        }
    }
    let next = world.worker(&["--pipeline", "text", "--exit-at-end"]);
    assert_eq!(next.end(300), Some(0), "{}", world.log());
    world.assert_ledger("text", [sent as i64, 0, 0, 0]);
    assert_eq!(world.count("SELECT count(DISTINCT event_id) FROM spawn.result"), sent as i64);
    figure("sigterm.exits", stops);
    figure("sigterm.exit_max", slowest.as_secs_f64());
}
