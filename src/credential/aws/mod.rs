//! `[credential.NAME.aws]`: AWS keys, as somebody else rotates them or as STS gives them for a while.

mod held;

use async_trait::async_trait;

use super::{
    CredentialProvider, Env, Handle, IssueError, Issued, RevokeError, Scope, Source, Watcher,
};
use crate::agent::Name;

use self::held::Held;

/// `[credential.NAME.aws]`, resolved.
#[derive(Debug, Clone, PartialEq)]
pub struct AwsSpec {
    /// `source`: the keys that keyward starts from.
    pub source: AwsSource,
    /// `region`.
    pub region: Box<str>,
}

/// Where keyward's own keys come from.
#[derive(Debug, Clone, PartialEq)]
pub enum AwsSource {
    /// The standard chain.
    Default,
    /// Keys that somebody else rotates.
    Static {
        /// `access-key-id`
        access_key_id: Source,
        /// `secret-access-key`
        secret_access_key: Source,
        /// `session-token`
        session_token: Option<Source>,
    },
}

impl AwsSpec {
    /// Every source of a secret in it.
    pub fn sources(&self) -> Vec<&Source> {
        match &self.source {
            AwsSource::Default => Vec::new(),
            AwsSource::Static {
                access_key_id,
                secret_access_key,
                session_token,
            } => [
                Some(access_key_id),
                Some(secret_access_key),
                session_token.as_ref(),
            ]
            .into_iter()
            .flatten()
            .collect(),
        }
    }
}

/// Gives AWS keys.
#[derive(Debug)]
pub struct AwsProvider {
    held: Option<Held>,
}

impl AwsProvider {
    /// Follows the sources of `spec`.
    pub async fn open(spec: &AwsSpec, name: &Name, watcher: &Watcher, env: Env<'_>) -> Self {
        let held = match &spec.source {
            AwsSource::Default => None,
            AwsSource::Static {
                access_key_id,
                secret_access_key,
                session_token,
            } => {
                let sources = (access_key_id, secret_access_key, session_token.as_ref());
                Some(Held::open(sources, name, watcher, env).await)
            }
        };
        Self { held }
    }
}

#[async_trait]
impl CredentialProvider for AwsProvider {
    fn kind(&self) -> &'static str {
        "aws"
    }

    async fn issue(&self, _scope: &Scope) -> Result<Issued, IssueError> {
        self.held.as_ref().ok_or(IssueError::Refused)?.issue()
    }

    /// Keys that STS gave are good until their end: there is no call that ends them.
    async fn revoke(&self, _handle: &Handle) -> Result<(), RevokeError> {
        Err(RevokeError::Unsupported)
    }
}
