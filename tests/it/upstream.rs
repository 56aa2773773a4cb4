//! Upstreams: a service by hyper that records what it is asked, or a script over the bare bytes.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

pub type AnyBody = UnsyncBoxBody<Bytes, Infallible>;
pub type Answering = Pin<Box<dyn Future<Output = Response<AnyBody>> + Send>>;

/// The CA of the tests' upstreams.
pub struct TestCa {
    pub pem: String,
    issuer: Issuer<'static, KeyPair>,
}

pub static CA: LazyLock<TestCa> = LazyLock::new(|| {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, "upstreams of the tests");
    let key = KeyPair::generate().unwrap();
    let pem = params.self_signed(&key).unwrap().pem();
    let issuer = Issuer::new(params, key);
    TestCa { pem, issuer }
});

/// One request, as an upstream saw it.
#[derive(Debug, Clone)]
pub struct Seen {
    pub connection: usize,
    pub method: String,
    pub uri: String,
    pub version: http::Version,
    pub headers: http::HeaderMap,
    pub body: Bytes,
    /// The serial number of the client certificate that the connection presented.
    pub presented: Option<String>,
}

impl Seen {
    pub fn all(&self, name: &str) -> Vec<String> {
        self.headers
            .get_all(name)
            .iter()
            .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
            .collect()
    }

    pub fn get(&self, name: &str) -> Option<String> {
        self.all(name).into_iter().next()
    }
}

/// An upstream on loopback.
#[derive(Debug)]
pub struct Upstream {
    pub address: SocketAddr,
    pub connections: Arc<AtomicUsize>,
    pub seen: Arc<Mutex<Vec<Seen>>>,
    /// What a scripted upstream read, by connection.
    pub read: Arc<Mutex<HashMap<usize, Vec<u8>>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A TLS server of the tests' CA for these names.
pub fn tls(names: &[&str], alpn: &[&str]) -> TlsAcceptor {
    tls_asking(names, alpn, None)
}

/// The same, which asks for a client certificate of the CA in this PEM and takes nobody without.
fn tls_asking(names: &[&str], alpn: &[&str], clients: Option<&str>) -> TlsAcceptor {
    let (cert, key) = certificate(names);
    let clients = clients.map(|pem| (pem, true));
    tls_showing((&cert, &key), alpn, clients)
}

/// A TLS server with this certificate and key in PEM, which asks for a client certificate of the CA in the other PEM
/// where there is one; `true`: it takes nobody without.
pub fn tls_showing(
    (cert, key): (&str, &str),
    alpn: &[&str],
    clients: Option<(&str, bool)>,
) -> TlsAcceptor {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject as _;
    let builder = rustls::ServerConfig::builder();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some((pem, required)) => {
            let mut roots = rustls::RootCertStore::empty();
            for root in CertificateDer::pem_slice_iter(pem.as_bytes()) {
                roots.add(root.unwrap()).unwrap();
            }
            let mut verifier = rustls::server::WebPkiClientVerifier::builder(Arc::new(roots));
            if !required {
                verifier = verifier.allow_unauthenticated();
            }
            builder.with_client_cert_verifier(verifier.build().unwrap())
        }
    };
    let chain = CertificateDer::pem_slice_iter(cert.as_bytes());
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    let mut config = builder
        .with_single_cert(chain.map(Result::unwrap).collect(), key)
        .unwrap();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    TlsAcceptor::from(Arc::new(config))
}

/// A TLS client that trusts the tests' CA and presents this certificate.
pub fn tls_client(cert: &str, key: &str) -> tokio_rustls::TlsConnector {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject as _;
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(CA.pem.as_bytes()).unwrap())
        .unwrap();
    let chain = CertificateDer::pem_slice_iter(cert.as_bytes());
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    let config = rustls::ClientConfig::builder()
        .with_root_certificates(roots)
        .with_client_auth_cert(chain.map(Result::unwrap).collect(), key)
        .unwrap();
    tokio_rustls::TlsConnector::from(Arc::new(config))
}

/// A certificate of the tests' CA for these names, and its key, in PEM.
pub fn certificate(names: &[&str]) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let params = CertificateParams::new(names).unwrap();
    let certificate = params.signed_by(&key, &CA.issuer).unwrap();
    (certificate.pem(), key.serialize_pem())
}

const NAMES: &[&str] = &[
    "api.test",
    "other.test",
    "plain.test",
    "api.github.com",
    "127.0.0.1",
];

impl Upstream {
    /// Answers every request by `answer`, over TLS, with HTTP/2 where `alpn` names it.
    pub async fn service<F>(alpn: &[&str], answer: F) -> Self
    where
        F: Fn(Seen) -> Answering + Send + Sync + 'static,
    {
        let answer = move |seen: Seen, _: Option<Incoming>| answer(seen);
        Self::over_tls(tls(NAMES, alpn), Arc::new(answer), true).await
    }

