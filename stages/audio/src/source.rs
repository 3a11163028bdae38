//! An opened file: its reader, the track to decode and what the header declares, before anything is decoded.

use crate::container::{self, Container};
use crate::{Limits, reject, resample};
use bytes::Bytes;
use spawn_core::Rejection;
use std::io::{Cursor, ErrorKind};
use std::sync::LazyLock;
use symphonia::core::codecs::audio::well_known::{CODEC_ID_OPUS, CODEC_ID_PCM_S16LE};
use symphonia::core::codecs::audio::{AudioCodecParameters, AudioDecoder, AudioDecoderOptions};
use symphonia::core::codecs::registry::CodecRegistry;
use symphonia::core::errors::Error;
use symphonia::core::formats::{FormatOptions, FormatReader, Track, TrackType, probe::Hint};
use symphonia::core::io::{MediaSource, MediaSourceStream, ReadOnlySource};
use symphonia::core::meta::MetadataOptions;
use symphonia::core::units::{Duration, TimeBase, Timestamp};

/// Symphonia's decoders and libopus.
static CODECS: LazyLock<CodecRegistry> = LazyLock::new(|| {
    let mut registry = CodecRegistry::new();
    symphonia::default::register_enabled_codecs(&mut registry);
    registry.register_audio_decoder::<symphonia_adapter_libopus::OpusDecoder>();
    registry
});

/// Where the OpusHead packet has its pre-skip (RFC 7845, section 5.1), in samples at 48 kHz, little endian.
const OPUS_PRE_SKIP: std::ops::Range<usize> = 10..12;

/// Most channels. Real surround sound has 24; beyond that the header is wrong, and each channel is a buffer.
const CHANNELS_MAX: usize = 32;

/// A file whose header was read.
pub(crate) struct Source {
    pub(crate) container: Container,
    pub(crate) reader: Box<dyn FormatReader>,
    pub(crate) track: u32,
    params: AudioCodecParameters,
    /// Size of the file.
    bytes: usize,
    /// Samples a second, by the header.
    pub(crate) rate: u32,
    /// Ends of the track by its header.
    pub(crate) declared: Option<Declared>,
    /// What to leave out of the decoded samples, where the reader does not do it.
    pub(crate) trim: Trim,
}

/// How long the track is, by its header.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Declared {
    /// Where it ends, in ticks of the reader's clock.
    pub(crate) end: Timestamp,
    /// The clock.
    pub(crate) base: TimeBase,
    /// Ticks that may be missing at the end: the header is not always that exact.
    pub(crate) tolerance: Duration,
    /// Seconds of sound, trimmed.
    pub(crate) seconds: f64,
}

/// What to leave out of the decoded samples, in source frames.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Trim {
    /// Dropped at the front.
    pub(crate) skip: u64,
    /// Kept after that; everything when absent.
    pub(crate) keep: Option<u64>,
}

impl Source {
    /// Reads the header. Checks the limits on bytes, channels and seconds.
    pub(crate) fn open(bytes: &Bytes, limits: &Limits) -> Result<Self, Rejection> {
        if bytes.is_empty() {
            return Err(reject("payload.empty", "the file has no bytes"));
        }
        if bytes.len() > limits.bytes_max {
            let detail = format!("{} bytes, at most {} are accepted", bytes.len(), limits.bytes_max);
            return Err(reject("limit.bytes", detail));
        }
        let container = Container::sniff(bytes).ok_or_else(|| {
            reject(
                "decode.unsupported",
                "the content is none of WAV, AIFF, FLAC, MP3, AAC, M4A/MP4, Ogg, WebM/Matroska, CAF",
            )
        })?;
        let is_cut = match container {
            Container::Ogg => container::ogg_is_cut(bytes),
            Container::Matroska | Container::Webm => container::matroska_is_cut(bytes),
            Container::Mp4 => container::mp4_is_cut(bytes),
            _ => false,
        };
        if is_cut {
            return Err(reject("decode.truncated", "the file ends inside one of its parts"));
        }
        let mended = match container {
            Container::Wave => container::wave_with_length(bytes).map(Bytes::from),
            _ => None,
        };
        let reader = open_reader(mended.as_ref().unwrap_or(bytes), container)?;
        let track = reader
            .default_track(TrackType::Audio)
            .ok_or_else(|| reject("decode.unsupported", "no audio track of a known codec"))?;
        let mut params = track
            .codec_params
            .as_ref()
            .and_then(|p| p.audio())
            .cloned()
            .ok_or_else(|| reject("decode.unsupported", "the track has no audio codec"))?;
        let rate =
            params.sample_rate.ok_or_else(|| reject("decode.malformed", "the header has no sample rate"))?;
        resample::check_rate(rate)?;
        let channels = params.channels.as_ref().map_or(1, |c| c.count());
        check_channels(channels)?;
        let trim = trim(bytes, container, &mut params, track, rate);
        let declared = declared(container, reader.as_ref(), track, rate, trim);
        if let Some(declared) = declared
            && declared.seconds > limits.seconds_max
        {
            return Err(too_long(declared.seconds, limits));
        }
        let track = track.id;
        Ok(Self { container, reader, track, params, bytes: bytes.len(), rate, declared, trim })
    }

