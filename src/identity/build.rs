//! From a table of the file to the provider that it describes.

use std::fmt::Debug;
use std::sync::Arc;

use super::TrustProvider;
use super::aws::AwsProvider;
use super::jwt::JwtProvider;
use super::kubernetes::KubernetesProvider;
use super::metrics::{Counted, Metrics};
use super::peer::PeerProvider;
use super::settings::{Trust, TrustKind};
use super::spiffe::{RelayProvider, SpiffeProvider};
use crate::clock::Clock;
use crate::issuer::Network;
use crate::process::Env;
use crate::secret::Secret;

/// A secret that follows its source.
pub trait Token: Debug + Send + Sync {
    /// Its value now; `None` while there is none.
    fn current(&self) -> Option<Arc<Secret>>;
}

/// What providers are made of beside their tables.
#[expect(missing_debug_implementations, reason = "the environment has none")]
pub struct Parts<'a> {
    /// How issuers are reached.
    pub network: &'a Network,
    /// The time.
    pub clock: &'a Arc<dyn Clock>,
    /// What is counted.
    pub metrics: &'a Metrics,
    /// The token that keyward itself shows to the issuer, for kinds that have one.
    pub token: Option<Arc<dyn Token>>,
    /// keyward's environment: commands get what the file names of it.
    pub env: Env<'a>,
}

/// The provider of one table.
pub fn provider(trust: &Trust, parts: &Parts<'_>) -> Arc<dyn TrustProvider> {
    let named = (trust.name.shared(), trust.agent.clone());
    let clock = Arc::clone(parts.clock);
    let inner: Arc<dyn TrustProvider> = match &trust.kind {
        TrustKind::Jwt(settings) => Arc::new(JwtProvider::new(
            named,
            settings,
            parts.network.client(),
            clock,
        )),
        TrustKind::Kubernetes(settings) => {
            let token = parts.token.clone().unwrap_or_else(|| Arc::new(NoToken));
            let network = (parts.network.client(), token);
            let around = (parts.env, clock);
            Arc::new(KubernetesProvider::new(named, settings, network, around))
        }
        TrustKind::Spiffe(settings) => Arc::new(SpiffeProvider::new(
            named,
            settings,
            parts.network.client(),
            clock,
        )),
        TrustKind::Aws(settings) => Arc::new(AwsProvider::new(
            named,
            settings,
            parts.network.client(),
            clock,
        )),
        TrustKind::Relay(settings) => Arc::new(RelayProvider::new(
            named,
            settings,
            parts.network.client(),
            clock,
        )),
        TrustKind::Peer(settings) => Arc::new(PeerProvider::new(named, settings)),
    };
    Arc::new(Counted::new(inner, trust.name.as_str(), parts.metrics))
}

/// Of a table without one.
#[derive(Debug)]
struct NoToken;

impl Token for NoToken {
    fn current(&self) -> Option<Arc<Secret>> {
        None
    }
}
