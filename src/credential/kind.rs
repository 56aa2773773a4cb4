//! What is the same of every kind of provider: its word, and the secrets that it needs itself.

use super::{Kind, Source};

impl Kind {
    /// The name of its kind table (`static`, `vault` …).
    pub fn word(&self) -> &'static str {
        match self {
            Self::Static { .. } => "static",
            Self::Aws(_) => "aws",
            Self::Command(_) => "command",
        }
    }

    /// Where the secrets are read from that it needs itself.
    pub fn sources(&self) -> Vec<&Source> {
        match self {
            Self::Static { value } => vec![value],
            Self::Aws(aws) => aws.sources(),
            Self::Command(_) => Vec::new(),
        }
    }

    /// Whether its leases bring a user name, for `inject = { basic = "" }`.
    pub fn brings_user(&self) -> bool {
        match self {
            Self::Static { .. } | Self::Aws(_) | Self::Command(_) => false,
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
            Self::Static { .. } => &[],
        };
        own.extend(named.chain(kept.iter().map(String::as_str)));
        own
    }
}
