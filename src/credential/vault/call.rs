//! One call of a Vault's API: its headers, its URL, and what each status means.

use std::fmt::Write as _;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request, StatusCode};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio_util::task::TaskTracker;
use zeroize::Zeroizing;

use super::answer::Lease;
use super::{Held, IssueError};
use crate::issuer::{self, Answer, Client, Endpoint};

/// Calls one Vault, in one namespace.
#[derive(Debug)]
pub(super) struct Call {
    client: Client,
    url: Endpoint,
    namespace: Option<HeaderValue>,
    /// The tasks of a login that must be done to their end.
    pub(super) tracker: TaskTracker,
}

/// Why a call came to nothing, for the operator. No text of the Vault's is in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Fault {
    #[error("it is out of reach")]
    Unreachable,
    #[error("its answer was lost")]
    Lost,
    #[error("it answered with status {0}")]
    Failing(u16, Option<Duration>),
    #[error("it is sealed")]
    Sealed,
    #[error("it sent us elsewhere with status {0}, which is not followed: name the active node")]
    Elsewhere(u16),
    #[error("permission denied: the token, its policies or the namespace")]
    Forbidden,
    #[error("it refused with status {0}")]
    Refused(u16),
    #[error("the login was refused with status {0}")]
    Login(u16),
    #[error("the wrapping token was refused: it has expired, or somebody has used it already")]
    Spent,
    #[error("the login has no secret: its source cannot be read")]
    NoSecret,
    #[error("its answer is not what was expected")]
    Rubbish,
    #[error("its answer lacks the field, or it is no text")]
    NoField,
    #[error(
        "the field holds what cannot stand in a request: a line end, a control character, not ASCII, or too much"
    )]
    Unusable,
    #[error("the lease has no life")]
    NoLife,
    #[error("the login that the lease was issued under is over")]
    OtherLogin,
}

impl From<Fault> for IssueError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Unreachable | Fault::Elsewhere(_) => Self::Unavailable { retry_after: None },
            Fault::Lost => Self::Lost,
            Fault::Failing(_, retry_after) => Self::Unavailable { retry_after },
            // The source is looked at on its own time: to ask sooner would find the same.
            Fault::NoSecret => Self::Unavailable {
                retry_after: Some(Duration::from_secs(1)),
            },
            Fault::Sealed => Self::Sealed,
            Fault::Forbidden
            | Fault::Refused(_)
            | Fault::Login(_)
            | Fault::Spent
            | Fault::Rubbish
            | Fault::NoField
            | Fault::Unusable
            | Fault::NoLife
            | Fault::OtherLogin => Self::Refused,
        }
    }
}

impl Call {
    pub(super) fn new(client: Client, url: Endpoint, namespace: Option<&str>) -> Self {
        Self {
            client,
            url,
            namespace: namespace.and_then(|name| HeaderValue::from_str(name).ok()),
            tracker: TaskTracker::new(),
        }
    }

    pub(super) async fn get(&self, path: &str, token: Option<&Held>) -> Result<Lease, Fault> {
        let answer = self.send(Method::GET, path, token, None).await?;
        answer.ok_or(Fault::Rubbish)
    }

    pub(super) async fn post(
        &self,
        path: &str,
        token: Option<&Held>,
        body: Bytes,
    ) -> Result<Lease, Fault> {
        let answer = self.send(Method::POST, path, token, Some(body)).await?;
        answer.ok_or(Fault::Rubbish)
    }

    /// Calls `/v1/PATH`. `None`: done, and there is nothing to say (204).
    pub(super) async fn send(
        &self,
        method: Method,
        path: &str,
        token: Option<&Held>,
        body: Option<Bytes>,
    ) -> Result<Option<Lease>, Fault> {
        let token = token.map(|held| held.token.clone());
        self.send_as(method, path, token, body).await
    }

    /// The same with another token than one of a login.
    pub(super) async fn send_as(
        &self,
        method: Method,
        path: &str,
        token: Option<HeaderValue>,
        body: Option<Bytes>,
    ) -> Result<Option<Lease>, Fault> {
        let url = endpoint(&self.url, path).map_err(|_| Fault::Rubbish)?;
        let mut request = Request::new(body.clone().unwrap_or_default());
        *request.method_mut() = method;
        *request.uri_mut() = url.uri().clone();
        let headers = request.headers_mut();
        headers.insert("x-vault-request", HeaderValue::from_static("true"));
        if let Some(namespace) = &self.namespace {
            headers.insert("x-vault-namespace", namespace.clone());
        }
        if let Some(token) = token {
            headers.insert("x-vault-token", token);
        }
        if body.is_some() {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        let answer = self
            .client
            .send(request)
            .await
            .map_err(|fault| match fault {
                issuer::Fault::TooLong => Fault::Rubbish,
                issuer::Fault::Lost => Fault::Lost,
                issuer::Fault::Unreachable => Fault::Unreachable,
            })?;
        judge(&answer)
    }
}

fn judge(answer: &Answer) -> Result<Option<Lease>, Fault> {
    let status = answer.status;
    match status {
        StatusCode::NO_CONTENT => Ok(None),
        StatusCode::OK => answer.json().map(Some).map_err(|_| Fault::Rubbish),
        StatusCode::FORBIDDEN => Err(Fault::Forbidden),
        StatusCode::SERVICE_UNAVAILABLE if says_sealed(answer) => Err(Fault::Sealed),
        // 412: a replica that has not yet heard of the token.
        StatusCode::TOO_MANY_REQUESTS | StatusCode::PRECONDITION_FAILED => Err(failing(answer)),
        _ if status.is_server_error() => Err(failing(answer)),
        _ if status.is_redirection() => Err(Fault::Elsewhere(status.as_u16())),
        _ => Err(Fault::Refused(status.as_u16())),
    }
}

fn failing(answer: &Answer) -> Fault {
    let now = Timestamp::now();
    Fault::Failing(answer.status.as_u16(), answer.retry_after(now))
}

/// `{"errors":["Vault is sealed"]}`: the same in OpenBao and in Vault.
fn says_sealed(answer: &Answer) -> bool {
    #[derive(Deserialize)]
    struct Errors {
        errors: Vec<String>,
    }
    let errors = answer.json::<Errors>().map(|said| said.errors);
    errors.is_ok_and(|errors| errors.iter().any(|error| error.contains("sealed")))
}

/// The URL of a path of the API. What no path may hold is percent-encoded (RFC 3986 §3.3).
pub(super) fn endpoint(url: &Endpoint, path: &str) -> Result<Endpoint, issuer::BadEndpoint> {
    let mut encoded = String::with_capacity(path.len() + 4);
    encoded.push_str("v1/");
    for byte in path.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                encoded.push(byte.into());
            }
            // Writing to a String cannot fail.
            _ => write!(encoded, "%{byte:02X}").unwrap_or_default(),
        }
    }
    url.join(&encoded)
}

/// A body that is wiped when it was sent.
pub(super) fn json(value: &impl Serialize) -> Result<Bytes, Fault> {
    let mut body = Zeroizing::new(Vec::with_capacity(ROOM));
    serde_json::to_writer(&mut *body, value).map_err(|_| Fault::Rubbish)?;
    Ok(Bytes::from_owner(body))
}

/// Room for a body: a buffer that grows would leave copies behind.
const ROOM: usize = 64 * 1024;
