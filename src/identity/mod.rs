//! Who is on the other end: trust providers turn evidence into an attested agent, the registry says whether it may act.

mod registry;
mod token;

use std::fmt::Debug;
use std::net::IpAddr;
use std::sync::Arc;

use async_trait::async_trait;

pub use registry::{AgentEntry, Registry, Status, Unregistered};
pub use token::{Presented, StaticTokens, presented};

use crate::agent::AgentId;

/// What one connection brings.
#[derive(Debug, Clone, Copy)]
pub struct Evidence<'a> {
    /// What stood in `Proxy-Authorization`, if anything.
    pub presented: Option<&'a Presented>,
    /// The peer.
    pub peer: &'a Peer,
}

/// The other end of a connection, as the kernel tells it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Peer {
    /// A TCP peer.
    Tcp(IpAddr),
    /// A process on a unix socket (`SO_PEERCRED`).
    Unix {
        /// Its user id.
        uid: u32,
    },
}

impl Peer {
    /// Its address, where it has one.
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::Tcp(ip) => Some(ip.to_canonical()),
            Self::Unix { .. } => None,
        }
    }
}

/// As audit shows it.
impl std::fmt::Display for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(ip) => write!(f, "{}", ip.to_canonical()),
            Self::Unix { uid } => write!(f, "uid:{uid}"),
        }
    }
}

/// An agent whose evidence holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attested {
    /// The agent.
    pub agent: AgentId,
    /// The trust provider that says so (`token`, `open`, or NAME of `[trust.NAME]`).
    pub trust: Arc<str>,
}

/// Why evidence does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AttestError {
    /// It is of a known kind, and bad.
    #[error("the evidence does not hold")]
    Bad,
    /// The provider's issuer is out of reach.
    #[error("the trust provider is out of reach")]
    Unavailable,
}

/// One way of proving who an agent is. An implementor keeps no cache and makes no session.
#[async_trait]
pub trait TrustProvider: Debug + Send + Sync {
    /// `Ok(None)`: not my kind of evidence, ask the next. `Err`: mine, and bad.
    async fn attest(&self, evidence: Evidence<'_>) -> Result<Option<Attested>, AttestError>;
}

/// `identify = "open"`: whoever connects is this agent.
#[derive(Debug, Clone)]
pub struct Open(pub AgentId);

#[async_trait]
impl TrustProvider for Open {
    async fn attest(&self, _: Evidence<'_>) -> Result<Option<Attested>, AttestError> {
        Ok(Some(Attested {
            agent: self.0.clone(),
            trust: "open".into(),
        }))
    }
}
