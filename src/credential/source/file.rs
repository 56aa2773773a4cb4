//! A secret in a file: opened, checked on the descriptor, read within bounds.

use std::fs::{File, Metadata, OpenOptions};
use std::io::Read as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use rustix::fs::OFlags;
use tracing::warn;
use zeroize::Zeroizing;

use super::{SourceError, trimmed};
use crate::secret::Secret;

/// What tells one state of a file from another. Rename, write and chmod all change something of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fingerprint {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// The file's state, through symlinks.
pub(super) fn look(path: &Path) -> Result<Fingerprint, SourceError> {
    std::fs::metadata(path)
        .map(|metadata| Fingerprint::of(&metadata))
        .map_err(|error| SourceError::Unreadable(error.kind()))
}

/// Reads the file, and says what state of it was read.
pub(super) fn read(path: &Path) -> Result<(Secret, Fingerprint), SourceError> {
    let unreadable = |error: std::io::Error| SourceError::Unreadable(error.kind());
    // Without O_NONBLOCK the open of a pipe would wait for its writer.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
        .open(path)
        .map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(SourceError::NotAFile);
    }
    if metadata.mode() & 0o022 != 0 {
        warn!(path = %path.display(), "others can write this secret file");
    } else if metadata.mode() & 0o004 != 0 {
        warn!(path = %path.display(), "everybody can read this secret file");
    }
    Ok((contents(&file)?, Fingerprint::of(&metadata)))
}

fn contents(file: &File) -> Result<Secret, SourceError> {
    // Room for all of it from the start: a buffer that grows leaves copies behind.
    let mut buffer = Zeroizing::new(Vec::with_capacity(MAX_SIZE + 1));
    let limit = MAX_SIZE as u64 + 1;
    file.take(limit)
        .read_to_end(&mut buffer)
        .map_err(|error| SourceError::Unreadable(error.kind()))?;
    if buffer.len() > MAX_SIZE {
        return Err(SourceError::TooLong(MAX_SIZE));
    }
    trimmed(&buffer)
}

impl Fingerprint {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// No secret is larger: a key with its whole chain takes a few KiB.
const MAX_SIZE: usize = 64 * 1024;
