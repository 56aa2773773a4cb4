//! WebSockets: asked for by either protocol of the agent, opened over HTTP/1.1 to the upstream, scrubbed on the way back.
//!
//! Not a byte is copied before the upstream's 101 has been checked (a rival switched early: CVE-2026-2833).

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use aws_lc_rs::rand;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::{Bytes, BytesMut};
use http::header::{
    CONNECTION, HOST, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri};
use hyper::client::conn::http1;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::answer;
use super::body::Body;
use super::live::Connection;
use super::record::{ByteCount, Entry};
use super::refusal::Refusal;
use super::tunnel::{Grant, Tunnel};
use super::upstream::Pool;
use crate::head::{Head, WebSocket};
use crate::scrub::{Watch, WebSocketScrubber};
use crate::tls::Alpn;

/// The GUID of RFC 6455 §1.3.
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// What is read at once of either side, in bytes.
const PIECE: usize = 16 * 1024;

/// Opens the upstream's WebSocket and joins the two.
///
/// # Errors
/// The refusal, where the upstream is out of reach or its 101 does not hold. Any other answer is passed on.
pub(super) async fn bridge(
    (tunnel, pool): (&Arc<Tunnel>, &Pool),
    grant: &Grant,
    head: Head,
    (agent, scrub): (OnUpgrade, Option<Watch>),
    entry: &mut Option<Entry>,
) -> Result<Response<Body>, Refusal> {
    let record = entry.as_mut().ok_or(Refusal::BadUpstream)?;
    // It outlives the connection that asked for it, so it is counted and can be cut by itself.
    let most = tunnel.limits.max_connections_per_agent;
    let live = &tunnel.shared.live;
    let mut place = live
        .enter(tunnel.session().agent(), most)
        .ok_or(Refusal::TooManyConnections)?;
    place.runs(Connection::Intercept(Arc::downgrade(tunnel)));
    // A reload before this look was taken by the grant; one after it finds the place, and cuts.
    if !Arc::ptr_eq(&grant.snapshot, &tunnel.shared.snapshot.load()) {
        return Err(Refusal::Draining);
    }
    if record.carries_credential() {
        record
            .intent()
            .await
            .map_err(|_| Refusal::AuditUnavailable)?;
    }
    let (extended, key) = match head.websocket() {
        Some(WebSocket::Upgrade(key)) => (false, key.clone()),
        Some(WebSocket::ExtendedConnect) | None => (true, fresh_key()),
    };
    let (wire, _) = pool.connect(Alpn::Http1).await?;
    let (mut sender, connection) = http1::handshake::<_, Body>(TokioIo::new(wire))
        .await
        .map_err(|_| Refusal::UpstreamUnreachable)?;
    tunnel.shared.tracker.spawn(async move {
        connection.with_upgrades().await.ok();
    });
    let deadline = tokio::time::Instant::now() + tunnel.limits.total_timeout;
    let sent = sender.send_request(handshake(tunnel, head, &key));
    let mut response = tokio::time::timeout_at(deadline, sent)
        .await
        .map_err(|_| Refusal::UpstreamTimeout)?
        .map_err(|_| Refusal::BadUpstream)?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        let way = answer::Way {
            method: Method::GET,
            scrub,
            slice: None,
            slices: false,
            deadline,
        };
        return answer::pass_on(response, way, None, entry).await;
    }
    if !accepts(response.headers(), &key) {
        return Err(Refusal::BadUpstream);
    }
    let upstream = hyper::upgrade::on(&mut response)
        .await
        .map_err(|_| Refusal::BadUpstream)?;
    let mut answer = switched(response.headers(), extended);
    if let Some(patterns) = &scrub {
        *answer.headers_mut() =
            answer::clean_values(std::mem::take(answer.headers_mut()), patterns);
    }
    let mut record = entry.take().ok_or(Refusal::BadUpstream)?;
    record.answered(answer.status());
    let cut = tunnel.cut.clone();
    let tunnel = Arc::clone(tunnel);
    tunnel.shared.tracker.clone().spawn(async move {
        let _place = place;
        let Ok(agent) = agent.await else { return };
        let (scrubber, idle) = (scrub.map(WebSocketScrubber::new), tunnel.limits.idle_timeout);
        tokio::select! {
            () = cut.cancelled() => {}
            () = join(TokioIo::new(agent), TokioIo::new(upstream), (scrubber, idle), &mut record) => {}
        }
        drop(tunnel);
    });
    Ok(answer)
}

