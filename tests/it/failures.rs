//! Each class of failure has its own end.

use crate::world::{World, media};
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
