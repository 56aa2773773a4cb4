//! The host's side on Linux: tries the means from the strongest down, and speaks with the helper that holds the
//! command.

mod child;
mod init;
mod mounts;
mod network;
mod readable;
mod stage;
mod wire;

use std::ffi::OsStr;
use std::io::{self, Write as _};
use std::net::TcpListener;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

pub use child::Child;
use wire::{Event, Means, Order, Step};

use super::{Mask, Plan, SandboxError, Weaker};

/// Starts the command. It blocks for the milliseconds that this takes.
pub fn spawn(plan: &Plan) -> Result<Child, SandboxError> {
    // Before the command runs: a signal that comes as soon as it does is the command's already.
    let signals = child::Signals::early().map_err(SandboxError::Helper)?;
    let mut refusal = None;
    for means in ladder(plan) {
        match attempt(plan, means) {
            Ok(started) => {
                let mut child = started.into_child(plan, means, refusal.as_deref());
                child.signals = signals;
                return Ok(child);
            }
            Err(Failure::Refused(step, errno)) => {
                let error = io::Error::from_raw_os_error(errno);
                refusal.get_or_insert_with(|| format!("{step}: {error}"));
            }
            Err(Failure::Fatal(error)) => return Err(error),
        }
    }
    let why = refusal.unwrap_or_default();
    Err(match plan.isolate {
        Some(_) => SandboxError::NoIsolation(why),
        None => SandboxError::Helper(io::Error::other(why)),
    })
}

/// The `main` of a helper: to be called first in `main`, before anything is read or started. `None`: this process is
/// no helper.
pub fn helper_main() -> Option<ExitCode> {
    let mut words = std::env::args_os().skip(1);
    if words.next()? != OsStr::new(HELPER) {
        return None;
    }
    let done = match (words.next(), words.next()) {
        (Some(role), None) if role == INIT => init::main(),
        (Some(role), Some(means)) if role == STAGE => stage::main(&means),
        _ => Err(io::ErrorKind::InvalidInput.into()),
    };
    Some(match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::from(BUG),
    })
}

const HELPER: &str = "__sandbox";
const INIT: &str = "init";
const STAGE: &str = "stage";
/// `EX_SOFTWARE`: someone called the helper by hand, or its host is gone.
const BUG: u8 = 70;

/// What to try, strongest first. Root needs no user namespace to make the others, but is better off in one: there its
/// capabilities count for nothing outside.
fn ladder(plan: &Plan) -> Vec<Means> {
    let root = rustix::process::geteuid().is_root();
    let net = plan.isolate.is_some();
    let rung = |user, pid| Means {
        user,
        mount: true,
        pid,
        net,
    };
    let mut means = vec![rung(true, true)];
    if root {
        means.push(rung(false, true));
    }
    means.push(rung(true, false));
    if root {
        means.push(rung(false, false));
    }
    if !net {
        means.push(Means::NONE);
    }
    means
}

enum Failure {
    /// These means are not to be had; weaker ones may be.
    Refused(Step, i32),
    /// No weaker means would help.
    Fatal(SandboxError),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Fatal(SandboxError::Helper(error))
    }
}

struct Started {
    socket: UnixStream,
    helper: std::process::Child,
    listener: Option<TcpListener>,
    masks: Vec<Mask>,
    bare: Vec<u32>,
    /// As it was before the command, which may take the terminal at once.
    foreground: bool,
}

fn attempt(plan: &Plan, means: Means) -> Result<Started, Failure> {
    let (mut socket, theirs) = UnixStream::pair()?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_write_timeout(Some(PATIENCE))?;
    let foreground = crate::syscall::in_foreground();
    let mut helper = start_helper(means, theirs)?;
    let begun = begin(plan, means, &mut socket, helper.id());
    let (masks, bare, listener) = match begun {
        Ok(begun) => begun,
        Err(failure) => {
            drop(socket);
            helper.wait()?;
            return Err(failure);
        }
    };
    Ok(Started {
        socket,
        helper,
        listener,
        masks,
        bare,
        foreground,
    })
}

/// A helper has milliseconds of work; one that is silent so long is broken.
const PATIENCE: Duration = Duration::from_secs(10);

