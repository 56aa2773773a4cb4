//! Approvals: an agent asks, people decide, and a yes is used once.
//!
//! ```text
//! ask ─► pending ─► approved ─► used         one no: denied; past its time, or withdrawn: expired
//! ```
//!
//! What is asked for is a [`Digest`]; whoever comes with a ticket comes with the same digest or gets nothing. The state is
//! the store's alone, and each step of it one atomic change, so that replicas and restarts see one truth. A question and
//! a yes are good until `expires`, by the wall clock everywhere and by the monotonic one where it was asked, the earlier.

mod entry;
mod field;
mod metrics;
mod refused;
mod settings;
mod store;
mod webhook;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::broadcast;
use tokio_util::task::TaskTracker;

pub use entry::{Ask, BadStatus, Decision, Entry, Status, Subject, Ticket};
pub use field::Field;
pub use metrics::Metrics;
pub use refused::{NotAsked, NotCounted, NotGranted};
pub use settings::{Approver, By, Console, Mode, Settings};
pub use store::{ApprovalStore, Kept, Room, Unknown};
pub use webhook::{Hook, Key};

use crate::agent::Name;
use crate::audit::{Audit, Record, Who};
use crate::clock::{Clock, Now};
use crate::policy::{Digest, Grant};
use webhook::Webhooks;

/// Everything that is asked of people.
#[derive(Debug)]
pub struct Approvals {
    settings: ArcSwap<Vec<Settings>>,
    store: Arc<dyn ApprovalStore>,
    audit: Arc<Audit>,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
    webhooks: Webhooks,
    reach: Reach,
    /// One question at a time: several at once could each see room for one more.
    asking: tokio::sync::Mutex<()>,
    /// When what was asked here ends by the monotonic clock.
    deadlines: Mutex<HashMap<Arc<str>, Instant>>,
    /// The ids of what was decided here.
    news: broadcast::Sender<Arc<str>>,
    /// When old entries were last forgotten, in Unix milliseconds.
    forgot: AtomicI64,
}

/// Who can decide what is asked here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// The admin side of this process alone.
    Here,
    /// Replicas as well, by the store.
    Everywhere,
    /// Nobody: there is neither.
    Nobody,
}

/// How often a question that waits is looked at, where others may decide it.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long a question waits to be written down after others.
const TURN: Duration = Duration::from_secs(10);
/// How long what is settled can be looked up.
const KEPT_FOR: i64 = 24 * 3_600_000;
/// How often old entries are forgotten, in milliseconds.
const FORGET_EVERY: i64 = 600_000;
/// The most open questions of one agent to whomever, and of all agents together.
const MOST_OPEN: (u32, u32) = (1000, 10_000);
/// Of those that ended without an answer, the most that can still be looked up: of one agent, and of all together.
const MOST_OVER: (u32, u32) = (100, 2000);

/// What approvals stand on.
#[derive(Debug)]
pub struct Parts {
    /// Where they are kept.
    pub store: Arc<dyn ApprovalStore>,
    /// Where each step is recorded.
    pub audit: Arc<Audit>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Where messages are sent from.
    pub tracker: TaskTracker,
    /// Who can decide.
    pub reach: Reach,
}

impl Approvals {
    /// None that can be asked yet.
    pub fn new(parts: Parts) -> Self {
        let Parts {
            store,
            audit,
            clock,
            tracker,
            reach,
        } = parts;
        Self {
            settings: ArcSwap::default(),
            store,
            audit,
            clock,
            metrics: Metrics::default(),
            webhooks: Webhooks::new(tracker),
            reach,
            asking: tokio::sync::Mutex::new(()),
            deadlines: Mutex::default(),
            news: broadcast::channel(256).0,
            forgot: AtomicI64::new(0),
        }
    }

    /// Puts other tables in place. What was asked keeps its time and its quorum; who decides follows the tables.
    pub fn reconfigure(&self, settings: Vec<Settings>, hooks: HashMap<Name, Hook>) {
        for one in &settings {
            self.metrics.pending(one.name.as_str(), 0);
        }
        self.settings.store(Arc::new(settings));
        self.webhooks.replace(hooks);
    }

