//! The data path: from an agent's first byte to the answer's last.
//!
//! ```text
//! accept ─► connect ─► intercept ─► exchange ─► upstream
//!              │                        │
//!              └► blind tunnel          └► answer (scrub) ─► agent
//! ```
//!
//! Read `exchange.rs` for the story of one request, and `refusal.rs` for every way that it can end early.

mod accept;
mod address;
mod answer;
mod body;
mod connect;
mod dial;
mod epoch;
mod exchange;
mod executor;
mod gate;
mod intercept;
mod line;
mod link;
mod live;
mod metrics;
mod plain;
mod record;
mod refusal;
mod settings;
mod sign;
mod stream;
mod tunnel;
mod upgrade;
mod upstream;
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
pub use body::{Body, BodyError};
pub use metrics::Metrics;
pub use refusal::{HEADER as REFUSAL_HEADER, Refusal};
pub use settings::{Identify, Limits, ListenAddr, ListenerSettings, Unmatched, UpstreamSettings};

use crate::agent::{AgentId, Name};
use crate::audit::{Audit, Record, Who};
use crate::clock::Clock;
use crate::credential::Broker;
use crate::host::{Host, Target};
use crate::identity::{Attested, Peer, Registry, TrustProvider};
use crate::policy::Policy;
use crate::route::Table;
use crate::session::{Hold, Session, Sessions};
use crate::tls::{Connector, Leaves};
use epoch::Epoch;
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
    /// The leaves of the configured hosts.
    pub leaves: Arc<Leaves>,
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
    /// The leaves.
    pub leaves: Arc<Leaves>,
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
    /// The sessions.
    pub sessions: Arc<Sessions>,
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
    sessions: Arc<Sessions>,
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
            leaves,
            upstream,
            connector,
        } = parts;
        let upstream = Upstream::new(upstream, connector, own.to_vec());
        Self {
            table,
            policy,
            registry,
            trust,
            leaves,
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
            sessions,
            clock,
            tracker,
            metrics,
            own,
        } = lasting;
        let mut prefix = [0_u8; 8];
        rand::fill(&mut prefix).expect("the system's random generator answers");
        let snapshot = Snapshot::new(first, &own);
        Self(Arc::new(Shared {
            snapshot: ArcSwap::from_pointee(snapshot),
            audit,
            broker,
            sessions,
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

    /// Ends sessions that have been idle for too long, and returns them.
    pub fn sweep_sessions(&self) -> Vec<Arc<Session>> {
        let ended = self.0.sessions.sweep(&self.0.clock.now());
        for session in &ended {
            self.0.session_ended(session, "idle");
        }
        ended
    }

    /// Ends every session, for this reason, and returns them.
    pub fn end_sessions(&self, reason: &'static str) -> Vec<Arc<Session>> {
        let ended = self.0.sessions.end_where(|_| true);
        for session in &ended {
            self.0.session_ended(session, reason);
        }
        ended
    }

    /// Ends the sessions that this agent opened with a token that is no longer its own, and returns them.
    pub fn end_sessions_by_token(&self, agent: &AgentId) -> Vec<Arc<Session>> {
        let ended = self
            .0
            .sessions
            .end_where(|session| session.agent() == agent && &**session.trust() == "token");
        for session in &ended {
            self.0.session_ended(session, "revoked");
        }
        ended
    }

    /// Stops accepting and lets what runs finish.
    pub fn drain(&self) {
        self.0.drain.cancel();
    }

    /// Stops whatever still runs.
    pub fn cut(&self) {
        self.0.cut.cancel();
        self.0.snapshot.load().upstream.close();
        self.0.sessions.end_where(|_| true);
    }
}

impl Shared {
    /// The session of an attested agent at this peer; a new one is recorded.
    fn open_session(&self, attested: &Attested, peer: &Peer) -> Hold {
        let peer = peer.to_string();
        let (hold, new) =
            self.sessions
                .open(&attested.agent, &attested.trust, &peer, &self.clock.now());
        if new {
            self.metrics.sessions.inc();
            self.broker
                .begin_session(hold.session().id(), hold.session().agent());
            let who = session_who(hold.session());
            let mut record = Record::session_start(who, &attested.trust);
            record.peer = Some(&peer);
            record.bound = Some(&peer);
            record.depth = Some(0);
            self.audit.append(&record);
        }
        hold
    }

    fn session_ended(&self, session: &Session, reason: &'static str) {
        self.metrics.sessions.dec();
        self.audit
            .append(&Record::session_end(session_who(session), reason));
    }

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

fn session_who(session: &Session) -> Who<'_> {
    Who {
        session: Some(session.id()),
        agent: Some(session.agent().as_str()),
        chain: Some(std::slice::from_ref(session.agent())),
        ..Who::default()
    }
}
