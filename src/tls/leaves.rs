//! A leaf for each host, minted when first needed and kept while it is fresh.
//!
//! A hit takes one shared lock of one shard and nothing else. A miss mints under the shard's own mutex, so that a
//! hundred agents that meet a new host at once cause one minting, and hits never wait for it. Minting is done in
//! place: it costs less than handing it to another thread would. The number of hosts is bounded (DOS-10): a flood
//! of names under a wildcard pushes out what was used longest ago.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use parking_lot::{Mutex, RwLock};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use rustls::ServerConfig;
use rustls::server::ResolvesServerCert;
use rustls::sign::CertifiedKey;
use tracing::warn;

use crate::clock::{Clock, Now};
use crate::host::Host;

use super::accept::{self, Acceptor};
use super::authority::Authority;
use super::error::{CaError, LeafError};
use super::{WallTime, agent_provider};

/// The leaves of one authority, at most [`Leaves::CAPACITY`] of them.
#[derive(Debug)]
pub struct Leaves {
    authority: ArcSwap<Authority>,
    tried: Mutex<Option<Instant>>,
    base: ServerConfig,
    hasher: RandomState,
    shards: Box<[Shard]>,
    clock: Arc<dyn Clock>,
    start: Instant,
    metrics: Metrics,
}

/// What the room counts.
#[derive(Debug, Clone)]
pub struct Metrics {
    mint: Histogram,
    kept: Gauge,
}

#[derive(Debug, Default)]
struct Shard {
    ready: RwLock<HashMap<Host, Entry>>,
    minting: Mutex<()>,
}

#[derive(Debug)]
struct Entry {
    acceptor: Arc<Acceptor>,
    /// Milliseconds since the start.
    used: AtomicU64,
}

impl Leaves {
    /// How many hosts are kept.
    pub const CAPACITY: usize = SHARDS * PER_SHARD;

