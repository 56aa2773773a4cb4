//! Values that are kept up to date: files are looked at twice a second, commands and keyrings asked again in time.
//!
//! Looking (`stat`) and not inotify: it sees through Kubernetes' chain of symlinks, works on every file system, and
//! costs a microsecond a file.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use super::super::Superseded;
use super::command::{self, Surroundings};
use super::file::{self, Fingerprint};
use super::{Env, Source, SourceError};
use crate::clock::{Clock, Now};
use crate::secret::Secret;

/// Keeps [`Watched`] values up to date, in one background task, for as long as it or a clone lives.
#[derive(Debug, Clone)]
pub struct Watcher(pub(super) Arc<Inner>);

#[derive(Debug)]
pub(super) struct Inner {
    clock: Arc<dyn Clock>,
    watched: Mutex<Vec<Weak<Watch>>>,
    pub(super) tracker: TaskTracker,
}

/// A value that follows its source. Cheap to clone.
#[derive(Clone)]
pub struct Watched(Arc<Watch>);

struct Watch {
    source: Source,
    surroundings: Surroundings,
    reading: ArcSwap<Reading>,
    follow: Mutex<Follow>,
}

/// What a source gave, until it gives something else.
#[derive(Debug)]
pub(in super::super) struct Reading {
    pub(in super::super) value: Result<Arc<Secret>, SourceError>,
    /// Raised when there is another reading.
    pub(in super::super) superseded: Superseded,
}

/// Where the watch stands.
#[derive(Debug, Default)]
struct Follow {
    /// The state of the file that the reading is of.
    read: Option<Fingerprint>,
    /// Another state, seen once: it is read when it is seen again, and so not while it is being written.
    seen: Option<Fingerprint>,
    /// Since when the source gives nothing.
    bad: Option<Instant>,
    /// When a command or keyring last gave its value.
    good: Option<Instant>,
    /// When a command or keyring is asked again.
    again: Option<Instant>,
}

impl Watcher {
    /// Begins to look; must be called within a tokio runtime.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        let watcher = Self::idle(clock);
        let weak = Arc::downgrade(&watcher.0);
        watcher.0.tracker.spawn(async move {
            let mut tick = tokio::time::interval(LOOK);
            tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                tick.tick().await;
                let Some(inner) = weak.upgrade() else { return };
                inner.look().await;
            }
        });
        watcher
    }

    /// A watcher that does not look by itself.
    pub(super) fn idle(clock: Arc<dyn Clock>) -> Self {
        Self(Arc::new(Inner {
            clock,
            watched: Mutex::default(),
            tracker: TaskTracker::new(),
        }))
    }

    /// Reads the source, and follows it from then on. A first read that fails is no error here: the value is missing
    /// until the source gives one, and [`Watched::current`] says why.
    pub async fn watch(&self, source: &Source, env: Env<'_>) -> Watched {
        let now = self.0.clock.now();
        let watch = Arc::new(Watch {
            source: source.clone(),
            surroundings: command::surroundings(env),
            reading: ArcSwap::from_pointee(Reading::of(Err(SourceError::Empty))),
            follow: Mutex::default(),
        });
        match source {
            Source::Env(_) => watch.set(source.read(env).await.map(Arc::new)),
            Source::File(path) => watch.settle(now, read_file(path.clone()).await, true),
            Source::Command { .. } | Source::Keyring { .. } => {
                watch.ask(&*self.0.clock, true).await;
            }
        }
        self.0.watched.lock().push(Arc::downgrade(&watch));
        Watched(watch)
    }
}

impl Watched {
    /// The value as it is now.
    ///
    /// # Errors
    /// [`SourceError`] while the source gives none.
    pub fn current(&self) -> Result<Arc<Secret>, SourceError> {
        self.0.reading.load().value.clone()
    }

    pub(in super::super) fn reading(&self) -> Arc<Reading> {
        self.0.reading.load_full()
    }
}

impl Inner {
    /// Looks at every file, and asks the commands and keyrings whose time has come.
    pub(super) async fn look(&self) {
        let now = self.clock.now();
        let mut watched: Vec<Arc<Watch>> = Vec::new();
        self.watched
            .lock()
            .retain(|watch| watch.upgrade().map(|watch| watched.push(watch)).is_some());
        let mut files = Vec::new();
        for watch in watched {
            match &watch.source {
                Source::Env(_) => {}
                Source::File(_) => files.push(watch),
                Source::Command { .. } | Source::Keyring { .. } => {
                    if watch.take_turn(now) {
                        let clock = Arc::clone(&self.clock);
                        // On its own: a slow command must not keep files waiting.
                        self.tracker
                            .spawn(async move { watch.ask(&*clock, false).await });
                    }
                }
            }
        }
        let looked = tokio::task::spawn_blocking(move || {
            for watch in files {
                if let Source::File(path) = &watch.source {
                    watch.look_at(path, now);
                }
            }
        });
        if looked.await.is_err() {
            warn!("a look at secret files came to nothing");
        }
    }
}

