//! `[trust.NAME.aws]`: EC2 instances by their identity document, and principals of IAM by a signed `GetCallerIdentity`.
//!
//! Both are shown at `POST /token` under a type of their own; in `Proxy-Authorization` they are nothing.

mod ber;
mod caller;
mod document;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::jwt::verified::{Verified, sum};
use super::mapping::Mapping;
use super::settings::AwsSettings;
use super::{AttestError, Attested, Evidence, TokenType, TrustProvider};
use crate::clock::Clock;
use crate::issuer::{Client, Origin, Refreshed};
use crate::tls;
use caller::Checked;

/// The provider.
#[derive(Debug)]
pub(super) struct AwsProvider {
    name: Arc<str>,
    agent: Mapping,
    settings: AwsSettings,
    client: Client,
    certificates: Option<Refreshed<Files>>,
    /// Callers whom STS has named: it is asked once for a signature.
    verified: Verified,
    clock: Arc<dyn Clock>,
}

/// The operator's certificates of EC2.
#[derive(Debug)]
struct Files(Vec<PathBuf>);

#[async_trait]
impl Origin for Files {
    type Value = Vec<Box<[u8]>>;

    async fn fetch(
        &self,
        _: Option<&Self::Value>,
    ) -> Result<(Self::Value, Duration), &'static str> {
        let mut all = Vec::new();
        for path in &self.0 {
            let pem = tokio::fs::read(path).await;
            let pem = pem.map_err(|_| "a certificate of EC2 cannot be read")?;
            let found = tls::certificates(&pem).map_err(|_| "a certificate of EC2 is not PEM")?;
            if found.is_empty() {
                return Err("there is no certificate in a file of EC2's");
            }
            all.extend(found);
        }
        Ok((all, FILES_FRESH))
    }

    fn name(&self) -> &'static str {
        "identity-document"
    }

    fn again(&self) -> Duration {
        Duration::from_secs(1)
    }
}

impl AwsProvider {
    pub(super) fn new(
        (name, agent): (Arc<str>, Mapping),
        settings: &AwsSettings,
        client: Client,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let files = settings.certificates.clone();
        let files = (!files.is_empty()).then(|| Refreshed::new(Files(files), Arc::clone(&clock)));
        Self {
            name,
            agent,
            settings: settings.clone(),
            client,
            certificates: files,
            verified: Verified::default(),
            clock,
        }
    }

    async fn instance(&self, message: &[u8]) -> Result<Option<Attested>, AttestError> {
        let Some(certificates) = &self.certificates else {
            return Ok(None);
        };
        let certificates = certificates.current().await;
        let certificates = certificates.map_err(|_| AttestError::Unavailable)?;
        let (document, signed) =
            document::verify(message, &certificates).ok_or(AttestError::Bad)?;
        self.is_of_account(&document.account_id)?;
        let subject = format!(
            "arn:aws:ec2:{}:{}:instance/{}",
            document.region, document.account_id, document.instance_id
        );
        let agent = self
            .agent
            .agent(&subject, |_| None)
            .ok_or(AttestError::Bad)?;
        Ok(Some(Attested {
            evidence: Some(signed),
            ..Attested::new(agent, Arc::clone(&self.name))
        }))
    }

    async fn caller(&self, token: &[u8]) -> Result<Option<Attested>, AttestError> {
        let Some(settings) = &self.settings.caller_identity else {
            return Ok(None);
        };
        let (sum, now) = (sum(token), self.clock.now().wall);
        if let Some((attested, _)) = self.verified.get(&sum, now) {
            return Ok(Some(attested));
        }
        let request = Checked::read(token, settings, now).ok_or(AttestError::Bad)?;
        let signature = request.signature;
        let caller = request.send(&self.client).await?;
        self.is_of_account(&caller.account)?;
        let agent = self
            .agent
            .agent(&caller.arn, |_| None)
            .ok_or(AttestError::Bad)?;
        let attested = Attested {
            evidence: Some(signature),
            expires: Some(caller.until),
            ..Attested::new(agent, Arc::clone(&self.name))
        };
        self.verified.put(sum, &attested, (None, caller.until, now));
        Ok(Some(attested))
    }

    fn is_of_account(&self, account: &str) -> Result<(), AttestError> {
        let known = self.settings.accounts.iter().any(|known| known == account);
        known.then_some(()).ok_or(AttestError::Bad)
    }
}

#[async_trait]
impl TrustProvider for AwsProvider {
    async fn attest(&self, evidence: Evidence<'_>) -> Result<Option<Attested>, AttestError> {
        let Some(presented) = evidence.presented else {
            return Ok(None);
        };
        let token = presented.token().expose();
        match evidence.presented_as {
            TokenType::AwsIdentityDocument => self.instance(token).await,
            TokenType::AwsCallerIdentity => self.caller(token).await,
            TokenType::Any | TokenType::Jwt => Ok(None),
        }
    }
}

/// How often the certificates' files are read.
const FILES_FRESH: Duration = Duration::from_secs(10);
