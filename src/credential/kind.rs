//! What is the same of every kind of provider: its word, and the secrets that it needs itself.

use super::oauth::Grant;
use super::{AzureSettings, Kind, Source, SvidId, SvidSource};

impl Kind {
    /// The name of its kind table (`static`, `vault` …).
    pub fn word(&self) -> &'static str {
        match self {
            Self::Static { .. } => "static",
            Self::Aws(_) => "aws",
            Self::Command(_) => "command",
            Self::Vault(_) => "vault",
            Self::Oauth(settings) => settings.grant.kind(),
            Self::GithubApp(_) => "github-app",
            Self::Azure(_) => "azure",
            Self::ClientCertificate(_) => "client-certificate",
            Self::Spiffe(_) => "spiffe",
        }
    }

    /// Where the secrets are read from that it needs itself.
    pub fn sources(&self) -> Vec<&Source> {
        match self {
            Self::Static { value } => vec![value],
            Self::Aws(aws) => aws.sources(),
            Self::Command(_) => Vec::new(),
            Self::Vault(settings) => settings.sources(),
            Self::Oauth(settings) => settings.sources(),
            Self::GithubApp(settings) => vec![&settings.key],
            Self::Azure(settings) => match &**settings {
                AzureSettings::Client(settings) => settings.sources(),
                AzureSettings::Machine { .. } => Vec::new(),
            },
            Self::ClientCertificate(settings) => vec![&settings.key],
            Self::Spiffe(settings) => match &settings.source {
                SvidSource::Files(files) => vec![&files.key],
                SvidSource::WorkloadApi(_) => Vec::new(),
            },
        }
    }

    /// Whether its leases bring a user name, for `inject = { basic = "" }`.
    pub fn brings_user(&self) -> bool {
        match self {
            Self::Vault(settings) => settings.brings_user(),
            // `x-access-token`, as git says it.
            Self::GithubApp(_) => true,
            _ => false,
        }
    }

    /// Whether its tokens are bound to a key (RFC 9449).
    pub fn is_bound(&self) -> bool {
        match self {
            Self::Oauth(settings) => settings.dpop,
            _ => false,
        }
    }

    /// Whether it keeps a secret that must outlast the process.
    pub fn needs_store(&self) -> bool {
        match self {
            Self::Oauth(settings) => matches!(settings.grant, Grant::Refresh(_)),
            _ => false,
        }
    }

    /// Whether a lease names the agent that it is for.
    pub fn names_agent(&self) -> bool {
        match self {
            Self::Oauth(settings) => settings.grant.names_agent(),
            Self::Spiffe(settings) => settings.id.as_ref().is_some_and(SvidId::names_agent),
            _ => false,
        }
    }

    /// Whether its leases are certificates, for `inject = "client-certificate"` and nothing else.
    pub fn brings_certificate(&self) -> bool {
        match self {
            Self::Vault(settings) => settings.brings_certificate(),
            Self::ClientCertificate(_) | Self::Spiffe(_) => true,
            _ => false,
        }
    }

    /// Whether the servers that its leases are shown to must be workloads (`peer-ids`).
    pub fn checks_peers(&self) -> bool {
        matches!(self, Self::Spiffe(_))
    }

    /// Whether it calls an issuer over the network.
    pub fn calls_issuer(&self) -> bool {
        match self {
            Self::Static { .. } | Self::Command(_) | Self::ClientCertificate(_) => false,
            Self::Vault(_)
            | Self::Oauth(_)
            | Self::GithubApp(_)
            | Self::Azure(_)
            | Self::Aws(_) => true,
            Self::Spiffe(settings) => !settings.bundles.is_empty(),
        }
    }

    /// The variables of keyward's environment that it reads.
    pub fn env_names(&self) -> Vec<&str> {
        let named = self
            .sources()
            .into_iter()
            .filter_map(|source| match source {
                Source::Env(name) => Some(name.as_str()),
                _ => None,
            });
        let mut own: Vec<&str> = Vec::new();
        let kept: &[String] = match self {
            Self::Aws(aws) => {
                own = aws.env_names();
                &[]
            }
            Self::Command(settings) => &settings.env,
            _ => &[],
        };
        own.extend(named.chain(kept.iter().map(String::as_str)));
        own
    }
}
