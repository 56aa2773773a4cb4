//! Connections to upstreams: verified, pooled by everything that makes two of them different, reused only when idle.
//!
//! A pool belongs to one target, agent and credential: what one agent left on a connection (a desynchronised answer,
//! an HPACK table) can never reach another.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use http::{HeaderName, Request, Response};
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};
use tracing::warn;

use super::body::Body;
use super::dial::{DialError, Dialler};
use super::executor::Tracked;
use super::link::{Link, Unanswered};
use super::refusal::Refusal;
use super::settings::UpstreamSettings;
use super::wire::Wire;
use crate::agent::{AgentId, Name, User};
use crate::credential::LeaseId;
use crate::host::{Scheme, Target};
use crate::spiffe::Peers;
use crate::tls::{Alpn, ClientIdentity, ConnectError, Connector, PeerCheck, Protocol, TrustError};

/// Idle HTTP/1 connections that one pool keeps.
const MAX_IDLE: usize = 256;
/// No connection is kept longer for its certificate's sake, which only keeps the sum within the clock.
const LONGEST: Duration = Duration::from_hours(10 * 366 * 24);
/// How long an idle connection is kept: under the minute after which most servers close theirs.
const IDLE_FOR: Duration = Duration::from_secs(50);

/// All upstream connections of one configuration.
#[derive(Debug)]
pub(super) struct Upstream {
    dialler: Dialler,
    connector: Connector,
    pools: Mutex<HashMap<PoolKey, Arc<Pool>>>,
    /// Its own: a drain waits for requests, which their agents' connections stand for, and not for idle connections.
    tracker: TaskTracker,
}

/// What makes two connections different.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct PoolKey {
    pub(super) target: Target,
    pub(super) agent: AgentId,
    /// The person for whom the session acts: what one person's request leaves on a connection is not another's to read.
    pub(super) user: Option<User>,
    pub(super) credential: Option<Name>,
    /// The lease whose certificate the connections present, where there is one.
    pub(super) lease: Option<LeaseId>,
    /// Who must be there, where the host's name does not say so: who was let pass as one peer is not another.
    pub(super) peers: Option<Arc<Peers>>,
}

/// What the connections of a pool present to an upstream that asks who calls.
#[derive(Debug)]
pub(super) struct Presented {
    pub(super) connector: Connector,
    /// No request is sent on them any more from then on.
    pub(super) until: Option<Instant>,
}

/// The connections of one key.
#[derive(Debug)]
pub(super) struct Pool {
    upstream: Arc<Upstream>,
    target: Target,
    agent: AgentId,
    connector: Connector,
    until: Option<Instant>,
    idle: Mutex<Vec<(Box<Link>, Instant)>>,
    shared: Mutex<Option<http2::SendRequest<Body>>>,
    /// Held while it is not known which protocol the upstream speaks, so that a burst of streams makes one connection.
    first: tokio::sync::Mutex<()>,
    /// It speaks HTTP/1.1, so that connections are made side by side.
    is_http1: AtomicBool,
}

/// A connection in use by one request.
#[derive(Debug)]
pub(super) struct Checkout {
    pool: Arc<Pool>,
    sender: Sender,
    reused: bool,
}

#[derive(Debug)]
enum Sender {
    Http1(Box<Link>),
    Http2(http2::SendRequest<Body>),
}

/// Why a request got no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum SendError {
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The connection broke, or the answer is malformed.
    #[error("the upstream's answer is malformed")]
    Answer,
    /// The request's time was over before its answer began.
    #[error("the upstream did not answer in time")]
    TimedOut,
}

impl From<SendError> for Refusal {
    fn from(error: SendError) -> Self {
        match error {
            SendError::Dial(error) => error.into(),
            SendError::Answer => Self::BadUpstream,
            SendError::TimedOut => Self::UpstreamTimeout,
        }
    }
}

