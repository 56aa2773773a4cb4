//! Revocation: each withdrawn lease is revoked at its issuer once, tried until confirmed or dead of itself.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep, timeout};
use tracing::warn;

use super::super::{Handle, LeaseState, Live, Reason, RevokeError, Revoked, Revoking};
use super::Inner;
use super::entry::Entry;

impl Inner {
    /// Revokes a lease that nobody is given any more. Called exactly once for each.
    pub(super) fn revoke(
        self: &Arc<Self>,
        entry: &Arc<Entry>,
        live: Arc<Live>,
        reason: Reason,
        by: Option<Arc<str>>,
    ) {
        if live.issuer_expires.is_past(self.clock.now()) {
            return;
        }
        let Some(handle) = live.handle.clone() else {
            self.report(
                entry,
                &live,
                (reason, Revoked::Unsupported, 1),
                by.as_deref(),
            );
            return;
        };
        let info = live.info(LeaseState::Revoking);
        self.revoking.lock().insert(live.id().clone(), info);
        entry.meters.pending.inc();
        let (inner, entry) = (Arc::clone(self), Arc::clone(entry));
        self.tracker.spawn(async move {
            inner
                .try_until_done(&entry, &live, &handle, (reason, by.as_deref()))
                .await;
            inner.revoking.lock().remove(live.id());
            entry.meters.pending.dec();
        });
    }

    async fn try_until_done(
        &self,
        entry: &Entry,
        live: &Live,
        handle: &Handle,
        (reason, by): (Reason, Option<&str>),
    ) {
        let mut pause = FIRST_PAUSE;
        for attempt in 1.. {
            let answer = {
                let _turn = self.revokers.acquire().await;
                timeout(entry.spec.deadline, entry.provider.revoke(handle)).await
            };
            let outcome = match answer {
                Ok(Ok(())) => Revoked::Revoked,
                Ok(Err(RevokeError::Unsupported)) => Revoked::Unsupported,
                Ok(Err(RevokeError::Failed)) | Err(_) => Revoked::Pending,
            };
            self.report(entry, live, (reason, outcome, attempt), by);
            match outcome {
                Revoked::Revoked | Revoked::Unsupported => return,
                Revoked::Pending => {}
            }
            warn!(credential = %live.credential(), lease = %live.id(), attempt, "a revocation was not confirmed");
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
            if live.issuer_expires.is_past(self.clock.now()) {
                return;
            }
        }
    }

    fn report(
        &self,
        entry: &Entry,
        live: &Live,
        (reason, outcome, attempt): (Reason, Revoked, u32),
        by: Option<&str>,
    ) {
        entry.meters.revocation(outcome.word());
        self.events.revoked(&Revoking {
            scope: live.scope(),
            lease: live.id(),
            provider: live.provider(),
            reason,
            outcome,
            attempt,
            by,
        });
    }
}

/// The pause after the first try; each later one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// No pause is longer.
const LONGEST_PAUSE: Duration = Duration::from_mins(1);
