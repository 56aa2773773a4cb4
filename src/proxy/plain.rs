//! Absolute-form `http://` requests (RFC 9112 §3.2.2): forwarded where a route or the listener lets them, never with a
//! credential.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use http::{Method, Request, Response};
use hyper::body::Incoming;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::Snapshot;
use super::body::Body;
use super::connect::{Front, lets_through};
use super::exchange::exchange;
use super::identify::identify_again;
use super::live::{Connection, Place};
use super::refusal::Refusal;
use super::tunnel::{Grant, Tunnel};
use crate::head;
use crate::host::Target;
use crate::session::{Hold, Session};

/// Notes what the connection forwards from now on.
pub(super) fn begin(front: &Arc<Front>, tunnel: &Arc<Tunnel>, place: Place) {
    Forwarding::begin(front, tunnel, place);
}

/// What the connection forwards now: counted as one of its agent's, and cut with its session or its grant.
#[derive(Debug)]
pub(super) struct Forwarding {
    _tunnel: Arc<Tunnel>,
    _place: Place,
    _over: DropGuard,
}

impl Forwarding {
    fn begin(front: &Arc<Front>, tunnel: &Arc<Tunnel>, place: Place) {
        let over = CancellationToken::new();
        let (ended, cut, gone) = (over.clone(), tunnel.cut.clone(), front.gone.clone());
        front.shared.tracker.spawn(async move {
            tokio::select! {
                () = ended.cancelled() => {}
                () = cut.cancelled() => gone.cancel(),
            }
        });
        *front.plain.lock() = Some(Self {
            _tunnel: Arc::clone(tunnel),
            _place: place,
            _over: over.drop_guard(),
        });
    }
}

/// An absolute-form request: never with a credential, and only to where no credential belongs.
pub(super) async fn forward(front: &Arc<Front>, request: Request<Incoming>) -> Response<Body> {
    match plain_tunnel(front, &request).await {
        Ok((tunnel, place)) => {
            front.known.store(true, Ordering::Relaxed);
            Forwarding::begin(front, &tunnel, place);
            exchange(tunnel, request).await
        }
        Err(refused) => refuse(front, &request, refused),
    }
}

/// Records the refusal, as far as it is known whose it is, and answers with it.
pub(super) fn refuse(
    front: &Front,
    request: &Request<Incoming>,
    (refusal, hold, target): Refused,
) -> Response<Body> {
    if let (Some(hold), Some(target)) = (hold, target) {
        let now = front.shared.clock.now();
        let mut entry = super::record::Entry::begin(&front.shared, hold.session(), &target, now);
        entry.asked(request.method(), request.uri().path_and_query());
        entry.refused(refusal);
        return refusal.response(entry.id());
    }
    front.shared.metrics.refused("", "", "deny", refusal.word());
    refusal.response(&front.shared.ids.next())
}

/// A refusal, and whose it is, as far as that is known.
pub(super) type Refused = (Refusal, Option<Hold>, Option<Arc<Target>>);

async fn plain_tunnel(
    front: &Arc<Front>,
    request: &Request<Incoming>,
) -> Result<(Arc<Tunnel>, Place), Refused> {
    let shared = &front.shared;
    if *request.method() == Method::TRACE {
        return Err((Refusal::Method, None, None));
    }
    let target = head::absolute_target(request.uri()).map_err(|_| {
        (
            Refusal::Malformed(
                "Only http:// URLs with a plain host are forwarded; use CONNECT for https.",
            ),
            None,
            None,
        )
    })?;
    let snapshot = shared.snapshot.load_full();
    let hold = identify_again(front, &snapshot, request.headers())
        .await
        .map_err(|refusal| (refusal, None, None))?;
    open(front, &snapshot, (hold, target), |session, target| {
        plain_grant(front, &snapshot, (session, target))
    })
}

/// Takes the connection's place and opens what its next request goes through.
pub(super) fn open(
    front: &Arc<Front>,
    snapshot: &Arc<Snapshot>,
    (hold, target): (Hold, Arc<Target>),
    grant: impl FnOnce(&Session, &Target) -> Result<Grant, Refusal>,
) -> Result<(Arc<Tunnel>, Place), Refused> {
    let shared = &front.shared;
    let agent = hold.session().agent().clone();
    // The place of the request before: the one connection has one place.
    drop(front.plain.lock().take());
    let limits = front.listener.limits.clone();
    let place = shared.live.enter(&agent, limits.max_connections_per_agent);
    let granted = place
        .ok_or(Refusal::TooManyConnections)
        .and_then(|place| Ok((grant(hold.session(), &target)?, place)));
    match granted {
        Ok((granted, mut place)) => {
            let end = (front.peer.clone(), Arc::clone(&front.seat));
            let tunnel = Tunnel::new(shared, hold, target, end, (limits, granted))
                .map_err(|refusal| (refusal, None, None))?;
            let tunnel = Arc::new(tunnel);
            place.runs(Connection::Intercept(Arc::downgrade(&tunnel)));
            // A reload before this look was taken by the grant; one after it finds the place, and cuts.
            if !Arc::ptr_eq(snapshot, &shared.snapshot.load()) {
                return Err((Refusal::Draining, None, None));
            }
            Ok((tunnel, place))
        }
        Err(refusal) => Err((refusal, Some(hold), Some(target))),
    }
}

fn plain_grant(
    front: &Front,
    snapshot: &Arc<Snapshot>,
    (session, target): (&Session, &Target),
) -> Result<Grant, Refusal> {
    snapshot.registry.admit_all(session.chain())?;
    if snapshot.table.is_credentialed(target) {
        return Err(Refusal::Cleartext);
    }
    snapshot.upstream.precheck(target)?;
    match Grant::find(&front.shared, snapshot, session, target) {
        Err(Refusal::NoRoute) if lets_through(front, snapshot, target) => {
            Grant::unmatched(&front.shared, snapshot, session)
        }
        found => found,
    }
}
