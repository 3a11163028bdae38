//! Sizes that GIF and WebP keep inside their frames. A file may declare a canvas of one pixel and hold a frame of billions;
//! decoders find out after they have made room for it. So frames are looked at first, and counted on the way.

/// What a walk over the blocks found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Frames {
    /// Width and height of the first frame's own data; (0, 0) if it was not reached.
    pub(crate) first: (u32, u32),
    /// Is there a second frame?
    pub(crate) animated: bool,
}

/// GIF 89a, sections 18 to 26. Reads block headers only.
pub(crate) fn gif(bytes: &[u8]) -> Frames {
    gif_blocks(bytes).unwrap_or_default()
}

fn gif_blocks(bytes: &[u8]) -> Option<Frames> {
    let mut found = Frames::default();
    let mut at = 13 + colour_table(*bytes.get(10)?);
    loop {
        match bytes.get(at) {
            Some(0x21) => match sub_blocks(bytes, at + 2) {
                Some(next) => at = next,
                None => return Some(found),
            },
            Some(0x2c) => {
                let Some(size) = bytes.get(at + 5..at + 10) else { return Some(found) };
                if found.first != (0, 0) {
                    return Some(Frames { animated: true, ..found });
                }
                found.first = (u16_le(size), u16_le(&size[2..]));
                match sub_blocks(bytes, at + 11 + colour_table(size[4])) {
                    Some(next) => at = next,
                    None => return Some(found),
                }
            }
            _ => return Some(found),
        }
    }
}

/// Bytes of the colour table that `flags` announce.
fn colour_table(flags: u8) -> usize {
    if flags & 0x80 == 0 { 0 } else { 3 << ((flags & 7) + 1) }
}

/// Where the chain of sub-blocks that starts at `at` ends.
fn sub_blocks(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        let length = usize::from(*bytes.get(at)?);
        at += 1 + length;
        if length == 0 {
            return Some(at);
        }
    }
}

/// Does the file end before the end that its RIFF header declares?
pub(crate) fn webp_ends_early(bytes: &[u8]) -> bool {
    let declared = bytes.get(4..8).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]) as usize);
    declared.is_none_or(|length| length.saturating_add(8) > bytes.len())
}

/// RIFF chunks of a WebP file (RFC 9649): the first `VP8 ` or `VP8L`, also inside the first `ANMF`.
pub(crate) fn webp(bytes: &[u8]) -> Frames {
    let mut found = Frames::default();
    let mut at = 12;
    let mut frames = 0u32;
    while let Some((name, body, next)) = chunk(bytes, at) {
        match name {
            b"ANMF" => {
                frames += 1;
                if frames == 1 {
                    found.first = body.get(16..).map(first_bitstream).unwrap_or_default();
                } else {
                    return Frames { animated: true, ..found };
                }
            }
            b"VP8 " | b"VP8L" if found.first == (0, 0) => found.first = bitstream(name, body),
            _ => {}
        }
        at = next;
    }
    found
}

/// The chunk at `at`: name, body (as much as there is) and where the next one starts.
fn chunk(bytes: &[u8], at: usize) -> Option<(&[u8], &[u8], usize)> {
    let header = bytes.get(at..at.checked_add(8)?)?;
    let length = u32::from_le_bytes([header[4], header[5], header[6], header[7]]) as usize;
    let end = (at + 8).checked_add(length)?;
    Some((&header[..4], &bytes[at + 8..end.min(bytes.len())], end.checked_add(length & 1)?))
}

fn first_bitstream(bytes: &[u8]) -> (u32, u32) {
    let mut at = 0;
    while let Some((name, body, next)) = chunk(bytes, at) {
        if matches!(name, b"VP8 " | b"VP8L") {
            return bitstream(name, body);
        }
        at = next;
    }
    (0, 0)
}

/// Size in the header of a `VP8 ` key frame (RFC 6386, 9.1) or of a `VP8L` stream.
fn bitstream(name: &[u8], body: &[u8]) -> (u32, u32) {
    match (name, body) {
        (b"VP8 ", [_, _, _, 0x9d, 0x01, 0x2a, size @ ..]) if size.len() >= 4 => {
            (u16_le(size) & 0x3fff, u16_le(&size[2..]) & 0x3fff)
        }
        (b"VP8L", [0x2f, a, b, c, d, ..]) => {
            let bits = u32::from_le_bytes([*a, *b, *c, *d]);
            ((bits & 0x3fff) + 1, ((bits >> 14) & 0x3fff) + 1)
        }
        _ => (0, 0),
    }
}

fn u16_le(bytes: &[u8]) -> u32 {
    u32::from(u16::from_le_bytes([bytes[0], bytes[1]]))
}
