//! What a person approves, as one number: SHA-256 over every part, each behind its own length, so that no two different
//! requests read as the same bytes.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use aws_lc_rs::digest::{Context, SHA256, digest};

use super::{Pending, Permit};
use crate::agent::{AgentId, Name, User};
use crate::delegation::Scope;
use crate::inject::Placement;

/// SHA-256 of what is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest([u8; 32]);

/// A text that is no digest in hex.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a digest is 64 hexadecimal digits")]
pub struct BadDigest;

/// A person said yes to exactly this, and the yes is used up. Only the room `approval` makes one, when it consumes an
/// approval.
#[derive(Debug)]
pub struct Grant {
    approval: Box<str>,
    digest: Digest,
}

/// The grant is for something else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("another request was approved than this one")]
pub struct Mismatch;

/// In whose name something is asked.
#[derive(Debug, Clone, Copy)]
pub struct InNameOf<'a> {
    /// The `[approval.NAME]` that is asked: a yes of one is none of another.
    pub approval: &'a Name,
    /// The session.
    pub session: &'a str,
    /// Its person.
    pub user: Option<&'a User>,
    /// From its first agent to the acting one.
    pub chain: &'a [AgentId],
}

/// Fields that change from one try of the same request to the next, and that no service acts upon. Everything else is
/// part of what is approved.
const VOLATILE: [&str; 12] = [
    "amz-sdk-invocation-id",
    "amz-sdk-request",
    "baggage",
    "date",
    "traceparent",
    "tracestate",
    "x-amz-date",
    "x-amzn-trace-id",
    "x-client-request-id",
    "x-correlation-id",
    "x-request-id",
    "x-stainless-retry-count",
];

impl Digest {
    /// The digest of these bytes alone: of a body.
    pub fn of(bytes: &[u8]) -> Self {
        Self::from_slice(digest(&SHA256, bytes).as_ref())
    }

    fn from_slice(bytes: &[u8]) -> Self {
        let mut sum = [0; 32];
        sum.copy_from_slice(bytes);
        Self(sum)
    }

    /// The digest of handing a session on to a sub-agent, with this scope and life as they were asked for.
    pub fn of_delegation(
        who: &InNameOf<'_>,
        sub_agent: &AgentId,
        scope: Option<&Scope>,
        life: Option<Duration>,
    ) -> Self {
        let mut sum = Sum::new("delegation", who);
        sum.part(sub_agent.as_str());
        sum.maybe(scope.map(ToString::to_string));
        sum.maybe(life.map(|life| life.as_secs().to_be_bytes()));
        sum.finish()
    }

    /// The digest of a request that has this body.
    pub(super) fn of_request(who: &InNameOf<'_>, permit: &Permit, body: &Self) -> Self {
        let (head, target) = (permit.head(), permit.target());
        let mut sum = Sum::new("request", who);
        sum.part(head.method().as_str());
        sum.part(target.scheme.as_str());
        sum.part(target.authority());
        sum.part(head.path_and_query().as_str());
        let fields = covered(permit);
        sum.count(fields.len());
        for (name, value) in fields {
            sum.part(name);
            sum.part(value);
        }
        sum.part(body.0);
        sum.part(permit.route().name.as_bytes());
        sum.maybe(permit.credential().map(Name::as_str));
        let scopes = permit.route().narrow.scopes.as_deref();
        sum.maybe(scopes.map(|scopes| scopes.len().to_be_bytes()));
        for scope in scopes.into_iter().flatten() {
            sum.part(scope.as_bytes());
        }
        sum.finish()
    }
}

impl Grant {
    /// The yes of this approval to what has this digest. To be made by `approval` alone, when the yes was used up.
    pub fn consumed(approval: &str, digest: Digest) -> Self {
        Self {
            approval: approval.into(),
            digest,
        }
    }

    /// The approval's id.
    pub fn approval(&self) -> &str {
        &self.approval
    }

