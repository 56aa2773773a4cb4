//! `[trust.NAME.relay]`: processes on other machines, by the word of relays that prove themselves by an X.509-SVID.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;

use super::bundle::BundleSite;
use super::shown;
use crate::clock::Clock;
use crate::identity::jwt::verified::sum;
use crate::identity::mapping::{Mapping, Pattern};
use crate::identity::settings::{PeerSettings, RelaySettings};
use crate::identity::{AttestError, Attested, Bound, Evidence, TokenType, TrustProvider, peer};
use crate::issuer::{Client, Refreshed};

/// The provider.
#[derive(Debug)]
pub(in crate::identity) struct RelayProvider {
    name: Arc<str>,
    agent: Mapping,
    domain: String,
    bundle: Refreshed<BundleSite>,
    relays: Vec<Pattern>,
    process: PeerSettings,
    clock: Arc<dyn Clock>,
}

impl RelayProvider {
    pub(in crate::identity) fn new(
        (name, agent): (Arc<str>, Mapping),
        settings: &RelaySettings,
        client: Client,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let place = settings.bundle.clone();
        let site = BundleSite::new((&settings.trust_domain, false), place, client);
        Self {
            name,
            agent,
            domain: settings.trust_domain.clone(),
            bundle: Refreshed::new(site, Arc::clone(&clock)),
            relays: settings.relays.clone(),
            process: settings.process.clone(),
            clock,
        }
    }
}

#[async_trait]
impl TrustProvider for RelayProvider {
    async fn attest(&self, evidence: Evidence<'_>) -> Result<Option<Attested>, AttestError> {
        let Some(stated) = &evidence.link.stated else {
            return Ok(None);
        };
        if evidence.presented_as != TokenType::Any {
            return Ok(None);
        }
        let (chain, now) = (&evidence.link.certificates, self.clock.now().wall);
        let Some(relay) = shown(&self.domain, &self.bundle, chain, now).await? else {
            return Ok(None);
        };
        let is_relay = self.relays.iter().any(|id| id.matches(&relay.id));
        if !is_relay || !peer::fits(&self.process, &stated.process) {
            return Ok(None);
        }
        let subject = stated.process.executable.as_deref().and_then(Path::to_str);
        let agent = self.agent.agent(subject.unwrap_or(""), |_| None);
        // One session for each relay and process.
        let evidence = sum(&[relay.signed, stated.digest].concat());
        Ok(Some(Attested {
            evidence: Some(evidence),
            expires: Some(relay.until),
            bound: Some(Bound::Certificate(relay.thumbprint)),
            ..Attested::new(agent.ok_or(AttestError::Bad)?, Arc::clone(&self.name))
        }))
    }

    fn hears_relays(&self) -> bool {
        true
    }
}
