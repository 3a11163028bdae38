//! What the first bytes are, and what Symphonia keeps to itself or does not mend: whether an Ogg, Matroska or MP4 file was cut
//! off, which part of an MP4 track its edit list plays, and WAV files that came out of a pipe.
//!
//! The format must show within the first bytes: a search for something that looks like sound further inside would find it
//! in pictures and archives too.

/// A container that is accepted, with its media type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Container {
    Adts,
    Aiff,
    Caf,
    Flac,
    Matroska,
    Mp4,
    Mpeg,
    Ogg,
    Wave,
    Webm,
}

impl Container {
    /// Recognises the container by its magic bytes; ID3v2 tags in front are skipped.
    pub(crate) fn sniff(bytes: &[u8]) -> Option<Self> {
        let bytes = skip_id3(bytes);
        let at = |from: usize, magic: &[u8]| bytes.get(from..from + magic.len()) == Some(magic);
        if at(0, b"RIFF") && at(8, b"WAVE") {
            return Some(Self::Wave);
        }
        if at(0, b"FORM") && (at(8, b"AIFF") || at(8, b"AIFC")) {
            return Some(Self::Aiff);
        }
        if at(0, &[0x1a, 0x45, 0xdf, 0xa3]) {
            let head = &bytes[..bytes.len().min(64)];
            return Some(if find(head, b"webm").is_some() { Self::Webm } else { Self::Matroska });
        }
        if [b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"].iter().any(|kind| at(4, *kind)) {
            return Some(Self::Mp4);
        }
        match bytes {
            [b'f', b'L', b'a', b'C', ..] => Some(Self::Flac),
            [b'O', b'g', b'g', b'S', ..] => Some(Self::Ogg),
            [b'c', b'a', b'f', b'f', ..] => Some(Self::Caf),
            // Both begin with a sync word; the two layer bits are 0 in ADTS and never 0 in MPEG-1 and 2 audio.
            [0xff, second, ..] if second & 0xf6 == 0xf0 => Some(Self::Adts),
            [0xff, second, ..] if second & 0xe0 == 0xe0 && second & 0x06 != 0 => Some(Self::Mpeg),
            _ => None,
        }
    }

    /// The media type of a file of this kind that holds sound.
    pub(crate) fn media_type(self) -> &'static str {
        match self {
            Self::Adts => "audio/aac",
            Self::Aiff => "audio/aiff",
            Self::Caf => "audio/x-caf",
            Self::Flac => "audio/flac",
            Self::Matroska => "audio/x-matroska",
            Self::Mp4 => "audio/mp4",
            Self::Mpeg => "audio/mpeg",
            Self::Ogg => "audio/ogg",
            Self::Wave => "audio/wav",
            Self::Webm => "audio/webm",
        }
    }

    /// Symphonia's names of the reader that this container must get.
    pub(crate) fn readers(self) -> &'static [&'static str] {
        match self {
            Self::Adts => &["aac"],
            Self::Aiff => &["aiff"],
            Self::Caf => &["caf"],
            Self::Flac => &["flac"],
            Self::Matroska | Self::Webm => &["matroska"],
            Self::Mp4 => &["isomp4"],
            Self::Mpeg => &["mp1", "mp2", "mp3"],
            Self::Ogg => &["ogg"],
            Self::Wave => &["wave"],
        }
    }

    /// Streams of frames without a header of their own: where they are seekable, Symphonia guesses their length from the
    /// first frames, and then cuts off what exceeds the guess.
    pub(crate) fn guesses_length(self) -> bool {
        matches!(self, Self::Adts | Self::Mpeg)
    }
}

fn find(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    bytes.windows(needle.len()).position(|w| w == needle)
}

