//! A server that is a workload: it proves a SPIFFE ID to the bundle of its trust domain, and its host's name says nothing.
//!
//! No public root can stand in for a bundle, and no bundle for another domain's. Every connection is a proof of its own:
//! sessions are not resumed, so that what was rotated or withdrawn meanwhile does not live on in a ticket.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use tracing::debug;

use super::roots::BadRoot;
use super::upstream_provider;
use crate::spiffe::{Peers, Svid};

/// Where the roots of trust domains come from. Must not give a domain the roots of another.
#[async_trait]
pub trait Bundles: fmt::Debug + Send + Sync {
    /// The roots of this trust domain now; `None` where there are none that may still be believed.
    async fn roots(&self, domain: &str) -> Option<Arc<PeerRoots>>;
}

/// The roots of one trust domain.
pub struct PeerRoots(RootCertStore);

/// Who the server may be, and how that is known.
#[derive(Debug, Clone)]
pub struct PeerCheck {
    /// Whose SPIFFE IDs are taken.
    pub peers: Arc<Peers>,
    /// What they are held to.
    pub bundles: Arc<dyn Bundles>,
}

impl PeerRoots {
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
        Ok(Self(store))
    }
}

impl PeerCheck {
    /// What one handshake is verified with: the roots as they are now.
    pub(super) async fn verifier(&self) -> PeerVerifier {
        let mut roots = Vec::new();
        for domain in self.peers.domains() {
            if let Some(found) = self.bundles.roots(domain).await {
                roots.push((domain.into(), found));
            }
        }
        PeerVerifier {
            peers: Arc::clone(&self.peers),
            roots,
            algorithms: upstream_provider().signature_verification_algorithms,
        }
    }
}

/// Verifies servers by their SVIDs.
pub(super) struct PeerVerifier {
    peers: Arc<Peers>,
    roots: Vec<(Box<str>, Arc<PeerRoots>)>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for PeerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let svid = Svid::read(end_entity).map_err(|why| {
            debug!(%why, "a peer showed no X.509-SVID");
            CertificateError::ApplicationVerificationFailure
        })?;
        // A word before the chain is verified: the ID is not proved yet, and only chooses the roots.
        let of_domain = |(domain, _): &&(Box<str>, _)| **domain == *svid.domain();
        let Some((_, roots)) = self.roots.iter().find(of_domain) else {
            debug!("there is no bundle of a peer's trust domain");
            return Err(CertificateError::UnknownIssuer.into());
        };
        let certificate = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(
            &certificate,
            &roots.0,
            intermediates,
            now,
            self.algorithms.all,
        )?;
        if !self.peers.admit(svid.id()) {
            debug!("a peer has another SPIFFE ID than the route allows");
            return Err(CertificateError::NotValidForName.into());
        }
        if self.peers.verify_name {
            verify_server_name(&certificate, server_name)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl fmt::Debug for PeerVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PeerVerifier").field(&self.peers).finish()
    }
}

impl fmt::Debug for PeerRoots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PeerRoots({})", self.0.len())
    }
}
