//! The operators' side: health, readiness and metrics for everybody, the API for operators; nothing of an agent's opens
//! anything here.

mod agents;
mod api;
mod approvals;
mod console;
mod leases;
mod openapi;
mod operators;
mod people;
mod reload;
mod sessions;
mod signin;
mod socket;
mod trail;

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, HeaderValue,
    WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS,
};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use agents::Agents;
pub use api::{Api, Ask, Fault, Part, Reply};
pub use approvals::Approvals;
pub use leases::Leases;
pub use operators::{Bearer, Caller, Gate, Operators};
pub use people::People;
pub use reload::{Asked, Reload};
pub use sessions::Sessions;
pub use socket::Socket;
pub use trail::Trail;

/// What the admin side asks of the running daemon.
pub trait State: fmt::Debug + Send + Sync {
    /// Why it is not ready to serve; `None` where it is.
    fn unready(&self) -> Option<&'static str>;
    /// The metrics, and their media type.
    fn metrics(&self) -> (String, &'static str);
}

/// How a caller came in.
#[derive(Debug, Clone)]
enum Door {
    /// The listener: an operator's token is needed.
    Tcp,
    /// The socket, by its owner or root: none is.
    Socket(Arc<str>),
    /// The socket, by somebody else.
    Stranger,
}

/// What every connection shares.
#[derive(Debug)]
struct Side {
    state: Arc<dyn State>,
    api: Api,
    stop: CancellationToken,
    tracker: TaskTracker,
}

/// How long a head may take, and a body.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest that a connection lasts. Nothing here takes longer, and whoever asks often comes again.
const LONGEST: Duration = Duration::from_mins(5);
/// The most connections at a time, of the listener and of the socket each.
const MOST: usize = 512;
/// How long the loop rests after an error such as EMFILE.
const REST: Duration = Duration::from_millis(50);

/// Serves the admin side on the listener and the socket until `stop`.
pub fn serve(
    (listener, socket): (Option<TcpListener>, Option<Socket>),
    (state, api): (Arc<dyn State>, Api),
    tracker: &TaskTracker,
    stop: CancellationToken,
) {
    let side = Arc::new(Side {
        state,
        api,
        stop,
        tracker: tracker.clone(),
    });
    if let Some(listener) = listener {
        let side = Arc::clone(&side);
        tracker.spawn(async move { side.accept(&listener, MOST).await });
    }
    if let Some(socket) = socket {
        // Permits of its own: whoever fills the listener keeps no operator out.
        tracker.spawn(async move { side.accept(&socket, MOST).await });
    }
}

/// Where connections come in.
trait Entrance: Sync {
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    fn next(&self) -> impl Future<Output = io::Result<(Self::Stream, Door)>> + Send;
}

impl Entrance for TcpListener {
    type Stream = TcpStream;

    async fn next(&self) -> io::Result<(TcpStream, Door)> {
        Ok((self.accept().await?.0, Door::Tcp))
    }
}

impl Entrance for Socket {
    type Stream = UnixStream;

    async fn next(&self) -> io::Result<(UnixStream, Door)> {
        self.accept().await
    }
}

impl Side {
    /// Takes connections until the stop, so many at a time: the next one waits for a permit before it is accepted.
    async fn accept<E: Entrance>(self: &Arc<Self>, entrance: &E, most: usize) {
        let permits = Arc::new(Semaphore::new(most));
        let accepts = async {
            while let Ok(permit) = Arc::clone(&permits).acquire_owned().await {
                match entrance.next().await {
                    Ok((stream, door)) => Arc::clone(self).connection(stream, door, permit),
                    Err(_) => tokio::time::sleep(REST).await,
                }
            }
        };
        self.stop.run_until_cancelled(accepts).await;
    }

