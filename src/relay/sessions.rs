//! Sessions of people at the gateway: each is known until its end, and ended with the sign-in that it is for.
//!
//! A renewal begins a session of its own, and tunnels of the one before go on: whoever signs out ends all of them. What
//! the gateway did not end at once is asked of it again until it has, or the session is over.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tracing::{info, warn};

use super::standing::{Standing, backoff};
use super::token::Evidence;
use crate::clock::Clock;
use crate::tls::Connector;

/// All that are not over.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    all: Mutex<All>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct All {
    /// The oldest first.
    begun: VecDeque<Arc<Standing>>,
    ending: Vec<Ending>,
}

/// One that the gateway is to end.
#[derive(Debug)]
struct Ending {
    session: Arc<Standing>,
    failures: u32,
    /// When it is tried again; at once where it was not tried.
    due: Option<Instant>,
}

/// As many are left to go on; the oldest beyond are ended.
const MOST: usize = 64;

impl Sessions {
    /// Takes note of one that has begun, where it is for a person.
    pub(super) fn begun(&self, session: &Arc<Standing>, now: Instant) {
        if session.user().is_none() {
            return;
        }
        let mut all = self.all.lock();
        all.begun.retain(|one| !one.is_over(now));
        all.begun.push_back(Arc::clone(session));
        if all.begun.len() > MOST
            && let Some(oldest) = all.begun.pop_front()
        {
            all.ending.push(Ending::new(oldest));
            self.changed.notify_one();
        }
    }

    /// Has the gateway end these, tunnels and all.
    pub(super) fn end(&self, which: impl Fn(&Standing) -> bool) {
        let mut all = self.all.lock();
        let (over, begun): (Vec<_>, _) = all.begun.drain(..).partition(|one| which(one));
        all.begun = begun.into();
        if !over.is_empty() {
            all.ending.extend(over.into_iter().map(Ending::new));
            self.changed.notify_one();
        }
    }

    /// Ends what is to be ended, for ever. `newest` is the connector of now; where there is none that of the session serves.
    pub(super) async fn keep_ending(
        &self,
        evidence: &Arc<Evidence>,
        clock: &dyn Clock,
        newest: impl Fn() -> Option<Arc<Connector>>,
    ) {
        loop {
            let mut tried = JoinSet::new();
            for one in self.due(clock.mono()) {
                let evidence = Arc::clone(evidence);
                let connector = newest().unwrap_or_else(|| Arc::clone(&one.session.connector));
                tried.spawn(async move {
                    let token = one.session.authorization.as_ref();
                    let ended = match token {
                        Some(token) => evidence.revoke(&connector, token).await,
                        None => Ok(()),
                    };
                    (one, ended)
                });
            }
            while let Some(done) = tried.join_next().await {
                let Ok((mut one, ended)) = done else {
                    continue;
                };
                match ended {
                    Ok(()) if one.failures > 0 => info!("a person's session is ended after all"),
                    Ok(()) => {}
                    Err(why) => {
                        if one.failures == 0 {
                            warn!(why = %why, "a person's session is not ended yet; trying again");
                        }
                        one.failures = one.failures.saturating_add(1);
                        one.due = Some(clock.mono() + backoff(one.failures));
                        self.all.lock().ending.push(one);
                    }
                }
            }
            let next = self.next(clock.mono());
            tokio::select! {
                () = self.changed.notified() => {}
                () = tokio::time::sleep(next.unwrap_or_default()), if next.is_some() => {}
            }
        }
    }

    /// Takes out those whose turn it is.
    fn due(&self, now: Instant) -> Vec<Ending> {
        let mut all = self.all.lock();
        all.ending.retain(|one| !one.session.is_over(now));
        let all_of = all.ending.drain(..);
        let (due, later) = all_of.partition(|one| one.due.is_none_or(|due| due <= now));
        all.ending = later;
        due
    }

    /// How long until the next.
    fn next(&self, now: Instant) -> Option<Duration> {
        let all = self.all.lock();
        let waits = all.ending.iter();
        let waits = waits.map(|one| one.due.unwrap_or(now).saturating_duration_since(now));
        waits.min()
    }
}

impl Ending {
    fn new(session: Arc<Standing>) -> Self {
        Self {
            session,
            failures: 0,
            due: None,
        }
    }
}
