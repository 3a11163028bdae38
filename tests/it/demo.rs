//! The demo in small: its JSON has the fields that a script may rely on.

use crate::world::World;

#[test]
fn the_demo_accounts_for_everything_in_one_line_of_json() {
    let world = World::new("demo");
    let data = crate::world::data();
    let args = [
        "demo",
        "--exit",
        "--limit",
        "40",
        "--data",
        data.to_str().unwrap(),
        "--set",
        "api.listen=127.0.0.1:0",
        "--quiet",
    ];
    let lines = world.json(&args);
    assert_eq!(lines.len(), 1);
    let demo = &lines[0];
    eprintln!("versions: {}", demo["versions"]);
    assert_eq!((demo["schema"].as_str(), demo["broker"].as_str()), (Some("spawn.demo.v1"), Some("kafka")));
    assert_eq!(demo["audit"]["ok"], true);
    for kind in ["image", "audio", "text"] {
        let m = &demo["modalities"][kind];
        let sum: u64 =
            ["results", "rejected", "skipped", "deferred"].iter().map(|k| m[k].as_u64().unwrap()).sum();
        assert_eq!(m["submitted"].as_u64(), Some(sum), "{kind}: {m}");
        assert!(
            m["results"].as_u64().unwrap() > 0 && m["items_per_second"].as_f64().unwrap() > 0.0,
            "{kind}: {m}"
        );
    }
    assert_eq!(demo["searches"].as_array().unwrap().len(), 3);
    for search in demo["searches"].as_array().unwrap() {
        assert!(!search["hits"].as_array().unwrap().is_empty(), "{search}");
    }
    for key in ["libtorch", "postgres", "pgvector", "spawn"] {
        assert!(demo["versions"][key].as_str().is_some_and(|v| !v.is_empty()), "{key}");
    }
    assert!(demo["wall_seconds"].as_f64().unwrap() > 0.0 && demo["peak_rss_bytes"].as_u64().unwrap() > 0);
}

#[test]
fn the_embedded_broker_needs_no_kafka() {
    let world = World::new("embedded");
    let data = crate::world::data();
    let args = [
        "demo",
        "--exit",
        "--broker",
        "embedded",
        "--limit",
        "10",
        "--data",
        data.to_str().unwrap(),
        "--set",
        "api.listen=127.0.0.1:0",
        "--set",
        "kafka.session_timeout_ms=6000",
    ];
    assert_eq!(world.json(&args)[0]["audit"]["ok"], true);
}
