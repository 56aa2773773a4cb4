//! `[trust.NAME.peer]`: the process at the other end of a unix socket or a loopback connection, as the kernel tells it.
//!
//! Of a unix socket the kernel keeps who connected (`SO_PEERCRED`), and since Linux 6.5 as a handle that no other
//! process can take over (`SO_PEERPIDFD`). Of a loopback connection it is looked up, twice. A process that does not
//! match is no bad evidence: another table may know it.

mod caller;
#[cfg(target_os = "linux")]
mod diag;
mod process;
mod socket;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use tracing::debug;

use super::mapping::Mapping;
use super::settings::PeerSettings;
use super::{AttestError, Attested, Bound, Evidence, Link, TokenType, TrustProvider, UnixPeer};
pub(super) use caller::fits;
pub use caller::{Callers, Learnt, Process};
use process::{Facts, FileId, Sums};

/// The provider.
#[derive(Debug)]
pub(super) struct PeerProvider {
    name: Arc<str>,
    agent: Mapping,
    judge: Arc<Judge>,
}

#[derive(Debug)]
struct Judge {
    settings: PeerSettings,
    sums: Sums,
    beyond: Beyond,
}

/// What the process runs, beyond these settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Beyond {
    /// Is nobody's concern.
    Nothing,
    /// Is told on, or compared: where it is not known for certain it is left out.
    Told,
    /// Says which agent it is.
    Decides,
}

/// By what the holders of the other end are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(
    not(target_os = "linux"),
    expect(dead_code, reason = "other kernels say it of none")
)]
enum Holders {
    /// Its inode.
    Of(u64),
    /// The kernel says it of other sockets, and not of this one: it knows those of our own network namespace, to which the
    /// socket of a client elsewhere belongs as little as the end of it that was made for us.
    Hidden,
    /// This kernel says it of none.
    Unasked,
}

