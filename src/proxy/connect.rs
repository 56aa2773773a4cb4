//! The plain side of a proxy listener: CONNECT, absolute-form `http://`, and the few pages of our own.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use http::header::{CONNECTION, CONTENT_LENGTH, HOST, HeaderValue, TRANSFER_ENCODING};
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::accept::Seat;
use super::base_url;
use super::body::Body;
use super::gate::{Gate, bare};
use super::identify::{Recent, identify};
use super::intercept::{self, announce, close_after};
use super::live::{Connection, Place};
use super::own;
use super::plain::{self, Forwarding};
use super::refusal::Refusal;
use super::seldom::Seldom;
use super::settings::{ListenerSettings, Unmatched};
use super::stream::AgentStream;
use super::tunnel::{Grant, Tunnel};
use super::{Shared, Snapshot};
use crate::audit::{Record, Who};
use crate::clock::Now;
use crate::head;
use crate::host::Target;
use crate::identity::{Link, PROCESS, Peer};
use crate::session::{Hold, Session};
use crate::tls::{AcceptError, Acceptor};

/// One connection of an agent, before it is known whose it is.
#[derive(Debug)]
pub(super) struct Front {
    pub(super) shared: Arc<Shared>,
    pub(super) listener: Arc<ListenerSettings>,
    pub(super) peer: Peer,
    pub(super) seat: Arc<Seat>,
    /// What else is known of the connection.
    pub(super) link: Link,
    /// The peer as sessions are bound to it.
    pub(super) from: Box<str>,
    /// An absolute-form request has shown whose the connection is.
    pub(super) known: Arc<AtomicBool>,
    /// Whose it was by process or certificate.
    pub(super) recent: ArcSwapOption<Recent>,
    /// The absolute-form request under way.
    pub(super) plain: Mutex<Option<Forwarding>>,
    /// Ends the connection under an absolute-form request: its session has ended, or its grant is lost.
    pub(super) gone: CancellationToken,
    /// What a granted CONNECT goes on with, once hyper gives the stream back.
    next: Mutex<Option<Next>>,
}

#[derive(Debug)]
struct Next {
    upgrade: OnUpgrade,
    plan: Plan,
    record: ConnectRecord,
    place: Place,
}

#[derive(Debug)]
enum Plan {
    Intercept(Arc<Tunnel>, Arc<Acceptor>),
    Blind(TcpStream, CancellationToken, Duration),
}

/// The `connect` record: written once, whatever becomes of the connection.
#[derive(Debug)]
struct ConnectRecord {
    shared: Arc<Shared>,
    began: Now,
    peer: Peer,
    target: Option<Arc<Target>>,
    hold: Option<Hold>,
    refusal: Option<Refusal>,
    up: u64,
    down: u64,
    tunnelled: bool,
}

impl ConnectRecord {
    fn begin(front: &Front) -> Self {
        Self {
            shared: Arc::clone(&front.shared),
            began: front.shared.clock.now(),
            peer: front.peer.clone(),
            target: None,
            hold: None,
            refusal: None,
            up: 0,
            down: 0,
            tunnelled: false,
        }
    }
}

impl Drop for ConnectRecord {
    fn drop(&mut self) {
        let session = self.hold.as_ref().map(Hold::session);
        let who = Who {
            session: session.map(|session| &**session.id()),
            agent: session.map(|session| session.agent().as_str()),
            user: session.and_then(|session| session.user()),
            chain: session.map(|session| session.chain()),
            ..Who::default()
        };
        let host = self
            .target
            .as_ref()
            .map(|target| self.shared.host_text(target));
        let (host, port) = (
            host.as_deref(),
            self.target.as_ref().map(|target| target.port),
        );
        let peer = self.peer.to_string();
        let mut record = Record::connect(who, host.unwrap_or_default(), port.unwrap_or_default());
        record.host = host;
        record.port = port;
        record.peer = Some(&peer);
        record.decision = Some(if self.refusal.is_some() {
            "deny"
        } else {
            "allow"
        });
        record.word = self.refusal.map(Refusal::word);
        if self.tunnelled {
            let now = self.shared.clock.now();
            record.bytes_up = Some(self.up);
            record.bytes_down = Some(self.down);
            record.duration = Some(now.mono.saturating_duration_since(self.began.mono));
        }
        self.shared.audit.append(&record);
        if let Some(refusal) = self.refusal {
            let agent = session.map_or("", |session| session.agent().as_str());
            self.shared
                .metrics
                .refused("", agent, "deny", refusal.word());
        }
    }
}

