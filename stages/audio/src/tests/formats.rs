//! Sample formats, channels and what is said about the quality.

use super::{limits, sine, wav, wav_f32};
use crate::{Clip, decode_to_mono};
use bytes::Bytes;

fn decode(bytes: &Bytes) -> Clip {
    decode_to_mono(bytes, 16_000, &limits()).unwrap()
}

fn worst(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// At the model's own rate nothing but the decoder touches the samples.
#[test]
fn every_width_of_pcm_is_read() {
    let tone = sine(440.0, 16_000, 0.5, 0.5);
    let encode = |f: &dyn Fn(f64) -> Vec<u8>| tone.iter().flat_map(|x| f(f64::from(*x))).collect::<Vec<u8>>();
    let files = [
        ("u8", wav(1, 8, 1, 16_000, &encode(&|x| vec![(x * 128.0 + 128.0).round() as u8])), 1.0 / 128.0),
        ("s16", wav(1, 16, 1, 16_000, &encode(&|x| ((x * 32_768.0) as i16).to_le_bytes().into())), 4e-5),
        (
            "s24",
            wav(1, 24, 1, 16_000, &encode(&|x| ((x * 8_388_608.0) as i32).to_le_bytes()[..3].into())),
            2e-7,
        ),
        (
            "s32",
            wav(1, 32, 1, 16_000, &encode(&|x| ((x * 2_147_483_648.0) as i32).to_le_bytes().into())),
            1e-7,
        ),
        ("f32", wav(3, 32, 1, 16_000, &encode(&|x| (x as f32).to_le_bytes().into())), 0.0),
        ("f64", wav(3, 64, 1, 16_000, &encode(&|x| x.to_le_bytes().into())), 0.0),
    ];
    for (name, file, bound) in files {
        let clip = decode(&file);
        let worst = worst(&clip.samples, &tone);
        assert!(worst <= bound, "{name}: off by {worst}");
    }
}

#[test]
fn channels_are_mixed_by_their_mean() {
    let frames: Vec<f32> = (0..8_000).flat_map(|i| [0.1, 0.3, (i % 2) as f32 * 0.5, -0.1]).collect();
    let data: Vec<u8> = frames.iter().flat_map(|x| x.to_le_bytes()).collect();
    let data_s16: Vec<u8> = frames.iter().flat_map(|x| ((x * 32_768.0) as i16).to_le_bytes()).collect();
    for (file, bound) in [(wav(3, 32, 4, 16_000, &data), 1e-6), (wav(1, 16, 4, 16_000, &data_s16), 4e-5)] {
        let clip = decode(&file);
        assert_eq!((clip.channels, clip.source_rate, clip.samples.len()), (4, 16_000, 8_000));
        assert!((clip.samples[0] - 0.075).abs() < bound && (clip.samples[1] - 0.2).abs() < bound);
        assert_eq!(clip.seconds, 0.5);
    }
}

#[test]
fn samples_that_are_no_number_are_silenced_and_told() {
    for (what, at_fault) in [("NaN", f32::NAN), ("infinity", f32::INFINITY), ("absurd", -3e30)] {
        let mut tone = sine(440.0, 44_100, 0.5, 0.1);
        tone[7_000] = at_fault;
        let clip = decode(&wav_f32(44_100, &tone));
        assert_eq!(clip.flags, ["non_finite"], "{what}");
        assert!(clip.samples.iter().all(|x| x.abs() < 0.2), "{what} rang through the filter");
    }
    let clip = decode(&wav_f32(44_100, &[f32::NAN; 4_000]));
    assert_eq!(clip.flags, ["non_finite", "silent"]);
}

#[test]
fn clipping_is_told_and_a_single_peak_is_not() {
    let loud: Vec<f32> = sine(440.0, 44_100, 0.5, 2.0).iter().map(|x| x.clamp(-1.0, 1.0)).collect();
    assert_eq!(decode(&wav_f32(44_100, &loud)).flags, ["clipped"]);
    let mut peak = sine(440.0, 44_100, 0.5, 0.5);
    peak[100] = 1.0;
    assert!(decode(&wav_f32(44_100, &peak)).flags.is_empty());
    // One channel of two, which the mean would hide.
    let stereo: Vec<u8> = loud.iter().flat_map(|x| [*x, 0.0]).flat_map(f32::to_le_bytes).collect();
    assert_eq!(decode(&wav(3, 32, 2, 44_100, &stereo)).flags, ["clipped"]);
}

#[test]
fn silence_is_told() {
    assert_eq!(decode(&wav_f32(44_100, &[0.0; 20_000])).flags, ["silent"]);
    assert_eq!(decode(&wav_f32(44_100, &sine(440.0, 44_100, 0.5, 0.001))).flags, ["silent"]);
    assert!(decode(&wav_f32(44_100, &sine(440.0, 44_100, 0.5, 0.003))).flags.is_empty());
}
