//! A flight: one call to an issuer, with its deadline and retries, for everybody who waits.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};
use tracing::warn;

use super::super::cell::{Cell, Flight};
use super::super::{
    Bound, Cause, Expiry, Failed, Issue, IssueError, Issued, LeaseId, Live, Note, Owed, Reason,
    Scope,
};
use super::Inner;
use super::entry::Entry;
use super::revoke::Debt;
use crate::agent::AgentId;
use crate::clock::Now;

/// What a flight is for.
struct Asking {
    cause: Cause,
    chain: Arc<[AgentId]>,
    /// The lease that is there.
    old: Option<Arc<Live>>,
}

impl Inner {
    /// Starts the flight as a task of the broker's own: it lands even if everybody who waits hangs up.
    pub(super) fn fly(self: &Arc<Self>, entry: &Arc<Entry>, cell: &Arc<Cell>, flight: Flight) {
        let (inner, entry, cell) = (Arc::clone(self), Arc::clone(entry), Arc::clone(cell));
        let asking = Asking {
            cause: flight.cause,
            chain: Arc::clone(&flight.chain),
            old: cell.current(),
        };
        self.tracker.spawn(async move {
            let outcome = inner.call(&entry, &cell.scope, &asking).await;
            let now = inner.clock.now();
            entry.remember(outcome.as_ref().err().copied(), now);
            let failing = (entry.spec.on_failure, entry.spec.failure_ttl);
            let late = cell.land(flight, outcome, now, failing);
            inner.landed.fetch_add(1, Ordering::Release);
            if let Some((late, reason)) = late {
                // Its holders are gone, or an order came while it was under way.
                inner.revoke(&entry, &late, reason, None);
            }
        });
    }

    /// Calls the issuer, and again where that can help, until the credential's deadline.
    async fn call(
        self: &Arc<Self>,
        entry: &Arc<Entry>,
        scope: &Arc<Scope>,
        asking: &Asking,
    ) -> Result<Arc<Live>, IssueError> {
        let deadline = Instant::now() + entry.spec.deadline;
        let mut pause = FIRST_PAUSE;
        for attempt in 1.. {
            let outcome = self.call_once(entry, scope, asking, deadline).await;
            // An issuer that named a time, or said no, is not asked again before it.
            let again = matches!(outcome, Err(IssueError::Unavailable { retry_after: None }));
            if !again || attempt == ATTEMPTS || Instant::now() + pause >= deadline {
                return outcome;
            }
            sleep(pause).await;
            pause *= 4;
        }
        Err(IssueError::TimedOut)
    }

    async fn call_once(
        self: &Arc<Self>,
        entry: &Arc<Entry>,
        scope: &Arc<Scope>,
        asking: &Asking,
        deadline: Instant,
    ) -> Result<Arc<Live>, IssueError> {
        let before = self.clock.now();
        let outcome = match self.prolong(entry, asking, before, deadline).await {
            Some(outcome) => outcome,
            None => self.issue(entry, scope, asking, (before, deadline)).await,
        };
        let after = self.clock.now();
        let duration = after.mono.saturating_duration_since(before.mono);
        let provider = entry.provider.kind();
        let word = outcome.as_ref().err().map(IssueError::word);
        entry.meters.issue(word, duration.as_secs_f64());
        match &outcome {
            Ok(live) => self.events.issued(&Issue {
                scope,
                chain: &asking.chain,
                lease: live.id(),
                provider,
                scopes: asked_for(entry, scope),
                expires: live.expires.wall(),
                cause: asking.cause,
                duration,
            }),
            Err(error) => {
                warn!(credential = %scope.credential, provider, word, "no credential was issued");
                self.events.failed(&Failed {
                    scope,
                    chain: &asking.chain,
                    provider,
                    cause: asking.cause,
                    error: *error,
                    duration,
                });
            }
        }
        outcome
    }

    /// Asks for a lease that is new. What cannot be used is given back.
    async fn issue(
        self: &Arc<Self>,
        entry: &Arc<Entry>,
        scope: &Arc<Scope>,
        asking: &Asking,
        (before, deadline): (Now, Instant),
    ) -> Result<Arc<Live>, IssueError> {
        let answer = timeout_at(deadline, entry.provider.issue(scope)).await;
        let issued = answer.unwrap_or(Err(IssueError::TimedOut))?;
        let (handle, life) = (issued.handle.clone(), issued.life);
        match make(entry, scope, asking, issued, before) {
            Ok(live) => self.write_down(entry, live, deadline).await,
            Err(error) => {
                if let Some(handle) = handle {
                    // What says that it has ended may live by the issuer's own clock.
                    let ends = life.from(before).unwrap_or(Expiry::after(before, DOUBTFUL));
                    let debt = Debt {
                        lease: LeaseId::of(random()?),
                        scope: Arc::clone(scope),
                        chain: Arc::clone(&asking.chain),
                        provider: entry.provider.kind(),
                        handle: Some(handle),
                        issued: before.wall,
                        expires: ends.wall(),
                        ends,
                        owed: Owed {
                            reason: Reason::Unusable,
                            by: None,
                            attempts: 0,
                        },
                    };
                    self.settle(entry, debt);
                }
                Err(error)
            }
        }
    }

