//! A live lease: what requests are given, compiled once at issue time.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use parking_lot::Mutex;

use super::{Expiry, Handle, Scope, Superseded};
use crate::agent::{AgentId, Name};
use crate::clock::Now;
use crate::inject::{Injection, Material};
use crate::scrub::Sought;
use crate::tls::{Bundles, ClientIdentity};

/// One lease while it lives. Shared by every request that uses it.
pub struct Live {
    pub(super) id: LeaseId,
    pub(super) scope: Arc<Scope>,
    /// The chain of the session whose request caused it to be issued.
    pub(super) chain: Arc<[AgentId]>,
    pub(super) provider: &'static str,
    pub(super) compiled: Arc<Compiled>,
    pub(super) issued: Now,
    pub(super) expires: Expiry,
    /// When its issuer ends it, as far as that is known.
    pub(super) last: Mutex<Last>,
    pub(super) refresh: Expiry,
    /// How long the issuer gave at first.
    pub(super) granted: Option<Duration>,
    pub(super) handle: Option<Handle>,
    pub(super) superseded: Option<Superseded>,
    pub(super) bundles: Option<Arc<dyn Bundles>>,
}

/// When an issuer ends a lease.
#[derive(Debug, Clone, Copy)]
pub(super) struct Last {
    end: Expiry,
    /// It is the latest that is possible: the issuer was asked for it, and its answer is not known.
    unsure: bool,
}

/// The name of a lease in records and lists: random, and no secret.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LeaseId(Arc<str>);

/// A lease as lists show it; there is nothing secret in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseInfo {
    /// Its id.
    pub id: LeaseId,
    /// The provider's kind.
    pub provider: &'static str,
    /// The credential, and whom it may serve.
    pub scope: Arc<Scope>,
    /// When it was issued.
    pub issued: Timestamp,
    /// When it ends.
    pub expires: Option<Timestamp>,
    /// What is happening to it.
    pub state: LeaseState,
}

/// What is happening to a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseState {
    /// It is used; or a newer one stands in its place, and what began with it may still use it.
    Live,
    /// It is no longer used, and its issuer has not confirmed the revocation yet.
    Revoking,
}

/// Material with all that is made of it: shared by the leases of one credential where the material is the same.
pub(super) struct Compiled {
    pub(super) material: Material,
    pub(super) injections: Box<[Injection]>,
    pub(super) sought: Arc<Sought>,
    /// What is presented to the upstream, where the material is a certificate.
    pub(super) identity: Option<ClientIdentity>,
}

impl Live {
    /// Its id.
    pub fn id(&self) -> &LeaseId {
        &self.id
    }

    /// The credential's name.
    pub fn credential(&self) -> &Name {
        &self.scope.credential
    }

    /// Whom it may serve.
    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    /// The provider's kind.
    pub fn provider(&self) -> &'static str {
        self.provider
    }

    /// What it is made of.
    pub fn material(&self) -> &Material {
        &self.compiled.material
    }

    /// The injection for a slot of the credential (`Route::slot`). [`super::Broker::lease`] has checked that the
    /// permit's route has one, so `None` is for a slot of another route.
    pub fn injection(&self, slot: usize) -> Option<&Injection> {
        self.compiled.injections.get(slot)
    }

    /// What answers to its requests are scrubbed of, older leases not counted; see [`super::Broker::patterns`].
    pub(super) fn sought(&self) -> &Arc<Sought> {
        &self.compiled.sought
    }

    /// The certificate that its requests' connections present; none of them serves another lease.
    pub fn identity(&self) -> Option<&ClientIdentity> {
        self.compiled.identity.as_ref()
    }

    /// What servers are held to that must be workloads; see [`super::CredentialProvider::bundles`].
    pub fn bundles(&self) -> Option<&Arc<dyn Bundles>> {
        self.bundles.as_ref()
    }

    /// When it ends.
    pub fn expires(&self) -> Expiry {
        self.expires
    }

    /// How old it is.
    pub fn age(&self, now: Now) -> Duration {
        now.mono.saturating_duration_since(self.issued.mono)
    }

    /// Whether it may be used.
    pub fn is_usable(&self, now: Now) -> bool {
        !self.expires.is_past(now) && !self.superseded.as_ref().is_some_and(Superseded::is_raised)
    }

    /// Whether its issuer would still take it, and could be told not to.
    pub(super) fn is_owed(&self, now: Now) -> bool {
        self.handle.is_some() && !self.issuer_expires().is_past_for_sure(now)
    }

    /// When its issuer ends it, or may end it at the latest.
    pub(super) fn issuer_expires(&self) -> Expiry {
        self.last.lock().end
    }

    /// Whether its issuer was asked for a later end, and nobody knows what came of it.
    pub(super) fn is_unsure(&self) -> bool {
        self.last.lock().unsure
    }

    /// Its issuer is asked for this end: until its answer is known, it may have it.
    pub(super) fn may_last(&self, until: Expiry) {
        let mut last = self.last.lock();
        last.end = last.end.or_later(until);
        last.unsure = true;
    }

    /// Its issuer has said when it ends.
    pub(super) fn lasts(&self, until: Expiry) {
        *self.last.lock() = Last::said(until);
    }

    /// The same lease with another end.
    pub(super) fn with_end(
        &self,
        issuer_expires: Expiry,
        expires: Expiry,
        refresh: Expiry,
    ) -> Self {
        Self {
            id: self.id.clone(),
            scope: Arc::clone(&self.scope),
            chain: Arc::clone(&self.chain),
            provider: self.provider,
            compiled: Arc::clone(&self.compiled),
            issued: self.issued,
            expires,
            last: Mutex::new(Last::said(issuer_expires)),
            refresh,
            granted: self.granted,
            handle: self.handle.clone(),
            superseded: self.superseded.clone(),
            bundles: self.bundles.clone(),
        }
    }

    pub(super) fn info(&self, state: LeaseState) -> LeaseInfo {
        LeaseInfo {
            id: self.id.clone(),
            provider: self.provider,
            scope: Arc::clone(&self.scope),
            issued: self.issued.wall,
            expires: self.expires.wall(),
            state,
        }
    }
}

impl Last {
    /// The issuer's word.
    pub(super) fn said(end: Expiry) -> Self {
        Self { end, unsure: false }
    }
}

impl LeaseId {
    /// Makes an id of 12 random bytes.
    pub(super) fn of(bytes: [u8; 12]) -> Self {
        use fmt::Write as _;
        let mut text = String::with_capacity(24);
        for byte in bytes {
            write!(text, "{byte:02x}").expect("a string takes what is written");
        }
        Self(text.into())
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for LeaseId {
    /// An id that somebody names; it may be of no lease.
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LeaseId({})", self.0)
    }
}

impl fmt::Debug for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Live")
            .field("id", &self.id)
            .field("scope", &self.scope)
            .field("provider", &self.provider)
            .field("expires", &self.expires)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Compiled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Compiled(..)")
    }
}
