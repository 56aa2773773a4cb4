//! What sessions are bound to, and whether a connection may use one.

use super::Shared;
use super::connect::Front;
use crate::identity::{Attested, Bound};
use crate::session::{Bind, Session};

impl Shared {
    /// What a session of this listener's peer is bound to.
    pub(super) fn bound(&self, from: &str) -> Option<Box<str>> {
        match self.sessions.settings().bind {
            Bind::Auto => Some(from.into()),
            Bind::None => None,
        }
    }

    /// What a session by this evidence is bound to: its process or its certificate, else the peer.
    pub(super) fn bound_by(&self, attested: &Attested, from: &str) -> Option<Box<str>> {
        let peer = self.bound(from)?;
        Some(match &attested.bound {
            Some(bound) => bound.to_string().into(),
            None => peer,
        })
    }

    /// What a session with a token is bound to: what its evidence says, else the certificate that the connection
    /// showed, whoever issued it (RFC 8705 §3: its key is enough), else the peer.
    pub(super) fn bound_to(&self, attested: &Attested, front: &Front) -> Option<Box<str>> {
        match &attested.bound {
            None => self.bound_by_link(front),
            Some(_) => self.bound_by(attested, &front.from),
        }
    }

    /// What a session is bound to by its connection alone: the certificate that was shown, else the peer.
    pub(super) fn bound_by_link(&self, front: &Front) -> Option<Box<str>> {
        let peer = self.bound(&front.from)?;
        Some(match front.link.certificates.first() {
            Some(own) => Bound::certificate(own).to_string().into(),
            None => peer,
        })
    }
}

/// Whether this connection may use the session.
pub(super) async fn is_open_to(session: &Session, front: &Front) -> bool {
    if session.is_open_to(&front.from) {
        return true;
    }
    match session.bound().and_then(Bound::read) {
        Some(bound) => bound.holds(&front.link).await,
        None => false,
    }
}
