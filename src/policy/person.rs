//! The person for whom a session acts, as far as decisions and brokers need to know.

use crate::agent::User;
use crate::secret::Secret;

/// A session's user. It is settled when the session begins and never changes.
#[derive(Debug)]
pub struct Person {
    /// Who it is.
    pub user: User,
    /// The token that the session was bound with, for token exchange (RFC 8693 §2.1, `subject_token`).
    pub token: Option<UserToken>,
}

/// A person's own token. It leaves keyward towards its issuer only.
#[derive(Debug)]
pub struct UserToken {
    /// The token.
    pub value: Secret,
    /// What it is.
    pub kind: UserTokenType,
}

/// The last part of the RFC 8693 §3 token type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UserTokenType {
    /// `access_token`.
    AccessToken,
    /// `id_token`.
    IdToken,
}
