//! The admin listener: health, readiness and metrics for everybody; nothing of an agent's opens anything here.

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What the admin side asks of the running daemon.
pub trait State: fmt::Debug + Send + Sync {
    /// Why it is not ready to serve; `None` where it is.
    fn unready(&self) -> Option<&'static str>;
    /// The metrics, and their media type.
    fn metrics(&self) -> (String, &'static str);
}

/// Serves the admin side until `stop`.
pub fn serve(
    listener: TcpListener,
    state: Arc<dyn State>,
    tracker: &TaskTracker,
    stop: CancellationToken,
) {
    let connections = tracker.clone();
    tracker.spawn(async move {
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            let Ok((stream, _)) = accepted else {
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            let (state, stop) = (Arc::clone(&state), stop.clone());
            connections.spawn(async move {
                let service = service_fn(move |request: Request<Incoming>| {
                    let response = answer(&*state, &request);
                    async move { Ok::<_, Infallible>(response) }
                });
                let connection = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(Duration::from_secs(10))
                    .serve_connection(TokioIo::new(stream), service);
                tokio::select! {
                    () = stop.cancelled() => {}
                    _ = connection => {}
                }
            });
        }
    });
}

fn answer(state: &dyn State, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let known = matches!(request.uri().path(), "/healthz" | "/readyz" | "/metrics");
    if known && !matches!(*request.method(), Method::GET | Method::HEAD) {
        return problem(StatusCode::METHOD_NOT_ALLOWED, "method", "Use GET.");
    }
    match request.uri().path() {
        "/healthz" => text(StatusCode::OK, "ok\n".into(), "text/plain; charset=utf-8"),
        "/readyz" => match state.unready() {
            None => text(
                StatusCode::OK,
                "ready\n".into(),
                "text/plain; charset=utf-8",
            ),
            Some(why) => text(
                StatusCode::SERVICE_UNAVAILABLE,
                format!("{why}\n"),
                "text/plain; charset=utf-8",
            ),
        },
        "/metrics" => {
            let (metrics, media_type) = state.metrics();
            text(StatusCode::OK, metrics, media_type)
        }
        _ => problem(
            StatusCode::NOT_FOUND,
            "not-found",
            "Here are /healthz, /readyz and /metrics.",
        ),
    }
}

fn text(status: StatusCode, body: String, media_type: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
        .headers_mut()
        .insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn problem(status: StatusCode, word: &'static str, detail: &'static str) -> Response<Full<Bytes>> {
    let body = serde_json::json!({
        "type": format!("urn:keyward:refusal:{word}"),
        "title": status.canonical_reason(),
        "status": status.as_u16(),
        "detail": detail,
    });
    text(status, body.to_string(), "application/problem+json")
}
