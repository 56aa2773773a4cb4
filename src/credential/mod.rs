//! Credentials: providers issue and revoke, the [`Broker`] does everything else once.
//!
//! A [`CredentialProvider`] talks to one issuer. Cache, single flight, deadline, retry, refresh, failure memory and
//! the bookkeeping of revocation live in the broker, so that no provider can get them wrong.

mod aws;
mod azure;
mod broker;
mod cell;
mod certificate;
mod command;
mod events;
mod fixed;
mod github_app;
mod given;
mod grants;
mod journal;
mod kind;
mod lease;
mod life;
mod metrics;
pub mod oauth;
mod sessions;
mod settings;
mod shards;
pub mod source;
mod spiffe;
mod vault;
mod vessel;

#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;

pub use aws::{AwsProvider, AwsSource, AwsSpec, Instance as AwsInstance};
pub use azure::{AzureProvider, AzureSettings};
pub use broker::{Broker, Order};
pub use certificate::{CertificateProvider, CertificateSettings};
pub use command::{CommandProvider, CommandSettings};
pub use events::{Cause, Events, Failed, Issue, Orphan, Reason, Revoked, Revoking};
pub use fixed::StaticProvider;
pub use github_app::{GithubAppProvider, GithubAppSettings};
pub use grants::{Bound, Grants};
pub use journal::{Journal, Left, NoJournal, Note, OutOfReach, Owed, Pulse};
pub use lease::{LeaseId, LeaseInfo, LeaseState, Live};
pub use life::{Expiry, Life, NotPositive};
pub use oauth::{AgentJwt, Around, OauthProvider};
pub use settings::{Kind, OnFailure, Share, Source, Spec};
pub use source::{Env, SourceError, Watched, Watcher};
pub use spiffe::{BadSvidId, SpiffeProvider, SpiffeSettings, SvidId, SvidSource};
pub use vault::{VaultLogin, VaultProvider, VaultRead, VaultSettings};
pub use vessel::{Kept, Vessel};

use crate::agent::{AgentId, Name};
use crate::inject::Material;
use crate::policy::Person;
use crate::route::Narrow;
use crate::secret::Secret;
use crate::tls::Bundles;

/// One issuer. It issues and revokes and does nothing else: it must not cache, retry, or keep what it issued.
#[async_trait]
pub trait CredentialProvider: fmt::Debug + Send + Sync {
    /// The name of its kind table (`static`, `vault` …), as audit records call it.
    fn kind(&self) -> &'static str;

    /// Whether what it issues can be revoked. Where it can, the broker notes that a lease is about to be issued, so that
    /// a crash leaves a trace of it.
    fn revokes(&self) -> bool {
        true
    }

    /// Whether a call may go on past the credential's deadline, with nobody waiting for it: what it brings then is
    /// revoked. Where not, it is dropped at the deadline.
    fn may_end_late(&self) -> bool {
        true
    }

    /// Asks the issuer once. The broker sets the deadline, and may drop the future at it or later.
    async fn issue(&self, scope: &Scope) -> Result<Issued, IssueError>;

    /// What the servers are held to that its leases are shown to, where their hosts' names do not say who they are.
    fn bundles(&self) -> Option<Arc<dyn Bundles>> {
        None
    }

    /// Asks the issuer once to let what `handle` stands for live on, as [`Handle::renewable`] says; how long it is good
    /// from then on. [`IssueError::Refused`]: it does not, and the broker asks for another.
    async fn renew(&self, handle: &Handle) -> Result<Life, IssueError> {
        let _ = handle;
        Err(IssueError::Refused)
    }

    /// Ends what `handle` stands for. What the issuer no longer knows is revoked: that is `Ok`.
    async fn revoke(&self, handle: &Handle) -> Result<(), RevokeError>;
}

impl From<OutOfReach> for IssueError {
    fn from(_: OutOfReach) -> Self {
        Self::Store
    }
}

/// For whom a lease is issued: exactly those whom it may serve.
#[derive(Debug, Clone)]
pub struct Scope {
    /// The credential.
    pub credential: Name,
    /// Whom the lease may serve.
    pub holder: Holder,
    /// The person for whom those act, where they act for one.
    pub person: Option<Arc<Person>>,
    /// What the route asks for less than the credential may give.
    pub narrow: Arc<Narrow>,
}

/// Persons are the same where their users are; the token they came with is not looked at.
impl PartialEq for Scope {
    fn eq(&self, other: &Self) -> bool {
        let user = |scope: &Self| scope.person.as_ref().map(|person| person.user.clone());
        self.credential == other.credential
            && self.holder == other.holder
            && self.narrow == other.narrow
            && user(self) == user(other)
    }
}

impl Eq for Scope {}

/// Whom one lease may serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holder {
    /// One session.
    Session {
        /// Its agent.
        agent: AgentId,
        /// Its id.
        session: Arc<str>,
    },
    /// All sessions of one agent.
    Agent(AgentId),
    /// Everybody.
    All,
}

