//! Roots of somebody's own, against which the certificates that clients show are checked: a SPIFFE trust domain's.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, UnixTime, pem::PemObject};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;

use super::Distrust;
use super::agent_provider;

/// The roots; without any nothing verifies.
#[derive(Clone)]
pub struct ClientRoots(Option<Arc<dyn ClientCertVerifier>>);

/// What was given is no certificate that can be a root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a certificate cannot be used as a root")]
pub struct BadRoot;

impl ClientRoots {
    /// From DER.
    ///
    /// # Errors
    /// [`BadRoot`] for any that is none: what was named must be whole.
    pub fn from_der<'a>(roots: impl IntoIterator<Item = &'a [u8]>) -> Result<Self, BadRoot> {
        let mut store = RootCertStore::empty();
        for root in roots {
            store
                .add(CertificateDer::from(root.to_vec()))
                .map_err(|_| BadRoot)?;
        }
        if store.is_empty() {
            return Ok(Self(None));
        }
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(store), agent_provider())
                .build()
                .map_err(|_| BadRoot)?;
        Ok(Self(Some(verifier)))
    }

    /// From PEM.
    ///
    /// # Errors
    /// [`BadRoot`] for any that is none, and where there is none.
    pub fn from_pem(pem: &[u8]) -> Result<Self, BadRoot> {
        let roots = certificates(pem)?;
        if roots.is_empty() {
            return Err(BadRoot);
        }
        Self::from_der(roots.iter().map(|root| &**root))
    }

    /// Whether the first of these certificates is a client's that one of the roots stands behind, now. Names are not
    /// looked at.
    ///
    /// # Errors
    /// What is wrong.
    pub fn verify(&self, chain: &[Box<[u8]>], now: Timestamp) -> Result<(), Distrust> {
        let verifier = self.0.as_ref().ok_or(Distrust::UnknownIssuer)?;
        let seconds = u64::try_from(now.as_second()).map_err(|_| Distrust::NotYetValid)?;
        let mut chain = chain.iter().map(|cert| CertificateDer::from(&**cert));
        let own = chain.next().ok_or(Distrust::Unacceptable)?;
        let above: Vec<_> = chain.collect();
        let time = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        match verifier.verify_client_cert(&own, &above, time) {
            Ok(_) => Ok(()),
            Err(rustls::Error::InvalidCertificate(fault)) => Err((&fault).into()),
            Err(_) => Err(Distrust::Unacceptable),
        }
    }
}

/// The certificates of a PEM file, in DER.
///
/// # Errors
/// [`BadRoot`] for what is not PEM.
pub fn certificates(pem: &[u8]) -> Result<Vec<Box<[u8]>>, BadRoot> {
    CertificateDer::pem_slice_iter(pem)
        .map(|cert| Ok(cert.map_err(|_| BadRoot)?.as_ref().into()))
        .collect()
}

impl fmt::Debug for ClientRoots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientRoots(..)")
    }
}
