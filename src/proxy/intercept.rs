//! The inside of a tunnel: TLS ends here, and each request is exchanged on its own.

use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderValue, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};

use super::body::Body;
use super::exchange::exchange;
use super::executor::Tracked;
use super::gate::{Gate, Hint};
use super::seldom::Seldom;
use super::stream::AgentStream;
use super::tunnel::Tunnel;
use crate::head::{Framing, MAX_HEAD};
use crate::tls::{AcceptError, Acceptor, Alpn, Protocol, ServerStream};

/// Streams of one HTTP/2 connection at a time.
const MAX_STREAMS: u32 = 100;
/// Streams that may be reset before the connection is (CVE-2023-44487, CVE-2025-8671).
const MAX_RESETS: usize = 100;

/// Ends the agent's TLS. What runs inside starts with [`serve`].
///
/// # Errors
/// [`AcceptError`]; a handshake that takes longer than the header timeout counts as closed.
pub(super) async fn handshake(
    tunnel: &Tunnel,
    acceptor: &Acceptor,
    stream: AgentStream,
) -> Result<(ServerStream<AgentStream>, Protocol), AcceptError> {
    let handshake = acceptor.accept(stream, Alpn::Both);
    tokio::time::timeout(tunnel.limits.header_timeout, handshake)
        .await
        .unwrap_or(Err(AcceptError::Closed))
}

/// Serves the requests inside a tunnel until either side ends, the tunnel is cut, or the drain lets it end.
pub(super) async fn serve(
    tunnel: Arc<Tunnel>,
    stream: ServerStream<AgentStream>,
    protocol: Protocol,
) {
    // Each in a box of its own size: an idle connection shall not hold the room of what it does not do.
    match protocol {
        Protocol::Http1 => Box::pin(serve_http1(tunnel, stream)).await,
        Protocol::Http2 => Box::pin(serve_http2(tunnel, stream)).await,
    }
}

fn serve_http1(tunnel: Arc<Tunnel>, stream: ServerStream<AgentStream>) -> impl Future<Output = ()> {
    let (gate, hint) = Gate::http1(
        stream,
        tunnel.limits.header_timeout,
        tunnel.limits.idle_timeout,
    );
    let served = Arc::clone(&tunnel);
    let service = service_fn(move |request: Request<Incoming>| {
        let upgrades = announce(&hint, &request);
        let tunnel = Arc::clone(&served);
        // hyper keeps the room of a request for as long as the connection lives: a pointer's, so. What is awaited is made
        // inside, or there would be room for it twice.
        Box::pin(async move {
            let mut response = exchange(tunnel, request).await;
            if upgrades && response.status() != StatusCode::SWITCHING_PROTOCOLS {
                close_after(&mut response);
            }
            Ok::<Response<Body>, Infallible>(response)
        })
    });
    let connection = http1::Builder::new()
        .header_read_timeout(None::<Duration>)
        .max_header_size(MAX_HEAD + 16 * 1024)
        .serve_connection(TokioIo::new(gate), service)
        .with_upgrades();
    until_the_end(tunnel, connection, |connection| {
        connection.graceful_shutdown();
    })
}

fn serve_http2(tunnel: Arc<Tunnel>, stream: ServerStream<AgentStream>) -> impl Future<Output = ()> {
    let gate = Gate::opaque(
        stream,
        tunnel.limits.header_timeout,
        tunnel.limits.idle_timeout,
    );
    let served = Arc::clone(&tunnel);
    let service = service_fn(move |request: Request<Incoming>| {
        let tunnel = Arc::clone(&served);
        async move { Ok::<Response<Body>, Infallible>(exchange(tunnel, request).await) }
    });
    let connection = http2::Builder::new(Tracked(tunnel.shared.tracker.clone()))
        .timer(TokioTimer::new())
        .enable_connect_protocol()
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(u32::try_from(MAX_HEAD).unwrap_or(u32::MAX))
        .max_local_error_reset_streams(MAX_RESETS)
        .max_pending_accept_reset_streams(20)
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(1 << 20)
        .max_send_buf_size(256 * 1024)
        .serve_connection(TokioIo::new(gate), service);
    until_the_end(tunnel, connection, |connection| {
        connection.graceful_shutdown();
    })
}

/// Moves a connection until it ends, is cut, or has wound down for a drain.
///
/// No `async fn`: that would have room for the connection twice, as its argument and in its place.
#[expect(clippy::manual_async_fn, reason = "2 KB of each idle connection")]
fn until_the_end<C: Future + Unpin>(
    tunnel: Arc<Tunnel>,
    mut connection: C,
    wind_down: impl FnOnce(Pin<&mut C>),
) -> impl Future<Output = ()> {
    async move {
        let cut = pin!(tunnel.cut.cancelled());
        let drain = pin!(tunnel.shared.drain.cancelled());
        let (mut cut, drain) = (Seldom::new(cut), Seldom::new(drain));
        tokio::select! {
            biased;
            () = &mut cut => return,
            _ = &mut connection => return,
            () = drain => wind_down(Pin::new(&mut connection)),
        }
        tokio::select! {
            biased;
            () = cut => {}
            _ = &mut connection => {}
        }
    }
}

/// The gate reads no further along: this connection has no next request.
pub(super) fn close_after(response: &mut Response<Body>) {
    response
        .headers_mut()
        .insert(CONNECTION, HeaderValue::from_static("close"));
}

/// Tells the gate how the body behind this head is framed; whether the request asks to leave HTTP/1. A CONNECT has no
/// body: what an agent sends behind it before the answer is read as the next head, and a refused one can be tried again.
pub(super) fn announce(hint: &Hint, request: &Request<Incoming>) -> bool {
    let headers = request.headers();
    if headers.contains_key(UPGRADE) {
        hint.opaque();
        return true;
    }
    let length = headers
        .get(CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok())
        .and_then(|text| text.parse().ok());
    hint.framing(match length {
        _ if headers.contains_key(TRANSFER_ENCODING) => Framing::Unknown,
        Some(length) => Framing::Length(length),
        None => Framing::None,
    });
    false
}
