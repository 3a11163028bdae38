//! The loop: packet, decoder, mixer, resampler. Also the guard that keeps every panic of a decoder inside.

use crate::mix::Mixer;
use crate::resample::{Resampler, Resamplers};
use crate::source::{self, Source, Trim};
use crate::{Limits, reject};
use bytes::Bytes;
use spawn_core::Rejection;
use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind};
use symphonia::core::errors::Error;
use symphonia::core::packet::Packet;
use symphonia::core::units::Timestamp;

/// Clips whose root mean square is below this (-60 dB relative to full scale) are flagged `silent`.
const SILENT_RMS: f64 = 1e-3;
/// So many errors of the reader without a packet in between, and the rest of the file is given up.
const READER_ERRORS_MAX: u32 = 64;

/// A decoded clip.
#[derive(Clone, Debug, PartialEq)]
pub struct Clip {
    /// Mono, at the rate that was asked for; full scale is -1 to 1, which lossy codecs and floats may exceed a little.
    pub samples: Vec<f32>,
    /// Hertz of the source.
    pub source_rate: u32,
    /// Channels of the source.
    pub channels: u32,
    /// Seconds of the whole clip; by the header where not all of it was decoded.
    pub seconds: f64,
    /// What the content turned out to be.
    pub media_type: &'static str,
    /// Quality flags, sorted: `clipped`, `non_finite`, `packets_dropped`, `silent`.
    pub flags: Vec<&'static str>,
}

/// Decodes one clip after the other; keeps its resamplers and buffers in between.
pub struct Decoder {
    rate: u32,
    limits: Limits,
    resamplers: Resamplers,
    mixer: Mixer,
}

/// Decodes `bytes` to mono at `rate` hertz with a decoder of its own. For more than one clip, keep a [`Decoder`].
pub fn decode_to_mono(bytes: &Bytes, rate: u32, limits: &Limits) -> Result<Clip, Rejection> {
    Decoder::new(rate, *limits).decode(bytes, usize::MAX)
}

impl Decoder {
    /// A decoder to `rate` hertz.
    pub fn new(rate: u32, limits: Limits) -> Self {
        Self { rate, limits, resamplers: Resamplers::new(rate), mixer: Mixer::default() }
    }

    /// Decodes the clip up to its first `samples_max` samples, and no further than that needs.
    ///
    /// # Errors
    /// `payload.empty`, `limit.bytes`, `limit.duration`, `decode.unsupported`, `decode.malformed`, `decode.truncated`. The
    /// decoder stays usable.
    pub fn decode(&mut self, bytes: &Bytes, samples_max: usize) -> Result<Clip, Rejection> {
        let done = contained(|| self.decode_uncontained(bytes, samples_max));
        if done.is_err() {
            self.mixer.reset();
        }
        done
    }

    fn decode_uncontained(&mut self, bytes: &Bytes, samples_max: usize) -> Result<Clip, Rejection> {
        let mut source = Source::open(bytes, &self.limits)?;
        self.mixer.reset();
        let mut line = Line {
            limits: &self.limits,
            mixer: &mut self.mixer,
            resamplers: &mut self.resamplers,
            resampler: None,
            trim: source.trim,
            out: reserve(&source, &self.limits, self.rate, samples_max)?,
            rate: 0,
            channels: 0,
            frames: 0,
        };
        let ran = run(&mut source, &mut line, bytes.len(), samples_max);
        let finished = match (&ran, line.resampler.take()) {
            (Ok(_), Some(mut resampler)) => {
                let finished = resampler.finish(&mut line.out);
                line.resamplers.put(resampler);
                finished
            }
            (Err(_), Some(resampler)) => {
                line.resamplers.put(resampler);
                Ok(())
            }
            (_, None) => Ok(()),
        };
        let progress = ran?;
        finished?;
        let Line { out: mut samples, rate, channels, frames, .. } = line;
        progress.check(&source, frames)?;
        samples.truncate(samples_max);
        let decoded = frames as f64 / f64::from(rate.max(1));
        let seconds = match (progress.is_complete, source.declared) {
            (false, Some(declared)) => declared.seconds.max(decoded),
            _ => decoded,
        };
        let flags = [
            (self.mixer.is_clipped, "clipped"),
            (self.mixer.is_non_finite, "non_finite"),
            (progress.dropped > 0, "packets_dropped"),
            (rms(&samples) < SILENT_RMS, "silent"),
        ];
        Ok(Clip {
            samples,
            source_rate: rate,
            channels,
            seconds,
            media_type: source.container.media_type(),
            flags: flags.into_iter().filter(|(is_set, _)| *is_set).map(|(_, flag)| flag).collect(),
        })
    }
}

