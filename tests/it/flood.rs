//! More bytes than fit: large records, huge pictures and hours of sound wait at the gates, and memory stays within its budget.

use crate::storms::resident;
use crate::world::{World, figure, free_port, http_get, rounds};
use std::path::{Path, PathBuf};

/// A bitmap of one colour. One bit a pixel: 90 million pixels are 11 MB of file and 270 MB of samples.
pub fn bitmap(path: &Path, (width, height): (u32, u32), bits: u16) {
    let row = (width * u32::from(bits)).div_ceil(32) * 4;
    let palette: &[u8] = if bits == 1 { &[0, 0, 0, 0, 255, 255, 255, 0] } else { &[] };
    let offset = 54 + palette.len() as u32;
    let mut file = b"BM".to_vec();
    for word in [offset + row * height, 0, offset, 40, width, height, 1 | u32::from(bits) << 16] {
        file.extend(word.to_le_bytes());
    }
    // No compression, sizes as they follow, no resolution, all colours.
    file.resize(54, 0);
    file.extend(palette);
    file.resize((offset + row * height) as usize, 0x5a);
    std::fs::write(path, file).unwrap();
}

/// An hour of eight-bit sound at 8 kHz: 29 MB of file, 230 MB once it is prepared.
fn hour_of_sound(path: &Path) {
    let samples = 3600 * 8000u32;
    let mut file = b"RIFF".to_vec();
    file.extend((36 + samples).to_le_bytes());
    file.extend(b"WAVEfmt \x10\0\0\0\x01\0\x01\0");
    file.extend([8000u32.to_le_bytes(), 8000u32.to_le_bytes()].concat());
    file.extend(b"\x01\0\x08\0data");
    file.extend(samples.to_le_bytes());
    file.extend((0..samples).map(|i| (i % 200) as u8));
    std::fs::write(path, file).unwrap();
}

/// Other names for the same file, so that each is an item of its own.
pub fn links(file: &Path, count: usize) -> Vec<PathBuf> {
    let name = |i| file.with_extension(format!("{i}.{}", file.extension().unwrap().to_str().unwrap()));
    let links: Vec<PathBuf> = (0..count).map(name).collect();
    links.iter().for_each(|link| std::fs::hard_link(file, link).unwrap());
    links
}

fn submit(world: &World, files: &[PathBuf], sets: &[&str]) {
    let sets = sets.iter().flat_map(|set| ["--set", set]);
    let args: Vec<&str> =
        ["submit"].into_iter().chain(sets).chain(files.iter().map(|f| f.to_str().unwrap())).collect();
    world.run(&args);
}

#[test]
fn floods_of_bytes_stay_within_the_budget() {
    let world = World::new("flood");
    let scale = rounds("SPAWN_FLOODS", 1) as usize;
    world.run(&["migrate"]);
    let place = |name: &str| world.dir.path().join(name);
    // 10 MB in the record itself, the others by reference.
    bitmap(&place("large.bmp"), (2000, 1700), 24);
    bitmap(&place("huge.bmp"), (10_000, 9_000), 1);
    hour_of_sound(&place("hour.wav"));
    let (large, huge) = (links(&place("large.bmp"), 24 * scale), links(&place("huge.bmp"), 6 * scale));
    let hours = links(&place("hour.wav"), 3 * scale);
    submit(&world, &large, &["fetch.file_roots="]);
    submit(&world, &huge, &[]);
    submit(&world, &hours, &[]);

    let port = free_port();
    let listen = format!("metrics.listen=127.0.0.1:{port}");
    let budget = ["memory.raw_bytes=300000000", "memory.decoded_bytes=400000000"];
    let args = [
        "--pipeline",
        "image",
        "--pipeline",
        "audio",
        "--set",
        &listen,
        "--set",
        budget[0],
        "--set",
        budget[1],
    ];
    let worker = world.worker(&args);
    world.wait("the worker is up", 60, || http_get(port, "/metrics").is_some());
    let loaded = resident(worker.0.id());
    let all = (large.len() + huge.len() + hours.len()) as i64;
    let (mut peak, mut fullest) = (0, 0.0_f64);
    world.wait("all are settled", 240 * scale as u64, || {
        peak = peak.max(resident(worker.0.id()));
        let Some((_, metrics)) = http_get(port, "/metrics") else { return false };
        let told = |name: &str, pool: &str| {
            let line = format!("{name}{{pool=\"{pool}\"}} ");
            metrics.lines().find_map(|l| l.strip_prefix(&line)?.parse::<f64>().ok()).unwrap_or(0.0)
        };
        for pool in ["raw", "decoded"] {
            let (used, limit) =
                (told("spawn_inflight_bytes", pool), told("spawn_inflight_limit_bytes", pool));
            assert!(used <= limit, "{pool}: {used} of {limit} bytes");
            fullest = fullest.max(if limit > 0.0 { used / limit } else { 0.0 });
        }
        world.count("SELECT count(*) FROM spawn.record") == all
    });
    worker.signal("-TERM");
    assert_eq!(worker.end(20), Some(0), "{}", world.log());
    world.assert_ledger("image", [(large.len() + huge.len()) as i64, 0, 0, 0]);
    world.assert_ledger("audio", [hours.len() as i64, 0, 0, 0]);
    assert!(fullest > 0.5, "the gates were never half full: no flood");
    // In kB: the pools, and what model calls need beside the loaded models.
    let grown = peak.saturating_sub(loaded);
    assert!(grown < 700_000 + 500_000, "{loaded} kB loaded, {peak} kB at most");
    figure("flood.records", all);
    figure("flood.grown_bytes", grown * 1024);
}
