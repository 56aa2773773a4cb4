//! `/api/v1`: who may ask, and which part answers. A part is a file; it sees a caller who is known already.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use http::header::{AUTHORIZATION, HOST};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::operators::{Bearer, Caller, Gate};
use super::people::People;
use super::{Door, PATIENCE, signin};
use crate::secret::Secret;

/// The most that a request's body may hold, in bytes.
const MOST: usize = 64 * 1024;

/// A part of the API.
#[async_trait]
pub trait Part: fmt::Debug + Send + Sync {
    /// Whether a person who signed in is let in too; the part then shows each what is theirs.
    fn lets_persons_in(&self) -> bool {
        false
    }

    /// The answer, where the path is of this part; `None` asks the next one.
    async fn answer(&self, ask: &Ask) -> Option<Reply>;
}

/// What is asked.
#[derive(Debug)]
pub struct Ask {
    /// Who asks.
    pub by: Caller,
    /// The method.
    pub method: Method,
    /// The segments of the path below `/api/v1`, decoded.
    pub path: Vec<String>,
    query: String,
    body: Bytes,
}

/// An answer.
#[derive(Debug)]
#[must_use]
pub struct Reply {
    pub(super) fault: Option<Fault>,
    pub(super) body: Option<Value>,
}

/// Why a request is not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It cannot be read.
    BadRequest,
    /// Nobody asks: no token, or one that is unknown.
    Unauthorized,
    /// Somebody asks who may not.
    Forbidden,
    /// There is no such thing.
    NotFound,
    /// Not with this method.
    Method,
    /// What there is does not allow it.
    Conflict,
    /// The body is too long.
    TooLarge,
    /// The request names another host.
    HostMismatch,
    /// What it needs does not answer.
    Unavailable,
}

/// The API: its gate, and its parts in the order in which they are asked.
#[derive(Debug)]
pub struct Api {
    gate: Arc<dyn Gate>,
    parts: Vec<Arc<dyn Part>>,
    /// The host that operators reach it by (`public-url`), where one is written.
    public: Option<String>,
    /// Where people sign in.
    people: Option<Arc<People>>,
}

impl Api {
    /// An API of these parts. `public_url` is a host that requests may name, beside addresses and `localhost`.
    pub fn new(gate: Arc<dyn Gate>, parts: Vec<Arc<dyn Part>>, public_url: Option<&str>) -> Self {
        let public = public_url.and_then(|url| {
            let authority = url.split_once("://")?.1;
            Some(authority.trim_end_matches('/').to_ascii_lowercase())
        });
        Self {
            gate,
            parts,
            public,
            people: None,
        }
    }

    /// Lets people sign in.
    #[must_use]
    pub fn with_people(self, people: Arc<People>) -> Self {
        Self {
            people: Some(people),
            ..self
        }
    }

    pub(super) fn people(&self) -> Option<&People> {
        self.people.as_deref()
    }

    pub(super) async fn answer(
        &self,
        request: Request<Incoming>,
        below: &str,
        door: &Door,
    ) -> Reply {
        let (head, body) = request.into_parts();
        if matches!(door, Door::Tcp) && !self.is_named(&head.headers) {
            return misdirected();
        }
        if let Some(people) = self.people()
            && signin::is_step(&head.method, below)
        {
            return match taken(body).await {
                Ok(body) => signin::step(people, below, &head.headers, &body).await,
                Err(reply) => reply,
            };
        }
        let by = match self.admit(&head.headers, door).await {
            Ok(by) => by,
            Err(reply) => return reply,
        };
        let Some(path) = below.split('/').map(decoded).collect::<Option<Vec<_>>>() else {
            return Reply::refused(Fault::BadRequest, "The path is not well formed.");
        };
        let body = match taken(body).await {
            Ok(body) => body,
            Err(reply) => return reply,
        };
        if let (Some(people), "login") = (self.people(), below) {
            return match (&head.method, bearer(&head.headers)) {
                (&Method::GET, _) => Reply::ok(signin::whoami(&by)),
                (&Method::DELETE, Some(token)) if matches!(by, Caller::Person(_)) => {
                    match people.sign_out(token, &by).await {
                        Ok(()) => Reply::done(),
                        Err(silent) => signin::refused(silent.into()),
                    }
                }
                (&Method::DELETE, _) => {
                    Reply::refused(Fault::Conflict, "An operator's token is not a sign-in.")
                }
                _ => Reply::refused(Fault::Method, "Use GET, POST or DELETE."),
            };
        }
        let ask = Ask {
            by,
            method: head.method,
            path,
            query: head.uri.query().unwrap_or_default().to_owned(),
            body,
        };
        self.pass_on(&ask).await
    }

