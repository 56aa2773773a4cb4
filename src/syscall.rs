//! What the process asks of the kernel for itself: the only file that may write `unsafe`.
//!
//! Nearly all of it is a safe wrapper of rustix. Four things have none. A signal's disposition (rustix leaves it to
//! the C library, so `libc::signal` is called here), a process group that may be 0, the handle of a socket's peer, and
//! `unshare`, which rustix marks unsafe for one flag that [`unshare`] takes away.

#![expect(
    unsafe_code,
    reason = "signal dispositions, process groups, a peer's handle and unshare have no safe wrapper; each block says why it is sound"
)]

use std::fmt;
use std::io;
use std::os::fd::AsRawFd;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// For whom [`harden`] works: the measures differ where a child would inherit them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// `keyward serve`: everything.
    Daemon,
    /// `keyward run`: nothing that the user's own command would inherit (`sudo` works, its core limit is its own).
    Run,
}

/// Whether one measure holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Held {
    /// It does.
    Yes,
    /// It does not, and why; an operator can often mend it.
    No(String),
    /// This role or this system does without.
    Unused,
}

/// What [`harden`] reached, for the log line at start-up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hardening {
    /// `/proc/PID/mem`, `/proc/PID/environ` and ptrace are closed to processes of the same uid (`PR_SET_DUMPABLE`).
    pub unreadable: Held,
    /// A crash leaves no core (`RLIMIT_CORE`).
    pub no_core: Held,
    /// No program that this one starts gains rights by setuid (`no_new_privs`).
    pub no_new_privileges: Held,
    /// Memory is never swapped out (`mlockall`).
    pub locked: Held,
    /// A write past the file size limit is an error and not the end (`SIGXFSZ`).
    pub survives_file_limit: Held,
}

impl Hardening {
    /// The measures by name, in a fixed order.
    pub fn measures(&self) -> [(&'static str, &Held); 5] {
        [
            ("unreadable", &self.unreadable),
            ("no-core", &self.no_core),
            ("no-new-privileges", &self.no_new_privileges),
            ("locked", &self.locked),
            ("survives-file-limit", &self.survives_file_limit),
        ]
    }
}

impl fmt::Display for Hardening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut gap = "";
        for (name, held) in self.measures() {
            match held {
                Held::Yes => write!(f, "{gap}{name}")?,
                Held::No(why) => write!(f, "{gap}not {name} ({why})")?,
                Held::Unused => continue,
            }
            gap = ", ";
        }
        Ok(())
    }
}

/// Closes this process to its neighbours. To be called first thing in `main`, before any thread and any secret.
pub fn harden(role: Role) -> Hardening {
    let daemon = |measure: fn() -> Held| match role {
        Role::Daemon => measure(),
        Role::Run => Held::Unused,
    };
    Hardening {
        unreadable: unreadable(),
        no_core: daemon(no_core),
        no_new_privileges: daemon(no_new_privileges),
        locked: locked(),
        survives_file_limit: survive_file_limit(),
    }
}

/// The limit of open files, before and after [`raise_nofile`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenFiles {
    /// The soft limit as it was; a child that uses `select` should get it back. `None`: without bound.
    pub before: Option<u64>,
    /// The soft limit as it is.
    pub now: Option<u64>,
}

/// Raises the soft limit of open files to the hard one: two sockets a connection soon exceed the usual 1024.
pub fn raise_nofile() -> OpenFiles {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = Rlimit {
        current: maximum,
        maximum,
    };
    let now = match setrlimit(Resource::Nofile, wanted) {
        Ok(()) => maximum,
        Err(_) => current,
    };
    OpenFiles {
        before: current,
        now,
    }
}

