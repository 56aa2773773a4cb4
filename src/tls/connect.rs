//! The upstream's side: every server is verified against the configured roots and its own name, without exception.

use std::io;
use std::sync::Arc;

use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::pki_types::ServerName;
use rustls::{CertificateError, ClientConfig, NoKeyLog};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::clock::Clock;
use crate::host::Host;

use super::identity::ClientIdentity;
use super::peer::PeerCheck;
use super::stream::{ClientStream, TlsStream};
use super::trust::{self, TrustError};
use super::{Alpn, Protocol, TrustSettings, WallTime, upstream_provider};

/// Opens verified connections to upstreams, as nobody or with one client's certificate.
///
/// Sessions are kept for resumption per connector and never leave it: keep one for each identity.
#[derive(Debug, Clone)]
pub struct Connector {
    both: Arc<ClientConfig>,
    http1: Arc<ClientConfig>,
    verifier: Arc<WebPkiServerVerifier>,
    /// Who the server must be, where its host's name does not say so.
    peer: Option<PeerCheck>,
    clock: Arc<dyn Clock>,
}

/// Why there is no connection to an upstream. No text of the upstream or its certificate is in it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The server did not prove to be the host that was asked for.
    #[error("the upstream's certificate is not trusted: {0}")]
    Untrusted(Distrust),
    /// The two sides found no common ground: version, cipher, ALPN, a client certificate that was asked for; or the
    /// upstream does not speak TLS.
    #[error("the TLS handshake with the upstream failed: {0}")]
    Refused(&'static str),
    /// The connection broke.
    #[error("the connection to the upstream broke during the TLS handshake")]
    Io(#[source] io::Error),
}

/// What was wrong with a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Distrust {
    /// No trusted root stands behind it.
    #[error("no trusted root issued it")]
    UnknownIssuer,
    /// It is another host's.
    #[error("it is not valid for this host")]
    WrongHost,
    /// Its time is over.
    #[error("it has expired")]
    Expired,
    /// Its time has not come.
    #[error("it is not valid yet")]
    NotYetValid,
    /// It was not made for servers.
    #[error("it is not meant for servers")]
    WrongPurpose,
    /// There is none, it does not parse, its signature is bad, or it uses what is not accepted.
    #[error("it is malformed or uses what is not accepted")]
    Unacceptable,
}