    /// The answer of the part that knows the path, among those that the caller may ask.
    pub(super) async fn pass_on(&self, ask: &Ask) -> Reply {
        let is_person = matches!(ask.by, Caller::Person(_));
        for part in &self.parts {
            if is_person && !part.lets_persons_in() {
                continue;
            }
            if let Some(reply) = part.answer(ask).await {
                return reply;
            }
        }
        if is_person {
            return Reply::refused(Fault::Forbidden, "This is for operators: [admin] tokens.");
        }
        Reply::refused(Fault::NotFound, "There is nothing at this path.")
    }

    /// Who asks. A token counts wherever it came in; the socket's owner needs none.
    async fn admit(&self, headers: &HeaderMap, door: &Door) -> Result<Caller, Reply> {
        let stranger = || Reply::refused(Fault::Forbidden, "This is not for you.");
        let mut fields = headers.get_all(AUTHORIZATION).iter();
        if fields.next().is_none() {
            return match door {
                Door::Socket(by) => Ok(Caller::Operator(Arc::clone(by))),
                Door::Stranger => Err(stranger()),
                Door::Tcp => Err(Reply::refused(
                    Fault::Unauthorized,
                    "Send an operator's token: Authorization: Bearer TOKEN, of [admin] tokens.",
                )),
            };
        }
        let known = match bearer(headers) {
            Some(token) => self.gate.know(&Secret::new(token.to_vec())).await,
            None => Bearer::Nobody,
        };
        match known {
            Bearer::Caller(caller) => match door {
                Door::Stranger => Err(stranger()),
                Door::Tcp | Door::Socket(_) => Ok(caller),
            },
            Bearer::Agent => Err(Reply::refused(
                Fault::Forbidden,
                "An agent's credential opens nothing here.",
            )),
            Bearer::Nobody => Err(Reply::refused(
                Fault::Unauthorized,
                "The token is not one of [admin] tokens.",
            )),
        }
    }

    /// A name that somebody else resolves to us (DNS rebinding) is not ours: an address, `localhost` and `public-url`
    /// are.
    pub(super) fn is_named(&self, headers: &HeaderMap) -> bool {
        let mut fields = headers.get_all(HOST).iter();
        let Some(host) = fields.next().and_then(|field| field.to_str().ok()) else {
            return false;
        };
        if fields.next().is_some() {
            return false;
        }
        let host = host.to_ascii_lowercase();
        let name = match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
            _ => &host,
        };
        let address = name.trim_start_matches('[').trim_end_matches(']');
        self.public.as_deref() == Some(&*host)
            || name == "localhost"
            || address.parse::<IpAddr>().is_ok()
    }
}

/// The refusal of a request that names another host.
pub(super) fn misdirected() -> Reply {
    Reply::refused(
        Fault::HostMismatch,
        "The request names another host. Use public-url, or an address.",
    )
}

/// A body, whole and in time.
pub(super) async fn taken(body: Incoming) -> Result<Bytes, Reply> {
    let read = tokio::time::timeout(PATIENCE, Limited::new(body, MOST).collect());
    match read.await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
            Err(Reply::refused(Fault::TooLarge, "The body exceeds 64 KiB."))
        }
        _ => Err(Reply::refused(Fault::BadRequest, "The body broke off.")),
    }
}

/// The bearer token of a request (RFC 6750 §2.1), where it is shown once.
fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let mut fields = headers.get_all(AUTHORIZATION).iter();
    let field = fields.next()?.as_bytes();
    let (scheme, token) = field.split_at_checked(7)?;
    let only = fields.next().is_none() && scheme.eq_ignore_ascii_case(b"bearer ");
    only.then(|| token.trim_ascii())
}

impl Ask {
    /// What the console asks for somebody.
    pub(super) fn new(by: Caller, method: Method, path: Vec<String>) -> Self {
        Self {
            by,
            method,
            path,
            query: String::new(),
            body: Bytes::new(),
        }
    }

    /// The same with a query.
    pub(super) fn asking(self, query: &str) -> Self {
        Self {
            query: query.to_owned(),
            ..self
        }
    }

    /// The same with a body.
    pub(super) fn bearing(self, body: &Value) -> Self {
        Self {
            body: body.to_string().into(),
            ..self
        }
    }

    /// The path's segments as texts, to be matched.
    pub fn segments(&self) -> Vec<&str> {
        self.path.iter().map(String::as_str).collect()
    }