impl Holders {
    #[cfg(target_os = "linux")]
    fn of(unix: &UnixPeer) -> Self {
        match unix.inode.and_then(diag::other_end) {
            Some(end) => Self::Of(end),
            None if diag::answers() => Self::Hidden,
            None => Self::Unasked,
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn of(_: &UnixPeer) -> Self {
        Self::Unasked
    }
}

/// A process that matched.
#[derive(Debug)]
struct Found {
    uid: u32,
    gid: u32,
    pid: u32,
    facts: Option<Facts>,
}

impl Found {
    fn executable(&self) -> Option<&Path> {
        self.facts.as_ref()?.executable.as_deref()
    }
}

/// Where the peer is to be looked for.
#[derive(Debug)]
enum Place {
    Unix(Arc<UnixPeer>),
    Tcp(std::net::SocketAddr, std::net::SocketAddr),
}

impl PeerProvider {
    pub(super) fn new((name, agent): (Arc<str>, Mapping), settings: &PeerSettings) -> Self {
        let beyond = match agent {
            Mapping::Id(_) => Beyond::Nothing,
            _ => Beyond::Decides,
        };
        Self {
            name,
            agent,
            judge: Arc::new(Judge::new(settings.clone(), beyond)),
        }
    }
}

#[async_trait]
impl TrustProvider for PeerProvider {
    async fn attest(&self, evidence: Evidence<'_>) -> Result<Option<Attested>, AttestError> {
        let Some(place) = Place::of(evidence.link) else {
            return Ok(None);
        };
        if evidence.presented_as != TokenType::Any {
            return Ok(None);
        }
        let judge = Arc::clone(&self.judge);
        // Files are read, an executable perhaps whole.
        let look = tokio::task::spawn_blocking(move || judge.look(&place));
        let Some(found) = look.await.map_err(|_| AttestError::Unavailable)? else {
            return Ok(None);
        };
        let subject = found.executable().and_then(Path::to_str);
        let agent = self.agent.agent(subject.unwrap_or(""), |_| None);
        let bound = Bound::Process {
            uid: found.uid,
            executable: found.executable().map(Arc::from),
        };
        Ok(Some(Attested {
            bound: Some(bound),
            ..Attested::new(agent.ok_or(AttestError::Bad)?, Arc::clone(&self.name))
        }))
    }
}

/// The executable of the process at the other end, if it is this user's and can be told; within, `None` where its file
/// cannot be seen, or nobody can say that it is what speaks.
pub(super) async fn process_of(link: &Link, uid: u32) -> Option<Option<PathBuf>> {
    let place = Place::of(link)?;
    let settings = PeerSettings {
        uids: vec![uid],
        ..PeerSettings::default()
    };
    let judge = Judge::new(settings, Beyond::Told);
    let look = tokio::task::spawn_blocking(move || judge.look(&place));
    Some(look.await.ok()??.executable().map(Path::to_owned))
}

impl Place {
    fn of(link: &Link) -> Option<Self> {
        if let Some(unix) = &link.unix {
            return Some(Self::Unix(Arc::clone(unix)));
        }
        let (ours, theirs) = link.tcp?;
        let local = theirs.ip().to_canonical().is_loopback();
        local.then_some(Self::Tcp(ours, theirs))
    }
}

impl Judge {
    fn new(settings: PeerSettings, beyond: Beyond) -> Self {
        // Found out before anybody asks.
        #[cfg(target_os = "linux")]
        diag::answers();
        Self {
            settings,
            sums: Sums::default(),
            beyond,
        }
    }

    fn look(&self, place: &Place) -> Option<Found> {
        match place {
            Place::Unix(unix) => self.look_at_unix(unix),
            Place::Tcp(ours, theirs) => {
                let row = socket::row(*ours, *theirs)?;
                let holders = socket::holders(row.inode);
                let mut found = None;
                for pid in &holders {
                    let facts = Facts::of(*pid)?;
                    let same = facts.uid == row.uid;
                    if !same || !self.matches(*pid, (facts.uid, facts.gid), Some(&facts)) {
                        return None;
                    }
                    if Facts::of(*pid)? != facts {
                        return None;
                    }
                    let one = Found {
                        uid: facts.uid,
                        gid: facts.gid,
                        pid: *pid,
                        facts: Some(facts),
                    };
                    match &found {
                        None => found = Some(one),
                        // Two that both match, and are not the same: nobody knows which of them speaks.
                        Some(other) if other.executable() != one.executable() => return None,
                        Some(_) => {}
                    }
                }
                // A process that is given the socket later could as well be given it after any further look.
                found.filter(|_| socket::row(*ours, *theirs) == Some(row))
            }
        }
    }

    fn look_at_unix(&self, unix: &UnixPeer) -> Option<Found> {
        // Another PID namespace's process has no number here.
        let mut facts = (unix.pid != 0).then(|| Facts::of(unix.pid)).flatten();
        if !self.matches(unix.pid, (unix.uid, unix.gid), facts.as_ref()) {
            return None;
        }
        if let Some(facts) = &mut facts {
            // It has not changed meanwhile, and, where the kernel can say so, is the one that connected.
            let same = Facts::of(unix.pid).as_ref() == Some(facts);
            let handle = unix.handle.as_ref();
            if !same || handle.is_some_and(|handle| !process::is_same(handle, unix.pid)) {
                return None;
            }
            match Holders::of(unix) {
                Holders::Of(end) => {
                    let counts = self.beyond != Beyond::Nothing || self.needs_facts();
                    if counts && !self.holders_match(end, unix.pid, facts) {
                        return None;
                    }
                }
                Holders::Unasked => {}
                Holders::Hidden => {
                    debug!(
                        pid = unix.pid,
                        "nobody can say which program speaks on this unix socket: it was made in another network \
                         namespace, or its other end is closed; by user and control group it could match"
                    );
                    if self.needs_program() {
                        return None;
                    }
                    facts.forget_program();
                }
            }
        }
        Some(Found {
            uid: unix.uid,
            gid: unix.gid,
            pid: unix.pid,
            facts,
        })
    }

    /// Whether all that hold the other end run what the one runs that connected, as far as we may look. The kernel says who
    /// connected and not who speaks: a process can hand its end on, or leave it to a child and become another program.
    fn holders_match(&self, end: u64, who: u32, connected: &Facts) -> bool {
        socket::holders(end)
            .into_iter()
            .filter(|pid| *pid != who)
            .all(|pid| {
                // One that is gone by now speaks no more.
                Facts::of(pid).is_none_or(|facts| {
                    facts.executable == connected.executable
                        && facts.file == connected.file
                        && self.matches(pid, (facts.uid, facts.gid), Some(&facts))
                })
            })
    }

    /// Whether the program decides. Neither a user nor a control group comes of becoming another program.
    fn needs_program(&self) -> bool {
        let PeerSettings {
            executables,
            sha256,
            ..
        } = &self.settings;
        self.beyond == Beyond::Decides || !(executables.is_empty() && sha256.is_empty())
    }

    /// Whether more is asked for than the socket itself says.
    fn needs_facts(&self) -> bool {
        let PeerSettings {
            executables,
            sha256,
            cgroups,
            ..
        } = &self.settings;
        !(executables.is_empty() && sha256.is_empty() && cgroups.is_empty())
    }

    /// Whether every key that is given matches. What cannot be looked at matches none.
    fn matches(&self, pid: u32, (uid, gid): (u32, u32), facts: Option<&Facts>) -> bool {
        let PeerSettings {
            uids,
            gids,
            executables,
            sha256,
            cgroups,
        } = &self.settings;
        if !(uids.is_empty() || uids.contains(&uid)) || !(gids.is_empty() || gids.contains(&gid)) {
            return false;
        }
        let Some(facts) = facts else {
            return !self.needs_facts();
        };
        let in_group = |group: &String| facts.cgroups.iter().any(|own| is_within(own, group));
        if !(cgroups.is_empty() || cgroups.iter().any(in_group)) {
            return false;
        }
        if !executables.is_empty() {
            let at = |path: &PathBuf| facts.executable.as_ref() == Some(path);
            let Some(path) = executables.iter().find(|path| at(path)) else {
                return false;
            };
            // In a mount namespace of its own a process can have any file at any path: it must be the one that stands
            // there for us. Where the content itself is named, that says more than the place.
            let ours = std::fs::metadata(path).ok().map(|file| FileId::of(&file));
            if sha256.is_empty() && (ours.is_none() || ours != facts.file) {
                return false;
            }
        }
        if sha256.is_empty() {
            return true;
        }
        let sum = facts.file.map(|file| self.sums.of(pid, file));
        matches!(sum, Some(Ok(sum)) if sha256.contains(&sum))
    }
}

/// The group itself, or one below it.
fn is_within(own: &str, group: &str) -> bool {
    let below = own.strip_prefix(group.trim_end_matches('/'));
    own == group || below.is_some_and(|rest| rest.starts_with('/'))
}