/// Runs this program again. Its environment is empty: not even a `LD_PRELOAD` of the caller's reaches it.
fn start_helper(means: Means, socket: UnixStream) -> io::Result<std::process::Child> {
    let mut command = Command::new("/proc/self/exe");
    command.arg0("keyward").arg(HELPER).env_clear();
    if means == Means::NONE {
        command.arg(INIT);
    } else {
        command.arg(STAGE).arg(means.to_word());
    }
    command.stdin(Stdio::from(OwnedFd::from(socket))).spawn()
}

type Begun = (Vec<Mask>, Vec<u32>, Option<TcpListener>);

/// Leads the helper to the point where the command runs.
fn begin(
    plan: &Plan,
    means: Means,
    socket: &mut UnixStream,
    helper: u32,
) -> Result<Begun, Failure> {
    if means != Means::NONE {
        match Event::receive(socket)?.0 {
            Event::Unshared => {}
            Event::Failed(step, errno) => return Err(Failure::Refused(step, errno)),
            _ => return Err(out_of_turn().into()),
        }
        if means.user {
            stage::map_ids(helper)
                .map_err(|error| Failure::Refused(Step::Unshare, errno(&error)))?;
        }
        socket.write_all(b"g")?;
    }
    let masks = match means {
        Means { mount: false, .. } => Vec::new(),
        Means { net: false, .. } => plan.masks.clone(),
        _ => [plan.masks.as_slice(), &network::sockets()].concat(),
    };
    Order::new(plan, &masks, means).send(socket, io::stdin().as_fd())?;
    let mut bare = Vec::new();
    loop {
        match Event::receive(socket)? {
            (Event::Started, listener) => {
                return Ok((masks, bare, listener.map(TcpListener::from)));
            }
            (Event::Bare(index), _) => bare.push(index),
            (Event::Failed(step, errno), _) => return Err(Failure::Refused(step, errno)),
            (Event::NotStarted(errno), _) => {
                let error = io::Error::from_raw_os_error(errno);
                return Err(Failure::Fatal(SandboxError::Command(error)));
            }
            _ => return Err(out_of_turn().into()),
        }
    }
}

fn out_of_turn() -> io::Error {
    io::Error::other("the helper spoke out of turn")
}

fn errno(error: &io::Error) -> i32 {
    error
        .raw_os_error()
        .unwrap_or(rustix::io::Errno::IO.raw_os_error())
}

impl Started {
    fn into_child(mut self, plan: &Plan, means: Means, refusal: Option<&str>) -> Child {
        let mut weaker = shortfall(means, refusal.unwrap_or("no reason given"));
        let exposed: Vec<String> = if means.mount {
            (self.bare.iter())
                .filter_map(|index| self.masks.get(usize::try_from(*index).ok()?))
                .map(|mask| mask.path.display().to_string())
                .collect()
        } else {
            (plan.masks.iter())
                .filter(|mask| mask.path.exists())
                .map(|mask| mask.path.display().to_string())
                .collect()
        };
        if !exposed.is_empty() {
            let exposed = exposed.join(", ");
            weaker.push(Weaker(format!(
                "the command can still open what could not be covered: {exposed}"
            )));
        }
        if means != Means::NONE
            && let Err(error) = self.helper.wait()
        {
            // A stage is gone once init stands; one that cannot be reaped is the kernel's to keep.
            tracing::debug!(%error, "a helper was not reaped");
        }
        Child::new(
            self.socket,
            self.helper,
            self.listener,
            weaker,
            self.foreground,
        )
    }
}

/// What the command can do under these means that it could not under the strongest.
fn shortfall(means: Means, why: &str) -> Vec<Weaker> {
    let mut weaker = Vec::new();
    if means == Means::NONE {
        weaker.push(Weaker(format!(
            "this system gives no namespaces ({why}); {}",
            readable::sentence()
        )));
    } else if !means.pid {
        let sight = if means.user {
            "the command sees the names and arguments of other processes, but not their environments".to_owned()
        } else {
            readable::sentence()
        };
        weaker.push(Weaker(format!(
            "this system gives no fresh /proc ({why}); {sight}"
        )));
    }
    if means.mount && !means.user {
        weaker.push(Weaker(format!(
            "this system gives no user namespace ({why}); the command stays root on this machine, though without the \
             capabilities that lift a mask"
        )));
    }
    weaker
}