    /// The first value of this name in the query.
    pub fn query(&self, name: &str) -> Option<String> {
        form_urlencoded::parse(self.query.as_bytes())
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.into_owned())
    }

    /// The body as JSON of this shape; an empty body is `{}`.
    ///
    /// # Errors
    /// The answer to give.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Reply> {
        let body = if self.body.is_empty() {
            &b"{}"[..]
        } else {
            &self.body
        };
        serde_json::from_slice(body)
            .map_err(|_| Reply::refused(Fault::BadRequest, "The body is not the JSON that is due."))
    }
}

impl Reply {
    /// 200, with this object.
    pub fn ok(body: Value) -> Self {
        Self {
            fault: None,
            body: Some(body),
        }
    }

    /// 200, with a list.
    pub fn list(items: Vec<Value>) -> Self {
        let members = [("items", Value::Array(items)), ("next", Value::Null)];
        let members = members.map(|(name, value)| (name.to_owned(), value));
        Self::ok(Value::Object(members.into_iter().collect()))
    }

    /// 204.
    pub fn done() -> Self {
        Self {
            fault: None,
            body: None,
        }
    }

    /// A refusal. `detail` says what to do about it.
    pub fn refused(fault: Fault, detail: &str) -> Self {
        let (status, word) = fault.status();
        Self {
            fault: Some(fault),
            body: Some(json!({
                "type": format!("urn:keyward:refusal:{word}"),
                "title": status.canonical_reason(),
                "status": status.as_u16(),
                "detail": detail,
            })),
        }
    }

    /// The refusal with one more member.
    pub fn with(mut self, name: &str, value: Value) -> Self {
        if let Some(Value::Object(body)) = &mut self.body {
            body.insert(name.to_owned(), value);
        }
        self
    }
}

impl Fault {
    /// Its status, and its word.
    pub fn status(self) -> (StatusCode, &'static str) {
        match self {
            Self::BadRequest => (StatusCode::BAD_REQUEST, "bad-request"),
            Self::Unauthorized => (StatusCode::UNAUTHORIZED, "unauthorized"),
            Self::Forbidden => (StatusCode::FORBIDDEN, "forbidden"),
            Self::NotFound => (StatusCode::NOT_FOUND, "not-found"),
            Self::Method => (StatusCode::METHOD_NOT_ALLOWED, "method"),
            Self::Conflict => (StatusCode::CONFLICT, "conflict"),
            Self::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "too-large"),
            Self::HostMismatch => (StatusCode::MISDIRECTED_REQUEST, "host-mismatch"),
            Self::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "store-unavailable"),
        }
    }
}

/// A segment without its percent-encoding; `None` where that is not UTF-8 text, or holds a control character.
fn decoded(segment: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let mut digit = || char::from(rest.next()?).to_digit(16);
                u8::try_from(digit()? * 16 + digit()?).ok()?
            }
            byte => byte,
        });
    }
    let text = String::from_utf8(bytes).ok()?;
    (!text.contains(char::is_control)).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_is_decoded_or_refused() {
        assert_eq!(decoded("a%2Fb%40c").as_deref(), Some("a/b@c"));
        for bad in ["%", "%2", "%zz", "%ff", "%00", "%0a"] {
            assert_eq!(decoded(bad), None, "{bad}");
        }
    }

    #[test]
    fn only_names_that_nobody_else_can_resolve_are_ours() {
        #[derive(Debug)]
        struct Closed;
        #[async_trait]
        impl Gate for Closed {
            async fn know(&self, _: &Secret) -> Bearer {
                Bearer::Nobody
            }
        }
        let api = Api::new(
            Arc::new(Closed),
            Vec::new(),
            Some("https://keyward.example.com"),
        );
        let named = |hosts: &[&str]| {
            let mut headers = HeaderMap::new();
            for host in hosts {
                headers.append(HOST, host.parse().unwrap());
            }
            api.is_named(&headers)
        };
        for ours in [
            "127.0.0.1:8181",
            "[::1]:8181",
            "[::1]",
            "10.0.0.7",
            "localhost:8181",
            "Keyward.example.com",
        ] {
            assert!(named(&[ours]), "{ours}");
        }
        for other in [
            "evil.example.com",
            "keyward.example.com.evil.test",
            "",
            "1.2.3.4.evil.test:80",
        ] {
            assert!(!named(&[other]), "{other}");
        }
        assert!(!named(&[]) && !named(&["localhost", "localhost"]));
    }
}