/// Runs `f` and makes a rejection of a panic: decoders are large, their input is hostile, and one record must not take the
/// worker with it.
pub(crate) fn contained<T>(f: impl FnOnce() -> Result<T, Rejection>) -> Result<T, Rejection> {
    // What a panic may leave half done is reset before it is used again: resamplers are lost, buffers are overwritten.
    catch_unwind(AssertUnwindSafe(f))
        .unwrap_or_else(|_| Err(reject("decode.malformed", "the decoder failed on this content")))
}

/// Root mean square. In eight sums, so that they can be made side by side.
pub(crate) fn rms(samples: &[f32]) -> f64 {
    let mut sums = [0.0f64; 8];
    let (chunks, rest) = samples.as_chunks::<8>();
    for chunk in chunks {
        sums.iter_mut().zip(chunk).for_each(|(sum, x)| *sum += f64::from(*x) * f64::from(*x));
    }
    let rest: f64 = rest.iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
    ((sums.iter().sum::<f64>() + rest) / samples.len().max(1) as f64).sqrt()
}

/// Takes the output's memory once, where it is known how much that can be. What is never written costs no memory.
fn reserve(source: &Source, limits: &Limits, rate: u32, samples_max: usize) -> Result<Vec<f32>, Rejection> {
    let mut out = Vec::new();
    if let Some(seconds) = source.seconds_most() {
        // The last block of the resampler hangs over the end.
        let wanted = (seconds.min(limits.seconds_max) * f64::from(rate)).ceil() as usize;
        let wanted = wanted.min(samples_max).saturating_add(2 * rate as usize);
        out.try_reserve_exact(wanted).map_err(|_| reject("limit.duration", "no memory for this clip"))?;
    }
    Ok(out)
}

/// How far the reader came.
struct Progress {
    packets: u64,
    dropped: u64,
    reached: Timestamp,
    /// False where the loop stopped because it had enough.
    is_complete: bool,
}

impl Progress {
    fn check(&self, source: &Source, frames: u64) -> Result<(), Rejection> {
        if self.dropped * 2 > self.packets {
            let detail = format!("{} of {} packets cannot be decoded", self.dropped, self.packets);
            return Err(reject("decode.malformed", detail));
        }
        if let Some(declared) = source.declared
            && self.is_complete
            && self.reached.saturating_add(declared.tolerance) < declared.end
        {
            let second = |ts: Timestamp| declared.base.calc_time_saturating(ts).as_secs_f64();
            let detail = format!(
                "the header promises {:.3} seconds, the file ends after {:.3}",
                second(declared.end),
                second(self.reached)
            );
            return Err(reject("decode.truncated", detail));
        }
        if frames == 0 {
            return Err(reject("payload.empty", "the file has no sound in it"));
        }
        Ok(())
    }
}

/// Where decoded packets go.
struct Line<'a> {
    limits: &'a Limits,
    mixer: &'a mut Mixer,
    resamplers: &'a mut Resamplers,
    resampler: Option<Resampler>,
    trim: Trim,
    out: Vec<f32>,
    rate: u32,
    channels: u32,
    frames: u64,
}

