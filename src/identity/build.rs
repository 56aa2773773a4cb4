//! From a table of the file to the provider that it describes.

use std::fmt::Debug;
use std::sync::Arc;

use super::TrustProvider;
use super::jwt::JwtProvider;
use super::metrics::{Counted, Metrics};
use super::peer::PeerProvider;
use super::settings::{Trust, TrustKind};
use crate::clock::Clock;
use crate::issuer::Network;
use crate::secret::Secret;

/// A secret that follows its source.
pub trait Token: Debug + Send + Sync {
    /// Its value now; `None` while there is none.
    fn current(&self) -> Option<Arc<Secret>>;
}

/// What providers are made of beside their tables.
#[derive(Debug)]
pub struct Parts<'a> {
    /// How issuers are reached.
    pub network: &'a Network,
    /// The time.
    pub clock: &'a Arc<dyn Clock>,
    /// What is counted.
    pub metrics: &'a Metrics,
    /// The token that keyward itself shows to the issuer, for kinds that have one.
    pub token: Option<Arc<dyn Token>>,
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
        TrustKind::Peer(settings) => Arc::new(PeerProvider::new(named, settings)),
    };
    Arc::new(Counted::new(inner, trust.name.as_str(), parts.metrics))
}
