//! What an operator can set about credentials.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::aws::AwsSpec;
use super::oauth;
use crate::agent::Name;
use crate::inject::Placement;

/// Where a secret value is read from. A secret never stands in the configuration file.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Source {
    /// `{ env = "NAME" }`: an environment variable of keyward's own, read once at start and removed from it.
    Env(String),
    /// `{ file = "PATH" }`: the file's content without trailing line ends; read again when it changes.
    File(PathBuf),
    /// `{ command = ["PROGRAM", "ARG"] }`: the standard output of a command, without trailing line ends.
    Command {
        /// Program and arguments; no shell.
        argv: Vec<String>,
        /// `deadline = "10s"`: the time it may take.
        deadline: Duration,
        /// `max-output = "64KiB"`: what it may print, in bytes.
        max_output: usize,
        /// `ttl = "5m"`: how long its answer is used before it is run again.
        ttl: Duration,
    },
    /// `{ keyring = "SERVICE/USER" }`: the operating system's keyring.
    Keyring {
        /// The service part.
        service: String,
        /// The user part.
        user: String,
    },
}

/// How far one lease may serve (`share`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Share {
    /// One session.
    #[default]
    Session,
    /// All sessions of one agent.
    Agent,
    /// Everybody.
    All,
}

/// What happens when an issuer fails while an older lease still lives (`on-failure`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnFailure {
    /// Refuse.
    #[default]
    Refuse,
    /// Use the old lease within its own life.
    Stale,
}

/// `[credential.NAME]`, resolved.
#[derive(Debug, Clone, PartialEq)]
pub struct Spec {
    /// NAME.
    pub name: Name,
    /// How far one lease may serve.
    pub share: Share,
    /// What a failing issuer leads to.
    pub on_failure: OnFailure,
    /// No lease is used longer than this, whatever its issuer says.
    pub max_life: Option<Duration>,
    /// The time for one issue, retries included.
    pub deadline: Duration,
    /// How long a failure is remembered.
    pub failure_ttl: Duration,
    /// The operator's word that answers need not be scrubbed of a secret shorter than 12 bytes.
    pub unscrubbed: bool,
    /// The provider.
    pub kind: Kind,
    /// How its issuer is reached, as a digest of `[upstream]`: who must be trusted otherwise is another issuer. Empty
    /// for kinds that call nobody over the network.
    pub network: Arc<str>,
    /// The placement lists of the routes that use it, in the order of their slots.
    pub slots: Vec<Vec<Placement>>,
}

/// The provider of a credential: one variant for each kind table.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Kind {
    /// `[credential.NAME.static]`: a value that somebody else rotates.
    Static {
        /// `value`.
        value: Source,
    },
    /// `[credential.NAME.aws]`: keys that sign.
    Aws(Box<AwsSpec>),
    /// `[credential.NAME.command]`: a plug-in in any language.
    Command(super::CommandSettings),
    /// `[credential.NAME.vault]`: OpenBao or HashiCorp Vault.
    Vault(Box<super::VaultSettings>),
    /// `[credential.NAME.oauth-client-credentials]`, `token-exchange`, `jwt-bearer`: a token of an OAuth issuer.
    Oauth(Box<oauth::Settings>),
    /// `[credential.NAME.github-app]`: an installation token of a GitHub App.
    GithubApp(Box<super::GithubAppSettings>),
    /// `[credential.NAME.azure]`: a token of Microsoft Entra ID.
    Azure(Box<super::AzureSettings>),
    /// `[credential.NAME.client-certificate]`: a certificate and its key from files.
    ClientCertificate(super::CertificateSettings),
    /// `[credential.NAME.spiffe]`: an X.509-SVID.
    Spiffe(Box<super::SpiffeSettings>),
}