    /// The room's metrics.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// The table of this name.
    pub fn settings(&self, name: &Name) -> Option<Settings> {
        let all = self.settings.load();
        all.iter().find(|one| one.name == *name).cloned()
    }

    /// Asks, or joins the open question of this agent for the same thing.
    ///
    /// # Errors
    /// [`NotAsked`].
    pub async fn ask(&self, ask: &Ask<'_>) -> Result<Entry, NotAsked> {
        let settings = self.settings(ask.name).ok_or(NotAsked::Unavailable)?;
        if self.reach == Reach::Nobody {
            return Err(NotAsked::Nobody);
        }
        let agent = ask.chain.last().ok_or(NotAsked::Unavailable)?;
        // A store that does not answer holds up those in front by its own patience, and nobody behind them by the sum.
        let turn = tokio::time::timeout(TURN, self.asking.lock()).await;
        let _one = turn.map_err(|_| NotAsked::Unavailable)?;
        self.lapse().await.map_err(|_| NotAsked::Unavailable)?;
        let now = self.clock.now();
        let expires = now.wall.checked_add(settings.expires);
        let (id, code) = entry::random();
        let fresh = Entry {
            id,
            name: ask.name.clone(),
            status: Status::Pending,
            session: Arc::clone(ask.session),
            agent: agent.clone(),
            user: ask.user.cloned(),
            chain: ask.chain.to_vec(),
            subject: ask.subject.clone(),
            digest: ask.digest,
            code,
            requested: now.wall,
            expires: expires.map_err(|_| NotAsked::Unavailable)?,
            needed: settings.console.quorum,
            asks: 1,
            decisions: Vec::new(),
        };
        let room = Room {
            of_name: settings.max_pending,
            of_agent: MOST_OPEN.0,
            in_all: MOST_OPEN.1,
        };
        let kept = self
            .store
            .ask(&fresh, &room, ask.held)
            .await
            .map_err(|_| NotAsked::Unavailable)?;
        let entry = match kept {
            Kept::Entry(entry) => *entry,
            Kept::Full => return Err(NotAsked::Throttled),
        };
        if entry.id == fresh.id {
            let deadline = now.mono + settings.expires;
            self.deadlines
                .lock()
                .insert(Arc::clone(&entry.id), deadline);
            self.note(&entry, "asked", None);
            self.metrics.count(entry.name.as_str(), "asked");
            self.webhooks.tell(&entry, &now);
            // What could not be trimmed now is with the next question.
            let (of_agent, in_all) = MOST_OVER;
            self.store.trim(agent, of_agent, in_all).await.ok();
            self.recount().await;
        }
        Ok(entry)
    }

    /// How far the approval of this ticket is, for whoever comes with what has this digest: pending or approved.
    ///
    /// # Errors
    /// [`NotGranted`].
    pub async fn look(&self, id: &str, digest: &Digest) -> Result<Entry, NotGranted> {
        if !Ticket::is_id(id) {
            return Err(NotGranted::Over);
        }
        let found = self.store.find(id).await;
        let found = found.map_err(|_| NotGranted::Unavailable)?;
        let entry = found.ok_or(NotGranted::Over)?;
        if entry.digest != *digest {
            self.note(&entry, "mismatch", None);
            self.metrics.count(entry.name.as_str(), "mismatch");
            return Err(NotGranted::Mismatch);
        }
        match entry.status {
            Status::Pending | Status::Approved if self.is_past(&entry, &self.clock.now()) => {
                Err(NotGranted::Over)
            }
            Status::Pending | Status::Approved => Ok(entry),
            Status::Denied => Err(NotGranted::Denied),
            Status::Expired | Status::Used => Err(NotGranted::Over),
        }
    }

