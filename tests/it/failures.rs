//! Each class of failure has its own end.

use crate::world::{World, figure, media};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering::SeqCst};

const BUSY: u8 = 0;
const SILENT: u8 = 1;
const WELL: u8 = 2;

/// A host of media on loopback that is well or not, as told.
struct Host {
    address: String,
    mood: Arc<AtomicU8>,
    asked: Arc<AtomicUsize>,
}

impl Host {
    /// Serves `/N`, the Nth of `files`.
    fn start(files: Vec<PathBuf>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (mood, asked) = (Arc::new(AtomicU8::new(BUSY)), Arc::new(AtomicUsize::new(0)));
        let (own_mood, own_asked) = (mood.clone(), asked.clone());
        std::thread::spawn(move || {
            let mut silent = Vec::new();
            for socket in listener.incoming() {
                let mut socket = socket.unwrap();
                let mut request = [0; 2048];
                let length = socket.read(&mut request).unwrap_or(0);
                own_asked.fetch_add(1, SeqCst);
                let path = String::from_utf8_lossy(&request[..length]);
                let wanted = path.split(['/', ' ']).nth(2).and_then(|n| n.parse::<usize>().ok());
                // A client that went away is no concern of this host.
                let _written = match (own_mood.load(SeqCst), wanted.and_then(|n| files.get(n))) {
                    (SILENT, _) => {
                        silent.push(socket);
                        Ok(())
                    }
                    (WELL, Some(file)) => {
                        let bytes = std::fs::read(file).unwrap();
                        let head = format!(
                            "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
                            bytes.len()
                        );
                        socket.write_all(head.as_bytes()).and_then(|()| socket.write_all(&bytes))
                    }
                    _ => socket
                        .write_all(b"HTTP/1.1 503 Busy\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"),
                };
            }
        });
        Self { address, mood, asked }
    }
}

/// References as one manifest onto the image topic.
fn ingest(world: &World, uris: impl Iterator<Item = (String, String)>) {
    let rows: String = uris.map(|(id, uri)| format!("{id},{uri},image\n")).collect();
    let manifest = world.dir.path().join("references.csv");
    std::fs::write(&manifest, format!("id,uri,modality\n{rows}")).unwrap();
    world.run(&["ingest", manifest.to_str().unwrap()]);
}

#[test]
fn records_of_a_host_that_fails_wait_beside_the_line_and_come_back() {
    let world = World::new("redrive");
    let files = media("images", 6);
    let host = Host::start(files.clone());
    let good = format!("file://{}", files[0].display());
    let uris = (0..6).map(|i| (format!("slow{i}"), format!("http://{}/{i}", host.address)));
    ingest(&world, uris.chain([("quick".into(), good)]));
    let settings = [
        "fetch.http_private=true",
        "redrive.delay_seconds=1",
        "redrive.lease_seconds=3",
        "fetch.circuit_seconds_max=1",
    ];
    let mut args = vec!["--pipeline", "image"];
    settings.iter().for_each(|set| args.extend(["--set", set]));

    let worker = world.worker(&args);
    let deferred = || world.count("SELECT coalesce(sum(deferred), 0) FROM spawn.span");
    world.wait("the line goes on without them", 60, || {
        world.log().contains("partition claimed")
            && deferred() == 6
            && world.count("SELECT count(*) FROM spawn.result") == 1
    });
    // Taken, and then their worker dies with them.
    host.mood.store(SILENT, SeqCst);
    let asked = host.asked.load(SeqCst);
    world.wait("a further try", 60, || host.asked.load(SeqCst) > asked);
    worker.signal("-9");
    assert_eq!(worker.end(10), None, "killed by a signal");
    world.assert_ledger("image", [1, 0, 0, 6]);

    host.mood.store(WELL, SeqCst);
    let worker = world.worker(&args);
    world.wait("they come back", 60, || world.count("SELECT count(*) FROM spawn.redrive") == 0);
    worker.signal("-TERM");
    assert_eq!(worker.end(20), Some(0), "{}", world.log());
    world.assert_ledger("image", [7, 0, 0, 0]);
    assert_eq!(world.count("SELECT count(DISTINCT event_id) FROM spawn.result"), 7);
}

