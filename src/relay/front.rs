//! The side of the processes: who is it, what goes on to the gateway, and what comes back.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    CONNECTION, HOST, HeaderMap, HeaderName, HeaderValue, ORIGIN, PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::{Either, Empty};
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::AsyncWriteExt as _;
use tokio::sync::{OnceCell, OwnedSemaphorePermit};
use tracing::{debug, warn};

use super::Shared;
use super::accept::Stream;
use super::fault::Fault;
use super::gateway::{ANSWER, BUFFER, Io};
use super::standing::Standing;
use crate::host::Target;
use crate::identity::{Link, PROCESS};
use crate::proxy::{Body, REFUSAL_HEADER, Refusal};

/// A body on its way to the gateway.
pub(super) type Up = Either<Incoming, Empty<Bytes>>;
/// An answer's body: the gateway's or our own.
type Down = Either<Incoming, Body>;

/// What is copied at once, in bytes, each way.
const PIECE: usize = 16 * 1024;

/// Numbers of refusals, as their answers have them.
#[derive(Debug)]
pub(super) struct Ids {
    prefix: u32,
    next: AtomicU64,
}

impl Ids {
    pub(super) fn new() -> Self {
        let mut prefix = [0; 4];
        // A prefix that is not random is still one.
        aws_lc_rs::rand::fill(&mut prefix).ok();
        Self {
            prefix: u32::from_be_bytes(prefix),
            next: AtomicU64::new(1),
        }
    }

    fn next(&self) -> String {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        format!("{:08x}-{number}", self.prefix)
    }
}

/// One connection of a process.
#[derive(Debug)]
pub(super) struct Front {
    shared: Arc<Shared>,
    link: Link,
    /// Whether it is served, and what the gateway is told of it: found out once.
    caller: OnceCell<Option<Caller>>,
    /// Its place among the others; a tunnel keeps it.
    seat: Option<Arc<OwnedSemaphorePermit>>,
}

/// A process that is served.
#[derive(Debug)]
struct Caller {
    statement: Option<HeaderValue>,
}

impl Front {
    pub(super) fn new(shared: Arc<Shared>, link: Link) -> Self {
        Self {
            shared,
            link,
            caller: OnceCell::new(),
            seat: None,
        }
    }

    /// Takes its place, for as long as the connection or a tunnel of it is open.
    pub(super) fn sit(&mut self, seat: OwnedSemaphorePermit) {
        self.seat = Some(Arc::new(seat));
    }

    /// Whether this is the connection of a process that is served, as it is now. A process can become another program
    /// before it asks: where more than its user counts it is looked at again then.
    pub(super) async fn is_served(&self) -> bool {
        match &self.shared.callers {
            Some(callers) if !callers.is_by_user() => callers.of(&self.link).await.is_some(),
            _ => self.caller().await.is_ok(),
        }
    }

    async fn caller(&self) -> Result<&Caller, Refused> {
        let found = self.caller.get_or_init(|| async {
            let Some(callers) = &self.shared.callers else {
                return Some(Caller { statement: None });
            };
            let process = callers.of(&self.link).await?;
            debug!(uid = process.uid, executable = ?process.executable, "process known");
            if !self.shared.tells {
                return Some(Caller { statement: None });
            }
            let statement = process.state()?;
            Some(Caller {
                statement: Some(statement),
            })
        });
        found.await.as_ref().ok_or(Refused::Own(
            Refusal::Denied(""),
            "This process may not use the relay: it is another user's, or not one of those that are allowed. Ask the operator; a retry will not help.",
        ))
    }
}

