//! The yardstick: hyper as a bare CONNECT proxy that terminates TLS, sets one header and sends on over its own pool.
//!
//! `bare LISTEN CERT.pem KEY.pem CA.pem UPSTREAM NAME AUTHORIZATION`; one leaf, no policy, no scrubbing, no audit: what
//! any proxy built on this stack pays before it decides anything. Prints its port, ends when stdin closes.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, combinators::BoxBody};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::client::conn::{http1, http2};
use hyper::header::{AUTHORIZATION, HOST, HeaderValue};
use hyper::{Method, Request, Response, Uri, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use load::{Result, client_tls, end_with_stdin, server_tls};
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector, client::TlsStream};

struct Proxy {
    acceptor: TlsAcceptor,
    h1: Arc<ClientConfig>,
    h2: Arc<ClientConfig>,
    upstream: String,
    name: String,
    authorization: HeaderValue,
    idle: Arc<Mutex<Vec<http1::SendRequest<Incoming>>>>,
    shared: tokio::sync::Mutex<Option<http2::SendRequest<Incoming>>>,
}

type Answer = Response<BoxBody<Bytes, hyper::Error>>;

/// A response body that gives its connection back to the pool at its end.
struct Returning {
    body: Incoming,
    sender: Option<http1::SendRequest<Incoming>>,
    idle: Arc<Mutex<Vec<http1::SendRequest<Incoming>>>>,
}

impl Body for Returning {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        let ended = matches!(polled, Poll::Ready(None)) || self.body.is_end_stream();
        if ended && let Some(sender) = self.sender.take() {
            self.idle
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(sender);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Proxy {
    async fn dial(&self, config: &Arc<ClientConfig>) -> Result<TokioIo<TlsStream<TcpStream>>> {
        let tcp = TcpStream::connect(&self.upstream).await?;
        tcp.set_nodelay(true)?;
        let name = ServerName::try_from(self.name.clone())?;
        Ok(TokioIo::new(
            TlsConnector::from(config.clone())
                .connect(name, tcp)
                .await?,
        ))
    }

    async fn over_h1(&self, request: Request<Incoming>) -> Result<Answer> {
        let pooled = || {
            self.idle
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .pop()
        };
        let mut sender = loop {
            match pooled() {
                Some(mut sender) => {
                    if sender.ready().await.is_ok() {
                        break sender;
                    }
                }
                None => {
                    let (sender, connection) = http1::handshake(self.dial(&self.h1).await?).await?;
                    tokio::spawn(connection);
                    break sender;
                }
            }
        };
        let answer = sender.send_request(request).await?;
        let idle = self.idle.clone();
        Ok(answer.map(|body| {
            Returning {
                body,
                sender: Some(sender),
                idle,
            }
            .boxed()
        }))
    }

    async fn over_h2(&self, mut request: Request<Incoming>) -> Result<Answer> {
        *request.uri_mut() = Uri::builder()
            .scheme("https")
            .authority(self.name.as_str())
            .path_and_query(request.uri().path_and_query().map_or("/", |p| p.as_str()))
            .build()?;
        request.headers_mut().remove(HOST);
        *request.version_mut() = hyper::Version::HTTP_2;
        let mut sender = {
            let mut shared = self.shared.lock().await;
            match &*shared {
                Some(sender) if !sender.is_closed() => sender.clone(),
                _ => {
                    let io = self.dial(&self.h2).await?;
                    let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
                    tokio::spawn(connection);
                    shared.insert(sender).clone()
                }
            }
        };
        Ok(sender.send_request(request).await?.map(BodyExt::boxed))
    }

    async fn forward(self: Arc<Self>, mut request: Request<Incoming>) -> Result<Answer> {
        request
            .headers_mut()
            .insert(AUTHORIZATION, self.authorization.clone());
        if request.version() == hyper::Version::HTTP_2 {
            self.over_h2(request).await
        } else {
            self.over_h1(request).await
        }
    }

    async fn intercept(self: Arc<Self>, request: Request<Incoming>) -> Result<()> {
        let upgraded = hyper::upgrade::on(request).await?;
        let tls = self.acceptor.accept(TokioIo::new(upgraded)).await?;
        let h2 = tls.get_ref().1.alpn_protocol() == Some(b"h2");
        let service = service_fn(move |request| self.clone().forward(request));
        if h2 {
            let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            server.serve_connection(TokioIo::new(tls), service).await?;
        } else {
            hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(tls), service)
                .await?;
        }
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().collect();
    let [_, listen, cert, key, ca, upstream, name, authorization] = args.as_slice() else {
        return Err(
            "usage: bare LISTEN CERT.pem KEY.pem CA.pem UPSTREAM NAME AUTHORIZATION".into(),
        );
    };
    let proxy = Arc::new(Proxy {
        acceptor: TlsAcceptor::from(server_tls(cert, key, false)?),
        h1: client_tls(ca, &["http/1.1"])?,
        h2: client_tls(ca, &["h2"])?,
        upstream: upstream.clone(),
        name: name.clone(),
        authorization: HeaderValue::from_str(authorization)?,
        idle: Arc::default(),
        shared: tokio::sync::Mutex::default(),
    });
    let listener = TcpListener::bind(listen).await?;
    println!("{}", listener.local_addr()?.port());
    end_with_stdin();
    loop {
        let (tcp, _) = listener.accept().await?;
        tcp.set_nodelay(true)?;
        let proxy = proxy.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let proxy = proxy.clone();
                async move {
                    if request.method() != Method::CONNECT {
                        return Response::builder().status(405).body(Empty::<Bytes>::new());
                    }
                    tokio::spawn(proxy.intercept(request));
                    Ok(Response::new(Empty::new()))
                }
            });
            let server = hyper::server::conn::http1::Builder::new();
            _ = server
                .serve_connection(TokioIo::new(tcp), service)
                .with_upgrades()
                .await;
        });
    }
}
