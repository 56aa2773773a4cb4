//! One request, from its head to its answer. The order is a type at every step.
//!
//! ```text
//! clean head ─► Policy::evaluate ─► Permit ─► Broker::lease ─► inject ─► audit intent ─► send ─► scrub ─► agent
//! ```

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HOST, TE, TRANSFER_ENCODING};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Uri, Version, uri};
use http_body_util::{BodyExt, Limited};
use hyper::body::{Body as _, Incoming};
use hyper::upgrade::OnUpgrade;

use super::answer;
use super::ask::{Answer, Asking};
use super::body::Body;
use super::bound;
use super::record::Entry;
use super::refusal::Refusal;
use super::sign::{self, Lied};
use super::slice;
use super::tunnel::{Grant, Tunnel};
use super::upgrade;
use super::upload::Upload;
use super::watch;
use crate::clock::Now;
use crate::credential::Live;
use crate::head::{Framing, Head};
use crate::host::Scheme;
use crate::inject::{BodyEdit, Injection};
use crate::policy::{Pending, Permit, Query, Verdict};
use crate::tls::Protocol;

/// The largest body, in bytes, in which a placeholder is replaced: it is read whole.
const MAX_EDITED_BODY: usize = 1024 * 1024;

/// How long the body in which a placeholder is replaced may take: what was judged must not wait for hours.
const MOST_JUDGED_AGO: Duration = Duration::from_secs(30);

static A_IM: HeaderName = HeaderName::from_static("a-im");
static CONNECT_ACCEPT_ENCODING: HeaderName = HeaderName::from_static("connect-accept-encoding");
static GRPC_ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");

/// Answers one request, by its upstream or by a refusal.
pub(super) async fn exchange(
    tunnel: Arc<Tunnel>,
    mut request: Request<Incoming>,
) -> Response<Body> {
    let now = tunnel.shared.clock.now();
    tunnel.session().touch(&now);
    let mut entry = Entry::begin(&tunnel.shared, tunnel.session(), &tunnel.target, now);
    entry.asked(request.method(), request.uri().path_and_query());
    let grpc = is_grpc(request.headers());
    let upgrade = hyper::upgrade::on(&mut request);
    let (parts, body) = request.into_parts();
    let mut entry = Some(entry);
    match forward(&tunnel, parts, (body, upgrade), &mut entry).await {
        Ok(response) => response,
        Err(refusal) => refuse(refusal, entry, grpc),
    }
}

/// Closes the record and answers with the refusal.
fn refuse(refusal: Refusal, entry: Option<Entry>, grpc: bool) -> Response<Body> {
    let Some(mut entry) = entry else {
        return refusal.response("");
    };
    entry.refused(refusal);
    if grpc {
        refusal.grpc(entry.id())
    } else {
        refusal.response(entry.id())
    }
}

