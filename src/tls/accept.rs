//! The agent's side: one host, one certificate, and a handshake that ends at anything else.

use std::io;
use std::sync::Arc;

use jiff::Timestamp;
use rustls::server::NoServerSessionStorage;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{AlertDescription, InvalidMessage, NoKeyLog, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio_rustls::LazyConfigAcceptor;

use crate::host::Host;

use super::stream::{ServerStream, TlsStream};
use super::{Alpn, Protocol};

/// Shakes hands with agents as one host. Tickets are sealed with a key of this host's own, so that a session is
/// resumed where it began and nowhere else, also where there is no server name to bind it to (addresses).
#[derive(Debug)]
pub struct Acceptor {
    host: Host,
    both: Arc<ServerConfig>,
    http1: Arc<ServerConfig>,
    pub(super) authority: u64,
    pub(super) fresh: (Timestamp, Timestamp),
}

/// Why an agent's handshake failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AcceptError {
    /// The agent said that it does not accept our certificate: its runtime does not trust the CA.
    #[error("the agent does not trust keyward's CA")]
    Untrusted,
    /// The agent asked for another host than its CONNECT did; it got `unrecognized_name` (RFC 6066 §3).
    #[error("the server name is not the host of the CONNECT")]
    SniMismatch,
    /// What came inside the tunnel is not TLS.
    #[error("the agent does not speak TLS inside the tunnel")]
    NotTls,
    /// No common version, cipher or protocol, or a broken handshake.
    #[error("the TLS handshake with the agent failed: {0}")]
    Handshake(&'static str),
    /// The agent went away before the end. Some clients do so, without an alert, where they do not trust the CA.
    #[error("the agent closed the connection during the TLS handshake")]
    Closed,
    /// The connection broke.
    #[error("the connection to the agent broke during the TLS handshake")]
    Io(#[source] io::Error),
}

impl Acceptor {
    /// Shakes hands as this host. The caller sets the deadline, and `TCP_NODELAY`.
    ///
    /// # Errors
    /// [`AcceptError`]; an alert has been sent where the protocol has one.
    pub async fn accept<IO>(
        &self,
        io: IO,
        alpn: Alpn,
    ) -> Result<(ServerStream<IO>, Protocol), AcceptError>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let config = match alpn {
            Alpn::Both => &self.both,
            Alpn::Http1 => &self.http1,
        };
        let mut start = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), io).await?;
        if !self.is_named_by(start.client_hello().server_name()) {
            // The answer is best effort: the connection ends either way.
            drop(start.io.write_all(UNRECOGNIZED_NAME).await);
            drop(start.io.shutdown().await);
            return Err(AcceptError::SniMismatch);
        }
        let stream = start.into_stream(config.clone()).await?;
        let protocol = Protocol::agreed(stream.get_ref().1.alpn_protocol());
        Ok((TlsStream(stream.into()), protocol))
    }

    /// The host that it speaks for.
    pub fn host(&self) -> &Host {
        &self.host
    }

    pub(super) fn new(
        host: Host,
        base: &ServerConfig,
        certified: CertifiedKey,
        authority: u64,
        fresh: (Timestamp, Timestamp),
    ) -> Result<Self, rustls::Error> {
        let mut both = base.clone();
        both.cert_resolver = Arc::new(SingleCertAndKey::from(certified));
        both.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new()?;
        both.alpn_protocols = Alpn::Both.offer();
        let mut http1 = both.clone();
        http1.alpn_protocols = Alpn::Http1.offer();
        Ok(Self {
            host,
            both: Arc::new(both),
            http1: Arc::new(http1),
            authority,
            fresh,
        })
    }

    /// An absent name is fine: the CONNECT has named the host.
    fn is_named_by(&self, sni: Option<&str>) -> bool {
        match (sni, &self.host) {
            (None, _) => true,
            (Some(sni), Host::Name(name)) => sni.eq_ignore_ascii_case(name),
            (Some(_), Host::Ip(_)) => false,
        }
    }
}

/// What all hosts have in common. No early data, no key log, no sessions in memory (tickets are the agent's to keep).
pub(super) fn harden(config: &mut ServerConfig) {
    config.max_early_data_size = 0;
    config.key_log = Arc::new(NoKeyLog);
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 1;
}

impl From<io::Error> for AcceptError {
    fn from(error: io::Error) -> Self {
        use rustls::Error as Tls;
        let cause = error
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<Tls>());
        match cause {
            None if error.kind() == io::ErrorKind::UnexpectedEof => Self::Closed,
            None => Self::Io(error),
            Some(Tls::AlertReceived(alert)) => match alert {
                AlertDescription::UnknownCA
                | AlertDescription::BadCertificate
                | AlertDescription::CertificateUnknown
                | AlertDescription::CertificateExpired
                | AlertDescription::UnsupportedCertificate => Self::Untrusted,
                _ => Self::Handshake("the agent sent an alert"),
            },
            Some(Tls::InvalidMessage(InvalidMessage::InvalidContentType)) => Self::NotTls,
            Some(Tls::InvalidMessage(_)) => Self::Handshake("a malformed message"),
            Some(Tls::NoApplicationProtocol) => Self::Handshake("no common protocol"),
            Some(Tls::PeerIncompatible(_)) => Self::Handshake("no common version or cipher"),
            Some(_) => Self::Handshake("the agent broke the protocol"),
        }
    }
}

/// A fatal alert before any key is agreed (RFC 8446 §6): type 21, version 0x0303, length 2, fatal, 112.
const UNRECOGNIZED_NAME: &[u8] = &[21, 3, 3, 0, 2, 2, 112];