#[test]
fn a_record_that_kills_its_worker_is_rejected_and_no_other() {
    let world = World::new("killer");
    // The deadly one first: it stands at the head of its partition.
    let texts = ["this one is DEADLY for whoever prepares it", "a good one", "another good one"];
    for (i, text) in texts.iter().enumerate() {
        let path = world.dir.path().join(format!("{i}.txt"));
        std::fs::write(&path, text).unwrap();
        world.run(&["submit", path.to_str().unwrap()]);
    }
    let deadly = [("SPAWN_DIE_AT", "media=DEADLY")];
    let worker = || world.worker_with(&["--pipeline", "text", "--exit-at-end"], &deadly, "worker");
    let mut deaths = 0;
    while worker().end(120) != Some(0) {
        deaths += 1;
        assert!(deaths <= 3, "three deaths at the same place are enough: {}", world.log());
    }
    assert_eq!(deaths, 3, "{}", world.log());
    world.assert_ledger("text", [2, 1, 0, 0]);
    figure("killer.deaths", deaths);
    assert_eq!(world.sql("SELECT code FROM spawn.rejection"), "process.killed");
    assert_eq!(
        world.count("SELECT count(*) FROM spawn.checkpoint WHERE deaths > 3"),
        0,
        "the last end was peaceful"
    );
}

#[test]
fn a_folder_that_is_not_mounted_pauses_the_pipeline_until_it_is() {
    let world = World::new("unmounted");
    let images = media("images", 1);
    let mount = world.dir.path().join("mount");
    std::fs::create_dir(&mount).unwrap();
    let count = 60;
    ingest(&world, (0..count).map(|i| (format!("m{i}"), format!("file://{}/{i}.jpg", mount.display()))));
    let mut args = vec!["--pipeline", "image", "--pipeline", "text"];
    // One unit holds them all, so that what is judged is the whole window.
    for set in ["line.failure_budget_records=50", "line.linger_ms=3000", "line.unit_records=60"] {
        args.extend(["--set", set]);
    }
    let worker = world.worker(&args);
    world.wait("paused", 60, || {
        world.log().contains("partition claimed")
            && world.count("SELECT count(*) FROM spawn.source WHERE paused") == 1
    });
    let row = || {
        let rows = world.json(&["pipelines", "ls"])[0]["pipelines"].clone();
        rows.as_array().unwrap().iter().find(|row| row["pipeline"] == "image").unwrap().clone()
    };
    let paused = row();
    assert_eq!((&paused["paused"], &paused["resumes_by_itself"]), (&true.into(), &true.into()), "{paused}");
    assert!(paused["paused_reason"].as_str().unwrap().contains("payload.not_found"), "{paused}");
    world.wait("a probe that finds nothing better", 60, || {
        world.log().contains("trying whether things are well")
    });
    assert_eq!(world.count("SELECT count(*) FROM spawn.record"), 0, "nothing was rejected");
    for i in 0..count {
        std::fs::copy(&images[0], mount.join(format!("{i}.jpg"))).unwrap();
    }
    world.wait("it goes on by itself", 90, || world.count("SELECT count(*) FROM spawn.record") == count);
    assert_eq!(row()["paused"], false);
    world.assert_ledger("image", [count, 0, 0, 0]);

    world.json(&["pipelines", "pause", "image", "--reason", "maintenance"]);
    world.wait("obeyed", 30, || world.log().contains("maintenance"));
    let cut = world.dir.path().join("cut.jpg");
    std::fs::write(&cut, &std::fs::read(&images[0]).unwrap()[..1000]).unwrap();
    let note = world.dir.path().join("note.txt");
    std::fs::write(&note, "a note that came later").unwrap();
    world.run(&["submit", cut.to_str().unwrap()]);
    world.run(&["submit", note.to_str().unwrap()]);
    world.wait("the other pipeline goes on", 60, || {
        world.count("SELECT count(*) FROM spawn.record") == count + 1
    });
    world.assert_ledger("image", [count, 0, 0, 0]);
    world.json(&["pipelines", "resume", "image"]);
    world.wait("one more", 60, || world.count("SELECT count(*) FROM spawn.rejection") == 1);
    worker.signal("-TERM");
    assert_eq!(worker.end(20), Some(0), "{}", world.log());
    world.assert_ledger("image", [count, 1, 0, 0]);
    figure("budget.resumed", 1);
}
