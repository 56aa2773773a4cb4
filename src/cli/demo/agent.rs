//! The demo's agent: a process of its own that knows a proxy and a CA file, and no key.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::header::{ACCEPT, HOST, HeaderValue, PROXY_AUTHORIZATION, USER_AGENT};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_util::task::TaskTracker;

use super::{Fault, HOST_NAME, OTHER_HOST};
use crate::app::Environment;
use crate::clock::SystemClock;
use crate::host::Target;
use crate::proxy::{Body, REFUSAL_HEADER};
use crate::tls::{Alpn, Connector, TrustSettings};

/// What the agent asks for, in this order.
pub(super) const CALLS: [(&str, &str); 4] = [
    (HOST_NAME, "/v1/hello"),
    (HOST_NAME, "/v1/echo"),
    (OTHER_HOST, "/upload"),
    (HOST_NAME, "/v1/admin/keys"),
];

/// What the agent tells its parent.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Told {
    /// The names of all its environment variables.
    pub(super) environment: Vec<String>,
    /// One for each of [`CALLS`].
    pub(super) calls: Vec<Seen>,
}

/// One call, as the agent saw it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Seen {
    /// The headers that it sent.
    pub(super) sent: Vec<String>,
    pub(super) status: u16,
    /// The word of keyward's refusal.
    pub(super) refusal: Option<String>,
    pub(super) body: String,
}

/// An answer longer than this is none of the demo's.
const LONGEST: usize = 64 * 1024;

/// Makes the calls, and tells on `out` what came of them.
pub(super) async fn play(environment: &Environment, out: &mut dyn Write) -> Result<(), Fault> {
    let text = |name: &str| {
        let value = environment.get(name).and_then(|value| value.to_str());
        value.ok_or_else(|| Fault::from(format!("{name} is not set")))
    };
    let proxy = text("HTTPS_PROXY")?;
    let (user, address) = proxy
        .strip_prefix("http://")
        .and_then(|rest| rest.split_once('@'))
        .ok_or("HTTPS_PROXY is not http://USER:TOKEN@HOST:PORT")?;
    let mut authorization = HeaderValue::from_str(&format!("Basic {}", BASE64.encode(user)))?;
    authorization.set_sensitive(true);
    let trust = TrustSettings {
        system: false,
        pem: vec![PathBuf::from(text("SSL_CERT_FILE")?)],
    };
    let agent = Agent {
        address: address.to_owned(),
        authorization,
        connector: Connector::new(&trust, None, Arc::new(SystemClock))?,
        tracker: TaskTracker::new(),
    };
    let mut environment: Vec<String> = environment.keys().cloned().collect();
    environment.sort();
    let mut calls = Vec::new();
    for (host, path) in CALLS {
        calls.push(agent.call(host, path).await?);
    }
    serde_json::to_writer(&mut *out, &Told { environment, calls })?;
    out.flush()?;
    Ok(())
}

struct Agent {
    address: String,
    authorization: HeaderValue,
    connector: Connector,
    tracker: TaskTracker,
}

impl Agent {
    /// CONNECT, TLS inside, one GET: what every HTTPS client does behind a proxy.
    async fn call(&self, host: &str, path: &str) -> Result<Seen, Fault> {
        let authority = format!("{host}:443");
        let mut connect = Request::new(Body::empty());
        *connect.method_mut() = Method::CONNECT;
        *connect.uri_mut() = authority.parse()?;
        connect.headers_mut().insert(HOST, authority.parse()?);
        connect
            .headers_mut()
            .insert(PROXY_AUTHORIZATION, self.authorization.clone());
        let stream = TcpStream::connect(&self.address).await?;
        let answer = self.send(stream, connect).await?;
        if answer.status() != StatusCode::OK {
            return seen(Vec::new(), answer).await;
        }
        let tunnel = hyper::upgrade::on(answer).await?;
        let target = Target::from_connect(&authority)?;
        let (stream, _) = self
            .connector
            .connect(TokioIo::new(tunnel), &target.host, Alpn::Http1)
            .await?;
        let mut request = Request::new(Body::empty());
        *request.uri_mut() = path.parse()?;
        let headers = request.headers_mut();
        headers.insert(HOST, host.parse()?);
        headers.insert(USER_AGENT, HeaderValue::from_static("demo-agent"));
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        let sent = headers
            .iter()
            .map(|(name, value)| format!("{name}: {}", String::from_utf8_lossy(value.as_bytes())))
            .collect();
        seen(sent, self.send(stream, request).await?).await
    }

    async fn send<IO>(&self, io: IO, request: Request<Body>) -> Result<Response<Incoming>, Fault>
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (mut sender, connection) = http1::handshake(TokioIo::new(io)).await?;
        self.tracker.spawn(connection.with_upgrades());
        Ok(sender.send_request(request).await?)
    }
}

async fn seen(sent: Vec<String>, answer: Response<Incoming>) -> Result<Seen, Fault> {
    let status = answer.status().as_u16();
    let word = answer.headers().get(REFUSAL_HEADER);
    let refusal = word.and_then(|word| word.to_str().ok()).map(str::to_owned);
    let body = Limited::new(answer.into_body(), LONGEST).collect().await?;
    Ok(Seen {
        sent,
        status,
        refusal,
        body: String::from_utf8_lossy(&body.to_bytes()).into_owned(),
    })
}
