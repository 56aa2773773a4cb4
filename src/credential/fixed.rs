//! `[credential.NAME.static]`: a value that somebody else rotates.

use std::time::Duration;

use async_trait::async_trait;

use super::{CredentialProvider, Handle, IssueError, Issued, Life, RevokeError, Scope, Watched};
use crate::inject::Material;

/// Hands out one watched value. Its leases have no end; they are superseded when the value changes.
#[derive(Debug)]
pub struct StaticProvider {
    value: Watched,
}

impl StaticProvider {
    /// Hands out `value`.
    pub fn new(value: Watched) -> Self {
        Self { value }
    }
}

#[async_trait]
impl CredentialProvider for StaticProvider {
    fn kind(&self) -> &'static str {
        "static"
    }

    fn revokes(&self) -> bool {
        false
    }

    async fn issue(&self, _scope: &Scope) -> Result<Issued, IssueError> {
        let reading = self.value.reading();
        let secret = reading
            .value
            .as_ref()
            .map_err(|_| IssueError::Unavailable {
                retry_after: Some(NEXT_LOOK),
            })?;
        Ok(Issued {
            material: Material::Token(secret.clone()),
            life: Life::Endless,
            handle: None,
            superseded: Some(reading.superseded.clone()),
        })
    }

    async fn revoke(&self, _handle: &Handle) -> Result<(), RevokeError> {
        Err(RevokeError::Unsupported)
    }
}

/// The source is looked at on its own time: to ask sooner would find the same.
const NEXT_LOOK: Duration = Duration::from_secs(1);