/// The way of a request that nothing refuses. The entry is taken by the answer that it goes on living in.
async fn forward(
    tunnel: &Arc<Tunnel>,
    parts: Parts,
    (body, upgrade): (Incoming, OnUpgrade),
    entry: &mut Option<Entry>,
) -> Result<Response<Body>, Refusal> {
    let record = entry.as_mut().ok_or(Refusal::Malformed(""))?;
    tunnel.shared.lives(tunnel.session(), &record.began())?;
    // The grant is taken before the head is looked at: to whom nothing is granted, nothing else is said.
    tunnel.grant()?;
    let mut asking = Asking::new(&parts.headers, Upload::Stream(body))?;
    let head = Head::clean(parts, &tunnel.target)?;
    record.asked(head.method(), Some(head.path_and_query()));
    let (grant, permit, lease) = permitted(tunnel, head, (record, &mut asking)).await?;
    let body = asking.into_body();
    let lane = grant.lane(permit.route()).ok_or(Refusal::NoRoute)?;
    if let Some(answer) = &permit.route().answer {
        read_off(body, record).await?;
        record.allowed(lane.counters().clone());
        record.down = answer.body().len() as u64;
        record.answered(http::StatusCode::OK);
        return Ok(answer::token(answer));
    }
    let pool = lane.pool(tunnel, &grant.snapshot, lease.as_deref())?;
    let mark = tunnel.shared.broker.landed();
    let patterns = tunnel.shared.broker.patterns(
        permit.agent(),
        permit.session(),
        permit.person(),
        &grant.credentials,
    );
    let (route, mut head) = (Arc::clone(permit.route()), permit.into_head());
    // A lease without this route's slot is a fault of assembly: nothing is sent uninjected.
    let injection = match &lease {
        Some(lease) => Some(lease.injection(route.slot).ok_or(Refusal::BrokerRefused)?),
        None => None,
    };
    if let Some(injection) = injection {
        injection.apply(&mut head)?;
        injection.drop_spare(lane.placeholders(), &mut head);
    }
    let signer = injection.and_then(Injection::signer);
    // The key that signs is never sent, and a session token without it opens nothing: where no other secret is at
    // stake, no slice of an answer can give one away.
    let only_signed = signer.is_some() && grant.credentials.len() < 2;
    let watched = !patterns.is_empty() || !grant.credentials.is_empty();
    let scrubs = (lease.is_some() || watched) && !only_signed;
    let slices = !scrubs || route.ranges;
    let slice = (!slices).then(|| slice::take(&mut head)).flatten();
    narrow(&mut head, watched);
    let bound = injection.and_then(Injection::bound);
    if let Some(bound) = bound {
        bound::prove(tunnel, bound, &mut head)?;
    }
    let scrub = watched.then(|| watch::watch(tunnel, &grant, patterns, mark));
    if head.is_websocket() {
        if let Some(signer) = signer {
            sign::bodiless(tunnel, &mut head, signer)?;
        }
        let bridge = upgrade::bridge((tunnel, &pool), &grant, head, (upgrade, scrub), entry);
        return Box::pin(bridge).await;
    }
    let edit = injection.and_then(Injection::body);
    let (body, lied) = match signer {
        Some(signer) => {
            let lied = Lied::default();
            let body = sign::outgoing(tunnel, &mut head, body, signer, (record, &lied)).await?;
            (body, Some(lied))
        }
        None => (outgoing(&mut head, body, edit, record).await?, None),
    };
    if lease.is_some() {
        record
            .intent()
            .await
            .map_err(|_| Refusal::AuditUnavailable)?;
    }
    record.allowed(lane.counters().clone());
    let method = head.method().clone();
    let deadline = tokio::time::Instant::now() + tunnel.limits.total_timeout;
    let request = (rebuild(head, body), deadline);
    let prepare = |request: &mut Request<Body>, protocol| address(tunnel, request, protocol);
    let sent = match bound {
        None => pool.send(request, prepare).await.map_err(Refusal::from),
        // In a box, like all that few requests need: the others have no room for it.
        Some(bound) => Box::pin(bound::send((tunnel, bound), &pool, request, prepare)).await,
    };
    if let Some(lied) = &lied {
        lied.refuse()?;
    }
    let (mut response, connection) = sent?;
    if lied.is_some() {
        sign::forget_framing(response.headers_mut());
    }
    let way = answer::Way {
        method,
        scrub,
        slice,
        slices,
        deadline,
    };
    answer::pass_on(response, way, Some(connection), entry).await
}

/// Permit and lease of one configuration. A reload that came between them could have given the credential's name to
/// another host's secret: then all is judged again.
async fn permitted(
    tunnel: &Tunnel,
    mut head: Head,
    (record, asking): (&mut Entry, &mut Asking),
) -> Result<(Arc<Grant>, Permit, Option<Arc<Live>>), Refusal> {
    let mut now = record.began();
    loop {
        let epoch = tunnel.shared.epoch.current().await;
        let grant = tunnel.grant()?;
        let permit = match judge(tunnel, &grant, (head, now), record)? {
            Judged::Permit(permit) => permit,
            // In a box of its own: what nobody is asked for has no room for it.
            Judged::Ask(pending) => match Box::pin(asking.settle(tunnel, pending, record)).await? {
                Answer::Yes(permit) => permit,
                Answer::Again(asked) => {
                    // A person took their time: hours and sessions may be over.
                    now = tunnel.shared.clock.now();
                    tunnel.shared.lives(tunnel.session(), &now)?;
                    head = asked;
                    continue;
                }
            },
        };
        let lease = lease(tunnel, &permit, record).await?;
        if tunnel.shared.epoch.is(epoch) {
            return Ok((grant, permit, lease));
        }
        head = permit.into_head();
    }
}

/// What policy did not refuse.
enum Judged {
    /// It may be sent.
    Permit(Permit),
    /// A person has to say yes first.
    Ask(Pending),
}

