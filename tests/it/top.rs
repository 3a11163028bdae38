//! `spawn top` against workers of which one stage is slowed down: it names that stage at each look.

use crate::flood::{bitmap, links};
use crate::proxy::{Proxy, Way};
use crate::supply::Supply;
use crate::world::{Worker, World, free_port, media};
use rdkafka::config::ClientConfig;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::Duration;

/// Looks that must agree, one after the other.
const LOOKS: usize = 5;

/// A worker, looked at from outside.
struct Watched<'a> {
    world: &'a World,
    _worker: Worker,
    port: u16,
}

impl<'a> Watched<'a> {
    fn start(world: &'a World, args: &[&str], envs: &[(&str, &str)]) -> Self {
        let port = free_port();
        let listen = format!("metrics.listen=127.0.0.1:{port}");
        let args = [args, &["--set", &listen]].concat();
        Self { world, _worker: world.worker_with(&args, envs, "worker"), port }
    }

    /// The verb that is named, and the whole view.
    fn pace_setter(&self) -> Option<(String, serde_json::Value)> {
        let at = format!("127.0.0.1:{}", self.port);
        let output = self.world.command(&["top", "--once", "--json", "--worker", &at]).output().unwrap();
        let view: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
        assert_eq!(view["schema"], "spawn.top.v1");
        let pipeline = view["pipelines"].as_array()?.first()?;
        assert!(pipeline["stages"].as_array()?.len() == 7, "{view}");
        let named = &pipeline["bottleneck"];
        assert!(named.is_null() || named["moves"].as_str().is_some_and(|m| m.len() > 20), "{named}");
        named["stage"].as_str().map(|stage| (stage.to_owned(), pipeline["stages"].clone()))
    }

    fn must_name(self, stage: &str) {
        let named = || self.pace_setter().is_some_and(|(named, _)| named == stage);
        self.world.wait("the first time it is named", 60, named);
        for look in 0..LOOKS {
            std::thread::sleep(Duration::from_millis(500));
            let seen = self.pace_setter();
            let right = seen.as_ref().is_some_and(|(named, _)| named == stage);
            assert!(right, "look {look} for {stage}: {seen:#?}\n{}", self.world.log());
        }
    }
}

#[test]
fn the_stage_that_is_slowed_down_is_named_at_each_look() {
    let world = World::new("top");
    world.run(&["migrate"]);
    let mut supply = Supply::new(&world, &[]);
    supply.more(20_000);
    Watched::start(&world, &["--pipeline", "text"], &[]).must_name("infer");

    // Each answer of the database comes late.
    let proxy = Proxy::before(&world.database_address());
    proxy.delay(Way::ToClient, Duration::from_millis(400));
    let through = world.database_through(&proxy);
    let small = ["--pipeline", "text", "--set", "line.unit_records=4"];
    Watched::start(&world, &small, &[("DATABASE_URL", &through)]).must_name("write");

    // A host that takes its time over each picture.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let picture = std::fs::read(&media("images", 1)[0]).unwrap();
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            let (mut socket, picture) = (socket.unwrap(), picture.clone());
            std::thread::spawn(move || {
                let _read = socket.read(&mut [0; 2048]);
                std::thread::sleep(Duration::from_millis(300));
                let head = format!(
                    "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
                    picture.len()
                );
                // A client that went away is no concern of this host.
                let _written = socket.write_all(head.as_bytes()).and_then(|()| socket.write_all(&picture));
            });
        }
    });
    let rows: String = (0..400).map(|i| format!("slow{i},http://{address}/{i},image\n")).collect();
    let manifest = world.dir.path().join("slow.csv");
    std::fs::write(&manifest, format!("id,uri,modality\n{rows}")).unwrap();
    world.run(&["ingest", manifest.to_str().unwrap()]);
    let far = ["--pipeline", "image", "--set", "fetch.http_private=true", "--set", "line.fetch_window=4"];
    let watched = Watched::start(&world, &far, &[]);
    watched.must_name("fetch");

    // Pictures that are all decoding.
    let other = World::new("top_huge");
    let huge = other.dir.path().join("huge.bmp");
    bitmap(&huge, (8000, 8000), 1);
    let rows: String = links(&huge, 600).iter().map(|link| format!("{},image\n", link.display())).collect();
    let manifest = other.dir.path().join("huge.csv");
    std::fs::write(&manifest, format!("path,modality\n{rows}")).unwrap();
    other.run(&["ingest", manifest.to_str().unwrap()]);
    Watched::start(&other, &["--pipeline", "image"], &[]).must_name("prepare");
}

#[test]
fn a_broker_that_is_slow_to_answer_is_named_at_each_look() {
    // Answers a fetch with one batch of each partition, here a record.
    let cluster = MockCluster::new(1).unwrap();
    let brokers = cluster.bootstrap_servers();
    let world = World::on("top_broker", &brokers);
    let topic = world.topic("text");
    cluster.create_topic(&topic, 4, 1).unwrap();
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", &brokers)
        .set("batch.num.messages", "1")
        .create()
        .unwrap();
    // Of one word, so that the model has little to do even where other tests take its cores.
    for i in 0..4000 {
        let job = format!(r#"{{"id": "t{i}", "text": "lake"}}"#);
        producer.send(BaseRecord::<str, str>::to(&topic).partition(i % 4).payload(&job)).unwrap();
        producer.poll(Duration::ZERO);
    }
    producer.flush(Duration::from_secs(60)).unwrap();
    world.run(&["migrate"]);
    cluster.broker_round_trip_time(1, Duration::from_millis(150)).unwrap();
    // This broker lets a group gather for longer than the others' session. It is asked for the topic's id before each write, so those
    // are few: shares are those of a second.
    let patient =
        ["--pipeline", "text", "--set", "kafka.session_timeout_ms=10000", "--set", "line.linger_ms=3000"];
    Watched::start(&world, &patient, &[]).must_name("poll");
}
