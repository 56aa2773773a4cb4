//! The broker: one lease for each (credential, holder, user, narrowing), fetched once for any number of waiters.
//!
//! A request that finds a live lease takes no lock and allocates nothing. One that does not joins a flight which runs
//! as a task of the broker's own, so that the caller who began it may hang up. A sweep in the background refreshes
//! ahead of expiry what is in use and lets go what is not.

mod entry;
mod flight;
mod legacy;
mod revoke;
mod sweep;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

use super::cell::Joined;
use super::metrics::Metrics;
use super::sessions::Sessions;
use super::{
    CredentialProvider, Events, IssueError, Journal, LeaseId, LeaseInfo, LeaseState, Live,
    NoJournal, Reason, Share, Spec,
};
use crate::agent::{AgentId, Name};
use crate::clock::{Clock, Now};
use crate::policy::{Permit, Person};
use crate::scrub::{Patterns, Shelf, Sought};
use entry::{Entry, Principal, Unions};
use sweep::Round;

/// The one door to credentials. Cheap to clone.
#[derive(Clone)]
pub struct Broker(Arc<Inner>);

/// What [`Broker::revoke`] is to withdraw.
#[derive(Debug, Clone, Copy)]
pub enum Order<'a> {
    /// One lease.
    Lease(&'a LeaseId),
    /// Every lease of a credential.
    Credential(&'a Name),
    /// Every lease that serves this agent alone.
    Agent(&'a AgentId),
}

struct Inner {
    clock: Arc<dyn Clock>,
    events: Arc<dyn Events>,
    journal: Arc<dyn Journal>,
    metrics: Metrics,
    catalog: ArcSwap<Catalog>,
    sessions: Mutex<Sessions>,
    /// Leases whose issuer has not confirmed the revocation yet.
    revoking: Mutex<HashMap<LeaseId, LeaseInfo>>,
    /// Leases whose notes are to be taken out, and could not be.
    strays: Mutex<Vec<LeaseId>>,
    /// How many calls may go on past their deadlines: an issuer that hangs must not hold a connection for everybody.
    late: Semaphore,
    /// How many revocations are asked for at a time: a gateway's shutdown must not be an attack on its issuers.
    revokers: Semaphore,
    /// How many leases have landed.
    landed: AtomicU64,
    unions: Unions,
    shelf: Arc<Shelf>,
    none: Arc<Sought>,
    tracker: TaskTracker,
    stop: CancellationToken,
    closed: AtomicBool,
}

/// The credentials of one configuration.
#[derive(Debug, Default)]
struct Catalog {
    live: HashMap<Name, Arc<Entry>>,
    /// Those of earlier ones, while answers may still hold their secrets.
    retired: Vec<(Arc<Entry>, Now)>,
}

impl Broker {
    /// Begins to serve, and writes nothing down; must be called within a tokio runtime.
    pub fn new(
        entries: Vec<(Spec, Arc<dyn CredentialProvider>)>,
        clock: Arc<dyn Clock>,
        events: Arc<dyn Events>,
    ) -> Self {
        Self::with_journal(entries, clock, events, Arc::new(NoJournal))
    }

    /// Begins to serve, and revokes what dead processes left in `journal`; must be called within a tokio runtime.
    pub fn with_journal(
        entries: Vec<(Spec, Arc<dyn CredentialProvider>)>,
        clock: Arc<dyn Clock>,
        events: Arc<dyn Events>,
        journal: Arc<dyn Journal>,
    ) -> Self {
        let shelf = Shelf::new(SHELF);
        let inner = Arc::new(Inner {
            clock,
            events,
            journal,
            metrics: Metrics::new(),
            catalog: ArcSwap::default(),
            sessions: Mutex::default(),
            revoking: Mutex::default(),
            strays: Mutex::default(),
            late: Semaphore::new(LATE_CALLS),
            revokers: Semaphore::new(REVOKERS),
            landed: AtomicU64::new(0),
            unions: Unions::default(),
            none: shelf.sought([]),
            shelf,
            tracker: TaskTracker::new(),
            stop: CancellationToken::new(),
            closed: AtomicBool::new(false),
        });
        let broker = Self(inner);
        broker.reconfigure(entries);
        broker.look_after();
        if broker.0.journal.lasts() {
            broker.look_for_the_dead();
        }
        broker
    }

    /// Puts the broker's metrics into `registry`.
    pub fn register(&self, registry: &mut Registry) {
        self.0.metrics.register(registry);
    }

    /// The lease for a permitted request of a session with this chain, from the first agent to the acting one.
    ///
    /// # Errors
    /// [`IssueError`] where there is none: the request must not be sent.
    pub async fn lease_for(
        &self,
        permit: &Permit,
        chain: &Arc<[AgentId]>,
    ) -> Result<Arc<Live>, IssueError> {
        let now = self.0.clock.now();
        {
            let catalog = self.0.catalog.load();
            let entry = catalog.entry(permit)?;
            let hit = entry.with(permit, |cell| cell.hit(now)).flatten();
            if let Some(live) = hit {
                entry.meters.hits.inc();
                return Ok(live);
            }
        }
        Box::pin(self.0.fetch(permit, chain)).await
    }

    /// The same for a session that nobody delegated.
    ///
    /// # Errors
    /// As there.
    pub async fn lease(&self, permit: &Permit) -> Result<Arc<Live>, IssueError> {
        self.lease_for(permit, &Arc::from([permit.agent().clone()]))
            .await
    }

    /// What an answer is scrubbed of: the live and recently retired secrets that this principal could use, of the
    /// credentials that the host's routes name. Made at the first answer after a lease has changed.
    pub fn patterns<'a>(
        &self,
        agent: &AgentId,
        session: &str,
        person: Option<&Arc<Person>>,
        credentials: impl IntoIterator<Item = &'a Name>,
    ) -> Arc<Patterns> {
        let catalog = self.0.catalog.load();
        let mut found = entry::Found::default();
        let principal = Principal {
            agent,
            session,
            person,
        };
        for name in credentials {
            if let Some(entry) = catalog.live.get(name) {
                entry.find(principal, &mut found);
            }
            for (entry, _) in &catalog.retired {
                if entry.spec.name == *name {
                    entry.find(principal, &mut found);
                }
            }
        }
        let sought = found.together(&self.0.none, &self.0.unions, &self.0.shelf);
        sought.patterns()
    }

    /// Goes up with every lease that was issued: until then, [`Self::patterns`] gives nothing that was not there before.
    pub fn landed(&self) -> u64 {
        self.0.landed.load(Ordering::Acquire)
    }

    /// Notes that a session lives. A lease that several sessions share is revoked when the last that was noted here,
    /// or that waited for a lease itself, has ended.
    pub fn begin_session(&self, session: &Arc<str>, agent: &AgentId, person: Option<&Arc<Person>>) {
        let _known = self.0.sessions.lock().join(session, agent, person);
    }

    /// Revokes what served this session alone, and what no other living session may use. A second call does nothing,
    /// and an ended session is not begun again.
    pub fn end_session(&self, session: &Arc<str>) {
        let now = self.0.clock.now();
        let Some(ended) = self.0.sessions.lock().end(session, now.mono) else {
            return;
        };
        for entry in self.0.catalog.load().live.values() {
            let (cells, dead) = match entry.spec.share {
                // The cell stays until its secrets are forgotten: answers to the session may still be under way.
                Share::Session => (entry.of_session(session), true),
                Share::Agent => match &ended.who {
                    Some((agent, user)) if ended.last_of => {
                        (entry.of_user(Some(agent), user.as_ref()), false)
                    }
                    _ => continue,
                },
                Share::All => match &ended.who {
                    Some((_, user)) if ended.last => (entry.of_user(None, user.as_ref()), false),
                    _ => continue,
                },
            };
            for cell in cells {
                for live in cell.withdraw(now, Reason::SessionEnd, dead) {
                    self.0.revoke(entry, &live, Reason::SessionEnd, None);
                }
            }
        }
    }

    /// Withdraws leases at once, and revokes them at their issuers in the background. Returns how many.
    pub fn revoke(&self, order: Order<'_>, reason: Reason, by: Option<&str>) -> usize {
        let now = self.0.clock.now();
        let mut count = 0;
        for entry in self.0.catalog.load().live.values() {
            if matches!(order, Order::Credential(name) if *name != entry.spec.name) {
                continue;
            }
            for cell in entry.cells.values() {
                let meant = match order {
                    Order::Lease(id) => {
                        // The one that stands in its place is another, and stays.
                        if let Some(live) = cell.withdraw_replaced(id, now) {
                            self.0.revoke(entry, &live, reason, by);
                            return 1;
                        }
                        cell.current().is_some_and(|live| live.id() == id)
                    }
                    Order::Credential(_) => true,
                    Order::Agent(agent) => cell.scope.holder.agent() == Some(agent),
                };
                if !meant {
                    continue;
                }
                for live in cell.withdraw(now, reason, false) {
                    count += 1;
                    self.0.revoke(entry, &live, reason, by);
                }
            }
        }
        count
    }

    /// Takes other credentials into service. Those whose [`Spec`] is the same keep their leases and their provider;
    /// the leases of others are revoked, and their secrets scrubbed for a while.
    pub fn reconfigure(&self, entries: Vec<(Spec, Arc<dyn CredentialProvider>)>) {
        let now = self.0.clock.now();
        let old = self.0.catalog.load_full();
        let mut live = HashMap::with_capacity(entries.len());
        for (spec, provider) in entries {
            let entry = match old.live.get(&spec.name) {
                Some(entry) if entry.spec == spec => Arc::clone(entry),
                _ => Arc::new(Entry::new(spec, provider, &self.0.metrics, &self.0.shelf)),
            };
            live.insert(entry.spec.name.clone(), entry);
        }
        let gone: Vec<_> = old
            .live
            .values()
            .filter(|entry| {
                let kept = live.get(&entry.spec.name);
                !kept.is_some_and(|kept| Arc::ptr_eq(kept, entry))
            })
            .cloned()
            .collect();
        let mut retired = old.retired.clone();
        retired.extend(gone.iter().map(|entry| (Arc::clone(entry), now)));
        self.0.catalog.store(Arc::new(Catalog { live, retired }));
        for entry in gone {
            // After the catalog: who finds the entry closed finds its successor.
            entry.closed.store(true, Ordering::SeqCst);
            for cell in entry.cells.values() {
                for live in cell.withdraw(now, Reason::Config, true) {
                    self.0.revoke(&entry, &live, Reason::Config, None);
                }
            }
        }
    }

    /// Whether a credential of this name is in service.
    pub fn serves(&self, credential: &Name) -> bool {
        self.0.catalog.load().live.contains_key(credential)
    }

    /// The leases that live or are being revoked, those in whose place newer ones stand among them; nothing secret is in
    /// the list.
    pub fn snapshot(&self) -> Vec<LeaseInfo> {
        let now = self.0.clock.now();
        let catalog = self.0.catalog.load();
        let live = catalog
            .live
            .values()
            .flat_map(|entry| entry.cells.values())
            .flat_map(|cell| {
                let current = cell.current().filter(|live| live.is_usable(now));
                current.into_iter().chain(cell.replaced(now))
            })
            .map(|live| live.info(LeaseState::Live));
        live.chain(self.0.revoking.lock().values().cloned())
            .collect()
    }

    /// Issues nothing any more, revokes every live lease, and waits for that until `deadline` has passed.
    /// Returns how many revocations are not confirmed.
    pub async fn shutdown(&self, deadline: Duration) -> usize {
        self.0.closed.store(true, Ordering::SeqCst);
        let now = self.0.clock.now();
        for entry in self.0.catalog.load().live.values() {
            for cell in entry.cells.values() {
                for live in cell.withdraw(now, Reason::Shutdown, true) {
                    self.0.revoke(entry, &live, Reason::Shutdown, None);
                }
            }
        }
        self.0.stop.cancel();
        self.0.tracker.close();
        let _timely = tokio::time::timeout(deadline, self.0.tracker.wait()).await;
        // What is left is for the next to revoke, at once.
        if self.0.journal.leave().await.is_err() {
            warn!(
                "the store was not told that this process ends; what it leaves is revoked a minute later"
            );
        }
        self.0.revoking.lock().len()
    }

    /// Sweeps every [`SWEEP`], for as long as somebody holds the broker.
    fn look_after(&self) {
        let inner = Arc::downgrade(&self.0);
        let stop = self.0.stop.clone();
        self.0.tracker.spawn(async move {
            let mut tick = tokio::time::interval(SWEEP);
            tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            let mut round = Round::default();
            while stop.run_until_cancelled(tick.tick()).await.is_some() {
                let Some(inner) = inner.upgrade() else { return };
                inner.sweep(&mut round);
            }
        });
    }
}

impl Inner {
    /// The way of a request that found no usable lease.
    async fn fetch(
        self: &Arc<Self>,
        permit: &Permit,
        chain: &Arc<[AgentId]>,
    ) -> Result<Arc<Live>, IssueError> {
        loop {
            let entry = Arc::clone(self.catalog.load().entry(permit)?);
            let now = self.clock.now();
            let cell = entry.cell(permit, &self.none, now);
            // After the cell is in the map: either the session's end finds the cell, or we find the end here.
            let known = {
                let (session, agent) = (permit.session(), permit.agent());
                self.sessions.lock().join(session, agent, permit.person())
            };
            if !known {
                return Err(IssueError::Refused);
            }
            if self.closed.load(Ordering::SeqCst) {
                return Err(IssueError::Unavailable { retry_after: None });
            }
            if entry.closed.load(Ordering::SeqCst) {
                continue;
            }
            let mut landing = match cell.join(now, entry.remembered(now), chain) {
                Joined::Gone => {
                    entry.remove(permit, &cell);
                    continue;
                }
                Joined::Failed(error) => return Err(error),
                Joined::Live(live) => {
                    cell.touch();
                    entry.meters.hits.inc();
                    return Ok(live);
                }
                Joined::Wait(landing) => landing,
                Joined::Lead(flight, landing) => {
                    self.fly(&entry, &cell, flight);
                    landing
                }
            };
            entry.meters.waits.inc();
            let Ok(landed) = landing.wait_for(Option::is_some).await else {
                return Err(IssueError::Unavailable { retry_after: None });
            };
            let outcome = landed.clone().unwrap_or(Err(IssueError::Refused));
            drop(landed);
            let live = outcome?;
            cell.touch();
            // A life so short that it ended on the way here is no life to send a request with.
            return if live.is_usable(self.clock.now()) {
                Ok(live)
            } else {
                Err(IssueError::Unavailable { retry_after: None })
            };
        }
    }
}

impl Catalog {
    /// The entry of a permit's credential, if its slot is what the permit's route means.
    fn entry(&self, permit: &Permit) -> Result<&Arc<Entry>, IssueError> {
        let entry = permit
            .credential()
            .and_then(|name| self.live.get(name))
            .ok_or(IssueError::Refused)?;
        let route = permit.route();
        // Around a reload a permit may be of other routes than the catalog: its slot would be another place.
        if entry.spec.slots.get(route.slot) != Some(&route.placements) {
            return Err(IssueError::Unavailable {
                retry_after: Some(Duration::from_secs(1)),
            });
        }
        Ok(entry)
    }
}

impl fmt::Debug for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Broker").finish_non_exhaustive()
    }
}

/// So many bytes of searches are kept built: what some ten thousand leases in use take.
const SHELF: usize = 128 << 20;
/// How often leases are looked after: all of them, or as many as [`sweep`] says.
const SWEEP: Duration = Duration::from_millis(250);
/// How many calls go on past their deadlines at a time.
const LATE_CALLS: usize = 256;
/// How many revocations are under way at a time.
const REVOKERS: usize = 32;
