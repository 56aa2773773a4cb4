//! Sessions: one agent at one peer, or one token, from its beginning until its time is up, it has been idle, or
//! somebody ends it.
//!
//! Leases, live connections and audit records belong to a session; its end ends them, and every session that was
//! handed on from it.

mod keys;
mod live;
mod settings;
mod store;
mod token;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use aws_lc_rs::rand;
use jiff::Timestamp;
use parking_lot::Mutex;

pub use keys::{BadKey, Key, Keys, SIGNS_FOR};
pub use live::{Hold, Opening, Session};
pub use settings::{Bind, Settings};
pub use store::{Kept, News, SessionStore, Unknown, reason};
pub use token::{AUDIENCE, Claims, TokenFault, mint, name_agent, read};

use crate::agent::AgentId;
use crate::clock::Now;

/// The most live sessions of one agent, those included that were handed on from its own: whoever hands on fills no
/// other agent's.
const MOST_OF_AN_AGENT: usize = 20_000;

/// SHA-256 of a token, or of what was signed of an evidence.
pub type Digest = [u8; 32];

/// Why a session ended, as the audit record says it.
pub type Reason = &'static str;

/// A session that is over, and why.
pub type Ended = (Arc<Session>, Reason);

/// All live sessions of this process.
#[derive(Debug)]
pub struct Sessions {
    settings: ArcSwap<Settings>,
    live: Mutex<Live>,
    /// No session ends by itself before this, in Unix milliseconds.
    next: AtomicI64,
}

#[derive(Debug, Default)]
struct Live {
    by_id: HashMap<Arc<str>, Arc<Session>>,
    implicit: HashMap<Place, Arc<Session>>,
    by_token: HashMap<Digest, Arc<Session>>,
    of_agent: HashMap<AgentId, usize>,
    /// Evidence that opens nothing until then, in Unix milliseconds.
    blocked: HashMap<Digest, i64>,
}

/// An implicit session: one for each agent and evidence, and a static token's is the pair of agent and peer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Place {
    agent: AgentId,
    trust: Arc<str>,
    peer: Box<str>,
    evidence: Option<Digest>,
}

/// The evidence was revoked: it opens nothing until it has ended by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the evidence was revoked")]
pub struct Revoked;

/// An agent has as many sessions as it may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the agent has too many sessions")]
pub struct TooMany;

