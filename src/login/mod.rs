//! Signing people in: authorization code with PKCE, device code, and what keeps a sign-in alive, at any OpenID provider.
//!
//! What goes out and what comes back is decided in plain functions ([`request`]); [`Provider`] makes the calls around
//! them. Who a person is says an ID token that was verified, and nothing else.

mod device;
mod metadata;
mod pass;
mod pending;
mod provider;
mod request;

use std::fmt;

use jiff::Timestamp;
use zeroize::Zeroizing;

pub use device::{Device, Poll};
pub use pass::{Holder, Pass, PassStore, Silent, digest_of};
pub use pending::Pending;
pub use provider::Provider;
pub use request::{Begun, Returned, Unfit, random};

use crate::agent::User;
use crate::policy::{UserToken, UserTokenType};
use crate::secret::Secret;

/// How long a sign-in may take from its first request to its end.
pub const PATIENCE: std::time::Duration = std::time::Duration::from_mins(10);

/// A person who signed in, and what proves it.
pub struct SignedIn {
    /// Who it is.
    pub user: User,
    /// When the ID token ends.
    pub expires: Timestamp,
    /// The ID token.
    pub id_token: Secret,
    /// The access token beside it.
    pub access_token: Option<Secret>,
    /// What the sign-in can be renewed with.
    pub refresh_token: Option<Secret>,
}

/// Why nobody is signed in. Nothing of the provider's is in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// The person or the provider said no, or what came back does not hold. To begin anew may help.
    #[error("{0}")]
    Refused(&'static str),
    /// The provider is out of reach.
    #[error("the login's provider is out of reach")]
    Unavailable,
    /// Another command is renewing the sign-in, and does not end.
    #[error("another command holds the kept sign-in: end that one, or try again")]
    Busy,
}

impl SignedIn {
    /// The tokens, for the session of this person.
    pub fn tokens(&self) -> Vec<UserToken> {
        let copied = |secret: &Secret| Secret::new(secret.expose().to_vec());
        let id_token = UserToken {
            value: copied(&self.id_token),
            kind: UserTokenType::IdToken,
        };
        let access = self.access_token.as_ref().map(|token| UserToken {
            value: copied(token),
            kind: UserTokenType::AccessToken,
        });
        std::iter::once(id_token).chain(access).collect()
    }
}

impl fmt::Debug for SignedIn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SignedIn")
            .field("user", &self.user)
            .field("expires", &self.expires)
            .finish_non_exhaustive()
    }
}

/// Text of an answer that is wiped.
#[derive(serde::Deserialize)]
#[serde(transparent)]
struct Wiped(#[serde(deserialize_with = "wiped")] Zeroizing<String>);

fn wiped<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Zeroizing<String>, D::Error> {
    let text: String = serde::Deserialize::deserialize(from)?;
    Ok(Zeroizing::new(text))
}

impl Wiped {
    fn secret(&self) -> Secret {
        Secret::new(self.0.as_bytes().to_vec())
    }
}
