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
use super::super::{CredentialProvider, Holder, IssueError, Scope, Share, Spec};
use crate::agent::AgentId;
use crate::clock::Now;
use crate::inject::{Injection, Material, Unfit};
use crate::policy::Permit;
use crate::scrub::Patterns;
use crate::secret::Secret;

/// One credential in service.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) spec: Spec,
    pub(super) provider: Arc<dyn CredentialProvider>,
    /// By session id, agent id, or the empty text: what [`Share`] says.
    pub(super) cells: Shards<Cell>,
    pub(super) meters: Meters,
    /// It is of an earlier configuration.
    pub(super) closed: AtomicBool,
    /// What is remembered of the issuer as a whole.
    failure: Mutex<Option<Failure>>,
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
}

impl Entry {
    pub(super) fn new(
        spec: Spec,
        provider: Arc<dyn CredentialProvider>,
        metrics: &Metrics,
    ) -> Self {
        let shards = match spec.share {
            Share::Session => 64,
            Share::Agent => 8,
            Share::All => 1,
        };
        Self {
            cells: Shards::new(shards),
            meters: metrics.of(&spec.name),
            closed: AtomicBool::new(false),
            failure: Mutex::default(),
            compiled: Mutex::default(),
            spec,
            provider,
        }
    }

    /// The key of the cell that may serve this permit.
    pub(super) fn key<'a>(&self, permit: &'a Permit) -> &'a str {
        self.key_of(permit.agent(), permit.session())
    }

    /// The cell for a permit, made where there is none.
    pub(super) fn cell(&self, permit: &Permit, none: &Arc<Patterns>, now: Now) -> Arc<Cell> {
        self.cells.get_or_insert(self.key(permit), || {
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
                narrow: Arc::clone(&permit.route().narrow),
            };
            Cell::new(scope, self.meters.clone(), Arc::clone(none), now)
        })
    }

    /// Adds the patterns of this principal's cell.
    pub(super) fn find(&self, agent: &AgentId, session: &str, found: &mut Found) {
        let key = self.key_of(agent, session);
        if let Some(patterns) = self.cells.with(key, |cell| cell.patterns()) {
            found.add(patterns);
        }
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
        if !self.spec.unscrubbed && material.secrets().any(short) {
            return Err(Unusable::Short);
        }
        let injections = self
            .spec
            .slots
            .iter()
            .map(|placements| Injection::compile(placements, &material))
            .collect::<Result<_, _>>()?;
        let patterns = Patterns::compile(material.secrets().filter(|secret| !short(secret)));
        let compiled = Arc::new(Compiled {
            material,
            injections,
            patterns: Arc::new(patterns),
        });
        *self.compiled.lock() = Arc::downgrade(&compiled);
        Ok(compiled)
    }

    fn key_of<'a>(&self, agent: &'a AgentId, session: &'a str) -> &'a str {
        match self.spec.share {
            Share::Session => session,
            Share::Agent => agent.as_str(),
            Share::All => "",
        }
    }
}

/// Whether it is one and the same secret in memory: a static value that many sessions lease.
fn is_same(one: &Material, other: &Material) -> bool {
    match (one, other) {
        (Material::Token(one), Material::Token(other)) => Arc::ptr_eq(one, other),
        (Material::Aws(one), Material::Aws(other)) => {
            Arc::ptr_eq(&one.secret, &other.secret)
                && one.id == other.id
                && one.token.is_none()
                && other.token.is_none()
        }
        (Material::Token(_) | Material::UserPass { .. } | Material::Aws(_), _) => false,
    }
}

/// Patterns that were found for one principal, each once.
#[derive(Debug, Default)]
pub(super) struct Found {
    first: Option<Arc<Patterns>>,
    more: Vec<Arc<Patterns>>,
}

impl Found {
    fn add(&mut self, patterns: Arc<Patterns>) {
        let mut had = self.first.iter().chain(&self.more);
        if patterns.is_empty() || had.any(|one| Arc::ptr_eq(one, &patterns)) {
            return;
        }
        if self.first.is_none() {
            self.first = Some(patterns);
        } else {
            self.more.push(patterns);
        }
    }

    /// All of them as one. Only a host with several credentials comes to a union, and finds it made.
    pub(super) fn together(mut self, none: &Arc<Patterns>, unions: &Unions) -> Arc<Patterns> {
        match (self.first, self.more.is_empty()) {
            (None, _) => Arc::clone(none),
            (Some(one), true) => one,
            (Some(first), false) => {
                self.more.push(first);
                unions.of(self.more)
            }
        }
    }
}

/// Unions by their parts.
#[derive(Debug, Default)]
pub(super) struct Unions(ArcSwap<UnionMap>);

/// The parts are held, so that an address stands for one automaton only.
type UnionMap = HashMap<Vec<usize>, (Vec<Arc<Patterns>>, Arc<Patterns>)>;

impl Unions {
    fn of(&self, mut parts: Vec<Arc<Patterns>>) -> Arc<Patterns> {
        parts.sort_unstable_by_key(|part| Arc::as_ptr(part).addr());
        let key: Vec<usize> = parts.iter().map(|part| Arc::as_ptr(part).addr()).collect();
        if let Some((_, union)) = self.0.load().get(&key) {
            return Arc::clone(union);
        }
        let union = Patterns::union(&parts);
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
        let alive = |parts: &[Arc<Patterns>]| parts.iter().all(|part| Arc::strong_count(part) > 1);
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
/// More unions than this are not kept.
const UNIONS: usize = 1024;
