//! One credential in service: its spec, its provider, its cells, and what they share.

use std::collections::HashMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Weak};

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use super::super::cell::{Cell, Failure};
use super::super::lease::Compiled;
use super::super::metrics::{Meters, Metrics};
use super::super::shards::Shards;
use super::super::{CredentialProvider, Expiry, Holder, IssueError, Scope, Share, Spec};
use crate::agent::{AgentId, User};
use crate::clock::Now;
use crate::inject::{Injection, Material, Unfit};
use crate::policy::{Permit, Person};
use crate::route::Narrow;
use crate::scrub::{Shelf, Sought};
use crate::secret::Secret;
use crate::tls::{ClientIdentity, IdentityError};

/// One credential in service.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) spec: Spec,
    pub(super) provider: Arc<dyn CredentialProvider>,
    /// By [`Key`].
    pub(super) cells: Shards<Cell>,
    /// What routes narrow it to, in the order in which they were asked for; a cell's lane is the place from 1.
    lanes: ArcSwap<Vec<Arc<Narrow>>>,
    pub(super) meters: Arc<Meters>,
    /// It is of an earlier configuration.
    pub(super) closed: AtomicBool,
    /// What is remembered of the issuer as a whole.
    failure: Mutex<Option<Failure>>,
    shelf: Arc<Shelf>,
    /// What was compiled last: the same material is not compiled for every session.
    compiled: Mutex<Weak<Compiled>>,
}

