//! Gain and windows.

use super::{config, limits, sine, wav_f32};
use crate::windows::{count, cut, samples_max};
use crate::{AudioStage, Config};
use spawn_core::{ArrayData, Media, Prepared, Stage};

fn small() -> Config {
    Config {
        window_samples: 10,
        hop_samples: 4,
        context_samples: 2,
        coverage_min: 0.75,
        gain_rms_dbfs: None,
        windows_max: 3,
        ..config()
    }
}

fn prepare(config: Config, samples: &[f32]) -> Prepared {
    let mut stage = AudioStage::new(config, limits()).unwrap();
    stage.process(&Media::new(wav_f32(16_000, samples), None)).unwrap()
}

fn chunk(prepared: &Prepared, index: usize) -> &[f32] {
    let array = &prepared.chunks[index].arrays[0];
    assert_eq!((array.name, array.shape.as_slice()), ("audio", &[25_840][..]));
    match &array.data {
        ArrayData::F32(samples) => samples,
        other => panic!("{other:?}"),
    }
}

#[test]
fn windows_are_counted_by_their_coverage() {
    // Padded by 4: one window up to 10, the second needs 8 of its 10, which start at 4.
    let want = [(1, 1), (6, 1), (7, 1), (8, 2), (10, 2), (11, 2), (12, 3), (16, 4), (19, 4), (20, 5)];
    for (samples, windows) in want {
        assert_eq!(count(&small(), samples), windows, "{samples} samples");
    }
    let full = Config { coverage_min: 1.0, context_samples: 0, ..small() };
    assert_eq!([10, 13, 14, 17, 18].map(|n| count(&full, n)), [1, 1, 2, 2, 3]);
    let any = Config { coverage_min: 0.0, context_samples: 0, ..small() };
    assert_eq!([1, 10, 11, 14, 15].map(|n| count(&any, n)), [1, 1, 2, 2, 3]);
}

#[test]
fn windows_hold_zeros_then_the_clip_then_zeros() {
    let mut samples: Vec<f32> = (1..=8).map(|i| i as f32).collect();
    let windows = cut(&small(), &mut samples);
    assert_eq!(windows.chunks.len(), 2);
    assert_eq!(windows.chunks[0], [0.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]);
    assert_eq!(windows.chunks[1], [3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 0.0, 0.0, 0.0, 0.0]);
    assert!(!windows.is_truncated);
}

#[test]
fn no_more_is_decoded_than_tells_that_there_is_more() {
    for coverage_min in [0.0, 0.3, 0.75, 1.0] {
        for windows_max in 1..6 {
            let config = Config { coverage_min, windows_max, ..small() };
            let enough = samples_max(&config);
            assert!(count(&config, enough) > windows_max, "{config:?}");
            assert!(count(&config, enough - 1) <= windows_max, "{config:?}");
        }
    }
}

#[test]
fn long_clips_are_cut_and_told() {
    let long = sine(300.0, 16_000, 10.0, 0.5);
    let prepared = prepare(config(), &long);
    assert_eq!(prepared.chunks.len(), 4);
    assert_eq!(prepared.facts.flags, ["truncated"]);
    assert_eq!(prepared.facts.duration_seconds, Some(10.0));
    assert_eq!(prepared.facts.chunk_starts, [0.0, 0.81, 1.62, 2.43]);
    assert_eq!((prepared.facts.sample_rate, prepared.facts.channels), (Some(16_000), Some(1)));
    assert_eq!(prepared.facts.media_type, "audio/wav");
    // The same as without a limit, as far as it goes.
    let all = prepare(Config { windows_max: 100, ..config() }, &long);
    assert_eq!((all.chunks.len(), all.facts.flags.len()), (11, 0));
    assert_eq!(all.chunks[..4], prepared.chunks[..]);
    // The first window: 200 zeros, then the clip from its first sample.
    assert!(chunk(&prepared, 0)[..200].iter().all(|x| *x == 0.0));
    assert_eq!(chunk(&prepared, 0)[200..], long[..25_640]);
    assert_eq!(chunk(&prepared, 1)[..], long[12_760..38_600]);
}

#[test]
fn short_clips_are_one_window() {
    let prepared = prepare(config(), &[0.5; 100]);
    assert_eq!(prepared.chunks.len(), 1);
    assert!(prepared.facts.chunk_starts.is_empty());
    assert_eq!(chunk(&prepared, 0)[199..301].iter().filter(|x| **x == 0.5).count(), 100);
}

#[test]
fn quiet_clips_are_raised_and_loud_ones_left_alone() {
    let loudness = |amplitude: f64| {
        let prepared = prepare(config(), &sine(300.0, 16_000, 1.6, amplitude));
        let clip = &chunk(&prepared, 0)[200..25_800];
        let power: f64 = clip.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / clip.len() as f64;
        10.0 * power.log10()
    };
    assert!((loudness(0.01) - -30.0).abs() < 0.01, "{}", loudness(0.01));
    assert!((loudness(0.5) - -9.03).abs() < 0.01, "{}", loudness(0.5));
    let silence = prepare(config(), &[0.0; 16_000]);
    assert!(chunk(&silence, 0).iter().all(|x| *x == 0.0));
    assert_eq!(silence.facts.flags, ["silent"]);
}

#[test]
fn configuration_is_checked() {
    let text = "sample_rate = 16000\nwindow_samples = 25840\nhop_samples = 12960\ncontext_samples = 200\n\
                coverage_min = 0.75\ngain_rms_dbfs = -30\nwindows_max = 4\n";
    assert_eq!(toml::from_str::<Config>(text).unwrap(), config());
    assert!(
        toml::from_str::<Config>(&format!("{text}window_sample = 1\n")).is_err(),
        "unknown keys are errors"
    );
    let refused = [
        Config { sample_rate: 0, ..config() },
        Config { window_samples: 0, ..config() },
        Config { hop_samples: 0, ..config() },
        Config { hop_samples: 25_841, ..config() },
        Config { context_samples: 20_000, ..config() },
        Config { coverage_min: 1.5, ..config() },
        Config { coverage_min: f64::NAN, ..config() },
        Config { gain_rms_dbfs: Some(3.0), ..config() },
        Config { windows_max: 0, ..config() },
    ];
    for config in refused {
        assert!(AudioStage::new(config.clone(), limits()).is_err(), "{config:?}");
    }
    let spec = |config| AudioStage::new(config, limits()).unwrap().spec().to_owned();
    assert_ne!(spec(config()), spec(Config { hop_samples: 12_961, ..config() }));
}

#[test]
fn what_lies_behind_the_last_window_is_not_decoded() {
    // Numbers that are none tell whether somebody has been there.
    let mut samples = sine(440.0, 16_000, 30.0, 0.5);
    samples[10 * 16_000..].fill(f32::NAN);
    let told = |windows_max, flag: &str| {
        let prepared = prepare(Config { windows_max, ..config() }, &samples);
        prepared.facts.flags.iter().any(|there| there == flag)
    };
    assert!(told(4, "truncated") && !told(4, "non_finite"));
    assert!(told(1000, "non_finite"), "or this test says nothing");
}
