//! `[trust.NAME.jwt]`: tokens of one OpenID issuer, verified with the keys that it publishes.
//!
//! What a token says of itself decides two things only: whether it claims to be of this issuer, and which of the
//! issuer's own keys is tried. The algorithm must be in the operator's list and be that of the key.

pub(super) mod key;
pub(super) mod object;
pub(super) mod set;
pub(super) mod token;
pub(super) mod verified;

use std::sync::Arc;

use async_trait::async_trait;

use super::mapping::Mapping;
use super::settings::{Algorithm, JwtSettings};
use super::{AttestError, Attested, Evidence, TokenType, TrustProvider};
use crate::clock::Clock;
use crate::issuer::{Client, Refreshed};
use set::{KeySite, key_of};
use token::{Rules, Unverified, subject};
use verified::{Verified, stem, sum};

/// A token that does not hold. Why is told to nobody: whoever tries tokens would learn from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bad;

impl From<Bad> for AttestError {
    fn from(_: Bad) -> Self {
        Self::Bad
    }
}

/// The provider.
#[derive(Debug)]
pub(super) struct JwtProvider {
    name: Arc<str>,
    agent: Mapping,
    issuer: String,
    rules: Rules,
    algorithms: Vec<Algorithm>,
    keys: Refreshed<KeySite>,
    verified: Verified,
    clock: Arc<dyn Clock>,
}

impl JwtProvider {
    pub(super) fn new(
        (name, agent): (Arc<str>, Mapping),
        settings: &JwtSettings,
        client: Client,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let site = KeySite::new(client, settings.keys.clone());
        Self {
            name,
            agent,
            issuer: settings.issuer.clone(),
            rules: Rules {
                issuer: Some(settings.issuer.clone()),
                audience: settings.audience.clone(),
                claims: settings.claims.clone(),
            },
            algorithms: settings.algorithms.clone(),
            keys: Refreshed::new(site, Arc::clone(&clock)),
            verified: Verified::default(),
            clock,
        }
    }
}

#[async_trait]
impl TrustProvider for JwtProvider {
    async fn attest(&self, evidence: Evidence<'_>) -> Result<Option<Attested>, AttestError> {
        let Some(presented) = evidence.presented.filter(|_| evidence.is_maybe_jwt()) else {
            return Ok(None);
        };
        let text = presented.token().expose();
        let (sum, now) = (sum(text), self.clock.now().wall);
        if let Some((attested, key)) = self.verified.get(&sum, now) {
            let keys = self
                .keys
                .current()
                .await
                .map_err(|_| AttestError::Unavailable)?;
            if key.is_some_and(|key| keys.holds(&key)) {
                return Ok(Some(attested));
            }
        }
        let Some(token) = Unverified::read(text) else {
            return Ok(None);
        };
        if token.claims.text("iss") != Some(&self.issuer) {
            return Ok(None);
        }
        let (algorithm, id) = token.header(&self.algorithms)?;
        // Before the key is looked for: a token that ended long ago makes nobody call the issuer.
        let expires = self.rules.check(&token.claims, now)?;
        let key = key_of(&self.keys, |keys| keys.find(id, algorithm)).await?;
        token.verify(algorithm, &key)?;
        let subject = subject(&token.claims)?;
        let claim = |name: &str| token.claims.text(name);
        let agent = self.agent.agent(subject, claim).ok_or(AttestError::Bad)?;
        let attested = Attested {
            evidence: Some(stem(text)),
            expires: Some(expires),
            ..Attested::new(agent, Arc::clone(&self.name))
        };
        self.verified.put(sum, &attested, (Some(key), expires, now));
        Ok(Some(attested))
    }
}

impl Evidence<'_> {
    /// Whether a JWT may stand in it.
    pub(super) fn is_maybe_jwt(&self) -> bool {
        matches!(self.presented_as, TokenType::Any | TokenType::Jwt)
    }
}
