//! What a route may narrow of a credential, by its kind.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Kind;

/// The keys of a route by which leases of a kind can be narrowed, each with its bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Grants<'a> {
    /// `scopes`.
    pub scopes: Bound<&'a [Arc<str>]>,
    /// `repositories`.
    pub repositories: Bound<&'a [Arc<str>]>,
    /// `permissions`.
    pub permissions: Bound<&'a BTreeMap<Arc<str>, Arc<str>>>,
    /// `session-policy`.
    pub session_policy: Bound<()>,
}

/// How far one key goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Bound<T> {
    /// The kind knows nothing of it.
    #[default]
    Unknown,
    /// The credential names no bound: the issuer has its own.
    Open,
    /// A subset of this.
    Within(T),
}

impl Kind {
    /// What a route may narrow.
    pub fn grants(&self) -> Grants<'_> {
        let none = Grants::default();
        match self.word() {
            "command"
            | "oauth-client-credentials"
            | "oauth-refresh-token"
            | "token-exchange"
            | "jwt-bearer"
            | "azure"
            | "connected-account" => Grants {
                scopes: Bound::Open,
                ..none
            },
            "github-app" => Grants {
                repositories: Bound::Open,
                permissions: Bound::Open,
                ..none
            },
            "aws" => Grants {
                session_policy: Bound::Open,
                ..none
            },
            _ => none,
        }
    }
}
