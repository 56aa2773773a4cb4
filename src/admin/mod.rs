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
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, WWW_AUTHENTICATE};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
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
        tracker.spawn(async move {
            while let Some(accepted) = side.stop.run_until_cancelled(listener.accept()).await {
                match accepted {
                    Ok((stream, _)) => side.clone().connection(stream, Door::Tcp),
                    Err(_) => tokio::time::sleep(REST).await,
                }
            }
        });
    }
    if let Some(socket) = socket {
        tracker.spawn(async move {
            while let Some(accepted) = side.stop.run_until_cancelled(socket.accept()).await {
                match accepted {
                    Ok((stream, door)) => side.clone().connection(stream, door),
                    Err(_) => tokio::time::sleep(REST).await,
                }
            }
        });
    }
}

impl Side {
    fn connection<S>(self: Arc<Self>, stream: S, door: Door)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let tracker = self.tracker.clone();
        tracker.spawn(async move {
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
                _ = connection.as_mut() => {}
                () = self.stop.cancelled() => {
                    // An answer that is under way is finished: whoever ordered the stop waits for one.
                    connection.as_mut().graceful_shutdown();
                    tokio::time::timeout(Duration::from_secs(1), connection).await.ok();
                }
            }
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
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
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
