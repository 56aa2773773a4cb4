//! HTTPS towards issuers: the one way in which keyward itself calls authorization servers, vaults and key sets.
//!
//! An issuer's URL is the operator's own word, so private addresses are allowed and the address policy of agents does
//! not hold here; certificates are verified against `[upstream] trust`, and `connect-to` says where to dial. Redirects
//! are never followed, proxy variables are never read, and an answer is read whole or not at all, within [`MOST`].
//! The caller sets the deadline.

mod dial;
mod endpoint;
mod refreshed;
pub mod spiffe;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use crate::host::Target;
use crate::tls::{ClientIdentity, Connector, TrustError};

pub use endpoint::{BadEndpoint, Endpoint};
pub use refreshed::{AGAIN, Gone, Origin, Refreshed};

/// The most that an issuer's answer may hold, in bytes.
pub const MOST: usize = 1 << 20;
/// The longest that a `Retry-After` is believed.
pub const LONGEST_RETRY: Duration = Duration::from_mins(5);
/// How long a connection waits for the next request.
const IDLE: Duration = Duration::from_mins(1);

/// What somebody else wrote, as a log or a terminal may show it: no character of it moves a cursor, or turns the direction of
/// what follows, and a backslash is two.
pub fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '"' | '\'' => shown.push(c),
            _ => shown.extend(c.escape_debug()),
        }
    }
    shown
}

/// What all calls to issuers share: trust, and where to dial. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Network {
    connector: Connector,
    connect_to: Arc<BTreeMap<Target, Target>>,
}

/// Calls issuers, and keeps connections for the next call. Cheap to clone; the clones share their connections.
#[derive(Clone)]
pub struct Client(legacy::Client<dial::Dial, Full<Bytes>>);

/// A whole answer. The body may hold a secret: it is wiped, and no `Debug` shows it.
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its header fields.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Zeroizing<Vec<u8>>,
}

/// Why there is no answer. Nothing of the issuer's is in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// No address, no connection, no handshake: it was not asked.
    #[error("the issuer is out of reach")]
    Unreachable,
    /// The connection broke before the answer was whole: it may have done what it was asked for.
    #[error("the issuer's answer was lost")]
    Lost,
    /// The answer is longer than [`MOST`].
    #[error("the issuer's answer is too long")]
    TooLong,
}

/// The body is not the JSON that was expected. What stands in it is not told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the issuer's answer is not what was expected")]
pub struct Rubbish;

impl Network {
    /// Dials by `connect_to`, and verifies with `connector`.
    pub fn new(connector: Connector, connect_to: BTreeMap<Target, Target>) -> Self {
        Self {
            connector,
            connect_to: Arc::new(connect_to),
        }
    }

    /// A client that presents no certificate.
    pub fn client(&self) -> Client {
        Client::over(dial::Dial::new(
            self.connector.clone(),
            Arc::clone(&self.connect_to),
        ))
    }

    /// A client that presents this certificate to issuers that ask (RFC 8705). It shares no connection with others.
    ///
    /// # Errors
    /// [`TrustError::Tls`], which a good identity never causes.
    pub fn client_as(&self, identity: &ClientIdentity) -> Result<Client, TrustError> {
        let connector = self.connector.with_identity(identity)?;
        let connect_to = Arc::clone(&self.connect_to);
        Ok(Client::over(dial::Dial::new(connector, connect_to)))
    }
}

impl Client {
    fn over(dial: dial::Dial) -> Self {
        let mut builder = legacy::Client::builder(TokioExecutor::new());
        builder
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(8);
        Self(builder.build(dial))
    }

