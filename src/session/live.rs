//! One session: who acts, for whom, within which bounds, and whether it is over.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::time::Instant;

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use crate::agent::AgentId;
use crate::clock::Now;
use crate::delegation::Bounds;
use crate::policy::Person;

/// One session.
#[derive(Debug)]
pub struct Session {
    id: Arc<str>,
    chain: Arc<[AgentId]>,
    agent: AgentId,
    trust: Arc<str>,
    person: Option<Arc<Person>>,
    bounds: Bounds,
    parent: Option<Arc<str>>,
    bound: Option<Box<str>>,
    created: Timestamp,
    /// The same end as the bounds', by the clock that does not jump.
    deadline: Option<Instant>,
    idles: bool,
    implicit: bool,
    pub(super) last_used: AtomicI64,
    pub(super) connections: AtomicUsize,
    pub(super) ended: CancellationToken,
    /// The same as a word that a request reads without a lock.
    pub(super) over: AtomicBool,
}

/// What a session begins with.
#[derive(Debug, Clone)]
pub struct Opening {
    /// From the first agent to the acting one; never empty.
    pub chain: Vec<AgentId>,
    /// The trust provider that attested the first agent.
    pub trust: Arc<str>,
    /// The person for whom it acts.
    pub person: Option<Arc<Person>>,
    /// How far it reaches.
    pub bounds: Bounds,
    /// The session that delegated it.
    pub parent: Option<Arc<str>>,
    /// The peer that alone may use it; `None`: any.
    pub bound: Option<Box<str>>,
    /// Whether it ends when nothing uses it.
    pub idles: bool,
}

/// A use of a session by one connection: while it is held, the session is not idle.
#[derive(Debug)]
pub struct Hold {
    session: Arc<Session>,
}

impl Session {
    /// A session of this id that began at `created`.
    pub(super) fn new(id: Arc<str>, opening: Opening, created: Timestamp, now: &Now) -> Self {
        let Opening {
            chain,
            trust,
            person,
            bounds,
            parent,
            bound,
            idles,
        } = opening;
        let agent = chain.last().expect("a chain has an acting agent").clone();
        let deadline = bounds.expires.map(|end| {
            let left = end.duration_since(now.wall);
            now.mono + std::time::Duration::try_from(left).unwrap_or_default()
        });
        Self {
            id,
            chain: chain.into(),
            agent,
            trust,
            person,
            bounds,
            parent,
            bound,
            created,
            deadline,
            idles,
            implicit: false,
            last_used: AtomicI64::new(now.unix_ms()),
            connections: AtomicUsize::new(0),
            ended: CancellationToken::new(),
            over: AtomicBool::new(false),
        }
    }

    /// The same, opened by evidence at the proxy.
    pub(super) fn implicit(mut self) -> Self {
        self.implicit = true;
        self
    }

    /// Whether evidence at the proxy opened it, so that it ends with this process.
    pub fn is_implicit(&self) -> bool {
        self.implicit
    }

    /// Its id: 128 random bits in hex.
    pub fn id(&self) -> &Arc<str> {
        &self.id
    }

    /// The acting agent.
    pub fn agent(&self) -> &AgentId {
        &self.agent
    }

    /// From the first agent to the acting one.
    pub fn chain(&self) -> &[AgentId] {
        &self.chain
    }

    /// The same, shared.
    pub fn shared_chain(&self) -> &Arc<[AgentId]> {
        &self.chain
    }

    /// The trust provider that attested the first agent.
    pub fn trust(&self) -> &Arc<str> {
        &self.trust
    }

    /// The person for whom it acts, if any.
    pub fn person(&self) -> Option<&Arc<Person>> {
        self.person.as_ref()
    }

    /// The person's name.
    pub fn user(&self) -> Option<&str> {
        self.person.as_ref().map(|person| &*person.user.name)
    }

    /// How far it reaches.
    pub fn bounds(&self) -> &Bounds {
        &self.bounds
    }

    /// The session that delegated it.
    pub fn parent(&self) -> Option<&Arc<str>> {
        self.parent.as_ref()
    }

    /// The peer that alone may use it.
    pub fn bound(&self) -> Option<&str> {
        self.bound.as_deref()
    }

    /// Whether this peer may use it.
    pub fn is_open_to(&self, peer: &str) -> bool {
        self.bound.as_deref().is_none_or(|bound| bound == peer)
    }

    /// When it began.
    pub fn created(&self) -> Timestamp {
        self.created
    }

    /// Whether it ends when nothing uses it.
    pub fn idles(&self) -> bool {
        self.idles
    }

    /// When it was used last.
    pub fn last_used(&self) -> Timestamp {
        let ms = self.last_used.load(Ordering::Relaxed);
        Timestamp::from_millisecond(ms).unwrap_or(self.created)
    }

    /// Fires when the session ends: everything that lives by it stops.
    pub fn ended(&self) -> &CancellationToken {
        &self.ended
    }

    /// Whether it is over: ended, or past its time by either clock.
    pub fn is_over(&self, now: &Now) -> bool {
        self.over.load(Ordering::Acquire) || self.is_past(now)
    }

    /// Whether its time is past.
    pub fn is_past(&self, now: &Now) -> bool {
        self.bounds.expires.is_some_and(|end| end <= now.wall)
            || self.deadline.is_some_and(|end| end <= now.mono)
    }

    /// Marks a use.
    pub fn touch(&self, now: &Now) {
        self.last_used.store(now.unix_ms(), Ordering::Relaxed);
    }

    /// Notes a use elsewhere, in Unix milliseconds.
    pub fn was_used(&self, at: i64) {
        self.last_used.fetch_max(at, Ordering::Relaxed);
    }

    /// How many connections hold it.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

impl Hold {
    pub(super) fn on(session: &Arc<Session>) -> Self {
        session.connections.fetch_add(1, Ordering::Relaxed);
        Self {
            session: Arc::clone(session),
        }
    }

    /// The session that is held.
    pub fn session(&self) -> &Arc<Session> {
        &self.session
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.session.connections.fetch_sub(1, Ordering::Relaxed);
    }
}
