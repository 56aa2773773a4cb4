//! The processes on this machine that a relay serves: which it may, and what it tells of them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Beyond, FileId, Found, Judge, Place, is_within, socket};
use crate::identity::Link;
use crate::identity::settings::PeerSettings;

/// What is known of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its effective user.
    pub uid: u32,
    /// Its effective group.
    pub gid: Option<u32>,
    /// Its executable: the file that runs is the one that stands there for us.
    pub executable: Option<PathBuf>,
    /// The SHA-256 of the executable's content.
    pub sha256: Option<[u8; 32]>,
    /// Its control groups.
    pub cgroups: Vec<String>,
}

/// What is learnt of a process that is served, beside its user. What is not asked for stays on this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a fact that is told or not, whatever the others are"
)]
pub struct Learnt {
    /// Its effective group.
    pub gid: bool,
    /// Its executable.
    pub executable: bool,
    /// The SHA-256 of the executable's content.
    pub sha256: bool,
    /// Its control groups.
    pub cgroups: bool,
}

/// Looks at who is at the other end of local connections.
#[derive(Debug)]
pub struct Callers {
    judge: Arc<Judge>,
    learnt: Learnt,
}

impl Callers {
    /// Knows those that match every list that is not empty, and learns this of them.
    pub fn new(settings: PeerSettings, learnt: Learnt) -> Self {
        let beyond = if learnt == Learnt::default() {
            Beyond::Nothing
        } else {
            Beyond::Told
        };
        Self {
            judge: Arc::new(Judge::new(settings, beyond)),
            learnt,
        }
    }

    /// Whether nothing of a process counts but its user, which stays the same for as long as a connection lives.
    pub fn is_by_user(&self) -> bool {
        self.judge.is_by_user() && self.learnt == Learnt::default()
    }

    /// The process at the other end of this connection; `None` where it is none of those, or not to be seen.
    pub async fn of(&self, link: &Link) -> Option<Process> {
        let place = Place::of(link)?;
        let (judge, learnt) = (Arc::clone(&self.judge), self.learnt);
        let look = tokio::task::spawn_blocking(move || judge.know(&place, learnt));
        look.await.ok()?
    }
}

impl Judge {
    /// Whether nothing but the user counts.
    fn is_by_user(&self) -> bool {
        let PeerSettings {
            uids: _,
            gids,
            executables,
            sha256,
            cgroups,
        } = &self.settings;
        gids.is_empty() && executables.is_empty() && sha256.is_empty() && cgroups.is_empty()
    }

    fn know(&self, place: &Place, learnt: Learnt) -> Option<Process> {
        let uids = &self.settings.uids;
        let by_user = self.is_by_user() && learnt == Learnt::default();
        if let (Place::Tcp(ours, theirs), true) = (place, by_user) {
            // The socket itself says whose it is. A process in another PID namespace, as a neighbouring container is,
            // has no more to show.
            let row = socket::row(*ours, *theirs)?;
            let known = uids.is_empty() || uids.contains(&row.uid);
            return known.then_some(Process {
                uid: row.uid,
                gid: None,
                executable: None,
                sha256: None,
                cgroups: Vec::new(),
            });
        }
        let found = self.look(place)?;
        Some(self.describe(found, learnt))
    }

    fn describe(&self, found: Found, learnt: Learnt) -> Process {
        let Found {
            uid,
            gid,
            pid,
            facts,
        } = found;
        let file = facts.as_ref().and_then(|facts| facts.file);
        let sha256 = file
            .filter(|_| learnt.sha256)
            .and_then(|file| self.sums.of(pid, file).ok());
        let (executable, cgroups) = match facts {
            Some(facts) => (facts.executable, facts.cgroups),
            None => (None, Vec::new()),
        };
        let stands_there = |path: &PathBuf| {
            let ours = std::fs::metadata(path).ok().map(|file| FileId::of(&file));
            learnt.executable && ours.is_some() && ours == file
        };
        Process {
            uid,
            gid: learnt.gid.then_some(gid),
            executable: executable.filter(stands_there),
            sha256,
            cgroups: if learnt.cgroups { cgroups } else { Vec::new() },
        }
    }
}

/// Whether what somebody else tells of a process is what every list that is not empty asks for.
pub(in crate::identity) fn fits(settings: &PeerSettings, process: &Process) -> bool {
    let PeerSettings {
        uids,
        gids,
        executables,
        sha256,
        cgroups,
    } = settings;
    let executable = process.executable.as_deref();
    let is_it = |path: &PathBuf| executable == Some(Path::new(path));
    let in_group = |group: &String| process.cgroups.iter().any(|own| is_within(own, group));
    (uids.is_empty() || uids.contains(&process.uid))
        && (gids.is_empty() || process.gid.is_some_and(|gid| gids.contains(&gid)))
        && (executables.is_empty() || executables.iter().any(is_it))
        && (sha256.is_empty() || process.sha256.is_some_and(|sum| sha256.contains(&sum)))
        && (cgroups.is_empty() || cgroups.iter().any(in_group))
}
