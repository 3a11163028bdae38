//! `file://` references, below allowed folders only.

use crate::fetcher::{Failed, reject, too_large};
use bytes::Bytes;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use tokio::io::AsyncReadExt;
use url::Url;

/// Size of the file, if it is there.
pub(crate) fn size(url: &Url) -> Option<usize> {
    let meta = std::fs::metadata(url.to_file_path().ok()?).ok()?;
    usize::try_from(meta.len()).ok()
}

/// Reads a regular file whose true path lies below one of `roots`.
pub(crate) async fn read(url: &Url, roots: &[PathBuf], bytes_max: usize) -> Result<Bytes, Failed> {
    let path = url
        .to_file_path()
        .map_err(|()| reject("payload.uri", "a file URI needs an absolute path and no host"))?;
    // Links are resolved first: one that leads out of the folder is outside of it.
    let path = tokio::fs::canonicalize(&path).await.map_err(|e| failed(&path, &e))?;
    if !roots.iter().any(|root| path.starts_with(root)) {
        return Err(reject("payload.denied", "the file lies below none of fetch.file_roots"));
    }
    let meta = tokio::fs::metadata(&path).await.map_err(|e| failed(&path, &e))?;
    // A pipe or device could block for ever or never end.
    if !meta.is_file() {
        return Err(reject("payload.denied", "not a regular file"));
    }
    if meta.len() > bytes_max as u64 {
        return Err(Failed::Rejected(too_large(meta.len(), bytes_max)));
    }
    let file = tokio::fs::File::open(&path).await.map_err(|e| failed(&path, &e))?;
    let mut bytes = Vec::with_capacity(meta.len() as usize);
    // The file may grow while it is read.
    file.take(bytes_max as u64 + 1).read_to_end(&mut bytes).await.map_err(|e| failed(&path, &e))?;
    Ok(bytes.into())
}

fn failed(path: &Path, error: &std::io::Error) -> Failed {
    match error.kind() {
        ErrorKind::NotFound => reject("payload.not_found", format!("{} is not there", path.display())),
        ErrorKind::PermissionDenied => reject("payload.denied", format!("{}: {error}", path.display())),
        _ => Failed::Transient(format!("{}: {error}", path.display())),
    }
}