    /// Uses a yes up. Of any number of callers, on any number of replicas, one gets the grant.
    ///
    /// # Errors
    /// [`NotGranted`].
    pub async fn take(&self, entry: &Entry) -> Result<Grant, NotGranted> {
        let now = self.clock.now();
        if self.is_past(entry, &now) {
            return Err(NotGranted::Over);
        }
        let taken = self.store.take(entry, now.unix_ms()).await;
        if !taken.map_err(|_| NotGranted::Unavailable)? {
            return Err(NotGranted::Over);
        }
        self.deadlines.lock().remove(&entry.id);
        self.note(entry, "used", None);
        self.metrics.count(entry.name.as_str(), "used");
        self.news.send(Arc::clone(&entry.id)).ok();
        Ok(Grant::consumed(&entry.id, entry.digest))
    }

    /// Waits until a question is decided: the entry, approved.
    ///
    /// # Errors
    /// [`NotGranted`].
    pub async fn wait(&self, asked: &Entry) -> Result<Entry, NotGranted> {
        // Before the first look, so that nothing said in between is missed.
        let mut news = self.news.subscribe();
        loop {
            let entry = self.look(&asked.id, &asked.digest).await?;
            if entry.status == Status::Approved {
                return Ok(entry);
            }
            let wait = self.left(&entry).min(LOOK_EVERY);
            let heard = async { while news.recv().await.is_ok_and(|id| id != asked.id) {} };
            tokio::time::timeout(wait, heard).await.ok();
        }
    }

    /// Whoever waited for this answer went away.
    pub async fn withdraw(&self, entry: &Entry) {
        if let Ok(true) = self.store.withdraw(&entry.id).await {
            // Who waits to the end leaves as well.
            let late = self.is_past(entry, &self.clock.now());
            self.deadlines.lock().remove(&entry.id);
            let said = (!late).then(Said::withdrawn);
            self.note(entry, "expired", said.as_ref());
            self.metrics.count(entry.name.as_str(), "expired");
            self.recount().await;
        }
    }