    /// Sends one request to an [`Endpoint`] and reads the whole answer, whatever its status.
    ///
    /// # Errors
    /// [`Fault`].
    pub async fn send(&self, request: Request<Bytes>) -> Result<Answer, Fault> {
        let answer = self.0.request(request.map(Full::new)).await;
        let fault = |error: legacy::Error| {
            if error.is_connect() {
                Fault::Unreachable
            } else {
                Fault::Lost
            }
        };
        let (head, mut rest) = answer.map_err(fault)?.into_parts();
        let mut body = Zeroizing::new(Vec::with_capacity(4096));
        while let Some(frame) = rest.frame().await {
            let frame = frame.map_err(|_| Fault::Lost)?;
            let Some(data) = frame.data_ref() else {
                continue;
            };
            if body.len() + data.len() > MOST {
                return Err(Fault::TooLong);
            }
            append(&mut body, data);
        }
        Ok(Answer {
            status: head.status,
            headers: head.headers,
            body,
        })
    }
}

/// Appends without leaving an unwiped copy behind where the buffer grows.
fn append(body: &mut Zeroizing<Vec<u8>>, data: &[u8]) {
    let needed = body.len() + data.len();
    if needed > body.capacity() {
        let mut larger = Zeroizing::new(Vec::with_capacity(needed.next_power_of_two()));
        larger.extend_from_slice(body);
        *body = larger;
    }
    body.extend_from_slice(data);
}

impl Answer {
    /// The body as JSON of this shape.
    ///
    /// # Errors
    /// [`Rubbish`] for anything else, HTML among it.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Rubbish> {
        serde_json::from_slice(&self.body).map_err(|_| Rubbish)
    }

    /// The media type, without parameters.
    pub fn media_type(&self) -> Option<&str> {
        let value = self.headers.get(CONTENT_TYPE)?.to_str().ok()?;
        value.split(';').next().map(str::trim)
    }

    /// `Retry-After` (RFC 9110 §10.2.3), in seconds or as a date; never more than [`LONGEST_RETRY`].
    pub fn retry_after(&self, now: Timestamp) -> Option<Duration> {
        let text = self.headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
        let wait = if let Ok(seconds) = text.parse() {
            Duration::from_secs(seconds)
        } else {
            let date = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
            Duration::try_from(date.duration_since(now)).unwrap_or_default()
        };
        Some(wait.min(LONGEST_RETRY))
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Client(..)")
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer")
            .field("status", &self.status)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_another_wrote_moves_no_cursor() {
        for (text, shown) in [
            (
                "a plain \"word\", it's so: é",
                "a plain \"word\", it's so: é",
            ),
            ("\u{1b}[2J\r\n", "\\u{1b}[2J\\r\\n"),
            ("\u{9b}\u{202e}\\", "\\u{9b}\\u{202e}\\\\"),
        ] {
            assert_eq!(visible(text), shown);
        }
    }

    fn answer(retry_after: &str) -> Answer {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, retry_after.parse().unwrap());
        Answer {
            status: StatusCode::TOO_MANY_REQUESTS,
            headers,
            body: Zeroizing::default(),
        }
    }

    #[test]
    fn retry_after_is_seconds_or_a_date_and_bounded() {
        let now = "2026-11-20T12:00:00Z".parse().unwrap();
        let wait = |text| answer(text).retry_after(now);
        assert_eq!(wait("7"), Some(Duration::from_secs(7)));
        assert_eq!(wait("86400"), Some(LONGEST_RETRY));
        assert_eq!(
            wait("Fri, 20 Nov 2026 12:00:30 GMT"),
            Some(Duration::from_secs(30))
        );
        assert_eq!(wait("Fri, 20 Nov 2026 11:00:00 GMT"), Some(Duration::ZERO));
        assert_eq!(wait("soon"), None);
        assert_eq!(wait("-3"), None);
    }

    #[test]
    fn a_grown_body_is_the_same_body() {
        let mut body = Zeroizing::new(Vec::new());
        for chunk in [&b"one"[..], b"", &[7; 9000], b"end"] {
            append(&mut body, chunk);
        }
        assert_eq!(body.len(), 9006);
        assert!(body.starts_with(b"one") && body.ends_with(b"end"));
    }
}
