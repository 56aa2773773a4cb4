//! `[trust.NAME.spiffe]`: workloads of one trust domain, by X.509-SVID over mutual TLS, or by JWT-SVID.
//!
//! What does not claim to be of this trust domain is another table's. The certificate comes from a `tls:` listener,
//! whose handshake has proved its key; its chain is checked here, against this domain's bundle and no other.

mod bundle;
mod relayed;

use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;

use super::jwt::set::key_of;
use super::jwt::token::{Rules, Unverified, subject};
use super::jwt::verified::{Verified, stem, sum};
use super::mapping::Mapping;
use super::settings::{Algorithm, SpiffeSettings};
use super::{AttestError, Attested, Bound, Evidence, TokenType, TrustProvider};
use crate::clock::Clock;
use crate::issuer::{Client, Refreshed};
use crate::spiffe::{SpiffeId, is_leaf, uris};
use bundle::BundleSite;
pub(super) use relayed::RelayProvider;

/// The provider.
#[derive(Debug)]
pub(super) struct SpiffeProvider {
    name: Arc<str>,
    agent: Mapping,
    domain: String,
    rules: Rules,
    bundle: Refreshed<BundleSite>,
    verified: Verified,
    clock: Arc<dyn Clock>,
}

impl SpiffeProvider {
    pub(super) fn new(
        (name, agent): (Arc<str>, Mapping),
        settings: &SpiffeSettings,
        client: Client,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let site = BundleSite::new(
            (&settings.trust_domain, !settings.audience.is_empty()),
            settings.bundle.clone(),
            client,
        );
        Self {
            name,
            agent,
            domain: settings.trust_domain.clone(),
            rules: Rules {
                issuer: None,
                audience: settings.audience.clone(),
                claims: Vec::new(),
            },
            bundle: Refreshed::new(site, Arc::clone(&clock)),
            verified: Verified::default(),
            clock,
        }
    }

    async fn by_certificate(&self, chain: &[Box<[u8]>]) -> Result<Option<Attested>, AttestError> {
        let now = self.clock.now().wall;
        let Some(shown) = shown(&self.domain, &self.bundle, chain, now).await? else {
            return Ok(None);
        };
        let agent = self.agent.agent(&shown.id, |_| None);
        Ok(Some(Attested {
            evidence: Some(shown.signed),
            expires: Some(shown.until),
            bound: Some(Bound::Certificate(shown.thumbprint)),
            ..Attested::new(agent.ok_or(AttestError::Bad)?, Arc::clone(&self.name))
        }))
    }

    async fn by_token(&self, text: &[u8]) -> Result<Option<Attested>, AttestError> {
        let (sum, now) = (sum(text), self.clock.now().wall);
        if let Some((attested, key)) = self.verified.get(&sum, now) {
            let bundle = self
                .bundle
                .current()
                .await
                .map_err(|_| AttestError::Unavailable)?;
            if key.is_some_and(|key| bundle.keys.holds(&key)) {
                return Ok(Some(attested));
            }
        }
        let Some(token) = Unverified::read(text) else {
            return Ok(None);
        };
        let Ok(subject) = subject(&token.claims) else {
            return Ok(None);
        };
        let Some(id) = SpiffeId::read(subject).filter(|id| id.domain == self.domain) else {
            return Ok(None);
        };
        let (algorithm, key_id) = token.header(&ALGORITHMS)?;
        let expires = self.rules.check(&token.claims, now)?;
        // JWT-SVID §4.2: the key's id must be there.
        let key_id = key_id.filter(|_| id.has_path).ok_or(AttestError::Bad)?;
        let key = key_of(&self.bundle, |bundle| {
            bundle.keys.find(Some(key_id), algorithm)
        })
        .await?;
        token.verify(algorithm, &key)?;
        let agent = self
            .agent
            .agent(subject, |_| None)
            .ok_or(AttestError::Bad)?;
        let attested = Attested {
            evidence: Some(stem(text)),
            expires: Some(expires),
            ..Attested::new(agent, Arc::clone(&self.name))
        };
        self.verified.put(sum, &attested, (Some(key), expires, now));
        Ok(Some(attested))
    }
}

#[async_trait]
impl TrustProvider for SpiffeProvider {
    async fn attest(&self, evidence: Evidence<'_>) -> Result<Option<Attested>, AttestError> {
        let asks_for_tokens = !self.rules.audience.is_empty() && evidence.is_maybe_jwt();
        if let Some(presented) = evidence.presented.filter(|_| asks_for_tokens)
            && let Some(attested) = self.by_token(presented.token().expose()).await?
        {
            return Ok(Some(attested));
        }
        if evidence.presented_as != TokenType::Any {
            return Ok(None);
        }
        self.by_certificate(&evidence.link.certificates).await
    }
}

/// An X.509-SVID that verifies.
#[derive(Debug)]
pub(super) struct Shown {
    /// Its SPIFFE ID.
    pub(super) id: String,
    /// Its SHA-256, which is `x5t#S256`.
    pub(super) thumbprint: [u8; 32],
    /// The SHA-256 of what its issuer signed (`tbsCertificate`, RFC 5280 §4.1.1.1): the same, however an ECDSA signature
    /// below it is written.
    pub(super) signed: [u8; 32],
    /// When it ends.
    pub(super) until: Timestamp,
}

/// The SVID of this trust domain that stands first in this chain; `None` where it claims to be of no such.
pub(super) async fn shown(
    domain: &str,
    bundle: &Refreshed<BundleSite>,
    chain: &[Box<[u8]>],
    now: Timestamp,
) -> Result<Option<Shown>, AttestError> {
    let Some(own) = chain.first() else {
        return Ok(None);
    };
    // What does not even parse is no evidence of anybody's.
    let Ok((rest, certificate)) = X509Certificate::from_der(own) else {
        return Ok(None);
    };
    let uris = uris(&certificate);
    let is_ours = |uri: &str| SpiffeId::read(uri).is_some_and(|id| id.domain == domain);
    if !uris.iter().any(|uri| is_ours(uri)) {
        return Ok(None);
    }
    // X509-SVID §2: exactly one URI, whatever else.
    let ([uri], true) = (uris.as_slice(), rest.is_empty()) else {
        return Err(AttestError::Bad);
    };
    let id = SpiffeId::read(uri).ok_or(AttestError::Bad)?;
    if !id.has_path || !is_leaf(&certificate) {
        return Err(AttestError::Bad);
    }
    let bundle = bundle.current().await;
    let bundle = bundle.map_err(|_| AttestError::Unavailable)?;
    let verified = bundle.roots.verify(chain, now);
    verified.map_err(|_| AttestError::Bad)?;
    let ends = certificate.validity().not_after.timestamp();
    Ok(Some(Shown {
        id: (*uri).to_owned(),
        thumbprint: sum(own),
        signed: sum(certificate.tbs_certificate.as_ref()),
        until: Timestamp::from_second(ends).unwrap_or(Timestamp::MAX),
    }))
}

/// JWT-SVID §2.1.
const ALGORITHMS: [Algorithm; 9] = [
    Algorithm::Rs256,
    Algorithm::Rs384,
    Algorithm::Rs512,
    Algorithm::Es256,
    Algorithm::Es384,
    Algorithm::Es512,
    Algorithm::Ps256,
    Algorithm::Ps384,
    Algorithm::Ps512,
];
