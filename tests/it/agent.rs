//! The agent's side: raw bytes and hyper clients, with everything that is received kept for the search.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use base64::Engine as _;
use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::answers::{self, Message};
use super::upstream::AnyBody;

/// What the agent received, of all its connections.
pub type Transcript = Arc<Mutex<Vec<u8>>>;

/// How long anything at all may take.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// An agent that knows the proxy and the CA.
#[derive(Clone)]
pub struct Agent {
    pub proxy: SocketAddr,
    pub authorization: Option<String>,
    pub roots: Arc<rustls::RootCertStore>,
    pub transcript: Transcript,
}

/// A stream whose received bytes are kept.
pub struct Tap<S> {
    pub stream: S,
    transcript: Transcript,
}

pub type Tunnel = Tap<TlsStream<Tap<TcpStream>>>;
pub type H1 = http1::SendRequest<AnyBody>;
pub type H2 = http2::SendRequest<AnyBody>;

/// An answer that was read to its end.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub trailers: Option<HeaderMap>,
    /// Whether the body ended as it should.
    pub whole: bool,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.headers
            .get(name)
            .map(|value| std::str::from_utf8(value.as_bytes()).unwrap_or("not text"))
    }

    /// The word of a refusal.
    pub fn word(&self) -> &str {
        self.get("keyward-refusal").unwrap_or("")
    }
}

impl Agent {
    pub fn new(
        proxy: SocketAddr,
        token: Option<&str>,
        roots: &str,
        transcript: Transcript,
    ) -> Self {
        let mut store = rustls::RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(roots.as_bytes()) {
            store.add(certificate.unwrap()).unwrap();
        }
        let authorization = token.map(|token| {
            let pair = base64::engine::general_purpose::STANDARD.encode(format!("agent:{token}"));
            format!("Basic {pair}")
        });
        Self {
            proxy,
            authorization,
            roots: Arc::new(store),
            transcript,
        }
    }

    pub async fn tcp(&self) -> Tap<TcpStream> {
        let stream = TcpStream::connect(self.proxy).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Tap {
            stream,
            transcript: Arc::clone(&self.transcript),
        }
    }

    /// Sends CONNECT; the answer's head, and the stream behind it.
    pub async fn connect(&self, authority: &str) -> (Message, Tap<TcpStream>) {
        let mut stream = self.tcp().await;
        stream
            .write_all(&self.connect_head(authority))
            .await
            .unwrap();
        let answer = stream.head().await;
        (answer, stream)
    }

    pub fn connect_head(&self, authority: &str) -> Vec<u8> {
        let mut head = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n");
        if let Some(authorization) = &self.authorization {
            head.push_str(&format!("Proxy-Authorization: {authorization}\r\n"));
        }
        head.push_str("\r\n");
        head.into_bytes()
    }

    /// A granted tunnel, under TLS with this ALPN.
    pub async fn tunnel(&self, authority: &str, alpn: &[&str]) -> Tunnel {
        let (answer, stream) = self.connect(authority).await;
        assert_eq!(answer.status(), 200, "{answer:?}");
        let host = authority.rsplit_once(':').unwrap().0;
        self.tls(stream, host, alpn).await.unwrap()
    }

    pub async fn tls(
        &self,
        stream: Tap<TcpStream>,
        name: &str,
        alpn: &[&str],
    ) -> io::Result<Tunnel> {
        let mut config = rustls::ClientConfig::builder()
            .with_root_certificates(Arc::clone(&self.roots))
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        let name = ServerName::try_from(name.trim_matches(['[', ']']).to_owned()).unwrap();
        let connector = TlsConnector::from(Arc::new(config));
        let stream = within(connector.connect(name, stream)).await?;
        Ok(Tap {
            stream,
            transcript: Arc::clone(&self.transcript),
        })
    }

    pub async fn h1(&self, authority: &str) -> H1 {
        let tunnel = self.tunnel(authority, &["http/1.1"]).await;
        let (sender, connection) = http1::handshake(TokioIo::new(tunnel)).await.unwrap();
        tokio::spawn(connection.with_upgrades());
        sender
    }

