//! The person for whom a session acts, as far as decisions and brokers need to know.

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::agent::User;
use crate::secret::Secret;

/// A session's user. It is settled when the session begins and never changes.
#[derive(Debug)]
pub struct Person {
    /// Who it is.
    pub user: User,
    /// The tokens that the session was bound with; they may be renewed, and are then the same person's.
    tokens: ArcSwap<Vec<Arc<UserToken>>>,
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

impl Person {
    /// A person, and what proved who it is.
    pub fn new(user: User, tokens: Vec<UserToken>) -> Self {
        let person = Self {
            user,
            tokens: ArcSwap::default(),
        };
        person.renew(tokens);
        person
    }

    /// Puts newer tokens of the same person in place.
    pub fn renew(&self, tokens: Vec<UserToken>) {
        let tokens = tokens.into_iter().map(Arc::new).collect();
        self.tokens.store(Arc::new(tokens));
    }

    /// The token of this kind for token exchange (RFC 8693 §2.1, `subject_token`). Without a kind it is the access
    /// token, else the ID token.
    pub fn token(&self, kind: Option<UserTokenType>) -> Option<Arc<UserToken>> {
        let tokens = self.tokens.load();
        let of = |kind| tokens.iter().find(|token| token.kind == kind).cloned();
        match kind {
            Some(kind) => of(kind),
            None => of(UserTokenType::AccessToken).or_else(|| of(UserTokenType::IdToken)),
        }
    }
}

impl UserTokenType {
    /// The last part of the type's URN.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AccessToken => "access_token",
            Self::IdToken => "id_token",
        }
    }
}