/// The sockets that systemd passed, by name (sd_listen_fds(3)). To be called once, before anything else opens files.
///
/// # Errors
/// Where the variables that announce them are malformed.
pub fn handed_over() -> io::Result<Vec<(String, std::net::TcpListener)>> {
    use std::os::fd::{FromRawFd as _, OwnedFd};
    let passed = sd_notify::listen_fds_with_names()?;
    Ok(passed
        .map(|(fd, name)| {
            // SAFETY: systemd opened it for this process (LISTEN_PID was checked), and nobody else owns it: this is
            // the only call, and it is made before any other file is opened.
            let owned = unsafe { OwnedFd::from_raw_fd(fd) };
            (name, std::net::TcpListener::from(owned))
        })
        .collect())
}

/// Sets the soft limit of open files; the hard limit bounds it.
pub fn set_nofile(soft: Option<u64>) -> io::Result<()> {
    let maximum = getrlimit(Resource::Nofile).maximum;
    let current = match (soft, maximum) {
        (Some(soft), Some(hard)) => Some(soft.min(hard)),
        (soft, hard) => soft.or(hard),
    };
    Ok(setrlimit(Resource::Nofile, Rlimit { current, maximum })?)
}

#[cfg(target_os = "linux")]
fn unreadable() -> Held {
    use rustix::process::{DumpableBehavior, set_dumpable_behavior};
    held(set_dumpable_behavior(DumpableBehavior::NotDumpable))
}

#[cfg(not(target_os = "linux"))]
fn unreadable() -> Held {
    Held::No("this system has no such measure".to_owned())
}

fn no_core() -> Held {
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    held(setrlimit(Resource::Core, none))
}

#[cfg(target_os = "linux")]
fn no_new_privileges() -> Held {
    held(rustix::thread::set_no_new_privs(true))
}

#[cfg(not(target_os = "linux"))]
fn no_new_privileges() -> Held {
    Held::Unused
}

/// Under a finite limit `MCL_FUTURE` would make a later `mmap` fail (each reserved stack counts whole, and a thread
/// that cannot be started ends the runtime), so memory is locked where no limit binds us, and nowhere else.
#[cfg(target_os = "linux")]
fn locked() -> Held {
    use rustix::mm::{MlockAllFlags, mlockall};
    use rustix::thread::{CapabilitySet, capabilities};

    // The capability of a user namespace other than the first lifts no limit.
    let first = std::fs::read_to_string("/proc/self/uid_map")
        .is_ok_and(|map| map.split_whitespace().eq(["0", "0", "4294967295"]));
    let exempt = first
        && capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::IPC_LOCK));
    if !exempt && let Some(limit) = getrlimit(Resource::Memlock).current {
        return Held::No(format!("RLIMIT_MEMLOCK is {limit} bytes"));
    }
    held(mlockall(
        MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT,
    ))
}

#[cfg(not(target_os = "linux"))]
fn locked() -> Held {
    Held::Unused
}

/// A handler and not `SIG_IGN`: the kernel resets a handler at `exec`, so a command started later has its usual fate.
fn survive_file_limit() -> Held {
    extern "C" fn nothing(_signal: libc::c_int) {}
    let handler: extern "C" fn(libc::c_int) = nothing;
    // SAFETY: the handler has the ABI that signal(2) calls, touches no memory and is safe at any point.
    let before = unsafe { libc::signal(libc::SIGXFSZ, handler as libc::sighandler_t) };
    if before == libc::SIG_ERR {
        return Held::No(io::Error::last_os_error().to_string());
    }
    Held::Yes
}

fn held(done: rustix::io::Result<()>) -> Held {
    match done {
        Ok(()) => Held::Yes,
        Err(error) => Held::No(error.to_string()),
    }
}

/// Whether this process's group is the one that the controlling terminal sends Ctrl-C to.
pub fn in_foreground() -> bool {
    let Ok(terminal) = std::fs::File::open("/dev/tty") else {
        return false;
    };
    // SAFETY: two calls that take and give integers. In a PID namespace whose processes inherited their group from
    // outside both are 0, which rustix's non-zero `Pid` could not hold.
    unsafe { libc::tcgetpgrp(terminal.as_raw_fd()) == libc::getpgrp() }
}

