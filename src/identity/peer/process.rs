//! What `/proc` says of a process, read so that a pid that was given away in between shows.

use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use aws_lc_rs::digest::{Context, SHA256};
use parking_lot::Mutex;

/// A process as it was at one moment.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Facts {
    /// Effective, as the kernel compares it.
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// In ticks since boot: a pid given away has another.
    start: u64,
    /// `None` where we may not look, or the file was deleted.
    pub(super) executable: Option<PathBuf>,
    /// The running file itself.
    pub(super) file: Option<FileId>,
    /// Of each hierarchy.
    pub(super) cgroups: Vec<String>,
}

/// Which file it is, and in which state: what is the same here has the same content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct FileId {
    pub(super) device: u64,
    pub(super) inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Facts {
    /// Reads them. `None`: the process is gone, or became another meanwhile.
    pub(super) fn of(pid: u32) -> Option<Self> {
        let start = start(pid)?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let link = format!("/proc/{pid}/exe");
        let executable = std::fs::read_link(&link).ok();
        // The link leads to the file that runs, whatever stands at its path by now.
        let file = std::fs::metadata(&link).ok().map(|file| FileId::of(&file));
        let cgroup = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        let facts = Self {
            uid: effective(&status, "Uid:")?,
            gid: effective(&status, "Gid:")?,
            start,
            executable,
            file,
            cgroups: cgroup.lines().filter_map(group).collect(),
        };
        (self::start(pid)? == start).then_some(facts)
    }

    /// What runs is not known for certain to be what is meant.
    pub(super) fn forget_program(&mut self) {
        (self.executable, self.file) = (None, None);
    }
}

impl FileId {
    pub(super) fn of(file: &Metadata) -> Self {
        Self {
            device: file.dev(),
            inode: file.ino(),
            size: file.size(),
            modified: (file.mtime(), file.mtime_nsec()),
            changed: (file.ctime(), file.ctime_nsec()),
        }
    }
}

/// The second of real, effective, saved and file-system id (proc_pid_status(5)).
fn effective(status: &str, name: &str) -> Option<u32> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// `0::/path` of version 2, and the path that systemd keeps in version 1 (cgroups(7)).
fn group(line: &str) -> Option<String> {
    let mut parts = line.splitn(3, ':');
    let (id, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
    let named = (id == "0" && controllers.is_empty()) || controllers == "name=systemd";
    named.then(|| path.to_owned())
}

/// Field 22 of `stat` (proc_pid_stat(5)); the name before it may hold anything, a parenthesis too.
fn start(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(19)?.parse().ok()
}

/// Whether the process behind this handle is still the one of that pid.
pub(super) fn is_same(handle: &OwnedFd, pid: u32) -> bool {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", handle.as_raw_fd()));
    let info = info.unwrap_or_default();
    let mut pids = info.lines().filter_map(|line| line.strip_prefix("Pid:"));
    pids.next().and_then(|text| text.trim().parse().ok()) == Some(pid)
}

/// The SHA-256 of running files, kept by what they are.
#[derive(Debug, Default)]
pub(super) struct Sums(Mutex<HashMap<FileId, [u8; 32]>>);

impl Sums {
    /// That of the file that this process runs, which is this one.
    pub(super) fn of(&self, pid: u32, id: FileId) -> io::Result<[u8; 32]> {
        if let Some(sum) = self.0.lock().get(&id) {
            return Ok(*sum);
        }
        let mut file = File::open(format!("/proc/{pid}/exe"))?;
        let mut context = Context::new(&SHA256);
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let read = file.read(&mut buffer)?;
            match buffer.get(..read) {
                Some([]) | None => break,
                Some(bytes) => context.update(bytes),
            }
        }
        // Another file by now, or written to while it was read.
        if FileId::of(&file.metadata()?) != id {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let mut sum = [0; 32];
        sum.copy_from_slice(context.finish().as_ref());
        let mut sums = self.0.lock();
        if sums.len() >= MOST_SUMS {
            sums.clear();
        }
        sums.insert(id, sum);
        Ok(sum)
    }
}

const MOST_SUMS: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_read_as_it_is() {
        let facts = Facts::of(std::process::id()).unwrap();
        let own = std::env::current_exe().unwrap();
        assert_eq!(facts.executable.as_deref(), Some(&*own));
        assert_eq!(facts.uid, rustix::process::geteuid().as_raw());
        assert_eq!(facts.gid, rustix::process::getegid().as_raw());
        let (sums, file) = (Sums::default(), facts.file.unwrap());
        let sum = sums.of(std::process::id(), file).unwrap();
        let whole = aws_lc_rs::digest::digest(&SHA256, &std::fs::read(own).unwrap());
        assert_eq!(sum, whole.as_ref());
        assert_eq!(Facts::of(std::process::id()), Some(facts));
    }

    #[test]
    fn a_handle_tells_a_pid_that_was_given_away() {
        let mut child = std::process::Command::new("/bin/sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let pid = rustix::process::Pid::from_child(&child);
        let handle =
            rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).unwrap();
        assert!(is_same(&handle, child.id()));
        assert!(!is_same(&handle, child.id() + 1));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!is_same(&handle, child.id()), "it is nobody's now");
        assert_eq!(Facts::of(child.id()), None);
    }

    #[test]
    fn the_cgroup_is_that_of_the_one_hierarchy() {
        assert_eq!(
            group("0::/system.slice/a.service").as_deref(),
            Some("/system.slice/a.service")
        );
        assert_eq!(group("1:name=systemd:/a:b").as_deref(), Some("/a:b"));
        assert_eq!(group("3:cpu,cpuacct:/evil"), None);
    }
}
