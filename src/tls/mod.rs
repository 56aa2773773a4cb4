//! TLS on both legs: the issuing CA, the leaves that agents see, and the connectors towards upstreams.
//!
//! [`Authority`] holds a name-constrained intermediate, [`Leaves`] mints and keeps one [`Acceptor`] a host, and a
//! [`Connector`] verifies upstreams; there is no switch that turns verification off. Every rustls and rcgen type stays
//! in this room. Nothing is installed process-wide: each configuration is built with its own provider, so the room
//! needs no set-up, and no key log, early data or secret extraction is ever turned on.

mod accept;
mod authority;
mod connect;
mod error;
mod facts;
mod folder;
mod front;
mod identity;
mod issue;
mod leaves;
mod names;
mod peer;
mod roots;
mod stream;
mod trust;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::UnixTime;
use rustls::time_provider::TimeProvider;

use crate::clock::Clock;

pub use accept::{AcceptError, Acceptor};
pub use authority::{Authority, Overlap};
pub use connect::{ConnectError, Connector, Distrust};
pub use error::{CaError, LeafError};
pub use facts::{CertificateFacts, Role};
pub use front::{FrontDoor, Shown};
pub use identity::{ClientIdentity, IdentityError};
pub use leaves::{Leaves, Metrics};
pub use names::Constraints;
pub use peer::{Bundles, PeerCheck, PeerRoots};
pub use roots::{BadRoot, ClientRoots, certificates};
pub use stream::{ClientStream, ServerStream, TlsStream};
pub use trust::{SYSTEM_BUNDLES, TrustError};

/// `[ca]`, resolved.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CaSettings {
    /// The folder of root and intermediate; `None` keeps both in memory.
    pub dir: Option<PathBuf>,
}

/// `[upstream] trust`, resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustSettings {
    /// The system's store (`"system"`).
    pub system: bool,
    /// PEM files beside it.
    pub pem: Vec<PathBuf>,
}

/// Which HTTP versions are offered by ALPN.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Alpn {
    /// `h2` and `http/1.1`, in this order.
    Both,
    /// `http/1.1` only, as an upgrade to WebSocket needs it.
    Http1,
}

/// Which HTTP version the handshake agreed on. A peer that does not know ALPN speaks HTTP/1.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
}

impl Alpn {
    fn offer(self) -> Vec<Vec<u8>> {
        match self {
            Self::Both => vec![H2.to_vec(), HTTP1.to_vec()],
            Self::Http1 => vec![HTTP1.to_vec()],
        }
    }
}

impl Protocol {
    fn agreed(alpn: Option<&[u8]>) -> Self {
        if alpn == Some(H2) {
            Self::Http2
        } else {
            Self::Http1
        }
    }
}

/// Cryptography towards agents. rustls follows the client's order of groups, so X25519MLKEM768 is left out rather than
/// put last: it costs 175 µs a handshake, and this leg starts with a CONNECT that carries the agent's token in the
/// clear, so whoever could record it for later has no need to.
fn agent_provider() -> Arc<CryptoProvider> {
    use aws_lc_rs::kx_group::{SECP256R1, SECP384R1, X25519};
    Arc::new(CryptoProvider {
        kx_groups: vec![X25519, SECP256R1, SECP384R1],
        ..aws_lc_rs::default_provider()
    })
}

/// Cryptography towards upstreams: the post-quantum hybrid first.
fn upstream_provider() -> Arc<CryptoProvider> {
    use aws_lc_rs::kx_group::{SECP256R1, SECP384R1, X25519, X25519MLKEM768};
    Arc::new(CryptoProvider {
        kx_groups: vec![X25519MLKEM768, X25519, SECP256R1, SECP384R1],
        ..aws_lc_rs::default_provider()
    })
}

/// rustls' view of our clock.
#[derive(Debug)]
struct WallTime(Arc<dyn Clock>);

impl TimeProvider for WallTime {
    fn current_time(&self) -> Option<UnixTime> {
        let seconds = u64::try_from(self.0.now().wall.as_second()).ok()?;
        Some(UnixTime::since_unix_epoch(Duration::from_secs(seconds)))
    }
}

const H2: &[u8] = b"h2";
const HTTP1: &[u8] = b"http/1.1";