impl Upstream {
    pub(super) fn new(
        settings: UpstreamSettings,
        connector: Connector,
        own: Vec<SocketAddr>,
    ) -> Arc<Self> {
        Arc::new(Self {
            dialler: Dialler::new(settings, own),
            connector,
            pools: Mutex::default(),
            tracker: TaskTracker::new(),
        })
    }

    /// Judges a target before anything is dialled.
    pub(super) fn precheck(&self, target: &Target) -> Result<(), DialError> {
        self.dialler.precheck(target)
    }

    /// A bare TCP connection, for a tunnel.
    pub(super) async fn tunnel(
        &self,
        target: &Target,
        agent: &AgentId,
    ) -> Result<TcpStream, DialError> {
        self.within(self.dialler.dial(target, agent)).await
    }

    async fn within<T>(
        &self,
        work: impl Future<Output = Result<T, DialError>>,
    ) -> Result<T, DialError> {
        tokio::time::timeout(self.dialler.connect_timeout(), work)
            .await
            .unwrap_or(Err(DialError::TimedOut))
    }

    /// What is presented for a lease with this certificate, which lives so much longer, and to whom.
    pub(super) fn presents(
        &self,
        identity: &ClientIdentity,
        left: Option<Duration>,
        peer: Option<PeerCheck>,
    ) -> Result<Presented, TrustError> {
        let connector = match peer {
            Some(peer) => self.connector.with_peer(identity, peer)?,
            None => self.connector.with_identity(identity)?,
        };
        Ok(Presented {
            connector,
            until: left.map(|left| Instant::now() + left.min(LONGEST)),
        })
    }

    /// The pool of a key, and of the lease whose certificate is presented, where there is one.
    pub(super) fn pool(self: &Arc<Self>, key: PoolKey, presented: Option<Presented>) -> Arc<Pool> {
        let mut pools = self.pools.lock();
        let (target, agent) = (key.target.clone(), key.agent.clone());
        Arc::clone(pools.entry(key).or_insert_with(|| {
            let (connector, until) = match presented {
                Some(presented) => (presented.connector, presented.until),
                None => (self.connector.clone(), None),
            };
            Arc::new(Pool {
                upstream: Arc::clone(self),
                target,
                agent,
                connector,
                until,
                idle: Mutex::default(),
                shared: Mutex::default(),
                first: tokio::sync::Mutex::default(),
                is_http1: AtomicBool::new(false),
            })
        }))
    }

    /// Closes what has been idle for too long, and forgets pools that nobody uses.
    pub(super) fn sweep(&self) {
        let now = Instant::now();
        self.pools.lock().retain(|_, pool| {
            let mut idle = pool.idle.lock();
            idle.retain(|(_, since)| now.duration_since(*since) < IDLE_FOR);
            let mut shared = pool.shared.lock();
            if pool.is_over(now) {
                // What is under way on them is finished.
                idle.clear();
                *shared = None;
            }
            if shared.as_ref().is_some_and(http2::SendRequest::is_closed) {
                *shared = None;
            }
            Arc::strong_count(pool) > 1 || !idle.is_empty() || shared.is_some()
        });
    }

    /// Closes everything: the configuration that it belonged to is gone.
    pub(super) fn close(&self) {
        self.pools.lock().clear();
    }
}

/// The agent is told which of the two it was, the operator why.
fn untrusted(target: &Target, error: &ConnectError) -> DialError {
    warn!(upstream = %target.authority(), %error, "no connection to an upstream");
    match error {
        ConnectError::Untrusted(_) => DialError::Untrusted,
        _ => DialError::Unreachable,
    }
}

/// How soon a connection that its peer had closed shows so.
const IDLE_RACE: Duration = Duration::from_secs(5);

