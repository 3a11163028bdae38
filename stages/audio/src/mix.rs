//! Packet to mono, with a look at the quality while the samples are at hand.

use symphonia::core::audio::GenericAudioBufferRef;

/// From this magnitude on a sample counts as full scale; 32,767 of 16 bits (0.99997) does.
const FULL_SCALE: f32 = 0.9999;
/// So many neighbours at full scale in one channel are clipping; a single peak of a normalised file is not.
const CLIPPED_RUN: usize = 3;
/// Beyond this magnitude (120 dB above full scale) a float is garbage: one such sample would ring through the filters.
const MAGNITUDE_MAX: f32 = 1e6;

/// Mixes packets to mono by the mean of their channels. Its buffers are reused.
#[derive(Default)]
pub(crate) struct Mixer {
    planes: Vec<Vec<f32>>,
    mono: Vec<f32>,
    /// Neighbouring samples at full scale were seen.
    pub(crate) is_clipped: bool,
    /// Samples that are no number (or absurd) were seen and set to 0.
    pub(crate) is_non_finite: bool,
}

impl Mixer {
    /// Forgets the last clip.
    pub(crate) fn reset(&mut self) {
        self.is_clipped = false;
        self.is_non_finite = false;
    }

    /// The mean of all channels of a packet.
    pub(crate) fn mix(&mut self, packet: &GenericAudioBufferRef<'_>) -> &[f32] {
        packet.copy_to_vecs_planar::<f32>(&mut self.planes);
        self.mean()
    }

    /// The same of 16-bit samples as they lie in a file: interleaved, little endian.
    pub(crate) fn mix_s16(&mut self, bytes: &[u8], channels: usize) -> &[f32] {
        let sample = |bytes: &[u8; 2]| f32::from(i16::from_le_bytes(*bytes)) / 32_768.0;
        let (samples, _) = bytes.as_chunks::<2>();
        self.planes.resize_with(channels, Vec::new);
        for (channel, plane) in self.planes.iter_mut().enumerate() {
            plane.clear();
            match channels {
                // Without steps the loop is vectorised.
                1 => plane.extend(samples.iter().map(sample)),
                _ => plane.extend(samples.chunks_exact(channels).map(|frame| sample(&frame[channel]))),
            }
        }
        self.mean()
    }

    fn mean(&mut self) -> &[f32] {
        self.inspect();
        let Some((first, rest)) = self.planes.split_first() else {
            return &[];
        };
        if rest.is_empty() {
            return first;
        }
        self.mono.clear();
        self.mono.extend_from_slice(first);
        for plane in rest {
            self.mono.iter_mut().zip(plane).for_each(|(sum, x)| *sum += x);
        }
        let share = 1.0 / self.planes.len() as f32;
        self.mono.iter_mut().for_each(|sum| *sum *= share);
        &self.mono
    }

    fn inspect(&mut self) {
        for plane in &mut self.planes {
            // `max` would pass a NaN by; this comparison does not.
            let is_sound = plane.iter().fold(true, |ok, x| ok & (x.abs() <= MAGNITUDE_MAX));
            if !is_sound {
                self.is_non_finite = true;
                plane.iter_mut().filter(|x| !x.is_finite() || x.abs() > MAGNITUDE_MAX).for_each(|x| *x = 0.0);
            }
            if !self.is_clipped {
                let is_loud = plane.iter().fold(false, |loud, x| loud | (x.abs() >= FULL_SCALE));
                self.is_clipped = is_loud
                    && plane.windows(CLIPPED_RUN).any(|run| run.iter().all(|x| x.abs() >= FULL_SCALE));
            }
        }
    }
}
