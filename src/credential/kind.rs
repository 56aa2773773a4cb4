//! What is the same of every kind of provider: its word, and the secrets that it needs itself.

use super::{Kind, Source};

impl Kind {
    /// The name of its kind table (`static`, `vault` …).
    pub fn word(&self) -> &'static str {
        match self {
            Self::Static { .. } => "static",
            Self::Command(_) => "command",
            Self::Vault(_) => "vault",
            Self::ClientCertificate(_) => "client-certificate",
        }
    }

    /// Where the secrets are read from that it needs itself.
    pub fn sources(&self) -> Vec<&Source> {
        match self {
            Self::Static { value } => vec![value],
            Self::Command(_) => Vec::new(),
            Self::Vault(settings) => settings.sources(),
            Self::ClientCertificate(settings) => vec![&settings.key],
        }
    }

    /// Whether its leases bring a user name, for `inject = { basic = "" }`.
    pub fn brings_user(&self) -> bool {
        match self {
            Self::Static { .. } | Self::Command(_) | Self::ClientCertificate(_) => false,
            Self::Vault(settings) => settings.brings_user(),
        }
    }

    /// Whether its leases are certificates, for `inject = "client-certificate"` and nothing else.
    pub fn brings_certificate(&self) -> bool {
        match self {
            Self::Static { .. } | Self::Command(_) => false,
            Self::Vault(settings) => settings.brings_certificate(),
            Self::ClientCertificate(_) => true,
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
            Self::Static { .. } | Self::Vault(_) | Self::ClientCertificate(_) => &[],
        };
        named.chain(kept.iter().map(String::as_str)).collect()
    }
}