impl Pool {
    /// Sends a request, on an idle connection where there is one. Its peer may have closed that one meanwhile: what was
    /// not written goes to another. Of what was written it is not known whether the peer has acted on it, so it is sent
    /// once more, on a new connection, only where that changes nothing (RFC 9110 §9.2.2, RFC 9112 §9.3.1).
    pub(super) async fn send(
        self: &Arc<Self>,
        (mut request, deadline): (Request<Body>, Instant),
        prepare: impl Fn(&mut Request<Body>, Protocol),
    ) -> Result<(Response<Incoming>, Checkout), SendError> {
        let mut once_more = true;
        loop {
            let idle = if once_more { self.reuse() } else { None };
            let mut checkout = match idle {
                Some(idle) => idle,
                // In a box of its own: what an idle connection carries has no room for the making of one.
                None => Box::pin(tokio::time::timeout_at(deadline, self.checkout()))
                    .await
                    .map_err(|_| SendError::TimedOut)??,
            };
            let begun = Instant::now();
            let spare = (once_more && checkout.reused)
                .then(|| repeatable(&request))
                .flatten();
            prepare(&mut request, checkout.protocol());
            request = match (checkout.send(request, deadline).await, spare) {
                (Ok(response), _) => return Ok((response, checkout)),
                (Err(Unanswered::Late), _) => return Err(SendError::TimedOut),
                (Err(Unanswered::Unsent(unsent)), _) if checkout.reused => *unsent,
                // A peer that closed an idle connection does so at once; what broke later is judged and leased anew.
                (Err(Unanswered::Gone), Some(spare)) if begun.elapsed() < IDLE_RACE => {
                    once_more = false;
                    spare
                }
                (Err(_), _) => return Err(SendError::Answer),
            };
        }
    }

    /// A verified connection of its own.
    pub(super) async fn connect(&self, alpn: Alpn) -> Result<(Wire, Protocol), DialError> {
        let upstream = &self.upstream;
        let work = async {
            let stream = upstream.dialler.dial(&self.target, &self.agent).await?;
            match self.target.scheme {
                Scheme::Http => Ok((Wire::Plain(stream), Protocol::Http1)),
                Scheme::Https => {
                    let host = &self.target.host;
                    let shaken = self.connector.connect(stream, host, alpn).await;
                    let (stream, protocol) =
                        shaken.map_err(|error| untrusted(&self.target, &error))?;
                    Ok((Wire::Tls(Box::new(stream)), protocol))
                }
            }
        };
        upstream.within(work).await
    }

    /// Whether the certificate that its connections present has ended.
    fn is_over(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| until <= now)
    }

    /// A new connection, or a stream of one that many share.
    async fn checkout(self: &Arc<Self>) -> Result<Checkout, DialError> {
        let alone = self.target.scheme == Scheme::Https && !self.is_http1.load(Ordering::Relaxed);
        let _first = if alone {
            // Past this wait one dials beside the other: a target that does not answer must not queue its requests.
            let wait = self.upstream.dialler.connect_timeout();
            tokio::time::timeout(wait, self.first.lock()).await.ok()
        } else {
            None
        };
        if let Some(sender) = self.multiplexed() {
            return Ok(self.hold(Sender::Http2(sender), true));
        }
        let (wire, protocol) = self.connect(Alpn::Both).await?;
        let sender = match protocol {
            Protocol::Http1 => {
                self.is_http1.store(true, Ordering::Relaxed);
                Sender::Http1(Box::new(Link::open(wire).await?))
            }
            Protocol::Http2 => {
                let sender = self.upstream.http2(wire).await?;
                *self.shared.lock() = Some(sender.clone());
                Sender::Http2(sender)
            }
        };
        Ok(self.hold(sender, false))
    }

    fn reuse(self: &Arc<Self>) -> Option<Checkout> {
        if let Some(sender) = self.multiplexed() {
            return Some(self.hold(Sender::Http2(sender), true));
        }
        loop {
            let (mut link, _) = self.idle.lock().pop()?;
            if link.is_ready() {
                return Some(self.hold(Sender::Http1(link), true));
            }
        }
    }

    fn multiplexed(&self) -> Option<http2::SendRequest<Body>> {
        self.shared
            .lock()
            .as_ref()
            .filter(|sender| !sender.is_closed())
            .cloned()
    }

    fn hold(self: &Arc<Self>, sender: Sender, reused: bool) -> Checkout {
        Checkout {
            pool: Arc::clone(self),
            sender,
            reused,
        }
    }
}

