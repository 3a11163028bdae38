//! A database server that dies and comes back as it was earlier, while a worker runs.

use crate::servers::Postgres;
use crate::supply::Supply;
use crate::world::{World, figure, rounds};
use std::time::{Duration, Instant};

const TABLE: &str =
    "SELECT string_agg(event_id || encode(content_hash, 'hex'), ',' ORDER BY event_id) FROM spawn.result";

#[test]
fn a_database_set_back_while_a_worker_runs_ends_with_the_same_table() {
    let restores = rounds("SPAWN_RESTORES", 1);
    let postgres = Postgres::start();
    let world = World::within("restore", &postgres);
    world.run(&["migrate"]);
    let mut supply = Supply::new(&world, &[]);
    let settled = || world.count("SELECT count(*) FROM spawn.record");
    let worker = world.worker(&["--pipeline", "text", "--set", "line.unit_records=10"]);
    let mut slowest = Duration::ZERO;
    for _ in 0..restores {
        let before = settled();
        supply.more(400);
        world.wait("some are settled", 60, || settled() > before + 50);
        postgres.save();
        slowest = slowest.max(supply.all_go_on(&world));
        world.wait("all are settled", 60, || settled() == supply.sent as i64);
        supply.more(100);
        world.wait("more are settled", 60, || settled() == supply.sent as i64);
        postgres.restore();
        assert!(settled() < supply.sent as i64, "nothing was set back: nothing was proved");
        // Nobody sends anything: the worker finds out by itself.
        let restored = Instant::now();
        world.wait("all are settled again", 30, || settled() == supply.sent as i64);
        slowest = slowest.max(restored.elapsed()).max(supply.all_go_on(&world));
        world.wait("all are settled", 60, || settled() == supply.sent as i64);
    }
    worker.signal("-TERM");
    assert_eq!(worker.end(15), Some(0), "{}", world.log());
    world.assert_ledger("text", [supply.sent as i64, 0, 0, 0]);

    let undisturbed = World::new("kept");
    let mut same = Supply::new(&undisturbed, &[]);
    same.more(supply.sent);
    assert_eq!(undisturbed.worker(&["--pipeline", "text", "--exit-at-end"]).end(300), Some(0));
    assert_eq!(world.sql(TABLE), undisturbed.sql(TABLE));
    figure("restore.restores", restores);
    figure("restore.progress_again_max", slowest.as_secs_f64());
}
