//! What `/healthz`, `/readyz` and the metrics say of a worker in which something does not move.

use crate::proxy::{Proxy, Way};
use crate::world::{World, free_port, http_get};
use serde_json::Value;
use std::net::TcpListener;
use std::process::{Command, Stdio};

/// A worker whose steps may take two seconds.
fn worker(world: &World, more: &[&str], envs: &[(&str, &str)]) -> (crate::world::Worker, u16) {
    let port = free_port();
    let listen = format!("metrics.listen=127.0.0.1:{port}");
    let args = [&["--pipeline", "text", "--set", &listen, "--set", "health.stuck_seconds=2"], more].concat();
    let worker = world.worker_with(&args, envs, "worker");
    world.wait("the worker listens", 60, || http_get(port, "/healthz").is_some());
    (worker, port)
}

fn asked(port: u16, path: &str) -> (u16, Value) {
    let (status, body) = http_get(port, path).unwrap();
    (status, serde_json::from_str(&body).unwrap())
}

/// The pipeline's line of the answer.
fn line(answer: &Value) -> &Value {
    answer["checks"].as_array().unwrap().iter().find(|check| check["id"] == "line").unwrap()
}

fn named(world: &World, port: u16, step: &str) {
    world.wait(&format!("{step} is named"), 30, || asked(port, "/healthz").0 == 503);
    for path in ["/healthz", "/readyz"] {
        let (status, answer) = asked(port, path);
        assert_eq!(status, 503, "{path}: {answer}");
        assert_eq!(
            (&line(&answer)["pipeline"], &line(&answer)["stuck"]),
            (&"text".into(), &serde_json::json!([step]))
        );
    }
    let gauge = format!("spawn_stage_stuck{{pipeline=\"text\",stage=\"{step}\"}} 1");
    world.wait("the metric names it", 30, || http_get(port, "/metrics").unwrap().1.contains(&gauge));
}

fn well(world: &World, port: u16) {
    world.wait("all is well", 30, || asked(port, "/readyz").0 == 200 && asked(port, "/healthz").0 == 200);
}

#[test]
fn a_write_that_waits_for_a_lock_is_named_and_forgotten_when_it_is_over() {
    let world = World::new("stuck_write");
    let (worker, port) = worker(&world, &[], &[]);
    world.ingest_texts(0, 40);
    let settled = |count| world.count("SELECT count(*) FROM spawn.record") == count;
    world.wait("the first ones are written", 60, || settled(40));
    well(&world, port);
    let sql = "BEGIN; SELECT 1 FROM spawn.checkpoint FOR UPDATE; SELECT pg_sleep(60)";
    let mut holder = world.psql(sql).stdout(Stdio::null()).spawn().unwrap();
    world.wait("the lock is held", 30, || {
        world.count("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'") == 1
    });
    world.ingest_texts(40, 80);
    named(&world, port, "write");
    world.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'");
    holder.wait().unwrap();
    world.wait("the rest is written", 60, || settled(80));
    well(&world, port);
    worker.signal("-TERM");
    assert_eq!(worker.end(15), Some(0), "{}", world.log());
    world.assert_ledger("text", [80, 0, 0, 0]);
}

#[test]
fn a_server_that_never_answers_makes_fetch_the_named_step() {
    let world = World::new("stuck_fetch");
    // Accepts by its backlog alone, and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let manifest = world.dir.path().join("silent.csv");
    let uri = format!("http://127.0.0.1:{}/never", silent.local_addr().unwrap().port());
    std::fs::write(&manifest, format!("id,uri,modality\nx,{uri},text\n")).unwrap();
    let patient = ["--set", "fetch.http_private=true", "--set", "fetch.timeout_seconds=60"];
    let (worker, port) = worker(&world, &patient, &[]);
    well(&world, port);
    world.run(&["ingest", manifest.to_str().unwrap(), "--modality", "text"]);
    named(&world, port, "fetch");
    worker.signal("-KILL");
}

#[test]
fn a_worker_behind_a_frozen_or_dead_database_is_alive_and_not_ready() {
    let world = World::new("gone");
    world.run(&["migrate"]);
    let proxy = Proxy::before(&world.database_address());
    let (worker, port) = worker(&world, &[], &[("DATABASE_URL", &world.database_through(&proxy))]);
    world.ingest_texts(0, 40);
    let settled = |count| world.count("SELECT count(*) FROM spawn.record") == count;
    world.wait("the first ones are written", 60, || settled(40));
    let both = [Way::ToServer, Way::ToClient];
    for trouble in ["frozen", "dead"] {
        match trouble {
            "frozen" => proxy.freeze(&both, true),
            _ => proxy.kill(),
        }
        if trouble == "frozen" {
            world.ingest_texts(40, 80);
        } else {
            world.ingest_texts(80, 120);
        }
        let waits = || line(&asked(port, "/readyz").1)["waits_for"] == serde_json::json!(["postgres"]);
        world.wait(&format!("readiness names the {trouble} database"), 30, waits);
        assert_eq!(asked(port, "/readyz").0, 503);
        let (status, answer) = asked(port, "/healthz");
        assert_eq!(status, 200, "a restart would not help: {answer}");
        match trouble {
            // What the proxy still holds goes with the connections: a thawed server would get it late.
            "frozen" => {
                proxy.kill();
                proxy.freeze(&both, false);
                proxy.revive();
                world.wait("the rest is written", 120, || settled(80));
            }
            _ => {
                proxy.revive();
                world.wait("the rest is written", 60, || settled(120));
            }
        }
        well(&world, port);
    }
    worker.signal("-TERM");
    assert_eq!(worker.end(15), Some(0), "{}", world.log());
}

#[test]
fn an_api_without_a_line_is_alive() {
    let world = World::new("idle_api");
    let port = free_port();
    let mut api = world
        .command(&["api", "--no-models", "--set", &format!("api.listen=127.0.0.1:{port}")])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    world.wait("the API listens", 60, || http_get(port, "/healthz").is_some_and(|(status, _)| status == 200));
    drop(Command::new("kill").arg(api.id().to_string()).status());
    assert!(api.wait().unwrap().success());
}

#[test]
fn a_worker_on_the_cpu_maps_no_cuda_library_and_tells_how_it_batches() {
    let world = World::new("cpu_maps");
    let (worker, port) = worker(&world, &["--set", "models.device=cpu"], &[]);
    world.ingest_texts(0, 40);
    world.wait("all are written", 60, || {
        world.count("SELECT count(*) FROM spawn.record WHERE outcome = 0") == 40
    });
    let maps = std::fs::read_to_string(format!("/proc/{}/maps", worker.0.id())).unwrap();
    assert!(maps.contains("/libtorch_cpu.so"), "{maps}");
    assert!(!maps.contains("/libtorch_cuda"), "the library for a GPU is there, and mapped");
    let metrics = http_get(port, "/metrics").unwrap().1;
    let told = [
        "spawn_batch_dispatch_total{pipeline=\"text\",reason=\"",
        "spawn_batch_padding_ratio_count{pipeline=\"text\"}",
    ];
    for name in told {
        assert!(metrics.contains(name), "{name} in {metrics}");
    }
}
