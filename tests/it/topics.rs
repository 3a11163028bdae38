//! Topics that are made anew or lose records, and a database that was set back: told loudly, decided by an operator, listed by the audit.

use crate::letters;
use crate::supply::{self, Supply};
use crate::world::{World, figure, rounds};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::time::Duration;

const TEXT: [&str; 2] = ["--pipeline", "text"];

/// Asks the brokers for something.
fn admin<T>(ask: impl AsyncFnOnce(&AdminClient<DefaultClientContext>, &AdminOptions) -> T) -> T {
    let brokers = std::env::var("KAFKA_BROKERS").unwrap();
    let client = ClientConfig::new().set("bootstrap.servers", brokers).create().unwrap();
    let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(30)));
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(ask(&client, &options))
}

fn make_anew(world: &World) {
    let topic = world.topic("text");
    admin(async |client, options| {
        client.delete_topics(&[&topic], options).await.unwrap()[0].clone().unwrap()
    });
    // Its name is taken for a moment.
    world.wait("the topic is made anew", 30, || {
        let new = NewTopic::new(&topic, 4, TopicReplication::Fixed(1));
        admin(async |client, options| client.create_topics([&new], options).await.unwrap()[0].is_ok())
    });
}

fn ends(world: &World) -> String {
    world.sql(
        "SELECT string_agg(partition || ':' || next_offset, ',' ORDER BY partition) FROM spawn.checkpoint",
    )
}

fn gaps(world: &World) -> Vec<(i64, String)> {
    let report = &world.json(&["audit"])[0];
    assert_eq!(report["ok"], true, "{report}");
    let all = report["partitions"].as_array().unwrap().iter().filter(|p| p["pipeline"] == "text");
    let gaps = all.flat_map(|p| p["gaps"].as_array().unwrap().iter());
    gaps.map(|gap| {
        let length = gap["to"].as_i64().unwrap().saturating_sub(gap["from"].as_i64().unwrap());
        (length, gap["reason"].as_str().unwrap().to_owned())
    })
    .collect()
}

#[test]
fn a_topic_made_anew_while_it_is_read_stops_the_pipeline_until_somebody_decides() {
    let world = World::new("anew");
    world.run(&["migrate"]);
    world.ingest_texts(0, 40);
    let worker = world.worker(&TEXT);
    let settled = |count| world.count("SELECT count(*) FROM spawn.record") == count;
    world.wait("the old topic is read", 60, || settled(40));
    let before = ends(&world);
    make_anew(&world);
    // More than before, so that the old positions point into it.
    world.ingest_texts(40, 240);
    assert_eq!(worker.end(30), Some(69), "{}", world.log());
    assert!(
        world.log().contains("made anew") && world.log().contains("spawn pipelines adopt-topic"),
        "{}",
        world.log()
    );
    assert!(settled(40) && ends(&world) == before, "nothing of the new topic was written");
    // Starting again changes nothing.
    assert_eq!(world.worker(&TEXT).end(30), Some(69));
    assert!(settled(40) && ends(&world) == before, "nothing of the new topic was written");
    let id = world.sql("SELECT topic_id FROM spawn.source");
    assert!(world.log().matches(&id).count() >= 2, "both messages name the old id {id}: {}", world.log());
    let told = world.json(&["pipelines", "adopt-topic", "--pipeline", "text", "--dry-run"]);
    assert_eq!(told[0]["written_off"].as_array().unwrap().len(), 4);
    assert_eq!(world.count("SELECT count(*) FROM spawn.source"), 1, "a dry run changes nothing");
    world.run(&["pipelines", "adopt-topic", "--pipeline", "text", "--topic", &world.topic("text")]);
    assert_eq!(world.worker(&["--pipeline", "text", "--exit-at-end"]).end(60), Some(0), "{}", world.log());
    world.assert_ledger("text", [240, 0, 0, 0]);
    let gaps = gaps(&world);
    assert!(gaps.len() == 4 && gaps.iter().all(|(_, reason)| reason == "topic.recreated"), "{gaps:?}");
    figure("anew.stops", 1);
}