/// Policy, and nothing else, makes the permit.
fn judge(
    tunnel: &Tunnel,
    grant: &Grant,
    (head, now): (Head, Now),
    record: &mut Entry,
) -> Result<Judged, Refusal> {
    let session = tunnel.session();
    let query = Query {
        agent: session.agent(),
        session: session.id(),
        chain: session.chain(),
        person: session.person(),
        scope: &session.bounds().scope,
        permissions: &grant.permissions,
        target: &tunnel.target,
        source: tunnel.peer.ip(),
        now,
        candidates: &grant.candidates,
    };
    match grant.snapshot.policy.evaluate(&query, head) {
        Verdict::Allow(permit) => {
            record.matched(permit.route());
            Ok(Judged::Permit(permit))
        }
        Verdict::Ask(pending) => {
            record.matched(pending.route());
            Ok(Judged::Ask(pending))
        }
        Verdict::Deny(denial, _) => {
            if let Some(route) = denial
                .route()
                .and_then(|name| grant.candidates.iter().find(|route| route.name == *name))
            {
                record.matched(route);
            }
            Err(Refusal::from(&denial))
        }
    }
}

async fn lease(
    tunnel: &Tunnel,
    permit: &Permit,
    record: &mut Entry,
) -> Result<Option<Arc<Live>>, Refusal> {
    if permit.credential().is_none() {
        return Ok(None);
    }
    // Wherever else this is judged: no credential leaves without TLS.
    if tunnel.target.scheme == Scheme::Http {
        return Err(Refusal::Cleartext);
    }
    let chain = tunnel.session().shared_chain();
    let lease = tunnel.shared.broker.lease_for(permit, chain).await?;
    record.leased(lease.id());
    Ok(Some(lease))
}