    pub async fn h2(&self, authority: &str) -> H2 {
        let tunnel = self.tunnel(authority, &["h2"]).await;
        assert_eq!(tunnel.stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(1 << 20)
            .handshake(TokioIo::new(tunnel))
            .await
            .unwrap();
        tokio::spawn(connection);
        sender
    }

    /// One request on a connection of its own, over HTTP/1.1.
    pub async fn get(&self, authority: &str, path: &str) -> Answer {
        let mut sender = self.h1(authority).await;
        let host = authority.trim_end_matches(":443");
        self.ask(&mut sender, request("GET", path, host)).await
    }

    pub async fn ask(&self, sender: &mut H1, request: Request<AnyBody>) -> Answer {
        within(sender.ready()).await.unwrap();
        let response = within(sender.send_request(request)).await.unwrap();
        self.read(response).await
    }

    pub async fn ask_h2(&self, sender: &mut H2, mut request: Request<AnyBody>) -> Answer {
        *request.version_mut() = http::Version::HTTP_2;
        let host = request.headers_mut().remove("host").unwrap();
        let path = request.uri().to_string();
        *request.uri_mut() = format!("https://{}{path}", host.to_str().unwrap())
            .parse()
            .unwrap();
        within(sender.ready()).await.unwrap();
        let response = within(sender.send_request(request)).await.unwrap();
        self.read(response).await
    }

    /// Reads an answer to its end; its fields are kept as well, since HTTP/2 packs them.
    pub async fn read(&self, response: Response<Incoming>) -> Answer {
        let (parts, mut body) = response.into_parts();
        self.keep_fields(&parts.headers);
        let (mut bytes, mut trailers, mut whole) = (Vec::new(), None, true);
        while let Some(frame) = within(body.frame()).await {
            match frame {
                Err(_) => {
                    whole = false;
                    break;
                }
                Ok(frame) => match frame.into_data() {
                    Ok(data) => bytes.extend_from_slice(&data),
                    Err(frame) => {
                        let fields = frame.into_trailers().unwrap();
                        self.keep_fields(&fields);
                        trailers = Some(fields);
                    }
                },
            }
        }
        self.transcript.lock().extend_from_slice(&bytes);
        Answer {
            status: parts.status.as_u16(),
            headers: parts.headers,
            body: bytes.into(),
            trailers,
            whole,
        }
    }

    pub fn keep_fields(&self, fields: &HeaderMap) {
        let mut transcript = self.transcript.lock();
        for (name, value) in fields {
            transcript.extend_from_slice(name.as_str().as_bytes());
            transcript.extend_from_slice(b": ");
            transcript.extend_from_slice(value.as_bytes());
            transcript.push(b'\n');
        }
    }

    /// Sends bytes into a fresh tunnel and reads until the answerer closes or is quiet.
    pub async fn throw(&self, authority: &str, bytes: &[u8]) -> Vec<u8> {
        let mut tunnel = self.tunnel(authority, &["http/1.1"]).await;
        tunnel.write_all(bytes).await.ok();
        tunnel.flush().await.ok();
        tunnel.until_quiet().await
    }
}

/// A request in origin form.
pub fn request(method: &str, path: &str, host: &str) -> Request<AnyBody> {
    body_request(method, path, host, Bytes::new())
}

pub fn body_request(
    method: &str,
    path: &str,
    host: &str,
    body: impl Into<Bytes>,
) -> Request<AnyBody> {
    Request::builder()
        .method(method)
        .uri(path)
        .header("host", host)
        .body(super::upstream::full(body))
        .unwrap()
}

pub async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work)
        .await
        .expect("it does not take this long")
}

impl<S> Tap<S> {
    pub fn new(stream: S, transcript: &Transcript) -> Self {
        let transcript = Arc::clone(transcript);
        Self { stream, transcript }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Tap<S> {
    /// Reads one HTTP/1 head and not a byte more.
    pub async fn head(&mut self) -> Message {
        let mut bytes = Vec::new();
        loop {
            if let Some((message, _)) = answers::head(&bytes).unwrap() {
                return message;
            }
            match within(self.read_u8()).await {
                Ok(byte) => bytes.push(byte),
                Err(_) => {
                    return Message {
                        start: String::new(),
                        fields: Vec::new(),
                        body: bytes,
                    };
                }
            }
        }
    }

    /// Reads one whole HTTP/1 answer; a start line that is empty says that the connection was closed.
    pub async fn answer(&mut self) -> Message {
        let mut bytes = Vec::new();
        loop {
            if let Some((message, _)) = answers::one(&bytes).unwrap() {
                return message;
            }
            match within(self.read_u8()).await {
                Ok(byte) => bytes.push(byte),
                Err(_) => {
                    return Message {
                        start: String::new(),
                        fields: Vec::new(),
                        body: bytes,
                    };
                }
            }
        }
    }

    /// Reads until the other side closes, or until nothing has come for a while after something has.
    pub async fn until_quiet(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        loop {
            let patience = if bytes.is_empty() { 1000 } else { 120 };
            let read = self.read_buf(&mut bytes);
            match tokio::time::timeout(Duration::from_millis(patience), read).await {
                Ok(Ok(0) | Err(_)) | Err(_) => return bytes,
                Ok(Ok(_)) => {}
            }
        }
    }

    /// Whether the other side closes within this time; what it still sends is read.
    pub async fn closes_within(&mut self, time: Duration) -> bool {
        let mut bytes = Vec::new();
        tokio::time::timeout(time, async {
            while !matches!(self.read_buf(&mut bytes).await, Ok(0) | Err(_)) {}
        })
        .await
        .is_ok()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Tap<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
        this.transcript
            .lock()
            .extend_from_slice(&buf.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Tap<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
