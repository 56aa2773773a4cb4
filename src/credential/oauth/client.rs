//! The one path to token endpoints: a form, a client that shows who it is, an answer that is judged.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode};

use super::super::{Handle, IssueError, RevokeError};
use super::Around;
use super::answer::{self, Granted, No, lost};
use super::authenticate::Identity;
use super::form::Form;
use super::server::{Endpoints, Place};
use super::settings::{self, ClientAuth, Server};
use super::sign::random_id;
use crate::clock::Clock;
use crate::inject::{DpopKey, Proof};
use crate::issuer::{Answer, Client, Endpoint};

/// Calls the token and revocation endpoints of one issuer as one client.
#[derive(Debug)]
pub(in super::super) struct TokenClient {
    place: Option<Place>,
    identity: Option<Identity>,
    plain: Client,
    clock: Arc<dyn Clock>,
    /// The nonce that the authorization server last gave (RFC 9449 §8.2).
    nonce: ArcSwapOption<HeaderValue>,
}

impl TokenClient {
    pub(in super::super) async fn open(
        server: &Server,
        client: Option<&settings::Client>,
        around: &Around<'_>,
    ) -> Self {
        let mutual = client.is_some_and(|client| matches!(client.auth, ClientAuth::Tls { .. }));
        let identity = match client {
            Some(client) => Some(Identity::open(client, around).await),
            None => None,
        };
        Self {
            place: Place::new(server, mutual),
            identity,
            plain: around.network.client(),
            clock: Arc::clone(around.clock),
            nonce: ArcSwapOption::empty(),
        }
    }

    /// The clock, for claims.
    pub(super) fn clock(&self) -> &dyn Clock {
        &*self.clock
    }

    /// Where the issuer's endpoints are.
    pub(in super::super) async fn endpoints(&self) -> Result<Arc<Endpoints>, IssueError> {
        let place = self.place.as_ref().ok_or(IssueError::Refused)?;
        place.find(&self.connections()?, &*self.clock).await
    }

    fn connections(&self) -> Result<Client, IssueError> {
        let shown = self.identity.as_ref().map(Identity::connections);
        let shown = shown.transpose()?.flatten();
        Ok(shown.unwrap_or_else(|| self.plain.clone()))
    }

    /// Asks for a token. With a key it is bound to it, and a nonce that the server wants is taken up once.
    pub(in super::super) async fn token(
        &self,
        at: &Endpoints,
        form: &Form,
        key: Option<&DpopKey>,
    ) -> Result<Granted, IssueError> {
        let granted = self.try_token(at, form, key).await;
        granted.map_err(|no| no.error)
    }

    /// The same, with whether a refusal is because of the grant.
    pub(super) async fn try_token(
        &self,
        at: &Endpoints,
        form: &Form,
        key: Option<&DpopKey>,
    ) -> Result<Granted, No> {
        let answer = self.ask(at, form, key).await?;
        let read = answer::read(&answer, self.clock.now().wall, key.is_some());
        if let Err(No {
            token: Some(token), ..
        }) = &read
        {
            // It cannot be used here, and must not be good for anybody else.
            self.revoke(&Handle::new(Arc::clone(token))).await.ok();
        }
        read
    }

    async fn ask(
        &self,
        at: &Endpoints,
        form: &Form,
        key: Option<&DpopKey>,
    ) -> Result<Answer, IssueError> {
        let Some(key) = key else {
            return self.post(&at.token, at, form.clone(), None).await;
        };
        let tried = self.nonce.load_full();
        let proof = self.proof(&at.token, key, tried.as_deref())?;
        let answer = self.post(&at.token, at, form.clone(), Some(proof)).await?;
        let fresh = answer.headers.get(NONCE).cloned().map(Arc::new);
        if let Some(fresh) = &fresh {
            self.nonce.store(Some(Arc::clone(fresh)));
        }
        if fresh.is_none() || fresh == tried || !answer::wants_nonce(&answer) {
            return Ok(answer);
        }
        let proof = self.proof(&at.token, key, fresh.as_deref())?;
        self.post(&at.token, at, form.clone(), Some(proof)).await
    }

    fn proof(
        &self,
        to: &Endpoint,
        key: &DpopKey,
        nonce: Option<&HeaderValue>,
    ) -> Result<HeaderValue, IssueError> {
        let url = to.to_string();
        let proof = Proof {
            method: "POST",
            url: url.split('?').next().unwrap_or_default(),
            issued_at: self.clock.now().wall.as_second(),
            id: random_id()?,
            nonce: nonce.and_then(|nonce| nonce.to_str().ok()),
            token_hash: None,
        };
        key.prove(&proof)
            .map_err(|_| IssueError::Unavailable { retry_after: None })
    }

    async fn post(
        &self,
        to: &Endpoint,
        at: &Endpoints,
        mut form: Form,
        proof: Option<HeaderValue>,
    ) -> Result<Answer, IssueError> {
        let mut headers = HeaderMap::new();
        if let Some(identity) = &self.identity {
            let now = self.clock.now();
            identity.show((&mut form, &mut headers), &at.audience, now)?;
        }
        if let Some(proof) = proof {
            headers.insert(PROOF, proof);
        }
        let request = post(to, headers, form);
        self.connections()?.send(request).await.map_err(lost)
    }

    /// Revokes a token (RFC 7009). A server that knows it no longer says 200 as well.
    pub(in super::super) async fn revoke(&self, handle: &Handle) -> Result<(), RevokeError> {
        let at = self.endpoints().await.map_err(|_| RevokeError::Failed)?;
        let to = at.revocation.as_ref().ok_or(RevokeError::Unsupported)?;
        let mut form = Form::new("token", handle.content().expose());
        form.push("token_type_hint", "access_token");
        let answer = self.post(to, &at, form, None).await;
        let answer = answer.map_err(|_| RevokeError::Failed)?;
        if answer.status == StatusCode::OK || answer.status == StatusCode::NO_CONTENT {
            return Ok(());
        }
        let error = answer.json::<serde_json::Value>().unwrap_or_default();
        match error.get("error").and_then(|error| error.as_str()) {
            Some("unsupported_token_type") => Err(RevokeError::Unsupported),
            _ => Err(RevokeError::Failed),
        }
    }
}

/// A form on its way.
pub(super) fn post(to: &Endpoint, headers: HeaderMap, form: Form) -> Request<Bytes> {
    let mut request = Request::new(form.into_body());
    *request.method_mut() = Method::POST;
    *request.uri_mut() = to.uri().clone();
    *request.headers_mut() = headers;
    let headers = request.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("application/x-www-form-urlencoded"),
    );
    headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
    request
}

/// `DPoP` (RFC 9449 §4).
const PROOF: HeaderName = HeaderName::from_static("dpop");
/// `DPoP-Nonce` (RFC 9449 §8.1).
const NONCE: HeaderName = HeaderName::from_static("dpop-nonce");
