//! The demo's service: an HTTPS API on loopback that takes one key, and has the bad habit of echoing it.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio_util::task::TaskTracker;

use super::{Fault, HOST_NAME};
use crate::clock::{Clock, SystemClock};
use crate::host::{HostMatch, Target};
use crate::proxy::Body;
use crate::tls::{Acceptor, Alpn, Authority, Constraints, Leaves};

/// A request that reached the service.
#[derive(Debug, Clone)]
pub(super) struct Got {
    pub(super) path: String,
    /// Its `authorization`, the key in it.
    pub(super) authorization: String,
}

/// The running service. It ends with the runtime.
#[derive(Debug)]
pub(super) struct Service {
    pub(super) address: SocketAddr,
    /// The root that its certificate hangs from.
    pub(super) root_pem: Arc<str>,
    got: Arc<Mutex<Vec<Got>>>,
}

impl Service {
    /// Listens on loopback, and accepts this key alone.
    pub(super) async fn start(key: Arc<str>, tracker: &TaskTracker) -> Result<Self, Fault> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let host = Target::from_connect(&format!("{HOST_NAME}:443"))?.host;
        let names = Constraints::new([&HostMatch::Exact(host.clone())]);
        let authority = Arc::new(Authority::ephemeral(names, Arc::clone(&clock))?);
        let root_pem = Arc::clone(authority.roots_pem());
        let acceptor = Leaves::new(authority, clock)?.acceptor(&host)?;
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let got = Arc::new(Mutex::default());
        tracker.spawn(serve(
            listener,
            acceptor,
            key,
            Arc::clone(&got),
            tracker.clone(),
        ));
        Ok(Self {
            address,
            root_pem,
            got,
        })
    }

    /// What has reached it so far.
    pub(super) fn got(&self) -> Vec<Got> {
        self.got.lock().clone()
    }
}

async fn serve(
    listener: TcpListener,
    acceptor: Arc<Acceptor>,
    key: Arc<str>,
    got: Arc<Mutex<Vec<Got>>>,
    tracker: TaskTracker,
) {
    while let Ok((stream, _)) = listener.accept().await {
        let (acceptor, key, got) = (Arc::clone(&acceptor), Arc::clone(&key), Arc::clone(&got));
        tracker.spawn(async move {
            let Ok((stream, _)) = acceptor.accept(stream, Alpn::Http1).await else {
                return;
            };
            let service = service_fn(move |request| {
                let response = answer(&request, &key, &got);
                async move { Ok::<_, Infallible>(response) }
            });
            // A connection that breaks is missed by the checks.
            http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await
                .ok();
        });
    }
}

fn answer(request: &Request<Incoming>, key: &str, got: &Mutex<Vec<Got>>) -> Response<Body> {
    let path = request.uri().path();
    let given = request.headers().get(AUTHORIZATION);
    let authorization = given
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    got.lock().push(Got {
        path: path.to_owned(),
        authorization: authorization.to_owned(),
    });
    let (status, body) = if authorization != format!("Bearer {key}") {
        (
            StatusCode::UNAUTHORIZED,
            serde_json::json!({"error": "bad key"}),
        )
    } else if path == "/v1/echo" {
        (
            StatusCode::OK,
            serde_json::json!({"you-sent": authorization}),
        )
    } else {
        (
            StatusCode::OK,
            serde_json::json!({"hello": "the key is good"}),
        )
    };
    let mut response = Response::new(Body::full(Bytes::from(body.to_string())));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
