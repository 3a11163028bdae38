//! Damaged files: whatever comes, the stage answers, and goes on to work.

use super::{config, fixture, limits, wav};
use crate::decode::contained;
use crate::{AudioStage, Decoder};
use bytes::Bytes;
use spawn_core::{Media, Rejection, Stage};

const NAMES: [&str; 12] = [
    "s16-mono.wav",
    "s16.flac",
    "s24-22k.flac",
    "u8-8k.wav",
    "alaw-8k.wav",
    "mulaw-8k.wav",
    "lame.mp3",
    "aac.m4a",
    "aac.aac",
    "vorbis.ogg",
    "opus.ogg",
    "opus.webm",
];
const ROUNDS: u64 = 600;

/// Marsaglia's xorshift64: the same damage on each run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }
}

fn damage(file: &[u8], random: &mut Random) -> Bytes {
    let mut file = file.to_vec();
    for _ in 0..=random.below(4) {
        // Half of the damage goes to the header, where it does most.
        let reach = if random.below(2) == 0 { file.len().min(600) } else { file.len() };
        let at = random.below(reach);
        let length = random.below(24) + 1;
        let end = (at + length).min(file.len());
        match random.below(7) {
            0 => file[at] ^= 1 << random.below(8),
            1 => file[at..end].fill(0xff),
            2 => file[at..end].fill(0),
            3 => file[at..end].iter_mut().for_each(|b| *b = random.next() as u8),
            4 => file.truncate(at.max(1)),
            5 => drop(file.drain(at..end)),
            _ => {
                let copy = file[at..end].to_vec();
                file.splice(at..at, copy);
            }
        }
        if file.is_empty() {
            break;
        }
    }
    file.into()
}

#[test]
fn damaged_files_get_an_answer() {
    let mut stage = AudioStage::new(config(), limits()).unwrap();
    let codes = [
        "decode.unsupported",
        "decode.truncated",
        "decode.malformed",
        "limit.bytes",
        "limit.duration",
        "payload.empty",
    ];
    let (mut accepted, mut refused) = (0, 0);
    for (i, name) in NAMES.iter().enumerate() {
        let file = fixture(name);
        let mut random = Random(0x9e37_79b9_7f4a_7c15 + i as u64);
        for round in 0..ROUNDS {
            let media = Media::new(damage(&file, &mut random), None);
            let answer = stage.footprint(&media).and_then(|bytes| Ok((bytes, stage.process(&media)?)));
            match answer {
                Ok((bytes, prepared)) => {
                    accepted += 1;
                    let held: usize = prepared.chunks.iter().map(|c| c.bytes()).sum();
                    assert!(held <= bytes, "{name} {round}: {held} bytes of chunks, {bytes} reserved");
                    assert!((1..=4).contains(&prepared.chunks.len()), "{name} {round}");
                    assert!(prepared.chunks.iter().all(|c| c.length() == 25_840));
                }
                Err(rejection) => {
                    refused += 1;
                    assert_eq!(rejection.stage, "prepare");
                    assert!(codes.contains(&&*rejection.code), "{name} {round}: {rejection}");
                }
            }
        }
    }
    // The damage must reach both ways out, or this test says nothing.
    assert!(accepted > 100 && refused > 100, "{accepted} accepted, {refused} refused");
}

#[test]
fn a_panic_inside_is_a_rejection() {
    let code = |answer: Result<(), Rejection>| answer.unwrap_err().code;
    assert_eq!(
        code(contained(|| panic!("what a decoder does on bytes it did not expect"))),
        "decode.malformed"
    );
    // 65,535 channels of four bytes: more than the reader's arithmetic holds.
    let mut file = wav(1, 32, 1, 16_000, &[0; 400]).to_vec();
    file[22..24].fill(0xff);
    let stage = AudioStage::new(config(), limits()).unwrap();
    assert_eq!(code(stage.footprint(&Media::new(file.into(), None)).map(drop)), "decode.malformed");
}

#[test]
fn a_refused_clip_leaves_no_trace_in_the_next() {
    let whole = fixture("lame.mp3");
    let mut decoder = Decoder::new(16_000, limits());
    let first = decoder.decode(&whole, usize::MAX).unwrap();
    assert!(decoder.decode(&whole.slice(..whole.len() / 2), usize::MAX).is_err());
    assert!(decoder.decode(&whole, 1_000).is_ok());
    assert!(decoder.decode(&whole, usize::MAX).unwrap() == first);
    let stage = AudioStage::new(config(), limits()).unwrap();
    let media = Media::new(whole, None);
    let fork = |stage: &AudioStage| stage.fork().process(&media).unwrap().chunks;
    assert!(fork(&stage) == fork(&stage));
}
