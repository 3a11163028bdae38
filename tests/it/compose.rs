//! The container files, as far as they can be checked without an engine: no engine runs where these tests run.

use crate::world::root;

#[test]
fn compose_names_every_service_and_only_known_settings() {
    let compose = std::fs::read_to_string(root().join("docker/compose.yaml")).unwrap();
    for service in ["kafka:", "postgres:", "worker:", "api:", "prometheus:", "migrate:"] {
        assert!(
            compose.lines().any(|l| l.trim() == service && l.starts_with("  ") && !l.starts_with("    ")),
            "no service {service}"
        );
    }
    let known = std::fs::read_to_string(root().join("config/default.toml")).unwrap();
    let known: toml::Table = known.parse().unwrap();
    for line in compose.lines().filter(|l| l.contains("SPAWN__")) {
        let name = line.trim().split([':', '=']).next().unwrap().trim_start_matches("- ");
        let mut path = name.trim_start_matches("SPAWN__").to_lowercase();
        path = path.strip_suffix("_file").map(str::to_owned).unwrap_or(path);
        let (section, key) = path.split_once("__").unwrap_or_else(|| panic!("{line}"));
        assert!(known[section].get(key).is_some(), "{line}: config/default.toml has no {section}.{key}");
    }
    assert!(!compose.contains('\t'), "YAML has no tabs");
}

#[test]
fn the_image_has_stages_and_no_root() {
    let file = std::fs::read_to_string(root().join("docker/Dockerfile")).unwrap();
    assert!(file.lines().filter(|l| l.starts_with("FROM ")).count() >= 2);
    let user = file.lines().rev().find_map(|l| l.strip_prefix("USER ")).expect("a USER");
    assert!(!["root", "0"].contains(&user.trim()), "{user}");
}
