//! What a credential is made of.

use std::sync::Arc;

use super::Certificate;
use super::DpopKey;
use super::sigv4::Keys;
use crate::secret::Secret;

/// The material of one lease. Providers make it, injections use it up.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Material {
    /// One opaque token or key.
    Token(Arc<Secret>),
    /// A user name and a password, as database engines issue them.
    UserPass {
        /// The user name: not a secret, but part of what is sent.
        user: Arc<str>,
        /// The password.
        password: Arc<Secret>,
    },
    /// AWS keys, which sign and are never sent; the session token is.
    Aws(Keys),
    /// A token that is good only with a proof of its key (RFC 9449).
    Dpop {
        /// The token.
        token: Arc<Secret>,
        /// The key. It never leaves, so no answer can hold it.
        key: Arc<DpopKey>,
    },
    /// A client certificate for the TLS handshake.
    Certificate(Arc<Certificate>),
}

impl Material {
    /// Every byte string of it that must never reach an agent.
    pub fn secrets(&self) -> impl Iterator<Item = &Arc<Secret>> {
        let (first, second, certificate) = match self {
            Self::Token(token) | Self::Dpop { token, .. } => (Some(token), None, None),
            Self::UserPass { password, .. } => (Some(password), None, None),
            Self::Aws(keys) => (Some(&keys.secret), keys.token.as_ref(), None),
            Self::Certificate(certificate) => (None, None, Some(certificate)),
        };
        let lines = certificate.into_iter().flat_map(|one| one.lines());
        let whole = [first, second].into_iter().flatten();
        whole.chain(lines)
    }
}