    /// Most seconds that can come out: what the header declares, or what the smallest frames there are would hold, or
    /// `None` where a byte may hold any amount of sound.
    pub(crate) fn seconds_most(&self) -> Option<f64> {
        let by_frames = match self.container {
            // Layer III goes down to 8 kbit/s.
            Container::Mpeg => Some(self.bytes as f64 / 1_000.0 + 1.0),
            // 1,024 samples behind a header of 7 bytes.
            Container::Adts => Some((self.bytes as f64 / 7.0 + 1.0) * 1_024.0 / f64::from(self.rate)),
            _ => None,
        };
        self.declared.map(|declared| declared.seconds).or(by_frames)
    }

    /// Is the end of the bytes also the end of the sound? A live WebM recording has neither a duration nor a last element.
    pub(crate) fn ends_with_bytes(&self) -> bool {
        self.declared.is_none() && matches!(self.container, Container::Matroska | Container::Webm)
    }

    /// Are the packets' times exact, so that a gap between two is a packet that the reader left out because it is damaged?
    pub(crate) fn has_exact_times(&self) -> bool {
        matches!(self.container, Container::Flac | Container::Ogg)
    }

    /// A decoder for the track.
    pub(crate) fn decoder(&self) -> Result<Box<dyn AudioDecoder>, Rejection> {
        CODECS.make_audio_decoder(&self.params, &AudioDecoderOptions::default()).map_err(|e| refusal(&e))
    }

    /// Hertz and channels where packets are plain 16-bit samples, little endian. The decoder reads those one by one, which costs more than
    /// all that is done with them.
    pub(crate) fn plain(&self) -> Option<(u32, usize)> {
        let params = &self.params;
        let is_16_bits = [params.bits_per_sample, params.bits_per_coded_sample]
            .iter()
            .all(|bits| bits.is_none_or(|bits| bits == 16));
        let channels = params.channels.as_ref().map_or(0, |channels| channels.count());
        let is_plain = params.codec == CODEC_ID_PCM_S16LE && is_16_bits && channels > 0;
        params.sample_rate.filter(|rate| is_plain && *rate > 0).map(|rate| (rate, channels))
    }
}

/// The rejection for a clip that is too long.
pub(crate) fn too_long(seconds: f64, limits: &Limits) -> Rejection {
    let detail = format!("{seconds:.1} seconds, at most {} are accepted", limits.seconds_max);
    reject("limit.duration", detail)
}

/// Refuses more channels than sound has.
pub(crate) fn check_channels(channels: usize) -> Result<(), Rejection> {
    if channels == 0 {
        return Err(reject("decode.malformed", "the header declares no channel"));
    }
    if channels > CHANNELS_MAX {
        let detail = format!("{channels} channels, at most {CHANNELS_MAX} are accepted");
        return Err(reject("decode.unsupported", detail));
    }
    Ok(())
}

