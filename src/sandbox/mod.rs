//! Starts the command of `keyward run` where it cannot read what keyward keeps from it.
//!
//! On Linux the command gets its own user, mount and PID namespace with a fresh `/proc`, so that no other process's
//! environment or memory can be named, let alone read. [`Mask`]s cover login files; [`Plan::isolate`] adds a network
//! namespace whose only way out is a listener that keyward itself holds. What the kernel does not give is told in
//! [`Child::weaker`], a sentence each, and the command runs all the same; only isolation, which was asked for, is
//! never silently left out.
//!
//! A multi-threaded process cannot leave its user namespace, so [`spawn`] runs this same program twice more: a *stage*
//! that unshares and is gone, and an *init* that is PID 1 in there. [`helper_main`] is their `main`. Neither has a
//! secret in its arguments, environment or memory: the plan comes to them over a socket.

mod forward;

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "linux")]
pub use linux::{Child, helper_main, spawn};

#[cfg(not(target_os = "linux"))]
mod elsewhere;
#[cfg(not(target_os = "linux"))]
pub use elsewhere::{Child, helper_main, spawn};

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::PathBuf;

pub use forward::forward;

/// What to start, and what to hide from it. The working directory and the standard streams are the caller's own.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// The program, found by the `PATH` of [`Plan::env`], and its arguments.
    pub argv: Vec<OsString>,
    /// The whole environment of the command.
    pub env: Vec<(OsString, OsString)>,
    /// What to cover; paths that do not exist are passed over.
    pub masks: Vec<Mask>,
    /// Give it a network of its own, where `127.0.0.1` on this port leads to [`Child::take_listener`] and nothing
    /// else leads anywhere. Any port is free there.
    pub isolate: Option<u16>,
    /// The soft limit of open files that the command gets, where ours was raised.
    pub nofile: Option<u64>,
}

/// A file or directory that the command finds empty, or with other contents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mask {
    /// A symlink is followed: what it leads to is covered.
    pub path: PathBuf,
    /// What a file holds instead; `None` is an empty file. A directory is covered by an empty one, writable, gone
    /// with the command.
    pub replacement: Option<Vec<u8>>,
}

/// A protection that could not be had, in one sentence for the user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Weaker(pub String);

impl fmt::Display for Weaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How the command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// With this code.
    Code(u8),
    /// By this signal.
    Signal(u8),
}

impl Exit {
    /// The exit code that a shell would give: the command's own, or 128 and the signal's number.
    pub fn code(self) -> u8 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => signal.saturating_add(128),
        }
    }
}

/// Why the command did not start, or was lost.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SandboxError {
    /// The command itself cannot be executed; the exit code is 127 or 126, as a shell's.
    #[error("cannot run the command")]
    Command(#[source] io::Error),
    /// Isolation was asked for and this system does not give it. Nothing was started.
    #[error("this system gives no network namespace ({0}); without --isolate the command can run")]
    NoIsolation(String),
    /// keyward's own helper failed.
    #[error("the sandbox's helper failed")]
    Helper(#[source] io::Error),
}

impl SandboxError {
    /// The exit code for it: a shell's own for a command that is not there or not executable, else "unavailable".
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Command(error) if error.kind() == io::ErrorKind::NotFound => 127,
            Self::Command(_) => 126,
            Self::NoIsolation(_) => 69,
            Self::Helper(_) => 70,
        }
    }
}
