//! Dialling: a name is resolved once, every address is checked, and the checked address is dialled.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use super::address::{self, Forbidden};
use super::refusal::Refusal;
use super::settings::UpstreamSettings;
use crate::agent::AgentId;
use crate::host::{Host, Scheme, Target};

/// Why a target was not reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum DialError {
    /// An address of it may not be dialled.
    #[error("the address may not be dialled")]
    Forbidden,
    /// No name, no route, nobody listens, or the parent proxy refused.
    #[error("the upstream is unreachable")]
    Unreachable,
    /// Its certificate does not verify, or it is for another name.
    #[error("the upstream's certificate does not verify")]
    Untrusted,
    /// It took too long.
    #[error("the upstream did not answer in time")]
    TimedOut,
}

impl From<DialError> for Refusal {
    fn from(error: DialError) -> Self {
        match error {
            DialError::Forbidden => Self::PrivateAddress,
            DialError::Unreachable => Self::UpstreamUnreachable,
            DialError::Untrusted => Self::UpstreamUntrusted,
            DialError::TimedOut => Self::UpstreamTimeout,
        }
    }
}

impl From<Forbidden> for DialError {
    fn from(_: Forbidden) -> Self {
        Self::Forbidden
    }
}

/// How long one address of several may take before the next is tried.
const PER_ADDRESS: Duration = Duration::from_secs(3);

/// Names of metadata services: refused before any look-up, whatever is allowed.
const NEVER: [&str; 4] = [
    "metadata.google.internal",
    "metadata.goog",
    "instance-data.ec2.internal",
    "kubernetes.default.svc",
];

impl UpstreamSettings {
    /// The refusal that a target meets before any look-up, for `explain`. `own` are the addresses of our listeners.
    ///
    /// # Errors
    /// [`Refusal::PrivateAddress`] for an address literal or a name that is never reached.
    pub fn foresee(&self, own: &[SocketAddr], target: &Target) -> Result<(), Refusal> {
        let dialler = Dialler::new(self.clone(), own.to_vec());
        dialler.precheck(target).map_err(Refusal::from)
    }
}

/// Look-ups under way at once: each holds a thread of the system resolver for as long as it takes.
const MOST_LOOKUPS: usize = 64;
/// Of these, how many may be one agent's: names that nobody answers for must not keep the others waiting.
const MOST_OF_AGENT: usize = 16;

/// Dials by the settings of one configuration.
#[derive(Debug)]
pub(super) struct Dialler {
    settings: UpstreamSettings,
    own: Vec<SocketAddr>,
    lookups: Semaphore,
    turns: Mutex<HashMap<AgentId, Weak<Semaphore>>>,
}

impl Dialler {
    pub(super) fn new(settings: UpstreamSettings, own: Vec<SocketAddr>) -> Self {
        Self {
            settings,
            own,
            lookups: Semaphore::new(MOST_LOOKUPS),
            turns: Mutex::default(),
        }
    }

    /// How long name, TCP and TLS may take together.
    pub(super) fn connect_timeout(&self) -> Duration {
        self.settings.connect_timeout
    }

    /// Checks what can be judged of a target without a look-up: an address literal, a name that is never reached.
    pub(super) fn precheck(&self, target: &Target) -> Result<(), DialError> {
        if self.instead(target).is_some() {
            return Ok(());
        }
        match &target.host {
            Host::Ip(ip) => {
                self.check(SocketAddr::new(*ip, target.port))?;
                Ok(())
            }
            Host::Name(name) if NEVER.contains(&&**name) => Err(DialError::Forbidden),
            Host::Name(_) => Ok(()),
        }
    }

