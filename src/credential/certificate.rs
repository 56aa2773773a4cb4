//! `[credential.NAME.client-certificate]`: a certificate and its key from files that somebody else renews.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use tracing::warn;

use super::source::{Env, Watched, Watcher};
use super::{
    CredentialProvider, Handle, IssueError, Issued, Life, RevokeError, Scope, Source, SourceError,
    Superseded,
};
use crate::agent::Name;
use crate::inject::{Certificate, Material};
use crate::secret::Secret;
use crate::tls::ClientIdentity;

/// `[credential.NAME.client-certificate]`, resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateSettings {
    /// `cert`: the chain in PEM, the client's own certificate first.
    pub cert: PathBuf,
    /// `key`: the key in PEM, without a passphrase.
    pub key: Source,
}

/// Hands out a watched certificate. Its leases end with it, and are superseded when either file changes.
#[derive(Debug)]
pub struct CertificateProvider {
    credential: Name,
    cert: Watched,
    key: Watched,
    /// What was made last: the same two files are the same material for every session.
    made: Mutex<Option<Made>>,
}

#[derive(Debug)]
struct Made {
    of: (Arc<Secret>, Arc<Secret>),
    certificate: Arc<Certificate>,
}

impl CertificateProvider {
    /// Begins to follow both.
    pub async fn open(
        credential: Name,
        settings: &CertificateSettings,
        (watcher, env): (&Watcher, Env<'_>),
    ) -> Self {
        let cert = Source::File(settings.cert.clone());
        Self {
            credential,
            cert: watcher.watch(&cert, env).await,
            key: watcher.watch(&settings.key, env).await,
            made: Mutex::default(),
        }
    }

    /// Why there is no certificate now, if there is none.
    ///
    /// # Errors
    /// [`SourceError`] of the first of the two that gives nothing.
    pub fn current(&self) -> Result<(), SourceError> {
        self.cert.current().and(self.key.current()).map(drop)
    }

    fn certificate(&self, cert: &Arc<Secret>, key: &Arc<Secret>) -> Arc<Certificate> {
        let mut made = self.made.lock();
        if let Some(made) = &*made
            && Arc::ptr_eq(&made.of.0, cert)
            && Arc::ptr_eq(&made.of.1, key)
        {
            return Arc::clone(&made.certificate);
        }
        let copy = Secret::new(key.expose().to_vec());
        let certificate = Arc::new(Certificate::new(cert.expose().to_vec(), copy));
        *made = Some(Made {
            of: (Arc::clone(cert), Arc::clone(key)),
            certificate: Arc::clone(&certificate),
        });
        certificate
    }
}

#[async_trait]
impl CredentialProvider for CertificateProvider {
    fn kind(&self) -> &'static str {
        "client-certificate"
    }

    fn revokes(&self) -> bool {
        false
    }

    async fn issue(&self, _scope: &Scope) -> Result<Issued, IssueError> {
        let soon = IssueError::Unavailable {
            retry_after: Some(NEXT_LOOK),
        };
        let (cert, key) = (self.cert.reading(), self.key.reading());
        let (Ok(chain), Ok(secret)) = (&cert.value, &key.value) else {
            return Err(soon);
        };
        let identity = ClientIdentity::from_pem(chain.expose(), secret).map_err(|error| {
            // Two files do not change in one moment: their owner may be at it.
            warn!(credential = %self.credential, %error, "the client certificate cannot be used");
            soon
        })?;
        Ok(Issued {
            material: Material::Certificate(self.certificate(chain, secret)),
            life: Life::Until(identity.until()),
            handle: None,
            superseded: Some(Superseded::with([
                cert.superseded.clone(),
                key.superseded.clone(),
            ])),
        })
    }

    async fn revoke(&self, _handle: &Handle) -> Result<(), RevokeError> {
        Err(RevokeError::Unsupported)
    }
}

/// The files are looked at on their own time: to ask sooner would find the same.
const NEXT_LOOK: Duration = Duration::from_secs(1);
