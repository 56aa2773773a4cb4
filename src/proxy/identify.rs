//! Whose a connection is: a session token, or evidence that a trust provider knows.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use http::HeaderMap;
use http::header::PROXY_AUTHORIZATION;

use super::bind::is_open_to;
use super::connect::Front;
use super::refusal::Refusal;
use super::{Shared, Snapshot};
use crate::identity::{self, Attested, Bound, Evidence, PROCESS, Presented, Stated, TokenType};
use crate::secret::Secret;
use crate::session::{self, Hold, Session, TokenFault};

/// As [`identify`], for one of many requests of a connection that is kept: what it showed a moment ago, byte for byte, is
/// not judged again, and its session is seen to live still.
pub(super) async fn identify_again(
    front: &Front,
    snapshot: &Arc<Snapshot>,
    headers: &HeaderMap,
) -> Result<Hold, Refusal> {
    let mut fields = headers.get_all(PROXY_AUTHORIZATION).iter();
    let shown = match (fields.next(), fields.next()) {
        (Some(only), None) if !headers.contains_key(PROCESS) => only.as_bytes(),
        _ => return identify(front, snapshot, headers).await,
    };
    if let Some(hold) = front.recent(snapshot, Some(shown))? {
        return Ok(hold);
    }
    let hold = identify(front, snapshot, headers).await?;
    // A process may have become another between two requests, on the same connection: it is looked at each time.
    if !is_of_process(hold.session()) {
        front.remember(snapshot, Some(shown), hold.session());
    }
    Ok(hold)
}

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
        && let Some(hold) = front.recent(snapshot, None)?
    {
        return Ok(hold);
    }
    let attested = attest(front, snapshot, presented, TokenType::Any).await?;
    let hold = open(front, snapshot, &attested.ok_or(Refusal::Unidentified)?).await?;
    if presented.is_none() {
        front.remember(snapshot, None, hold.session());
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
    shared.believe(&now)?;
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

/// Whose a connection was, by what it showed or by its process or its certificate, under this configuration. To look again
/// costs a chain of signatures or a walk through `/proc`, or hashing and looking up a token, and each request of a
/// connection that is kept would pay it.
#[derive(Debug)]
pub(super) struct Recent {
    /// Weak, so that an idle connection keeps no old configuration; the address is not used again while it is held.
    snapshot: Weak<Snapshot>,
    /// The value of `Proxy-Authorization`; `None` where there was none.
    shown: Option<Secret>,
    session: Arc<Session>,
    until: Instant,
}

impl Front {
    /// What the connection was found to be with this, if that counts still. An end, the time and the configuration are
    /// seen at once; the way in full says what is wrong.
    fn recent(
        &self,
        snapshot: &Arc<Snapshot>,
        shown: Option<&[u8]>,
    ) -> Result<Option<Hold>, Refusal> {
        let recent = self.recent.load();
        let Some(recent) = recent.as_ref() else {
            return Ok(None);
        };
        let same = match (&recent.shown, shown) {
            (None, None) => true,
            (Some(known), Some(shown)) => known.equals(shown),
            _ => false,
        };
        if !same || !std::ptr::eq(recent.snapshot.as_ptr(), Arc::as_ptr(snapshot)) {
            return Ok(None);
        }
        let now = self.shared.clock.now();
        if now.mono >= recent.until || recent.session.is_over(&now) {
            return Ok(None);
        }
        self.shared.believe(&now)?;
        recent.session.touch(&now);
        Ok(Some(self.shared.sessions.hold(&recent.session)))
    }

    fn remember(&self, snapshot: &Arc<Snapshot>, shown: Option<&[u8]>, session: &Arc<Session>) {
        self.recent.store(Some(Arc::new(Recent {
            snapshot: Arc::downgrade(snapshot),
            shown: shown.map(|shown| Secret::new(shown.to_vec())),
            session: Arc::clone(session),
            until: self.shared.clock.mono() + LOOK_AGAIN,
        })));
    }
}

fn is_of_process(session: &Session) -> bool {
    let bound = session.bound().and_then(Bound::read);
    matches!(bound, Some(Bound::Process { .. }))
}

/// How long a connection is what it was found to be: a bundle or a key that was withdrawn is noticed then.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// A use of this session from this connection.
async fn hold(front: &Front, session: &Arc<Session>) -> Result<Hold, Refusal> {
    let now = front.shared.clock.now();
    front.shared.lives(session, &now)?;
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
