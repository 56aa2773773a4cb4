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

impl<T> Bound<T> {
    /// The credential's own list is the bound, where it has one.
    fn within(list: T, is_empty: bool) -> Self {
        if is_empty {
            Self::Open
        } else {
            Self::Within(list)
        }
    }
}

impl Kind {
    /// What a route may narrow.
    pub fn grants(&self) -> Grants<'_> {
        let none = Grants::default();
        match self {
            Self::Command(_) | Self::Azure(_) => Grants {
                scopes: Bound::Open,
                ..none
            },
            Self::Oauth(settings) => Grants {
                scopes: Bound::within(&settings.scopes, settings.scopes.is_empty()),
                ..none
            },
            Self::GithubApp(settings) => Grants {
                repositories: Bound::within(
                    &settings.repositories,
                    settings.repositories.is_empty(),
                ),
                permissions: Bound::within(&settings.permissions, settings.permissions.is_empty()),
                ..none
            },
            Self::Aws(_) => Grants {
                session_policy: Bound::Open,
                ..none
            },
            Self::Static { .. } | Self::Vault(_) | Self::ClientCertificate(_) | Self::Spiffe(_) => {
                none
            }
        }
    }
}