fn run(
    source: &mut Source,
    line: &mut Line<'_>,
    bytes: usize,
    samples_max: usize,
) -> Result<Progress, Rejection> {
    let mut decoder = source.decoder()?;
    let plain = source.plain();
    let mut progress = Progress { packets: 0, dropped: 0, reached: Timestamp::MIN, is_complete: true };
    let mut errors = 0;
    // No packet is smaller than a byte; a reader that yields more of them goes round in circles.
    for _ in 0..bytes.saturating_add(1_024) {
        let packet = match source.reader.next_packet() {
            Ok(Some(packet)) if packet.track_id == source.track => packet,
            Ok(Some(_)) => continue,
            Ok(None) => return Ok(progress),
            Err(Error::DecodeError(_)) if errors < READER_ERRORS_MAX => {
                errors += 1;
                progress.dropped += 1;
                progress.packets += 1;
                continue;
            }
            Err(Error::IoError(e)) if e.kind() == ErrorKind::UnexpectedEof && source.ends_with_bytes() => {
                return Ok(progress);
            }
            Err(e) => return Err(source::refusal(&e)),
        };
        errors = 0;
        progress.packets += 1;
        if source.has_exact_times() && progress.reached > Timestamp::MIN && packet.pts > progress.reached {
            progress.dropped += 1;
            progress.packets += 1;
        }
        progress.reached = progress.reached.max(end_of(&packet));
        let is_whole = packet.trim_start.is_zero() && packet.trim_end.is_zero();
        let taken = match plain.filter(|_| is_whole) {
            Some((rate, channels)) => {
                Ok(line.take(rate, channels, |mixer| mixer.mix_s16(&packet.data, channels)))
            }
            None => decoder.decode(&packet).map(|audio| match audio.is_empty() {
                true => Ok(()),
                false => {
                    let channels = audio.spec().channels().count();
                    line.take(audio.spec().rate(), channels, |mixer| mixer.mix(&audio))
                }
            }),
        };
        match taken {
            Ok(taken) => taken?,
            Err(e @ Error::Unsupported(_)) => return Err(source::refusal(&e)),
            // One packet's damage: leave it out and go on.
            Err(e) => {
                progress.dropped += 1;
                if matches!(e, Error::ResetRequired) {
                    decoder.reset();
                }
            }
        }
        if line.out.len() >= samples_max {
            progress.is_complete = false;
            return Ok(progress);
        }
    }
    Err(reject("decode.malformed", "the reader finds no end of this file"))
}

fn end_of(packet: &Packet) -> Timestamp {
    packet.pts.saturating_add(packet.block_dur())
}

impl Line<'_> {
    /// Takes the packet that `mix` makes mono.
    fn take(
        &mut self,
        rate: u32,
        channels: usize,
        mix: impl FnOnce(&mut Mixer) -> &[f32],
    ) -> Result<(), Rejection> {
        source::check_channels(channels)?;
        let mono = mix(self.mixer);
        let resampler = match &mut self.resampler {
            Some(resampler) if self.rate == rate => resampler,
            Some(_) => {
                let detail = format!("the sample rate changes from {} to {rate} Hz", self.rate);
                return Err(reject("decode.unsupported", detail));
            }
            none => {
                self.rate = rate;
                self.channels = channels as u32;
                none.insert(self.resamplers.take(rate)?)
            }
        };
        let mono = self.trim.take(mono);
        self.frames += mono.len() as u64;
        let seconds = self.frames as f64 / f64::from(rate);
        if seconds > self.limits.seconds_max {
            return Err(source::too_long(seconds, self.limits));
        }
        resampler.push(mono, &mut self.out)
    }
}

impl Trim {
    /// What is to be kept of the next `samples`.
    fn take<'a>(&mut self, samples: &'a [f32]) -> &'a [f32] {
        let skipped = usize::try_from(self.skip).unwrap_or(usize::MAX).min(samples.len());
        self.skip -= skipped as u64;
        let samples = &samples[skipped..];
        let Some(keep) = &mut self.keep else { return samples };
        let kept = usize::try_from(*keep).unwrap_or(usize::MAX).min(samples.len());
        *keep -= kept as u64;
        &samples[..kept]
    }
}