/// What an error of Symphonia says about the file.
pub(crate) fn refusal(error: &Error) -> Rejection {
    match error {
        Error::IoError(e) if e.kind() == ErrorKind::UnexpectedEof => {
            reject("decode.truncated", "the file ends before its header said")
        }
        Error::Unsupported(what) => reject("decode.unsupported", what),
        Error::ResetRequired => reject("decode.unsupported", "the file is a chain of several streams"),
        other => reject("decode.malformed", other),
    }
}

fn open_reader(bytes: &Bytes, container: Container) -> Result<Box<dyn FormatReader>, Rejection> {
    let cursor = Cursor::new(bytes.clone());
    let source: Box<dyn MediaSource> =
        if container.guesses_length() { Box::new(ReadOnlySource::new(cursor)) } else { Box::new(cursor) };
    let stream = MediaSourceStream::new(source, Default::default());
    let reader = symphonia::default::get_probe()
        .probe(&Hint::new(), stream, FormatOptions::default(), MetadataOptions::default())
        .map_err(|e| refusal(&e))?;
    let name = reader.format_info().short_name;
    if !container.readers().contains(&name) {
        let detail = format!("starts like {} and is none", container.media_type());
        return Err(reject("decode.malformed", detail));
    }
    Ok(reader)
}

/// Encoder delay and padding that Symphonia's readers leave in: pre-skip of Opus and edit lists of MP4.
fn trim(
    bytes: &Bytes,
    container: Container,
    params: &mut AudioCodecParameters,
    track: &Track,
    rate: u32,
) -> Trim {
    let mut trim = Trim::default();
    if params.codec == CODEC_ID_OPUS
        && let Some(pre_skip) = params.extra_data.as_mut().and_then(|head| head.get_mut(OPUS_PRE_SKIP))
    {
        // The decoder drops them from its first packet only, which may be shorter than that.
        trim.skip = u64::from(u16::from_le_bytes([pre_skip[0], pre_skip[1]]));
        pre_skip.fill(0);
    }
    if container == Container::Mp4
        && let Some(edit) = container::mp4_edit(bytes, track.id)
    {
        let frames = |(ticks, scale): (u64, u64)| {
            u64::try_from((u128::from(ticks) * u128::from(rate)).div_ceil(u128::from(scale)))
                .unwrap_or(u64::MAX)
        };
        trim.skip = frames(edit.skip);
        let in_track = track
            .duration
            .zip(track.time_base)
            .map(|(d, base)| frames((d.get(), u64::from(base.denom.get()))).saturating_sub(trim.skip));
        trim.keep = [edit.play.map(frames), in_track].into_iter().flatten().min();
    }
    trim
}

fn declared(
    container: Container,
    reader: &dyn FormatReader,
    track: &Track,
    rate: u32,
    trim: Trim,
) -> Option<Declared> {
    let seconds_of =
        |base: TimeBase, ticks: u64| ticks as f64 * f64::from(base.numer.get()) / f64::from(base.denom.get());
    let (base, duration, start) = match (track.time_base, track.duration) {
        (Some(base), Some(duration)) => (base, duration, track.start_ts),
        _ => {
            let info = reader.media_info();
            (info.time_base?, info.duration?, info.start_ts)
        }
    };
    // A writer that does not know the length leaves 0 there.
    if duration.is_zero() {
        return None;
    }
    let tolerance_seconds = match container {
        // Some encoders count the frame that holds the count.
        Container::Mpeg => 1_152.0 / f64::from(rate.max(1)),
        Container::Matroska | Container::Webm => 0.1,
        _ => 0.0,
    };
    let tolerance = tolerance_seconds * f64::from(base.denom.get()) / f64::from(base.numer.get());
    let start = if container == Container::Mpeg { Timestamp::ZERO } else { start };
    let whole = seconds_of(base, duration.get());
    let skipped = trim.skip as f64 / f64::from(rate.max(1));
    let kept = trim.keep.map_or(f64::MAX, |keep| keep as f64 / f64::from(rate.max(1)));
    Some(Declared {
        end: start.saturating_add(duration),
        base,
        tolerance: Duration::new(tolerance.ceil() as u64),
        seconds: (whole - skipped).max(0.0).min(kept),
    })
}