impl Sessions {
    /// Sessions under these settings.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings: ArcSwap::from_pointee(settings),
            live: Mutex::default(),
            next: AtomicI64::new(i64::MAX),
        }
    }

    /// The settings that hold now.
    pub fn settings(&self) -> Arc<Settings> {
        self.settings.load_full()
    }

    /// Puts other settings in place; what began keeps its bounds.
    pub fn reconfigure(&self, settings: Settings) {
        self.settings.store(Arc::new(settings));
        // A shorter idle time may end something at once.
        self.next.store(0, Ordering::Relaxed);
    }

    /// The implicit session of an attested agent at this peer, and whether it is a new one. Evidence other than a static
    /// token is told apart by its digest. One that was opened before may be bound to another peer than this: that is for
    /// the caller to see.
    ///
    /// # Errors
    /// [`Revoked`].
    pub fn open(
        &self,
        opening: Opening,
        (peer, evidence): (&str, Option<Digest>),
        now: &Now,
    ) -> Result<(Hold, bool), Revoked> {
        let key = Place {
            agent: opening.chain.last().expect("an agent acts").clone(),
            trust: Arc::clone(&opening.trust),
            peer: peer.into(),
            evidence,
        };
        let mut live = self.live.lock();
        // Under the same lock as a revocation: what is opened meanwhile would outlive it.
        if evidence.is_some_and(|evidence| live.blocks(&evidence, now)) {
            return Err(Revoked);
        }
        let known = live.implicit.get(&key).filter(|known| !known.is_over(now));
        if let Some(session) = known {
            return Ok((Hold::on(session), false));
        }
        let session = Session::new(random_id(), opening, now.wall, now).implicit();
        let session = Arc::new(session);
        live.implicit.insert(key, Arc::clone(&session));
        self.enter(&mut live, &session, now);
        Ok((Hold::on(&session), true))
    }

    /// A session of its own, to be used with a token.
    ///
    /// # Errors
    /// [`TooMany`].
    pub fn start(&self, opening: Opening, now: &Now) -> Result<Arc<Session>, TooMany> {
        let mut live = self.live.lock();
        let agent = opening.chain.first().expect("an agent acts");
        if live.of_agent.get(agent).copied().unwrap_or_default() >= MOST_OF_AN_AGENT {
            return Err(TooMany);
        }
        let session = Arc::new(Session::new(random_id(), opening, now.wall, now));
        self.enter(&mut live, &session, now);
        Ok(session)
    }

    /// Takes up a session that began elsewhere or before a restart; the one that is known already wins.
    pub fn restore(
        &self,
        (id, created): (Arc<str>, Timestamp),
        opening: Opening,
        now: &Now,
    ) -> (Arc<Session>, bool) {
        let mut live = self.live.lock();
        if let Some(known) = live.by_id.get(&id) {
            return (Arc::clone(known), false);
        }
        let session = Arc::new(Session::new(id, opening, created, now));
        self.enter(&mut live, &session, now);
        (session, true)
    }

    fn enter(&self, live: &mut Live, session: &Arc<Session>, now: &Now) {
        live.by_id
            .insert(Arc::clone(session.id()), Arc::clone(session));
        *live.of_agent.entry(first(session).clone()).or_default() += 1;
        let due = self.due_at(session, now);
        self.next.fetch_min(due, Ordering::Relaxed);
    }

    /// Notes that a token, whose signature was seen to hold, is this session's.
    pub fn knows(&self, token: Digest, session: &Arc<Session>) {
        let mut live = self.live.lock();
        // One that ended meanwhile is not known again.
        if live.by_id.contains_key(session.id()) {
            live.by_token.insert(token, Arc::clone(session));
        }
    }

    /// The session of a session token that was seen before.
    pub fn by_token(&self, token: &Digest) -> Option<Arc<Session>> {
        self.live.lock().by_token.get(token).cloned()
    }

    /// The live session of this id.
    pub fn by_id(&self, id: &str) -> Option<Arc<Session>> {
        self.live.lock().by_id.get(id).cloned()
    }

    /// Whether this evidence opens nothing any more.
    pub fn is_blocked(&self, evidence: &Digest, now: &Now) -> bool {
        self.live.lock().blocks(evidence, now)
    }

    /// Blocks evidence until then, in Unix milliseconds, and ends the sessions that it opened here.
    pub fn revoke(&self, evidence: Digest, until: i64, reason: Reason) -> Vec<Ended> {
        let mut live = self.live.lock();
        live.blocked.insert(evidence, until);
        let opened = (live.implicit.iter()).filter(|(place, _)| place.evidence == Some(evidence));
        let opened = opened
            .map(|(_, session)| (Arc::clone(session.id()), reason))
            .collect();
        Self::leave(&mut live, opened)
    }

    /// The evidence that opened an implicit session, and until when it is to be blocked.
    pub fn evidence_of(&self, id: &str) -> Option<(Digest, Timestamp)> {
        let live = self.live.lock();
        let mut opened = live.implicit.iter();
        let (key, session) = opened.find(|(_, session)| **session.id() == *id)?;
        Some((key.evidence?, blocked_until(session.bounds().expires)))
    }

    /// The sessions with a token that were used since then, and when last, in Unix milliseconds.
    pub fn used_since(&self, since: i64) -> Vec<(Arc<str>, i64)> {
        let live = self.live.lock();
        let kept = live.by_id.values().filter(|session| !session.is_implicit());
        kept.map(|session| (session.id(), session.last_used.load(Ordering::Relaxed)))
            .filter(|(_, at)| *at >= since)
            .map(|(id, at)| (Arc::clone(id), at))
            .collect()
    }

    /// All live sessions, the oldest first.
    pub fn all(&self) -> Vec<Arc<Session>> {
        let mut all: Vec<_> = self.live.lock().by_id.values().cloned().collect();
        all.sort_by(|a, b| (a.created(), a.id()).cmp(&(b.created(), b.id())));
        all
    }

    /// One more hold on a session that is held already.
    pub fn hold(&self, session: &Arc<Session>) -> Hold {
        Hold::on(session)
    }

    /// Ends what is past its time or has been idle for too long, with all that was handed on from it.
    pub fn sweep(&self, now: &Now) -> Vec<Ended> {
        if self.next.load(Ordering::Relaxed) > now.unix_ms() {
            return Vec::new();
        }
        let mut live = self.live.lock();
        self.next.store(i64::MAX, Ordering::Relaxed);
        live.blocked.retain(|_, until| *until > now.unix_ms());
        // Whoever waits for a sub-agent is not idle.
        let parents: HashSet<&Arc<str>> = (live.by_id.values())
            .filter_map(|session| session.parent())
            .collect();
        let mut due = Vec::new();
        let mut next = i64::MAX;
        for session in live.by_id.values() {
            let waits = session.connections() > 0 || parents.contains(session.id());
            let at = self.due_at(session, now);
            if session.is_past(now) {
                due.push((Arc::clone(session.id()), "expired"));
            } else if at <= now.unix_ms() && !waits {
                due.push((Arc::clone(session.id()), "idle"));
            } else {
                // What waits is looked at again soon: it may stop waiting at any time.
                next = next.min(at.max(now.unix_ms() + 1_000));
            }
        }
        let expiring = live
            .by_id
            .values()
            .filter_map(|session| session.bounds().expires);
        let first = expiring.map(Timestamp::as_millisecond).min();
        next = next.min(first.unwrap_or(i64::MAX));
        self.next.fetch_min(next, Ordering::Relaxed);
        Self::leave(&mut live, due)
    }

    /// When a session ends by itself if nothing happens, in Unix milliseconds.
    fn due_at(&self, session: &Session, now: &Now) -> i64 {
        let expires = session.bounds().expires.map(Timestamp::as_millisecond);
        let idle = session.idles().then(|| {
            let last = session.last_used.load(Ordering::Relaxed).min(now.unix_ms());
            last.saturating_add(millis(self.settings.load().idle))
        });
        expires.unwrap_or(i64::MAX).min(idle.unwrap_or(i64::MAX))
    }

    /// Ends the session of this id and all that was handed on from it.
    pub fn end(&self, id: &str, reason: Reason) -> Vec<Ended> {
        let mut live = self.live.lock();
        let known = live.by_id.get(id).map(|session| Arc::clone(session.id()));
        Self::leave(
            &mut live,
            known.into_iter().map(|id| (id, reason)).collect(),
        )
    }

    /// Ends the sessions that the predicate picks, and all that was handed on from them.
    pub fn end_where(&self, picks: impl Fn(&Session) -> bool, reason: Reason) -> Vec<Ended> {
        let mut live = self.live.lock();
        let picked = (live.by_id.values())
            .filter(|session| picks(session))
            .map(|session| (Arc::clone(session.id()), reason))
            .collect();
        Self::leave(&mut live, picked)
    }

    fn leave(live: &mut Live, picked: Vec<(Arc<str>, Reason)>) -> Vec<Ended> {
        if picked.is_empty() {
            return Vec::new();
        }
        let mut over: HashMap<Arc<str>, Reason> = picked.into_iter().collect();
        // A parent's end ends the tree; it is as deep as the longest chain.
        loop {
            let children: Vec<_> = (live.by_id.values())
                .filter(|session| {
                    !over.contains_key(session.id())
                        && session
                            .parent()
                            .is_some_and(|parent| over.contains_key(parent))
                })
                .map(|session| (Arc::clone(session.id()), "parent"))
                .collect();
            if children.is_empty() {
                break;
            }
            over.extend(children);
        }
        let mut ended = Vec::with_capacity(over.len());
        for (id, reason) in &over {
            let Some(session) = live.by_id.remove(id) else {
                continue;
            };
            if let Some(count) = live.of_agent.get_mut(first(&session)) {
                *count = count.saturating_sub(1);
                if *count == 0 {
                    live.of_agent.remove(first(&session));
                }
            }
            ended.push((session, *reason));
        }
        live.implicit
            .retain(|_, session| !over.contains_key(session.id()));
        live.by_token
            .retain(|_, session| !over.contains_key(session.id()));
        for (session, _) in &ended {
            session.over.store(true, Ordering::Release);
            session.ended.cancel();
        }
        ended
    }

    /// How many are live.
    pub fn len(&self) -> usize {
        self.live.lock().by_id.len()
    }

    /// Whether none is live.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The agent that all else of a chain was handed on from.
fn first(session: &Session) -> &AgentId {
    session.chain().first().unwrap_or_else(|| session.agent())
}

impl Live {
    fn blocks(&self, evidence: &Digest, now: &Now) -> bool {
        let until = self.blocked.get(evidence);
        until.is_some_and(|until| *until > now.unix_ms())
    }
}

/// Until when revoked evidence that ends then is blocked: whoever verifies it may take it for some seconds longer.
pub fn blocked_until(end: Option<Timestamp>) -> Timestamp {
    let longer = end.and_then(|end| end.checked_add(LONGER).ok());
    longer.unwrap_or(Timestamp::MAX)
}

/// How much longer evidence is blocked than it holds.
const LONGER: Duration = Duration::from_mins(1);

fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

/// 128 random bits in hex. A failing generator gives an id that is still unique to nobody's benefit: it ends the process.
fn random_id() -> Arc<str> {
    let mut bytes = [0_u8; 16];
    rand::fill(&mut bytes).expect("the system's random generator answers");
    format!("{:032x}", u128::from_be_bytes(bytes)).into()
}

#[cfg(test)]
mod tests;
