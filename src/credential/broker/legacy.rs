//! What dead processes left in the journal: taken over by one of the living, and revoked.

use std::sync::Arc;
use std::time::Duration;

use tracing::{error, info, warn};

use super::super::{Expiry, Life, Note, Owed, Pulse, Reason};
use super::revoke::Debt;
use super::{Broker, Inner};
use crate::agent::Name;

impl Broker {
    /// Says every [`BEAT`] that this process lives, and looks for what dead ones left.
    pub(super) fn look_for_the_dead(&self) {
        let inner = Arc::downgrade(&self.0);
        let stop = self.0.stop.clone();
        self.0.tracker.spawn(async move {
            let mut tick = tokio::time::interval(BEAT);
            tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            let mut first = true;
            while stop.run_until_cancelled(tick.tick()).await.is_some() {
                let Some(inner) = inner.upgrade() else { return };
                match inner.journal.beat().await {
                    Ok(Pulse::New) if !first => {
                        error!("this process was held to be dead, and its leases were revoked by another; it drops them");
                        inner.drop_all();
                    }
                    Ok(_) => {}
                    Err(_) => {
                        warn!("the store does not know that this process lives");
                        continue;
                    }
                }
                first = false;
                inner.adopt().await;
            }
        });
    }
}

impl Inner {
    /// Revokes what the dead left of the credentials that are in service.
    async fn adopt(self: &Arc<Self>) {
        let names: Vec<Name> = self.catalog.load().live.keys().cloned().collect();
        let Ok(notes) = self.journal.adopt(&names).await else {
            warn!("the store does not say what dead processes left; it is asked again");
            return;
        };
        if !notes.is_empty() {
            info!(
                leases = notes.len(),
                "another process left leases; they are revoked"
            );
        }
        for note in notes {
            let catalog = self.catalog.load();
            let Some(entry) = catalog.live.get(&note.scope.credential).cloned() else {
                continue;
            };
            drop(catalog);
            let debt = self.debt(note, entry.provider.kind());
            self.settle(&entry, debt);
        }
    }

    fn debt(&self, note: Note, provider: &'static str) -> Debt {
        let now = self.clock.now();
        let ends = match note.ends {
            // One that has ended meanwhile is past from now on.
            Some(ends) => Life::Until(ends)
                .from(now)
                .unwrap_or(Expiry::after(now, Duration::ZERO)),
            None => Expiry::NEVER,
        };
        Debt {
            lease: note.lease,
            scope: Arc::new(note.scope),
            chain: note.chain,
            provider,
            handle: Some(note.handle),
            issued: note.issued,
            expires: note.ends,
            ends,
            owed: note.owed.unwrap_or(Owed {
                reason: Reason::Shutdown,
                by: None,
                attempts: 0,
            }),
        }
    }

    /// Withdraws every lease: somebody else has revoked them.
    fn drop_all(self: &Arc<Self>) {
        let now = self.clock.now();
        for entry in self.catalog.load().live.values() {
            for cell in entry.cells.values() {
                for live in cell.withdraw(now, Reason::Shutdown, false) {
                    self.revoke(entry, &live, Reason::Shutdown, None);
                }
            }
        }
    }
}

/// How often this process says that it lives.
const BEAT: Duration = Duration::from_secs(10);
