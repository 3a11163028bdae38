//! Content that was seen before is not computed again, and what is written for it is what would have been computed.

use crate::world::{World, free_port, http_get, media};

const PICTURES: usize = 20;
const IDS_EACH: usize = 3;

/// Rows of these pictures under ids of their own.
fn manifest(world: &World, ids: std::ops::Range<usize>) {
    let pictures = media("images", PICTURES);
    let rows = ids.flat_map(|id| {
        pictures.iter().enumerate().map(move |(i, path)| format!("{i}-{id},{},image\n", path.display()))
    });
    let file = world.dir.path().join("pictures.csv");
    std::fs::write(&file, format!("id,path,modality\n{}", rows.collect::<String>())).unwrap();
    world.run(&["ingest", file.to_str().unwrap()]);
}

/// Works until so many records are settled; how many were taken from the table and from memory.
fn work(world: &World, records: usize) -> [usize; 2] {
    let port = free_port();
    let listen = format!("metrics.listen=127.0.0.1:{port}");
    let worker = world.worker(&[
        "--pipeline",
        "image",
        "--set",
        "reuse.enabled=true",
        "--set",
        "reuse.answer_ms=5000",
        "--set",
        &listen,
    ]);
    let settled = || world.count("SELECT count(*) FROM spawn.record") == records as i64;
    world.wait("all are settled", 60, settled);
    let (_, metrics) = http_get(port, "/metrics").unwrap();
    let reused = ["stored", "shared"].map(|from| {
        let of = |line: &str| {
            line.starts_with("spawn_reused_items_total{") && line.contains(&format!("\"{from}\""))
        };
        let line = metrics.lines().find(|line| of(line));
        line.map_or(0, |line| line.rsplit(' ').next().unwrap().parse().unwrap())
    });
    worker.signal("-TERM");
    assert_eq!(worker.end(20), Some(0), "{}", world.log());
    reused
}

#[test]
fn content_that_was_seen_before_is_computed_once() {
    let world = World::new("reuse");
    world.run(&["migrate"]);
    manifest(&world, 0..IDS_EACH);
    let [stored, shared] = work(&world, IDS_EACH * PICTURES);
    assert_eq!(stored + shared, (IDS_EACH - 1) * PICTURES, "each picture is with the model once");
    assert!(shared > 0, "the first ones are in the same units");

    // A new process knows what lies in the table. Lookups may come late while it starts and the machine is busy, not all of them do.
    manifest(&world, IDS_EACH..IDS_EACH + 1);
    let [stored, _] = work(&world, (IDS_EACH + 1) * PICTURES);
    assert!(stored > 0, "{stored} of {PICTURES}");
    world.assert_ledger("image", [((IDS_EACH + 1) * PICTURES) as i64, 0, 0, 0]);
    let kinds = "SELECT count(DISTINCT (content_hash, facts, labels, vector::text)) FROM spawn.result JOIN spawn.embedding_1 USING (item)";
    // Computed in another company, a vector may differ in its last bit.
    let most = PICTURES + (PICTURES - stored);
    assert!(world.count(kinds) <= most as i64, "whatever was reused is what was computed");
}
