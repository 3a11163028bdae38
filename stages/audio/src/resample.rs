//! Mono to the model's rate, by FFT.
//!
//! rubato's synchronous resampler multiplies the spectrum of each block with a windowed sinc as long as the block, so the
//! block decides the quality. Blocks of a tenth of a second or more (7,056 frames at 44.1 kHz, 6,144 at 48 kHz) keep the
//! pass band flat to 7.6 kHz at 16 kHz and push aliases below -120 dB; `tests/quality.rs` measures both. The polynomial
//! modes of the same crate alias and are not used.

use crate::reject;
use audioadapter_buffers::direct::InterleavedSlice;
use rubato::{Fft, FixedSync, Resampler as _, WindowFunction};
use spawn_core::Rejection;

/// Fewest input frames of a block, for low rates. A quarter of it cuts the pass band.
const BLOCK_FRAMES_MIN: usize = 2_048;
/// Blocks a second, at most: ten. Shorter ones cut the pass band.
const BLOCKS_PER_SECOND_MAX: usize = 10;
/// Rates that are accepted, in hertz.
const RATES: std::ops::RangeInclusive<u32> = 1_000..=384_000;
/// Resamplers that a worker keeps. Real collections have a handful of rates.
const CACHED_MAX: usize = 8;
/// Blocks above this are for odd rates that share no factor with the model's; not worth keeping in memory.
const CACHED_BLOCK_FRAMES_MAX: usize = 65_536;

/// Resamplers by input rate, the last used first.
pub(crate) struct Resamplers {
    rate_out: u32,
    cached: Vec<Resampler>,
}

impl Resamplers {
    /// None yet, all to `rate_out`.
    pub(crate) fn new(rate_out: u32) -> Self {
        Self { rate_out, cached: Vec::new() }
    }

    /// A fresh-as-new resampler for `rate_in`, to be handed back by [`Resamplers::put`].
    pub(crate) fn take(&mut self, rate_in: u32) -> Result<Resampler, Rejection> {
        check_rate(rate_in)?;
        match self.cached.iter().position(|r| r.rate_in == rate_in) {
            Some(at) => Ok(self.cached.remove(at)),
            None => Resampler::new(rate_in, self.rate_out),
        }
    }

    /// Keeps a resampler for the next clip of its rate.
    pub(crate) fn put(&mut self, mut resampler: Resampler) {
        if resampler.pending.capacity() <= CACHED_BLOCK_FRAMES_MAX {
            resampler.reset();
            self.cached.insert(0, resampler);
            self.cached.truncate(CACHED_MAX);
        }
    }
}

/// Resamples one clip after the other from one rate.
pub(crate) struct Resampler {
    rate_in: u32,
    rate_out: u32,
    /// `None` where both rates are the same.
    fft: Option<Fft<f32>>,
    block_in: usize,
    /// Input that does not fill a block yet.
    pending: Vec<f32>,
    block: Vec<f32>,
    /// Output frames still to be dropped: the filter's delay.
    delay_left: usize,
    frames_in: u64,
}

impl Resampler {
    fn new(rate_in: u32, rate_out: u32) -> Result<Self, Rejection> {
        if rate_in == rate_out {
            return Ok(Self {
                rate_in,
                rate_out,
                fft: None,
                block_in: 0,
                pending: Vec::new(),
                block: Vec::new(),
                delay_left: 0,
                frames_in: 0,
            });
        }
        let block_in = block_frames(rate_in, rate_out);
        let fft = Fft::new_custom(
            rate_in as usize,
            rate_out as usize,
            block_in,
            1,
            1,
            WindowFunction::BlackmanHarris2,
            FixedSync::Both,
        )
        .map_err(|e| reject("decode.unsupported", format!("no resampler from {rate_in} Hz: {e}")))?;
        let (block_in, block_out) = (fft.fft_size_in(), fft.fft_size_out());
        Ok(Self {
            rate_in,
            rate_out,
            delay_left: fft.output_delay(),
            fft: Some(fft),
            block_in,
            pending: Vec::with_capacity(block_in),
            block: vec![0.0; block_out],
            frames_in: 0,
        })
    }

