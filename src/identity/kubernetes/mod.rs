//! `[trust.NAME.kubernetes]`: projected service-account tokens, by TokenReview or by the cluster's keys, and their pods.
//!
//! A token must be made for us: one that a pod has for the API server itself, or an old one from a Secret, proves
//! nothing here (KEP-1205). What was proved is kept for [`KEPT`] only, so that a deleted pod is soon nobody.

mod api;
mod pod;
mod verifier;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::build::Token;
use super::flight::Flights;
use super::jwt::key::Key;
use super::jwt::object::Object;
use super::jwt::set::{KeySite, key_of};
use super::jwt::token::{Rules, Unverified, subject};
use super::jwt::verified::{Verified, stem, sum};
use super::mapping::Mapping;
use super::settings::{Algorithm, KubernetesSettings};
use super::{AttestError, Attested, Evidence, TrustProvider};
use crate::clock::Clock;
use crate::issuer::{Client, Refreshed};
use crate::process::Env;
use api::{Api, Reviewed};
use pod::digest_of;
use verifier::Verifier;

/// The provider.
#[derive(Debug)]
pub(super) struct KubernetesProvider {
    name: Arc<str>,
    agent: Mapping,
    settings: KubernetesSettings,
    rules: Rules,
    api: Api,
    /// With `verify = "jwks"`.
    keys: Option<Refreshed<KeySite>>,
    verified: Verified,
    /// Tokens that are being verified.
    flights: Flights<[u8; 32], Result<Option<Attested>, AttestError>>,
    images: Option<Verifier>,
    clock: Arc<dyn Clock>,
}

/// The pod that a token is bound to.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Pod {
    name: String,
    uid: String,
}

