//! The data path: from an agent's first byte to the answer's last.
//!
//! ```text
//! accept ─► connect ─► intercept ─► exchange ─► upstream
//!              │                        │
//!              └► blind tunnel          └► answer (scrub) ─► agent
//! ```
//!
//! Read `exchange.rs` for the story of one request, and `refusal` for every way that it can end early.

mod accept;
mod address;
mod answer;
mod ask;
mod asker;
mod base_url;
mod bind;
mod body;
mod bound;
mod connect;
mod dial;
mod epoch;
mod exchange;
mod executor;
mod gate;
mod identify;
mod intercept;
mod kept;
mod line;
mod link;
mod live;
mod metrics;
mod own;
mod plain;
mod record;
mod refusal;
mod seldom;
mod services;
mod sessions;
mod settings;
mod sign;
mod slice;
mod stream;
mod tunnel;
mod upgrade;
mod upload;
mod upstream;
mod watch;
mod wire;

use std::borrow::Cow;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use aws_lc_rs::rand;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use accept::{BindError, Bound};
pub use asker::Asker;
pub use body::{Body, BodyError};
pub use metrics::Metrics;
pub use refusal::{HEADER as REFUSAL_HEADER, Refusal};
pub use services::Services;
pub use settings::{
    Identify, Limits, ListenAddr, ListenerSettings, ListenerTls, Unmatched, UpstreamSettings,
};

use crate::agent::Name;
use crate::approval::Approvals;
use crate::audit::Audit;
use crate::clock::Clock;
use crate::credential::Broker;
use crate::host::{Host, Target};
use crate::identity::{Logins, Overlay, Registry, TrustProvider};
use crate::policy::Policy;
use crate::route::Table;
use crate::session::{Keys, SessionStore, Sessions};
use crate::tls::{Connector, Leaves};
use epoch::Epoch;
use kept::Keeper;
use live::Live;
use record::RequestIds;
use upstream::Upstream;

/// Everything that one configuration decides; swapped whole at a reload.
#[derive(Debug)]
pub struct Snapshot {
    /// The routes.
    pub table: Table,
    /// What judges.
    pub policy: Policy,
    /// The agents.
    pub registry: Registry,
    /// The trust providers of each listener, in the order in which they are asked.
    pub trust: HashMap<Name, Vec<Arc<dyn TrustProvider>>>,
    /// Who says who a person is.
    pub logins: Logins,
    /// The leaves of the configured hosts.
    pub leaves: Arc<Leaves>,
    /// The known services.
    pub services: Services,
    upstream: Arc<Upstream>,
}

/// What a snapshot is made of.
#[derive(Debug)]
pub struct SnapshotParts {
    /// The routes.
    pub table: Table,
    /// What judges.
    pub policy: Policy,
    /// The agents.
    pub registry: Registry,
    /// The trust providers of each listener.
    pub trust: HashMap<Name, Vec<Arc<dyn TrustProvider>>>,
    /// Who says who a person is.
    pub logins: Logins,
    /// The leaves.
    pub leaves: Arc<Leaves>,
    /// The known services.
    pub services: Services,
    /// How upstreams are reached.
    pub upstream: UpstreamSettings,
    /// Whom upstreams must prove to be.
    pub connector: Connector,
}

/// What outlives every configuration.
#[derive(Debug)]
pub struct Lasting {
    /// The audit trail.
    pub audit: Arc<Audit>,
    /// The broker.
    pub broker: Arc<Broker>,
    /// What is asked of people.
    pub approvals: Arc<Approvals>,
    /// The sessions.
    pub sessions: Arc<Sessions>,
    /// The keys that session tokens are signed with.
    pub keys: Arc<Keys>,
    /// Where sessions are kept.
    pub session_store: Arc<dyn SessionStore>,
    /// What operators say of agents beside the file.
    pub overlay: Arc<Overlay>,
    /// `iss` of session tokens.
    pub issuer: Arc<str>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Every task of the data path.
    pub tracker: TaskTracker,
    /// The room's metrics.
    pub metrics: Arc<Metrics>,
    /// The addresses that we listen on: never dialled for an agent.
    pub own: Vec<SocketAddr>,
}

/// The proxy.
#[derive(Debug, Clone)]
pub struct Proxy(Arc<Shared>);