impl Upstream {
    async fn http2(&self, wire: Wire) -> Result<http2::SendRequest<Body>, DialError> {
        let mut builder = http2::Builder::new(Tracked(self.tracker.clone()));
        builder
            .timer(TokioTimer::new())
            .max_header_list_size(64 * 1024)
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(4 << 20)
            .max_send_buf_size(256 * 1024)
            .keep_alive_interval(Duration::from_secs(30))
            .keep_alive_timeout(Duration::from_secs(15));
        let (sender, connection) = builder
            .handshake(TokioIo::new(wire))
            .await
            .map_err(|_| DialError::Unreachable)?;
        self.tracker.spawn(async move {
            connection.await.ok();
        });
        Ok(sender)
    }
}

impl Checkout {
    fn protocol(&self) -> Protocol {
        match self.sender {
            Sender::Http1(_) => Protocol::Http1,
            Sender::Http2(_) => Protocol::Http2,
        }
    }

    async fn send(
        &mut self,
        request: Request<Body>,
        deadline: Instant,
    ) -> Result<Response<Incoming>, Unanswered> {
        match &mut self.sender {
            Sender::Http1(link) => link.send(request, deadline).await,
            Sender::Http2(sender) => {
                let answered = sender.try_send_request(request);
                match tokio::time::timeout_at(deadline, answered).await {
                    Ok(answered) => answered.map_err(Unanswered::from),
                    Err(_) => Err(Unanswered::Late),
                }
            }
        }
    }

    /// What `look` sees of an answer's body; moves the connection for it, unless it is shared and moves by itself.
    pub(super) fn drive_for<T>(
        &mut self,
        cx: &mut Context<'_>,
        mut look: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        match &mut self.sender {
            Sender::Http1(link) => link.drive_for(cx, look),
            Sender::Http2(_) => look(cx),
        }
    }

    /// Has the connection moved in a task, so that the upload goes on while nobody reads the answer. It serves no other
    /// request, and ends with the handle that is given back, or at the deadline.
    pub(super) fn part(self, deadline: Option<Instant>) -> Option<AbortOnDropHandle<()>> {
        match self.sender {
            Sender::Http1(link) => {
                let task = self.pool.upstream.tracker.spawn(async move {
                    match deadline {
                        Some(at) => drop(tokio::time::timeout_at(at, link.finish()).await),
                        None => link.finish().await,
                    }
                });
                Some(AbortOnDropHandle::new(task))
            }
            Sender::Http2(_) => None,
        }
    }

    /// Puts the connection back: its answer was read to the end.
    pub(super) fn give_back(self) {
        // One that still sends its request is let go: nobody would move it.
        if let Sender::Http1(mut link) = self.sender
            && link.settle()
        {
            let now = Instant::now();
            let mut idle = self.pool.idle.lock();
            if idle.len() < MAX_IDLE && !self.pool.is_over(now) {
                idle.push((link, now));
            }
        }
    }
}

/// A second copy of a request that may be sent twice: of a method that is idempotent, and without a body.
static DPOP: HeaderName = HeaderName::from_static("dpop");

fn repeatable(request: &Request<Body>) -> Option<Request<Body>> {
    let plain = request.method().is_idempotent() && request.body().is_end_stream();
    // A proof of possession is good once (RFC 9449 §4.2).
    (plain && !request.headers().contains_key(&DPOP)).then(|| copy(request))
}

/// A second copy of a request without a body.
pub(super) fn copy(request: &Request<Body>) -> Request<Body> {
    let mut copy = Request::new(Body::empty());
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    copy
}