/// Takes away what would make an answer that cannot be scrubbed: codings nobody here reads. An answer is watched also
/// where a credential of its host may yet be leased: a long one may come to hold it.
fn narrow(head: &mut Head, watched: bool) {
    if !watched {
        return;
    }
    let grpc = is_grpc(head.headers());
    let headers = head.headers_mut();
    let accepted = headers.get(ACCEPT_ENCODING);
    if let Some(readable) = accepted.and_then(|accepted| readable_codings(accepted.as_bytes())) {
        headers.insert(ACCEPT_ENCODING, readable);
    }
    // Deltas and codings of an instance, beside the content coding (RFC 3229 §10.5.3).
    headers.remove(&A_IM);
    // The Connect protocol codes each message of a stream by itself.
    headers.remove(&CONNECT_ACCEPT_ENCODING);
    if grpc || headers.contains_key(&GRPC_ACCEPT_ENCODING) {
        headers.insert(&GRPC_ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    }
}

/// The accepted codings that can be decoded here; `None` where that is all of them.
fn readable_codings(accepted: &[u8]) -> Option<HeaderValue> {
    let known = |item: &&[u8]| {
        let name = item
            .split(|b| *b == b';')
            .next()
            .unwrap_or_default()
            .trim_ascii();
        [
            &b"gzip"[..],
            b"x-gzip",
            b"deflate",
            b"br",
            b"zstd",
            b"identity",
        ]
        .iter()
        .any(|known| name.eq_ignore_ascii_case(known))
    };
    let items = || {
        accepted
            .split(|b| *b == b',')
            .map(<[u8]>::trim_ascii)
            .filter(|item| !item.is_empty())
    };
    if items().all(|item| known(&item)) {
        return None;
    }
    let kept: Vec<&[u8]> = items().filter(known).collect();
    let kept = if kept.is_empty() {
        b"identity".to_vec()
    } else {
        kept.join(&b", "[..])
    };
    HeaderValue::from_bytes(&kept).ok()
}

/// The body that goes up: streamed, or read whole where a placeholder in it is replaced.
async fn outgoing(
    head: &mut Head,
    body: Upload,
    edit: Option<&BodyEdit>,
    record: &Entry,
) -> Result<Body, Refusal> {
    let Some(edit) = edit else {
        // An HTTP/2 stream that ended with its head has no body, whatever its framing might have been.
        let none = head.framing() == Framing::None || body.is_end_stream();
        keep_zero(head);
        return Ok(if none {
            Body::empty()
        } else {
            Body::up(body, record.up.clone())
        });
    };
    let media_type = head
        .headers()
        .get(CONTENT_TYPE)
        .map(HeaderValue::as_bytes)
        .unwrap_or_default();
    let media_type = media_type
        .split(|b| *b == b';')
        .next()
        .unwrap_or_default()
        .trim_ascii();
    if !media_type.eq_ignore_ascii_case(edit.media_type().as_bytes())
        || head.headers().contains_key("content-encoding")
    {
        return Err(crate::inject::Misplaced::Body.into());
    }
    let read = read_whole(body, MAX_EDITED_BODY, record).await?;
    Ok(Body::full(Bytes::from(edit.apply(&read)?)))
}

/// A length of nothing is said where the agent said it: some servers ask for it.
pub(super) fn keep_zero(head: &mut Head) {
    if head.framing() == Framing::Length(0) {
        head.headers_mut()
            .insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    }
}

/// A body of `most` bytes, whole.
pub(super) async fn read_whole(
    body: Upload,
    most: usize,
    record: &Entry,
) -> Result<Bytes, Refusal> {
    let body = match body {
        Upload::Read(whole) if whole.len() > most => return Err(Refusal::TooLarge),
        Upload::Read(whole) => return Ok(whole),
        Upload::Stream(body) => body,
    };
    let read = Limited::new(body, most).collect();
    let read = tokio::time::timeout(MOST_JUDGED_AGO, read)
        .await
        .map_err(|_| Refusal::Malformed("The body took longer than 30 s. Send it at once."))?
        .map_err(|error| {
            if error.is::<http_body_util::LengthLimitError>() {
                Refusal::TooLarge
            } else {
                Refusal::Malformed("The body broke off. Send it whole.")
            }
        })?;
    let read = read.to_bytes();
    record.up.add(read.len());
    Ok(read)
}

/// Reads a body that goes nowhere: the client has sent it, and waits with its next request until it is taken.
async fn read_off(body: Upload, record: &Entry) -> Result<(), Refusal> {
    let Upload::Stream(body) = body else {
        return Ok(());
    };
    let read = Limited::new(body, MAX_EDITED_BODY).collect();
    let read = tokio::time::timeout(MOST_JUDGED_AGO, read).await;
    let Ok(Ok(read)) = read else {
        return Err(Refusal::TooLarge);
    };
    record.up.add(read.to_bytes().len());
    Ok(())
}

/// The request, from parsed parts alone.
fn rebuild(head: Head, body: Body) -> Request<Body> {
    let grpc = is_grpc(head.headers());
    let (method, path, mut headers) = head.into_parts();
    if grpc {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    let mut request = Request::new(body);
    *request.method_mut() = method;
    *request.uri_mut() = Uri::from(path);
    *request.headers_mut() = headers;
    request
}

/// Names the target in the way of the connection's protocol: nothing of it is the agent's.
fn address(tunnel: &Tunnel, request: &mut Request<Body>, protocol: Protocol) {
    match protocol {
        Protocol::Http1 => {
            *request.version_mut() = Version::HTTP_11;
            request.headers_mut().insert(HOST, tunnel.host.clone());
            request.headers_mut().remove(TE);
            frame(request);
            // A second try may come from a connection of the other protocol.
            if request.uri().authority().is_some() {
                let path = request.uri().path_and_query().cloned();
                *request.uri_mut() = path.map(Uri::from).unwrap_or_default();
            }
        }
        Protocol::Http2 => {
            *request.version_mut() = Version::HTTP_2;
            request.headers_mut().remove(HOST);
            request.headers_mut().remove(TRANSFER_ENCODING);
            let mut parts = uri::Parts::default();
            parts.scheme = Some(tunnel.scheme());
            parts.authority = Some(tunnel.authority.clone());
            parts.path_and_query = request.uri().path_and_query().cloned();
            if let Ok(absolute) = Uri::from_parts(parts) {
                *request.uri_mut() = absolute;
            }
        }
    }
}

/// hyper takes a GET or HEAD that does not say how long its body is for one without, and drops the body.
fn frame(request: &mut Request<Body>) {
    let bodiless = matches!(*request.method(), Method::GET | Method::HEAD);
    let unsaid = request.body().size_hint().exact().is_none();
    if bodiless && unsaid && !request.body().is_end_stream() {
        let chunked = HeaderValue::from_static("chunked");
        request.headers_mut().insert(TRANSFER_ENCODING, chunked);
    }
}

pub(super) fn is_grpc(headers: &HeaderMap) -> bool {
    headers
        .get(CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_codings_that_can_be_read_are_asked_for() {
        let readable = |text: &str| {
            readable_codings(text.as_bytes()).map(|value| value.to_str().unwrap().to_owned())
        };
        assert_eq!(readable("gzip, deflate, br;q=0.5, zstd"), None);
        assert_eq!(
            readable("gzip, dcb, compress;q=0.1, *").as_deref(),
            Some("gzip")
        );
        assert_eq!(readable("*").as_deref(), Some("identity"));
        assert_eq!(readable(""), None);
    }
}
