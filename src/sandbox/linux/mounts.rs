//! What the command's mount namespace looks like: private, with masks, and a `/proc` of its own.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_bind_recursive,
    mount_change, unmount,
};

use super::super::Mask;
use super::wire::Step;

/// Sets everything up; gives the indices of the masks that could not be set.
pub(super) fn prepare(masks: &[Mask], fresh: bool) -> Result<Vec<u32>, (Step, io::Error)> {
    let mounts = |error: io::Error| (Step::Mounts, error);
    let here = std::env::current_dir().ok();
    let other_procs = other_procs();
    mount_change(
        "/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )
    .map_err(|error| mounts(error.into()))?;
    let bare = cover(masks).map_err(mounts)?;
    if fresh {
        fresh_proc(&other_procs).map_err(|error| (Step::Proc, error))?;
    }
    // The working directory still is the one under a mask that covers it; the path leads to what is above.
    if let Some(here) = here {
        std::env::set_current_dir(here)
            .or_else(|_| std::env::set_current_dir("/"))
            .map_err(mounts)?;
    }
    Ok(bare)
}

fn fresh_proc(others: &[PathBuf]) -> io::Result<()> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("proc", PROC, "proc", flags, None)?;
    // A second proc, as of a chroot, would show what the first no longer does.
    for other in others {
        mount_bind(PROC, other)?;
    }
    Ok(())
}

const PROC: &str = "/proc";

/// Where else a proc stands, from `/proc/self/mountinfo` (proc_pid_mountinfo(5)): the fifth field is the place, the
/// first after the hyphen the kind.
fn other_procs() -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    procs(&table)
        .map(PathBuf::from)
        .filter(|place| place != Path::new(PROC))
        .collect()
}

fn procs(table: &str) -> impl Iterator<Item = String> {
    table.lines().filter_map(|line| {
        let (fields, kind) = line.split_once(" - ")?;
        let place = fields.split(' ').nth(4)?;
        (kind.split(' ').next()? == "proc").then(|| place.replace("\\040", " "))
    })
}

/// Covers directories by empty ones and files by files of a tmpfs, which is put together over `/proc` (a directory
/// that is always there and not yet needed) and taken away again; the files stay where they are bound.
fn cover(masks: &[Mask]) -> io::Result<Vec<u32>> {
    if masks.is_empty() {
        return Ok(Vec::new());
    }
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("tmpfs", PROC, "tmpfs", flags, c"mode=0700")?;
    let mut bare = Vec::new();
    for (index, mask) in (0..).zip(masks) {
        match cover_one(mask, index) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(_) => bare.push(index),
        }
    }
    unmount(PROC, UnmountFlags::DETACH)?;
    pin(masks);
    Ok(bare)
}

/// Keeps the folders above the masks where they are: a mount point cannot be renamed (EBUSY), and a folder that was moved
/// away would take its mask along, and leave the next command's mask nothing to cover. The masks are set by then and are
/// bound along, so that a working directory of the time before has them as well.
fn pin(masks: &[Mask]) {
    let mut pinned = BTreeSet::new();
    for mask in masks {
        let Ok(place) = fs::canonicalize(&mask.path) else {
            continue;
        };
        let above = place.ancestors().skip(1).filter(|folder| {
            let parent = folder.parent();
            parent.is_some_and(|parent| access(parent, Access::WRITE_OK).is_ok())
        });
        pinned.extend(above.map(Path::to_owned));
    }
    // The outermost first: paths are in order. What cannot be bound keeps its mask for this command all the same.
    for folder in pinned {
        mount_bind_recursive(&folder, &folder).ok();
    }
}

fn cover_one(mask: &Mask, index: u32) -> io::Result<()> {
    if fs::metadata(&mask.path)?.is_dir() {
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        return Ok(mount("tmpfs", &mask.path, "tmpfs", flags, c"mode=0700")?);
    }
    let cover = Path::new(PROC).join(index.to_string());
    fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&cover)?
        .write_all(mask.replacement.as_deref().unwrap_or_default())?;
    Ok(mount_bind(&cover, &mask.path)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_proc_is_found_in_the_mount_table() {
        let table = "22 1 0:20 / /proc rw,nosuid - proc proc rw\n\
                     23 1 0:21 / /sys rw shared:2 - sysfs sysfs rw\n\
                     99 1 0:20 / /srv/my\\040root/proc rw master:1 - proc none rw\n";
        let found: Vec<String> = procs(table).collect();
        assert_eq!(found, ["/proc", "/srv/my root/proc"]);
    }
}