    /// Counts somebody's word; the entry as it stands then.
    ///
    /// # Errors
    /// [`NotCounted`].
    pub async fn decide(
        &self,
        id: &str,
        (by, approve): (By<'_>, bool),
        reason: Option<&str>,
    ) -> Result<Entry, NotCounted> {
        let entry = self.find(id).await?.ok_or(NotCounted::Unknown)?;
        let settings = self.settings(&entry.name);
        let settings = settings.ok_or(NotCounted::NotAnApprover)?;
        let approver = settings.console.approver(by);
        let approver = Arc::clone(approver.ok_or(NotCounted::NotAnApprover)?);
        if settings::asks_for_itself(&entry, by) {
            return Err(NotCounted::Own);
        }
        let now = self.clock.now();
        if entry.status != Status::Pending || self.is_past(&entry, &now) {
            return Err(NotCounted::Decided);
        }
        let decision = Decision {
            approver: Arc::clone(&approver),
            approve,
            reason: reason.map(str::to_owned),
            made: now.wall,
        };
        let counted = self.store.decide(id, &decision).await;
        if !counted.map_err(|_| NotCounted::Unavailable)? {
            return Err(NotCounted::Decided);
        }
        let entry = self.find(id).await?.ok_or(NotCounted::Unknown)?;
        let said = Said {
            approver: Some(&approver),
            reason,
        };
        self.note(
            &entry,
            if approve { "approved" } else { "denied" },
            Some(&said),
        );
        if entry.status != Status::Pending {
            self.metrics.count(entry.name.as_str(), entry.status.word());
            self.recount().await;
        }
        self.news.send(Arc::clone(&entry.id)).ok();
        Ok(entry)
    }

    /// The approval of this id, for who may see it: all to operators, to a person what that person could decide.
    ///
    /// # Errors
    /// [`NotCounted::Unavailable`].
    pub async fn show(&self, id: &str, by: By<'_>) -> Result<Option<Entry>, NotCounted> {
        Ok(self
            .find(id)
            .await?
            .filter(|entry| self.is_open_to(entry, by)))
    }

    /// The approvals of this status, the newest first, as far as somebody may see them.
    ///
    /// # Errors
    /// [`NotCounted::Unavailable`].
    pub async fn list(&self, status: Option<Status>, by: By<'_>) -> Result<Vec<Entry>, NotCounted> {
        let unavailable = |_| NotCounted::Unavailable;
        self.lapse().await.map_err(unavailable)?;
        let all = self.store.list(status).await.map_err(unavailable)?;
        let all = all.into_iter();
        Ok(all.filter(|entry| self.is_open_to(entry, by)).collect())
    }

    /// Ends what is past its time, and forgets what is old; to be called about every second. What fails is tried again.
    pub async fn sweep(&self) {
        if self.settings.load().is_empty() {
            return;
        }
        let now = self.clock.now().unix_ms();
        if self.lapse().await.is_ok() && now - self.forgot.load(Ordering::Relaxed) > FORGET_EVERY {
            self.store.forget(now - KEPT_FOR).await.ok();
            self.forgot.store(now, Ordering::Relaxed);
        }
        self.recount().await;
    }

    async fn find(&self, id: &str) -> Result<Option<Entry>, NotCounted> {
        if !Ticket::is_id(id) {
            return Ok(None);
        }
        self.lapse().await.map_err(|_| NotCounted::Unavailable)?;
        let found = self.store.find(id).await;
        found.map_err(|_| NotCounted::Unavailable)
    }

    fn is_open_to(&self, entry: &Entry, by: By<'_>) -> bool {
        match by {
            By::Operator(_) => true,
            By::Person(_) => {
                let settings = self.settings(&entry.name);
                settings.is_some_and(|settings| settings.console.approver(by).is_some())
            }
        }
    }

    /// Whether an entry's time is past, by either clock.
    fn is_past(&self, entry: &Entry, now: &Now) -> bool {
        let deadline = self.deadlines.lock().get(&entry.id).copied();
        entry.expires <= now.wall || deadline.is_some_and(|deadline| deadline <= now.mono)
    }

    /// How long an entry still has.
    fn left(&self, entry: &Entry) -> Duration {
        let now = self.clock.now();
        let left = entry.expires.duration_since(now.wall);
        Duration::try_from(left).unwrap_or_default() + Duration::from_millis(1)
    }

    /// Ends what is past its time, by either clock.
    async fn lapse(&self) -> Result<(), Unknown> {
        let now = self.clock.now();
        let due: Vec<Arc<str>> = {
            let deadlines = self.deadlines.lock();
            let due = deadlines.iter().filter(|(_, at)| **at <= now.mono);
            due.map(|(id, _)| Arc::clone(id)).collect()
        };
        let mut over = self.store.lapse(now.unix_ms()).await?;
        for id in due {
            over.extend(self.store.expire(&id).await?);
            self.deadlines.lock().remove(&id);
        }
        for entry in over {
            self.deadlines.lock().remove(&entry.id);
            self.note(&entry, "expired", None);
            self.metrics.count(entry.name.as_str(), "expired");
            self.news.send(entry.id).ok();
        }
        Ok(())
    }

    /// Sets the gauges: replicas ask and decide too.
    async fn recount(&self) {
        let Ok(open) = self.store.open().await else {
            return;
        };
        for settings in self.settings.load().iter() {
            let name = settings.name.as_str();
            let count = open.iter().find(|(open, _)| open == name);
            self.metrics
                .pending(name, count.map_or(0, |(_, count)| *count));
        }
    }

    fn note(&self, entry: &Entry, outcome: &'static str, said: Option<&Said<'_>>) {
        let who = Who {
            request_id: None,
            session: Some(&entry.session),
            agent: Some(entry.agent.as_str()),
            user: entry.user.as_ref().map(|user| &*user.name),
            chain: Some(&entry.chain),
        };
        let digest = entry.digest.to_string();
        let mut record = Record::approval(who, &entry.id, entry.name.as_str(), outcome);
        record.digest = Some(&digest);
        record.code = Some(&entry.code);
        record.approver = said.and_then(|said| said.approver);
        record.reason = said.and_then(|said| said.reason);
        self.audit.append(&record);
    }
}

/// What a record of a step says beside the entry.
struct Said<'a> {
    approver: Option<&'a str>,
    reason: Option<&'a str>,
}

impl Said<'_> {
    fn withdrawn() -> Self {
        Self {
            approver: None,
            reason: Some("withdrawn"),
        }
    }
}
