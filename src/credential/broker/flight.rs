//! A flight: one call to an issuer, with its deadline and retries, for everybody who waits.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tracing::warn;

use super::super::cell::{Cell, Flight};
use super::super::lease::Last;
use super::super::{
    Bound, Cause, Expiry, Failed, Handle, Issue, IssueError, Issued, LeaseId, Life, Live, Note,
    Orphan, Owed, Reason, Scope,
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

/// A lease that an issuer is asked for.
struct Wanted {
    lease: LeaseId,
    scope: Arc<Scope>,
    chain: Arc<[AgentId]>,
    /// When it was asked for.
    asked: Now,
    /// Its end at the latest, if its issuer gives as much as to the one before.
    latest: Option<Timestamp>,
}

/// A call to an issuer that is under way.
type Call = Pin<Box<dyn Future<Output = Result<Issued, IssueError>> + Send>>;

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
            let brought = match &outcome {
                Ok(live) => Some(Arc::clone(live)),
                // It was revoked meanwhile, and may have been let live on after that.
                Err(_) => asking.old.filter(|old| old.is_unsure()),
            };
            let withdrawn = cell.land(flight, outcome, now, failing);
            inner.landed.fetch_add(1, Ordering::Release);
            if let (Some(reason), Some(late)) = (withdrawn, brought) {
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
            let again = matches!(
                outcome,
                Err(IssueError::Unavailable { retry_after: None } | IssueError::Lost)
            );
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
        let given = Duration::from_secs(entry.granted.load(Ordering::Relaxed));
        let latest = Expiry::after(before, entry.spec.deadline + given);
        let wanted = Wanted {
            lease: LeaseId::of(random()?),
            scope: Arc::clone(scope),
            chain: Arc::clone(&asking.chain),
            asked: before,
            latest: latest.wall().filter(|_| !given.is_zero()),
        };
        if self.notes(entry) {
            let note = wanted.note(None, wanted.latest);
            let written = timeout_at(deadline, self.journal.put(&note)).await;
            if !matches!(written, Ok(Ok(()))) {
                // It may stand there all the same.
                self.strike_out_later(&wanted.lease);
                return Err(IssueError::Store);
            }
        }
        let mut call: Call = {
            let (entry, scope) = (Arc::clone(entry), Arc::clone(scope));
            Box::pin(async move { entry.provider.issue(&scope).await })
        };
        let Ok(answer) = timeout_at(deadline, &mut call).await else {
            if entry.provider.may_end_late() {
                self.wait_behind(entry, wanted, call);
            } else {
                drop(call);
                self.lost(entry, &wanted);
            }
            return Err(IssueError::TimedOut);
        };
        let issued = match answer {
            Ok(issued) => issued,
            Err(error) => {
                self.unissued(entry, &wanted, error);
                return Err(error);
            }
        };
        if issued.handle.is_none() {
            self.forget(entry, &wanted.lease);
        }
        let (handle, life) = (issued.handle.clone(), issued.life);
        match make(entry, &wanted, issued) {
            Ok(live) => {
                let given = live.granted.map_or(0, |given| given.as_secs());
                entry.granted.store(given, Ordering::Relaxed);
                self.write_down(entry, live, deadline).await
            }
            Err(error) => {
                if let Some(handle) = handle {
                    self.give_back(entry, wanted, handle, life).await;
                }
                Err(error)
            }
        }
    }

    /// Whether a lease of this credential is noted before it is asked for.
    fn notes(&self, entry: &Entry) -> bool {
        self.journal.lasts() && entry.provider.revokes()
    }

    /// Goes on with a call that nobody waits for any more: what it brings is given back, and what comes of it is known.
    fn wait_behind(self: &Arc<Self>, entry: &Arc<Entry>, wanted: Wanted, call: Call) {
        let (inner, entry) = (Arc::clone(self), Arc::clone(entry));
        self.tracker.spawn(async move {
            let Ok(_place) = inner.late.try_acquire() else {
                drop(call);
                inner.lost(&entry, &wanted);
                return;
            };
            let answer = inner.stop.run_until_cancelled(timeout(LATE, call)).await;
            match answer {
                Some(Ok(Ok(issued))) => match issued.handle {
                    Some(handle) => inner.give_back(&entry, wanted, handle, issued.life).await,
                    None => inner.forget(&entry, &wanted.lease),
                },
                Some(Ok(Err(error))) => inner.unissued(&entry, &wanted, error),
                // The next process tells of it.
                None if inner.notes(&entry) => {}
                Some(Err(_)) | None => inner.lost(&entry, &wanted),
            }
        });
    }

    /// An issuer has issued nothing, or its answer was lost.
    fn unissued(self: &Arc<Self>, entry: &Entry, wanted: &Wanted, error: IssueError) {
        if error.is_unknown() {
            self.lost(entry, wanted);
        } else {
            self.forget(entry, &wanted.lease);
        }
    }

    /// Tells of a lease that may live and that nobody has.
    fn lost(self: &Arc<Self>, entry: &Entry, wanted: &Wanted) {
        if !entry.provider.revokes() {
            return;
        }
        let credential = &wanted.scope.credential;
        warn!(%credential, lease = %wanted.lease, "an issuer was asked and its answer is not known: a lease may live that keyward cannot revoke; its issuer knows");
        self.events.orphaned(&Orphan {
            scope: &wanted.scope,
            chain: &wanted.chain,
            lease: &wanted.lease,
            provider: entry.provider.kind(),
            expires: wanted.latest,
        });
        self.forget(entry, &wanted.lease);
    }

    /// Takes out, behind whoever waits, the note that a lease was about to be issued. One that stays is told of after the
    /// next start, and no more.
    fn forget(self: &Arc<Self>, entry: &Entry, lease: &LeaseId) {
        if self.notes(entry) {
            let (inner, lease) = (Arc::clone(self), lease.clone());
            self.tracker
                .spawn(async move { inner.strike_out(&lease).await });
        }
    }

    /// Has revoked what cannot be used.
    async fn give_back(
        self: &Arc<Self>,
        entry: &Arc<Entry>,
        wanted: Wanted,
        handle: Handle,
        life: Life,
    ) {
        // What says that it has ended may live by the issuer's own clock.
        let doubtful = Expiry::after(wanted.asked, DOUBTFUL);
        let ends = life.from(wanted.asked).unwrap_or(doubtful);
        if self.journal.lasts() {
            let note = wanted.note(Some(handle.clone()), ends.wall());
            self.journal.put(&note).await.ok();
        }
        let debt = Debt {
            lease: wanted.lease,
            scope: wanted.scope,
            chain: wanted.chain,
            provider: entry.provider.kind(),
            handle: Some(handle),
            issued: wanted.asked.wall,
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
        let known = old.issuer_expires();
        // Its issuer may let it live so long, whatever becomes of the answer.
        old.may_last(latest);
        let answer = timeout_at(deadline, entry.provider.renew(handle)).await;
        match answer.unwrap_or(Err(IssueError::TimedOut)) {
            Ok(life) => {
                let ends = life.from(before).ok()?.or_earlier(latest);
                old.lasts(ends);
                let expires = ends.or_earlier(cap);
                let [jitter] = random().ok()?;
                let next = old.with_end(ends, expires, expires.refresh(before, jitter));
                (!near(&expires)).then(|| Ok(Arc::new(next)))
            }
            Err(IssueError::Refused) => {
                old.lasts(known);
                None
            }
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
            handle: Some(handle),
            issued: live.issued.wall,
            ends: live.issuer_expires().wall(),
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

impl Wanted {
    fn note(&self, handle: Option<Handle>, ends: Option<Timestamp>) -> Note {
        Note {
            lease: self.lease.clone(),
            scope: Scope::clone(&self.scope),
            chain: Arc::clone(&self.chain),
            handle,
            issued: self.asked.wall,
            ends,
            owed: None,
        }
    }
}

/// Makes a lease of what the issuer gave.
fn make(entry: &Entry, wanted: &Wanted, issued: Issued) -> Result<Arc<Live>, IssueError> {
    let (credential, before) = (&wanted.scope.credential, wanted.asked);
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
        id: wanted.lease.clone(),
        scope: Arc::clone(&wanted.scope),
        chain: Arc::clone(&wanted.chain),
        provider: entry.provider.kind(),
        compiled,
        issued: before,
        expires,
        last: Mutex::new(Last::said(issuer_expires)),
        refresh: expires.refresh(before, jitter),
        granted: issuer_expires.left(before),
        handle: issued.handle,
        superseded: issued.superseded,
        bundles: entry.provider.bundles(),
    }))
}

/// How long the answer to a call is waited for that has outlived the credential's deadline.
const LATE: Duration = Duration::from_mins(1);
/// How long it is tried to give back what says that it has no life.
const DOUBTFUL: Duration = Duration::from_hours(1);
/// How often an issuer that is out of reach is tried in one flight.
const ATTEMPTS: u32 = 3;
/// The pause before the second try; each later one is four times as long.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
