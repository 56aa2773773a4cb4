//! One agent connection to one target, and what it was granted under the current configuration.

use std::sync::{Arc, OnceLock};

use arc_swap::{ArcSwap, ArcSwapOption};
use http::HeaderValue;
use http::uri::{Authority, Scheme as UriScheme};
use tokio_util::sync::CancellationToken;

use super::accept::Seat;
use super::metrics::Allowed;
use super::refusal::Refusal;
use super::settings::Limits;
use super::upstream::{Pool, PoolKey};
use super::{Shared, Snapshot};
use crate::agent::{AgentId, Name};
use crate::credential::{LeaseId, Live};
use crate::delegation::Scope;
use crate::host::{Scheme, Target};
use crate::identity::Peer;
use crate::route::{Candidates, Route};
use crate::session::{Hold, Session};
use crate::tls::PeerCheck;

/// An agent's connection to one target. Identity and target are fixed when it opens; the grant follows the configuration.
#[derive(Debug)]
pub(super) struct Tunnel {
    pub(super) shared: Arc<Shared>,
    pub(super) target: Arc<Target>,
    pub(super) peer: Peer,
    pub(super) limits: Limits,
    /// Fires when the session ends, the grant is lost or the drain is over.
    pub(super) cut: CancellationToken,
    /// `Host`, as the upstream is sent it.
    pub(super) host: HeaderValue,
    /// The same for HTTP/2.
    pub(super) authority: Authority,
    hold: Hold,
    grant: ArcSwap<Grant>,
    _seat: Arc<Seat>,
}

/// What a tunnel may do under one snapshot.
#[derive(Debug)]
pub(super) struct Grant {
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) candidates: Candidates,
    /// The credentials of the host's routes: an answer is scrubbed of all of them.
    pub(super) credentials: Box<[Name]>,
    /// What the registry says that the session's agents may do.
    pub(super) permissions: Scope,
    lanes: Box<[Lane]>,
}

/// What requests of one route need, looked up once.
#[derive(Debug)]
pub(super) struct Lane {
    route: Arc<Route>,
    counters: Allowed,
    placeholders: Arc<[Box<str>]>,
    pool: OnceLock<Arc<Pool>>,
    /// The pool of the lease that was used last, where leases are certificates.
    certified: ArcSwapOption<(LeaseId, Arc<Pool>)>,
}

impl Grant {
    /// What this agent may do at this target.
    ///
    /// # Errors
    /// The refusal, where it may do nothing.
    pub(super) fn find(
        shared: &Shared,
        snapshot: &Arc<Snapshot>,
        session: &Session,
        target: &Target,
    ) -> Result<Self, Refusal> {
        let permissions = snapshot.registry.admit_all(session.chain())?;
        let candidates = snapshot.table.candidates_of(target, session.chain());
        if candidates.is_empty() {
            return Err(Refusal::NoRoute);
        }
        let agent = session.agent();
        Ok(Self::of(shared, snapshot, agent, (candidates, permissions)))
    }

    /// What is granted at a host that no route names, where the listener lets it through.
    ///
    /// # Errors
    /// The refusal, where an agent of the session may do nothing.
    pub(super) fn unmatched(
        shared: &Shared,
        snapshot: &Arc<Snapshot>,
        session: &Session,
    ) -> Result<Self, Refusal> {
        let permissions = snapshot.registry.admit_all(session.chain())?;
        let candidates = Candidates::only(snapshot.table.unmatched());
        let agent = session.agent();
        Ok(Self::of(shared, snapshot, agent, (candidates, permissions)))
    }

    fn of(
        shared: &Shared,
        snapshot: &Arc<Snapshot>,
        agent: &AgentId,
        (candidates, permissions): (Candidates, Scope),
    ) -> Self {
        let mut credentials: Vec<Name> = candidates
            .iter()
            .filter_map(|route| route.credential.clone())
            .collect();
        credentials.sort();
        credentials.dedup();
        let lane = |route: &Arc<Route>| Lane {
            route: Arc::clone(route),
            counters: shared.metrics.allowed(&route.name, agent.as_str()),
            placeholders: snapshot.services.placeholders(route),
            pool: OnceLock::new(),
            certified: ArcSwapOption::empty(),
        };
        let lanes = candidates.iter().map(lane).collect();
        Self {
            snapshot: Arc::clone(snapshot),
            candidates,
            permissions,
            credentials: credentials.into(),
            lanes,
        }
    }

    /// Whether all that was granted is granted still, so that what runs may go on.
    fn is_kept_by(&self, other: &Self) -> bool {
        let same = |route: &Arc<Route>| {
            let conditions = self.snapshot.policy.conditions(route);
            other.candidates.iter().any(|now| {
                // A route may move in the file; what it says must be the same.
                let moved = Route {
                    index: now.index,
                    ..Route::clone(route)
                };
                **now == moved && other.snapshot.policy.conditions(now) == conditions
            })
        };
        self.permissions.is_within(&other.permissions) && self.candidates.iter().all(same)
    }
}