/// Why a request ends here.
enum Refused {
    /// By the relay, for this reason.
    Own(Refusal, &'static str),
    /// On the way to the gateway, or by it.
    Fault(Fault),
}

impl From<Fault> for Refused {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// Serves one connection from its first byte to its end. `patience` is how long a head may take, and the wait for it.
pub(super) async fn serve(front: Front, stream: Stream, patience: Duration) {
    let shared = Arc::clone(&front.shared);
    let front = Arc::new(front);
    let service = service_fn(move |request: Request<Incoming>| {
        let front = Arc::clone(&front);
        async move { Ok::<_, Infallible>(answer(&front, request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(patience)
        .max_buf_size(BUFFER)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    tokio::pin!(connection);
    let finished = tokio::select! {
        _ = connection.as_mut() => true,
        () = shared.drain.cancelled() => false,
    };
    if !finished {
        connection.as_mut().graceful_shutdown();
        tokio::select! {
            _ = connection.as_mut() => {}
            () = shared.cut.cancelled() => {}
        }
    }
}

async fn answer(front: &Front, request: Request<Incoming>) -> Response<Down> {
    let shared = &front.shared;
    let done = if shared.drain.is_cancelled() {
        Err(Refused::Own(Refusal::Draining, Refusal::Draining.detail()))
    } else {
        forward(front, request).await
    };
    match done {
        Ok(response) => response,
        Err(Refused::Own(refusal, detail)) => {
            let response = refusal.telling(detail, &shared.ids.next());
            response.map(Either::Right)
        }
        Err(Refused::Fault(fault)) => {
            let id = shared.ids.next();
            debug!(%fault, request = id, "refused");
            fault.answer(&id).map(Either::Right)
        }
    }
}

async fn forward(front: &Front, request: Request<Incoming>) -> Result<Response<Down>, Refused> {
    if *request.method() == Method::CONNECT {
        front.caller().await?;
        return connect(front, request).await;
    }
    if request.uri().scheme().is_none() {
        // Of a browser's page, which is somebody else's word in the name of whoever looks at it.
        if request.headers().contains_key(ORIGIN) {
            return Err(Refused::Own(
                Refusal::Denied(""),
                "A page in a browser may not ask the relay: send the request without Origin.",
            ));
        }
        match request.uri().path() {
            "/healthz" if *request.method() == Method::GET => {
                let shared = &front.shared;
                match front.caller().await {
                    Ok(_) => shared.health.of(shared).await?,
                    // Nobody else makes it call the gateway.
                    Err(_) => shared.standings.state()?,
                }
                return Ok(Response::new(Either::Right(Body::full(
                    Bytes::from_static(b"ok\n"),
                ))));
            }
            // It would be the relay's own session, and not that of the process.
            "/token" if front.shared.tells => {
                return Err(Refused::Own(
                    Refusal::Denied(""),
                    "A process that the relay tells of has its session by its connection, and no token. Use the proxy as it is.",
                ));
            }
            // What the gateway serves itself, so that a process needs no address but the relay's.
            "/ca.pem" | "/token" | "/revoke" => {}
            path if path.starts_with("/.well-known/") => {}
            _ => {
                return Err(Refused::Own(
                    Refusal::Malformed(""),
                    "This is a relay to a proxy. Use it with CONNECT or an absolute http:// URL. It serves GET /healthz itself, and passes /ca.pem, /token, /revoke and /.well-known/ on.",
                ));
            }
        }
    } else if request.uri().scheme_str() != Some("http") {
        return Err(Refused::Own(
            Refusal::Malformed(""),
            "Only http:// URLs are forwarded; use CONNECT for https.",
        ));
    }
    front.caller().await?;
    pass(front, request).await
}

/// A tunnel: the gateway's answer decides, and then bytes are copied.
async fn connect(front: &Front, mut request: Request<Incoming>) -> Result<Response<Down>, Refused> {
    let shared = &front.shared;
    let authority = request.uri().authority().map(|a| a.as_str().to_owned());
    let target = authority.and_then(|text| Target::from_connect(&text).ok());
    let target = target.ok_or(Refused::Own(
        Refusal::Malformed(""),
        "The target is not host:port with a plain host name or address and a port from 1 to 65535.",
    ))?;
    let own = own_credentials(shared, request.headers())?;
    let place: HeaderValue = (target.to_string().parse()).map_err(|_| Fault::Broke)?;
    // Nothing of the process's head but its target goes on.
    let make = |standing: &Standing, statement: Option<&HeaderValue>| {
        let mut up = Request::new(Up::Right(Empty::new()));
        *up.method_mut() = Method::CONNECT;
        *up.uri_mut() = Uri::builder().authority(target.to_string()).build().ok()?;
        up.headers_mut().insert(HOST, place.clone());
        prove(up.headers_mut(), standing, statement, own.as_ref());
        Some(up)
    };
    let sending = ask(front, own.is_some(), make);
    let answered = tokio::time::timeout(ANSWER, sending).await;
    let response = answered.map_err(|_| Fault::TimedOut)??;
    if !response.status().is_success() {
        return Ok(down(response));
    }
    let (agent, gateway) = (
        hyper::upgrade::on(&mut request),
        hyper::upgrade::on(response),
    );
    tunnel(front, agent, gateway);
    Ok(Response::new(Either::Right(Body::empty())))
}

/// A request that is not for a tunnel: streamed both ways.
async fn pass(front: &Front, mut request: Request<Incoming>) -> Result<Response<Down>, Refused> {
    let shared = &front.shared;
    let own = own_credentials(shared, request.headers())?;
    let upgrades = request.headers().contains_key(UPGRADE);
    let agent = upgrades.then(|| hyper::upgrade::on(&mut request));
    let upgrade = request.headers().get(UPGRADE).cloned();
    let (mut parts, body) = request.into_parts();
    strip(&mut parts.headers);
    parts.headers.remove(PROXY_AUTHORIZATION);
    parts.headers.remove(PROCESS);
    if let Some(upgrade) = upgrade {
        parts.headers.insert(UPGRADE, upgrade);
        let wish = HeaderValue::from_static("upgrade");
        parts.headers.insert(CONNECTION, wish);
    }
    // Of whom a request is counts where it leads through the gateway, and not for its own pages.
    let leads_on = parts.uri.scheme().is_some();
    let head = |standing: &Standing, statement: Option<&HeaderValue>, body: Up| {
        let statement = statement.filter(|_| leads_on);
        let mut up = Request::new(body);
        *up.method_mut() = parts.method.clone();
        *up.uri_mut() = parts.uri.clone();
        *up.headers_mut() = parts.headers.clone();
        prove(up.headers_mut(), standing, statement, own.as_ref());
        up
    };
    let response = if body.is_end_stream() {
        let make = |standing: &Standing, statement: Option<&HeaderValue>| {
            Some(head(standing, statement, Up::Right(Empty::new())))
        };
        ask(front, own.is_some(), make).await?
    } else {
        // Its body can be sent once.
        let standing = shared.standings.current().await?;
        let statement = front.caller().await?.statement.as_ref();
        let request = head(&standing, statement, Up::Left(body));
        let gateway = &shared.gateway;
        let sending = gateway.send(&standing.connector, request, &shared.tracker);
        let response = sending.await?;
        if own.is_none() && is_unproved(&response) {
            let again = shared.standings.after(&standing).await?;
            return Err(again.map_or_else(
                || refused(&response),
                |_| {
                    Refused::Own(
                        Refusal::IdentityUnavailable,
                        "The relay's session with the gateway was over, and is renewed. Send the request again.",
                    )
                },
            ));
        }
        response
    };
    match agent {
        Some(agent) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
            let mut head = Response::new(Either::Right(Body::empty()));
            *head.status_mut() = response.status();
            *head.headers_mut() = response.headers().clone();
            tunnel(front, agent, hyper::upgrade::on(response));
            Ok(head)
        }
        _ => Ok(down(response)),
    }
}

/// Sends a request without a body; where the gateway no longer takes the standing, once more with a fresh one.
async fn ask(
    front: &Front,
    is_own: bool,
    make: impl Fn(&Standing, Option<&HeaderValue>) -> Option<Request<Up>>,
) -> Result<Response<Incoming>, Refused> {
    let shared = &front.shared;
    let statement = front.caller().await?.statement.as_ref();
    let send = async |standing: &Standing| {
        let request = make(standing, statement).ok_or(Fault::Broke)?;
        let gateway = &shared.gateway;
        let sent = gateway.send(&standing.connector, request, &shared.tracker);
        sent.await
    };
    let standing = shared.standings.current().await?;
    let response = send(&standing).await?;
    if is_own || !is_unproved(&response) {
        return Ok(response);
    }
    let Some(fresh) = shared.standings.after(&standing).await? else {
        return Err(refused(&response));
    };
    let response = send(&fresh).await?;
    if is_unproved(&response) {
        return Err(refused(&response));
    }
    Ok(response)
}

/// Whether the gateway asks for other proof than it was given.
fn is_unproved(response: &Response<Incoming>) -> bool {
    response.status() == StatusCode::PROXY_AUTHENTICATION_REQUIRED
}

/// The process has nothing to do with the proof, so it is not asked for one.
fn refused(response: &Response<Incoming>) -> Refused {
    let word = response.headers().get(REFUSAL_HEADER);
    let word = word.and_then(|word| word.to_str().ok());
    let fault = Fault::Refused(word.unwrap_or("407").to_owned());
    warn!(%fault, hint = fault.hint(), "request refused");
    fault.into()
}

/// What the process sent to prove itself, where that is passed on. Two of a kind have two readings.
fn own_credentials(shared: &Shared, headers: &HeaderMap) -> Result<Option<HeaderValue>, Refused> {
    let mut fields = headers.get_all(PROXY_AUTHORIZATION).iter();
    let first = fields.next().filter(|_| shared.passes);
    if shared.passes && fields.next().is_some() {
        return Err(Refused::Own(
            Refusal::Malformed(""),
            "Proxy-Authorization stands twice. Send it once.",
        ));
    }
    Ok(first.cloned())
}

/// Puts in what the gateway judges.
fn prove(
    headers: &mut HeaderMap,
    standing: &Standing,
    statement: Option<&HeaderValue>,
    own: Option<&HeaderValue>,
) {
    if let Some(authorization) = own.or(standing.authorization.as_ref()) {
        headers.insert(PROXY_AUTHORIZATION, authorization.clone());
    }
    if let Some(statement) = statement {
        headers.insert(PROCESS, statement.clone());
    }
}

/// An answer of the gateway as it goes to the process.
fn down(response: Response<Incoming>) -> Response<Down> {
    let mut response = response.map(Either::Left);
    let challenges: Vec<HeaderValue> = {
        let all = response.headers().get_all(PROXY_AUTHENTICATE).iter();
        all.cloned().collect()
    };
    strip(response.headers_mut());
    for challenge in challenges {
        response.headers_mut().append(PROXY_AUTHENTICATE, challenge);
    }
    response
}

/// Takes out what ends at a hop (RFC 9110 §7.6.1).
fn strip(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    let hop = [
        CONNECTION,
        TE,
        TRAILER,
        TRANSFER_ENCODING,
        UPGRADE,
        PROXY_AUTHENTICATE,
        HeaderName::from_static("keep-alive"),
        HeaderName::from_static("proxy-connection"),
    ];
    for name in named.iter().chain(&hop) {
        headers.remove(name);
    }
}

/// Copies both ways until either side ends, or the relay does.
fn tunnel(front: &Front, agent: OnUpgrade, gateway: OnUpgrade) {
    let (cut, seat) = (front.shared.cut.clone(), front.seat.clone());
    front.shared.tracker.spawn(async move {
        let _seat = seat;
        tokio::select! {
            () = cut.cancelled() => {}
            copied = splice(agent, gateway) => {
                if copied.is_none() {
                    debug!("a tunnel broke");
                }
            }
        }
    });
}

/// The bare streams, and what had come too early on either.
async fn splice(agent: OnUpgrade, gateway: OnUpgrade) -> Option<(u64, u64)> {
    let (agent, gateway) = tokio::try_join!(agent, gateway).ok()?;
    let agent = agent.downcast::<TokioIo<Stream>>().ok()?;
    let gateway = gateway.downcast::<Io>().ok()?;
    let (mut near, mut far) = (agent.io.into_inner(), gateway.io.into_inner());
    far.write_all(&agent.read_buf).await.ok()?;
    near.write_all(&gateway.read_buf).await.ok()?;
    let copied = tokio::io::copy_bidirectional_with_sizes(&mut near, &mut far, PIECE, PIECE);
    copied.await.ok()
}
