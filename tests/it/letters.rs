//! Dead letters on their way to topics and back, byte by byte; the ledger against Kafka; results made again and deleted.

use crate::world::{World, media};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{Header, Headers, Message, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord, Producer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use serde_json::Value;
use std::time::Duration;

const LONG: Duration = Duration::from_secs(30);
const NO_PICTURE: &[u8] = b"\xff\x00\xfe no picture \x80";

/// Key, value and headers of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bytes {
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: Vec<(String, Vec<u8>)>,
}

impl Bytes {
    fn new(key: Option<&[u8]>, value: Option<&[u8]>, headers: &[(&str, &[u8])]) -> Self {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), value.to_vec())).collect();
        Self { key: key.map(<[u8]>::to_vec), value: value.map(<[u8]>::to_vec), headers }
    }
}

pub fn client() -> ClientConfig {
    let mut client = ClientConfig::new();
    client.set("bootstrap.servers", std::env::var("KAFKA_BROKERS").unwrap());
    client
}

pub fn wait_for<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

fn produce(topic: &str, record: &Bytes) {
    let producer: FutureProducer = client().create().unwrap();
    let headers = record
        .headers
        .iter()
        .fold(OwnedHeaders::new(), |all, (key, value)| all.insert(Header { key, value: Some(value) }));
    let mut message = FutureRecord::to(topic).headers(headers);
    message.key = record.key.as_deref();
    message.payload = record.value.as_deref();
    wait_for(producer.send::<[u8], [u8], _>(message, LONG)).unwrap();
}

fn make_topic(topic: &str) {
    let admin: AdminClient<DefaultClientContext> = client().create().unwrap();
    let new = NewTopic::new(topic, 1, TopicReplication::Fixed(1));
    wait_for(admin.create_topics([&new], &AdminOptions::new())).unwrap()[0].clone().unwrap();
}

/// Retention in a moment: every partition begins behind its last record.
fn forget(topic: &str, partitions: i32) {
    let admin: AdminClient<DefaultClientContext> = client().create().unwrap();
    let mut list = TopicPartitionList::new();
    (0..partitions).for_each(|p| list.add_partition_offset(topic, p, Offset::End).unwrap());
    wait_for(admin.delete_records(&list, &AdminOptions::new())).unwrap();
}

/// All records of a topic, partition by partition.
pub fn read(topic: &str) -> Vec<Bytes> {
    let consumer: BaseConsumer =
        client().set("group.id", "it").set("enable.partition.eof", "true").create().unwrap();
    let metadata = consumer.fetch_metadata(Some(topic), LONG).unwrap();
    let mut list = TopicPartitionList::new();
    for partition in metadata.topics()[0].partitions() {
        list.add_partition_offset(topic, partition.id(), Offset::Beginning).unwrap();
    }
    consumer.assign(&list).unwrap();
    let (mut records, mut open) = (Vec::new(), list.count());
    while open > 0 {
        match consumer.poll(LONG).expect("an answer in time") {
            Err(KafkaError::PartitionEOF(_)) => open -= 1,
            Err(error) => panic!("{error}"),
            Ok(message) => {
                let headers = message.headers().into_iter().flat_map(|headers| headers.iter());
                let headers = headers.map(|h| (h.key.to_owned(), h.value.unwrap_or(b"NULL").to_vec()));
                records.push(Bytes {
                    key: message.key().map(<[u8]>::to_vec),
                    value: message.payload().map(<[u8]>::to_vec),
                    headers: headers.collect(),
                });
            }
        }
    }
    records
}

/// The topics of a world, made by sending one picture that is well.
fn begin(world: &World) -> (String, Value) {
    let image = media("images", 1).remove(0);
    let manifest = world.dir.path().join("one.csv");
    std::fs::write(&manifest, format!("id,uri,modality\nwell,file://{},image\n", image.display())).unwrap();
    world.run(&["ingest", manifest.to_str().unwrap()]);
    let sent = world.json(&["submit", image.to_str().unwrap(), "--dry-run"]).remove(0);
    (sent["topic"].as_str().unwrap().to_owned(), sent)
}

fn work(world: &World, pipeline: &str) {
    assert_eq!(world.worker(&["--exit-at-end", "--pipeline", pipeline]).end(120), Some(0), "{}", world.log());
}