impl Lane {
    pub(super) fn counters(&self) -> &Allowed {
        &self.counters
    }

    /// What clients of the route's service have for a key.
    pub(super) fn placeholders(&self) -> &[Box<str>] {
        &self.placeholders
    }

    /// Who must be at the other end by an SVID. A route and a lease that do not agree on it are a fault of assembly.
    fn peer(&self, lease: &Live) -> Result<Option<PeerCheck>, Refusal> {
        match (&self.route.peers, lease.bundles()) {
            (None, None) => Ok(None),
            (Some(peers), Some(bundles)) => Ok(Some(PeerCheck {
                peers: Arc::clone(peers),
                bundles: Arc::clone(bundles),
            })),
            (None, Some(_)) | (Some(_), None) => Err(Refusal::BrokerRefused),
        }
    }

    /// The connections that may carry a request under this lease.
    ///
    /// # Errors
    /// [`Refusal::BrokerRefused`] where its certificate cannot be presented, [`Refusal::UpstreamUntrusted`] where none
    /// is and the route asks who is there by an SVID.
    pub(super) fn pool(
        &self,
        tunnel: &Tunnel,
        snapshot: &Snapshot,
        lease: Option<&Live>,
    ) -> Result<Arc<Pool>, Refusal> {
        let key = |lease| PoolKey {
            target: Target::clone(&tunnel.target),
            agent: tunnel.session().agent().clone(),
            user: tunnel.session().person().map(|person| person.user.clone()),
            credential: self.route.credential.clone(),
            lease,
            peers: self.route.peers.clone(),
        };
        let certified = lease.and_then(|lease| Some((lease, lease.identity()?)));
        let Some((lease, identity)) = certified else {
            // Who is there is proved to a bundle, which comes with the SVID: a request without it has no way there.
            if self.route.peers.is_some() {
                return Err(Refusal::UpstreamUntrusted);
            }
            let pool = || snapshot.upstream.pool(key(None), None);
            return Ok(Arc::clone(self.pool.get_or_init(pool)));
        };
        if let Some(last) = &*self.certified.load()
            && last.0 == *lease.id()
        {
            return Ok(Arc::clone(&last.1));
        }
        let left = lease.expires().left(tunnel.shared.clock.now());
        let presented = snapshot
            .upstream
            .presents(identity, left, self.peer(lease)?)
            .map_err(|_| Refusal::BrokerRefused)?;
        let id = lease.id().clone();
        let pool = snapshot
            .upstream
            .pool(key(Some(id.clone())), Some(presented));
        self.certified
            .store(Some(Arc::new((id, Arc::clone(&pool)))));
        Ok(pool)
    }
}

impl Tunnel {
    pub(super) fn new(
        shared: &Arc<Shared>,
        hold: Hold,
        target: Arc<Target>,
        (peer, seat): (Peer, Arc<Seat>),
        (limits, grant): (Limits, Grant),
    ) -> Result<Self, Refusal> {
        let text = target.authority();
        let bad = Refusal::Malformed(
            "The host cannot be written in a request. Use its plain name or address.",
        );
        let host = HeaderValue::from_str(&text).map_err(|_| bad)?;
        let authority = Authority::from_maybe_shared(text).map_err(|_| bad)?;
        let cut = hold.session().ended().child_token();
        let shared = Arc::clone(shared);
        Ok(Self {
            shared,
            target,
            peer,
            limits,
            cut,
            host,
            authority,
            hold,
            grant: ArcSwap::from_pointee(grant),
            _seat: seat,
        })
    }

    pub(super) fn session(&self) -> &Arc<Session> {
        self.hold.session()
    }

    /// The scheme, for the URI of an HTTP/2 request.
    pub(super) fn scheme(&self) -> UriScheme {
        match self.target.scheme {
            Scheme::Http => UriScheme::HTTP,
            Scheme::Https => UriScheme::HTTPS,
        }
    }

    /// The grant under the current configuration: the one at hand, unless a reload came between.
    pub(super) fn grant(&self) -> Result<Arc<Grant>, Refusal> {
        let grant = self.grant.load_full();
        let snapshot = self.shared.snapshot.load();
        if Arc::ptr_eq(&grant.snapshot, &snapshot) {
            return Ok(grant);
        }
        let fresh = Arc::new(Grant::find(
            &self.shared,
            &snapshot,
            self.session(),
            &self.target,
        )?);
        self.grant.store(Arc::clone(&fresh));
        Ok(fresh)
    }

    /// Whether a new configuration takes away what this connection was granted.
    pub(super) fn loses_by(&self, snapshot: &Arc<Snapshot>) -> bool {
        match Grant::find(&self.shared, snapshot, self.session(), &self.target) {
            Ok(fresh) => !self.grant.load().is_kept_by(&fresh),
            Err(_) => true,
        }
    }
}

impl Grant {
    /// The lane of a route that this grant matched.
    pub(super) fn lane(&self, route: &Arc<Route>) -> Option<&Lane> {
        self.lanes
            .iter()
            .find(|lane| Arc::ptr_eq(&lane.route, route))
    }
}
