//! Real pictures, sound and text through the whole line, broken ones among them.

use crate::world::{World, media};
use std::collections::BTreeMap;
use std::path::Path;

#[test]
fn media_become_results_and_broken_ones_become_rejections() {
    let world = World::new("flow");
    let (images, sounds, texts) = (media("images", 6), media("audio", 4), media("text", 6));
    let mut paths: Vec<&str> = Vec::new();
    for path in images.iter().chain(&sounds).chain(&texts) {
        paths.push(path.to_str().unwrap());
    }
    let sent = world.json(&[&["submit"], &paths[..]].concat());
    assert_eq!(sent.len(), 16);
    // The same once more: duplicates.
    world.json(&[&["submit"], &paths[..2]].concat());
    let cut = std::fs::read(&images[0]).unwrap();
    let truncated = world.dir.path().join("cut.jpg");
    std::fs::write(&truncated, &cut[..cut.len() / 2]).unwrap();
    let bad_text = world.dir.path().join("bad.txt");
    std::fs::write(&bad_text, b"\xff\xfe\xfa not text").unwrap();
    world.json(&["submit", truncated.to_str().unwrap(), bad_text.to_str().unwrap()]);

    assert_eq!(world.worker(&["--exit-at-end"]).end(120), Some(0), "{}", world.log());
    world.assert_ledger("image", [6, 1, 2, 0]);
    world.assert_ledger("audio", [4, 0, 0, 0]);
    world.assert_ledger("text", [6, 1, 0, 0]);
    let codes = world.sql("SELECT string_agg(DISTINCT code, ',' ORDER BY code) FROM spawn.rejection");
    assert!(codes.contains("decode.truncated") && codes.contains("text.not_utf8"), "{codes}");
    let kept = world.count("SELECT octet_length(value) FROM spawn.rejection WHERE code = 'decode.truncated'");
    assert_eq!(kept, (cut.len() / 2) as i64, "the dead letter has the original bytes");

    found_by_itself(&world, &sent);
    order_is_kept(&world);
}

/// What `datasets/broken.py` makes, and what becomes of each.
const BROKEN: [(&str, &str, &str); 17] = [
    ("blank.txt", "text", "text.empty"),
    ("bomb.png", "image", "limit.pixels"),
    ("cut-in-half.jpg", "image", "decode.truncated"),
    ("cut-in-half.png", "image", "decode.truncated"),
    ("cut-in-header.flac", "audio", "decode.truncated"),
    ("cut-in-header.jpg", "image", "decode.truncated"),
    ("cut-in-header.wav", "audio", "decode.truncated"),
    ("empty.jpg", "image", "payload.empty"),
    ("empty.txt", "text", "payload.empty"),
    ("empty.wav", "audio", "payload.empty"),
    ("flipped.png", "image", "decode.malformed"),
    ("latin1.txt", "text", "text.not_utf8"),
    ("no-channels.wav", "audio", "decode.malformed"),
    ("picture.txt", "text", "text.not_utf8"),
    ("picture.wav", "audio", "decode.unsupported"),
    ("stray-byte.txt", "text", "text.not_utf8"),
    ("text.jpg", "image", "decode.unsupported"),
];

#[test]
fn every_broken_file_is_rejected_with_its_code_and_its_bytes() {
    let world = World::new("broken");
    assert_eq!(media("broken", BROKEN.len()).len(), BROKEN.len());
    let file = |name: &str| crate::world::data().join("broken").join(name);
    let mut wanted = BTreeMap::new();
    for (name, modality, code) in BROKEN {
        let sent = world.json(&["submit", "--modality", modality, file(name).to_str().unwrap()]);
        wanted.insert(sent[0]["id"].as_str().unwrap().to_owned(), (name, code));
    }
    assert_eq!(world.worker(&["--exit-at-end"]).end(120), Some(0), "{}", world.log());
    let rows = world.sql("SELECT encode(substr(id_hash, 1, 16), 'hex') || ' ' || code || ' ' || octet_length(value) FROM spawn.rejection");
    assert_eq!(rows.lines().count(), BROKEN.len(), "{rows}");
    for row in rows.lines() {
        let [id, code, bytes] = row.split(' ').collect::<Vec<_>>()[..] else { panic!("{row}") };
        let (name, expected) = wanted[id];
        assert_eq!(code, expected, "{name}");
        assert_eq!(bytes, std::fs::metadata(file(name)).unwrap().len().to_string(), "{name}");
    }
    for (kind, rejected) in [("image", 7), ("audio", 5), ("text", 5)] {
        world.assert_ledger(kind, [0, rejected, 0, 0]);
    }
}

