//! What a file is, and the message that carries it.

use bytes::Bytes;
use serde_json::{Map, Value};
use spawn_core::{ContentHash, Modality, Payload};
use spawn_kafka::{JobMessage, Message};
use std::io::Read;
use std::path::{Path, PathBuf};

/// A larger file goes as a reference, if workers may follow that; else inside its message.
pub const INLINE_BYTES: u64 = 512 * 1024;
/// Largest file that travels inside its message: topics made here accept 16 MiB.
pub const INLINE_BYTES_MAX: u64 = 15 << 20;
/// Bytes that are looked at to tell what a file is.
const SNIFF_BYTES: usize = 512;

/// Extension, modality, media type.
const EXTENSIONS: [(&str, Modality, &str); 27] = [
    ("aac", Modality::Audio, "audio/aac"),
    ("aif", Modality::Audio, "audio/aiff"),
    ("aiff", Modality::Audio, "audio/aiff"),
    ("bmp", Modality::Image, "image/bmp"),
    ("csv", Modality::Text, "text/csv"),
    ("flac", Modality::Audio, "audio/flac"),
    ("gif", Modality::Image, "image/gif"),
    ("htm", Modality::Text, "text/html"),
    ("html", Modality::Text, "text/html"),
    ("jpeg", Modality::Image, "image/jpeg"),
    ("jpg", Modality::Image, "image/jpeg"),
    ("json", Modality::Text, "text/json"),
    ("m4a", Modality::Audio, "audio/mp4"),
    ("md", Modality::Text, "text/markdown"),
    ("mka", Modality::Audio, "audio/x-matroska"),
    ("mp3", Modality::Audio, "audio/mpeg"),
    ("oga", Modality::Audio, "audio/ogg"),
    ("ogg", Modality::Audio, "audio/ogg"),
    ("opus", Modality::Audio, "audio/opus"),
    ("png", Modality::Image, "image/png"),
    ("rst", Modality::Text, "text/plain"),
    ("tif", Modality::Image, "image/tiff"),
    ("tiff", Modality::Image, "image/tiff"),
    ("txt", Modality::Text, "text/plain"),
    ("wav", Modality::Audio, "audio/wav"),
    ("webm", Modality::Audio, "audio/webm"),
    ("webp", Modality::Image, "image/webp"),
];

/// Where, which bytes, modality. Enough of them that no text begins so.
const SIGNATURES: [(usize, &[u8], Modality); 19] = [
    (0, b"\xff\xd8\xff", Modality::Image),
    (0, b"\x89PNG\r\n", Modality::Image),
    (0, b"GIF8", Modality::Image),
    (0, b"II*\0", Modality::Image),
    (0, b"MM\0*", Modality::Image),
    (8, b"WEBP", Modality::Image),
    (4, b"ftypavi", Modality::Image),
    (4, b"ftyphei", Modality::Image),
    (4, b"ftypmif1", Modality::Image),
    (4, b"ftyp", Modality::Audio),
    (8, b"WAVE", Modality::Audio),
    (8, b"AIF", Modality::Audio),
    (0, b"fLaC", Modality::Audio),
    (0, b"OggS", Modality::Audio),
    (0, b"\x1a\x45\xdf\xa3", Modality::Audio),
    (0, b"\xff\xfb", Modality::Audio),
    (0, b"\xff\xf3", Modality::Audio),
    (0, b"\xff\xf1", Modality::Audio),
    (0, b"\xff\xf9", Modality::Audio),
];

/// The same, but a text may begin so: they count where the extension says nothing.
const WEAK_SIGNATURES: [(usize, &[u8], Modality); 2] =
    [(0, b"BM", Modality::Image), (0, b"ID3", Modality::Audio)];

/// Where an item's bytes are.
#[derive(Clone, Debug, PartialEq)]
pub enum Origin {
    /// A file of this machine.
    File(PathBuf),
    /// Somewhere that a worker can reach.
    Uri(String),
    /// The text itself.
    Text(String),
}

/// One thing to be processed.
#[derive(Clone, Debug)]
pub struct Item {
    /// Where its bytes are.
    pub origin: Origin,
    /// What it is, if that is known.
    pub modality: Option<Modality>,
    /// Declared media type.
    pub media_type: Option<String>,
    /// The producer's id; a hash of the origin and its content without one, so that the same item sent twice is a duplicate. A URI counts
    /// with its query: a link that is signed anew is a new item, unless it has an id.
    pub id: Option<String>,
    /// Stored beside the result.
    pub metadata: Map<String, Value>,
}

/// What a file is by its first bytes, else by its extension; text if the bytes are printable UTF-8.
pub fn modality_of(path: &Path, head: &[u8]) -> Option<Modality> {
    let sniffed = |signatures: &[(usize, &[u8], Modality)]| {
        let found =
            signatures.iter().find(|(at, bytes, _)| head.get(*at..).is_some_and(|h| h.starts_with(bytes)));
        found.map(|(.., modality)| *modality)
    };
    sniffed(&SIGNATURES)
        .or_else(|| by_extension(path).map(|(_, modality, _)| *modality))
        .or_else(|| sniffed(&WEAK_SIGNATURES))
        .or_else(|| is_text(&head[..head.len().min(SNIFF_BYTES)]).then_some(Modality::Text))
}