impl Holder {
    /// The agent, unless the lease serves everybody.
    pub fn agent(&self) -> Option<&AgentId> {
        match self {
            Self::Session { agent, .. } | Self::Agent(agent) => Some(agent),
            Self::All => None,
        }
    }

    /// The session, where the lease serves only one.
    pub fn session(&self) -> Option<&Arc<str>> {
        match self {
            Self::Session { session, .. } => Some(session),
            Self::Agent(_) | Self::All => None,
        }
    }
}

/// What an issuer gave.
#[derive(Debug)]
pub struct Issued {
    /// What is injected.
    pub material: Material,
    /// How long it is good, by the issuer's word.
    pub life: Life,
    /// What revokes it; `None` where the issuer has no revocation.
    pub handle: Option<Handle>,
    /// Raised when the issuer has something newer: the lease is then not used again.
    pub superseded: Option<Superseded>,
}

/// What an issuer needs in order to revoke. Often the token itself (RFC 7009), so it is kept as a secret.
#[derive(Debug, Clone)]
pub struct Handle {
    content: Arc<Secret>,
    renewable: Option<Renewable>,
}

/// How a lease can be made to live on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Renewable {
    /// How long the issuer gave at first, in seconds: it is asked for as much again.
    pub seconds: u32,
    /// A word of the provider's own.
    pub mark: u64,
}

impl Handle {
    /// A handle with this content, which only the provider that made it understands.
    pub fn new(content: Arc<Secret>) -> Self {
        Self {
            content,
            renewable: None,
        }
    }

    /// The same of a lease that its issuer may let live on.
    #[must_use]
    pub fn renewed_by(self, renewable: Renewable) -> Self {
        Self {
            renewable: Some(renewable),
            ..self
        }
    }

    /// The content, for the request that revokes.
    pub fn content(&self) -> &Secret {
        &self.content
    }

    /// Whether the issuer may let it live on. It is not written down: a lease of a dead process is revoked.
    pub fn renewable(&self) -> Option<Renewable> {
        self.renewable
    }
}

/// A flag that says: there is something newer. It is raised once and never lowered.
#[derive(Debug, Clone, Default)]
pub struct Superseded {
    own: Arc<AtomicBool>,
    parts: Arc<[Superseded]>,
}

impl Superseded {
    /// A flag that is raised with any of these.
    pub fn with(parts: impl IntoIterator<Item = Self>) -> Self {
        Self {
            own: Arc::default(),
            parts: parts.into_iter().collect(),
        }
    }

    /// Raises the flag.
    pub fn raise(&self) {
        self.own.store(true, Ordering::Release);
    }

    /// Whether it is raised.
    pub fn is_raised(&self) -> bool {
        self.own.load(Ordering::Acquire) || self.parts.iter().any(Self::is_raised)
    }
}

/// Why there is no lease, by what the caller can do. The texts hold nothing of the issuer's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IssueError {
    /// The issuer said no, or gave what cannot be used: asking again will not help.
    #[error("the issuer gave no usable credential")]
    Refused,
    /// The same, and it named the time before which it is not to be asked again.
    #[error("the issuer gave no usable credential")]
    RefusedFor {
        /// When to ask again.
        retry_after: Duration,
    },
    /// The issuer is out of reach.
    #[error("the issuer is out of reach")]
    Unavailable {
        /// When to ask again, where the issuer or the broker's memory of failures says so.
        retry_after: Option<Duration>,
    },
    /// The issuer is sealed: a person must open it.
    #[error("the issuer is sealed")]
    Sealed,
    /// The issuer did not answer within the credential's deadline.
    #[error("the issuer did not answer in time")]
    TimedOut,
    /// The issuer was asked, and its answer was lost: it may have issued what nobody has.
    #[error("the issuer's answer was lost")]
    Lost,
    /// The credential is a person's, and the session acts for none.
    #[error("the session has no user")]
    UserRequired,
    /// What must outlast a crash cannot be written down, or read: nothing is issued then.
    #[error("the store is out of reach")]
    Store,
}

impl IssueError {
    /// The refusal's word, for records and labels.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Refused | Self::RefusedFor { .. } => "broker-refused",
            Self::Unavailable { .. } | Self::Lost => "broker-unavailable",
            Self::Sealed => "broker-sealed",
            Self::TimedOut => "broker-timeout",
            Self::UserRequired => "user-required",
            Self::Store => "store-unavailable",
        }
    }

    /// Whether it speaks of the issuer as a whole, not of the one for whom was asked.
    fn is_of_issuer(self) -> bool {
        match self {
            Self::Refused | Self::RefusedFor { .. } | Self::Store | Self::UserRequired => false,
            Self::Unavailable { .. } | Self::Sealed | Self::TimedOut | Self::Lost => true,
        }
    }

    /// Whether the issuer may have issued all the same.
    fn is_unknown(self) -> bool {
        matches!(self, Self::TimedOut | Self::Lost)
    }
}

/// Why a revocation did not succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RevokeError {
    /// The issuer has no revocation for this.
    #[error("the issuer cannot revoke this")]
    Unsupported,
    /// Not now: it is tried again.
    #[error("the issuer did not confirm the revocation")]
    Failed,
}
