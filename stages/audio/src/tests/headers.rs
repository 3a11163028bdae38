//! What is decided by the header, and headers that lie.

use super::{config, fixture, limits, sine, wav, wav_f32};
use crate::{AudioStage, Clip, Limits, decode_to_mono};
use bytes::Bytes;
use spawn_core::{Media, Rejection, Stage};

fn decode(bytes: &Bytes) -> Result<Clip, Rejection> {
    decode_to_mono(bytes, 16_000, &limits())
}

fn code(bytes: &Bytes) -> String {
    let rejection = decode(bytes).map(|clip| clip.seconds).expect_err("this file must be refused");
    assert_eq!(rejection.stage, "prepare");
    rejection.code.into_owned()
}

fn footprint(bytes: &Bytes, limits: Limits) -> Result<usize, Rejection> {
    AudioStage::new(config(), limits).unwrap().footprint(&Media::new(bytes.clone(), None))
}

/// A WAV file of silence at 8 kHz whose header declares another number of data bytes than there are.
fn lying_wav(declared: u32, actual: usize) -> Bytes {
    let mut file = wav(1, 8, 1, 8_000, &vec![128; actual]).to_vec();
    file[4..8].copy_from_slice(&declared.saturating_add(36).to_le_bytes());
    file[40..44].copy_from_slice(&declared.to_le_bytes());
    file.into()
}

#[test]
fn nothing_is_no_sound() {
    assert_eq!(code(&Bytes::new()), "payload.empty");
    assert_eq!(code(&wav_f32(16_000, &[])), "payload.empty");
}

#[test]
fn other_files_are_not_taken_for_sound() {
    let png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x01\0\0\0\x01".as_slice();
    let jpeg = b"\xff\xd8\xff\xe0\0\x10JFIF\0\x01".as_slice();
    let text = b"It was a dark and stormy night; the rain fell in torrents".as_slice();
    for file in [png, jpeg, text, &[0; 4_096], b"R", b"RIFF"] {
        assert_eq!(code(&Bytes::from_static(file)), "decode.unsupported", "{file:?}");
    }
    // Sound somewhere inside does not make it a sound file.
    let mut hidden = text.to_vec();
    hidden.extend_from_slice(&fixture("lame.mp3"));
    assert_eq!(code(&hidden.into()), "decode.unsupported");
}

#[test]
fn limits_are_checked_before_anything_is_decoded() {
    let file = wav_f32(16_000, &sine(440.0, 16_000, 2.0, 0.5));
    let refused = |limits: Limits| {
        let by_header = footprint(&file, limits).unwrap_err().code;
        assert_eq!(decode_to_mono(&file, 16_000, &limits).unwrap_err().code, by_header);
        by_header
    };
    assert_eq!(refused(Limits { bytes_max: file.len() - 1, ..limits() }), "limit.bytes");
    assert_eq!(refused(Limits { seconds_max: 1.99, ..limits() }), "limit.duration");
    assert!(footprint(&file, Limits { bytes_max: file.len(), seconds_max: 2.0 }).is_ok());
    assert!(footprint(&wav(1, 8, 33, 8_000, &[128; 330]), limits()).unwrap_err().code.starts_with("decode."));
    // An hour by the header of a file of a few bytes.
    assert_eq!(footprint(&lying_wav(8_000 * 3_600, 100), limits()).unwrap_err().code, "limit.duration");
}

#[test]
fn a_clip_longer_than_its_header_stops_at_the_limit() {
    // MP3 frames in a row, without a header that would tell how many.
    let fixture = fixture("lame.mp3");
    let tag = fixture.windows(4).position(|w| w == b"Info" || w == b"Xing").unwrap();
    let first = tag + fixture[tag..].windows(2).position(|w| w == [0xff, 0xfb]).unwrap();
    let endless = fixture[first..].repeat(12);
    let endless = Bytes::from(endless);
    let limits = Limits { seconds_max: 2.0, ..limits() };
    assert_eq!(decode_to_mono(&endless, 16_000, &limits).unwrap_err().code, "limit.duration");
    // Its length is unknown: what its bytes can hold is reserved, at most what the limit allows.
    let of = |seconds_max: f64| footprint(&endless, Limits { seconds_max, ..limits }).unwrap();
    assert!(
        of(1.0) < of(2.0) && of(60.0) == of(3_600.0),
        "{} {} {} {}",
        of(1.0),
        of(2.0),
        of(60.0),
        of(3_600.0)
    );
}

