//! What the broker reports: the port that the audit trail listens at.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::{IssueError, LeaseId, Scope};
use crate::agent::AgentId;

/// Hears of every call to an issuer. It must not block for long: the call's waiters wait for it.
pub trait Events: fmt::Debug + Send + Sync {
    /// A lease was issued.
    fn issued(&self, issue: &Issue<'_>);
    /// A call to an issuer failed.
    fn failed(&self, failed: &Failed<'_>);
    /// Nobody knows what an issuer answered, since the process died or the answer was lost: a lease may live that nobody
    /// can revoke.
    fn orphaned(&self, orphan: &Orphan<'_>);
    /// A revocation was tried.
    fn revoked(&self, revoking: &Revoking<'_>);
}

/// A lease that was issued.
#[derive(Debug, Clone, Copy)]
pub struct Issue<'a> {
    /// For whom.
    pub scope: &'a Scope,
    /// From the first agent to the acting one, of the session whose request caused the call.
    pub chain: &'a [AgentId],
    /// The lease.
    pub lease: &'a LeaseId,
    /// The provider's kind.
    pub provider: &'static str,
    /// The scopes that were asked for, where the kind has them: the route's, else the credential's.
    pub scopes: Option<&'a [Arc<str>]>,
    /// When it ends.
    pub expires: Option<Timestamp>,
    /// Why it was asked for.
    pub cause: Cause,
    /// How long the issuer took.
    pub duration: Duration,
}

/// A call that failed.
#[derive(Debug, Clone, Copy)]
pub struct Failed<'a> {
    /// For whom.
    pub scope: &'a Scope,
    /// From the first agent to the acting one, of the session whose request caused the call.
    pub chain: &'a [AgentId],
    /// The provider's kind.
    pub provider: &'static str,
    /// Why it was asked for.
    pub cause: Cause,
    /// What went wrong.
    pub error: IssueError,
    /// How long the issuer took.
    pub duration: Duration,
}

/// A lease of which nobody knows whether it was issued.
#[derive(Debug, Clone, Copy)]
pub struct Orphan<'a> {
    /// For whom.
    pub scope: &'a Scope,
    /// From the first agent to the acting one, of the session whose request caused the call.
    pub chain: &'a [AgentId],
    /// The lease.
    pub lease: &'a LeaseId,
    /// The provider's kind.
    pub provider: &'static str,
    /// When it ends at the latest, if its issuer gave as much as to the one before.
    pub expires: Option<Timestamp>,
}

/// One try to revoke.
#[derive(Debug, Clone, Copy)]
pub struct Revoking<'a> {
    /// Whom the lease served.
    pub scope: &'a Scope,
    /// From the first agent to the acting one, of the session whose request caused it to be issued; empty where that is
    /// not known any more.
    pub chain: &'a [AgentId],
    /// The lease.
    pub lease: &'a LeaseId,
    /// The provider's kind.
    pub provider: &'static str,
    /// Why it is revoked.
    pub reason: Reason,
    /// What came of it.
    pub outcome: Revoked,
    /// Which try this is, from 1.
    pub attempt: u32,
    /// The operator who ordered it.
    pub by: Option<&'a str>,
}

/// Why an issuer is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// There was no lease.
    First,
    /// The lease is near its end, or the issuer has something newer.
    Refresh,
}

/// Why a lease is revoked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// The last session that it may serve has ended.
    SessionEnd,
    /// Its agent was suspended.
    Suspend,
    /// An operator's order.
    Order,
    /// keyward stops.
    Shutdown,
    /// `max-life` has passed, and the issuer would have let it live on.
    MaxLife,
    /// Nobody uses it any more, and it has no end of its own.
    Unused,
    /// Its credential was changed or taken out of the configuration.
    Config,
    /// It could not be written down before its first use.
    Store,
    /// What the issuer gave cannot be used: it has ended already, its secret is too short or fits no request, or nobody
    /// waits for it any more.
    Unusable,
    /// It ended by its issuer's last word, but a later end was asked for, and the answer was lost.
    Renewal,
}

/// What came of one try to revoke.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Revoked {
    /// The issuer confirmed it.
    Revoked,
    /// It is tried again.
    Pending,
    /// The issuer has no revocation: the lease is wiped here, and ends by itself there.
    Unsupported,
}

impl Cause {
    /// As records write it.
    pub fn word(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Refresh => "refresh",
        }
    }
}

impl Reason {
    /// The reason of this word.
    pub fn of(word: &str) -> Option<Self> {
        [
            Self::SessionEnd,
            Self::Suspend,
            Self::Order,
            Self::Shutdown,
            Self::MaxLife,
            Self::Unused,
            Self::Config,
            Self::Store,
            Self::Unusable,
            Self::Renewal,
        ]
        .into_iter()
        .find(|reason| reason.word() == word)
    }

    /// As records write it.
    pub fn word(self) -> &'static str {
        match self {
            Self::SessionEnd => "session-end",
            Self::Suspend => "suspend",
            Self::Order => "order",
            Self::Shutdown => "shutdown",
            Self::MaxLife => "max-life",
            Self::Unused => "unused",
            Self::Config => "config",
            Self::Store => "store",
            Self::Unusable => "unusable",
            Self::Renewal => "renewal",
        }
    }
}

impl Revoked {
    /// As records and labels write it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Revoked => "revoked",
            Self::Pending => "pending",
            Self::Unsupported => "unsupported",
        }
    }
}
