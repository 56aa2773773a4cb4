//! The first helper: leaves the old namespaces, has its ids mapped, starts init in the new ones, and is gone.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use super::wire::{Event, Means, Step};
use super::{HELPER, INIT, errno};
use crate::syscall;

/// Runs in the helper.
pub(super) fn main(means: &OsStr) -> io::Result<()> {
    let mut socket = host()?;
    let means = means
        .to_str()
        .and_then(Means::from_word)
        .ok_or(io::ErrorKind::InvalidInput)?;
    if let Err(error) = syscall::unshare(means.flags()) {
        return Event::Failed(Step::Unshare, errno(&error)).send(&socket, None);
    }
    Event::Unshared.send(&socket, None)?;
    socket.read_exact(&mut [0])?;
    keep_rights()?;
    // Processes enter a new PID namespace by being born into it: the next child is its PID 1.
    let init = Command::new("/proc/self/exe")
        .arg0("keyward")
        .args([HELPER, INIT])
        .stdin(Stdio::from(OwnedFd::from(socket.try_clone()?)))
        .spawn();
    match init {
        Ok(_) => Ok(()),
        Err(error) => Event::Failed(Step::Start, errno(&error)).send(&socket, None),
    }
}

/// Anyone but root loses the new namespace's capabilities at `exec`, unless they are ambient (capabilities(7)).
fn keep_rights() -> io::Result<()> {
    use rustix::thread::{
        CapabilitySet, capabilities, configure_capability_in_ambient_set, set_capabilities,
    };
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let mut sets = capabilities(None)?;
    sets.inheritable = sets.permitted & CapabilitySet::all();
    set_capabilities(None, sets)?;
    for capability in sets.inheritable.iter() {
        configure_capability_in_ambient_set(capability, true)?;
    }
    Ok(())
}

/// The socket to the host, which stands as a helper's standard input.
pub(super) fn host() -> io::Result<UnixStream> {
    Ok(UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?))
}

/// Runs in the host: gives every id in the helper's new user namespace its own number, so that files keep their
/// owners. Root maps all the ids that it has itself; anyone else may map just their own (user_namespaces(7)).
pub(super) fn map_ids(helper: u32) -> io::Result<()> {
    let of = |file: &str| format!("/proc/{helper}/{file}");
    if rustix::process::geteuid().is_root() {
        let whole = |file: &str| -> io::Result<()> {
            let own = fs::read_to_string(format!("/proc/self/{file}"))?;
            fs::write(of(file), identity(&own))
        };
        if whole("uid_map").is_ok() {
            return whole("gid_map").or_else(|_| map_own_group(helper));
        }
    }
    let user = rustix::process::geteuid().as_raw();
    fs::write(of("uid_map"), format!("{user} {user} 1"))?;
    map_own_group(helper)
}

/// A caller without `CAP_SETGID` must first forbid `setgroups`, by which a group could be shed that denies access.
fn map_own_group(helper: u32) -> io::Result<()> {
    let group = rustix::process::getegid().as_raw();
    fs::write(format!("/proc/{helper}/setgroups"), "deny")?;
    fs::write(
        format!("/proc/{helper}/gid_map"),
        format!("{group} {group} 1"),
    )
}

/// The map under which every id of `own` (lines of inside, outside, count) is itself one level further down.
fn identity(own: &str) -> String {
    let mut map = String::new();
    for line in own.lines() {
        let mut words = line.split_whitespace();
        if let (Some(first), Some(_), Some(count)) = (words.next(), words.next(), words.next()) {
            map.extend([first, " ", first, " ", count, "\n"]);
        }
    }
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_map_to_themselves_whatever_they_are_outside() {
        let own = "         0     100000      65536\n     65536          7          1\n";
        assert_eq!(identity(own), "0 0 65536\n65536 65536 1\n");
    }
}
