//! What is the same of every kind of provider: its word, and the secrets that it needs itself.

use super::oauth::Grant;
use super::{AzureSettings, Kind, Source};

impl Kind {
    /// The name of its kind table (`static`, `vault` …).
    pub fn word(&self) -> &'static str {
        match self {
            Self::Static { .. } => "static",
            Self::Command(_) => "command",
            Self::Vault(_) => "vault",
            Self::Oauth(settings) => settings.grant.kind(),
            Self::GithubApp(_) => "github-app",
            Self::Azure(_) => "azure",
        }
    }

    /// Where the secrets are read from that it needs itself.
    pub fn sources(&self) -> Vec<&Source> {
        match self {
            Self::Static { value } => vec![value],
            Self::Command(_) => Vec::new(),
            Self::Vault(settings) => settings.sources(),
            Self::Oauth(settings) => settings.sources(),
            Self::GithubApp(settings) => vec![&settings.key],
            Self::Azure(settings) => match &**settings {
                AzureSettings::Client(settings) => settings.sources(),
                AzureSettings::Machine { .. } => Vec::new(),
            },
        }
    }

    /// Whether its leases bring a user name, for `inject = { basic = "" }`.
    pub fn brings_user(&self) -> bool {
        match self {
            Self::Vault(settings) => settings.brings_user(),
            // `x-access-token`, as git says it.
            Self::GithubApp(_) => true,
            Self::Static { .. } | Self::Command(_) | Self::Oauth(_) | Self::Azure(_) => false,
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
            _ => false,
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
        let kept: &[String] = match self {
            Self::Command(settings) => &settings.env,
            _ => &[],
        };
        named.chain(kept.iter().map(String::as_str)).collect()
    }
}