    /// Echoes to whoever presents a certificate of the CA in this PEM.
    pub async fn asking(alpn: &[&str], clients: &str) -> Self {
        let acceptor = tls_asking(NAMES, alpn, Some(clients));
        let answer =
            |seen: Seen, _: Option<Incoming>| -> Answering { Box::pin(async move { echo(&seen) }) };
        Self::over_tls(acceptor, Arc::new(answer), true).await
    }

    /// Answers every request by `answer`, behind this TLS server.
    pub async fn behind<F>(acceptor: TlsAcceptor, answer: F) -> Self
    where
        F: Fn(Seen) -> Answering + Send + Sync + 'static,
    {
        let answer = move |seen: Seen, _: Option<Incoming>| answer(seen);
        Self::over_tls(acceptor, Arc::new(answer), true).await
    }

    /// The same, with the request's body still to be read.
    pub async fn streaming<F>(alpn: &[&str], answer: F) -> Self
    where
        F: Fn(Seen, Incoming) -> Answering + Send + Sync + 'static,
    {
        let answer = move |seen: Seen, body: Option<Incoming>| answer(seen, body.unwrap());
        Self::over_tls(tls(NAMES, alpn), Arc::new(answer), false).await
    }

    async fn over_tls(acceptor: TlsAcceptor, answer: Arc<OnRequest>, whole: bool) -> Self {
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let log = Arc::clone(&seen);
        Self::listen(seen, move |stream, connection, _| {
            let (acceptor, answer, log) = (acceptor.clone(), Arc::clone(&answer), Arc::clone(&log));
            Box::pin(async move {
                let Ok(stream) = acceptor.accept(stream).await else {
                    return;
                };
                serve(stream, connection, (answer, whole), log).await;
            })
        })
        .await
    }

    /// The same without TLS.
    pub async fn plain<F>(answer: F) -> Self
    where
        F: Fn(Seen) -> Answering + Send + Sync + 'static,
    {
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let answer: Arc<OnRequest> = Arc::new(move |seen, _| answer(seen));
        let log = Arc::clone(&seen);
        Self::listen(seen, move |stream, connection, _| {
            let (answer, log) = (Arc::clone(&answer), Arc::clone(&log));
            Box::pin(serve_plain(stream, connection, answer, log))
        })
        .await
    }

    /// Answers with what it was asked: every field of the request, and its body.
    pub async fn echo(alpn: &[&str]) -> Self {
        Self::service(alpn, |seen| Box::pin(async move { echo(&seen) })).await
    }

    /// A script over the decrypted bytes of each connection; ALPN is HTTP/1.1.
    pub async fn script<F, Fut>(script: F) -> Self
    where
        F: Fn(Scripted) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        Self::script_with(tls(NAMES, &["http/1.1"]), script).await
    }

    pub async fn script_with<F, Fut>(acceptor: TlsAcceptor, script: F) -> Self
    where
        F: Fn(Scripted) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let script = Arc::new(script);
        Self::listen(Arc::default(), move |stream, connection, read| {
            let (acceptor, script) = (acceptor.clone(), Arc::clone(&script));
            Box::pin(async move {
                let Ok(stream) = acceptor.accept(stream).await else {
                    return;
                };
                script(Scripted {
                    stream,
                    connection,
                    read,
                })
                .await;
            })
        })
        .await
    }

    /// Whatever arrives is handed to this, as bare TCP.
    pub async fn tcp<F, Fut>(script: F) -> Self
    where
        F: Fn(TcpStream) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        Self::listen(Arc::default(), move |stream, _, _| Box::pin(script(stream))).await
    }

    async fn listen<F>(seen: Arc<Mutex<Vec<Seen>>>, on: F) -> Self
    where
        F: Fn(TcpStream, usize, Log) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let read: Log = Arc::default();
        let (count, log) = (Arc::clone(&connections), Arc::clone(&read));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let connection = count.fetch_add(1, Ordering::SeqCst);
                stream.set_nodelay(true).unwrap();
                tokio::spawn(on(stream, connection, Arc::clone(&log)));
            }
        });
        Self {
            address,
            connections,
            seen,
            read,
            task,
        }
    }

    pub fn dialled(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    pub fn requests(&self) -> Vec<Seen> {
        self.seen.lock().clone()
    }

    /// Everything that a scripted upstream read, connection after connection.
    pub fn bytes(&self) -> Vec<u8> {
        let read = self.read.lock();
        let mut connections: Vec<_> = read.iter().collect();
        connections.sort();
        connections
            .into_iter()
            .flat_map(|(_, bytes)| bytes.clone())
            .collect()
    }
}

type Log = Arc<Mutex<HashMap<usize, Vec<u8>>>>;

/// One connection of a scripted upstream.
pub struct Scripted {
    pub stream: TlsStream<TcpStream>,
    pub connection: usize,
    read: Log,
}

