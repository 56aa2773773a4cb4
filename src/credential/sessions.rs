//! Which sessions live: a lease goes when the last session that it may serve has ended.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::agent::{AgentId, User};
use crate::policy::Person;

/// The sessions that the broker knows.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    live: HashMap<Arc<str>, Who>,
    /// How many sessions an agent has for each user, or for none.
    agents: HashMap<Who, usize>,
    /// How many sessions of any agent act for each user, or for none.
    users: HashMap<Option<User>, usize>,
    /// Ended not long ago: a request of theirs that is still under way gets no new lease.
    ended: HashMap<Arc<str>, Instant>,
}

/// An agent, and the user for whom it acts.
type Who = (AgentId, Option<User>);

/// What a session's end leaves behind.
#[derive(Debug)]
pub(super) struct Ended {
    /// Its agent, and the user for whom it acted; `None` of a session that nobody knew.
    pub(super) who: Option<Who>,
    /// No other session of that agent for that user lives.
    pub(super) last_of: bool,
    /// No other session of anybody for that user lives.
    pub(super) last: bool,
}

impl Sessions {
    /// Notes that a session lives; `false` if it has ended.
    pub(super) fn join(
        &mut self,
        session: &Arc<str>,
        agent: &AgentId,
        person: Option<&Arc<Person>>,
    ) -> bool {
        if self.ended.contains_key(session) {
            return false;
        }
        if !self.live.contains_key(session) {
            let who = (agent.clone(), person.map(|person| person.user.clone()));
            *self.users.entry(who.1.clone()).or_default() += 1;
            *self.agents.entry(who.clone()).or_default() += 1;
            self.live.insert(Arc::clone(session), who);
        }
        true
    }

    /// Notes a session's end; `None` if it ended before.
    pub(super) fn end(&mut self, session: &Arc<str>, now: Instant) -> Option<Ended> {
        if self.ended.insert(Arc::clone(session), now).is_some() {
            return None;
        }
        let Some(who) = self.live.remove(session) else {
            return Some(Ended {
                who: None,
                last_of: false,
                last: false,
            });
        };
        Some(Ended {
            last: count_down(&mut self.users, &who.1),
            last_of: count_down(&mut self.agents, &who),
            who: Some(who),
        })
    }

    /// Forgets ends that are long past.
    pub(super) fn prune(&mut self, now: Instant, after: Duration) {
        self.ended
            .retain(|_, at| now.saturating_duration_since(*at) < after);
    }
}

/// Counts one less; `true` where none is left.
fn count_down<K: std::hash::Hash + Eq>(counts: &mut HashMap<K, usize>, key: &K) -> bool {
    let left = counts.get_mut(key).map_or(0, |count| {
        *count = count.saturating_sub(1);
        *count
    });
    if left == 0 {
        counts.remove(key);
    }
    left == 0
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
        assert!(sessions.join(&ids[0], &a, None) && sessions.join(&ids[0], &a, None));
        assert!(sessions.join(&ids[1], &a, None) && sessions.join(&ids[2], &b, None));
        assert!(!sessions.end(&ids[0], now).unwrap().last_of);
        assert!(sessions.end(&ids[0], now).is_none(), "it ends once");
        let ended = sessions.end(&ids[1], now).unwrap();
        assert_eq!((ended.last_of, ended.last), (true, false));
        assert_eq!(ended.who, Some((a.clone(), None)));
        assert!(sessions.end(&ids[2], now).unwrap().last);
        assert!(
            !sessions.join(&ids[2], &b, None),
            "an ended session is not begun again"
        );
        sessions.prune(now + Duration::from_secs(601), Duration::from_mins(10));
        assert!(sessions.ended.is_empty() && sessions.agents.is_empty());
    }
}
