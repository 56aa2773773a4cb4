//! A flight: one call to an issuer, with its deadline and retries, for everybody who waits.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};
use tracing::warn;

use super::super::cell::{Cell, Flight};
use super::super::{
    Bound, Cause, Expiry, Failed, Issue, IssueError, Issued, LeaseId, Live, Note, Reason, Scope,
};
use super::Inner;
use super::entry::Entry;
use crate::clock::Now;

impl Inner {
    /// Starts the flight as a task of the broker's own: it lands even if everybody who waits hangs up.
    pub(super) fn fly(self: &Arc<Self>, entry: &Arc<Entry>, cell: &Arc<Cell>, flight: Flight) {
        let (inner, entry, cell) = (Arc::clone(self), Arc::clone(entry), Arc::clone(cell));
        self.tracker.spawn(async move {
            let outcome = inner.call(&entry, &cell.scope, flight.cause).await;
            let now = inner.clock.now();
            entry.remember(outcome.as_ref().err().copied(), now);
            let failing = (entry.spec.on_failure, entry.spec.failure_ttl);
            if let Some((late, reason)) = cell.land(flight, outcome, now, failing) {
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
        cause: Cause,
    ) -> Result<Arc<Live>, IssueError> {
        let deadline = Instant::now() + entry.spec.deadline;
        let mut pause = FIRST_PAUSE;
        for attempt in 1.. {
            let outcome = self.call_once(entry, scope, cause, deadline).await;
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
        cause: Cause,
        deadline: Instant,
    ) -> Result<Arc<Live>, IssueError> {
        let before = self.clock.now();
        let answer = timeout_at(deadline, entry.provider.issue(scope))
            .await
            .unwrap_or(Err(IssueError::TimedOut));
        let outcome = match answer.and_then(|issued| make(entry, scope, issued, before)) {
            Ok(live) => self.write_down(entry, live, deadline).await,
            Err(error) => Err(error),
        };
        let after = self.clock.now();
        let duration = after.mono.saturating_duration_since(before.mono);
        let provider = entry.provider.kind();
        let word = outcome.as_ref().err().map(IssueError::word);
        entry.meters.issue(word, duration.as_secs_f64());
        match &outcome {
            Ok(live) => self.events.issued(&Issue {
                scope,
                lease: live.id(),
                provider,
                scopes: asked_for(entry, scope),
                expires: live.expires.wall(),
                cause,
                duration,
            }),
            Err(error) => {
                warn!(credential = %scope.credential, provider, word, "no credential was issued");
                self.events.failed(&Failed {
                    scope,
                    provider,
                    cause,
                    error: *error,
                    duration,
                });
            }
        }
        outcome
    }
}

impl Inner {
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
    let cap = entry
        .spec
        .max_life
        .map_or(Expiry::NEVER, |life| Expiry::after(before, life));
    let expires = issuer_expires.or_earlier(cap);
    let mut random = [0; 13];
    aws_lc_rs::rand::fill(&mut random)
        .map_err(|_| IssueError::Unavailable { retry_after: None })?;
    let [jitter, id @ ..] = random;
    Ok(Arc::new(Live {
        id: LeaseId::of(id),
        scope: Arc::clone(scope),
        provider: entry.provider.kind(),
        compiled,
        issued: before,
        expires,
        issuer_expires,
        refresh: expires.refresh(before, jitter),
        handle: issued.handle,
        superseded: issued.superseded,
        bundles: entry.provider.bundles(),
    }))
}

/// How often an issuer that is out of reach is tried in one flight.
const ATTEMPTS: u32 = 3;
/// The pause before the second try; each later one is four times as long.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