/// Exit code and the object on stdout.
fn ends_with(world: &World, args: &[&str]) -> (i32, Value, String) {
    let output = world.command(&[args, &["--json"]].concat()).output().unwrap();
    let json = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    (output.status.code().unwrap(), json, String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn dead_letters_reach_their_topic_and_come_back_byte_by_byte() {
    let world = World::new("letters");
    let (topic, _) = begin(&world);
    let odd =
        Bytes::new(None, Some(NO_PICTURE), &[("a", b"\xff"), ("b", b""), ("a", b"\x00\x01"), ("a", b"\xff")]);
    let keyed = Bytes::new(Some(b"\xfe\x00k"), Some(b"\x00"), &[]);
    produce(&topic, &odd);
    produce(&topic, &keyed);
    work(&world, "image");
    world.assert_ledger("image", [1, 2, 0, 0]);

    let relayed = read(&format!("dlq.{topic}"));
    assert_eq!(relayed.len(), 2, "{relayed:?}\n{}", world.log());
    for original in [&odd, &keyed] {
        let found = relayed.iter().find(|r| r.value == original.value).unwrap();
        assert_eq!(found.key, original.key);
        let (own, added) = found.headers.split_at(original.headers.len());
        assert_eq!(own, original.headers);
        let names: Vec<&str> = added.iter().map(|(name, _)| name.as_str()).collect();
        let wanted = "__dlq.errors.topic __dlq.errors.partition __dlq.errors.offset __dlq.errors.group __dlq.errors.delivery.count \
                      __dlq.errors.message spawn-origin spawn-error-code spawn-error-stage spawn-first-failed-at spawn-version";
        assert_eq!(names.join(" "), wanted);
        let of = |name: &str| {
            let value = &added.iter().find(|(n, _)| n == name).unwrap().1;
            String::from_utf8(value.clone()).unwrap()
        };
        assert_eq!(
            (of("__dlq.errors.topic"), of("__dlq.errors.delivery.count")),
            (topic.clone(), "1".into())
        );
        assert!(of("__dlq.errors.group").ends_with(".image"));
        let origin = of("spawn-origin");
        assert_eq!(origin, format!("{topic}/{}@{}", of("__dlq.errors.partition"), of("__dlq.errors.offset")));
        let shown = &world.json(&["dlq", "show", &origin])[0];
        assert_eq!(shown["rejection"]["code"], of("spawn-error-code"));
        assert_eq!(shown["rejection"]["published"], true);
        let file = world.dir.path().join("value");
        world.run(&["dlq", "show", &origin, "--output", file.to_str().unwrap()]);
        assert_eq!(std::fs::read(&file).ok(), original.value);
    }
    // What was published is not published again.
    work(&world, "image");
    assert_eq!(read(&format!("dlq.{topic}")).len(), 2);

    // A null value can only have come from a header that could not be read; here it is made.
    world.sql("UPDATE spawn.rejection SET value = NULL WHERE key IS NOT NULL");
    let target = format!("{topic}.again");
    let code = "decode.unsupported";
    assert_eq!(world.sql("SELECT string_agg(DISTINCT code, ',') FROM spawn.rejection"), code);
    let to_topic = ["dlq", "replay", "--code", code, "--rate", "1000/s", "--to-topic", &target];
    assert_eq!(ends_with(&world, &to_topic).0, 65, "there is no such topic");
    make_topic(&target);
    let would = &world.json(&[&to_topic[..], &["--dry-run"]].concat())[0];
    assert_eq!((&would["schema"], &would["found"]), (&"spawn.dlq.replay.v1".into(), &2.into()));
    assert_eq!(read(&target).len(), 0);
    assert_eq!(world.json(&to_topic)[0]["replayed"], 2);
    let mut again = read(&target);
    again.sort_by_key(|r| r.key.is_some());
    assert_eq!(again, [odd, Bytes { value: None, ..keyed }]);
    world.assert_ledger("image", [1, 2, 0, 0]);

    listed_replayed_and_purged(&world, code);
}

fn listed_replayed_and_purged(world: &World, code: &str) {
    let groups = &world.json(&["dlq", "ls", "--by", "code"])[0];
    assert_eq!((&groups["schema"], &groups["by"]), (&"spawn.dlq.ls.v1".into(), &"code".into()));
    let group = &groups["groups"][0];
    assert_eq!(
        (&group["name"], &group["records"], &group["hint"]),
        (&code.into(), &2.into(), &"convert it".into())
    );
    let first = &world.json(&["dlq", "ls", "--limit", "1"])[0];
    let cursor = first["next"].as_str().unwrap();
    let second = &world.json(&["dlq", "ls", "--limit", "1", "--cursor", cursor])[0];
    let (a, b) = (&first["rejections"][0], &second["rejections"][0]);
    assert!(a["origin"] != b["origin"] && second["next"].is_null(), "{first} {second}");

    let none = "0".repeat(32);
    for (args, exit) in [
        (vec!["dlq", "show", "nonsense"], 64),
        (vec!["dlq", "show", &none], 65),
        (vec!["dlq", "ls", "--cursor", "nonsense"], 64),
        (vec!["dlq", "replay"], 64),
        (vec!["dlq", "replay", "--id", &none], 65),
        (vec!["dlq", "replay", "--code", code, "--rate", "0"], 64),
        (vec!["dlq", "purge"], 64),
        (vec!["dlq", "purge", "--older-than", "x"], 64),
    ] {
        let (code, _, stderr) = ends_with(world, &args);
        assert_eq!(code, exit, "{args:?}: {stderr}");
    }
    let name = format!(
        "{}/{}@{}",
        a["origin"]["topic"].as_str().unwrap(),
        a["origin"]["partition"],
        a["origin"]["offset"]
    );
    assert_eq!(world.json(&["dlq", "replay", "--id", &name, "--dry-run"])[0]["replayed"], 0);
    assert_eq!(world.json(&["dlq", "replay", "--id", &name])[0]["replayed"], 1);
    world.assert_ledger("image", [1, 1, 0, 1]);

    let purge = ["dlq", "purge", "--older-than", "0s"];
    assert_eq!(world.json(&[&purge[..], &["--dry-run"]].concat())[0]["found"], 1);
    assert_eq!(world.json(&purge)[0]["purged"], 1);
    assert_eq!(world.json(&["dlq", "replay", "--code", code])[0]["replayed"], 0);
    let name = format!(
        "{}/{}@{}",
        b["origin"]["topic"].as_str().unwrap(),
        b["origin"]["partition"],
        b["origin"]["offset"]
    );
    assert_eq!(ends_with(world, &["dlq", "show", &name, "--output", "-"]).0, 65);
    world.assert_ledger("image", [1, 1, 0, 1]);
}

/// Three records that are taken back before anybody may see them.
fn abort_three(topic: &str) {
    let id = format!("abort-{topic}");
    let producer: FutureProducer = client().set("transactional.id", id).create().unwrap();
    producer.init_transactions(LONG).unwrap();
    producer.begin_transaction().unwrap();
    for _ in 0..3 {
        let record = FutureRecord::<[u8], [u8]>::to(topic).partition(0).payload(b"{\"text\": \"never\"}");
        wait_for(producer.send(record, LONG)).unwrap();
    }
    producer.abort_transaction(LONG).unwrap();
}

fn partitions(report: &Value) -> &[Value] {
    report["partitions"].as_array().unwrap()
}

fn sum(report: &Value, of: impl Fn(&Value) -> &Value) -> i64 {
    partitions(report).iter().map(|p| of(p).as_i64().unwrap()).sum()
}

#[test]
fn the_audit_finds_what_only_kafka_knows() {
    let world = World::new("reread");
    world.ingest_texts(0, 30);
    let topic = begin(&world).0.replace(".image", ".text");
    abort_three(&topic);
    world.ingest_texts(30, 60);
    work(&world, "text");
    let audit = ["audit", "--kafka", "--topic", &topic];
    let report = &world.json(&audit)[0];
    assert_eq!(report["ok"], true, "{report}");
    assert_eq!((sum(report, |p| &p["kafka"]["read"]), sum(report, |p| &p["in_flight"])), (60, 0));

    world.ingest_texts(60, 70);
    let report = &world.json(&audit)[0];
    assert_eq!(sum(report, |p| &p["in_flight"]), 10, "{report}");
    assert_eq!(sum(report, |p| &p["kafka"]["read"]), 60, "what is in flight is nobody's fault");

    // A ledger that agrees with itself and lost a record: only Kafka knows.
    let lost = "WITH gone AS (DELETE FROM spawn.record WHERE partition = 1 AND \"offset\" = 2 RETURNING 1)
                UPDATE spawn.span SET records = records - 1, results = results - 1
                 WHERE partition = 1 AND from_position <= 2 AND to_position > 2";
    world.sql(lost);
    assert_eq!(world.json(&["audit"])[0]["ok"], true);
    let (exit, report, stderr) = ends_with(&world, &audit);
    assert_eq!((exit, &report["ok"]), (65, &false.into()), "{stderr}");
    let missing = &partitions(&report).iter().find(|p| p["partition"] == 1).unwrap()["missing"];
    let wanted = serde_json::json!([{"from": 2, "to": 3, "what": "kafka", "expected": 1, "found": 0}]);
    assert_eq!(missing, &wanted);
    assert_eq!(ends_with(&world, &[&audit[..], &["--from", "3"]].concat()).0, 0, "outside of the range");
    assert_eq!(ends_with(&world, &["audit", "--from", "3"]).0, 64, "of which topic?");
    assert_eq!(ends_with(&world, &["audit", "--topic", "nobody.reads"]).0, 65);

    // Retention takes all of it: told, and no fault.
    forget(&topic, 4);
    let report = &world.json(&audit)[0];
    assert_eq!((&report["ok"], sum(report, |p| &p["kafka"]["read"])), (&true.into(), 0), "{report}");
    for p in partitions(report).iter().filter(|p| p["records"] != 0) {
        assert_eq!(p["kafka"]["unread"][0]["reason"], "retention", "{p}");
        assert_eq!(p["kafka"]["unread"][0]["records"], p["records"]);
    }
}

#[test]
fn a_result_is_explained_made_again_and_deleted() {
    let world = World::new("explain");
    let (topic, _) = begin(&world);
    // A file that is read by reference, and one that travels inside its record.
    let own = world.dir.path().join("own.jpg");
    std::fs::copy(&media("images", 2)[1], &own).unwrap();
    let manifest = world.dir.path().join("own.csv");
    std::fs::write(&manifest, format!("id,uri,modality\nown,file://{},image\n", own.display())).unwrap();
    world.run(&["ingest", manifest.to_str().unwrap()]);
    let inside = world.dir.path().join("inside.jpg");
    let small = |path: &std::path::PathBuf| path.metadata().unwrap().len() < 300_000;
    let small = media("images", 40).into_iter().filter(small).nth(1).expect("a small picture");
    std::fs::copy(small, &inside).unwrap();
    let inline = world.json(&["submit", inside.to_str().unwrap()])[0]["id"].as_str().unwrap().to_owned();
    work(&world, "image");
    let by_reference =
        world.sql("SELECT substr(encode(id_hash, 'hex'), 1, 32) FROM spawn.result WHERE event_id = 'own'");

    for (id, form) in [(&inline, "inline"), (&by_reference, "reference")] {
        let explained = &world.json(&["explain", id])[0];
        assert_eq!(
            (&explained["schema"], &explained["bytes"]["form"]),
            (&"spawn.explain.v1".into(), &form.into())
        );
        assert!(explained["rerun"]["cosine_min"].as_f64().unwrap() > 0.9999, "{explained}");
        assert_eq!(explained["rerun"]["chunks"].as_array().unwrap().len(), 1);
        assert_eq!(explained["result"]["origin"]["topic"], topic);
        assert!(explained["not_run"].is_null());
    }
    assert_eq!(ends_with(&world, &["explain", &"0".repeat(32)]).0, 65);
    assert_eq!(ends_with(&world, &["explain", "nonsense"]).0, 64);

    // Kafka forgets: one file is still there, the other was only what the producer had read.
    forget(&topic, 4);
    std::fs::remove_file(&inside).unwrap();
    let explained = &world.json(&["explain", &by_reference])[0];
    assert_eq!(explained["bytes"]["in_kafka"], false);
    assert!(explained["rerun"]["cosine_min"].as_f64().unwrap() > 0.9999, "{explained}");
    let (exit, explained, _) = ends_with(&world, &["explain", &inline]);
    assert_eq!((exit, &explained["not_run"]["code"]), (65, &"media.gone".into()), "{explained}");
    assert_eq!(explained["result"]["id"], inline.as_str(), "where it came from is told all the same");
    std::fs::copy(&media("images", 1)[0], &own).unwrap();
    let (exit, explained, _) = ends_with(&world, &["explain", &by_reference]);
    assert_eq!((exit, &explained["not_run"]["code"]), (65, &"content.differs".into()), "{explained}");
    world.json(&["explain", &by_reference, "--no-rerun"]);

    // A submitted file's key is its item's id.
    let delete = ["delete", "--key", &inline, "--topic", &topic];
    let would = &world.json(&[&delete[..], &["--dry-run"]].concat())[0];
    assert_eq!(
        (&would["results"], &would["vectors"], &would["dry_run"]),
        (&1.into(), &1.into(), &true.into())
    );
    world.json(&["results", &inline]);
    assert_eq!(world.json(&delete)[0]["results"], 1);
    assert_eq!(ends_with(&world, &["results", &inline]).0, 65);
    assert_eq!(ends_with(&world, &["delete", "--key", "k", "--topic", "nobody.reads"]).0, 65);
    world.assert_ledger("image", [3, 0, 0, 0]);
}