/// Why material cannot be used. An operator reads it; nothing of the value is in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unusable {
    #[error(
        "the secret is shorter than 12 bytes, so answers cannot be scrubbed of it; use a longer one or set `unscrubbed = true`"
    )]
    Short,
    #[error(transparent)]
    Unfit(#[from] Unfit),
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

impl Entry {
    pub(super) fn new(
        spec: Spec,
        provider: Arc<dyn CredentialProvider>,
        metrics: &Metrics,
        shelf: &Arc<Shelf>,
    ) -> Self {
        let shards = match spec.share {
            Share::Session => 64,
            Share::Agent => 8,
            Share::All => 1,
        };
        Self {
            cells: Shards::new(shards),
            lanes: ArcSwap::default(),
            meters: Arc::new(metrics.of(&spec.name)),
            shelf: Arc::clone(shelf),
            closed: AtomicBool::new(false),
            failure: Mutex::default(),
            compiled: Mutex::default(),
            spec,
            provider,
        }
    }

    /// The cell that may serve this permit, if there is one. No lock, no allocation.
    pub(super) fn with<R>(&self, permit: &Permit, read: impl FnOnce(&Arc<Cell>) -> R) -> Option<R> {
        let lane = self.lane(&permit.route().narrow)?;
        let key = self.key(permit.agent(), permit.session(), permit.person(), lane);
        self.cells.with(key.bytes(), read)
    }

    /// The cell for a permit, made where there is none.
    pub(super) fn cell(&self, permit: &Permit, none: &Arc<Sought>, now: Now) -> Arc<Cell> {
        let narrow = &permit.route().narrow;
        let lane = self.lane(narrow).unwrap_or_else(|| self.new_lane(narrow));
        let key = self.key(permit.agent(), permit.session(), permit.person(), lane);
        self.cells.get_or_insert(key.bytes(), || {
            let agent = permit.agent().clone();
            let holder = match self.spec.share {
                Share::Session => Holder::Session {
                    agent,
                    session: Arc::clone(permit.session()),
                },
                Share::Agent => Holder::Agent(agent),
                Share::All => Holder::All,
            };
            let scope = Scope {
                credential: self.spec.name.clone(),
                holder,
                person: permit.person().cloned(),
                narrow: Arc::clone(narrow),
            };
            Cell::new(scope, Arc::clone(&self.meters), Arc::clone(none), now)
        })
    }

    /// Takes a permit's cell out, if it is this one.
    pub(super) fn remove(&self, permit: &Permit, dead: &Arc<Cell>) {
        let Some(lane) = self.lane(&permit.route().narrow) else {
            return;
        };
        let key = self.key(permit.agent(), permit.session(), permit.person(), lane);
        self.cells
            .remove_one(key.bytes(), |cell| Arc::ptr_eq(cell, dead));
    }

    /// Adds what is sought for this principal's cells.
    pub(super) fn find(&self, principal: Principal<'_>, found: &mut Found) {
        for lane in 0..=self.lanes.load().len() {
            let key = self.key(principal.agent, principal.session, principal.person, lane);
            if let Some(sought) = self.cells.with(key.bytes(), |cell| cell.sought()) {
                found.add(sought);
            }
        }
    }

    /// The cells that served this session alone.
    pub(super) fn of_session(&self, session: &str) -> Vec<Arc<Cell>> {
        (0..=self.lanes.load().len())
            .filter_map(|lane| {
                let key = Key::new(session, None, lane);
                self.cells.with(key.bytes(), Arc::clone)
            })
            .collect()
    }

    /// The cells that serve all sessions of this agent, or of anybody where it is `None`, for this user.
    pub(super) fn of_user(&self, agent: Option<&AgentId>, user: Option<&User>) -> Vec<Arc<Cell>> {
        let holder = agent.map_or("", AgentId::as_str);
        (0..=self.lanes.load().len())
            .filter_map(|lane| {
                let key = Key::new(holder, user, lane);
                self.cells.with(key.bytes(), Arc::clone)
            })
            .collect()
    }

    /// When a lease that was issued then is no longer used, whatever its issuer says (`max-life`).
    pub(super) fn cap(&self, issued: Now) -> Expiry {
        let life = self.spec.max_life;
        life.map_or(Expiry::NEVER, |life| Expiry::after(issued, life))
    }

    /// The failure of the issuer as a whole, while it is remembered.
    pub(super) fn remembered(&self, now: Now) -> Option<IssueError> {
        self.failure.lock().and_then(|failure| failure.at(now))
    }

    /// Remembers how a call to the issuer went.
    pub(super) fn remember(&self, error: Option<IssueError>, now: Now) {
        *self.failure.lock() = error
            .filter(|error| error.is_of_issuer())
            .map(|error| Failure::of(error, now, self.spec.failure_ttl));
    }

    /// Compiles material for every slot, or finds what was compiled of the same.
    pub(super) fn compile(&self, material: Material) -> Result<Arc<Compiled>, Unusable> {
        let last = self.compiled.lock().upgrade();
        if let Some(last) = last.filter(|last| is_same(&last.material, &material)) {
            return Ok(last);
        }
        let short = |secret: &Secret| secret.len() < SCRUBBABLE;
        if !self.spec.unscrubbed && material.secrets().any(|secret| short(secret)) {
            return Err(Unusable::Short);
        }
        let injections = self
            .spec
            .slots
            .iter()
            .map(|placements| Injection::compile(placements, &material))
            .collect::<Result<_, _>>()?;
        let long = material.secrets().filter(|secret| !short(secret));
        let sought = self.shelf.sought(long.cloned());
        let identity = match &material {
            Material::Certificate(pem) => Some(ClientIdentity::from_pem(pem.chain(), pem.key())?),
            _ => None,
        };
        let compiled = Arc::new(Compiled {
            material,
            injections,
            sought,
            identity,
        });
        *self.compiled.lock() = Arc::downgrade(&compiled);
        Ok(compiled)
    }

    /// Which of the credential's narrowings this is: 0 narrows nothing, `None` was not asked for yet.
    fn lane(&self, narrow: &Arc<Narrow>) -> Option<usize> {
        if narrow.is_empty() {
            return Some(0);
        }
        let lanes = self.lanes.load();
        // Routes of one configuration share what is equal; those of the next bring equal ones of their own.
        let mut places = (1..).zip(lanes.iter());
        let same = places.clone().find(|(_, known)| Arc::ptr_eq(known, narrow));
        same.or_else(|| places.find(|(_, known)| *known == narrow))
            .map(|(place, _)| place)
    }

    fn new_lane(&self, narrow: &Arc<Narrow>) -> usize {
        self.lanes.rcu(|lanes| {
            let mut lanes = Vec::clone(lanes);
            if !lanes.contains(narrow) {
                lanes.push(Arc::clone(narrow));
            }
            lanes
        });
        self.lane(narrow).unwrap_or(0)
    }

    fn key<'a>(
        &self,
        agent: &'a AgentId,
        session: &'a str,
        person: Option<&Arc<Person>>,
        lane: usize,
    ) -> Key<'a> {
        let user = person.map(|person| &person.user);
        match self.spec.share {
            // A session acts for one user from its beginning to its end.
            Share::Session => Key::new(session, None, lane),
            Share::Agent => Key::new(agent.as_str(), user, lane),
            Share::All => Key::new("", user, lane),
        }
    }
}

/// Whether it is one and the same secret in memory: a static value that many sessions lease.
fn is_same(one: &Material, other: &Material) -> bool {
    match (one, other) {
        (Material::Token(one), Material::Token(other)) => Arc::ptr_eq(one, other),
        (Material::Certificate(one), Material::Certificate(other)) => Arc::ptr_eq(one, other),
        (Material::Aws(one), Material::Aws(other)) => {
            Arc::ptr_eq(&one.secret, &other.secret)
                && one.id == other.id
                && one.token.is_none()
                && other.token.is_none()
        }
        (
            Material::Token(_)
            | Material::UserPass { .. }
            | Material::Dpop { .. }
            | Material::Certificate(_)
            | Material::Aws(_),
            _,
        ) => false,
    }
}

