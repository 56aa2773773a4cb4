//! One key's place in the cache: its lease, the flight that fetches the next, and what is left of earlier ones.
//!
//! The hit path reads `current` and nothing else. All else is behind one short lock that no await is held across.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::metrics::Meters;
use super::{Cause, IssueError, LeaseId, Live, OnFailure, Reason, Scope};
use crate::agent::AgentId;
use crate::clock::Now;
use crate::scrub::Sought;

/// What a flight brings to all who wait for it.
pub(super) type Landing = Result<Arc<Live>, IssueError>;

/// The place of one (credential, holder).
#[derive(Debug)]
pub(super) struct Cell {
    pub(super) scope: Arc<Scope>,
    current: ArcSwapOption<Live>,
    sought: ArcSwap<Sought>,
    /// Whether somebody used the lease since it was issued, or since it was last found idle.
    used: AtomicBool,
    meters: Arc<Meters>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    flight: Option<watch::Receiver<Option<Landing>>>,
    failure: Option<Failure>,
    /// Leases that are no longer given out: still scrubbed, and some still to be revoked.
    retired: Vec<Retired>,
    /// Goes up when leases are withdrawn: a flight that began before brings nothing that may be used.
    epoch: u64,
    /// Why they were withdrawn last.
    withdrawn: Reason,
    /// The cell is out of the map; who holds it looks again.
    dead: bool,
    idle_since: Instant,
    /// The chain of the session that asked last and found no lease.
    chain: Arc<[AgentId]>,
}

#[derive(Debug)]
struct Retired {
    live: Arc<Live>,
    at: Instant,
    settled: bool,
}

/// A failure, while it is remembered.
#[derive(Debug, Clone, Copy)]
pub(super) struct Failure {
    error: IssueError,
    until: Instant,
}

/// What a request finds that did not find a usable lease.
pub(super) enum Joined {
    /// One landed in between.
    Live(Arc<Live>),
    /// The issuer failed a moment ago.
    Failed(IssueError),
    /// A flight is under way.
    Wait(watch::Receiver<Option<Landing>>),
    /// The caller starts it.
    Lead(Flight, watch::Receiver<Option<Landing>>),
    /// The cell has left the map.
    Gone,
}

/// The right and the duty to fetch the next lease of a cell.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) cause: Cause,
    pub(super) chain: Arc<[AgentId]>,
    epoch: u64,
    landing: watch::Sender<Option<Landing>>,
}

/// What a sweep found.
#[derive(Debug, Default)]
pub(super) struct Swept {
    /// The next lease is to be fetched.
    pub(super) renew: Option<Flight>,
    /// Leases past their `max-life` that their issuer would still take.
    pub(super) overdue: Vec<Arc<Live>>,
    /// Nothing is left in the cell.
    pub(super) empty: bool,
}

impl Cell {
    pub(super) fn new(scope: Scope, meters: Arc<Meters>, none: Arc<Sought>, now: Now) -> Self {
        Self {
            scope: Arc::new(scope),
            current: ArcSwapOption::empty(),
            sought: ArcSwap::new(none),
            used: AtomicBool::new(false),
            meters,
            state: Mutex::new(State {
                flight: None,
                failure: None,
                retired: Vec::new(),
                epoch: 0,
                withdrawn: Reason::Order,
                dead: false,
                idle_since: now.mono,
                chain: Arc::default(),
            }),
        }
    }

    /// The lease, if it may be used now. Lock-free.
    pub(super) fn hit(&self, now: Now) -> Option<Arc<Live>> {
        let current = self.current.load();
        if !current.as_ref()?.is_usable(now) {
            return None;
        }
        self.touch();
        arc_swap::Guard::into_inner(current)
    }

    /// Notes a use. Read before written: cores that serve the same lease do not fight for the line.
    pub(super) fn touch(&self) {
        if !self.used.load(Ordering::Relaxed) {
            self.used.store(true, Ordering::Relaxed);
        }
    }

    /// The lease, used or not, for lists.
    pub(super) fn current(&self) -> Option<Arc<Live>> {
        self.current.load_full()
    }

    /// What answers to this holder are scrubbed of.
    pub(super) fn sought(&self) -> Arc<Sought> {
        self.sought.load_full()
    }

    /// Joins the flight, or begins one. `issuer` is what is remembered of the issuer as a whole.
    /// `chain` is that of the session that asks.
    pub(super) fn join(
        &self,
        now: Now,
        issuer: Option<IssueError>,
        chain: &Arc<[AgentId]>,
    ) -> Joined {
        let mut state = self.state.lock();
        if state.dead {
            return Joined::Gone;
        }
        if let Some(live) = self.current.load_full().filter(|live| live.is_usable(now)) {
            return Joined::Live(live);
        }
        if let Some(flight) = state.under_way() {
            return Joined::Wait(flight);
        }
        if let Some(error) = state.remembered(now).or(issuer) {
            return Joined::Failed(error);
        }
        let cause = if self.current.load().is_some() {
            Cause::Refresh
        } else {
            Cause::First
        };
        state.chain = Arc::clone(chain);
        let (flight, waiting) = state.begin(cause);
        Joined::Lead(flight, waiting)
    }

