//! The way to the gateway: a TLS connection of its own for each tunnel and request.

use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_util::task::TaskTracker;

use super::fault::Fault;
use super::front::Up;
use crate::host::{Host, Target};
use crate::tls::{Alpn, ClientStream, Connector};

/// Where the gateway is.
#[derive(Debug)]
pub(super) struct Gateway {
    name: Target,
    dial: Target,
}

/// How long name, TCP and TLS may take together.
const CONNECT: Duration = Duration::from_secs(10);
/// How long the gateway may take to answer a CONNECT: it dials the upstream meanwhile.
pub(super) const ANSWER: Duration = Duration::from_mins(1);

/// The connection under what hyper hands back after an upgrade.
pub(super) type Io = TokioIo<ClientStream<TcpStream>>;

impl Gateway {
    pub(super) fn new(name: Target, connect_to: Option<Target>) -> Self {
        Self {
            dial: connect_to.unwrap_or_else(|| name.clone()),
            name,
        }
    }

    /// Opens a verified connection.
    pub(super) async fn open(&self, connector: &Connector) -> Result<Io, Fault> {
        let opening = async {
            let tcp = match &self.dial.host {
                Host::Ip(ip) => TcpStream::connect((*ip, self.dial.port)).await,
                Host::Name(name) => TcpStream::connect((&**name, self.dial.port)).await,
            };
            let tcp = tcp.map_err(|_| Fault::Unreachable)?;
            tcp.set_nodelay(true).map_err(|_| Fault::Unreachable)?;
            watch(&tcp);
            let shaken = connector.connect(tcp, &self.name.host, Alpn::Http1).await;
            Ok(TokioIo::new(shaken?.0))
        };
        let opened = tokio::time::timeout(CONNECT, opening).await;
        opened.map_err(|_| Fault::TimedOut)?
    }

    /// Sends one request on a connection of its own, which ends with its answer or becomes a tunnel.
    pub(super) async fn send(
        &self,
        connector: &Connector,
        request: Request<Up>,
        tracker: &TaskTracker,
    ) -> Result<Response<Incoming>, Fault> {
        let io = self.open(connector).await?;
        let shaken = http1::Builder::new()
            .max_buf_size(BUFFER)
            .handshake(io)
            .await;
        let (mut sender, connection) = shaken.map_err(|_| Fault::Broke)?;
        let driving = connection.with_upgrades();
        tracker.spawn(async move {
            driving.await.ok();
        });
        sender.send_request(request).await.map_err(|_| Fault::Broke)
    }
}

/// The most of one connection that is kept in memory, in bytes. A head of 64 KiB fits.
pub(super) const BUFFER: usize = 128 * 1024;

/// A gateway that went away without a word is noticed within a minute, where the system can.
fn watch(tcp: &TcpStream) {
    #[cfg(target_os = "linux")]
    {
        use rustix::net::sockopt;
        // Without them a tunnel ends by the gateway's own limits.
        sockopt::set_socket_keepalive(tcp, true).ok();
        sockopt::set_tcp_keepidle(tcp, Duration::from_secs(30)).ok();
        sockopt::set_tcp_keepintvl(tcp, Duration::from_secs(10)).ok();
        sockopt::set_tcp_keepcnt(tcp, 3).ok();
    }
    #[cfg(not(target_os = "linux"))]
    let _ = tcp;
}