impl KubernetesProvider {
    pub(super) fn new(
        (name, agent): (Arc<str>, Mapping),
        settings: &KubernetesSettings,
        (client, token): (Client, Arc<dyn Token>),
        (env, clock): (Env<'_>, Arc<dyn Clock>),
    ) -> Self {
        let keys = settings.keys.as_ref().map(|place| {
            let bearer = (settings.api.clone(), Arc::clone(&token));
            let site = KeySite::new(client.clone(), place.clone()).with_bearer(bearer);
            Refreshed::new(site, Arc::clone(&clock))
        });
        Self {
            name,
            agent,
            rules: Rules {
                issuer: settings.issuer.clone(),
                audience: settings.audience.clone(),
                claims: Vec::new(),
            },
            api: Api::new(client, settings.api.clone(), token),
            images: settings
                .image_verifier
                .as_ref()
                .map(|settings| Verifier::new(settings, env, Arc::clone(&clock))),
            settings: settings.clone(),
            keys,
            verified: Verified::default(),
            flights: Flights::default(),
            clock,
        }
    }

    async fn verify(
        &self,
        (text, token): (&[u8], &Unverified<'_>),
        account: &Account<'_>,
    ) -> Result<(Option<Arc<Key>>, Option<Pod>), AttestError> {
        let claimed = pod(&token.claims);
        let Some(keys) = &self.keys else {
            let Reviewed { user, pod } = self.api.review(text, &self.settings.audience).await?;
            // The claims are signed by whoever the API server believes; what it says itself comes first.
            if user != account.user {
                return Err(AttestError::Bad);
            }
            return Ok((None, pod.or(claimed)));
        };
        let (algorithm, id) = token.header(&Algorithm::ALL)?;
        let key = key_of(keys, |keys| keys.find(id, algorithm)).await?;
        token.verify(algorithm, &key)?;
        Ok((Some(key), claimed))
    }

    /// What is known of a token already.
    async fn known(&self, sum: &[u8; 32]) -> Result<Option<Attested>, AttestError> {
        let Some((attested, key)) = self.verified.get(sum, self.clock.now().wall) else {
            return Ok(None);
        };
        match (&self.keys, key) {
            (None, _) => Ok(Some(attested)),
            (Some(keys), Some(key)) => {
                let keys = keys.current().await.map_err(|_| AttestError::Unavailable)?;
                Ok(keys.holds(&key).then_some(attested))
            }
            (Some(_), None) => Ok(None),
        }
    }

    async fn judge(&self, text: &[u8], sum: [u8; 32]) -> Result<Option<Attested>, AttestError> {
        // One that landed between the look and the flight.
        if let Some(attested) = self.known(&sum).await? {
            return Ok(Some(attested));
        }
        let now = self.clock.now().wall;
        let Some(token) = Unverified::read(text) else {
            return Ok(None);
        };
        let Some(account) = account(&token.claims) else {
            return Ok(None);
        };
        let issuer = self.settings.issuer.as_deref();
        if issuer.is_some() && token.claims.text("iss") != issuer {
            return Ok(None);
        }
        // Audience and time first: what cannot hold makes nobody call the API server.
        let expires = self.rules.check(&token.claims, now)?;
        let (key, pod) = self.verify((text, &token), &account).await?;
        if self.settings.pods {
            let pod = pod.ok_or(AttestError::Bad)?;
            if !is_name(&pod.name) {
                return Err(AttestError::Bad);
            }
            Box::pin(self.look_at(&pod, &account)).await?;
        }
        let subject = format!("{}/{}", account.namespace, account.name);
        let agent = self
            .agent
            .agent(&subject, |_| None)
            .ok_or(AttestError::Bad)?;
        let attested = Attested {
            evidence: Some(stem(text)),
            expires: Some(expires),
            ..Attested::new(agent, Arc::clone(&self.name))
        };
        let until = expires.min(now + KEPT);
        self.verified.put(sum, &attested, (key, until, now));
        Ok(Some(attested))
    }

    /// Whether the pod is as it must be.
    async fn look_at(&self, pod: &Pod, account: &Account<'_>) -> Result<(), AttestError> {
        let found = self.api.pod(pod, account).await?;
        let (settings, labels) = (&self.settings, &found.metadata.labels);
        let labelled = settings
            .labels
            .iter()
            .all(|(name, value)| labels.get(name) == Some(value));
        let held = settings
            .security_context
            .is_none_or(|wanted| found.spec.is_held_to(wanted));
        if !labelled || !held {
            return Err(AttestError::Bad);
        }
        let digests = &settings.image_digests;
        if digests.is_empty() && self.images.is_none() {
            return Ok(());
        }
        let images = found.images().ok_or(AttestError::Bad)?;
        let known = |image: &&str| {
            digest_of(image).is_some_and(|digest| digests.iter().any(|one| one == digest))
        };
        if !digests.is_empty() && !images.iter().all(known) {
            return Err(AttestError::Bad);
        }
        match &self.images {
            Some(verifier) => verifier.verify(&images).await,
            None => Ok(()),
        }
    }
}

/// Whose a token is.
#[derive(Debug)]
struct Account<'t> {
    user: &'t str,
    namespace: &'t str,
    name: &'t str,
}

/// `system:serviceaccount:NAMESPACE:NAME`. `None`: the token is of somebody else.
fn account(claims: &Object) -> Option<Account<'_>> {
    let user = subject(claims).ok()?;
    let (namespace, name) = user
        .strip_prefix("system:serviceaccount:")?
        .split_once(':')?;
    (is_name(namespace) && is_name(name)).then_some(Account {
        user,
        namespace,
        name,
    })
}

/// A name that can stand in a path (RFC 1123, as Kubernetes uses it).
fn is_name(text: &str) -> bool {
    let clean = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
    !text.is_empty() && text.len() <= 253 && text.bytes().all(clean) && !text.starts_with('.')
}

/// The claim `kubernetes.io`, which projected tokens have.
fn pod(claims: &Object) -> Option<Pod> {
    let pod = claims.get("kubernetes.io")?.get("pod")?;
    let text = |name| pod.get(name)?.as_str().map(ToOwned::to_owned);
    Some(Pod {
        name: text("name")?,
        uid: text("uid")?,
    })
}

#[async_trait]
impl TrustProvider for KubernetesProvider {
    async fn attest(&self, evidence: Evidence<'_>) -> Result<Option<Attested>, AttestError> {
        let Some(presented) = evidence.presented.filter(|_| evidence.is_maybe_jwt()) else {
            return Ok(None);
        };
        let text = presented.token().expose();
        let sum = sum(text);
        if let Some(attested) = self.known(&sum).await? {
            return Ok(Some(attested));
        }
        // However many connections show it: one review.
        let judged = Box::pin(self.judge(text, sum));
        self.flights.join(sum, judged).await
    }
}

/// How long what the API server said is kept.
const KEPT: Duration = Duration::from_secs(30);