    /// Takes in what a flight brought, and gives everybody who waits the outcome.
    ///
    /// `Some` where it came too late to be used: what it brought must be revoked, and why.
    pub(super) fn land(
        &self,
        flight: Flight,
        outcome: Landing,
        now: Now,
        (on_failure, memory): (OnFailure, Duration),
    ) -> Option<Reason> {
        let Flight {
            epoch,
            landing,
            cause: _,
            chain: _,
        } = flight;
        let mut state = self.state.lock();
        if state.dead || state.epoch != epoch {
            let reason = state.withdrawn;
            drop(state);
            landing.send_replace(Some(Err(IssueError::Refused)));
            return Some(reason);
        }
        state.flight = None;
        match &outcome {
            Ok(live) => {
                state.failure = None;
                self.used.store(false, Ordering::Relaxed);
                state.idle_since = now.mono;
                self.replace(&mut state, Some(Arc::clone(live)), now);
            }
            Err(error) => {
                state.failure = Some(Failure::of(*error, now, memory));
                match on_failure {
                    OnFailure::Refuse => self.replace(&mut state, None, now),
                    OnFailure::Stale => {}
                }
            }
        }
        drop(state);
        landing.send_replace(Some(outcome));
        None
    }

    /// Withdraws every lease, and what flights may yet bring. Their secrets stay in the patterns for a while.
    ///
    /// Returns what is to be revoked. With `dead` the cell serves nobody again.
    pub(super) fn withdraw(&self, now: Now, reason: Reason, dead: bool) -> Vec<Arc<Live>> {
        let mut state = self.state.lock();
        state.epoch += 1;
        state.withdrawn = reason;
        state.dead |= dead;
        state.flight = None;
        state.failure = None;
        self.replace(&mut state, None, now);
        let owed = state.retired.iter_mut().filter(|old| !old.settled);
        owed.map(|old| {
            old.settled = true;
            old.at = now.mono;
            Arc::clone(&old.live)
        })
        .collect()
    }

    /// The leases in whose place newer ones stand, and that their issuer would still take.
    pub(super) fn replaced(&self, now: Now) -> Vec<Arc<Live>> {
        let state = self.state.lock();
        let old = state.retired.iter().filter(|old| !old.settled);
        old.filter(|old| old.live.is_owed(now))
            .map(|old| Arc::clone(&old.live))
            .collect()
    }

    /// Withdraws one of them, which is then to be revoked. The one in its place goes on to serve.
    pub(super) fn withdraw_replaced(&self, id: &LeaseId, now: Now) -> Option<Arc<Live>> {
        let mut state = self.state.lock();
        let mut owed = state.retired.iter_mut().filter(|old| !old.settled);
        let old = owed.find(|old| old.live.id() == id)?;
        old.settled = true;
        old.at = now.mono;
        Some(Arc::clone(&old.live))
    }

    /// Looks after the cell: what has ended is retired, what is old forgotten, what is due asked for.
    pub(super) fn sweep(&self, now: Now, issuer: Option<IssueError>) -> Swept {
        let mut swept = Swept::default();
        let mut state = self.state.lock();
        let mut due = false;
        if let Some(live) = self.current.load_full() {
            if !live.is_usable(now) {
                // Whoever used it will be back: the next is fetched, once; a failure is left to the next request.
                due = self.used.swap(false, Ordering::Relaxed);
                self.replace(&mut state, None, now);
            } else if self.is_idle(&mut state, &live, now) {
                self.replace(&mut state, None, now);
            } else {
                due = live.refresh.is_past(now) && self.used.load(Ordering::Relaxed);
            }
        }
        let before = state.retired.len();
        for old in &mut state.retired {
            if old.settled {
                continue;
            }
            // An idle lease is let go; one that was replaced may serve a request that is under way until its end.
            let over = old.live.expires.is_past(now) || old.live.expires.is_never();
            if over {
                // Its secret stays sought for from now on, however long ago another took its place.
                old.settled = true;
                old.at = now.mono;
                if old.live.is_owed(now) {
                    swept.overdue.push(Arc::clone(&old.live));
                }
            }
        }
        state
            .retired
            .retain(|old| !old.settled || now.mono.saturating_duration_since(old.at) < REMEMBERED);
        if state.retired.len() != before {
            self.gather(&state);
        }
        let quiet = state.under_way().is_none() && state.remembered(now).is_none();
        if due && quiet && issuer.is_none() && !state.dead {
            swept.renew = Some(state.begin(Cause::Refresh).0);
        }
        swept.empty = quiet
            && swept.renew.is_none()
            && state.retired.is_empty()
            && self.current.load().is_none();
        swept
    }