    /// The lease that is there with a later end, where its issuer gives it one. `None`: a new one is to be asked for.
    async fn prolong(
        &self,
        entry: &Entry,
        asking: &Asking,
        before: Now,
        deadline: Instant,
    ) -> Option<Result<Arc<Live>, IssueError>> {
        let old = asking.old.as_ref().filter(|old| old.is_usable(before))?;
        let (handle, granted) = (old.handle.as_ref()?, old.granted?);
        let most = Duration::from_secs(handle.renewable()?.seconds.into());
        let cap = entry.cap(old.issued);
        // An end that is near: what would be won is not worth a call, and a new lease is due anyway.
        let near = |end: &Expiry| end.left(before).is_some_and(|left| left < granted / 2);
        if near(&cap) {
            return None;
        }
        let latest = Expiry::after(before, most);
        if self.journal.lasts() {
            // Before the call: who finds the note after a crash must not take the lease for ended.
            let written = self.journal.prolong(old.id(), latest.wall());
            if !matches!(timeout_at(deadline, written).await, Ok(Ok(()))) {
                return Some(Err(IssueError::Store));
            }
        }
        let answer = timeout_at(deadline, entry.provider.renew(handle)).await;
        match answer.unwrap_or(Err(IssueError::TimedOut)) {
            Ok(life) => {
                let ends = life.from(before).ok()?.or_earlier(latest);
                let expires = ends.or_earlier(cap);
                let [jitter] = random().ok()?;
                let next = old.with_end(ends, expires, expires.refresh(before, jitter));
                (!near(&expires)).then(|| Ok(Arc::new(next)))
            }
            Err(IssueError::Refused) => None,
            Err(error) => Some(Err(error)),
        }
    }

    /// Notes what revokes the lease before anybody uses it. One that cannot be noted is revoked and not used.
    async fn write_down(
        self: &Arc<Self>,
        entry: &Arc<Entry>,
        live: Arc<Live>,
        deadline: Instant,
    ) -> Result<Arc<Live>, IssueError> {
        let Some(handle) = live.handle.clone().filter(|_| self.journal.lasts()) else {
            return Ok(live);
        };
        let note = Note {
            lease: live.id().clone(),
            scope: live.scope().clone(),
            chain: Arc::clone(&live.chain),
            handle,
            issued: live.issued.wall,
            ends: live.issuer_expires.wall(),
            owed: None,
        };
        if let Ok(Ok(())) = timeout_at(deadline, self.journal.put(&note)).await {
            return Ok(live);
        }
        self.revoke(entry, &live, Reason::Store, None);
        Err(IssueError::Store)
    }
}

fn random<const N: usize>() -> Result<[u8; N], IssueError> {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| IssueError::Unavailable { retry_after: None })?;
    Ok(bytes)
}

/// The scopes of a lease, as far as the file says them.
fn asked_for<'a>(entry: &'a Entry, scope: &'a Scope) -> Option<&'a [Arc<str>]> {
    let own = match entry.spec.kind.grants().scopes {
        Bound::Within(scopes) => Some(scopes),
        Bound::Unknown | Bound::Open => None,
    };
    scope.narrow.scopes.as_deref().or(own)
}

/// Makes a lease of what the issuer gave.
fn make(
    entry: &Entry,
    scope: &Arc<Scope>,
    asking: &Asking,
    issued: Issued,
    before: Now,
) -> Result<Arc<Live>, IssueError> {
    let credential = &scope.credential;
    let issuer_expires = issued.life.from(before).map_err(|error| {
        warn!(%credential, %error, "an issued credential cannot be used");
        IssueError::Refused
    })?;
    let compiled = entry.compile(issued.material).map_err(|error| {
        warn!(%credential, %error, "an issued credential cannot be used");
        IssueError::Refused
    })?;
    let expires = issuer_expires.or_earlier(entry.cap(before));
    let [jitter] = random()?;
    Ok(Arc::new(Live {
        id: LeaseId::of(random()?),
        scope: Arc::clone(scope),
        chain: Arc::clone(&asking.chain),
        provider: entry.provider.kind(),
        compiled,
        issued: before,
        expires,
        issuer_expires,
        refresh: expires.refresh(before, jitter),
        granted: issuer_expires.left(before),
        handle: issued.handle,
        superseded: issued.superseded,
        bundles: entry.provider.bundles(),
    }))
}

/// How long it is tried to give back what says that it has no life.
const DOUBTFUL: Duration = Duration::from_hours(1);
/// How often an issuer that is out of reach is tried in one flight.
const ATTEMPTS: u32 = 3;
/// The pause before the second try; each later one is four times as long.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
