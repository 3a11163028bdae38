//! The command line: exit codes, JSON, configuration.

use crate::world::{World, media};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;

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
fn no_command_pays_for_libtorch_before_it_loads_a_model() {
    let world = World::new("light");
    let told = std::process::Command::new("ldd").arg(world.command(&[]).get_program()).output().unwrap();
    let libraries = String::from_utf8_lossy(&told.stdout);
    assert!(libraries.contains("libc.so"), "{libraries}");
    assert!(!["torch", "libc10", "gomp"].iter().any(|name| libraries.contains(name)), "{libraries}");
    // And what is set in the process is read by OpenMP, which comes with libtorch.
    let mut models = world.command(&["models"]);
    let told = models.env_remove("OMP_WAIT_POLICY").env("OMP_DISPLAY_ENV", "TRUE").output().unwrap();
    let said = String::from_utf8_lossy(&told.stderr);
    assert!(said.contains("OMP_WAIT_POLICY = 'PASSIVE'"), "{said}");
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
    let checks = report["checks"].as_array().unwrap();
    assert!(checks.iter().all(|c| c["ok"] == true), "{report}");
    for (id, times) in [
        ("model", 3),
        ("input", 3),
        ("model_file", 3),
        ("memory", 1),
        ("postgres", 1),
        ("pgvector", 1),
        ("pooler", 1),
        ("schema", 1),
        ("source", 3),
        ("dimension", 3),
        ("client", 1),
        ("poll_interval", 1),
        ("session", 1),
        ("kafka", 1),
        ("replication", 1),
        ("topic", 3),
        ("message_bytes", 3),
    ] {
        assert_eq!(checks.iter().filter(|c| c["id"] == id).count(), times, "{id}: {report}");
    }
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
        "pipelines",
        "pipelines ls",
        "pipelines pause",
        "pipelines resume",
        "pipelines accept-gap",
        "pipelines adopt-topic",
        "index",
        "top",
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

/// What `spawn check` finds wrong: exit code, and id, severity and place of each.
fn found(world: &World, args: &[&str]) -> (Option<i32>, Vec<[String; 3]>) {
    let output = world.command(&[&["check", "--json"], args].concat()).output().unwrap();
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let wrong = report["checks"].as_array().unwrap().iter().filter(|c| c["ok"] == false);
    let word = |c: &serde_json::Value, key: &str| c[key].as_str().unwrap().to_owned();
    let wrong = wrong.map(|c| {
        assert!(!word(c, "want").is_empty() && !word(c, "fix").is_empty(), "{c}");
        [word(c, "id"), word(c, "severity"), word(c, "at")]
    });
    (output.status.code(), wrong.collect())
}

fn all(found: &[[&str; 3]]) -> Vec<[String; 3]> {
    found.iter().map(|f| f.map(str::to_owned)).collect()
}

#[test]
fn check_finds_what_would_stop_the_line() {
    let world = World::new("checks");
    let (code, wrong) = found(&world, &[]);
    assert_eq!(code, Some(69));
    assert_eq!(wrong[0][0], "schema", "migrations are pending: {wrong:?}");
    assert_eq!(wrong[1..].iter().map(|w| &w[0]).collect::<Vec<_>>(), ["topic"; 3], "{wrong:?}");
    world.run(&["migrate"]);
    // Too small for a payload that is sent inline; the worker leaves topics as they are.
    let small = world.topic("text");
    make_topic(&small, "1048576");
    assert_eq!(world.worker(&["--exit-at-end"]).end(120), Some(0), "{}", world.log());
    let small_topic = ["message_bytes", "warning", small.as_str()];
    assert_eq!(found(&world, &[]), (Some(0), all(&[small_topic])));
    let fits = ["--set", "fetch.payload_bytes_max=900000"];
    assert_eq!(found(&world, &fits), (Some(0), all(&[])), "smaller payloads fit");
    let much = ["--set", "memory.raw_bytes=1000000000000000"];
    assert_eq!(
        found(&world, &[&fits[..], &much[..]].concat()),
        (Some(69), all(&[["memory", "error", "memory"]]))
    );
    let (code, wrong) = found(&world, &[&fits[..], &["--set", "kafka.replication=3"]].concat());
    assert_eq!((code, &wrong[0]), (Some(69), &all(&[["replication", "error", "kafka.replication"]])[0]));
    assert_eq!(wrong[1..].iter().map(|w| &w[0]).collect::<Vec<_>>(), ["replicas"; 3], "{wrong:?}");
    let generation = world.sql("SELECT generation FROM spawn.source WHERE pipeline = 'audio'");
    let views = format!("DROP VIEW spawn.llamaindex_{generation}, spawn.langchain_{generation}");
    world.sql(&views);
    world.sql(&format!("ALTER TABLE spawn.embedding_{generation} ALTER COLUMN vector TYPE halfvec(7)"));
    assert_eq!(found(&world, &fits), (Some(69), all(&[["dimension", "error", "pipeline.audio"]])));
}

#[test]
fn check_finds_models_that_do_not_fit() {
    let world = World::new("checkmodels");
    world.run(&["migrate"]);
    assert_eq!(world.worker(&["--exit-at-end"]).end(120), Some(0), "{}", world.log());
    let models = world.dir.path().join("models");
    let copied = std::process::Command::new("cp")
        .args(["-r", &std::env::var("SPAWN_MODELS").unwrap()])
        .arg(&models)
        .status();
    assert!(copied.unwrap().success());
    let set = format!("models.dir={}", models.display());
    assert_eq!(found(&world, &["--set", &set]), (Some(0), all(&[])), "a copy is the same");
    std::fs::remove_file(models.join("resemblyzer/model.pt")).unwrap();
    std::fs::write(models.join("minilm-l6/model.pt"), "half a file").unwrap();
    let manifest = models.join("efficientnet-lite0/model.toml");
    let text = std::fs::read_to_string(&manifest).unwrap();
    std::fs::write(&manifest, text.replace("shape = [224, 224, 3]", "shape = [224, 240, 3]")).unwrap();
    assert_eq!(
        found(&world, &["--set", &set]),
        (
            Some(69),
            all(&[
                ["input", "error", "pipeline.image.model"],
                ["model_file", "error", "pipeline.audio.model"],
                ["model_file", "error", "pipeline.text.model"],
                // Another version: its rows and those of before would mix.
                ["source", "error", "pipeline.image"],
            ])
        )
    );
}

/// A topic whose messages have at most this many bytes, with as many partitions as the world's.
fn make_topic(name: &str, message_bytes_max: &str) {
    let brokers = std::env::var("KAFKA_BROKERS").unwrap();
    let client: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", brokers).create().unwrap();
    let topic =
        NewTopic::new(name, 4, TopicReplication::Fixed(1)).set("max.message.bytes", message_bytes_max);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let made = runtime.block_on(client.create_topics([&topic], &AdminOptions::new())).unwrap();
    assert!(made[0].is_ok(), "{made:?}");
}
