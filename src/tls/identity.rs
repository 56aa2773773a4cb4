//! A client's certificate and key, for upstreams that ask who calls.
//!
//! rustls refuses to resume a session under another resolver object, by pointer. One identity is therefore one
//! resolver, made here once: two credentials never share a session, and one credential resumes its own.

use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use rcgen::{CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair};
use rustls::client::ResolvesClientCert;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use rustls::sign::{CertifiedKey, SingleCertAndKey};

use super::issue;
use crate::secret::Secret;

/// A certificate chain with its key, ready to present. Cheap to clone; clones are the same identity.
#[derive(Clone)]
pub struct ClientIdentity {
    pub(super) resolver: Arc<dyn ResolvesClientCert>,
    until: Timestamp,
}

/// Why a client's certificate cannot be used. Nothing of the key is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// There is no certificate, or what stands there is not PEM.
    #[error("no client certificate in PEM was found")]
    Certificate,
    /// There is no private key, or not one of RSA, ECDSA or Ed25519 without a passphrase.
    #[error("no usable private key in PEM was found")]
    Key,
    /// The key belongs to another certificate.
    #[error("the private key is not that of the first certificate")]
    Mismatch,
}

impl ClientIdentity {
    /// Reads a chain, the client's own certificate first, and its key in PKCS#8, PKCS#1 or SEC1.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub fn from_pem(chain: &[u8], key: &Secret) -> Result<Self, IdentityError> {
        Self::of(Self::certified(chain, key)?)
    }

    /// Takes a chain in DER, the client's own certificate first, and its key in PKCS#8, as the SPIFFE Workload API
    /// gives them.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub fn from_der(chain: Vec<Box<[u8]>>, key: &Secret) -> Result<Self, IdentityError> {
        let chain = (chain.into_iter())
            .map(|own| CertificateDer::from(own.into_vec()))
            .collect();
        let key = PrivateKeyDer::try_from(key.expose()).map_err(|_| IdentityError::Key)?;
        Self::of(pair(chain, &key)?)
    }

    /// A key that nobody else has ever had, with a certificate that it signs itself: it says who nobody is, and that
    /// whoever shows it again is the same (RFC 8705 §2.2).
    ///
    /// # Errors
    /// [`IdentityError::Key`] where no key can be made.
    pub fn fresh(name: &str) -> Result<Self, IdentityError> {
        let mut params = CertificateParams::new(Vec::new()).map_err(|_| IdentityError::Key)?;
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().map_err(|_| IdentityError::Key)?;
        let own = params.self_signed(&key).map_err(|_| IdentityError::Key)?;
        let key = Secret::new(key.serialize_der());
        Self::from_der(vec![own.der().to_vec().into()], &key)
    }

    fn of(certified: CertifiedKey) -> Result<Self, IdentityError> {
        let until = certified
            .cert
            .iter()
            .map(end)
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Self {
            until: until.into_iter().min().ok_or(IdentityError::Certificate)?,
            resolver: Arc::new(SingleCertAndKey::from(certified)),
        })
    }

    pub(super) fn certified(chain: &[u8], key: &Secret) -> Result<CertifiedKey, IdentityError> {
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(chain)
            .collect::<Result<_, _>>()
            .map_err(|_| IdentityError::Certificate)?;
        let key = PrivateKeyDer::from_pem_slice(key.expose()).map_err(|_| IdentityError::Key)?;
        pair(chain, &key)
    }

    /// When the first certificate of the chain to end does so.
    pub fn until(&self) -> Timestamp {
        self.until
    }
}

fn pair(
    chain: Vec<CertificateDer<'static>>,
    key: &PrivateKeyDer<'_>,
) -> Result<CertifiedKey, IdentityError> {
    if chain.is_empty() {
        return Err(IdentityError::Certificate);
    }
    let key = aws_lc_rs::sign::any_supported_type(key).map_err(|_| IdentityError::Key)?;
    let certified = CertifiedKey::new(chain, key);
    match certified.keys_match() {
        Ok(()) => Ok(certified),
        Err(rustls::Error::InconsistentKeys(_)) => Err(IdentityError::Mismatch),
        Err(_) => Err(IdentityError::Certificate),
    }
}

fn end(certificate: &CertificateDer<'_>) -> Result<Timestamp, IdentityError> {
    let parsed = issue::parse(certificate).map_err(|_| IdentityError::Certificate)?;
    Ok(issue::life(&parsed).to)
}

impl fmt::Debug for ClientIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientIdentity(..)")
    }
}
