//! Who is on the other end: trust providers turn evidence into an attested agent, the registry says whether it may act.

mod aws;
mod bound;
mod build;
mod flight;
mod jwt;
mod kubernetes;
mod login;
mod mapping;
mod metrics;
mod overlay;
mod peer;
mod registry;
mod settings;
mod spiffe;
mod statement;
mod token;

use std::fmt::Debug;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use jiff::Timestamp;

pub use build::{Parts, Token, provider};
pub use login::{Expected, Known, Login, Logins, PersonError, UserEvidence};
pub use mapping::{Mapping, Pattern};
pub use metrics::{Counted, Metrics};
pub use overlay::{AgentStore, BadEntry, Overlay, Said, Silent, Written};
pub use peer::{Callers, Learnt, Process};
pub use registry::{AgentEntry, Listed, Registry, Status, Unregistered};
pub use settings::{
    Algorithm, AwsSettings, CallerIdentity, ImageVerifier, JwtSettings, KeyPlace,
    KubernetesSettings, PeerSettings, RelaySettings, SecurityContext, SpiffeSettings, Trust,
    TrustKind,
};
pub use statement::{PROCESS, Stated, stated};
pub use token::{Presented, StaticTokens, presented};

use crate::agent::AgentId;
use jwt::verified::sum;

/// What one connection brings.
#[derive(Debug, Clone, Copy)]
pub struct Evidence<'a> {
    /// What was presented, if anything.
    pub presented: Option<&'a Presented>,
    /// As what it was presented.
    pub presented_as: TokenType,
    /// The peer.
    pub peer: &'a Peer,
    /// What else is known of its connection.
    pub link: &'a Link,
}

impl<'a> Evidence<'a> {
    /// What a connection to a proxy listener brings.
    pub fn of(presented: Option<&'a Presented>, peer: &'a Peer, link: &'a Link) -> Self {
        Self {
            presented,
            presented_as: TokenType::Any,
            peer,
            link,
        }
    }
}

/// As what a token was presented.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TokenType {
    /// In `Proxy-Authorization`, or as a client's secret: it may be any. Peer and certificate count as well.
    #[default]
    Any,
    /// `urn:ietf:params:oauth:token-type:jwt`.
    Jwt,
    /// `urn:keyward:token-type:aws-identity-document`.
    AwsIdentityDocument,
    /// `urn:keyward:token-type:aws-caller-identity`.
    AwsCallerIdentity,
}

/// What kernel and TLS say of a connection beside the peer's address.
#[derive(Debug, Default)]
pub struct Link {
    /// Of TCP: our address, and the peer's.
    pub tcp: Option<(SocketAddr, SocketAddr)>,
    /// Of a unix socket: who connected.
    pub unix: Option<Arc<UnixPeer>>,
    /// Of a `tls:` listener: the certificates that the peer presented, its own first, in DER. It has proved that the
    /// first one's key is its own; nobody has looked yet at who issued them.
    pub certificates: Vec<Box<[u8]>>,
    /// The first one's SHA-256, once somebody asked: every request of a bound token does.
    pub thumbprint: OnceLock<[u8; 32]>,
    /// What the request says of the process behind a relay. Nothing of it is proved: a provider that
    /// [hears relays](TrustProvider::hears_relays) judges who says it.
    pub stated: Option<Stated>,
}

impl Link {
    /// The same connection, with a request that says this.
    #[must_use]
    pub fn saying(&self, stated: Stated) -> Self {
        Self {
            tcp: self.tcp,
            unix: self.unix.clone(),
            certificates: self.certificates.clone(),
            thumbprint: self.thumbprint.clone(),
            stated: Some(stated),
        }
    }

    /// The SHA-256 of the peer's own certificate, which is `x5t#S256` (RFC 8705 §3.1); `None` where it has none.
    fn thumbprint(&self) -> Option<[u8; 32]> {
        let own = self.certificates.first()?;
        Some(*self.thumbprint.get_or_init(|| sum(own)))
    }
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

/// The process that connected to a unix socket.
#[derive(Debug)]
pub struct UnixPeer {
    /// Its number here; 0 where it is in a PID namespace that we do not see.
    pub pid: u32,
    /// Its effective user, when it connected.
    pub uid: u32,
    /// Its effective group, when it connected.
    pub gid: u32,
    /// A handle that is never another process's (`SO_PEERPIDFD`), where the kernel has it.
    pub handle: Option<OwnedFd>,
    /// The inode of our end of the connection, by which the kernel names the other.
    pub inode: Option<u64>,
}

impl UnixPeer {
    /// The inode of this socket, for [`UnixPeer::inode`].
    pub fn inode_of(socket: &impl std::os::fd::AsFd) -> Option<u64> {
        rustix::fs::fstat(socket).ok().map(|found| found.st_ino)
    }
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
    /// The SHA-256 of what was signed of the evidence, where it is one that ends: a session is of one agent and one
    /// evidence. Neither the signature itself nor what the evidence is wrapped in counts: both can be written in
    /// several ways by whoever holds it.
    pub evidence: Option<[u8; 32]>,
    /// When the evidence ends.
    pub expires: Option<Timestamp>,
    /// To what a session by this evidence is bound beside the peer's address.
    pub bound: Option<Bound>,
}

/// What a stolen session token would lack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bound {
    /// A process: its user and its executable.
    Process {
        /// The effective user id.
        uid: u32,
        /// The executable's path; left out where it is not known.
        executable: Option<Arc<Path>>,
    },
    /// The SHA-256 of an X.509 certificate, which is `x5t#S256` of RFC 8705 §3.1.
    Certificate([u8; 32]),
}

impl Attested {
    /// An agent by evidence that does not end by itself and binds nothing.
    pub fn new(agent: AgentId, trust: Arc<str>) -> Self {
        Self {
            agent,
            trust,
            evidence: None,
            expires: None,
            bound: None,
        }
    }
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

    /// Whether it judges what a relay says of the process behind it. Who says something of that kind is shown to such
    /// providers alone: a relay's own rights are not those of the processes that it serves.
    fn hears_relays(&self) -> bool {
        false
    }
}

/// `identify = "open"`: whoever connects is this agent.
#[derive(Debug, Clone)]
pub struct Open(pub AgentId);

#[async_trait]
impl TrustProvider for Open {
    async fn attest(&self, evidence: Evidence<'_>) -> Result<Option<Attested>, AttestError> {
        // Evidence of a kind that is named is not the connection.
        let any = evidence.presented_as == TokenType::Any;
        Ok(any.then(|| Attested::new(self.0.clone(), "open".into())))
    }
}
