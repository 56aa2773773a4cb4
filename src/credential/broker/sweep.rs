//! The sweep: refreshes what is due, retires what has ended, forgets what is old.
//!
//! A tick looks at so many cells, and the next one goes on behind them: up to [`CELLS`] leases are looked at in every
//! tick; of a million each comes up every eight seconds, which takes a few hundredths of a core. A lease that lives a
//! minute or longer is refreshed thirty seconds before its end, so none ends for want of a look.

use std::sync::Arc;

use super::super::Reason;
use super::super::cell::REMEMBERED;
use super::entry::Entry;
use super::{Catalog, Inner};
use crate::clock::Now;

/// How far a round over all cells has come.
#[derive(Debug, Default)]
pub(super) struct Round {
    entries: Vec<Arc<Entry>>,
    shard: usize,
}

impl Round {
    /// The next shard of an entry.
    fn next(&mut self) -> Option<(Arc<Entry>, usize)> {
        while let Some(entry) = self.entries.last() {
            let shard = self.shard;
            if shard < entry.cells.count() {
                self.shard += 1;
                return Some((Arc::clone(entry), shard));
            }
            self.entries.pop();
            self.shard = 0;
        }
        None
    }
}

impl Inner {
    /// One tick.
    pub(super) fn sweep(self: &Arc<Self>, round: &mut Round) {
        let now = self.clock.now();
        if round.entries.is_empty() {
            let catalog = self.catalog.load();
            let retired = catalog.retired.iter().map(|(entry, _)| entry);
            round.entries = catalog.live.values().chain(retired).cloned().collect();
        }
        let mut looked_at = 0;
        while looked_at < CELLS
            && let Some((entry, shard)) = round.next()
        {
            looked_at += self.sweep_shard(&entry, shard, now);
        }
        let old = |at: &Now| now.mono.saturating_duration_since(at.mono) >= REMEMBERED;
        if self.catalog.load().retired.iter().any(|(_, at)| old(at)) {
            self.catalog.rcu(|catalog| Catalog {
                live: catalog.live.clone(),
                retired: catalog
                    .retired
                    .iter()
                    .filter(|(_, at)| !old(at))
                    .cloned()
                    .collect(),
            });
        }
        self.sessions.lock().prune(now.mono, 2 * REMEMBERED);
        self.unions.prune();
    }

    /// Looks after the cells of one shard; how many there are.
    fn sweep_shard(self: &Arc<Self>, entry: &Arc<Entry>, shard: usize, now: Now) -> usize {
        let mut empty = false;
        let issuer = entry.remembered(now);
        let count = entry.cells.each(shard, |cell| {
            let swept = cell.sweep(now, issuer);
            if let Some(flight) = swept.renew {
                self.fly(entry, cell, flight);
            }
            for live in swept.overdue {
                let reason = if live.expires().is_never() {
                    Reason::Unused
                } else if entry.cap(live.issued).is_past(now) {
                    Reason::MaxLife
                } else {
                    Reason::Renewal
                };
                self.revoke(entry, &live, reason, None);
            }
            empty |= swept.empty;
        });
        if empty {
            entry.cells.remove(shard, |cell| cell.close_if_empty(now));
        }
        count
    }
}

/// How many cells one tick looks at, a shard more or less.
const CELLS: usize = 32 * 1024;