    fn connection<S>(self: Arc<Self>, stream: S, door: Door, permit: OwnedSemaphorePermit)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let tracker = self.tracker.clone();
        tracker.spawn(async move {
            let _permit = permit;
            let side = Arc::clone(&self);
            let service = service_fn(move |request: Request<Incoming>| {
                let (side, door) = (Arc::clone(&side), door.clone());
                async move { Ok::<_, Infallible>(side.answer(request, &door).await) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(PATIENCE)
                .serve_connection(TokioIo::new(stream), service);
            let mut connection = std::pin::pin!(connection);
            tokio::select! {
                _ = connection.as_mut() => return,
                () = self.stop.cancelled() => {}
                // Whoever takes an answer byte by byte, or none of it, gives the permit back as well.
                () = tokio::time::sleep(LONGEST) => {}
            }
            // An answer that is under way is finished: whoever ordered the stop waits for one.
            connection.as_mut().graceful_shutdown();
            tokio::time::timeout(Duration::from_secs(1), connection)
                .await
                .ok();
        });
    }

    async fn answer(&self, request: Request<Incoming>, door: &Door) -> Response<Full<Bytes>> {
        let path = request.uri().path();
        if let Some(below) = path.strip_prefix("/api/v1/") {
            let below = below.to_owned();
            return self.api.answer(request, &below, door).await.response();
        }
        // A browser comes to the listener; the socket's owner has the command line.
        if let (Some(people), Door::Tcp) = (self.api.people(), door)
            && console::is_path(path)
        {
            return self.console(people, request).await;
        }
        let known = matches!(path, "/healthz" | "/readyz" | "/metrics" | "/openapi.json");
        if known && !matches!(*request.method(), Method::GET | Method::HEAD) {
            return Reply::refused(Fault::Method, "Use GET.").response();
        }
        // Probes come by whatever name, and learn a word. All else is told to nobody's page (DNS rebinding).
        let probe = matches!(path, "/healthz" | "/readyz");
        if !probe && matches!(door, Door::Tcp) && !self.api.is_named(request.headers()) {
            return api::misdirected().response();
        }
        match path {
            "/healthz" => text(StatusCode::OK, "ok\n", PLAIN),
            "/readyz" => match self.state.unready() {
                None => text(StatusCode::OK, "ready\n", PLAIN),
                Some(why) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n"), PLAIN),
            },
            "/metrics" => {
                let (metrics, media_type) = self.state.metrics();
                text(StatusCode::OK, metrics, media_type)
            }
            "/openapi.json" => text(
                StatusCode::OK,
                openapi::DOCUMENT.clone(),
                "application/json",
            ),
            _ => Reply::refused(
                Fault::NotFound,
                "Here are /healthz, /readyz, /metrics, /openapi.json and /api/v1/.",
            )
            .response(),
        }
    }
}

impl Side {
    async fn console(&self, people: &People, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (head, body) = request.into_parts();
        if !self.api.is_named(&head.headers) {
            return api::misdirected().response();
        }
        let body = match api::taken(body).await {
            Ok(body) => body,
            Err(reply) => return reply.response(),
        };
        let wish = console::Wish {
            method: &head.method,
            path: head.uri.path(),
            query: head.uri.query().unwrap_or_default(),
            headers: &head.headers,
            body: &body,
        };
        console::answer(people, &self.api, wish).await
    }
}

const PLAIN: &str = "text/plain; charset=utf-8";
/// The same header that refusals of the proxy carry.
const REFUSAL: HeaderName = HeaderName::from_static("keyward-refusal");

fn text(
    status: StatusCode,
    body: impl Into<Bytes>,
    media_type: &'static str,
) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    for (name, value) in [
        (CONTENT_TYPE, media_type),
        (CACHE_CONTROL, "no-store"),
        // Nothing here is a page: what agents are called and are for stands in it.
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (
            CONTENT_SECURITY_POLICY,
            "default-src 'none'; frame-ancestors 'none'",
        ),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

impl Reply {
    fn response(self) -> Response<Full<Bytes>> {
        let (status, word) = match self.fault {
            None if self.body.is_none() => (StatusCode::NO_CONTENT, None),
            None => (StatusCode::OK, None),
            Some(fault) => {
                let (status, word) = fault.status();
                (status, Some(word))
            }
        };
        let body = self.body.map(|body| body.to_string()).unwrap_or_default();
        let media_type = match word {
            None => "application/json",
            Some(_) => "application/problem+json",
        };
        let mut response = text(status, body, media_type);
        let headers = response.headers_mut();
        if status == StatusCode::NO_CONTENT {
            headers.remove(CONTENT_TYPE);
        }
        if let Some(word) = word {
            headers.insert(REFUSAL, HeaderValue::from_static(word));
        }
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
    use tokio::sync::{Mutex, mpsc};

    use super::*;
    use crate::secret::Secret;

    #[derive(Debug)]
    struct Ready;

    impl State for Ready {
        fn unready(&self) -> Option<&'static str> {
            None
        }

        fn metrics(&self) -> (String, &'static str) {
            ("x".repeat(1 << 20), PLAIN)
        }
    }

    #[derive(Debug)]
    struct Closed;

    #[async_trait::async_trait]
    impl Gate for Closed {
        async fn know(&self, _: &Secret) -> Bearer {
            Bearer::Nobody
        }
    }

    fn side() -> Arc<Side> {
        Arc::new(Side {
            state: Arc::new(Ready),
            api: Api::new(Arc::new(Closed), Vec::new(), None),
            stop: CancellationToken::new(),
            tracker: TaskTracker::new(),
        })
    }

    /// Connections that a test puts in.
    struct Queue(Mutex<mpsc::UnboundedReceiver<DuplexStream>>);

    impl Entrance for Queue {
        type Stream = DuplexStream;

        async fn next(&self) -> io::Result<(DuplexStream, Door)> {
            let stream = self.0.lock().await.recv().await;
            Ok((stream.ok_or(io::ErrorKind::BrokenPipe)?, Door::Tcp))
        }
    }

    const PROBE: &[u8] = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

    async fn answered(stream: &mut DuplexStream) -> bool {
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        answer.starts_with(b"HTTP/1.1 200")
    }

    /// The clock stands still while something is done, so what does not come without it never comes.
    #[tokio::test(start_paused = true)]
    async fn whoever_holds_connections_open_makes_others_wait_and_no_more_of_them() {
        let side = side();
        let (queue, waiting) = mpsc::unbounded_channel();
        let (serving, queued) = (Arc::clone(&side), Queue(Mutex::new(waiting)));
        side.tracker
            .spawn(async move { serving.accept(&queued, 2).await });
        let connect = || {
            let (ours, theirs) = tokio::io::duplex(1 << 16);
            queue.send(theirs).unwrap();
            ours
        };
        let mut idle = [connect(), connect()];
        for stream in &mut idle {
            stream
                .write_all(b"GET /healthz HTTP/1.1\r\n")
                .await
                .unwrap();
        }
        let mut late = connect();
        late.write_all(PROBE).await.unwrap();
        let soon = Duration::from_secs(1);
        let early = tokio::time::timeout(soon, late.read_u8()).await;
        assert!(
            early.is_err(),
            "it was served beside as many as there may be"
        );
        // A head that does not end is given up, and makes room.
        let begun = tokio::time::Instant::now();
        assert!(answered(&mut late).await);
        assert!(begun.elapsed() <= PATIENCE);
        side.stop.cancel();
    }

    #[tokio::test(start_paused = true)]
    async fn who_reads_no_answer_is_not_served_without_end() {
        let side = side();
        let permits = Arc::new(Semaphore::new(1));
        let permit = Arc::clone(&permits).acquire_owned().await.unwrap();
        let (mut ours, theirs) = tokio::io::duplex(1024);
        Arc::clone(&side).connection(theirs, Door::Tcp, permit);
        ours.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
            .await
            .unwrap();
        let room = tokio::time::timeout(Duration::from_hours(1), permits.acquire()).await;
        assert!(room.is_ok(), "the permit was never given back");
    }
}
