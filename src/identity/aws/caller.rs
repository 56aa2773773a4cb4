//! A signed `GetCallerIdentity`: the agent signs a request, keyward sends it to STS, and STS says whose it was.
//!
//! The agent decides nothing about the call but the signature: the URL is the operator's, the action is fixed, only
//! headers of this list travel. A header that the signature covers names us, so that a request that was signed for
//! another service is worth nothing here.

use base64::Engine as _;
use base64::engine::general_purpose::{URL_SAFE, URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::header::{AUTHORIZATION, HOST, HeaderName, HeaderValue};
use http::{Request, StatusCode, Uri};
use jiff::Timestamp;
use serde::Deserialize;

use crate::identity::AttestError;
use crate::identity::jwt::object::Object;
use crate::identity::jwt::verified::sum;
use crate::identity::settings::CallerIdentity;
use crate::issuer::Client;

/// Who signed it.
#[derive(Debug)]
pub(super) struct Caller {
    pub(super) arn: String,
    pub(super) account: String,
    /// When STS would no longer take it.
    pub(super) until: Timestamp,
}

#[derive(Deserialize)]
struct Shown {
    method: String,
    url: String,
    headers: Object,
    body: String,
}

#[derive(Deserialize)]
struct Answer {
    #[serde(rename = "GetCallerIdentityResult")]
    result: Identity,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Identity {
    arn: String,
    account: String,
}

/// A request that may be sent on, and until when it is good.
#[derive(Debug)]
pub(super) struct Checked {
    request: Request<Bytes>,
    until: Timestamp,
    /// The SHA-256 of its signature. One key signs one request in one way only (HMAC), so this is what was signed, how
    /// ever the JSON and the headers around it are written.
    pub(super) signature: [u8; 32],
}

impl Checked {
    /// Looks at what the agent signed. `None` where it is not exactly the one request.
    pub(super) fn read(token: &[u8], settings: &CallerIdentity, now: Timestamp) -> Option<Self> {
        if token.len() > LONGEST {
            return None;
        }
        let json = URL_SAFE_NO_PAD
            .decode(token)
            .or_else(|_| URL_SAFE.decode(token))
            .ok()?;
        let shown: Shown = serde_json::from_slice(&json).ok()?;
        let url: Uri = shown.url.parse().ok()?;
        let sts = settings.sts.uri();
        let is_sts = url.scheme() == sts.scheme()
            && url.authority() == sts.authority()
            && matches!(url.path(), "" | "/")
            && url.query().is_none()
            && !shown.url.contains('#');
        if shown.method != "POST" || !is_sts || !BODIES.contains(&&*shown.body) {
            return None;
        }
        let headers = read_headers(&shown.headers)?;
        let get = |wanted: &str| {
            let found = headers.iter().find(|(name, _)| name == wanted);
            found.and_then(|(_, value)| value.to_str().ok())
        };
        // The audience, covered by the signature, and the host, which is the one that is called.
        if get(AUDIENCE)? != settings.audience || get("host")? != sts.authority()?.as_str() {
            return None;
        }
        let signed = signed_headers(get("authorization")?)?;
        let signature = signature(get("authorization")?)?;
        let covers = |name: &&str| signed.contains(name);
        let travels = |name: &&str| headers.iter().any(|(known, _)| known == *name);
        if !["host", AUDIENCE, "x-amz-date"].iter().all(covers) || !signed.iter().all(travels) {
            return None;
        }
        let until = date(get("x-amz-date")?)? + jiff::SignedDuration::from_mins(LIFE_MINUTES);
        let life = until.duration_since(now);
        if life <= jiff::SignedDuration::ZERO
            || life > jiff::SignedDuration::from_mins(LIFE_MINUTES + 1)
        {
            return None;
        }
        let mut request = Request::post(sts.clone());
        for (name, value) in headers {
            if name != HOST {
                request = request.header(name, value);
            }
        }
        let request = request.body(shown.body.into()).ok()?;
        Some(Self {
            request,
            until,
            signature,
        })
    }

    /// Asks STS.
    pub(super) async fn send(self, client: &Client) -> Result<Caller, AttestError> {
        let answered = tokio::time::timeout(DEADLINE, client.send(self.request)).await;
        let Ok(Ok(answer)) = answered else {
            return Err(AttestError::Unavailable);
        };
        match answer.status {
            StatusCode::OK => {}
            StatusCode::TOO_MANY_REQUESTS => return Err(AttestError::Unavailable),
            status if status.is_client_error() => return Err(AttestError::Bad),
            _ => return Err(AttestError::Unavailable),
        }
        let text = std::str::from_utf8(&answer.body).map_err(|_| AttestError::Unavailable)?;
        let found: Answer = quick_xml::de::from_str(text).map_err(|_| AttestError::Unavailable)?;
        Ok(Caller {
            arn: found.result.arn,
            account: found.result.account,
            until: self.until,
        })
    }
}

/// The headers, each once, none beside those of the list.
fn read_headers(shown: &Object) -> Option<Vec<(HeaderName, HeaderValue)>> {
    let mut headers: Vec<(HeaderName, HeaderValue)> = Vec::new();
    for (name, value) in shown.members() {
        let name = HeaderName::from_bytes(name.to_ascii_lowercase().as_bytes()).ok()?;
        // Some signers keep a list of values; of one there is no doubt.
        let text = match value.as_array().map(Vec::as_slice) {
            Some([only]) => only.as_str()?,
            Some(_) => return None,
            None => value.as_str()?,
        };
        let known = TRAVEL.contains(&name.as_str());
        if headers.iter().any(|(other, _)| *other == name) {
            return None;
        }
        if known {
            let mut value = HeaderValue::from_str(text).ok()?;
            value.set_sensitive(name == AUTHORIZATION);
            headers.push((name, value));
        }
    }
    Some(headers)
}

/// The names that a version 4 signature covers.
fn signed_headers(authorization: &str) -> Option<Vec<&str>> {
    let parts = authorization.strip_prefix("AWS4-HMAC-SHA256 ")?;
    let mut lists = parts
        .split(',')
        .filter_map(|part| part.trim().strip_prefix("SignedHeaders="));
    let names = lists.next()?.split(';').collect();
    lists.next().is_none().then_some(names)
}

/// The SHA-256 of the version 4 signature, which stands there once.
fn signature(authorization: &str) -> Option<[u8; 32]> {
    let mut values = authorization
        .split(',')
        .filter_map(|part| part.trim().strip_prefix("Signature="));
    let hex = values.next()?;
    if values.next().is_some() || hex.len() != 64 || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    Some(sum(hex.to_ascii_lowercase().as_bytes()))
}

/// `20261122T101500Z`.
fn date(text: &str) -> Option<Timestamp> {
    let civil = jiff::civil::DateTime::strptime("%Y%m%dT%H%M%SZ", text).ok()?;
    let zoned = civil.to_zoned(jiff::tz::TimeZone::UTC).ok()?;
    Some(zoned.timestamp())
}

/// The header that says for whom it was signed.
const AUDIENCE: &str = "x-keyward-audience";
/// Headers that travel to STS.
const TRAVEL: [&str; 8] = [
    "authorization",
    "host",
    "content-type",
    "x-amz-date",
    "x-amz-security-token",
    "x-amz-content-sha256",
    "content-length",
    AUDIENCE,
];
/// The one action, as SDKs write it.
const BODIES: [&str; 2] = [
    "Action=GetCallerIdentity&Version=2011-06-15",
    "Version=2011-06-15&Action=GetCallerIdentity",
];
/// How long STS takes a signature, in minutes.
const LIFE_MINUTES: i64 = 15;
/// The longest token, in bytes.
const LONGEST: usize = 16 * 1024;
/// The time for the call.
const DEADLINE: std::time::Duration = std::time::Duration::from_secs(5);
