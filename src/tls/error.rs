//! What can be wrong with the CA, sorted by what an operator can do about it.

use std::io;
use std::path::PathBuf;

use crate::host::Host;

/// Why there is no CA to issue leaves with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CaError {
    /// A file or the folder cannot be read or written.
    #[error("{path}: cannot {action}")]
    Io {
        /// Which.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// Someone else may read a key or replace a file.
    #[error("{path}: {why}")]
    Exposed {
        /// Which.
        path: PathBuf,
        /// What is wrong, and how to mend it.
        why: &'static str,
    },
    /// A file is not what its name says.
    #[error(
        "{path}: {why}; restore it from a backup, or move the folder away to begin with a new root"
    )]
    Corrupt {
        /// Which.
        path: PathBuf,
        /// What was expected.
        why: &'static str,
    },
    /// A certificate and the key that should be its own do not belong together.
    #[error("{path}: {why}")]
    Mismatch {
        /// Which.
        path: PathBuf,
        /// Which two do not fit.
        why: &'static str,
    },
    /// The intermediate cannot serve, and the root's key, which could issue another, is not here.
    #[error(
        "{path}: {why}, and the root's key is not beside it: run `keyward ca issue` where the key is, and bring `intermediate.pem` here"
    )]
    Outdated {
        /// The intermediate.
        path: PathBuf,
        /// What it lacks.
        why: &'static str,
    },
    /// `issue` and `rotate` need the root's key.
    #[error("{path}: the root's key is not here, and only it can issue an intermediate")]
    NoRootKey {
        /// Where it should be.
        path: PathBuf,
    },
    /// The root's own life is over, or not begun by this machine's clock.
    #[error("the root is outside its validity: check the clock, or run `keyward ca rotate`")]
    RootExpired,
    /// The list of permitted names would not fit a certificate that every client reads.
    #[error(
        "the configured hosts need {bytes} bytes of name constraints, more than the {limit} that clients accept in a handshake: name fewer hosts, or cover them with `*.`"
    )]
    TooManyNames {
        /// What they need.
        bytes: usize,
        /// What is accepted.
        limit: usize,
    },
    /// Key generation or signing failed.
    #[error("the cryptography library failed")]
    Crypto(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl From<rcgen::Error> for CaError {
    fn from(error: rcgen::Error) -> Self {
        Self::Crypto(Box::new(error))
    }
}

impl From<rustls::Error> for CaError {
    fn from(error: rustls::Error) -> Self {
        Self::Crypto(Box::new(error))
    }
}

/// Why no leaf was minted for a host. Both are refusals of the CONNECT: never a reason to tunnel.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LeafError {
    /// The intermediate does not permit this host; nothing was minted.
    #[error("the CA is not permitted to issue for {0}")]
    NotPermitted(Host),
    /// The CA itself cannot issue now.
    #[error("the CA cannot issue")]
    Unavailable(#[from] CaError),
}