impl Watch {
    /// One look at a file. Blocks.
    fn look_at(&self, path: &Path, now: Now) {
        let state = match file::look(path) {
            Ok(state) => state,
            Err(error) => return self.settle(now, Err(error), false),
        };
        {
            let mut follow = self.follow.lock();
            if follow.read == Some(state) {
                follow.seen = None;
                follow.bad = None;
                return;
            }
            if follow.seen != Some(state) {
                follow.seen = Some(state);
                return;
            }
        }
        let read = file::read(path);
        if matches!(&read, Ok((_, of)) if *of != state) {
            return;
        }
        self.settle(now, read, false);
    }

    /// Takes in what was read of a file. A file that gives nothing keeps its last value for [`GRACE`]: an editor that
    /// truncates and writes is not a withdrawal. Kubernetes swaps links, so there is no gap at all.
    fn settle(&self, now: Now, read: Result<(Secret, Fingerprint), SourceError>, first: bool) {
        let mut follow = self.follow.lock();
        match read {
            Ok((secret, state)) => {
                follow.read = Some(state);
                follow.seen = None;
                follow.bad = None;
                self.set(Ok(Arc::new(secret)));
            }
            Err(error) => {
                let since = *follow.bad.get_or_insert(now.mono);
                if first || now.mono.saturating_duration_since(since) >= GRACE {
                    follow.read = None;
                    self.set(Err(error));
                }
            }
        }
    }

    /// Whether it is time to ask a command or keyring; who is told so must ask.
    fn take_turn(&self, now: Now) -> bool {
        let mut follow = self.follow.lock();
        let due = follow.again.is_some_and(|again| again <= now.mono);
        if due {
            follow.again = None;
        }
        due
    }

    /// Asks a command or keyring. A value is used for its time to live, and asked for anew at 80 % of it.
    async fn ask(&self, clock: &dyn Clock, first: bool) {
        let before = clock.now().mono;
        let (life, answer) = match &self.source {
            Source::Command {
                argv,
                deadline,
                max_output,
                ttl,
            } => {
                let run = command::run(argv, *deadline, *max_output, &self.surroundings);
                (*ttl, run.await)
            }
            Source::Keyring { service, user } => {
                (KEYRING_LIFE, super::keyring::read(service, user).await)
            }
            Source::Env(_) | Source::File(_) => return,
        };
        let now = clock.now().mono;
        let mut follow = self.follow.lock();
        match answer {
            Ok(secret) => {
                follow.good = Some(before);
                follow.again = Some(before + (life * 4 / 5).max(LOOK));
                self.set(Ok(Arc::new(secret)));
            }
            Err(error) => {
                let over = follow
                    .good
                    .is_none_or(|good| now.saturating_duration_since(good) >= life);
                // Again soon, but not at every look; and at the end of the life at the latest.
                let soon = now + ASK_AGAIN;
                let end = follow.good.map_or(soon, |good| good + life);
                follow.again = Some(if over { soon } else { soon.min(end) });
                if first || over {
                    self.set(Err(error));
                }
            }
        }
    }

    /// Puts a reading in place, unless it says the same as the one before.
    fn set(&self, value: Result<Arc<Secret>, SourceError>) {
        let old = self.reading.load();
        match (&old.value, &value) {
            (Ok(old), Ok(new)) if old.equals(new.expose()) => return,
            (Err(old), Err(new)) if old == new => return,
            (_, Ok(_)) => info!(source = %self.source, "a secret was read"),
            (_, Err(error)) => warn!(source = %self.source, %error, "a secret cannot be read"),
        }
        self.reading.store(Arc::new(Reading::of(value)));
        old.superseded.raise();
    }
}

impl Reading {
    fn of(value: Result<Arc<Secret>, SourceError>) -> Self {
        Self {
            value,
            superseded: Superseded::default(),
        }
    }
}

async fn read_file(path: std::path::PathBuf) -> Result<(Secret, Fingerprint), SourceError> {
    tokio::task::spawn_blocking(move || file::read(&path))
        .await
        .unwrap_or(Err(SourceError::Unreadable(io::ErrorKind::Other)))
}

/// As logs name it: the kind and the place, never arguments of a command.
impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Env(name) => write!(f, "env {name}"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Command { argv, .. } => {
                write!(f, "command {}", argv.first().map_or("", String::as_str))
            }
            Self::Keyring { service, user } => write!(f, "keyring {service}/{user}"),
        }
    }
}

impl fmt::Debug for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Watched({})", self.0.source)
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Watch({})", self.source)
    }
}

/// How often files are looked at. A change is in use after two looks.
const LOOK: Duration = Duration::from_millis(500);
/// How long a file may give nothing before its value is withdrawn.
const GRACE: Duration = Duration::from_secs(2);
/// How long a keyring's answer is used.
const KEYRING_LIFE: Duration = Duration::from_mins(1);
/// When a command or keyring that failed is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(5);
