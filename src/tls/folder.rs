//! The CA's folder: every file is opened beneath one directory handle, never through a link, and judged once open.
//!
//! A mode that is checked by path and read by path can change in between; here the descriptor that was judged is the
//! one that is read. The folder is locked while it is in use, so that two processes that start together make one root.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use zeroize::Zeroizing;

use super::error::CaError;

/// An open and locked folder.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    dir: File,
}

/// Who may read a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Everyone: certificates.
    Public,
    /// The owner only: keys.
    Key,
}

impl Folder {
    /// Opens the folder, makes it (0700) where it is missing, and waits for its lock.
    pub(super) fn open(path: &Path) -> Result<Self, CaError> {
        let fault = |action, source| CaError::Io {
            path: path.to_owned(),
            action,
            source,
        };
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(|error| fault("make the folder", error))?;
        Self::open_existing(path)
    }

    /// Opens the folder, which must be there.
    pub(super) fn open_existing(path: &Path) -> Result<Self, CaError> {
        let fault = |action, source: rustix::io::Errno| CaError::Io {
            path: path.to_owned(),
            action,
            source: source.into(),
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open(path, flags, Mode::empty())
            .map_err(|error| fault("open the folder", error))?;
        let folder = Self {
            path: path.to_owned(),
            dir: dir.into(),
        };
        let (mode, ours) = Self::judge(folder.dir.as_fd(), path)?;
        if !ours || mode & 0o022 != 0 {
            return Err(CaError::Exposed {
                path: path.to_owned(),
                why: "others can write to this folder and so replace the CA; give it to keyward's user alone (chmod 700)",
            });
        }
        rustix::fs::flock(&folder.dir, FlockOperation::LockExclusive)
            .map_err(|error| fault("lock the folder", error))?;
        Ok(folder)
    }

    /// Where a file of this name lies.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Reads a file; `None` where there is none.
    pub(super) fn read(
        &self,
        name: &str,
        kind: Kind,
    ) -> Result<Option<Zeroizing<Vec<u8>>>, CaError> {
        let path = self.path(name);
        let fault = |source| CaError::Io {
            path: path.clone(),
            action: "read",
            source,
        };
        // NONBLOCK: a FIFO of this name must not hold the start.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = match rustix::fs::openat(&self.dir, name, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            Err(error) => return Err(fault(error.into())),
        };
        let (mode, ours) = Self::judge(file.as_fd(), &path)?;
        if kind == Kind::Key && (!ours || mode & 0o077 != 0) {
            return Err(CaError::Exposed {
                path,
                why: "others can read this key, or own it; chmod 600 it, and `keyward ca rotate` if someone may have",
            });
        }
        // Room for what a sane file holds: growing would leave copies of a key behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(MOST));
        file.take(MOST as u64)
            .read_to_end(&mut bytes)
            .map_err(fault)?;
        Ok(Some(bytes))
    }

    /// Writes a file whole: a reader sees the old one or the new one, also after a crash.
    pub(super) fn write(&self, name: &str, kind: Kind, bytes: &[u8]) -> Result<(), CaError> {
        let fault = |source: io::Error| CaError::Io {
            path: self.path(name),
            action: "write",
            source,
        };
        self.replace(name, kind, bytes).map_err(fault)
    }

    /// Removes a file, if there is one.
    pub(super) fn remove(&self, name: &str) -> Result<(), CaError> {
        match rustix::fs::unlinkat(&self.dir, name, AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
            Err(error) => Err(CaError::Io {
                path: self.path(name),
                action: "remove",
                source: error.into(),
            }),
        }
    }

    fn replace(&self, name: &str, kind: Kind, bytes: &[u8]) -> io::Result<()> {
        let draft = format!(".{name}.new");
        let mode = match kind {
            Kind::Public => Mode::from_raw_mode(0o644),
            Kind::Key => Mode::from_raw_mode(0o600),
        };
        // The lock is ours, so a draft that lies here is a crash's leaving.
        match rustix::fs::unlinkat(&self.dir, &draft, AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(rustix::fs::openat(&self.dir, &draft, flags, mode)?);
        // The process' umask may have taken bits that agents need to read the root.
        rustix::fs::fchmod(&file, mode)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        rustix::fs::renameat(&self.dir, &draft, &self.dir, name)?;
        self.dir.sync_all()
    }

    /// The permission bits, and whether the owner is this process' user or root.
    fn judge(fd: impl AsFd, path: &Path) -> Result<(u32, bool), CaError> {
        let stat = rustix::fs::fstat(fd).map_err(|error| CaError::Io {
            path: path.to_owned(),
            action: "inspect",
            source: error.into(),
        })?;
        let own = rustix::process::geteuid().as_raw();
        Ok((
            Mode::from_raw_mode(stat.st_mode).as_raw_mode(),
            stat.st_uid == own || stat.st_uid == 0,
        ))
    }
}

/// More than two roots or an intermediate with the longest list of names need.
const MOST: usize = 256 * 1024;