#[test]
fn no_bound_reserves_the_limit() {
    // FLAC from a pipe: a frame of a few bytes can hold seconds of silence.
    let mut file = fixture("s16.flac").to_vec();
    let num_samples = 4 + 4 + 13;
    file[num_samples] &= 0xf0;
    file[num_samples + 1..num_samples + 5].fill(0);
    let file = Bytes::from(file);
    assert_eq!(decode(&file).unwrap().samples.len(), 5_120);
    let of = |seconds_max: f64| footprint(&file, Limits { seconds_max, ..limits() }).unwrap();
    assert!(of(2.0) - of(1.0) >= 16_000 * 4, "{} {}", of(2.0), of(1.0));
}

#[test]
fn cut_files_are_refused() {
    let names = [
        "s16-mono.wav",
        "s16.flac",
        "s24-22k.flac",
        "u8-8k.wav",
        "lame.mp3",
        "aac.m4a",
        "vorbis.ogg",
        "opus.ogg",
        "opus.webm",
    ];
    for name in names {
        let whole = fixture(name);
        for percent in [40, 70, 90, 97] {
            let cut = whole.slice(..whole.len() * percent / 100);
            // The count of frames in an MP3 file is not exact to the last one.
            if (name, percent) == ("lame.mp3", 97) {
                continue;
            }
            assert_eq!(code(&cut), "decode.truncated", "{percent} % of {name}");
        }
    }
}

#[test]
fn rates_that_no_sound_has_are_refused() {
    for rate in [0, 999, 384_001, u32::MAX / 8] {
        let file = wav(1, 8, 1, rate, &[128; 4_000]);
        assert_eq!(code(&file), "decode.unsupported", "{rate} Hz");
        assert_eq!(footprint(&file, limits()).unwrap_err().code, "decode.unsupported", "{rate} Hz");
    }
}

#[test]
fn a_wav_file_from_a_pipe_has_all_its_samples() {
    let clip = decode(&lying_wav(u32::MAX, 9_001)).unwrap();
    assert_eq!(clip.samples.len(), 18_002);
}

#[test]
fn a_corrupt_packet_inside_is_left_out() {
    let mut file = fixture("s16.flac").to_vec();
    let middle = file.len() / 2;
    file[middle..middle + 40].fill(0x55);
    let clip = decode(&file.into()).unwrap();
    assert!(clip.flags.contains(&"packets_dropped"), "{:?}", clip.flags);
    assert!(clip.samples.len() > 2_000 && clip.samples.len() < 5_120, "{}", clip.samples.len());
}

#[test]
fn footprint_grows_with_the_declared_length_and_covers_the_clip() {
    let limits = Limits { seconds_max: 3_000.0, bytes_max: 64 << 20 };
    let all = crate::Config { windows_max: 10_000, ..config() };
    let stage = AudioStage::new(all, limits).unwrap();
    let bytes = |seconds: usize| {
        let file = wav(1, 8, 1, 8_000, &vec![128; 8_000 * seconds]);
        stage.footprint(&Media::new(file, None)).unwrap()
    };
    let (short, long) = (bytes(10), bytes(1_010));
    // Thousand seconds more: the clip, two overlapping windows of each sample, twice the file.
    let clip = 1_000 * 16_000 * 4;
    let windows = clip * 25_840 / 12_960;
    assert!(long - short >= clip + windows, "{} bytes for {}", long - short, clip + windows);
    assert!(long - short <= (clip + windows + 2 * 8_000_000) * 101 / 100);
    // With few windows the rest is never decoded, nor reserved.
    let few = AudioStage::new(config(), limits).unwrap();
    let file = Media::new(wav(1, 8, 1, 8_000, &vec![128; 8_000 * 1_010]), None);
    assert!(few.footprint(&file).unwrap() < short + 3 * file.bytes.len());
}