/// Makes this process's group the terminal's foreground again, after a shell that could not give it back.
///
/// A background group that calls `tcsetpgrp` is stopped by `SIGTTOU` (POSIX, `tcsetpgrp`) unless it ignores it.
pub fn reclaim_terminal() -> io::Result<()> {
    let terminal = std::fs::File::open("/dev/tty")?;
    // SAFETY: `SIG_IGN` and the disposition that signal(2) gave back are dispositions that it takes; the other two
    // calls take and give integers.
    unsafe {
        let before = libc::signal(libc::SIGTTOU, libc::SIG_IGN);
        let done = libc::tcsetpgrp(terminal.as_raw_fd(), libc::getpgrp());
        let error = io::Error::last_os_error();
        if before != libc::SIG_ERR {
            libc::signal(libc::SIGTTOU, before);
        }
        if done == 0 { Ok(()) } else { Err(error) }
    }
}

/// The kinds of namespace that [`unshare`] can leave the old ones for.
#[cfg(target_os = "linux")]
pub use rustix::thread::UnshareFlags as Namespaces;

/// Leaves the given namespaces of the caller for new ones.
#[cfg(target_os = "linux")]
pub fn unshare(namespaces: Namespaces) -> io::Result<()> {
    let namespaces = namespaces.difference(Namespaces::FILES);
    // SAFETY: unshare(2) is unsound only where it splits the table of file descriptors among threads
    // (CLONE_FILES), and that flag has been taken away.
    Ok(unsafe { rustix::thread::unshare_unsafe(namespaces) }?)
}

/// The process that connected this unix socket, as a handle that stays its own when its number is given away
/// (`SO_PEERPIDFD`, Linux 6.5).
///
/// # Errors
/// Where the kernel does not know it, or the process is gone.
#[cfg(target_os = "linux")]
pub fn peer_process(socket: &impl AsRawFd) -> io::Result<std::os::fd::OwnedFd> {
    use std::os::fd::FromRawFd as _;
    /// `asm-generic/socket.h`; the C library's headers do not have it yet.
    const SO_PEERPIDFD: libc::c_int = 77;
    let mut handle: libc::c_int = -1;
    let mut length = libc::socklen_t::try_from(size_of::<libc::c_int>())
        .map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: the kernel writes at most `length` bytes to `handle`, which has that many, and the length it wrote.
    let done = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_PEERPIDFD,
            (&raw mut handle).cast(),
            &raw mut length,
        )
    };
    if done != 0 || handle < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just opened it for this call, and nobody else owns it.
    Ok(unsafe { std::os::fd::OwnedFd::from_raw_fd(handle) })
}

/// No other system has it.
///
/// # Errors
/// Always.
#[cfg(not(target_os = "linux"))]
pub fn peer_process(_: &impl AsRawFd) -> io::Result<std::os::fd::OwnedFd> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_names_what_does_not_hold_and_why() {
        let report = Hardening {
            unreadable: Held::Yes,
            no_core: Held::Yes,
            no_new_privileges: Held::Unused,
            locked: Held::No("RLIMIT_MEMLOCK is 8388608 bytes".to_owned()),
            survives_file_limit: Held::Yes,
        };
        assert_eq!(
            report.to_string(),
            "unreadable, no-core, not locked (RLIMIT_MEMLOCK is 8388608 bytes), survives-file-limit"
        );
    }

    #[test]
    fn the_open_file_limit_rises_to_the_hard_one_and_comes_back() {
        let before = getrlimit(Resource::Nofile);
        let files = raise_nofile();
        assert_eq!(files.before, before.current);
        assert_eq!(files.now, before.maximum);
        assert_eq!(getrlimit(Resource::Nofile).current, before.maximum);
        set_nofile(files.before).unwrap();
        assert_eq!(getrlimit(Resource::Nofile).current, before.current);
    }
}
