//! What a route asks for less than its credential may give: the intent that its leases are bound to.

use std::collections::BTreeMap;
use std::sync::Arc;

/// `scopes`, `repositories`, `permissions` and `session-policy` of a `[[route]]`. Two routes that ask for the same
/// share their leases; two that differ never do.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Narrow {
    /// `scopes`: a subset of the credential's, sorted. `None`: what the credential says.
    pub scopes: Option<Vec<Arc<str>>>,
    /// `repositories` (GitHub App): a subset of the credential's, sorted.
    pub repositories: Option<Vec<Arc<str>>>,
    /// `permissions` (GitHub App): name and level.
    pub permissions: Option<BTreeMap<Arc<str>, Arc<str>>>,
    /// `session-policy` (AWS): the JSON text of the file.
    pub session_policy: Option<Arc<str>>,
}

impl Narrow {
    /// Whether nothing is narrowed.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}
