//! Sessions: one agent at one peer, from its first connection until it has been idle.
//!
//! Leases, live connections and audit records belong to a session; its end ends them.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::time::Duration;

use aws_lc_rs::rand;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::agent::AgentId;
use crate::clock::Now;
use crate::policy::Person;

/// One session.
#[derive(Debug)]
pub struct Session {
    id: Arc<str>,
    agent: AgentId,
    trust: Arc<str>,
    person: Option<Arc<Person>>,
    last_used: AtomicI64,
    connections: AtomicUsize,
    ended: CancellationToken,
}

/// All live sessions of this process.
#[derive(Debug)]
pub struct Sessions {
    idle: Duration,
    live: Mutex<HashMap<Key, Arc<Session>>>,
}

/// A static token's session is the pair of agent and peer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    agent: AgentId,
    trust: Arc<str>,
    peer: Box<str>,
}

/// A use of a session by one connection: while it is held, the session is not idle.
#[derive(Debug)]
pub struct Hold {
    session: Arc<Session>,
}

impl Session {
    /// Its id: 128 random bits in hex.
    pub fn id(&self) -> &Arc<str> {
        &self.id
    }

    /// Whose it is.
    pub fn agent(&self) -> &AgentId {
        &self.agent
    }

    /// The trust provider that attested the agent.
    pub fn trust(&self) -> &Arc<str> {
        &self.trust
    }

    /// The person for whom it acts, if any.
    pub fn person(&self) -> Option<&Arc<Person>> {
        self.person.as_ref()
    }

    /// Fires when the session ends: everything that lives by it stops.
    pub fn ended(&self) -> &CancellationToken {
        &self.ended
    }

    /// Marks a use.
    pub fn touch(&self, now: &Now) {
        self.last_used.store(now.unix_ms(), Ordering::Relaxed);
    }

    /// How many connections hold it.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

impl Hold {
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

impl Sessions {
    /// Sessions that end after being idle this long.
    pub fn new(idle: Duration) -> Self {
        Self {
            idle,
            live: Mutex::new(HashMap::new()),
        }
    }

    /// The session of this agent at this peer, and whether it is a new one.
    pub fn open(&self, agent: &AgentId, trust: &Arc<str>, peer: &str, now: &Now) -> (Hold, bool) {
        let key = Key {
            agent: agent.clone(),
            trust: Arc::clone(trust),
            peer: peer.into(),
        };
        let mut live = self.live.lock();
        let mut new = false;
        let session = live.entry(key).or_insert_with(|| {
            new = true;
            Arc::new(Session {
                id: random_id(),
                agent: agent.clone(),
                trust: Arc::clone(trust),
                person: None,
                last_used: AtomicI64::new(now.unix_ms()),
                connections: AtomicUsize::new(0),
                ended: CancellationToken::new(),
            })
        });
        session.touch(now);
        session.connections.fetch_add(1, Ordering::Relaxed);
        (
            Hold {
                session: Arc::clone(session),
            },
            new,
        )
    }

    /// One more hold on a session that is held already.
    pub fn hold(&self, session: &Arc<Session>) -> Hold {
        session.connections.fetch_add(1, Ordering::Relaxed);
        Hold {
            session: Arc::clone(session),
        }
    }

    /// Ends the sessions that nothing has held or used for the idle time, and returns them.
    pub fn sweep(&self, now: &Now) -> Vec<Arc<Session>> {
        let oldest = now.unix_ms() - i64::try_from(self.idle.as_millis()).unwrap_or(i64::MAX);
        self.end_where(|session| {
            session.connections() == 0 && session.last_used.load(Ordering::Relaxed) < oldest
        })
    }

    /// Ends the sessions that the predicate picks, and returns them.
    pub fn end_where(&self, picks: impl Fn(&Session) -> bool) -> Vec<Arc<Session>> {
        let mut ended = Vec::new();
        self.live.lock().retain(|_, session| {
            let pick = picks(session);
            if pick {
                ended.push(Arc::clone(session));
            }
            !pick
        });
        for session in &ended {
            session.ended.cancel();
        }
        ended
    }

    /// How many are live.
    pub fn len(&self) -> usize {
        self.live.lock().len()
    }

    /// Whether none is live.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// 128 random bits in hex. A failing generator gives an id that is still unique to nobody's benefit: it ends the process.
fn random_id() -> Arc<str> {
    let mut bytes = [0_u8; 16];
    rand::fill(&mut bytes).expect("the system's random generator answers");
    format!("{:032x}", u128::from_be_bytes(bytes)).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock, ManualClock};

    #[test]
    fn a_session_is_one_agent_at_one_peer_until_idle() {
        let clock = ManualClock::new("2026-11-21T10:00:00Z".parse().unwrap());
        let sessions = Sessions::new(Duration::from_mins(10));
        let (agent, token) = ("a".parse::<AgentId>().unwrap(), Arc::from("token"));
        let (first, new) = sessions.open(&agent, &token, "127.0.0.1", &clock.now());
        assert!(new);
        let (second, new) = sessions.open(&agent, &token, "127.0.0.1", &clock.now());
        assert!(!new && Arc::ptr_eq(first.session(), second.session()));
        assert!(
            sessions.open(&agent, &token, "127.0.0.2", &clock.now()).1,
            "another peer"
        );

        clock.advance(Duration::from_secs(601));
        assert_eq!(
            sessions.sweep(&clock.now()).len(),
            1,
            "the one that nothing holds"
        );
        let held = Arc::clone(first.session());
        drop((first, second));
        assert_eq!(sessions.sweep(&clock.now()).len(), 1);
        assert!(held.ended().is_cancelled() && sessions.is_empty());
    }
}
