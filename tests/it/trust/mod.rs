//! Trust providers: tokens, processes and certificates that prove an agent, and those that only look like it.

pub mod aws;
pub mod issuer;
mod jwt;
mod kubernetes;
pub mod mint;
mod peer;
mod peer_attacks;
mod revoked;
mod spiffe;
mod user;

use std::collections::BTreeMap;
use std::sync::Arc;

use http::HeaderMap;
use http::header::PROXY_AUTHORIZATION;
use keyward::clock::{Clock, ManualClock, SystemClock};
use keyward::config::{self};
use keyward::identity::{
    self, AttestError, Attested, Evidence, Link, Metrics, Parts, Peer, Presented, TokenType,
    TrustProvider,
};
use keyward::issuer::Network;
use keyward::preset::Presets;
use keyward::tls::{Connector, TrustSettings};

use super::upstream::CA;

pub use mint::b64;

/// One provider as the file describes it, with a clock that stands still at `NOW`.
pub struct Provider {
    pub inner: Arc<dyn TrustProvider>,
    pub clock: Arc<ManualClock>,
    _folder: tempfile::TempDir,
}

/// What the providers' clock says.
pub const NOW: i64 = 1_795_000_000;

impl Provider {
    /// From the lines below `[trust.t]`.
    pub fn new(trust: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self::within(trust, folder)
    }

    pub fn within(trust: &str, folder: tempfile::TempDir) -> Self {
        Self::at(trust, folder, jiff::Timestamp::from_second(NOW).unwrap())
    }

    /// With a clock that stands still at another time.
    pub fn at(trust: &str, folder: tempfile::TempDir, wall: jiff::Timestamp) -> Self {
        let clock = Arc::new(ManualClock::new(wall));
        let text = format!("[agent.a]\n[agent.b]\n[trust.t]\n{trust}");
        let loaded = config::parse(&text, "t.toml", folder.path(), &**Presets::shipped());
        let loaded = loaded.unwrap_or_else(|report| panic!("{report}\n{text}"));
        let network = Network::new(connector(folder.path()), BTreeMap::new());
        let parts = Parts {
            network: &network,
            clock: &(Arc::clone(&clock) as Arc<dyn Clock>),
            metrics: &Metrics::default(),
            token: Some(Arc::new(OwnToken)),
            env: &|name| std::env::var_os(name),
        };
        Self {
            inner: identity::provider(&loaded.config.trust[0].settings, &parts),
            clock,
            _folder: folder,
        }
    }

    /// Shows a token as an agent does.
    pub async fn show(&self, token: &str) -> Result<Option<Attested>, AttestError> {
        self.show_as(token, TokenType::Any).await
    }

    pub async fn show_as(
        &self,
        token: &str,
        presented_as: TokenType,
    ) -> Result<Option<Attested>, AttestError> {
        let presented = presented(token);
        let evidence = Evidence {
            presented: Some(&presented),
            presented_as,
            peer: &Peer::Tcp("127.0.0.1".parse().unwrap()),
            link: &Link::default(),
        };
        self.inner.attest(evidence).await
    }

    /// The agent that a good token is of.
    pub async fn agent(&self, token: &str) -> String {
        let attested = self.show(token).await.unwrap().expect("its own evidence");
        attested.agent.to_string()
    }
}

/// The token that keyward itself shows to an API server.
pub const OWN_TOKEN: &str = "keywards-own-api-token";

#[derive(Debug)]
struct OwnToken;

impl identity::Token for OwnToken {
    fn current(&self) -> Option<Arc<keyward::secret::Secret>> {
        Some(Arc::new(OWN_TOKEN.to_owned().into()))
    }
}

pub fn presented(token: &str) -> Presented {
    let mut headers = HeaderMap::new();
    let value = format!("Bearer {token}").parse().unwrap();
    headers.insert(PROXY_AUTHORIZATION, value);
    identity::presented(&headers).unwrap().unwrap()
}

/// Trusts the tests' CA.
pub fn connector(folder: &std::path::Path) -> Connector {
    let pem = folder.join("ca-of-issuers.pem");
    std::fs::write(&pem, &CA.pem).unwrap();
    let trust = TrustSettings {
        system: false,
        pem: vec![pem],
    };
    Connector::new(&trust, None, Arc::new(SystemClock)).unwrap()
}
