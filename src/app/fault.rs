//! Why keyward does not start, and what to do about it.

use std::fmt;
use std::net::SocketAddr;

use crate::agent::Name;
use crate::audit::AuditError;
use crate::proxy::BindError;
use crate::store::StoreError;
use crate::tls::{CaError, TrustError};

/// Why keyward does not start, or keeps its old configuration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The audit trail cannot be opened.
    #[error("the audit trail cannot be opened: {0}")]
    Audit(#[from] AuditError),
    /// The CA cannot be opened.
    #[error("the CA cannot be used: {0}")]
    Ca(#[from] CaError),
    /// The roots that upstreams are verified against cannot be loaded.
    #[error("the upstream trust cannot be loaded: {0}")]
    Trust(#[from] TrustError),
    /// A listener cannot be opened.
    #[error("{0}: {1}")]
    Bind(BindError, String),
    /// The admin listener cannot be opened.
    #[error("cannot listen on {0} for [admin]: {1}")]
    Admin(SocketAddr, std::io::Error),
    /// No key for session tokens can be made.
    #[error("no key for session tokens can be made: {0}")]
    Keys(String),
    /// The store cannot be opened.
    #[error("[store]: {0}")]
    Store(#[from] StoreError),
    /// The admin socket cannot be opened.
    #[error("cannot open {0} for [admin]: {1}")]
    Socket(String, std::io::Error),
    /// A listener's own certificate or key cannot be used.
    #[error("the listener \"{0}\" has no certificate to show: {1}")]
    Door(Name, String),
    /// A secret that a credential needs at start cannot be used.
    #[error("{0}")]
    Secret(String),
}

impl fmt::Display for StartHint<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            StartError::Audit(_) => {
                f.write_str("check [audit] file: its folder must exist and be writable")
            }
            StartError::Ca(_) => f.write_str("check [ca] dir, or run `keyward ca show`"),
            StartError::Trust(_) => f.write_str("check [upstream] trust"),
            StartError::Store(StoreError::WrongKey) => f.write_str("name the key that the store was made with, or begin with an empty one: leases and tokens of the old one are lost then"),
            StartError::Store(_) => f.write_str("check [store]: the file's folder or the server, and the sources of its secrets"),
            StartError::Socket(..) => {
                f.write_str("check [admin] socket: its folder must exist and be writable, and no other keyward listen there")
            }
            StartError::Bind(..) | StartError::Admin(..) => {
                f.write_str("choose another address, or stop what listens there")
            }
            StartError::Keys(_) => f.write_str("the system's random generator must answer"),
            StartError::Door(..) => f.write_str("check cert and key of the listener's `tls`"),
            StartError::Secret(_) => f.write_str("check the credential's source"),
        }
    }
}

/// What to do about a [`StartError`].
#[derive(Debug)]
pub struct StartHint<'a>(pub &'a StartError);