/// Serves one connection from its first byte to its end.
pub(super) async fn serve(front: Front, stream: AgentStream) {
    let front = Arc::new(front);
    let limits = front.listener.limits.clone();
    let (gate, hint) = Gate::http1(stream, limits.header_timeout, limits.idle_timeout);
    let served = Arc::clone(&front);
    let service = service_fn(move |request: Request<Incoming>| {
        let upgrades = announce(&hint, &request);
        let is_connect = *request.method() == Method::CONNECT;
        let front = Arc::clone(&served);
        async move {
            let mut response = answer(front, request).await;
            let switches = response.status() == StatusCode::SWITCHING_PROTOCOLS
                || is_connect && response.status().is_success();
            if upgrades && !switches {
                close_after(&mut response);
            }
            Ok::<Response<Body>, Infallible>(response)
        }
    });
    // In boxes, both what is before a tunnel and what is in it: neither holds the room of the other.
    let mut connection = Box::pin(
        http1::Builder::new()
            .header_read_timeout(None::<Duration>)
            .max_header_size(head::MAX_HEAD + 16 * 1024)
            .serve_connection(TokioIo::new(gate.hurry(Arc::clone(&front.known))), service)
            .with_upgrades(),
    );
    {
        let finished = tokio::select! {
            _ = connection.as_mut() => true,
            () = front.shared.drain.cancelled() => false,
            () = front.shared.cut.cancelled() => return,
            () = front.gone.cancelled() => return,
        };
        if !finished {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                _ = connection.as_mut() => {}
                () = front.shared.cut.cancelled() => return,
                () = front.gone.cancelled() => return,
            }
        }
    }
    drop(connection);
    let next = front.next.lock().take();
    if let Some(next) = next {
        let cut = pin!(front.shared.cut.cancelled());
        tokio::select! {
            biased;
            () = Seldom::new(cut) => {}
            () = Box::pin(proceed(next)) => {}
        }
    }
}

/// Goes on with a granted CONNECT on the bare stream.
async fn proceed(next: Next) {
    let Next {
        upgrade,
        plan,
        mut record,
        place,
    } = next;
    let Some(stream) = bare(upgrade).await else {
        return;
    };
    match plan {
        Plan::Blind(upstream, cut, idle) => {
            record.tunnelled = true;
            let (up, down) = blind(stream, upstream, cut, idle).await;
            (record.up, record.down) = (up, down);
        }
        Plan::Intercept(tunnel, acceptor) => {
            // In a box: the tunnel has no room for its own beginning.
            match Box::pin(intercept::handshake(&tunnel, &acceptor, stream)).await {
                Ok((stream, protocol)) => {
                    drop(record);
                    intercept::serve(tunnel, stream, protocol).await;
                }
                Err(error) => {
                    debug!(%error, "TLS with an agent failed");
                    record.refusal = Some(match error {
                        AcceptError::SniMismatch => Refusal::HostMismatch,
                        AcceptError::Untrusted => Refusal::Malformed(
                            "The agent does not trust the CA. Use the file that SSL_CERT_FILE names, or GET /ca.pem of this proxy.",
                        ),
                        _ => Refusal::Malformed(
                            "The TLS handshake failed. Use TLS 1.2 or 1.3, with the host's name as SNI.",
                        ),
                    });
                }
            }
        }
    }
    drop(place);
}

/// Copies both ways untouched, and counts.
async fn blind(
    agent: AgentStream,
    mut upstream: TcpStream,
    cut: CancellationToken,
    idle: Duration,
) -> (u64, u64) {
    let mut agent = Gate::opaque(agent, idle, idle);
    tokio::select! {
        () = cut.cancelled() => (0, 0),
        copied = tokio::io::copy_bidirectional(&mut agent, &mut upstream) => copied.unwrap_or((0, 0)),
    }
}

async fn answer(front: Arc<Front>, request: Request<Incoming>) -> Response<Body> {
    if front.shared.drain.is_cancelled() {
        return Refusal::Draining.response(&front.shared.ids.next());
    }
    let absolute = request.uri().scheme().is_some();
    match *request.method() {
        Method::CONNECT => connect(&front, request).await,
        _ if absolute => plain::forward(&front, request).await,
        // What is asked for here is asked in one's own name.
        _ if request.headers().contains_key(PROCESS) => Refusal::Malformed(
            "Keyward-Process stands in CONNECT and absolute-form requests only. Ask without it.",
        )
        .response(&front.shared.ids.next()),
        _ => match base_url::answer(&front, request).await {
            Ok(response) => response,
            Err(request) => own::serve(&front, request).await,
        },
    }
}

async fn connect(front: &Arc<Front>, mut request: Request<Incoming>) -> Response<Body> {
    let mut record = ConnectRecord::begin(front);
    match grant(front, &mut request, &mut record).await {
        Ok((plan, place)) => {
            let upgrade = hyper::upgrade::on(&mut request);
            *front.next.lock() = Some(Next {
                upgrade,
                plan,
                record,
                place,
            });
            Response::new(Body::empty())
        }
        Err(refusal) => {
            record.refusal = Some(refusal);
            let mut response = refusal.response(&front.shared.ids.next());
            if refusal != Refusal::Unidentified {
                response
                    .headers_mut()
                    .insert(CONNECTION, HeaderValue::from_static("close"));
            }
            response
        }
    }
}

