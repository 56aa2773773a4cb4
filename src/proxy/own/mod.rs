//! What a proxy listener serves itself, in origin form: the CA, session tokens and the keys that they are signed with.

mod answer;
mod delegate;
mod form;
mod grant;
mod user;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HOST, HeaderValue};
use http::{Method, Request, Response};
use hyper::body::Incoming;
use serde_json::{Value, json};

use super::body::Body;
use super::connect::Front;
use super::refusal::Refusal;
use crate::host::Target;
use answer::TokenError;
use form::Form;

/// Answers a request that is for us.
pub(super) async fn serve(front: &Front, request: Request<Incoming>) -> Response<Body> {
    let get = *request.method() == Method::GET;
    match request.uri().path() {
        "/ca.pem" if get => roots(front),
        "/token" => match token(front, request).await {
            Ok(granted) => answer::json(&granted),
            Err(error) => error.response(),
        },
        "/revoke" => match revoke(front, request).await {
            Ok(()) => answer::json(&json!({})),
            Err(error) => error.response(),
        },
        "/.well-known/jwks.json" if get => kept(&front.shared.keys.jwks()),
        "/.well-known/oauth-authorization-server" if get => kept(&metadata(front, &request)),
        _ => Refusal::Malformed(
            "This is a proxy. Use it with CONNECT or an absolute http:// URL. It serves GET /ca.pem, POST /token, POST /revoke and GET /.well-known/jwks.json itself.",
        )
        .response(&front.shared.ids.next()),
    }
}

fn roots(front: &Front) -> Response<Body> {
    let snapshot = front.shared.snapshot.load();
    let pem = Bytes::from(snapshot.leaves.authority().roots_pem().to_string());
    let mut response = Response::new(Body::full(pem));
    response.headers_mut().insert(
        CONTENT_TYPE,
        HeaderValue::from_static("application/x-pem-file"),
    );
    response
}

/// A document that may be kept for a minute.
fn kept(document: &Value) -> Response<Body> {
    let mut response = answer::json(document);
    let minute = HeaderValue::from_static("max-age=60");
    response.headers_mut().insert(CACHE_CONTROL, minute);
    response
}

async fn token(front: &Front, request: Request<Incoming>) -> Result<Value, TokenError> {
    let (headers, form) = Form::read(front, request).await?;
    grant::grant(front, &headers, &form).await
}

/// RFC 7009 §2.1: whoever has a token may end it, from wherever; who says beside it who it is, only what it stands in the
/// chain of. §2.2: a token that is none is revoked already.
async fn revoke(front: &Front, request: Request<Incoming>) -> Result<(), TokenError> {
    let (headers, form) = Form::read(front, request).await?;
    let token = form.need("token")?;
    grant::revoke(front, &headers, token).await
}

/// RFC 8414 §2, as the requester reaches us.
fn metadata(front: &Front, request: &Request<Incoming>) -> Value {
    let host = request
        .headers()
        .get(HOST)
        .and_then(|host| host.to_str().ok());
    // What is repeated is a host and a port by our own grammar, or nothing.
    let named = host.filter(|host| {
        Target::from_connect(host).is_ok() || Target::from_connect(&format!("{host}:80")).is_ok()
    });
    let own = || front.shared.own.first().map(ToString::to_string);
    let base = named.map(str::to_owned).or_else(own).unwrap_or_default();
    json!({
        "issuer": *front.shared.issuer,
        "token_endpoint": format!("http://{base}/token"),
        "revocation_endpoint": format!("http://{base}/revoke"),
        "jwks_uri": format!("http://{base}/.well-known/jwks.json"),
        "grant_types_supported": [grant::CLIENT_CREDENTIALS, grant::TOKEN_EXCHANGE],
        "response_types_supported": [],
        "token_endpoint_auth_methods_supported": ["client_secret_basic", "none"],
        "revocation_endpoint_auth_methods_supported": ["none"],
    })
}
