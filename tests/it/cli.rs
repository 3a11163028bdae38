//! The command line: exit codes, JSON, configuration.

use crate::world::{World, media};

#[test]
fn exit_codes_tell_what_went_wrong() {
    let world = World::new("codes");
    let missing = world.dir.path().join("missing.toml");
    let unknown = world.dir.path().join("unknown.toml");
    std::fs::write(&unknown, "[kafka]\nboostrap = \"x\"\n").unwrap();
    for (args, code, words) in [
        (vec!["serv"], 64, ""),
        (vec!["search"], 64, "QUERY"),
        (vec!["--config", missing.to_str().unwrap(), "config", "show"], 78, "cannot read"),
        (vec!["--config", unknown.to_str().unwrap(), "config", "show"], 78, "kafka.boostrap"),
        (vec!["config", "show", "--set", "line.linger=1"], 78, "line.linger_ms"),
        (vec!["results", "nonsense"], 69, "postgres"),
        (vec!["models", "--set", "models.dir=/nowhere"], 78, "setup/install"),
        (vec!["audit", "--set", "postgres.url=postgres://nobody@127.0.0.1:1/none"], 69, "postgres"),
    ] {
        // The world's own --config comes first; a second one wins.
        let mut command = std::process::Command::new(world.command(&[]).get_program());
        let output = command.args(&args).env("DATABASE_URL", "postgres://x@127.0.0.1:1/x").output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {stderr}");
        assert!(stderr.contains(words), "{args:?}: {stderr}");
    }
}

#[test]
fn probe_tells_what_would_become_of_files() {
    let world = World::new("probe");
    let image = media("images", 1).remove(0);
    let empty = world.dir.path().join("empty.png");
    std::fs::write(&empty, b"").unwrap();
    let lines = world.json(&["probe", image.to_str().unwrap(), empty.to_str().unwrap()]);
    assert_eq!(
        (&lines[0]["ok"], &lines[0]["modality"], &lines[0]["chunks"]),
        (&true.into(), &"image".into(), &1.into())
    );
    assert!(lines[0]["facts"]["width"].as_u64().unwrap() > 0);
    assert_eq!(lines[1]["rejection"]["code"], "payload.empty");
    assert_eq!(lines[1]["schema"], "spawn.probe.v1");
}

#[test]
fn models_doctor_and_check_report_in_their_fields() {
    let world = World::new("reports");
    let models = world.json(&["models"]);
    assert_eq!(models.len(), 3);
    for model in &models {
        assert_eq!(model["golden"]["count"], 4);
        assert!(model["golden"]["cosine_min"].as_f64().unwrap() >= 0.99999, "{model}");
    }
    assert_eq!(world.json(&["doctor"])[0]["ok"], true);
    let failed = world.command(&["check", "--json"]).output().unwrap();
    assert_eq!(failed.status.code(), Some(69), "the schema and the topics are not there yet");
    world.run(&["migrate"]);
    assert_eq!(world.worker(&["--exit-at-end"]).end(120), Some(0), "{}", world.log());
    let report = &world.json(&["check"])[0];
    assert_eq!(report["ok"], true, "{report}");
    let kafka = report["checks"].as_array().unwrap().iter().find(|c| c["id"] == "postgres").unwrap();
    eprintln!("checked against {}", kafka["found"]);
}

#[test]
fn settings_show_where_they_come_from_and_no_secret() {
    let world = World::new("config");
    let mut command = world.command(&["config", "show", "--json"]);
    let output = command
        .env("SPAWN__LINE__LINGER_MS", "3")
        .env("DATABASE_URL", "postgres://me:hunter2@h/d")
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(!text.contains("hunter2"));
    let shown: serde_json::Value = serde_json::from_str(&text).unwrap();
    let linger =
        shown["values"].as_array().unwrap().iter().find(|v| v["key"] == "line.linger_ms").unwrap().clone();
    assert_eq!(
        (&linger["value"], &linger["source"]),
        (&"3".into(), &"environment SPAWN__LINE__LINGER_MS".into())
    );
}

#[test]
fn every_help_has_an_example_and_every_flag_an_environment_variable() {
    let world = World::new("help");
    for name in [
        "demo",
        "worker",
        "api",
        "submit",
        "ingest",
        "search",
        "results",
        "models",
        "probe",
        "embed",
        "audit",
        "dlq",
        "dlq ls",
        "dlq show",
        "dlq replay",
        "dlq purge",
        "explain",
        "delete",
        "index",
        "check",
        "migrate",
        "doctor",
    ] {
        let args: Vec<&str> = name.split(' ').chain(["--help"]).collect();
        let help = String::from_utf8(world.run(&args).stdout).unwrap();
        assert!(help.contains("Examples:\n"), "{name}: {help}");
        let flags =
            help.lines().filter(|l| l.trim_start().starts_with("--") || l.trim_start().starts_with("-q"));
        // Long descriptions are wrapped, also inside the brackets.
        let words = help.split_whitespace().collect::<Vec<_>>().join(" ");
        let named = words.matches("[env: SPAWN_").count();
        let wanted = flags.filter(|l| !l.contains("--help") && !l.contains("--version")).count();
        assert!(named >= wanted, "{name}: {named} variables for {wanted} flags\n{help}");
    }
}