#[test]
fn records_that_retention_took_are_a_gap_once_somebody_accepts_it() {
    let world = World::new("retention");
    world.ingest_texts(0, 40);
    assert_eq!(world.worker(&["--pipeline", "text", "--exit-at-end"]).end(60), Some(0), "{}", world.log());
    world.ingest_texts(40, 80);
    let mut all = TopicPartitionList::new();
    (0..4).for_each(|p| all.add_partition_offset(&world.topic("text"), p, Offset::End).unwrap());
    admin(async |client, options| drop(client.delete_records(&all, options).await.unwrap()));
    world.ingest_texts(80, 120);
    assert_eq!(world.worker(&TEXT).end(60), Some(69), "{}", world.log());
    assert!(
        world.log().contains("spawn pipelines accept-gap --pipeline text --partition"),
        "{}",
        world.log()
    );
    for partition in 0..4 {
        let partition = partition.to_string();
        let args = ["pipelines", "accept-gap", "--pipeline", "text", "--partition", &partition];
        world.run(&[&args[..], &["--dry-run"]].concat());
        world.run(&args);
    }
    let again = world
        .command(&["pipelines", "accept-gap", "--pipeline", "text", "--partition", "0"])
        .output()
        .unwrap();
    assert_eq!(again.status.code(), Some(65), "{}", String::from_utf8_lossy(&again.stderr));
    assert_eq!(world.worker(&["--pipeline", "text", "--exit-at-end"]).end(60), Some(0), "{}", world.log());
    world.assert_ledger("text", [80, 0, 0, 0]);
    let gaps = gaps(&world);
    assert!(gaps.iter().all(|(_, reason)| reason == "retention"), "{gaps:?}");
    assert_eq!(gaps.iter().map(|(length, _)| length).sum::<i64>(), 40, "{gaps:?}");
}

#[test]
fn a_database_that_was_set_back_is_told_and_read_again() {
    let world = World::new("setback");
    world.ingest_texts(0, 40);
    assert_eq!(world.worker(&["--pipeline", "text", "--exit-at-end"]).end(60), Some(0), "{}", world.log());
    assert!(!world.log().contains("behind the group"), "{}", world.log());
    // As after a restore of what was there before the first claim.
    world.sql("TRUNCATE spawn.checkpoint, spawn.span, spawn.record, spawn.result, spawn.dedupe");
    assert_eq!(world.worker(&["--pipeline", "text", "--exit-at-end"]).end(60), Some(0), "{}", world.log());
    assert!(world.log().contains("the checkpoint is behind the group's offset"), "{}", world.log());
    assert_eq!(world.count("SELECT count(*) FROM spawn.record"), 40);
}

#[test]
fn aborted_and_compacted_records_are_explained() {
    let transactions = (rounds("SPAWN_TRANSACTIONS", 8).max(4) as usize).next_multiple_of(2);
    let world = World::new("compacted");
    world.run(&["migrate"]);
    let settings = [
        ("cleanup.policy", "compact"),
        ("segment.ms", "1000"),
        ("min.cleanable.dirty.ratio", "0.01"),
        ("max.compaction.lag.ms", "1000"),
    ];
    let mut supply = Supply::new(&world, &settings);
    // Each id comes once; its key comes again and again, so that compaction has something to take.
    for transaction in 0..transactions {
        supply.transaction(40, transaction % 2 == 0);
    }
    let committed = transactions.div_ceil(2) * 40;
    let readable = || {
        let records = letters::read(supply.topic()).into_iter();
        records.filter(|record| record.key.as_deref() == Some(b"again")).count()
    };
    assert!(readable() <= committed, "aborted ones are not for us");
    world.wait("compaction has taken some", 120, || {
        // Only a segment that is followed by another one is compacted.
        supply::send(supply.topic(), (0..4).map(|p| (p, "last", supply::text(1_000_000))));
        readable() < committed
    });
    // Aborted ones of which compaction has taken none yet.
    supply.transaction(40, true);
    supply.transaction(40, false);
    assert_eq!(world.worker(&["--pipeline", "text", "--exit-at-end"]).end(120), Some(0), "{}", world.log());
    let report = &world.json(&["audit", "--kafka"])[0];
    assert_eq!(report["ok"], true, "{report}");
    for partition in report["partitions"].as_array().unwrap().iter().filter(|p| p["pipeline"] == "text") {
        assert_eq!(partition["next_offset"], partition["end_offset"], "spans reach the end: {partition}");
        assert!(partition["holes"].as_array().unwrap().is_empty(), "{partition}");
    }
    let aborted = "SELECT count(*) FROM spawn.result WHERE substr(event_id, 2)::int / 40 % 2 = 1";
    assert_eq!(world.count(aborted), 0, "nothing that was aborted is a result");
    for record in letters::read(supply.topic()) {
        let job: serde_json::Value = serde_json::from_slice(&record.value.unwrap()).unwrap();
        let id = job["id"].as_str().unwrap();
        assert_eq!(
            world.count(&format!("SELECT count(*) FROM spawn.result WHERE event_id = '{id}'")),
            1,
            "{id}"
        );
    }
    figure("aborted.transactions", transactions);
}