fn skip_id3(mut bytes: &[u8]) -> &[u8] {
    // A few tags may follow each other; their sizes have 7 bits a byte (ID3v2.4, section 6.2).
    for _ in 0..4 {
        let [b'I', b'D', b'3', _, _, flags, s0, s1, s2, s3, ..] = *bytes else { break };
        let size = [s0, s1, s2, s3].iter().fold(0, |n, b| n << 7 | usize::from(b & 0x7f));
        let footer = if flags & 0x10 != 0 { 10 } else { 0 };
        bytes = bytes.get(10 + size + footer..).unwrap_or_default();
    }
    bytes
}

/// A WAV file whose writer did not know its length (a pipe) has `u32::MAX` there: a copy with the length that it has, or
/// `None` where nothing is to be done. Without it, the reader would drop the last samples.
pub(crate) fn wave_with_length(bytes: &[u8]) -> Option<Vec<u8>> {
    const UNKNOWN: [u8; 4] = [0xff; 4];
    let mut at = 12usize;
    loop {
        let kind = bytes.get(at..at.checked_add(4)?)?;
        let size: [u8; 4] = bytes.get(at + 4..at.checked_add(8)?)?.try_into().ok()?;
        if kind == b"data" {
            if size != UNKNOWN {
                return None;
            }
            let mut copy = bytes.to_vec();
            let length = |from: usize| u32::try_from(bytes.len() - from).ok().map(u32::to_le_bytes);
            copy[4..8].copy_from_slice(&length(8)?);
            copy[at + 4..at + 8].copy_from_slice(&length(at + 8)?);
            return Some(copy);
        }
        // Chunks are padded to an even length.
        let size = u32::from_le_bytes(size) as usize;
        at = at.checked_add(8 + size + size % 2)?;
    }
}

/// Was this Ogg file cut off inside a page? (RFC 3533, section 6.) Files that are no clean row of pages are not judged.
pub(crate) fn ogg_is_cut(bytes: &[u8]) -> bool {
    let mut rest = bytes;
    while rest.starts_with(b"OggS") {
        let Some(num_segments) = rest.get(26) else { return true };
        let head = 27 + usize::from(*num_segments);
        let Some(lacing) = rest.get(27..head) else { return true };
        let page = head + lacing.iter().map(|n| usize::from(*n)).sum::<usize>();
        match rest.get(page..) {
            Some(next) => rest = next,
            None => return true,
        }
    }
    // A last page header of which only a part is left.
    !rest.is_empty() && b"OggS".starts_with(&rest[..rest.len().min(4)])
}

/// Was this Matroska file cut off before the end of its segment, which its writer may have left open? (RFC 8794, 4 and 6.)
pub(crate) fn matroska_is_cut(bytes: &[u8]) -> bool {
    const SEGMENT: [u8; 4] = [0x18, 0x53, 0x80, 0x67];
    let Some((header, size)) = bytes.get(4..).and_then(vint) else { return true };
    let segment = (size as usize).saturating_add(4 + header);
    let Some(bytes) = bytes.get(segment..).filter(|b| b.starts_with(&SEGMENT)) else { return false };
    match vint(&bytes[4..]) {
        Some((width, size)) => {
            let is_open = size == (1 << (7 * width)) - 1;
            !is_open && size > (bytes.len() - 4 - width) as u64
        }
        None => true,
    }
}

/// An EBML number with its width in bytes.
fn vint(bytes: &[u8]) -> Option<(usize, u64)> {
    let first = *bytes.first()?;
    let width = first.leading_zeros() as usize + 1;
    if width > 8 {
        return None;
    }
    Some((width, be(bytes, 0, width)? & ((1 << (7 * width)) - 1)))
}

/// Was this MP4 file cut off inside a box that matters? (Whatever trails the last box is no sign of it.)
pub(crate) fn mp4_is_cut(bytes: &[u8]) -> bool {
    Boxes { rest: bytes }.any(|b| b.is_cut && [b"moov", b"mdat", b"moof"].contains(&&b.kind))
}