/// Decides a CONNECT: all that can be refused before its 200 is.
async fn grant(
    front: &Front,
    request: &mut Request<Incoming>,
    record: &mut ConnectRecord,
) -> Result<(Plan, Place), Refusal> {
    let shared = &front.shared;
    if request.headers().contains_key(TRANSFER_ENCODING)
        || request.headers().contains_key(CONTENT_LENGTH)
    {
        return Err(Refusal::Malformed(
            "A CONNECT has no body. Send it without Content-Length and Transfer-Encoding.",
        ));
    }
    let authority = request
        .uri()
        .authority()
        .map(http::uri::Authority::as_str)
        .unwrap_or_default();
    let bad = |_| {
        Refusal::Malformed(
            "The target is not a plain host name or address and a port from 1 to 65535. Send it as host:port.",
        )
    };
    let target = Arc::new(Target::from_connect(authority).map_err(bad)?);
    record.target = Some(Arc::clone(&target));
    if !names(request.headers(), &target) {
        return Err(Refusal::Malformed(
            "The Host of a CONNECT must be its target. Send the same host and port in both.",
        ));
    }
    let snapshot = shared.snapshot.load_full();
    let hold = identify(front, &snapshot, request.headers()).await?;
    record.hold = Some(shared.sessions.hold(hold.session()));
    let session = Arc::clone(hold.session());
    snapshot.registry.admit_all(session.chain())?;
    let most = front.listener.limits.max_connections_per_agent;
    let mut place = shared
        .live
        .enter(session.agent(), most)
        .ok_or(Refusal::TooManyConnections)?;
    match Grant::find(shared, &snapshot, &session, &target) {
        Ok(granted) => {
            snapshot.upstream.precheck(&target)?;
            let acceptor = snapshot
                .leaves
                .acceptor(&target.host)
                .map_err(|_| Refusal::CaUnavailable)?;
            let limits = front.listener.limits.clone();
            let tunnel = Arc::new(Tunnel::new(
                shared,
                hold,
                target,
                (front.peer.clone(), Arc::clone(&front.seat)),
                (limits, granted),
            )?);
            place.runs(Connection::Intercept(Arc::downgrade(&tunnel)));
            Ok((Plan::Intercept(tunnel, acceptor), place))
        }
        Err(Refusal::NoRoute) if lets_through(front, &snapshot, &target) => {
            look_at_scope(&snapshot, &session)?;
            let cut = hold.session().ended().child_token();
            place.runs(Connection::Blind {
                session,
                target: Arc::clone(&target),
                cut: cut.clone(),
            });
            // A reload before this look was taken by the grant; one after it finds the place, and cuts.
            if !Arc::ptr_eq(&snapshot, &shared.snapshot.load()) {
                return Err(Refusal::Draining);
            }
            let stream = tokio::select! {
                () = cut.cancelled() => return Err(Refusal::NoRoute),
                stream = snapshot.upstream.tunnel(&target, hold.session().agent()) => stream?,
            };
            shared.metrics.tunnels.inc();
            let idle = front.listener.limits.idle_timeout;
            Ok((Plan::Blind(stream, cut, idle), place))
        }
        Err(refusal) => Err(refusal),
    }
}

/// Whether a host that no route names is let through. A name of one label is a neighbour's or a metadata service's,
/// never a public one: a route must name it.
pub(super) fn lets_through(front: &Front, snapshot: &Snapshot, target: &Target) -> bool {
    front.listener.unmatched == Unmatched::Tunnel
        && !snapshot.table.speaks_of(target)
        && !target.host.is_single_label()
}

/// A session of bounded scope goes to no host that no route names.
fn look_at_scope(snapshot: &Snapshot, session: &Session) -> Result<(), Refusal> {
    let permissions = snapshot.registry.admit_all(session.chain())?;
    if session.bounds().scope.is_all() && permissions.is_all() {
        return Ok(());
    }
    Err(Refusal::Denied(
        "The scope of this session covers no host that no route names. Do not retry; ask the operator.",
    ))
}

/// Whether a CONNECT's `Host`, where it has one, is its target (RFC 9112 §3.2). Some clients leave the port out there.
fn names(headers: &http::HeaderMap, target: &Target) -> bool {
    let mut hosts = headers.get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (None, _) => true,
        (Some(_), Some(_)) => false,
        (Some(host), None) => host.to_str().is_ok_and(|host| {
            target.is_named_by(host)
                || Target::from_connect(&format!("{host}:{}", target.port))
                    .is_ok_and(|named| named.host == target.host)
        }),
    }
}

impl Front {
    pub(super) fn new(
        shared: Arc<Shared>,
        listener: Arc<ListenerSettings>,
        (peer, link): (Peer, Link),
        seat: Arc<Seat>,
    ) -> Self {
        Self {
            shared,
            listener,
            from: peer.to_string().into(),
            peer,
            seat,
            link,
            recent: ArcSwapOption::empty(),
            plain: Mutex::default(),
            gone: CancellationToken::new(),
            next: Mutex::default(),
            known: Arc::default(),
        }
    }
}