    /// Marks the cell as out of the map, if it is still empty; `false` if somebody came.
    pub(super) fn close_if_empty(&self, now: Now) -> bool {
        let mut state = self.state.lock();
        let empty = state.under_way().is_none()
            && state.remembered(now).is_none()
            && state.retired.is_empty()
            && self.current.load().is_none();
        state.dead |= empty;
        empty
    }

    /// Whether an endless lease was not used for [`IDLE`]. Others end by themselves.
    fn is_idle(&self, state: &mut State, live: &Live, now: Now) -> bool {
        if !live.expires.is_never() {
            return false;
        }
        if now.mono.saturating_duration_since(state.idle_since) < IDLE {
            return false;
        }
        state.idle_since = now.mono;
        !self.used.swap(false, Ordering::Relaxed)
    }

    /// Puts `next` in the place of the current lease, which is retired.
    fn replace(&self, state: &mut State, next: Option<Arc<Live>>, now: Now) {
        if let Some(next) = &next {
            // The same lease with a later end takes its own place: nothing of it is over.
            let same = |old: &Live| old.id() == next.id();
            if self.current.load().as_deref().is_some_and(same) {
                self.current.store(Some(Arc::clone(next)));
                return;
            }
            state.retired.retain(|old| !same(&old.live));
        }
        if next.is_some() {
            self.meters.leases.inc();
        }
        let changed = next.is_some();
        let old = self.current.swap(next);
        let had = old.is_some();
        if let Some(live) = old {
            self.meters.leases.dec();
            self.meters.age.observe(live.age(now).as_secs_f64());
            state.retired.push(Retired {
                live,
                at: now.mono,
                settled: false,
            });
        }
        if changed || had {
            self.gather(state);
        }
    }

    /// Gathers what is sought anew, of the current lease and the retired ones.
    fn gather(&self, state: &State) {
        let mut all: Vec<Arc<Sought>> = Vec::new();
        let current = self.current.load_full();
        let retired = state.retired.iter().map(|old| &old.live);
        for live in current.iter().chain(retired) {
            let sought = live.sought();
            if !sought.is_empty() && !all.iter().any(|one| Arc::ptr_eq(one, sought)) {
                all.push(Arc::clone(sought));
            }
        }
        let sought = match all.as_slice() {
            [one] => Arc::clone(one),
            many => self.sought.load().shelf().union(many),
        };
        self.sought.store(sought);
    }
}

impl State {
    /// The flight, unless its task is gone without a word.
    fn under_way(&self) -> Option<watch::Receiver<Option<Landing>>> {
        self.flight
            .as_ref()
            .filter(|flight| flight.has_changed().is_ok())
            .cloned()
    }

    fn remembered(&self, now: Now) -> Option<IssueError> {
        self.failure.and_then(|failure| failure.at(now))
    }

    fn begin(&mut self, cause: Cause) -> (Flight, watch::Receiver<Option<Landing>>) {
        let (landing, waiting) = watch::channel(None);
        self.flight = Some(waiting.clone());
        let flight = Flight {
            cause,
            chain: Arc::clone(&self.chain),
            epoch: self.epoch,
            landing,
        };
        (flight, waiting)
    }
}

impl Failure {
    /// Remembers `error` for `memory`, or as long as the issuer asks where that is longer, but five minutes at most.
    pub(super) fn of(error: IssueError, now: Now, memory: Duration) -> Self {
        let asked = match error {
            IssueError::Unavailable { retry_after } => retry_after.unwrap_or_default(),
            IssueError::RefusedFor { retry_after } => retry_after,
            IssueError::Refused
            | IssueError::Sealed
            | IssueError::TimedOut
            | IssueError::Lost
            | IssueError::UserRequired
            | IssueError::Store => Duration::ZERO,
        };
        Self {
            error,
            until: now.mono + memory.max(asked.min(LONGEST_RETRY_AFTER)),
        }
    }

    /// The failure as it is at `now`, with the time that is left; `None` when it is forgotten.
    pub(super) fn at(self, now: Now) -> Option<IssueError> {
        let left = self.until.saturating_duration_since(now.mono);
        if left.is_zero() {
            return None;
        }
        Some(match self.error {
            IssueError::Unavailable { .. } => IssueError::Unavailable {
                retry_after: Some(left),
            },
            IssueError::RefusedFor { .. } => IssueError::RefusedFor { retry_after: left },
            error @ (IssueError::Refused
            | IssueError::Sealed
            | IssueError::TimedOut
            | IssueError::Lost
            | IssueError::UserRequired
            | IssueError::Store) => error,
        })
    }
}

/// How long the secrets of a lease that is no longer used are still taken out of answers.
pub(super) const REMEMBERED: Duration = Duration::from_mins(10);
/// An endless lease that nobody used for so long is let go.
const IDLE: Duration = Duration::from_hours(1);
/// No issuer can shut us out for longer.
const LONGEST_RETRY_AFTER: Duration = Duration::from_mins(5);
