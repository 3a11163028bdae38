//! Rules of the repository. A rule without a check does not hold.

use crate::world::root;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

const FLOORS: [(&str, u8); 12] = [
    ("pipeline/core", 0),
    ("pipeline/engine", 1),
    ("pipeline/fetch", 1),
    ("pipeline/kafka", 1),
    ("pipeline/postgres", 1),
    ("stages/audio", 1),
    ("stages/image", 1),
    ("stages/text", 1),
    ("stages/torch", 1),
    ("pipeline/api", 2),
    ("jobs", 2),
    ("pipeline/app", 3),
];

/// One heavy dependency lives in one crate.
const HEAVY: [(&str, &str); 9] = [
    ("axum", "pipeline/api"),
    ("libloading", "stages/torch"),
    ("object_store", "pipeline/fetch"),
    ("polars", "jobs"),
    ("rdkafka", "pipeline/kafka"),
    ("reqwest", "pipeline/fetch"),
    ("safetensors", "stages/torch"),
    ("sqlx", "pipeline/postgres"),
    ("tokenizers", "stages/text"),
];

/// What each crate depends on, for its code, its tests and its build alike.
fn dependencies(folder: &str) -> Vec<String> {
    static METADATA: OnceLock<Value> = OnceLock::new();
    let metadata = METADATA.get_or_init(|| {
        let mut command = Command::new("cargo");
        command.args(["metadata", "--no-deps", "--offline", "--format-version", "1"]).current_dir(root());
        serde_json::from_slice(&command.output().unwrap().stdout).unwrap()
    });
    let manifest = root().join(folder).join("Cargo.toml");
    let mut packages = metadata["packages"].as_array().unwrap().iter();
    let package =
        packages.find(|p| Path::new(p["manifest_path"].as_str().unwrap()) == manifest).expect(folder);
    let names =
        package["dependencies"].as_array().unwrap().iter().map(|d| d["name"].as_str().unwrap().to_owned());
    names.collect()
}

fn sources() -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut open: Vec<PathBuf> = ["pipeline", "stages", "jobs", "tests"].map(|f| root().join(f)).to_vec();
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}

fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn crates_know_only_floors_below_them() {
    let floor =
        |name: &str| FLOORS.iter().find(|(f, _)| f.rsplit('/').next() == Some(name)).map(|(_, floor)| *floor);
    for (folder, own) in FLOORS {
        for dependency in dependencies(folder).iter().filter_map(|d| d.strip_prefix("spawn-")) {
            let below = floor(dependency).unwrap_or_else(|| panic!("{dependency} has no floor"));
            assert!(below < own, "{folder} (floor {own}) depends on {dependency} (floor {below})");
            assert!(own != 1 || below == 0, "{folder} may know only core, not {dependency}");
        }
    }
    let core = dependencies("pipeline/core");
    for forbidden in ["tokio", "rdkafka", "sqlx", "libloading", "futures"] {
        assert!(!core.iter().any(|d| d == forbidden), "core depends on {forbidden}");
    }
}

#[test]
fn each_heavy_dependency_lives_in_one_crate() {
    for (heavy, home) in HEAVY {
        for (folder, _) in FLOORS {
            let has = dependencies(folder).iter().any(|d| d == heavy);
            assert!(!has || folder == home, "{heavy} belongs to {home} alone; see {folder}");
        }
    }
}

#[test]
fn sql_lies_in_one_crate() {
    for path in sources() {
        let shown = path.strip_prefix(root()).unwrap().display().to_string();
        let text = text(&path);
        if !shown.starts_with("pipeline/postgres") && !shown.starts_with("tests/") {
            for word in ["SELECT ", "INSERT INTO", "DELETE FROM"] {
                assert!(!text.contains(word), "{shown} contains SQL: {word}");
            }
        }
        if !shown.starts_with("tests/") {
            assert!(!text.contains("spawn_blocking("), "{shown}: CPU work belongs on the crew");
        }
    }
}

