//! Whose a connection is: a session token, or evidence that a trust provider knows.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use http::HeaderMap;

use super::bind::is_open_to;
use super::connect::Front;
use super::refusal::Refusal;
use super::{Shared, Snapshot};
use crate::identity::{self, Attested, Evidence, Presented, Stated, TokenType};
use crate::session::{self, Hold, Session, TokenFault};

/// Who is asking, by `Proxy-Authorization` or by the connection itself.
pub(super) async fn identify(
    front: &Front,
    snapshot: &Arc<Snapshot>,
    headers: &HeaderMap,
) -> Result<Hold, Refusal> {
    let presented = identity::presented(headers)?;
    match identity::stated(headers)? {
        None => identified(front, snapshot, presented.as_ref()).await,
        Some(_) if presented.is_some() => Err(Refusal::Malformed(
            "Keyward-Process stands beside a credential. Send the one or the other.",
        )),
        Some(stated) => relayed(front, snapshot, stated).await,
    }
}

/// Who is behind a relay, as the relay says: for the providers that judge who says such a thing, and for no other.
async fn relayed(front: &Front, snapshot: &Snapshot, stated: Stated) -> Result<Hold, Refusal> {
    let link = front.link.saying(stated);
    let evidence = Evidence::of(None, &front.peer, &link);
    for provider in snapshot.trust(&front.listener.name) {
        if provider.hears_relays()
            && let Some(attested) = provider.attest(evidence).await?
        {
            return open(front, snapshot, &attested).await;
        }
    }
    Err(Refusal::Unidentified)
}

/// As [`identify`], with the evidence taken out of the request. A session token is ours to know; other evidence is shown
/// to each trust provider in turn, and "mine and bad" ends it.
pub(super) async fn identified(
    front: &Front,
    snapshot: &Arc<Snapshot>,
    presented: Option<&Presented>,
) -> Result<Hold, Refusal> {
    if let Some(presented) = presented
        && let Some(session) = session_of(&front.shared, presented).await?
    {
        return hold(front, &session).await;
    }
    if presented.is_none()
        && let Some(hold) = front.recent(snapshot)
    {
        return Ok(hold);
    }
    let attested = attest(front, snapshot, presented, TokenType::Any).await?;
    let hold = open(front, snapshot, &attested.ok_or(Refusal::Unidentified)?).await?;
    if presented.is_none() {
        front.remember(snapshot, hold.session());
    }
    Ok(hold)
}

/// The implicit session of evidence that holds, unless that was revoked, has ended, or was shown by another peer first:
/// a copy of it is good for nothing from elsewhere.
async fn open(front: &Front, snapshot: &Snapshot, attested: &Attested) -> Result<Hold, Refusal> {
    let (shared, now) = (&front.shared, front.shared.clock.now());
    if attested.expires.is_some_and(|end| end <= now.wall) {
        return Err(Refusal::SessionEnded);
    }
    let opened = shared.open_session((snapshot, &front.from), attested);
    let hold = opened.map_err(|_| Refusal::SessionEnded)?;
    let session = hold.session();
    // What this connection was seen to be just now need not be looked for once more.
    let seen = shared.bound_by(attested, &front.from);
    if session.bound() != seen.as_deref() && !is_open_to(session, front).await {
        return Err(Refusal::WrongPeer);
    }
    session.touch(&now);
    Ok(hold)
}

/// Whether the session that this evidence opened was ended by somebody's order.
pub(super) fn is_revoked(shared: &Shared, attested: &Attested) -> bool {
    let now = shared.clock.now();
    let evidence = attested.evidence.as_ref();
    evidence.is_some_and(|evidence| shared.sessions.is_blocked(evidence, &now))
}

/// Whose a connection was by itself: by its process or its certificate, under this configuration. To look again costs a
/// chain of signatures or a walk through `/proc`, and each request of a connection that is kept would pay it.
#[derive(Debug)]
pub(super) struct Recent {
    /// Weak, so that an idle connection keeps no old configuration; the address is not used again while it is held.
    snapshot: Weak<Snapshot>,
    session: Arc<Session>,
    until: Instant,
}

impl Front {
    fn recent(&self, snapshot: &Arc<Snapshot>) -> Option<Hold> {
        let recent = self.recent.load();
        let recent = recent.as_ref()?;
        let now = self.shared.clock.now();
        let holds = std::ptr::eq(recent.snapshot.as_ptr(), Arc::as_ptr(snapshot))
            && now.mono < recent.until
            && !recent.session.is_over(&now);
        holds.then(|| {
            recent.session.touch(&now);
            self.shared.sessions.hold(&recent.session)
        })
    }

    fn remember(&self, snapshot: &Arc<Snapshot>, session: &Arc<Session>) {
        self.recent.store(Some(Arc::new(Recent {
            snapshot: Arc::downgrade(snapshot),
            session: Arc::clone(session),
            until: self.shared.clock.now().mono + LOOK_AGAIN,
        })));
    }
}

/// How long a connection is what it was found to be: a bundle or a key that was withdrawn is noticed then.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// A use of this session from this connection.
async fn hold(front: &Front, session: &Arc<Session>) -> Result<Hold, Refusal> {
    let now = front.shared.clock.now();
    if session.is_over(&now) {
        return Err(Refusal::SessionEnded);
    }
    if !session.is_implicit() {
        front.shared.believe(&now)?;
    }
    if !is_open_to(session, front).await {
        return Err(Refusal::WrongPeer);
    }
    session.touch(&now);
    Ok(front.shared.sessions.hold(session))
}

/// The session that a session token is of; `None` where the token is none of ours. Evidence is not looked up here: what it
/// is worth, its provider says each time.
pub(super) async fn session_of(
    shared: &Shared,
    presented: &Presented,
) -> Result<Option<Arc<Session>>, Refusal> {
    if let Some(session) = shared.sessions.by_token(presented.digest()) {
        return Ok(Some(session));
    }
    if !presented.is_jwt() {
        return Ok(None);
    }
    let now = shared.clock.now();
    if shared.sessions.is_blocked(&presented.stem(), &now) {
        return Err(Refusal::SessionEnded);
    }
    let token = presented.token().expose();
    let claims = match session::read(&shared.keys, token, now.wall.as_second()) {
        Ok(claims) => claims,
        Err(TokenFault::NotOurs) => return Ok(None),
        Err(TokenFault::Expired) => return Err(Refusal::SessionEnded),
        Err(TokenFault::Bad) => return Err(Refusal::Unidentified),
    };
    // Replicas share the keys of their store, and each may be called otherwise: there the key says enough.
    if claims.iss != *shared.issuer && !shared.keeper.store.lasts() {
        return Err(Refusal::Unidentified);
    }
    let session = shared.find_session(&claims.sid).await;
    let session = session.map_err(|_| Refusal::StoreUnavailable)?;
    let session = session.ok_or(Refusal::SessionEnded)?;
    shared.sessions.knows(*presented.digest(), &session);
    Ok(Some(session))
}

/// Shows evidence to the trust providers of the listener.
pub(super) async fn attest(
    front: &Front,
    snapshot: &Snapshot,
    presented: Option<&Presented>,
    presented_as: TokenType,
) -> Result<Option<Attested>, identity::AttestError> {
    let evidence = Evidence {
        presented_as,
        ..Evidence::of(presented, &front.peer, &front.link)
    };
    for provider in snapshot.trust(&front.listener.name) {
        if let Some(attested) = provider.attest(evidence).await? {
            return Ok(Some(attested));
        }
    }
    Ok(None)
}