/// Who is served: an agent in a session, for a person or for nobody.
#[derive(Debug, Clone, Copy)]
pub(super) struct Principal<'a> {
    pub(super) agent: &'a AgentId,
    pub(super) session: &'a str,
    pub(super) person: Option<&'a Arc<Person>>,
}

/// The key of a cell: whom [`Share`] lets it serve, the user, and the lane. A lease never serves another user, and
/// never a request that was narrowed otherwise. It is made on the stack: most keys are only looked up.
#[derive(Debug)]
enum Key<'a> {
    Plain(&'a str),
    Short([u8; SHORT], usize),
    Long(Vec<u8>),
}

impl<'a> Key<'a> {
    fn new(holder: &'a str, user: Option<&User>, lane: usize) -> Self {
        if lane == 0 && user.is_none() {
            return Self::Plain(holder);
        }
        // Neither holders, lanes nor names of providers hold a slash, and the user's own name comes last.
        let lane = u32::try_from(lane).unwrap_or(u32::MAX).to_be_bytes();
        let (provider, name) = user.map_or(("", ""), |user| (user.provider.as_str(), &*user.name));
        let parts = [
            holder.as_bytes(),
            b"/",
            &lane,
            provider.as_bytes(),
            b"/",
            name.as_bytes(),
        ];
        let mut short = [0; SHORT];
        let mut end = 0;
        for part in parts {
            match short.get_mut(end..end + part.len()) {
                Some(place) => place.copy_from_slice(part),
                None => return Self::Long(parts.concat()),
            }
            end += part.len();
        }
        Self::Short(short, end)
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Self::Plain(holder) => holder.as_bytes(),
            Self::Short(short, end) => short.get(..*end).unwrap_or_default(),
            Self::Long(long) => long,
        }
    }
}

/// What was found to be sought for one principal, each once.
#[derive(Debug, Default)]
pub(super) struct Found {
    first: Option<Arc<Sought>>,
    more: Vec<Arc<Sought>>,
}

impl Found {
    fn add(&mut self, sought: Arc<Sought>) {
        let mut had = self.first.iter().chain(&self.more);
        if sought.is_empty() || had.any(|one| Arc::ptr_eq(one, &sought)) {
            return;
        }
        if self.first.is_none() {
            self.first = Some(sought);
        } else {
            self.more.push(sought);
        }
    }

    /// All of them as one. Only a host with several credentials comes to a union, and finds it made.
    pub(super) fn together(
        mut self,
        none: &Arc<Sought>,
        unions: &Unions,
        shelf: &Arc<Shelf>,
    ) -> Arc<Sought> {
        match (self.first, self.more.is_empty()) {
            (None, _) => Arc::clone(none),
            (Some(one), true) => one,
            (Some(first), false) => {
                self.more.push(first);
                unions.of(self.more, shelf)
            }
        }
    }
}

/// Unions by their parts.
#[derive(Debug, Default)]
pub(super) struct Unions(ArcSwap<UnionMap>);

/// The parts are held, so that an address stands for one of them only.
type UnionMap = HashMap<Vec<usize>, (Vec<Arc<Sought>>, Arc<Sought>)>;

impl Unions {
    fn of(&self, mut parts: Vec<Arc<Sought>>, shelf: &Arc<Shelf>) -> Arc<Sought> {
        parts.sort_unstable_by_key(|part| Arc::as_ptr(part).addr());
        let key: Vec<usize> = parts.iter().map(|part| Arc::as_ptr(part).addr()).collect();
        if let Some((_, union)) = self.0.load().get(&key) {
            return Arc::clone(union);
        }
        let union = shelf.union(&parts);
        self.0.rcu(|map| {
            let mut map = UnionMap::clone(map);
            if map.len() >= UNIONS {
                map.clear();
            }
            map.insert(key.clone(), (parts.clone(), Arc::clone(&union)));
            map
        });
        union
    }

    /// Lets go of unions with a part that is nowhere else any more, and so of its secret.
    pub(super) fn prune(&self) {
        let alive = |parts: &[Arc<Sought>]| parts.iter().all(|part| Arc::strong_count(part) > 1);
        if self.0.load().values().all(|(parts, _)| alive(parts)) {
            return;
        }
        self.0.rcu(|map| {
            let kept = map.iter().filter(|(_, (parts, _))| {
                // While the map is copied a part may be counted twice: it goes with the next sweep.
                alive(parts)
            });
            kept.map(|(key, value)| (key.clone(), value.clone()))
                .collect::<UnionMap>()
        });
    }
}

/// Shorter secrets cannot be told from ordinary text.
const SCRUBBABLE: usize = 12;
/// Keys up to this many bytes are made without an allocation.
const SHORT: usize = 192;
/// More unions than this are not kept.
const UNIONS: usize = 1024;
