//! Revocation: each withdrawn lease is revoked at its issuer once, tried until confirmed or dead of itself.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::{sleep, timeout};
use tracing::warn;

use super::super::{
    Expiry, Handle, LeaseId, LeaseInfo, LeaseState, Live, Owed, Reason, RevokeError, Revoked,
    Revoking, Scope,
};
use super::Inner;
use super::entry::Entry;
use crate::agent::AgentId;

/// A lease that is to be revoked: one of this process, or one that a dead process left.
#[derive(Debug)]
pub(super) struct Debt {
    pub(super) lease: LeaseId,
    pub(super) scope: Arc<Scope>,
    /// The chain of the session that caused it to be issued; empty where that is not known.
    pub(super) chain: Arc<[AgentId]>,
    pub(super) provider: &'static str,
    pub(super) handle: Option<Handle>,
    pub(super) issued: Timestamp,
    pub(super) expires: Option<Timestamp>,
    /// When its issuer ends it by itself.
    pub(super) ends: Expiry,
    /// Why, by whom, and how often it was tried before.
    pub(super) owed: Owed,
}

impl Inner {
    /// Revokes a lease that nobody is given any more. Called exactly once for each.
    pub(super) fn revoke(
        self: &Arc<Self>,
        entry: &Arc<Entry>,
        live: &Live,
        reason: Reason,
        by: Option<&str>,
    ) {
        let debt = Debt {
            lease: live.id().clone(),
            scope: Arc::clone(&live.scope),
            chain: Arc::clone(&live.chain),
            provider: live.provider(),
            handle: live.handle.clone(),
            issued: live.issued.wall,
            expires: live.expires.wall(),
            ends: live.issuer_expires(),
            owed: Owed {
                reason,
                by: by.map(Into::into),
                attempts: 0,
            },
        };
        self.settle(entry, debt);
    }

    /// Revokes what is owed, in the background.
    pub(super) fn settle(self: &Arc<Self>, entry: &Arc<Entry>, mut debt: Debt) {
        if debt.ends.is_past_for_sure(self.clock.now()) {
            return;
        }
        let Some(handle) = debt.handle.clone() else {
            debt.owed.attempts = 1;
            self.report(entry, &debt, Revoked::Unsupported);
            return;
        };
        let info = debt.info();
        self.revoking.lock().insert(debt.lease.clone(), info);
        entry.meters.pending.inc();
        let (inner, entry) = (Arc::clone(self), Arc::clone(entry));
        self.tracker.spawn(async move {
            inner.try_until_done(&entry, &mut debt, &handle).await;
            inner.revoking.lock().remove(&debt.lease);
            entry.meters.pending.dec();
        });
    }

    async fn try_until_done(&self, entry: &Entry, debt: &mut Debt, handle: &Handle) {
        let mut pause = FIRST_PAUSE;
        loop {
            let answer = {
                let _turn = self.revokers.acquire().await;
                timeout(entry.spec.deadline, entry.provider.revoke(handle)).await
            };
            let outcome = match answer {
                Ok(Ok(())) => Revoked::Revoked,
                Ok(Err(RevokeError::Unsupported)) => Revoked::Unsupported,
                Ok(Err(RevokeError::Failed)) | Err(_) => Revoked::Pending,
            };
            debt.owed.attempts = debt.owed.attempts.saturating_add(1);
            self.report(entry, debt, outcome);
            match outcome {
                Revoked::Revoked | Revoked::Unsupported => break,
                Revoked::Pending => {}
            }
            warn!(credential = %debt.scope.credential, lease = %debt.lease, attempt = debt.owed.attempts, "a revocation was not confirmed");
            if self.journal.lasts() {
                // Without this the next process begins to count anew, and nothing else.
                self.journal.owe(&debt.lease, &debt.owed).await.ok();
            }
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
            if debt.ends.is_past_for_sure(self.clock.now()) {
                break;
            }
        }
        if self.journal.lasts() {
            // A note that stays is revoked once more after the next start, which an issuer takes for done.
            self.strike_out(&debt.lease).await;
        }
    }

    /// Takes a note out; later, where the store is out of reach.
    pub(super) async fn strike_out(&self, lease: &LeaseId) {
        if self.journal.remove(lease).await.is_err() {
            self.strike_out_later(lease);
        }
    }

    /// Has a note taken out with one of the next beats. Beyond [`STRAYS`] it is left to the next process.
    pub(super) fn strike_out_later(&self, lease: &LeaseId) {
        let mut strays = self.strays.lock();
        if strays.len() < STRAYS {
            strays.push(lease.clone());
        }
    }

    /// Takes out what could not be taken out before, as far as the store takes it.
    pub(super) async fn strike_out_strays(&self) {
        loop {
            let Some(stray) = self.strays.lock().pop() else {
                return;
            };
            if self.journal.remove(&stray).await.is_err() {
                self.strays.lock().push(stray);
                return;
            }
        }
    }

    fn report(&self, entry: &Entry, debt: &Debt, outcome: Revoked) {
        entry.meters.revocation(outcome.word());
        self.events.revoked(&Revoking {
            scope: &debt.scope,
            chain: &debt.chain,
            lease: &debt.lease,
            provider: debt.provider,
            reason: debt.owed.reason,
            outcome,
            attempt: debt.owed.attempts,
            by: debt.owed.by.as_deref(),
        });
    }
}

impl Debt {
    fn info(&self) -> LeaseInfo {
        LeaseInfo {
            id: self.lease.clone(),
            provider: self.provider,
            scope: Arc::clone(&self.scope),
            issued: self.issued,
            expires: self.expires,
            state: LeaseState::Revoking,
        }
    }
}

/// The pause after the first try; each later one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// So many notes are remembered that could not be taken out.
const STRAYS: usize = 16 * 1024;
/// No pause is longer.
const LONGEST_PAUSE: Duration = Duration::from_mins(1);
