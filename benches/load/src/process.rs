//! What a process and its children cost, from /proc: a proxy that forks workers is one proxy.

use std::{fs, time::Duration};

/// `pid` and all its living descendants.
fn family(pid: u32) -> Vec<u32> {
    let parents: Vec<(u32, u32)> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(|pid| Some((pid, stat(pid)?.get(1)?.parse().ok()?)))
        .collect();
    let mut family = vec![pid];
    let mut next = 0;
    while let Some(&parent) = family.get(next) {
        family.extend(
            parents
                .iter()
                .filter(|(_, p)| *p == parent)
                .map(|(child, _)| child),
        );
        next += 1;
    }
    family
}

/// The fields of /proc/PID/stat after the command's name: state, ppid, …
fn stat(pid: u32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(") ")?;
    Some(rest.split(' ').map(str::to_owned).collect())
}

/// User and system time of the family, ended and waited-for children included (utime, stime, cutime, cstime).
pub fn cpu(pid: u32) -> Duration {
    let ticks: u64 = family(pid)
        .into_iter()
        .filter_map(stat)
        .flat_map(|fields| fields.into_iter().skip(11).take(4))
        .filter_map(|field| field.parse::<u64>().ok())
        .sum();
    Duration::from_millis(ticks * 10) // USER_HZ is 100 on every Linux that /proc shows to user space
}

/// Proportional set size of the family in KiB: pages that forked workers share count once.
pub fn memory_kib(pid: u32) -> u64 {
    let pss = |pid: u32| -> Option<u64> {
        let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
        text.lines().find_map(|line| {
            line.strip_prefix("Pss:")?
                .trim()
                .strip_suffix(" kB")?
                .trim()
                .parse()
                .ok()
        })
    };
    family(pid).into_iter().filter_map(pss).sum()
}
