//! `file://` references, below allowed folders only.

use crate::fetcher::{Failed, Room, reject, too_large};
use bytes::Bytes;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use tokio::io::AsyncReadExt;
use url::Url;

/// A folder below which files may be read, as it was written and as it truly is.
#[derive(Clone, Debug)]
pub(crate) struct Root {
    written: PathBuf,
    true_path: PathBuf,
}

impl Root {
    pub(crate) fn new(path: &Path) -> std::io::Result<Self> {
        Ok(Self { written: path.to_owned(), true_path: path.canonicalize()? })
    }

    fn has(&self, path: &Path) -> bool {
        path.starts_with(&self.written) || path.starts_with(&self.true_path)
    }
}

/// The root that the file lies below, as it is written: what fails together.
pub(crate) fn place(url: &Url, roots: &[Root]) -> String {
    let path = url.to_file_path().unwrap_or_default();
    let root = roots.iter().find(|root| root.has(&path));
    root.map_or_else(|| "the file system".into(), |root| root.written.display().to_string())
}

/// Reads a regular file whose true path lies below one of `roots`.
pub(crate) async fn read(
    url: &Url,
    roots: &[Root],
    bytes_max: usize,
    room: &mut dyn Room,
) -> Result<Bytes, Failed> {
    let path = url
        .to_file_path()
        .map_err(|()| reject("payload.uri", "a file URI needs an absolute path and no host"))?;
    let denied = || reject("payload.denied", "the file lies below none of fetch.file_roots");
    // What lies elsewhere is not even looked at: whether it exists is nobody's business.
    if !roots.iter().any(|root| root.has(&path)) {
        return Err(denied());
    }
    // Links are resolved first: one that leads out of the folder is outside of it.
    let path = tokio::fs::canonicalize(&path).await.map_err(|e| failed(&path, &e))?;
    if !roots.iter().any(|root| path.starts_with(&root.true_path)) {
        return Err(denied());
    }
    // A pipe or device could block for ever or never end: none is waited for, and what was opened is what is checked.
    let file = tokio::fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW)
        .open(&path)
        .await
        .map_err(|e| failed(&path, &e))?;
    let meta = file.metadata().await.map_err(|e| failed(&path, &e))?;
    if !meta.is_file() {
        return Err(reject("payload.denied", "not a regular file"));
    }
    if meta.len() > bytes_max as u64 {
        return Err(Failed::Rejected(too_large(meta.len(), bytes_max)));
    }
    if !room.try_grow(meta.len() as usize) {
        return Err(Failed::NoRoom(meta.len() as usize));
    }
    let mut bytes = Vec::with_capacity(meta.len() as usize);
    // One that grows meanwhile is taken as it was.
    file.take(meta.len()).read_to_end(&mut bytes).await.map_err(|e| failed(&path, &e))?;
    Ok(bytes.into())
}

fn failed(path: &Path, error: &std::io::Error) -> Failed {
    match error.kind() {
        _ if error.raw_os_error() == Some(libc::ELOOP) => {
            reject("payload.not_found", format!("{} is a loop of links", path.display()))
        }
        ErrorKind::NotFound | ErrorKind::NotADirectory => {
            reject("payload.not_found", format!("{} is not there", path.display()))
        }
        ErrorKind::PermissionDenied => reject("payload.denied", format!("{}: {error}", path.display())),
        ErrorKind::InvalidInput | ErrorKind::InvalidFilename => {
            reject("payload.uri", format!("no file can have this path: {error}"))
        }
        _ => Failed::Transient(format!("{}: {error}", path.display())),
    }
}
