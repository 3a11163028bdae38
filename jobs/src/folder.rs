//! The files of a folder, in order, without reading the whole tree first.

use crate::media::{Item, Origin, head, modality_of};
use serde_json::Map;
use std::collections::VecDeque;
use std::path::{Path, PathBuf};

/// Walks a folder: its entries sorted by name, sub-folders in their place. Links are not followed, so it always ends. At most one sorted
/// list per level is in memory.
#[derive(Debug)]
pub struct Walk {
    levels: Vec<VecDeque<PathBuf>>,
}

impl Walk {
    /// Starts at `root`.
    pub fn new(root: &Path) -> std::io::Result<Self> {
        Ok(Self { levels: vec![sorted(root)?] })
    }
}

impl Iterator for Walk {
    type Item = std::io::Result<Item>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let Some(path) = self.levels.last_mut()?.pop_front() else {
                self.levels.pop();
                continue;
            };
            let kind = match std::fs::symlink_metadata(&path) {
                Ok(meta) => meta.file_type(),
                Err(error) => return Some(Err(error)),
            };
            if kind.is_dir() {
                match sorted(&path) {
                    Ok(level) => self.levels.push(level),
                    Err(error) => return Some(Err(error)),
                }
            } else if kind.is_file() {
                let modality = modality_of(&path, &head(&path));
                return Some(Ok(Item {
                    origin: Origin::File(path),
                    modality,
                    media_type: None,
                    id: None,
                    metadata: Map::new(),
                }));
            }
        }
    }
}

fn sorted(folder: &Path) -> std::io::Result<VecDeque<PathBuf>> {
    let mut entries: Vec<PathBuf> =
        std::fs::read_dir(folder)?.map(|e| e.map(|e| e.path())).collect::<Result<_, _>>()?;
    entries.sort();
    Ok(entries.into())
}