/// The upstream's handshake request: our own, with the agent's clean fields.
fn handshake(tunnel: &Tunnel, head: Head, key: &HeaderValue) -> Request<Body> {
    let (_, path, mut headers) = head.into_parts();
    headers.insert(HOST, tunnel.host.clone());
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_KEY, key.clone());
    headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    let mut request = Request::new(Body::empty());
    *request.uri_mut() = Uri::from(path);
    *request.headers_mut() = headers;
    request
}

/// The agent's answer: 101 on HTTP/1.1, 200 on HTTP/2 (RFC 8441 §5).
fn switched(upstream: &HeaderMap, extended: bool) -> Response<Body> {
    let mut answer = Response::new(Body::empty());
    if !extended {
        *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    }
    let headers = answer.headers_mut();
    let mut kept = vec![SEC_WEBSOCKET_PROTOCOL];
    if !extended {
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        kept.push(SEC_WEBSOCKET_ACCEPT);
    }
    for name in kept {
        if let Some(value) = upstream.get(&name) {
            headers.insert(name, value.clone());
        }
    }
    answer
}

/// RFC 6455 §4.1: the 101 is for this handshake, and no extension was agreed on that would hide the messages.
fn accepts(headers: &HeaderMap, key: &HeaderValue) -> bool {
    let expected = BASE64.encode(digest(
        &SHA1_FOR_LEGACY_USE_ONLY,
        &[key.as_bytes(), GUID].concat(),
    ));
    let is = |name, text: &str| {
        headers.get(name).is_some_and(|value: &HeaderValue| {
            value.as_bytes().eq_ignore_ascii_case(text.as_bytes())
        })
    };
    is(UPGRADE, "websocket")
        && headers
            .get(SEC_WEBSOCKET_ACCEPT)
            .is_some_and(|value| value.as_bytes() == expected.as_bytes())
        && !headers.contains_key(SEC_WEBSOCKET_EXTENSIONS)
}

fn fresh_key() -> HeaderValue {
    let mut bytes = [0_u8; 16];
    rand::fill(&mut bytes).expect("the system's random generator answers");
    HeaderValue::from_str(&BASE64.encode(bytes)).expect("base64 is a header value")
}

/// Copies both ways until one side has ended and the other has heard of it.
async fn join(
    agent: TokioIo<Upgraded>,
    upstream: TokioIo<Upgraded>,
    (scrubber, idle): (Option<WebSocketScrubber>, Duration),
    record: &mut Entry,
) {
    let (agent_in, agent_out) = tokio::io::split(agent);
    let (upstream_in, upstream_out) = tokio::io::split(upstream);
    let count = record.up.clone();
    let up = pump(agent_in, upstream_out, |piece: Bytes| {
        count.add(piece.len());
        Some(piece)
    });
    let mut scrubber = scrubber;
    let sent = ByteCount::default();
    let down = pump(upstream_in, agent_out, |piece| {
        let piece = match &mut scrubber {
            // A frame that cannot be read cannot be scrubbed: the connection ends.
            Some(scrubber) => scrubber.push(piece).ok()?,
            None => piece,
        };
        sent.add(piece.len());
        Some(piece)
    });
    tokio::pin!(up, down);
    tokio::select! {
        // The agent has ended: what the upstream still says has this long.
        () = &mut up => {
            tokio::time::timeout(idle, down).await.ok();
        }
        // The upstream has ended: what the agent still says reaches nobody.
        () = &mut down => {}
    }
    record.down = sent.get();
}

/// Copies one way, each piece through `pass`, until the end, an error, or `None`.
async fn pump<R, W>(mut from: R, mut to: W, mut pass: impl FnMut(Bytes) -> Option<Bytes>)
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut buffer = BytesMut::with_capacity(PIECE);
    loop {
        buffer.reserve(PIECE);
        match from.read_buf(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
        let Some(piece) = pass(buffer.split().freeze()) else {
            break;
        };
        if to.write_all(&piece).await.is_err() || to.flush().await.is_err() {
            break;
        }
    }
    to.shutdown().await.ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_answer_to_this_handshake_switches() {
        // The example of RFC 6455 §1.3.
        let key = HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ==");
        let mut headers = HeaderMap::new();
        headers.insert(UPGRADE, HeaderValue::from_static("WebSocket"));
        assert!(!accepts(&headers, &key));
        headers.insert(
            SEC_WEBSOCKET_ACCEPT,
            HeaderValue::from_static("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
        );
        assert!(accepts(&headers, &key));
        assert!(!accepts(&headers, &fresh_key()));
        headers.insert(
            SEC_WEBSOCKET_EXTENSIONS,
            HeaderValue::from_static("permessage-deflate"),
        );
        assert!(!accepts(&headers, &key));
    }
}