    /// What was approved.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }
}

impl Pending {
    /// What a person is asked to approve, where the request has a body with this digest.
    pub fn digest(&self, body: &Digest) -> Digest {
        let person = self.permit.person();
        let who = InNameOf {
            approval: &self.approval,
            session: self.permit.session(),
            user: person.map(|person| &person.user),
            chain: &self.chain,
        };
        Digest::of_request(&who, &self.permit, body)
    }

    /// The fields that are part of what is approved, by name; several values of one field in their order.
    pub fn fields(&self) -> Vec<(&str, &[u8])> {
        covered(&self.permit)
    }

    /// The permit, for a grant of exactly this request.
    ///
    /// # Errors
    /// [`Mismatch`].
    pub fn redeem(self, grant: &Grant, body: &Digest) -> Result<Permit, Mismatch> {
        if self.digest(body) == grant.digest {
            Ok(self.permit)
        } else {
            Err(Mismatch)
        }
    }
}

/// The fields that are part of what is approved.
fn covered(permit: &Permit) -> Vec<(&str, &[u8])> {
    // Where the credential is the Authorization, what the agent wrote there never leaves.
    let injected = permit.credential().is_some()
        && permit.route().placements.iter().any(replaces_authorization);
    // The target is a part of its own, and the Host names it, where there is one (HTTP/2 has none).
    let counts = |name: &str| {
        VOLATILE.binary_search(&name).is_err()
            && name != "host"
            && !(injected && name == "authorization")
    };
    let mut fields: Vec<(&str, &[u8])> = (permit.head().headers().iter())
        .map(|(name, value)| (name.as_str(), value.as_bytes()))
        .filter(|(name, _)| counts(name))
        .collect();
    // Stable: several values of one field keep their order.
    fields.sort_by_key(|(name, _)| *name);
    fields
}

/// A sum in the making.
struct Sum(Context);

impl Sum {
    fn new(kind: &str, who: &InNameOf<'_>) -> Self {
        let mut sum = Self(Context::new(&SHA256));
        sum.part("keyward approval 1");
        sum.part(kind);
        sum.part(who.approval.as_str());
        sum.part(who.session);
        sum.maybe(who.user.map(|user| user.provider.as_str()));
        sum.maybe(who.user.map(|user| &*user.name));
        sum.count(who.chain.len());
        for agent in who.chain {
            sum.part(agent.as_str());
        }
        sum
    }

    fn count(&mut self, count: usize) {
        self.0.update(&(count as u64).to_be_bytes());
    }

    fn part(&mut self, bytes: impl AsRef<[u8]>) {
        self.count(bytes.as_ref().len());
        self.0.update(bytes.as_ref());
    }

    /// Nothing is something else than an empty text.
    fn maybe(&mut self, bytes: Option<impl AsRef<[u8]>>) {
        match bytes {
            None => self.0.update(&[0]),
            Some(bytes) => {
                self.0.update(&[1]);
                self.part(bytes);
            }
        }
    }

    fn finish(self) -> Digest {
        Digest::from_slice(self.0.finish().as_ref())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

impl FromStr for Digest {
    type Err = BadDigest;

    fn from_str(text: &str) -> Result<Self, BadDigest> {
        if text.len() != 64 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(BadDigest);
        }
        let mut sum = [0; 32];
        for (place, byte) in sum.iter_mut().enumerate() {
            let digits = text.get(2 * place..2 * place + 2).ok_or(BadDigest)?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| BadDigest)?;
        }
        Ok(Self(sum))
    }
}
/// Whether this placement takes away whatever `Authorization` the agent wrote.
fn replaces_authorization(placement: &Placement) -> bool {
    match placement {
        Placement::Bearer | Placement::Basic { .. } | Placement::SigV4(_) => true,
        Placement::Header { name, .. } => *name == http::header::AUTHORIZATION,
        _ => false,
    }
}