/// What an MP4 edit list plays of a track: skipped at the front and played, each in seconds as a fraction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Edit {
    /// Ticks to skip, and ticks a second.
    pub(crate) skip: (u64, u64),
    /// Ticks to play, and ticks a second. `None` when the list leaves it open.
    pub(crate) play: Option<(u64, u64)>,
}

/// The edit list of `track` (ISO/IEC 14496-12, 8.6.6) when it holds one simple edit, as encoders write it for their delay
/// and padding.
pub(crate) fn mp4_edit(bytes: &[u8], track: u32) -> Option<Edit> {
    let moov = child(bytes, b"moov")?;
    let movie_scale = scale(child(moov, b"mvhd")?)?;
    let trak = Boxes { rest: moov }
        .filter(|b| &b.kind == b"trak")
        .map(|b| b.body)
        .find(|trak| child(trak, b"tkhd").and_then(track_id) == Some(track))?;
    let media_scale = scale(child(child(trak, b"mdia")?, b"mdhd")?)?;
    let list = child(child(trak, b"edts")?, b"elst")?;
    let wide = *list.first()? == 1;
    let count = be(list, 4, 4)?.min(16) as usize;
    let entry = if wide { 20 } else { 12 };
    let mut edits = (0..count).filter_map(|i| {
        let at = 8 + i * entry;
        let (play, skip) = if wide {
            (be(list, at, 8)?, be(list, at + 8, 8)? as i64)
        } else {
            (be(list, at, 4)?, i64::from(be(list, at + 4, 4)? as u32 as i32))
        };
        // A negative media time is an empty edit: a pause in front, which is no part of the sound.
        u64::try_from(skip).ok().map(|skip| (play, skip))
    });
    let (play, skip) = edits.next()?;
    if edits.next().is_some() {
        return None;
    }
    // The movie's clock is often coarser than the track's: one tick more, so that nothing that was meant is cut off.
    let slack = u64::from(movie_scale < media_scale);
    Some(Edit {
        skip: (skip, media_scale),
        play: (play > 0).then(|| (play.saturating_add(slack), movie_scale)),
    })
}

struct Mp4Box<'a> {
    kind: [u8; 4],
    body: &'a [u8],
    is_cut: bool,
}

struct Boxes<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Boxes<'a> {
    type Item = Mp4Box<'a>;

    fn next(&mut self) -> Option<Mp4Box<'a>> {
        let kind = self.rest.get(4..8)?.try_into().ok()?;
        let (head, size) = match be(self.rest, 0, 4)? {
            0 => (8, self.rest.len() as u64),
            1 => (16, be(self.rest, 8, 8)?),
            size => (8, size),
        };
        if size < head {
            self.rest = &[];
            return None;
        }
        let end = usize::try_from(size).unwrap_or(usize::MAX);
        let is_cut = end > self.rest.len();
        let end = end.min(self.rest.len());
        let body = self.rest.get(head as usize..end)?;
        self.rest = &self.rest[end..];
        Some(Mp4Box { kind, body, is_cut })
    }
}

fn child<'a>(bytes: &'a [u8], kind: &[u8; 4]) -> Option<&'a [u8]> {
    Boxes { rest: bytes }.find(|b| &b.kind == kind).map(|b| b.body)
}

fn be(bytes: &[u8], from: usize, len: usize) -> Option<u64> {
    Some(bytes.get(from..from.checked_add(len)?)?.iter().fold(0, |n, b| n << 8 | u64::from(*b)))
}

/// Ticks a second in `mvhd` and `mdhd`, after two times of 4 or 8 bytes.
fn scale(header: &[u8]) -> Option<u64> {
    be(header, if *header.first()? == 1 { 20 } else { 12 }, 4).filter(|s| *s > 0)
}

fn track_id(tkhd: &[u8]) -> Option<u32> {
    be(tkhd, if *tkhd.first()? == 1 { 20 } else { 12 }, 4).and_then(|id| u32::try_from(id).ok())
}