impl Scripted {
    /// Reads one whole request; `None` at the end of the connection or where it is not HTTP.
    pub async fn request(&mut self) -> Option<super::answers::Message> {
        let mut bytes = Vec::new();
        loop {
            match super::answers::one(&bytes) {
                Ok(Some((message, taken))) if taken == bytes.len() => return Some(message),
                Ok(None) => {}
                Ok(Some(_)) | Err(_) => return None,
            }
            if !self.more(&mut bytes).await {
                return None;
            }
        }
    }

    /// Reads one head.
    pub async fn head(&mut self) -> Option<super::answers::Message> {
        let mut bytes = Vec::new();
        loop {
            if let Ok(Some((message, _))) = super::answers::head(&bytes) {
                return Some(message);
            }
            if !self.more(&mut bytes).await {
                return None;
            }
        }
    }

    pub async fn more(&mut self, bytes: &mut Vec<u8>) -> bool {
        use tokio::io::AsyncReadExt as _;
        let before = bytes.len();
        match self.stream.read_buf(bytes).await {
            Ok(0) | Err(_) => false,
            Ok(_) => {
                self.read
                    .lock()
                    .entry(self.connection)
                    .or_default()
                    .extend_from_slice(&bytes[before..]);
                true
            }
        }
    }

    pub async fn write(&mut self, bytes: impl AsRef<[u8]>) {
        use tokio::io::AsyncWriteExt as _;
        self.stream.write_all(bytes.as_ref()).await.ok();
        self.stream.flush().await.ok();
    }

    /// Answers 200 with this body, for as long as requests come.
    pub async fn answer_all(&mut self, body: &str) {
        while self.request().await.is_some() {
            let length = body.len();
            self.write(format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}"
            ))
            .await;
        }
    }
}

type OnRequest = dyn Fn(Seen, Option<Incoming>) -> Answering + Send + Sync;

async fn serve(
    stream: TlsStream<TcpStream>,
    connection: usize,
    answer: (Arc<OnRequest>, bool),
    log: Arc<Mutex<Vec<Seen>>>,
) {
    let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let presented = stream.get_ref().1.peer_certificates().map(serial);
    let from = (connection, presented);
    let service = service_fn(move |request| respond(request, &from, &answer, &log));
    if http2 {
        hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .serve_connection(TokioIo::new(stream), service)
            .await
            .ok();
    } else {
        hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades()
            .await
            .ok();
    }
}

async fn serve_plain(
    stream: TcpStream,
    connection: usize,
    answer: Arc<OnRequest>,
    log: Arc<Mutex<Vec<Seen>>>,
) {
    let (answer, from) = ((answer, true), (connection, None));
    let service = service_fn(move |request| respond(request, &from, &answer, &log));
    hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await
        .ok();
}

/// The serial number of the first certificate, in hex.
pub fn serial(chain: &[rustls::pki_types::CertificateDer<'_>]) -> String {
    let (_, parsed) = x509_parser::parse_x509_certificate(&chain[0]).unwrap();
    parsed.raw_serial_as_string()
}

fn respond(
    request: Request<Incoming>,
    (connection, presented): &(usize, Option<String>),
    (answer, whole): &(Arc<OnRequest>, bool),
    log: &Arc<Mutex<Vec<Seen>>>,
) -> impl Future<Output = Result<Response<AnyBody>, Infallible>> + use<> {
    let (answer, log, whole) = (Arc::clone(answer), Arc::clone(log), *whole);
    let (parts, body) = request.into_parts();
    let mut seen = Seen {
        connection: *connection,
        presented: presented.clone(),
        method: parts.method.to_string(),
        uri: parts.uri.to_string(),
        version: parts.version,
        headers: parts.headers,
        body: Bytes::new(),
    };
    async move {
        let mut body = Some(body);
        if whole {
            let read = body.take().unwrap().collect().await;
            seen.body = read
                .map(http_body_util::Collected::to_bytes)
                .unwrap_or_default();
        }
        log.lock().push(seen.clone());
        Ok(answer(seen, body).await)
    }
}

/// A whole body.
pub fn full(bytes: impl Into<Bytes>) -> AnyBody {
    Full::new(bytes.into()).boxed_unsync()
}

/// 200 with this body.
pub fn ok(bytes: impl Into<Bytes>) -> Response<AnyBody> {
    Response::new(full(bytes))
}

/// Every field and the body, as text: what a debugging endpoint answers.
pub fn echo(seen: &Seen) -> Response<AnyBody> {
    let mut text = format!("{} {}\n", seen.method, seen.uri);
    for (name, value) in &seen.headers {
        text.push_str(&format!(
            "{name}: {}\n",
            String::from_utf8_lossy(value.as_bytes())
        ));
    }
    let mut response = ok([text.as_bytes(), &seen.body[..]].concat());
    *response.status_mut() = StatusCode::OK;
    response
}
