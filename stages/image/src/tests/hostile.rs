//! Files made to break decoders: whatever the bytes are, the answer is pixels of the right shape or a rejection.

use super::{fixture, fixtures, good_pictures, media, pixels, square};
use crate::{ImageStage, Limits};
use spawn_core::Stage;

/// Mutations of each fixture.
const MUTATIONS: u32 = 2_000;

const CODES: [&str; 6] = [
    "decode.malformed",
    "decode.truncated",
    "decode.unsupported",
    "limit.bytes",
    "limit.pixels",
    "payload.empty",
];

/// xorshift64*: the same mutations on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }
}

/// One to four changes, half of them in the header, where they hurt most.
fn mutate(original: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = original.to_vec();
    for _ in 0..=random.below(4) {
        if bytes.is_empty() {
            break;
        }
        let reach = if random.below(2) == 0 { bytes.len().min(200) } else { bytes.len() };
        let at = random.below(reach);
        match random.below(6) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][random.below(5)],
            2 => bytes[at] = random.next() as u8,
            3 => bytes.truncate(at),
            4 => {
                let end = (at + 1 + random.below(16)).min(bytes.len());
                bytes.drain(at..end);
            }
            _ => {
                let end = (at + 1 + random.below(16)).min(bytes.len());
                let copy = bytes[at..end].to_vec();
                let to = random.below(bytes.len());
                bytes.splice(to..to, copy);
            }
        }
    }
    bytes
}

fn check(stage: &mut ImageStage, bytes: Vec<u8>, what: &str) -> bool {
    match (stage as &mut dyn Stage).check_and_process(&media(bytes)) {
        Ok(prepared) => {
            assert_eq!(pixels(&prepared).len(), 32 * 32 * 3, "{what}");
            true
        }
        Err(rejection) => {
            assert!(CODES.contains(&rejection.code.as_ref()), "{what}: {rejection}");
            assert!(!rejection.detail.is_empty() && rejection.detail.chars().count() <= 500, "{what}");
            false
        }
    }
}

/// Mutates every fixture whose name ends in one of `suffixes`.
fn storm(suffixes: &[&str]) {
    // Low limits keep the time of a lucky mutation (a valid header of many pixels) short.
    let limits = Limits { bytes_max: 1 << 16, pixels_max: 200_000 };
    let mut stage = ImageStage::new(square(), limits).unwrap();
    let (mut accepted, mut refused) = (0u32, 0u32);
    for name in good_pictures().iter().filter(|name| suffixes.iter().any(|s| name.ends_with(s))) {
        let original = fixture(name);
        let mut random = Random(0x5eed_0000 + original.len() as u64);
        for round in 0..MUTATIONS {
            let bytes = mutate(&original, &mut random);
            match check(&mut stage, bytes, &format!("{name}, mutation {round}")) {
                true => accepted += 1,
                false => refused += 1,
            }
        }
    }
    assert!(accepted > 100 && refused > 1000, "{suffixes:?}: {accepted} accepted, {refused} refused");
}

#[test]
fn mutated_jpegs_never_panic() {
    storm(&[".jpg"]);
}

#[test]
fn mutated_pngs_and_bmps_never_panic() {
    storm(&[".png", ".bmp"]);
}

#[test]
fn mutated_gifs_and_webps_never_panic() {
    storm(&[".gif", ".webp"]);
}

#[test]
fn mutated_tiffs_never_panic() {
    storm(&[".tif"]);
}

#[test]
fn every_beginning_of_every_fixture_is_answered() {
    let limits = Limits { bytes_max: 1 << 20, pixels_max: 1_000_000 };
    let mut stage = ImageStage::new(square(), limits).unwrap();
    for name in good_pictures() {
        let original = fixture(&name);
        for length in (0..original.len().min(700)).chain((700..original.len()).step_by(97)) {
            check(&mut stage, original[..length].to_vec(), &format!("{name}, {length} bytes"));
        }
    }
}

#[test]
fn every_committed_file_is_answered() {
    let mut stage = super::stage(square());
    for entry in std::fs::read_dir(fixtures()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        check(&mut stage, fixture(&name), &name);
    }
}

/// The `tiff` crate panics on some planar files that are tiled; the stage must not.
#[test]
fn tiled_planar_tiffs_do_not_panic() {
    let entry = |tag: u16, kind: u16, count: u32, value: u32| {
        let mut bytes = Vec::new();
        bytes.extend(tag.to_le_bytes());
        bytes.extend(kind.to_le_bytes());
        bytes.extend(count.to_le_bytes());
        bytes.extend(value.to_le_bytes());
        bytes
    };
    // 20x20 RGB in 16x16 tiles, one plane each; offsets and sizes of 12 tiles lie behind the directory.
    let at = 8 + 2 + 11 * 12 + 4;
    let mut bytes = b"II*\0\x08\0\0\0".to_vec();
    bytes.extend(11u16.to_le_bytes());
    for (tag, kind, count, value) in [
        (256, 3, 1, 20),
        (257, 3, 1, 20),
        (258, 3, 3, at),
        (259, 3, 1, 1),
        (262, 3, 1, 2),
        (277, 3, 1, 3),
        (284, 3, 1, 2),
        (322, 3, 1, 16),
        (323, 3, 1, 16),
        (324, 4, 12, at + 8),
        (325, 4, 12, at + 56),
    ] {
        bytes.extend(entry(tag, kind, count, value));
    }
    bytes.extend([0; 4]);
    bytes.extend([8, 0, 8, 0, 8, 0, 0, 0]);
    (0..12u32).for_each(|tile| bytes.extend((at + 104 + 256 * tile).to_le_bytes()));
    (0..12).for_each(|_| bytes.extend(256u32.to_le_bytes()));
    bytes.extend((0..12 * 256).map(|i| i as u8));
    let mut stage = super::stage(square());
    check(&mut stage, bytes, "tiled planar TIFF");
}