#[test]
fn only_the_app_reads_the_environment() {
    for path in sources() {
        let shown = path.strip_prefix(root()).unwrap().display().to_string();
        let below = !shown.starts_with("pipeline/app") && !shown.starts_with("tests/");
        let test = shown.contains("/tests") || shown.contains("/examples/") || shown.ends_with("build.rs");
        if below && !test {
            let code = text(&path);
            let code = code.split("#[cfg(test)]").next().unwrap_or_default();
            assert!(!code.contains("env::var"), "{shown} reads the environment");
        }
    }
}

#[test]
fn files_are_small_and_say_what_they_are() {
    for path in sources() {
        let shown = path.strip_prefix(root()).unwrap().display().to_string();
        let text = text(&path);
        let lines = text.lines().count();
        assert!(lines <= 420, "{shown} has {lines} lines: would two files be better?");
        assert!(
            text.starts_with("//!") || shown.contains("/tests/"),
            "{shown} does not begin with what it is"
        );
        for stub in ["todo!(", "unimplemented!(", "FIXME", "#[ignore"] {
            assert!(!text.contains(stub) || shown == "tests/it/tidy.rs", "{shown} contains {stub}");
        }
    }
}

#[test]
fn metrics_are_named_in_one_file_per_crate_and_documented() {
    let documented = text(&root().join("docs/metrics.md"));
    for path in sources() {
        let shown = path.strip_prefix(root()).unwrap().display().to_string();
        if shown.starts_with("tests/") {
            continue;
        }
        let text = text(&path);
        for call in ["gauge!(\"", "counter!(\"", "histogram!(\""] {
            for (at, _) in text.match_indices(call) {
                assert!(shown.ends_with("telemetry.rs"), "{shown} records a metric outside telemetry.rs");
                let name = text[at + call.len()..].split('"').next().unwrap();
                assert!(
                    documented.contains(&format!("`{name}`")),
                    "docs/metrics.md does not name {name} ({shown})"
                );
            }
        }
    }
}

#[test]
fn every_configuration_key_is_read() {
    let folder = root().join("pipeline/app/src");
    let read: Vec<String> = sources()
        .iter()
        .filter(|path| path.starts_with(&folder) && !path.ends_with("config.rs"))
        .map(|path| text(path))
        .collect();
    let defaults: toml::Table = text(&root().join("config/default.toml")).parse().unwrap();
    let mut keys = 0;
    for (section, table) in defaults.iter().filter_map(|(section, value)| Some((section, value.as_table()?)))
    {
        for key in table.keys() {
            keys += 1;
            let field = |code: &String| {
                let named = code.contains(&format!(".{section}")) || code.contains(&format!("{section}:"));
                let wanted = format!(".{key}");
                let mut places =
                    code.match_indices(&wanted).map(|(at, found)| code[at + found.len()..].chars().next());
                named && places.any(|next| next.is_none_or(|c| !c.is_alphanumeric() && c != '_'))
            };
            assert!(read.iter().any(field), "{section}.{key} is documented but nobody reads it");
        }
    }
    assert!(keys > 50, "only {keys} keys found");
}

#[test]
fn rejection_codes_are_documented() {
    let documented = text(&root().join("docs/rejections.md"));
    let kinds = ["envelope", "payload", "decode", "limit", "text", "stage", "infer", "model", "store"];
    let mut found = 0;
    for path in sources() {
        let shown = path.strip_prefix(root()).unwrap().display().to_string();
        // The API has codes of its own for its problems.
        if shown.starts_with("pipeline/api") || shown.contains("/tests") || shown.starts_with("tests/") {
            continue;
        }
        let text = text(&path);
        for literal in text.split('"').skip(1) {
            let Some((kind, word)) = literal.split_once('.') else { continue };
            let is_code = kinds.contains(&kind)
                && !["toml", "pt"].contains(&word)
                && word.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
            if is_code && !word.is_empty() {
                found += 1;
                assert!(
                    documented.contains(&format!("`{literal}`")),
                    "docs/rejections.md does not list {literal} ({shown})"
                );
            }
        }
    }
    assert!(found > 20, "only {found} codes found: has their form changed?");
}