    /// Opens a TCP connection to the target, by the operator's `connect-to` and `via` where they speak of it.
    pub(super) async fn dial(
        &self,
        target: &Target,
        agent: &AgentId,
    ) -> Result<TcpStream, DialError> {
        self.precheck(target)?;
        let stream = if let Some(instead) = self.instead(target) {
            // The operator's own word: no address policy.
            connect(&self.resolve(instead, agent).await?).await?
        } else if let Some(parent) = &self.settings.via {
            through(connect(&self.resolve(parent, agent).await?).await?, target).await?
        } else {
            let addresses = self.resolve(target, agent).await?;
            let checked: Result<Vec<SocketAddr>, Forbidden> = addresses
                .into_iter()
                .map(|address| self.check(address))
                .collect();
            connect(&checked?).await?
        };
        // A proxy that gathers small writes shows 40 ms steps on streams.
        stream
            .set_nodelay(true)
            .map_err(|_| DialError::Unreachable)?;
        Ok(stream)
    }

    /// The operator's `connect-to`: its keys are hosts and ports, whatever the scheme.
    fn instead(&self, target: &Target) -> Option<&Target> {
        if self.settings.connect_to.is_empty() {
            return None;
        }
        self.settings.connect_to.get(&Target {
            scheme: Scheme::Https,
            ..target.clone()
        })
    }

    fn check(&self, address: SocketAddr) -> Result<SocketAddr, Forbidden> {
        address::check(address, &self.settings.allow_private, &self.own)
    }

    /// The look-ups that one agent may have under way; forgotten when it has none.
    fn turns_of(&self, agent: &AgentId) -> Arc<Semaphore> {
        let mut turns = self.turns.lock();
        if let Some(own) = turns.get(agent).and_then(Weak::upgrade) {
            return own;
        }
        turns.retain(|_, own| own.strong_count() > 0);
        let own = Arc::new(Semaphore::new(MOST_OF_AGENT));
        turns.insert(agent.clone(), Arc::downgrade(&own));
        own
    }

    /// All addresses of a target. A trailing dot keeps the resolver from trying a search list.
    async fn resolve(
        &self,
        target: &Target,
        agent: &AgentId,
    ) -> Result<Vec<SocketAddr>, DialError> {
        let port = target.port;
        let name = match &target.host {
            Host::Ip(ip) => return Ok(vec![SocketAddr::new(*ip, port)]),
            // RFC 6761 §6.3: loopback, and nobody is asked.
            Host::Name(name) if &**name == "localhost" => {
                return Ok(vec![
                    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port),
                    SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), port),
                ]);
            }
            Host::Name(name) => name,
        };
        let own = self.turns_of(agent);
        let _own = own.acquire().await.map_err(|_| DialError::Unreachable)?;
        let _turn = self
            .lookups
            .acquire()
            .await
            .map_err(|_| DialError::Unreachable)?;
        let absolute = format!("{name}.");
        let found: Vec<SocketAddr> = tokio::net::lookup_host((absolute.as_str(), port))
            .await
            .map_err(|_| DialError::Unreachable)?
            .collect();
        if found.is_empty() {
            Err(DialError::Unreachable)
        } else {
            Ok(found)
        }
    }
}

/// The first address that answers.
async fn connect(addresses: &[SocketAddr]) -> Result<TcpStream, DialError> {
    let mut outcome = DialError::Unreachable;
    for address in addresses {
        match tokio::time::timeout(PER_ADDRESS, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(_)) => outcome = DialError::Unreachable,
            Err(_) => outcome = DialError::TimedOut,
        }
    }
    Err(outcome)
}

/// The longest answer of a parent proxy that is read, in bytes.
const MAX_PARENT_HEAD: usize = 8 * 1024;

/// Asks a parent proxy for a tunnel. Nothing of the agent's is in the request.
async fn through(mut stream: TcpStream, target: &Target) -> Result<TcpStream, DialError> {
    let request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n");
    stream
        .write_all(request.as_bytes())
        .await
        .map_err(|_| DialError::Unreachable)?;
    // Byte by byte, so that nothing behind the head is swallowed.
    let mut head = Vec::with_capacity(256);
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() >= MAX_PARENT_HEAD {
            return Err(DialError::Unreachable);
        }
        head.push(stream.read_u8().await.map_err(|_| DialError::Unreachable)?);
    }
    let granted = (head.starts_with(b"HTTP/1.1 2") || head.starts_with(b"HTTP/1.0 2"))
        && head.get(12) == Some(&b' ');
    if granted {
        Ok(stream)
    } else {
        Err(DialError::Unreachable)
    }
}
