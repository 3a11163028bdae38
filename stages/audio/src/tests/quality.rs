//! The resampler measured with sines: pass band, aliases, images, length, delay.

use super::sine;
use crate::resample::{Resamplers, frames_out};
use std::f64::consts::TAU;

const OUT: u32 = 16_000;

fn resample(rate: u32, samples: &[f32]) -> Vec<f32> {
    let mut resamplers = Resamplers::new(OUT);
    let mut resampler = resamplers.take(rate).unwrap();
    let mut out = Vec::new();
    // Packets of an odd size, as codecs have them.
    samples.chunks(1_153).for_each(|packet| resampler.push(packet, &mut out).unwrap());
    resampler.finish(&mut out).unwrap();
    out
}

/// The middle half: a tone that begins and ends at once has sound at all frequencies there.
fn middle(samples: &[f32]) -> &[f32] {
    &samples[samples.len() / 4..samples.len() * 3 / 4]
}

/// Gain at `hertz`, and what is left beside that tone, both in dB relative to the tone put in.
fn measure(rate: u32, hertz: f64) -> (f64, f64) {
    let amplitude = 0.5;
    let out = resample(rate, &sine(hertz, rate, 2.0, amplitude));
    let middle = middle(&out);
    let phase = |i: usize| TAU * hertz * i as f64 / f64::from(OUT);
    // Least squares for a sine and a cosine, whose product does not quite vanish over a part of a period.
    let (mut ss, mut cc, mut sc, mut xs, mut xc) = (0.0, 0.0, 0.0, 0.0, 0.0);
    for (i, x) in middle.iter().enumerate() {
        let (sin, cos) = phase(i).sin_cos();
        let x = f64::from(*x);
        (ss, cc, sc, xs, xc) = (ss + sin * sin, cc + cos * cos, sc + sin * cos, xs + x * sin, xc + x * cos);
    }
    let det = ss * cc - sc * sc;
    let (a, b) = ((xs * cc - xc * sc) / det, (xc * ss - xs * sc) / det);
    let rest: f64 = middle
        .iter()
        .enumerate()
        .map(|(i, x)| (f64::from(*x) - a * phase(i).sin() - b * phase(i).cos()).powi(2))
        .sum();
    let db = |power: f64| 10.0 * (power / (amplitude * amplitude / 2.0)).max(1e-30).log10();
    (db((a * a + b * b) / 2.0), db(rest / middle.len() as f64))
}

/// Power of all that is left of a tone that should vanish, in dB relative to it.
fn leak(rate: u32, hertz: f64) -> f64 {
    let amplitude = 0.5;
    let out = resample(rate, &sine(hertz, rate, 2.0, amplitude));
    let middle = middle(&out);
    let power: f64 = middle.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / middle.len() as f64;
    10.0 * (power / (amplitude * amplitude / 2.0)).max(1e-30).log10()
}

#[test]
fn pass_band_is_flat_to_7600_hertz() {
    for rate in [22_050, 24_000, 32_000, 44_100, 48_000, 88_200, 96_000, 192_000] {
        for hertz in (1..=19).map(|i| 400.0 * f64::from(i)).chain([60.0, 1_234.5, 7_555.0]) {
            let (gain, rest) = measure(rate, hertz);
            assert!(gain.abs() <= 0.1, "{rate} Hz: gain of {gain:.3} dB at {hertz} Hz");
            assert!(rest <= -120.0, "{rate} Hz: {rest:.1} dB beside {hertz} Hz");
        }
    }
}

#[test]
fn aliases_are_120_db_down() {
    let mut worst = (f64::MIN, 0, 0.0);
    for rate in [22_050, 24_000, 32_000, 44_100, 48_000, 88_200, 96_000, 192_000] {
        let top = f64::from(rate) / 2.0 - 20.0;
        let sweep = (0..60).map(|i| 8_030.0 + (top - 8_030.0) * f64::from(i) / 59.0);
        for hertz in sweep.chain([8_050.0, 8_100.0, 8_200.0, 8_400.0]) {
            let leak = leak(rate, hertz);
            if leak > worst.0 {
                worst = (leak, rate, hertz);
            }
        }
    }
    assert!(worst.0 <= -120.0, "{} Hz: {:.1} dB of {} Hz is left", worst.1, worst.0, worst.2);
}

#[test]
fn images_of_low_rates_are_120_db_down() {
    for (rate, top) in [(8_000, 3_900.0), (11_025, 5_400.0), (12_000, 5_900.0)] {
        for i in 1..=30 {
            let hertz = top * f64::from(i) / 30.0;
            let (gain, rest) = measure(rate, hertz);
            assert!(gain.abs() <= 0.1, "{rate} Hz: gain of {gain:.3} dB at {hertz} Hz");
            assert!(rest <= -120.0, "{rate} Hz: {rest:.1} dB beside {hertz} Hz");
        }
    }
}

#[test]
fn length_is_rounded_up() {
    for rate in [8_000, 11_025, 16_000, 22_050, 44_100, 48_000, 44_099] {
        for frames in [1, 2, 159, 4_409, 4_410, 4_411, 20_000] {
            let out = resample(rate, &vec![0.25; frames]);
            assert_eq!(out.len(), frames_out(frames as u64, rate, OUT), "{frames} frames at {rate} Hz");
            assert_eq!(out.len(), (frames * 16_000).div_ceil(rate as usize));
        }
    }
}

#[test]
fn delay_is_removed() {
    // A slow tone keeps its phase: each output sample lies where it lay in time. An odd rate is part of it, because a block
    // of an odd number of frames would shift all by half a sample.
    for rate in [8_000, 11_025, 22_050, 44_100, 48_000, 96_000, 44_099] {
        let out = resample(rate, &sine(440.0, rate, 1.0, 0.5));
        let want = sine(440.0, OUT, 1.0, 0.5);
        let worst = middle(&out)
            .iter()
            .zip(middle(&want[..out.len()]))
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f32::max);
        assert!(worst < 1e-4, "{rate} Hz: off by {worst}");
    }
}

#[test]
fn a_used_resampler_is_as_new() {
    let mut resamplers = Resamplers::new(OUT);
    let mut run = |samples: &[f32]| {
        let mut resampler = resamplers.take(44_100).unwrap();
        let mut out = Vec::new();
        resampler.push(samples, &mut out).unwrap();
        resampler.finish(&mut out).unwrap();
        resamplers.put(resampler);
        out
    };
    let clip = sine(440.0, 44_100, 0.3, 0.5);
    let first = run(&clip);
    run(&sine(3_000.0, 44_100, 0.2, 1.0));
    assert!(run(&clip) == first, "what the clip before left behind is heard");
}
