//! Which sessions live: a lease goes when the last session that it may serve has ended.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::agent::AgentId;

/// The sessions that the broker knows.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    live: HashMap<Arc<str>, AgentId>,
    agents: HashMap<AgentId, usize>,
    /// Ended not long ago: a request of theirs that is still under way gets no new lease.
    ended: HashMap<Arc<str>, Instant>,
}

/// What a session's end leaves behind.
#[derive(Debug)]
pub(super) struct Ended {
    /// Its agent, where no other session of that agent lives.
    pub(super) last_of: Option<AgentId>,
    /// No session lives any more.
    pub(super) last: bool,
}

impl Sessions {
    /// Notes that a session lives; `false` if it has ended.
    pub(super) fn join(&mut self, session: &Arc<str>, agent: &AgentId) -> bool {
        if self.ended.contains_key(session) {
            return false;
        }
        if !self.live.contains_key(session) {
            self.live.insert(Arc::clone(session), agent.clone());
            *self.agents.entry(agent.clone()).or_default() += 1;
        }
        true
    }

    /// Notes a session's end; `None` if it ended before.
    pub(super) fn end(&mut self, session: &Arc<str>, now: Instant) -> Option<Ended> {
        if self.ended.insert(Arc::clone(session), now).is_some() {
            return None;
        }
        let agent = self.live.remove(session);
        let last_of = agent.filter(|agent| {
            let left = self.agents.get_mut(agent).map_or(0, |count| {
                *count = count.saturating_sub(1);
                *count
            });
            if left == 0 {
                self.agents.remove(agent);
            }
            left == 0
        });
        Some(Ended {
            last: last_of.is_some() && self.live.is_empty(),
            last_of,
        })
    }

    /// Forgets ends that are long past.
    pub(super) fn prune(&mut self, now: Instant, after: Duration) {
        self.ended
            .retain(|_, at| now.saturating_duration_since(*at) < after);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_session_of_an_agent_is_told_apart() {
        let (a, b): (AgentId, AgentId) = ("a".parse().unwrap(), "b".parse().unwrap());
        let ids: Vec<Arc<str>> = ["1", "2", "3"].map(Arc::from).into();
        let now = Instant::now();
        let mut sessions = Sessions::default();
        assert!(sessions.join(&ids[0], &a) && sessions.join(&ids[0], &a));
        assert!(sessions.join(&ids[1], &a) && sessions.join(&ids[2], &b));
        assert!(sessions.end(&ids[0], now).unwrap().last_of.is_none());
        assert!(sessions.end(&ids[0], now).is_none(), "it ends once");
        let ended = sessions.end(&ids[1], now).unwrap();
        assert_eq!((ended.last_of, ended.last), (Some(a.clone()), false));
        assert!(sessions.end(&ids[2], now).unwrap().last);
        assert!(
            !sessions.join(&ids[2], &b),
            "an ended session is not begun again"
        );
        sessions.prune(now + Duration::from_secs(601), Duration::from_mins(10));
        assert!(sessions.ended.is_empty() && sessions.agents.is_empty());
    }
}
