//! The demo in small: its JSON has the fields that a script may rely on.

use crate::world::World;
use std::io::Write;
use std::path::{Path, PathBuf};

#[test]
fn the_demo_accounts_for_everything_in_one_line_of_json() {
    let world = World::new("demo");
    let data = with_broken_ones_first(world.dir.path());
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
    // Not by `eprintln!`, which is shown only when a test fails.
    writeln!(std::io::stderr(), "versions: {}", demo["versions"]).unwrap();
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
    let codes: u64 = demo["rejection_codes"].as_object().unwrap().values().map(|n| n.as_u64().unwrap()).sum();
    assert_eq!(codes, 17, "{}", demo["rejection_codes"]);
    let stages = demo["stages"].as_array().unwrap();
    assert_eq!(stages.len(), 3 * 7);
    assert!(
        stages.iter().all(|s| s["busy_ratio"].as_f64().is_some_and(|r| (0.0..=1.0).contains(&r))),
        "{stages:?}"
    );
    for kind in ["image", "audio", "text"] {
        let again = &demo["found_again"][kind];
        assert_eq!(again["found"], again["asked"], "{kind}");
    }
    for key in ["kafka", "libtorch", "postgres", "pgvector", "spawn"] {
        assert!(demo["versions"][key].as_str().is_some_and(|v| !v.is_empty()), "{key}");
    }
    assert!(demo["wall_seconds"].as_f64().unwrap() > 0.0 && demo["peak_rss_bytes"].as_u64().unwrap() > 0);
}

/// The demo's data with another order of its index, so that a small demo has broken files too.
fn with_broken_ones_first(folder: &Path) -> PathBuf {
    let data = folder.join("data");
    std::fs::create_dir(&data).unwrap();
    for entry in std::fs::read_dir(crate::world::data()).unwrap() {
        let path = entry.unwrap().path();
        std::os::unix::fs::symlink(&path, data.join(path.file_name().unwrap())).unwrap();
    }
    let index = std::fs::read_to_string(data.join("index.csv")).unwrap();
    let (head, rows) = index.split_once('\n').unwrap();
    let (broken, good): (Vec<&str>, Vec<&str>) = rows.lines().partition(|row| row.starts_with("broken/"));
    std::fs::remove_file(data.join("index.csv")).unwrap();
    std::fs::write(data.join("index.csv"), [&[head], &broken[..], &good[..]].concat().join("\n") + "\n")
        .unwrap();
    data
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
