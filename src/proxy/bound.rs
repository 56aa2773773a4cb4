//! Requests whose token is bound to a key (RFC 9449): each carries a proof of its own.

use std::sync::Arc;

use http::Response;
use http::{HeaderMap, Method, Request, StatusCode};
use hyper::body::{Body as _, Incoming};
use tokio::time::Instant;

use super::body::Body;
use super::refusal::Refusal;
use super::tunnel::Tunnel;
use super::upstream::{Checkout, Pool, copy};
use crate::head::Head;
use crate::inject::Bound;
use crate::tls::Protocol;

/// Puts a proof for this request into its head.
pub(super) fn prove(tunnel: &Tunnel, bound: &Bound, head: &mut Head) -> Result<(), Refusal> {
    let (method, path) = (head.method().clone(), head.path().to_owned());
    put(tunnel, bound, head.headers_mut(), (&method, &path))
}

fn put(
    tunnel: &Tunnel,
    bound: &Bound,
    headers: &mut HeaderMap,
    (method, path): (&Method, &str),
) -> Result<(), Refusal> {
    let none = Refusal::BrokerUnavailable(None);
    let host = tunnel.host.to_str().map_err(|_| none)?;
    let url = format!("{}://{host}{path}", tunnel.target.scheme.as_str());
    let mut id = [0; 16];
    aws_lc_rs::rand::fill(&mut id).map_err(|_| none)?;
    let now = tunnel.shared.clock.now().wall.as_second();
    bound
        .prove(headers, (method, &url), (now, id))
        .map_err(|_| none)
}

/// Sends a request. An upstream that wants its nonce in the proof is asked once more where nothing of a body is gone;
/// else the next request has it.
pub(super) async fn send(
    (tunnel, bound): (&Tunnel, &Bound),
    pool: &Arc<Pool>,
    (request, deadline): (Request<Body>, Instant),
    prepare: impl Fn(&mut Request<Body>, Protocol),
) -> Result<(Response<Incoming>, Checkout), Refusal> {
    let spare = request.body().is_end_stream().then(|| copy(&request));
    let (response, connection) = pool.send((request, deadline), &prepare).await?;
    let is_new = bound.remember(response.headers());
    match spare {
        Some(mut again) if is_new && response.status() == StatusCode::UNAUTHORIZED => {
            drop((response, connection));
            let (method, path) = (again.method().clone(), again.uri().path().to_owned());
            put(tunnel, bound, again.headers_mut(), (&method, &path))?;
            let (response, connection) = pool.send((again, deadline), prepare).await?;
            bound.remember(response.headers());
            Ok((response, connection))
        }
        _ => Ok((response, connection)),
    }
}
