//! The connector below the HTTP client: resolves, dials, shakes hands.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tower_service::Service;

use super::Endpoint;
use crate::host::{Host, Scheme, Target};
use crate::tls::{Alpn, ClientStream, Connector};

/// Opens connections for [`super::Client`].
#[derive(Debug, Clone)]
pub(super) struct Dial {
    connector: Connector,
    connect_to: Arc<BTreeMap<Target, Target>>,
}

/// One connection to an issuer.
pub(super) enum Stream {
    /// `http`, to loopback.
    Plain(TokioIo<TcpStream>),
    /// `https`.
    Tls(TokioIo<Box<ClientStream<TcpStream>>>),
}

impl Dial {
    pub(super) fn new(connector: Connector, connect_to: Arc<BTreeMap<Target, Target>>) -> Self {
        Self {
            connector,
            connect_to,
        }
    }

    async fn open(self, uri: Uri) -> io::Result<Stream> {
        let endpoint: Endpoint = uri.to_string().parse().map_err(io::Error::other)?;
        let target = endpoint.target();
        let tcp = self.dial(target).await?;
        tcp.set_nodelay(true)?;
        match target.scheme {
            Scheme::Http => Ok(Stream::Plain(TokioIo::new(tcp))),
            Scheme::Https => {
                let shaken = self.connector.connect(tcp, &target.host, Alpn::Http1).await;
                let (tls, _) = shaken.map_err(io::Error::other)?;
                Ok(Stream::Tls(TokioIo::new(Box::new(tls))))
            }
        }
    }

    async fn dial(&self, target: &Target) -> io::Result<TcpStream> {
        let at = self.connect_to.get(target).unwrap_or(target);
        match &at.host {
            Host::Ip(ip) => TcpStream::connect((*ip, at.port)).await,
            Host::Name(name) => TcpStream::connect((&**name, at.port)).await,
        }
    }
}

impl Service<Uri> for Dial {
    type Response = Stream;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Stream>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        Box::pin(self.clone().open(uri))
    }
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl Read for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_read(cx, buf),
            Self::Tls(io) => Pin::new(io).poll_read(cx, buf),
        }
    }
}

impl Write for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_write(cx, buf),
            Self::Tls(io) => Pin::new(io).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_flush(cx),
            Self::Tls(io) => Pin::new(io).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_shutdown(cx),
            Self::Tls(io) => Pin::new(io).poll_shutdown(cx),
        }
    }
}