    /// Begins without any leaf.
    ///
    /// # Errors
    /// [`CaError::Crypto`], where the cryptography library refuses to start.
    pub fn new(authority: Arc<Authority>, clock: Arc<dyn Clock>) -> Result<Self, CaError> {
        let time = Arc::new(WallTime(clock.clone()));
        let mut base = ServerConfig::builder_with_details(agent_provider(), time)
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(NoLeaf));
        accept::harden(&mut base);
        Ok(Self {
            authority: ArcSwap::new(authority),
            tried: Mutex::new(None),
            base,
            hasher: RandomState::new(),
            shards: (0..SHARDS).map(|_| Shard::default()).collect(),
            start: clock.now().mono,
            clock,
            metrics: Metrics::default(),
        })
    }

    /// The acceptor of a host whose leaf is there and fresh.
    pub fn get(&self, host: &Host) -> Option<Arc<Acceptor>> {
        self.lookup(self.shard(host)?, host, &self.clock.now())
    }

    /// The acceptor of a host; its leaf is minted where there is none that is fresh. Call this before the CONNECT is
    /// answered: a failure is a refusal, never a reason to tunnel (HOST-40).
    ///
    /// # Errors
    /// [`LeafError`].
    pub fn acceptor(&self, host: &Host) -> Result<Arc<Acceptor>, LeafError> {
        let Some(shard) = self.shard(host) else {
            return Err(LeafError::NotPermitted(host.clone()));
        };
        let now = self.clock.now();
        if let Some(ready) = self.lookup(shard, host, &now) {
            return Ok(ready);
        }
        let _one_flight = shard.minting.lock();
        if let Some(ready) = self.lookup(shard, host, &now) {
            return Ok(ready);
        }
        let acceptor = Arc::new(self.mint(host)?);
        self.keep(shard, acceptor.clone(), &now);
        Ok(acceptor)
    }

    /// Takes another authority, after the configured hosts changed. Leaves of the one before are not used again.
    pub fn replace(&self, authority: Arc<Authority>) {
        self.authority.store(authority);
        for shard in &self.shards {
            let gone = std::mem::take(&mut *shard.ready.write());
            self.metrics.kept.dec_by(count(gone.len()));
        }
    }

    /// The authority in use.
    pub fn authority(&self) -> Arc<Authority> {
        self.authority.load_full()
    }

    /// How many leaves are kept.
    pub fn len(&self) -> usize {
        self.shards
            .iter()
            .map(|shard| shard.ready.read().len())
            .sum()
    }

    /// Whether no leaf is kept.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The room's metrics, to be registered.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    fn lookup(&self, shard: &Shard, host: &Host, now: &Now) -> Option<Arc<Acceptor>> {
        let ready = shard.ready.read();
        let entry = ready.get(host)?;
        let (from, to) = entry.acceptor.fresh;
        if entry.acceptor.authority != self.authority.load().id()
            || now.wall < from
            || now.wall >= to
        {
            return None;
        }
        entry.used.store(self.since_start(now), Ordering::Relaxed);
        Some(entry.acceptor.clone())
    }

    fn mint(&self, host: &Host) -> Result<Acceptor, LeafError> {
        let now = self.clock.now();
        let authority = self.current(&now)?;
        let leaf = authority.mint(host, now.wall)?;
        let key =
            rustls::crypto::aws_lc_rs::sign::any_ecdsa_type(&leaf.key).map_err(CaError::from)?;
        let certified = CertifiedKey::new(vec![leaf.cert, authority.intermediate()], key);
        // Half of what is left: a connection that is opened at the last moment still has as much before it.
        let fresh = (
            leaf.life.from,
            now.wall + leaf.life.to.duration_since(now.wall) / 2,
        );
        let acceptor = Acceptor::new(host.clone(), &self.base, certified, authority.id(), fresh)
            .map_err(CaError::from)?;
        let took = self.clock.now().mono.saturating_duration_since(now.mono);
        self.metrics.mint.observe(took.as_secs_f64());
        Ok(acceptor)
    }

    /// The authority, renewed where its intermediate is in its last third.
    fn current(&self, now: &Now) -> Result<Arc<Authority>, CaError> {
        let current = self.authority.load_full();
        if !current.is_due(now.wall) {
            return Ok(current);
        }
        let mut tried = self.tried.lock();
        let current = self.authority.load_full();
        let usable = current.is_usable(now.wall);
        let waiting = tried.is_some_and(|at| now.mono.saturating_duration_since(at) < RETRY);
        if !current.is_due(now.wall) || (usable && waiting) {
            return Ok(current);
        }
        *tried = Some(now.mono);
        match current.reissued(current.names().clone()) {
            Ok(renewed) => {
                let renewed = Arc::new(renewed);
                self.authority.store(renewed.clone());
                Ok(renewed)
            }
            Err(error) if usable => {
                warn!(error = &error as &dyn std::error::Error, expires = %current.expires(), "cannot renew the intermediate CA");
                Ok(current)
            }
            Err(error) => Err(error),
        }
    }

    fn keep(&self, shard: &Shard, acceptor: Arc<Acceptor>, now: &Now) {
        let mut ready = shard.ready.write();
        let host = acceptor.host().clone();
        if ready.len() >= PER_SHARD && !ready.contains_key(&host) {
            let oldest = ready
                .iter()
                .min_by_key(|(_, entry)| entry.used.load(Ordering::Relaxed))
                .map(|(host, _)| host.clone());
            if let Some(oldest) = oldest {
                ready.remove(&oldest);
                self.metrics.kept.dec();
            }
        }
        let entry = Entry {
            acceptor,
            used: AtomicU64::new(self.since_start(now)),
        };
        if ready.insert(host, entry).is_none() {
            self.metrics.kept.inc();
        }
    }

    /// Agents choose names under a wildcard, so the hash is keyed at random.
    fn shard(&self, host: &Host) -> Option<&Shard> {
        let hash = self.hasher.hash_one(host);
        let place = usize::try_from(hash % SHARDS as u64).ok()?;
        self.shards.get(place)
    }

    fn since_start(&self, now: &Now) -> u64 {
        let since = now.mono.saturating_duration_since(self.start);
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            mint: Histogram::new([
                0.000_05, 0.000_1, 0.000_2, 0.000_5, 0.001, 0.002, 0.005, 0.02, 0.1,
            ]),
            kept: Gauge::<i64, AtomicI64>::default(),
        }
    }
}

impl Metrics {
    /// Registers `keyward_leaf_mint_seconds` and `keyward_leaves`.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "keyward_leaf_mint_seconds",
            "Time to mint a leaf certificate, its key included",
            self.mint.clone(),
        );
        registry.register(
            "keyward_leaves",
            "Leaf certificates that are kept",
            self.kept.clone(),
        );
    }
}

/// Stands in the common configuration, which itself never meets an agent.
#[derive(Debug)]
struct NoLeaf;

impl ResolvesServerCert for NoLeaf {
    fn resolve(&self, _hello: rustls::server::ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        None
    }
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

const SHARDS: usize = 16;
const PER_SHARD: usize = 256;

/// How long a usable intermediate that could not be renewed is used before the next try.
const RETRY: Duration = Duration::from_hours(1);