/// Each item's nearest is itself: by its id, and by its file.
fn found_by_itself(world: &World, sent: &[serde_json::Value]) {
    let id = sent[0]["id"].as_str().unwrap();
    let by_id = &world.json(&["search", id, "--exact", "--limit", "3"])[0];
    assert_eq!(by_id["hits"][0]["id"], id);
    let file = sent[0]["path"].as_str().unwrap();
    let by_file = &world.json(&["search", file, "--exact", "--limit", "3"])[0];
    assert_eq!(by_file["hits"][0]["id"], id);
    assert!(by_file["hits"][0]["cosine"].as_f64().unwrap() > 0.999);
    let by_words = &world.json(&["search", "a description of a software package", "--limit", "3"])[0];
    assert_eq!(by_words["returned"], 3);
    let result = &world.json(&["results", id])[0];
    assert_eq!(result["id"], id);
    let embedded = &world.json(&["embed", file])[0];
    assert_eq!(embedded["embedding"].as_array().unwrap().len(), 1280);
}

/// Rows of a partition appear in the order of its offsets.
fn order_is_kept(world: &World) {
    let rows =
        world.sql("SELECT source || ':' || partition || ':' || \"offset\" FROM spawn.result ORDER BY item");
    let mut last: BTreeMap<String, i64> = BTreeMap::new();
    for row in rows.lines() {
        let (place, offset) = row.rsplit_once(':').unwrap();
        let offset: i64 = offset.parse().unwrap();
        assert!(last.insert(place.to_owned(), offset).is_none_or(|before| before < offset), "{rows}");
    }
}

#[test]
fn plain_json_and_references_are_understood_and_guarded() {
    let world = World::new("forms");
    let image = media("images", 1).remove(0);
    let outside = Path::new("/etc/hostname");
    let manifest = world.dir.path().join("m.csv");
    let rows = format!(
        "id,uri,modality\nok,file://{},image\nmissing,file://{}.none,image\ndenied,file://{},image\nlocal,http://127.0.0.1:1/x.jpg,image\n",
        image.display(),
        image.display(),
        outside.display()
    );
    std::fs::write(&manifest, rows).unwrap();
    world.run(&["ingest", manifest.to_str().unwrap()]);
    assert_eq!(world.worker(&["--exit-at-end", "--pipeline", "image"]).end(120), Some(0), "{}", world.log());
    world.assert_ledger("image", [1, 3, 0, 0]);
    let codes = world.sql("SELECT string_agg(code, ',' ORDER BY code) FROM spawn.rejection");
    assert_eq!(codes, "payload.denied,payload.denied,payload.not_found");
}

#[test]
fn limits_refuse_before_anything_is_decoded() {
    let limits = [
        ("image", "images", "image.pixels_max=100", "limit.pixels"),
        ("image", "images", "fetch.payload_bytes_max=1000", "payload.too_large"),
        ("audio", "audio", "audio.seconds_max=1", "limit.duration"),
        ("text", "text", "text.tokens_max=3", "limit.tokens"),
    ];
    let world = World::new("limits");
    for (i, (kind, folder, setting, code)) in limits.into_iter().enumerate() {
        let file = media(folder, i + 1).remove(i);
        world.run(&["submit", file.to_str().unwrap()]);
        assert_eq!(
            world.worker(&["--exit-at-end", "--pipeline", kind, "--set", setting]).end(120),
            Some(0),
            "{}",
            world.log()
        );
        assert_eq!(world.sql("SELECT code FROM spawn.rejection ORDER BY id DESC LIMIT 1"), code, "{setting}");
    }
    world.assert_ledger("image", [0, 2, 0, 0]);
}
