//! Why a model cannot be loaded. All of it is for an operator: nothing here mends itself.

use std::path::{Path, PathBuf};

/// A model folder, a device or the runtime is not as it must be.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A file is missing or cannot be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file of the folder says something that cannot be.
    #[error("{}: {detail}", path.display())]
    Manifest {
        /// The file.
        path: PathBuf,
        /// The key, what was found and what would be accepted.
        detail: String,
    },
    /// libtorch does not take the module.
    #[error("{}: libtorch cannot load it: {detail}", path.display())]
    Module {
        /// The module's file.
        path: PathBuf,
        /// libtorch's words.
        detail: String,
    },
    /// The model does not make the vectors that its folder promises.
    #[error("{}: golden example {example}: {detail}", path.display())]
    Golden {
        /// The model folder.
        path: PathBuf,
        /// Which example.
        example: usize,
        /// What differs, and by how much.
        detail: String,
    },
    /// The device or the runtime that was asked for is not there.
    #[error("{0}")]
    Runtime(String),
}

impl LoadError {
    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }

    pub(crate) fn manifest(path: &Path, detail: impl std::fmt::Display) -> Self {
        Self::Manifest { path: path.to_owned(), detail: detail.to_string() }
    }
}
