//! Answers of the token endpoint: RFC 6749 §5 JSON, never kept.

use bytes::Bytes;
use http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, PRAGMA, RETRY_AFTER, WWW_AUTHENTICATE,
};
use http::{Response, StatusCode};
use serde_json::{Value, json};

use crate::approval::Ticket;
use crate::identity::{AttestError, Unregistered};
use crate::proxy::body::Body;

/// Why there is no token (RFC 6749 §5.2). The text is for an agent to act upon, and holds nothing of the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TokenError {
    /// `invalid_request`.
    Request(&'static str),
    /// Another method than POST.
    Method,
    /// `invalid_client`.
    Client,
    /// `unsupported_grant_type`.
    GrantType,
    /// `invalid_scope`.
    Scope(&'static str),
    /// `temporarily_unavailable`.
    Unavailable(&'static str),
    /// `authorization_pending` (RFC 8628 §3.5): a person has been asked.
    Pending(Ticket),
    /// `slow_down`: people have been asked too much.
    SlowDown,
    /// `access_denied`: a person said no.
    AccessDenied,
    /// `expired_token`: the ticket is unknown, used, or past its time.
    Expired,
}

/// How long whoever waits for a person is to wait between two tries, in seconds.
const INTERVAL: u64 = 2;

impl TokenError {
    fn parts(self) -> (StatusCode, &'static str, &'static str) {
        let bad = StatusCode::BAD_REQUEST;
        match self {
            Self::Request(what) => (bad, "invalid_request", what),
            Self::Method => (
                StatusCode::METHOD_NOT_ALLOWED,
                "invalid_request",
                "This endpoint takes POST with application/x-www-form-urlencoded.",
            ),
            Self::Client => (
                StatusCode::UNAUTHORIZED,
                "invalid_client",
                "Send the agent's id and token by HTTP Basic, or other evidence that a trust provider knows.",
            ),
            Self::GrantType => (
                bad,
                "unsupported_grant_type",
                "Use client_credentials or urn:ietf:params:oauth:grant-type:token-exchange.",
            ),
            Self::Scope(what) => (bad, "invalid_scope", what),
            Self::Unavailable(what) => (
                StatusCode::SERVICE_UNAVAILABLE,
                "temporarily_unavailable",
                what,
            ),
            Self::Pending(_) => (
                bad,
                "authorization_pending",
                "A person has been asked. Send the same request again with this ticket, every `interval` seconds.",
            ),
            Self::SlowDown => (
                bad,
                "slow_down",
                "Too many of this agent's questions wait for a person. Wait until some are decided.",
            ),
            Self::AccessDenied => (
                bad,
                "access_denied",
                "A person said no. Do not ask again; tell whoever gave you the task.",
            ),
            Self::Expired => (
                bad,
                "expired_token",
                "The ticket is unknown, used, or past its time. Ask again without it.",
            ),
        }
    }

    pub(super) fn response(self) -> Response<Body> {
        let (status, error, description) = self.parts();
        let mut body = json!({ "error": error, "error_description": description });
        if let (Self::Pending(ticket), Some(body)) = (self, body.as_object_mut()) {
            body.insert("ticket".into(), ticket.id().into());
            body.insert("code".into(), ticket.code().into());
            body.insert("interval".into(), INTERVAL.into());
        }
        let mut response = json(&body);
        *response.status_mut() = status;
        let headers = response.headers_mut();
        match self {
            Self::Client => {
                let basic = HeaderValue::from_static("Basic realm=\"keyward\", charset=\"UTF-8\"");
                headers.insert(WWW_AUTHENTICATE, basic);
            }
            Self::Method => {
                headers.insert(ALLOW, HeaderValue::from_static("POST"));
            }
            Self::Unavailable(_) | Self::SlowDown => {
                headers.insert(RETRY_AFTER, HeaderValue::from_static("5"));
            }
            _ => {}
        }
        response
    }
}

/// A JSON answer that nobody keeps.
pub(super) fn json(value: &Value) -> Response<Body> {
    let mut response = Response::new(Body::full(Bytes::from(value.to_string())));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(PRAGMA, HeaderValue::from_static("no-cache"));
    response
}

impl From<Unregistered> for TokenError {
    fn from(why: Unregistered) -> Self {
        Self::Request(match why {
            Unregistered::Unknown => {
                "This agent is not in the registry. Tell the operator; a retry will not help."
            }
            Unregistered::Suspended => {
                "This agent is suspended. Stop, and tell the operator; a retry will not help."
            }
        })
    }
}

impl From<AttestError> for TokenError {
    fn from(why: AttestError) -> Self {
        match why {
            AttestError::Bad => Self::Request("The evidence does not hold."),
            AttestError::Unavailable => {
                Self::Unavailable("It cannot be verified now who this agent is. Try again later.")
            }
        }
    }
}