/// What all connections share.
#[derive(Debug)]
struct Shared {
    snapshot: ArcSwap<Snapshot>,
    audit: Arc<Audit>,
    broker: Arc<Broker>,
    approvals: Arc<Approvals>,
    sessions: Arc<Sessions>,
    keys: Arc<Keys>,
    keeper: Keeper,
    overlay: Arc<Overlay>,
    issuer: Arc<str>,
    clock: Arc<dyn Clock>,
    tracker: TaskTracker,
    metrics: Arc<Metrics>,
    own: Vec<SocketAddr>,
    live: Arc<Live>,
    epoch: Epoch,
    ids: RequestIds,
    /// Fires at the start of a drain: finish what runs.
    drain: CancellationToken,
    /// Fires at its end: stop.
    cut: CancellationToken,
}

impl Snapshot {
    fn new(parts: SnapshotParts, own: &[SocketAddr]) -> Self {
        let SnapshotParts {
            table,
            policy,
            registry,
            trust,
            logins,
            leaves,
            services,
            upstream,
            connector,
        } = parts;
        let upstream = Upstream::new(upstream, connector, own.to_vec());
        Self {
            table,
            policy,
            registry,
            trust,
            logins,
            leaves,
            services,
            upstream,
        }
    }

    fn trust(&self, listener: &Name) -> &[Arc<dyn TrustProvider>] {
        self.trust.get(listener).map_or(&[], Vec::as_slice)
    }
}

impl Proxy {
    /// A proxy that serves this configuration first.
    pub fn new(lasting: Lasting, first: SnapshotParts) -> Self {
        let Lasting {
            audit,
            broker,
            approvals,
            sessions,
            keys,
            session_store,
            overlay,
            issuer,
            clock,
            tracker,
            metrics,
            own,
        } = lasting;
        let keeper = Keeper::new(session_store, &clock.now());
        let mut prefix = [0_u8; 8];
        rand::fill(&mut prefix).expect("the system's random generator answers");
        let snapshot = Snapshot::new(first, &own);
        Self(Arc::new(Shared {
            snapshot: ArcSwap::from_pointee(snapshot),
            audit,
            broker,
            approvals,
            sessions,
            keys,
            keeper,
            overlay,
            issuer,
            clock,
            tracker,
            metrics,
            own,
            live: Arc::default(),
            epoch: Epoch::default(),
            ids: RequestIds::new(u64::from_be_bytes(prefix)),
            drain: CancellationToken::new(),
            cut: CancellationToken::new(),
        }))
    }

    /// Puts another configuration in place, whole, and cuts the connections that lose what they were granted; how many.
    /// `along` is what changes with it, in the same moment: the broker.
    pub fn reload(&self, parts: SnapshotParts, along: impl FnOnce()) -> usize {
        let shared = &self.0;
        let fresh = Arc::new(Snapshot::new(parts, &shared.own));
        let old = shared.epoch.change(|| {
            along();
            shared.snapshot.swap(Arc::clone(&fresh))
        });
        let cut = shared.live.settle(&fresh);
        shared.end_unregistered(&fresh.registry);
        // Requests under way keep their connections; idle ones of the old configuration go.
        old.upstream.close();
        cut
    }

    /// Serves a bound listener until the drain begins.
    pub fn serve(&self, bound: Bound) {
        accept::serve(&self.0, bound);
    }

    /// Closes idle upstream connections; to be called every few seconds.
    pub fn sweep(&self) {
        self.0.snapshot.load().upstream.sweep();
    }

    /// Stops accepting and lets what runs finish.
    pub fn drain(&self) {
        self.0.drain.cancel();
    }

    /// Stops whatever still runs.
    pub fn cut(&self) {
        self.0.cut.cancel();
        self.0.snapshot.load().upstream.close();
        self.0.sessions.end_where(|_| true, "order");
    }
}

impl Shared {
    #[expect(
        clippy::unused_self,
        reason = "it reads as what the shared state says of a target"
    )]
    fn host_text<'a>(&self, target: &'a Target) -> Cow<'a, str> {
        match &target.host {
            Host::Name(name) => Cow::Borrowed(name),
            Host::Ip(ip) => Cow::Owned(ip.to_string()),
        }
    }
}
