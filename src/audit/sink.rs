//! Where the lines go: a file that is never followed through a link, standard output, or memory.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::fs::{FlockOperation, OFlags, flock};

use super::{AuditError, Durability};

/// The open end of the trail. Whoever holds it is the only writer.
#[derive(Debug)]
pub(super) enum Output {
    File(LogFile),
    Stdout(File),
    Memory(Arc<Mutex<Vec<u8>>>),
}

impl Output {
    /// A duplicate of standard output's descriptor, so that no buffer of the library stands between.
    pub(super) fn stdout() -> io::Result<Self> {
        Ok(Self::Stdout(
            io::stdout().as_fd().try_clone_to_owned()?.into(),
        ))
    }

    /// Writes some of `bytes`.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::File(log) => {
                let written = log.file.write(bytes)?;
                log.size += u64::try_from(written).unwrap_or_default();
                Ok(written)
            }
            Self::Stdout(file) => file.write(bytes),
            Self::Memory(lines) => {
                lines.lock().extend_from_slice(bytes);
                Ok(bytes.len())
            }
        }
    }

    /// Makes what was written outlast a power cut, where the sink can.
    pub(super) fn sync(&self) -> io::Result<()> {
        match self {
            Self::File(log) => log.file.sync_data(),
            Self::Stdout(_) | Self::Memory(_) => Ok(()),
        }
    }

    /// The log file, where it is one.
    pub(super) fn file_mut(&mut self) -> Option<&mut LogFile> {
        match self {
            Self::File(log) => Some(log),
            Self::Stdout(_) | Self::Memory(_) => None,
        }
    }
}

/// The current file of the trail.
#[derive(Debug)]
pub(super) struct LogFile {
    pub(super) path: PathBuf,
    pub(super) file: File,
    /// Its length as far as this process wrote or found it.
    pub(super) size: u64,
}

impl LogFile {
    /// Opens or makes the file at `path`, for one writer at a time.
    pub(super) fn open(path: &Path) -> Result<Self, AuditError> {
        let fault = |source| AuditError::Open {
            path: path.to_owned(),
            source,
        };
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .custom_flags(flags(OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK))
            .open(path)
            .map_err(fault)?;
        let meta = file.metadata().map_err(fault)?;
        if !meta.is_file() {
            return Err(fault(io::Error::other("this is not a regular file")));
        }
        // Two writers would each continue the same record, and break each other's chain.
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(AuditError::InUse {
                    path: path.to_owned(),
                });
            }
            Err(error) => return Err(fault(error.into())),
        }
        Ok(Self {
            path: path.to_owned(),
            file,
            size: meta.len(),
        })
    }

    /// Whether `path` still leads to this file.
    pub(super) fn in_place(&self) -> bool {
        let ours = self.file.metadata().map(|meta| (meta.dev(), meta.ino()));
        let there = std::fs::symlink_metadata(&self.path).map(|meta| (meta.dev(), meta.ino()));
        matches!((ours, there), (Ok(ours), Ok(there)) if ours == there)
    }

    /// How many bytes somebody cut from the file (`copytruncate`), if any.
    pub(super) fn cut(&mut self) -> Option<u64> {
        let length = self.file.metadata().ok()?.len();
        let missing = self.size.checked_sub(length).filter(|&n| n > 0)?;
        self.size = length;
        Some(missing)
    }

    /// Takes the last `part` bytes back, which are the beginning of a line that goes to another file.
    pub(super) fn take_back(&mut self, part: u64) -> io::Result<()> {
        let length = self.size.saturating_sub(part);
        self.file.set_len(length)?;
        self.size = length;
        Ok(())
    }

    /// Writes `batch`, the file's last bytes, once more: after a failed `fdatasync` the kernel holds the pages clean
    /// though they never reached the disk, and a second `fdatasync` alone would report success.
    pub(super) fn rewrite(&self, batch: &[u8]) -> io::Result<()> {
        let plain = OpenOptions::new()
            .write(true)
            .custom_flags(flags(OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK))
            .open(&self.path)?;
        if plain.metadata()?.ino() != self.file.metadata()?.ino() {
            return Err(io::Error::other("the file was moved"));
        }
        let length = u64::try_from(batch.len()).unwrap_or_default();
        plain.write_all_at(batch, self.size.saturating_sub(length))
    }

    /// Moves the file away under the number of its last record, and opens a new one in its place.
    pub(super) fn rotate(&mut self, seq: u64, durability: Durability) -> Result<(), AuditError> {
        let fault = |source| AuditError::Open {
            path: self.path.clone(),
            source,
        };
        if durability == Durability::Disk {
            self.file.sync_all().map_err(fault)?;
        }
        // A chain that began anew reaches old numbers again; an old file is never written over.
        let name = |n: u32| {
            let mut name = self.path.clone().into_os_string();
            name.push(if n == 0 {
                format!(".{seq:012}")
            } else {
                format!(".{seq:012}-{n}")
            });
            PathBuf::from(name)
        };
        let Some(away) = (0..1000)
            .map(name)
            .find(|path| path.symlink_metadata().is_err())
        else {
            return Err(fault(io::ErrorKind::AlreadyExists.into()));
        };
        std::fs::rename(&self.path, &away).map_err(fault)?;
        match Self::open(&self.path) {
            Ok(new) => *self = new,
            Err(error) => {
                // The old file goes on under its old name; the next try may find a descriptor or an inode free.
                std::fs::rename(&away, &self.path).map_err(fault)?;
                return Err(error);
            }
        }
        if durability == Durability::Disk {
            sync_folder(&self.path);
        }
        Ok(())
    }

    /// Removes the oldest rotated files beyond `keep`.
    pub(super) fn prune(&self, keep: usize) {
        let mut old = rotated(&self.path);
        let surplus = if keep == 0 {
            0
        } else {
            old.len().saturating_sub(keep)
        };
        for (_, path) in old.drain(..surplus) {
            if let Err(error) = std::fs::remove_file(&path) {
                tracing::warn!(%error, path = %path.display(), "an old audit file stays");
            }
        }
    }
}

/// The rotated files of `path` with the number of their last record, oldest first.
pub(super) fn rotated(path: &Path) -> Vec<(u64, PathBuf)> {
    let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
        return Vec::new();
    };
    let Ok(entries) = std::fs::read_dir(folder(path)) else {
        return Vec::new();
    };
    let number = |entry: &std::fs::DirEntry| {
        let file_name = entry.file_name();
        let suffix = file_name.to_str()?.strip_prefix(name)?.strip_prefix('.')?;
        let digits = suffix.split('-').next()?;
        (digits.len() >= 12).then(|| digits.parse().ok()).flatten()
    };
    let mut found: Vec<(u64, PathBuf)> = entries
        .flatten()
        .filter_map(|entry| Some((number(&entry)?, entry.path())))
        .collect();
    found.sort();
    found
}

/// A new name outlasts a power cut once its folder is synced; a folder that cannot be is no reason to stop.
pub(super) fn sync_folder(path: &Path) {
    if let Err(error) = File::open(folder(path)).and_then(|folder| folder.sync_all()) {
        tracing::warn!(%error, "the audit folder is not synced");
    }
}

/// The folder that `path` lies in.
pub(super) fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => Path::new("/"),
    }
}

/// Flags in the form that the standard library takes them.
pub(super) fn flags(flags: OFlags) -> i32 {
    i32::try_from(flags.bits()).unwrap_or_default()
}