/// What a URI is by the ending of its path.
pub(crate) fn modality_of_uri(uri: &str) -> Option<Modality> {
    let path = uri.split(['?', '#']).next().unwrap_or(uri);
    by_extension(Path::new(path)).map(|(_, modality, _)| *modality)
}

fn is_text(head: &[u8]) -> bool {
    let text = match std::str::from_utf8(head) {
        Ok(text) => text,
        // The last character may be cut.
        Err(error) if error.error_len().is_none() => {
            std::str::from_utf8(&head[..error.valid_up_to()]).unwrap_or_default()
        }
        Err(_) => return false,
    };
    !text.is_empty() && text.chars().all(|c| !c.is_control() || c.is_whitespace())
}

fn by_extension(path: &Path) -> Option<&'static (&'static str, Modality, &'static str)> {
    let extension = path.extension()?.to_str()?.to_ascii_lowercase();
    EXTENSIONS.iter().find(|(known, ..)| *known == extension)
}

/// The message of a file. Below one of `roots`, the folders that workers may read, a large file travels as a reference.
pub fn message_for_file(
    path: &Path,
    modality: Modality,
    topic: &str,
    metadata: Map<String, Value>,
    roots: &[PathBuf],
) -> std::io::Result<Message> {
    let item = Item {
        origin: Origin::File(path.to_owned()),
        modality: Some(modality),
        media_type: None,
        id: None,
        metadata,
    };
    Ok(message_for_item(&item, modality, topic, roots)?.1)
}

/// The public id of an item and its message; for `roots` see [`message_for_file`].
pub fn message_for_item(
    item: &Item,
    modality: Modality,
    topic: &str,
    roots: &[PathBuf],
) -> std::io::Result<(String, Message)> {
    let (payload, subject, derived, known_type) = match &item.origin {
        Origin::File(path) => {
            let path = path.canonicalize()?;
            let uri = file_uri(&path);
            let (payload, content) = file_payload(&path, &uri, roots)?;
            let media_type = by_extension(&path).filter(|(_, m, _)| *m == modality).map(|(.., t)| *t);
            (payload, Some(uri.clone()), format!("{uri}#{content}"), media_type)
        }
        Origin::Uri(uri) => (Payload::Reference(uri.clone()), Some(uri.clone()), uri.clone(), None),
        Origin::Text(text) => {
            let content = ContentHash::of(text.as_bytes()).to_string();
            (Payload::Inline(Bytes::copy_from_slice(text.as_bytes())), None, content, Some("text/plain"))
        }
    };
    // A hash: an id is stored and shown, and a URI or path may be long or carry credentials.
    let derived_id = ContentHash::of(derived.as_bytes()).to_string();
    let message = JobMessage {
        topic,
        modality,
        source: "spawn",
        id: item.id.as_deref().unwrap_or(&derived_id),
        subject: subject.as_deref(),
        media_type: item.media_type.as_deref().or(known_type).unwrap_or("application/octet-stream"),
        payload,
        metadata: &item.metadata,
    };
    Ok((message.item().public(), message.encode()))
}

/// Inside, or a reference; and a name for the content.
fn file_payload(path: &Path, uri: &str, roots: &[PathBuf]) -> std::io::Result<(Payload, String)> {
    let meta = regular(path)?;
    let reachable =
        roots.iter().filter_map(|root| root.canonicalize().ok()).any(|root| path.starts_with(root));
    if meta.len() > INLINE_BYTES && reachable {
        // Reading it all just for its hash would cost as much as processing it.
        let changed = meta.modified().ok().and_then(|t| t.duration_since(std::time::UNIX_EPOCH).ok());
        let content = format!("{}-{}", meta.len(), changed.map_or(0, |d| d.as_nanos()));
        return Ok((Payload::Reference(uri.to_owned()), content));
    }
    if meta.len() > INLINE_BYTES_MAX {
        let detail = format!(
            "{} bytes do not fit into a message ({INLINE_BYTES_MAX}); name its folder in fetch.file_roots, so that workers can read it there",
            meta.len()
        );
        return Err(std::io::Error::other(detail));
    }
    let mut bytes = Vec::with_capacity(meta.len() as usize);
    std::fs::File::open(path)?.take(INLINE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    let content = ContentHash::of(&bytes).to_string();
    Ok((Payload::Inline(bytes.into()), content))
}

/// `file://` with everything escaped that a URI cannot hold.
pub(crate) fn file_uri(path: &Path) -> String {
    use std::os::unix::ffi::OsStrExt;
    let mut uri = String::from("file://");
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'/' | b'-' | b'_' | b'.' | b'~' => {
                uri.push(char::from(*byte));
            }
            other => uri.push_str(&format!("%{other:02X}")),
        }
    }
    uri
}

/// The first bytes of a file, for [`modality_of`].
pub(crate) fn head(path: &Path) -> Vec<u8> {
    let mut head = Vec::new();
    // What cannot be read is told when it is sent.
    let _read = regular(path)
        .and_then(|_| std::fs::File::open(path))
        .and_then(|file| file.take(SNIFF_BYTES as u64).read_to_end(&mut head));
    head
}

/// Opening a pipe or a device would wait for whoever writes to it.
fn regular(path: &Path) -> std::io::Result<std::fs::Metadata> {
    let meta = std::fs::metadata(path)?;
    if meta.is_file() { Ok(meta) } else { Err(std::io::Error::other("is no regular file")) }
}
