//! Refusals: the only place that turns an error into a status.
//!
//! Every answer that keyward itself makes is `application/problem+json` (RFC 9457) with the header
//! `keyward-refusal: WORD`; the same word stands in the audit record and the metric label. The text is written for an
//! agent to act upon, and holds nothing of the request, the upstream or its certificate. Many clients hide the body of
//! an answer to CONNECT and show its status line, or its fields where they are asked for more: so the reason phrase and
//! `Proxy-Status` (RFC 9209) say it too.

mod detail;
mod from;

use bytes::Bytes;
use http::header::{
    CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, PROXY_AUTHENTICATE, RETRY_AFTER,
};
use http::{Response, StatusCode};
use hyper::ext::ReasonPhrase;

use super::body::Body;
use crate::approval::Ticket;
use crate::head::Unclean;

/// The header that names the word.
pub const HEADER: HeaderName = HeaderName::from_static("keyward-refusal");

/// RFC 9209.
const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");

/// Why keyward did not let a request through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Refusal {
    /// The head is malformed or ambiguous.
    BadRequest(Unclean),
    /// The request is malformed in another way, with what is wrong.
    Malformed(&'static str),
    /// TRACE, CONNECT inside a tunnel, or no method at all.
    Method,
    /// A body is longer than what must be read of it.
    TooLarge,
    /// The request names another host than its connection.
    HostMismatch,
    /// The head exceeds the limits.
    HeadTooLarge,
    /// The agent is suspended.
    Suspended,
    /// The agent is not in the registry.
    Unregistered,
    /// No route covers the request.
    NoRoute,
    /// Policy denies it, with what is wrong.
    Denied(&'static str),
    /// The credential is a person's, and the session acts for none.
    UserRequired,
    /// A guard of the route is not met.
    Condition(&'static str),
    /// A person has been asked; the request is to come again with this ticket.
    ApprovalRequired(Ticket),
    /// A person said no.
    ApprovalDenied,
    /// The ticket is unknown, used or past its time, or nobody answered in time.
    ApprovalExpired,
    /// The ticket is for another request.
    ApprovalMismatch,
    /// Nobody can be asked.
    ApprovalUnavailable,
    /// The agent has asked people too much.
    Throttled,
    /// The address is private, or keyward's own.
    PrivateAddress,
    /// A host with a credential, over `http://`.
    Cleartext,
    /// Nobody knows who the agent is.
    Unidentified,
    /// The session is over.
    SessionEnded,
    /// The session is bound to another peer.
    WrongPeer,
    /// The agent has too many connections.
    TooManyConnections,
    /// The upstream cannot be reached.
    UpstreamUnreachable,
    /// The upstream's certificate does not verify.
    UpstreamUntrusted,
    /// The upstream's answer is malformed.
    BadUpstream,
    /// The answer held the secret where it cannot be masked.
    LeakBlocked,
    /// The answer's content coding cannot be decoded, so it cannot be scrubbed.
    Undecodable,
    /// The issuer refused.
    BrokerRefused,
    /// The issuer is out of reach; seconds until it is asked again.
    BrokerUnavailable(Option<u64>),
    /// The vault is sealed.
    BrokerSealed,
    /// A trust provider is out of reach.
    IdentityUnavailable,
    /// The audit record cannot be written.
    AuditUnavailable,
    /// What must outlast a crash cannot be written down.
    StoreUnavailable,
    /// The CA cannot issue a leaf.
    CaUnavailable,
    /// keyward is about to stop.
    Draining,
    /// The upstream did not answer in time.
    UpstreamTimeout,
    /// The issuer did not answer in time.
    BrokerTimeout,
}

impl Refusal {
    /// One of each word, for whoever lists them.
    pub const ALL: [Self; 38] = [
        Self::Malformed(""),
        Self::Method,
        Self::TooLarge,
        Self::HostMismatch,
        Self::HeadTooLarge,
        Self::Suspended,
        Self::Unregistered,
        Self::NoRoute,
        Self::Denied(""),
        Self::UserRequired,
        Self::Condition(""),
        Self::ApprovalRequired(Ticket::NONE),
        Self::ApprovalDenied,
        Self::ApprovalExpired,
        Self::ApprovalMismatch,
        Self::ApprovalUnavailable,
        Self::Throttled,
        Self::PrivateAddress,
        Self::Cleartext,
        Self::Unidentified,
        Self::SessionEnded,
        Self::WrongPeer,
        Self::TooManyConnections,
        Self::UpstreamUnreachable,
        Self::UpstreamUntrusted,
        Self::BadUpstream,
        Self::LeakBlocked,
        Self::Undecodable,
        Self::BrokerRefused,
        Self::BrokerUnavailable(None),
        Self::BrokerSealed,
        Self::IdentityUnavailable,
        Self::AuditUnavailable,
        Self::StoreUnavailable,
        Self::CaUnavailable,
        Self::Draining,
        Self::UpstreamTimeout,
        Self::BrokerTimeout,
    ];

    /// Status and word.
    pub fn status(self) -> (StatusCode, &'static str) {
        match self {
            Self::BadRequest(_) | Self::Malformed(_) => (StatusCode::BAD_REQUEST, "bad-request"),
            Self::Method => (StatusCode::METHOD_NOT_ALLOWED, "method"),
            Self::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "too-large"),
            Self::HostMismatch => (StatusCode::MISDIRECTED_REQUEST, "host-mismatch"),
            Self::HeadTooLarge => (
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "head-too-large",
            ),
            Self::Suspended => (StatusCode::FORBIDDEN, "suspended"),
            Self::Unregistered => (StatusCode::FORBIDDEN, "unregistered"),
            Self::NoRoute => (StatusCode::FORBIDDEN, "no-route"),
            Self::Denied(_) => (StatusCode::FORBIDDEN, "denied"),
            Self::UserRequired => (StatusCode::FORBIDDEN, "user-required"),
            Self::Condition(_) => (StatusCode::FORBIDDEN, "condition"),
            Self::ApprovalRequired(_) => (StatusCode::FORBIDDEN, "approval-required"),
            Self::ApprovalDenied => (StatusCode::FORBIDDEN, "approval-denied"),
            Self::ApprovalExpired => (StatusCode::FORBIDDEN, "approval-expired"),
            Self::ApprovalMismatch => (StatusCode::FORBIDDEN, "approval-mismatch"),
            Self::ApprovalUnavailable => (StatusCode::SERVICE_UNAVAILABLE, "approval-unavailable"),
            Self::Throttled => (StatusCode::TOO_MANY_REQUESTS, "throttled"),
            Self::PrivateAddress => (StatusCode::FORBIDDEN, "private-address"),
            Self::Cleartext => (StatusCode::FORBIDDEN, "cleartext"),
            Self::Unidentified => (StatusCode::PROXY_AUTHENTICATION_REQUIRED, "unidentified"),
            Self::SessionEnded => (StatusCode::PROXY_AUTHENTICATION_REQUIRED, "session-ended"),
            Self::WrongPeer => (StatusCode::PROXY_AUTHENTICATION_REQUIRED, "wrong-peer"),
            Self::TooManyConnections => (StatusCode::TOO_MANY_REQUESTS, "too-many-connections"),
            Self::UpstreamUnreachable => (StatusCode::BAD_GATEWAY, "upstream-unreachable"),
            Self::UpstreamUntrusted => (StatusCode::BAD_GATEWAY, "upstream-untrusted"),
            Self::BadUpstream => (StatusCode::BAD_GATEWAY, "bad-upstream"),
            Self::LeakBlocked => (StatusCode::BAD_GATEWAY, "leak-blocked"),
            Self::Undecodable => (StatusCode::BAD_GATEWAY, "undecodable"),
            Self::BrokerRefused => (StatusCode::BAD_GATEWAY, "broker-refused"),
            Self::BrokerUnavailable(_) => (StatusCode::SERVICE_UNAVAILABLE, "broker-unavailable"),
            Self::BrokerSealed => (StatusCode::SERVICE_UNAVAILABLE, "broker-sealed"),
            Self::IdentityUnavailable => (StatusCode::SERVICE_UNAVAILABLE, "identity-unavailable"),
            Self::AuditUnavailable => (StatusCode::SERVICE_UNAVAILABLE, "audit-unavailable"),
            Self::StoreUnavailable => (StatusCode::SERVICE_UNAVAILABLE, "store-unavailable"),
            Self::CaUnavailable => (StatusCode::SERVICE_UNAVAILABLE, "ca-unavailable"),
            Self::Draining => (StatusCode::SERVICE_UNAVAILABLE, "draining"),
            Self::UpstreamTimeout => (StatusCode::GATEWAY_TIMEOUT, "upstream-timeout"),
            Self::BrokerTimeout => (StatusCode::GATEWAY_TIMEOUT, "broker-timeout"),
        }
    }

    /// The word alone.
    pub fn word(self) -> &'static str {
        self.status().1
    }

    /// Whether keyward decided so (`deny`), or something behind it failed after it had allowed the request.
    pub fn is_denial(self) -> bool {
        let (status, _) = self.status();
        status.is_client_error() || self == Self::ApprovalUnavailable
    }

    /// What a person reads first.
    fn title(self) -> &'static str {
        if self.is_denial() {
            "Refused by keyward"
        } else {
            "Not sent by keyward"
        }
    }

    /// The answer.
    pub fn response(self, request_id: &str) -> Response<Body> {
        self.telling(self.detail(), request_id)
    }

    /// The answer with another detail, for whoever refuses for a reason of their own.
    pub fn telling(self, detail: &str, request_id: &str) -> Response<Body> {
        let (status, word) = self.status();
        let mut problem = serde_json::json!({
            "type": format!("urn:keyward:refusal:{word}"),
            "title": self.title(),
            "status": status.as_u16(),
            "detail": detail,
            "request-id": request_id,
        });
        self.add_ticket(&mut problem);
        let mut response = Response::new(Body::full(Bytes::from(problem.to_string())));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(HEADER, HeaderValue::from_static(word));
        headers.extend(self.proxy_status(detail).map(|value| (PROXY_STATUS, value)));
        match self {
            Self::Unidentified | Self::SessionEnded | Self::WrongPeer => {
                headers.append(
                    PROXY_AUTHENTICATE,
                    HeaderValue::from_static("Basic realm=\"keyward\", charset=\"UTF-8\""),
                );
                headers.append(
                    PROXY_AUTHENTICATE,
                    HeaderValue::from_static("Bearer realm=\"keyward\""),
                );
            }
            Self::BrokerUnavailable(after) => {
                headers.insert(RETRY_AFTER, HeaderValue::from(after.unwrap_or(5)));
            }
            Self::ApprovalRequired(_) | Self::ApprovalUnavailable | Self::Throttled => {
                headers.insert(RETRY_AFTER, HeaderValue::from_static("5"));
            }
            Self::TooManyConnections | Self::Draining => {
                headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
            }
            _ => {}
        }
        let phrase = format!("{}: {word}. {detail}", self.title());
        if let Ok(phrase) = ReasonPhrase::try_from(phrase) {
            response.extensions_mut().insert(phrase);
        }
        response
    }

    /// `Proxy-Status`: the error types are those of RFC 9209 §2.3.
    fn proxy_status(self, detail: &str) -> Option<HeaderValue> {
        let error = match self {
            Self::BadRequest(_)
            | Self::Malformed(_)
            | Self::Method
            | Self::TooLarge
            | Self::HostMismatch
            | Self::HeadTooLarge => "http_request_error",
            Self::Suspended
            | Self::Unregistered
            | Self::NoRoute
            | Self::Denied(_)
            | Self::UserRequired
            | Self::Condition(_)
            | Self::Cleartext
            | Self::Unidentified
            | Self::SessionEnded
            | Self::WrongPeer
            | Self::ApprovalRequired(_)
            | Self::ApprovalDenied
            | Self::ApprovalExpired
            | Self::ApprovalMismatch
            | Self::Throttled
            | Self::TooManyConnections => "http_request_denied",
            Self::PrivateAddress => "destination_ip_prohibited",
            Self::UpstreamUnreachable => "destination_unavailable",
            Self::UpstreamUntrusted => "tls_certificate_error",
            Self::BadUpstream => "http_protocol_error",
            Self::Undecodable => "http_response_content_coding",
            Self::UpstreamTimeout => "http_response_timeout",
            Self::LeakBlocked
            | Self::ApprovalUnavailable
            | Self::BrokerRefused
            | Self::BrokerUnavailable(_)
            | Self::BrokerSealed
            | Self::BrokerTimeout
            | Self::IdentityUnavailable
            | Self::AuditUnavailable
            | Self::StoreUnavailable
            | Self::CaUnavailable
            | Self::Draining => "proxy_internal_error",
        };
        // An sf-string escapes these two (RFC 9651 §3.3.3).
        let text = format!("{}: {detail}", self.word());
        let text = text.replace('\\', r"\\").replace('"', "\\\"");
        HeaderValue::from_str(&format!("keyward; error={error}; details=\"{text}\"")).ok()
    }

    /// The same as a gRPC trailers-only answer (gRPC over HTTP/2, "Responses").
    pub fn grpc(self, request_id: &str) -> Response<Body> {
        let (status, word) = self.status();
        let code = match status.as_u16() {
            400 | 405 | 413 | 421 | 431 => "3",
            401 | 407 => "16",
            403 => "7",
            429 => "8",
            504 => "4",
            _ => "14",
        };
        let mut response = Response::new(Body::empty());
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(HEADER, HeaderValue::from_static(word));
        headers.insert("grpc-status", HeaderValue::from_static(code));
        let mut message =
            format!("{word}: {} (request {request_id})", self.detail()).replace('%', "%25");
        if let Self::ApprovalRequired(ticket) = self {
            message.push_str(" ticket ");
            message.push_str(ticket.id());
        }
        if let Ok(message) = HeaderValue::from_str(&message) {
            headers.insert("grpc-message", message);
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a sentence begins with that tells an agent what to do.
    const ACTS: [&str; 15] = [
        "Send ", "Use ", "Ask ", "Tell ", "Try ", "Open ", "Connect ", "Do not ", "Stop", "Close ",
        "Check ", "Put ", "Write ", "Where ", "Sign ",
    ];

    #[test]
    fn every_refusal_tells_the_agent_what_it_may_do() {
        for refusal in Refusal::ALL {
            let detail = refusal.detail();
            let acts = |part: &str| ACTS.iter().any(|act| part.trim_start().starts_with(act));
            // The text of these comes with what is wrong.
            let given = matches!(refusal, Refusal::Malformed(_) | Refusal::Denied(_));
            assert!(
                given || detail.split(". ").any(acts),
                "{refusal:?}: {detail}"
            );
        }
    }

    #[test]
    fn the_status_line_and_the_fields_say_what_the_body_says() {
        for refusal in Refusal::ALL {
            let (status, word) = refusal.status();
            let response = refusal.response("r-1");
            let phrase = response.extensions().get::<ReasonPhrase>().unwrap();
            let phrase = std::str::from_utf8(phrase.as_bytes()).unwrap();
            assert!(
                phrase.contains(word) && phrase.ends_with(refusal.detail()),
                "{phrase}"
            );
            let field = response.headers()["proxy-status"].to_str().unwrap();
            let (name, rest) = field.split_once("; error=").unwrap();
            assert_eq!(name, "keyward");
            assert!(rest.contains(&format!("; details=\"{word}: ")), "{field}");
            assert_eq!(field.matches('"').count(), 2, "{field}");
            assert_eq!(response.status(), status);
        }
    }
}
