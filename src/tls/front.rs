//! A listener's own TLS: it shows one certificate, and asks agents for theirs without believing it.
//!
//! The handshake proves that the agent has the key of the certificate that it shows. Who issued it is for the trust
//! providers to judge, each by its own roots; an agent without a certificate is let in as far as the handshake goes.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::NoServerSessionStorage;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, NoKeyLog, ServerConfig, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite};

use super::accept::AcceptError;
use super::identity::{ClientIdentity, IdentityError};
use super::stream::{ServerStream, TlsStream};
use super::{HTTP1, WallTime, agent_provider};
use crate::clock::Clock;
use crate::secret::Secret;

/// The TLS of a `tls:` listener.
pub struct FrontDoor {
    config: ArcSwap<ServerConfig>,
    clock: Arc<dyn Clock>,
}

/// The certificates that an agent showed, its own first, in DER.
pub type Shown = Vec<Box<[u8]>>;

impl FrontDoor {
    /// Shows this chain, the listener's own certificate first, in PEM.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub fn new(chain: &[u8], key: &Secret, clock: Arc<dyn Clock>) -> Result<Self, IdentityError> {
        Ok(Self {
            config: ArcSwap::from_pointee(config(chain, key, &clock)?),
            clock,
        })
    }

    /// Shows another from now on.
    ///
    /// # Errors
    /// [`IdentityError`]; the old one is shown then.
    pub fn replace(&self, chain: &[u8], key: &Secret) -> Result<(), IdentityError> {
        self.config
            .store(Arc::new(config(chain, key, &self.clock)?));
        Ok(())
    }

    /// Shakes hands. The caller sets the deadline.
    ///
    /// # Errors
    /// [`AcceptError`]; an alert has been sent where the protocol has one.
    pub async fn accept<IO>(&self, io: IO) -> Result<(ServerStream<IO>, Shown), AcceptError>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let acceptor = tokio_rustls::TlsAcceptor::from(self.config.load_full());
        let stream = acceptor.accept(io).await?;
        let shown = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let shown = shown.iter().map(|cert| cert.as_ref().into()).collect();
        Ok((TlsStream(stream.into()), shown))
    }
}

fn config(
    chain: &[u8],
    key: &Secret,
    clock: &Arc<dyn Clock>,
) -> Result<ServerConfig, IdentityError> {
    let certified = ClientIdentity::certified(chain, key)?;
    let provider = agent_provider();
    let asking = Asking(provider.signature_verification_algorithms);
    let time = Arc::new(WallTime(Arc::clone(clock)));
    let mut config = ServerConfig::builder_with_details(provider, time)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(|_| IdentityError::Certificate)?
        .with_client_cert_verifier(Arc::new(asking))
        .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(certified)));
    config.alpn_protocols = vec![HTTP1.to_vec()];
    config.max_early_data_size = 0;
    config.key_log = Arc::new(NoKeyLog);
    // A resumed session would carry a certificate whose key was proved some other time.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// Asks for a certificate, takes any, and checks that its key signs the handshake.
#[derive(Debug)]
struct Asking(WebPkiSupportedAlgorithms);

impl ClientCertVerifier for Asking {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signed, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signed, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}

impl fmt::Debug for FrontDoor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FrontDoor(..)")
    }
}
