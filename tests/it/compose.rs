//! The container files, as far as they can be checked without an engine: no engine runs where these tests run.

use crate::world::root;
use yaml_rust2::{Yaml, YamlLoader};

#[test]
fn compose_is_valid_yaml_whose_names_all_exist() {
    let text = std::fs::read_to_string(root().join("docker/compose.yaml")).unwrap();
    let compose = &YamlLoader::load_from_str(&text).unwrap()[0];
    let services = compose["services"].as_hash().expect("services");
    let names: Vec<&str> = services.keys().filter_map(Yaml::as_str).collect();
    for wanted in ["kafka", "postgres", "worker", "api", "prometheus", "migrate"] {
        assert!(names.contains(&wanted), "no service {wanted} among {names:?}");
    }
    for (name, service) in services {
        let name = name.as_str().unwrap();
        assert!(
            service["image"].as_str().is_some() || !service["build"].is_badvalue(),
            "{name} has no image"
        );
        if let Some(others) = service["depends_on"].as_hash() {
            for (other, how) in others {
                assert!(names.contains(&other.as_str().unwrap()), "{name} depends on {other:?}");
                let condition = how["condition"].as_str().unwrap();
                let healthy = condition == "service_healthy";
                assert!(
                    !healthy
                        || !services[other]["healthcheck"].is_badvalue()
                        || checked_by_image(&services[other]),
                    "{other:?} has no health to wait for"
                );
            }
        }
        for port in service["ports"].as_vec().into_iter().flatten() {
            assert!(
                port.as_str().unwrap().starts_with("127.0.0.1:"),
                "{name} publishes {port:?} to everybody"
            );
        }
        for volume in service["volumes"].as_vec().into_iter().flatten() {
            let source = volume.as_str().unwrap().split(':').next().unwrap();
            let known = match source.starts_with('.') {
                true => root().join("docker").join(source).exists(),
                false => !compose["volumes"][source].is_badvalue(),
            };
            assert!(known, "{name} mounts {source}, which is not there");
        }
    }
}

/// What is built here brings its check along.
fn checked_by_image(service: &Yaml) -> bool {
    let file = std::fs::read_to_string(root().join("docker/Dockerfile")).unwrap();
    !service["build"].is_badvalue() && file.lines().any(|line| line.starts_with("HEALTHCHECK "))
}

#[test]
fn compose_sets_only_known_keys() {
    let text = std::fs::read_to_string(root().join("docker/compose.yaml")).unwrap();
    let compose = &YamlLoader::load_from_str(&text).unwrap()[0];
    let known = std::fs::read_to_string(root().join("config/default.toml")).unwrap();
    let known: toml::Table = known.parse().unwrap();
    let mut found = 0;
    for (name, service) in compose["services"].as_hash().unwrap() {
        for (variable, _) in service["environment"].as_hash().into_iter().flatten() {
            let Some(path) = variable.as_str().unwrap().strip_prefix("SPAWN__") else { continue };
            let path = path.to_lowercase();
            let (section, key) = path.split_once("__").unwrap();
            let key = key.strip_suffix("_file").unwrap_or(key);
            assert!(
                known[section].get(key).is_some(),
                "{name:?}: config/default.toml has no {section}.{key}"
            );
            found += 1;
        }
    }
    assert!(found >= 4, "only {found} settings");
}

#[test]
fn the_image_has_stages_and_no_root() {
    let file = std::fs::read_to_string(root().join("docker/Dockerfile")).unwrap();
    assert!(file.lines().filter(|l| l.starts_with("FROM ")).count() >= 2);
    let user = file.lines().rev().find_map(|l| l.strip_prefix("USER ")).expect("a USER");
    assert!(!["root", "0"].contains(&user.trim()), "{user}");
}