    fn reset(&mut self) {
        if let Some(fft) = &mut self.fft {
            fft.reset();
            self.delay_left = fft.output_delay();
        }
        self.pending.clear();
        self.frames_in = 0;
    }

    /// Takes `samples`, appends what is ready to `out`.
    pub(crate) fn push(&mut self, mut samples: &[f32], out: &mut Vec<f32>) -> Result<(), Rejection> {
        self.frames_in += samples.len() as u64;
        if self.fft.is_none() {
            out.extend_from_slice(samples);
            return Ok(());
        }
        while self.pending.len() + samples.len() >= self.block_in {
            let (now, later) = samples.split_at(self.block_in - self.pending.len());
            samples = later;
            if self.pending.is_empty() {
                self.process(now, out)?;
            } else {
                let mut block = std::mem::take(&mut self.pending);
                block.extend_from_slice(now);
                let done = self.process(&block, out);
                block.clear();
                self.pending = block;
                done?;
            }
        }
        self.pending.extend_from_slice(samples);
        Ok(())
    }

    /// Ends the clip: exactly `ceil(frames * rate_out / rate_in)` samples are in `out` then, if it was empty before.
    pub(crate) fn finish(&mut self, out: &mut Vec<f32>) -> Result<(), Rejection> {
        let frames = frames_out(self.frames_in, self.rate_in, self.rate_out);
        if self.fft.is_some() {
            let mut block = std::mem::take(&mut self.pending);
            while out.len() < frames {
                block.resize(self.block_in, 0.0);
                self.process(&block, out)?;
                block.clear();
            }
            self.pending = block;
        }
        out.truncate(frames);
        Ok(())
    }

    fn process(&mut self, block: &[f32], out: &mut Vec<f32>) -> Result<(), Rejection> {
        let Some(fft) = &mut self.fft else { return Ok(()) };
        let bug = |e: &dyn std::fmt::Display| reject("decode.malformed", format!("resampler: {e}"));
        let frames_out = self.block.len();
        let input = InterleavedSlice::new(block, 1, block.len()).map_err(|e| bug(&e))?;
        let mut output = InterleavedSlice::new_mut(&mut self.block, 1, frames_out).map_err(|e| bug(&e))?;
        fft.process_into_buffer(&input, &mut output, None).map_err(|e| bug(&e))?;
        let dropped = self.delay_left.min(frames_out);
        self.delay_left -= dropped;
        out.extend_from_slice(&self.block[dropped..]);
        Ok(())
    }
}

/// Refuses rates that no sound has.
pub(crate) fn check_rate(rate: u32) -> Result<(), Rejection> {
    if RATES.contains(&rate) {
        return Ok(());
    }
    let detail = format!("sample rate of {rate} Hz, {} to {} are accepted", RATES.start(), RATES.end());
    Err(reject("decode.unsupported", detail))
}

/// Samples that a clip of `frames` becomes: rounded up, as `librosa` does.
pub(crate) fn frames_out(frames: u64, rate_in: u32, rate_out: u32) -> usize {
    let out = (u128::from(frames) * u128::from(rate_out)).div_ceil(u128::from(rate_in.max(1)));
    usize::try_from(out).unwrap_or(usize::MAX)
}

/// Most bytes that a resampler from `rate_in` holds.
pub(crate) fn bytes_max(rate_in: u32, rate_out: u32) -> usize {
    let block_in = block_frames(rate_in, rate_out);
    let block_out = frames_out(block_in as u64, rate_in, rate_out);
    // Spectrum, filter, scratch and windows are about a dozen arrays of twice the block.
    12 * 2 * 4 * (block_in + block_out)
}

/// Input frames of a block for these rates.
fn block_frames(rate_in: u32, rate_out: u32) -> usize {
    let unit = (rate_in / gcd(rate_in, rate_out)) as usize;
    let wanted = BLOCK_FRAMES_MIN.max(rate_in as usize / BLOCKS_PER_SECOND_MAX);
    let units = wanted.div_ceil(unit);
    // Even: an odd block has its middle between two samples, and all would be half a sample late. A power of two: the
    // transform of 16 units at 44.1 kHz takes three quarters of the time that 10 units take.
    units.next_power_of_two().max(2) * unit
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a.max(1) } else { gcd(b, a % b) }
}
