//! The fast TLS upstream: `upstream LISTEN CERT.pem KEY.pem AUTHORIZATION`; prints its port, ends when stdin closes.
//!
//! `/json` 1 KiB of JSON, `/big` 64 MiB, `/sse` events that carry the nanosecond at which they were made. Whatever the
//! path, a request without the right `authorization` is answered 401: a proxy that does not inject cannot score.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::body::{Body, Frame, Incoming};
use hyper::{Request, Response, StatusCode, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use load::{Result, end_with_stdin, server_tls};
use tokio::{net::TcpListener, time::Interval};
use tokio_rustls::TlsAcceptor;

const CHUNK: usize = 64 * 1024;
const BIG: usize = 64 * 1024 * 1024;
const EVENTS: u32 = 50;

struct Canned {
    authorization: String,
    json: Bytes,
    chunk: Bytes,
}

/// `left` bytes of the same chunk, over and over.
struct Repeat {
    chunk: Bytes,
    left: usize,
}

impl Body for Repeat {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let size = self.left.min(self.chunk.len());
        self.left -= size;
        Poll::Ready(Some(Ok(Frame::data(self.chunk.slice(..size)))))
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        hyper::body::SizeHint::with_exact(self.left as u64)
    }
}

/// One event a tick, stamped when it is made.
struct Events {
    tick: Interval,
    left: u32,
}

impl Body for Events {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        if self.tick.poll_tick(cx).is_pending() {
            return Poll::Pending;
        }
        self.left -= 1;
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |d| d.as_nanos());
        Poll::Ready(Some(Ok(Frame::data(Bytes::from(format!(
            "data: {now}\n\n"
        ))))))
    }
}

async fn answer(
    canned: Arc<Canned>,
    request: Request<Incoming>,
) -> Result<Response<BoxBody<Bytes, Infallible>>> {
    let authorization = request.headers().get("authorization").map(|v| v.as_bytes());
    if authorization != Some(canned.authorization.as_bytes()) {
        let refusal = Full::new(Bytes::from_static(b"{\"error\":\"wrong key\"}")).boxed();
        return Ok(Response::builder()
            .status(StatusCode::UNAUTHORIZED)
            .body(refusal)?);
    }
    let (kind, body) = match request.uri().path() {
        "/big" => (
            "application/octet-stream",
            Repeat {
                chunk: canned.chunk.clone(),
                left: BIG,
            }
            .boxed(),
        ),
        "/sse" => {
            let tick = tokio::time::interval(Duration::from_millis(20));
            ("text/event-stream", Events { tick, left: EVENTS }.boxed())
        }
        _ => ("application/json", Full::new(canned.json.clone()).boxed()),
    };
    Ok(Response::builder()
        .header("content-type", kind)
        .body(body)?)
}

fn canned(authorization: String) -> Canned {
    let mut json = String::from("{\"items\":[");
    let mut id = 0;
    while json.len() < 990 {
        json.push_str(&format!("{{\"id\":{id},\"name\":\"item number {id}\"}},"));
        id += 1;
    }
    json.pop();
    json.push_str("]}");
    // Bytes that compress badly and repeat seldom, as a download's do.
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let noise = std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[0]
    });
    Canned {
        authorization,
        json: Bytes::from(json),
        chunk: noise.take(CHUNK).collect(),
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().collect();
    let [_, listen, cert, key, authorization, rest @ ..] = args.as_slice() else {
        return Err("usage: upstream LISTEN CERT.pem KEY.pem AUTHORIZATION [http1]".into());
    };
    let http1_alone = rest.iter().any(|word| word == "http1");
    let listener = TcpListener::bind(listen).await?;
    let acceptor = TlsAcceptor::from(server_tls(cert, key, http1_alone)?);
    let canned = Arc::new(canned(authorization.clone()));
    println!("{}", listener.local_addr()?.port());
    end_with_stdin();
    loop {
        let (tcp, _) = listener.accept().await?;
        tcp.set_nodelay(true)?;
        let (acceptor, canned) = (acceptor.clone(), canned.clone());
        tokio::spawn(async move {
            let Ok(tls) = acceptor.accept(tcp).await else {
                return;
            };
            let h2 = tls.get_ref().1.alpn_protocol() == Some(b"h2");
            let service = service_fn(move |request| answer(canned.clone(), request));
            if h2 {
                let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                _ = server.serve_connection(TokioIo::new(tls), service).await;
            } else {
                _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(tls), service)
                    .await;
            }
        });
    }
}
