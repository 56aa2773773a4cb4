//! Looks through `/proc`: whose environment this user's processes can read, and who is whose child.

use std::fs;
use std::io::Read as _;

use rustix::process::Pid;

/// Whose environments the command can read, as the second half of a sentence.
pub(super) fn sentence() -> String {
    let readable = environments();
    let shown: Vec<String> = (readable.iter())
        .take(SHOWN)
        .map(|(pid, name)| format!("{name} ({})", pid.as_raw_pid()))
        .collect();
    match (readable.len(), readable.len().saturating_sub(SHOWN)) {
        (0, _) => "no other process's environment can be read all the same".to_owned(),
        (1, _) => format!("the command can read the environment of {}", shown.join("")),
        (all, 0) => format!(
            "the command can read the environments of {all} processes: {}",
            shown.join(", ")
        ),
        (all, more) => format!(
            "the command can read the environments of {all} processes: {} and {more} more",
            shown.join(", ")
        ),
    }
}

/// Names past this many help nobody.
const SHOWN: usize = 8;

/// The processes whose environment opens and is not empty, this one aside. What opens here opens for the command, which
/// has the same user.
fn environments() -> Vec<(Pid, String)> {
    let own = rustix::process::getpid();
    let mut found: Vec<(Pid, String)> = pids()
        .filter(|pid| *pid != own && has_environment(*pid))
        .map(|pid| (pid, name(pid)))
        .collect();
    found.sort_by_key(|(pid, _)| pid.as_raw_pid());
    found
}

fn has_environment(pid: Pid) -> bool {
    fs::File::open(format!("/proc/{}/environ", pid.as_raw_pid()))
        .and_then(|mut environment| environment.read(&mut [0]))
        .is_ok_and(|read| read > 0)
}

/// The name without anything that a terminal would act upon: a process chooses its own.
fn name(pid: Pid) -> String {
    fs::read_to_string(format!("/proc/{}/comm", pid.as_raw_pid()))
        .unwrap_or_default()
        .chars()
        .filter(char::is_ascii_graphic)
        .collect()
}

/// The children of `parent` as `/proc` shows them.
pub(super) fn children_of(parent: Pid) -> Vec<Pid> {
    pids()
        .filter(|pid| {
            fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_pid()))
                .is_ok_and(|stat| parent_in(&stat) == Some(parent.as_raw_pid()))
        })
        .collect()
}

/// The fourth field of `/proc/PID/stat`; the second is a name in parentheses that may hold anything.
fn parent_in(stat: &str) -> Option<i32> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(1)?.parse().ok()
}

fn pids() -> impl Iterator<Item = Pid> {
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_hide_the_parent() {
        assert_eq!(parent_in("42 (a) b) 7 (c) S 41 42 42 0 -1"), Some(41));
        assert_eq!(parent_in("42"), None);
    }

    #[test]
    fn the_own_children_are_found() {
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let pid = Pid::from_child(&child);
        let found = children_of(rustix::process::getpid());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(found.contains(&pid));
    }
}
