//! Every codec against another decoder and another resampler; see `tests/make_goldens.py`.

use super::{fixture, limits};
use crate::decode_to_mono;

struct Golden {
    file: &'static str,
    reference: &'static str,
    media_type: &'static str,
    /// Least signal-to-noise ratio against the reference, in dB. Lossless: what two good resamplers leave. 8-bit: their
    /// noise lies in the band in which resamplers differ. Lossy: rounding inside two decoders, and 16 bits of reference.
    snr_min: f64,
    /// Samples, exactly: 0.32 s, and what the container does not say how to trim.
    samples: usize,
}

const GOLDENS: [Golden; 12] = [
    golden("s16-mono.wav", "f32", "audio/wav", 90.0, 5_120),
    golden("s16.flac", "f32", "audio/flac", 90.0, 5_120),
    golden("s24-22k.flac", "f32", "audio/flac", 90.0, 5_120),
    golden("u8-8k.wav", "f32", "audio/wav", 48.0, 5_120),
    golden("alaw-8k.wav", "f32", "audio/wav", 48.0, 5_120),
    golden("mulaw-8k.wav", "f32", "audio/wav", 48.0, 5_120),
    golden("lame.mp3", "i16", "audio/mpeg", 75.0, 5_120),
    golden("aac.m4a", "i16", "audio/mp4", 75.0, 5_120),
    // ADTS says nothing of its delay.
    golden("aac.aac", "i16", "audio/aac", 75.0, 5_632),
    golden("vorbis.ogg", "i16", "audio/ogg", 75.0, 5_120),
    golden("opus.ogg", "i16", "audio/ogg", 75.0, 5_120),
    // WebM says it of its end, but Symphonia does not pass that on.
    golden("opus.webm", "i16", "audio/webm", 75.0, 5_336),
];

const fn golden(
    file: &'static str,
    reference: &'static str,
    media_type: &'static str,
    snr_min: f64,
    samples: usize,
) -> Golden {
    Golden { file, reference, media_type, snr_min, samples }
}

fn reference(golden: &Golden) -> Vec<f32> {
    let bytes = fixture(&format!("{}.{}", golden.file, golden.reference));
    match golden.reference {
        "f32" => bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        _ => bytes.as_chunks::<2>().0.iter().map(|b| f32::from(i16::from_le_bytes(*b)) / 32_768.0).collect(),
    }
}

fn snr(samples: &[f32], reference: &[f32]) -> f64 {
    let power = |x: f32| f64::from(x) * f64::from(x);
    let signal: f64 = reference.iter().map(|x| power(*x)).sum();
    let noise: f64 = samples.iter().zip(reference).map(|(a, b)| power(a - b)).sum();
    10.0 * (signal / noise.max(1e-30)).log10()
}

#[test]
fn codecs_agree_with_other_decoders() {
    for golden in &GOLDENS {
        let clip = decode_to_mono(&fixture(golden.file), 16_000, &limits())
            .unwrap_or_else(|e| panic!("{}: {e}", golden.file));
        let reference = reference(golden);
        let snr = snr(&clip.samples, &reference);
        assert!(snr >= golden.snr_min, "{}: {snr:.1} dB, at least {} wanted", golden.file, golden.snr_min);
        assert_eq!(clip.samples.len(), golden.samples, "{}", golden.file);
        assert_eq!(clip.media_type, golden.media_type, "{}", golden.file);
        // ffmpeg leaves the padding of M4A in and cuts 128 frames too many off Vorbis; none differs by more.
        let apart = clip.samples.len().abs_diff(reference.len());
        assert!(apart <= 216, "{}: {apart} samples from the reference's end", golden.file);
        assert!(clip.flags.is_empty(), "{}: {:?}", golden.file, clip.flags);
    }
}

#[test]
fn each_fixture_is_one_of_the_goldens() {
    let manifest: serde_json::Value = serde_json::from_slice(&fixture("goldens.json")).unwrap();
    let listed: Vec<&str> =
        manifest["files"].as_array().unwrap().iter().map(|f| f["file"].as_str().unwrap()).collect();
    let tested: Vec<&str> = GOLDENS.iter().map(|g| g.file).collect();
    assert_eq!(listed, tested);
    for file in manifest["files"].as_array().unwrap() {
        let name = file["file"].as_str().unwrap();
        let clip = decode_to_mono(&fixture(name), 16_000, &limits()).unwrap();
        assert_eq!(u64::from(clip.source_rate), file["rate"].as_u64().unwrap(), "{name}");
        assert_eq!(u64::from(clip.channels), file["channels"].as_u64().unwrap(), "{name}");
    }
}