impl Connector {
    /// Loads the roots and builds the configurations. With `identity`, it is presented to servers that ask.
    ///
    /// # Errors
    /// [`TrustError`] names the file at fault.
    pub fn new(
        trust: &TrustSettings,
        identity: Option<&ClientIdentity>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, TrustError> {
        let roots = Arc::new(trust::load(trust)?);
        let verifier = WebPkiServerVerifier::builder_with_provider(roots, upstream_provider())
            .build()
            .map_err(|_| TrustError::Nothing)?;
        Self::build(verifier, identity, clock)
    }

    /// A connector with the same roots and another identity; no session is shared with this one.
    ///
    /// # Errors
    /// [`TrustError::Tls`], which a good identity never causes.
    pub fn with_identity(&self, identity: &ClientIdentity) -> Result<Self, TrustError> {
        Self::build(self.verifier.clone(), Some(identity), self.clock.clone())
    }

    /// A connector with this identity for servers that are workloads: neither the roots of this one nor the host's name
    /// count for them, unless `verify_name` asks for the name as well.
    ///
    /// # Errors
    /// [`TrustError::Tls`], which a good identity never causes.
    pub fn with_peer(
        &self,
        identity: &ClientIdentity,
        peer: PeerCheck,
    ) -> Result<Self, TrustError> {
        let mut made = self.with_identity(identity)?;
        for config in [&mut made.both, &mut made.http1] {
            Arc::make_mut(config).resumption = Resumption::disabled();
        }
        made.peer = Some(peer);
        Ok(made)
    }

    /// Shakes hands as a client of `host`. The caller sets the deadline.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub async fn connect<IO>(
        &self,
        io: IO,
        host: &Host,
        alpn: Alpn,
    ) -> Result<(ClientStream<IO>, Protocol), ConnectError>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let config = match alpn {
            Alpn::Both => &self.both,
            Alpn::Http1 => &self.http1,
        };
        let name = match host {
            Host::Name(name) => ServerName::try_from(name.to_string()).map_err(|_| {
                ConnectError::Refused("the host is no name that a certificate can carry")
            })?,
            // RFC 6066 §3: an address is never sent as server name; rustls leaves it out.
            Host::Ip(ip) => ServerName::IpAddress((*ip).into()),
        };
        let mut config = Arc::clone(config);
        if let Some(peer) = &self.peer {
            let verifier = Arc::new(peer.verifier().await);
            let config = Arc::make_mut(&mut config);
            config.dangerous().set_certificate_verifier(verifier);
        }
        let stream = tokio_rustls::TlsConnector::from(config)
            .connect(name, io)
            .await
            .map_err(ConnectError::from)?;
        let protocol = Protocol::agreed(stream.get_ref().1.alpn_protocol());
        Ok((TlsStream(stream.into()), protocol))
    }

    fn build(
        verifier: Arc<WebPkiServerVerifier>,
        identity: Option<&ClientIdentity>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, TrustError> {
        let time = Arc::new(WallTime(clock.clone()));
        let builder = ClientConfig::builder_with_details(upstream_provider(), time)
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
            .with_webpki_verifier(verifier.clone());
        let mut config = match identity {
            Some(identity) => builder.with_client_cert_resolver(identity.resolver.clone()),
            None => builder.with_no_client_auth(),
        };
        config.resumption = Resumption::in_memory_sessions(SESSIONS);
        // HOST-33: a request with a credential must not be one that can be replayed.
        config.enable_early_data = false;
        config.key_log = Arc::new(NoKeyLog);
        let mut http1 = config.clone();
        config.alpn_protocols = Alpn::Both.offer();
        http1.alpn_protocols = Alpn::Http1.offer();
        Ok(Self {
            both: Arc::new(config),
            http1: Arc::new(http1),
            verifier,
            peer: None,
            clock,
        })
    }
}

impl From<io::Error> for ConnectError {
    fn from(error: io::Error) -> Self {
        use rustls::Error as Tls;
        let cause = error
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<Tls>());
        match cause {
            None => Self::Io(error),
            Some(Tls::InvalidCertificate(fault)) => Self::Untrusted(fault.into()),
            Some(Tls::NoCertificatesPresented) => Self::Untrusted(Distrust::Unacceptable),
            Some(Tls::AlertReceived(_)) => Self::Refused("the upstream sent an alert"),
            Some(Tls::InvalidMessage(_)) => Self::Refused("the upstream does not speak TLS"),
            Some(Tls::PeerIncompatible(_)) => {
                Self::Refused("the upstream has no TLS 1.2 or 1.3 that both accept")
            }
            Some(Tls::NoApplicationProtocol) => Self::Refused("no common protocol"),
            Some(_) => Self::Refused("the upstream broke the protocol"),
        }
    }
}

impl From<&CertificateError> for Distrust {
    fn from(error: &CertificateError) -> Self {
        use CertificateError as E;
        match error {
            E::UnknownIssuer => Self::UnknownIssuer,
            E::NotValidForName | E::NotValidForNameContext { .. } => Self::WrongHost,
            E::Expired | E::ExpiredContext { .. } => Self::Expired,
            E::NotValidYet | E::NotValidYetContext { .. } => Self::NotYetValid,
            E::InvalidPurpose | E::InvalidPurposeContext { .. } => Self::WrongPurpose,
            _ => Self::Unacceptable,
        }
    }
}

/// Sessions kept for resumption, over all hosts of a connector.
const SESSIONS: usize = 1024;
