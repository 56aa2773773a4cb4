//! What dead processes left in the journal: taken over by one of the living, and revoked.

use std::sync::Arc;
use std::time::Duration;

use tracing::{error, info, warn};

use super::super::{Expiry, LeaseId, Left, Life, Note, Orphan, Owed, Pulse, Reason};
use super::entry::Entry;
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
            let mut after = None;
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
                inner.strike_out_strays().await;
                for _ in 0..PAGES {
                    after = inner.adopt(after).await;
                    if after.is_none() {
                        break;
                    }
                }
            }
        });
    }
}

impl Inner {
    /// Revokes some of what the dead left of the credentials that are in service; behind which to go on. Where an issuer
    /// is behind with its revocations, the rest of its notes wait for the next round, and keep no others waiting.
    async fn adopt(self: &Arc<Self>, after: Option<LeaseId>) -> Option<LeaseId> {
        let catalog = self.catalog.load_full();
        let keeps_up = |entry: &&Arc<Entry>| entry.meters.pending.get() < MOST;
        let names = catalog.live.values().filter(keeps_up);
        let names: Vec<Name> = names.map(|entry| entry.spec.name.clone()).collect();
        let Ok(Left { notes, next }) = self.journal.adopt(&names, after.as_ref()).await else {
            warn!("the store does not say what dead processes left; it is asked again");
            return after;
        };
        if !notes.is_empty() {
            info!(
                leases = notes.len(),
                "another process left leases; what can be revoked is"
            );
        }
        for note in notes {
            let catalog = self.catalog.load();
            let Some(entry) = catalog.live.get(&note.scope.credential).cloned() else {
                continue;
            };
            drop(catalog);
            let provider = entry.provider.kind();
            if note.handle.is_none() {
                self.orphaned(&note, provider).await;
                continue;
            }
            let debt = self.debt(note, provider);
            self.settle(&entry, debt);
        }
        next
    }

    /// Says that a lease may live of which only this is known, and forgets it.
    async fn orphaned(&self, note: &Note, provider: &'static str) {
        let credential = &note.scope.credential;
        let asked = note.issued;
        let ends = note
            .ends
            .map_or_else(|| "unknown".into(), |ends| ends.to_string());
        warn!(%credential, lease = %note.lease, %asked, %ends, "a process died while an issuer was asked: a lease may live that keyward cannot revoke; its issuer knows");
        self.events.orphaned(&Orphan {
            scope: &note.scope,
            chain: &note.chain,
            lease: &note.lease,
            provider,
            expires: note.ends,
        });
        // Where it stays, it is told of once more.
        self.journal.remove(&note.lease).await.ok();
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
            handle: note.handle,
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

/// How many pages of notes are looked at in one beat.
const PAGES: usize = 32;
/// From so many revocations on that are under way of one credential, no more of the dead's are taken over.
const MOST: i64 = 1000;
/// How often this process says that it lives.
const BEAT: Duration = Duration::from_secs(10);
