//! The answer's way back: one sanitiser for every head and body, whatever the protocol.

use http::header::{
    ALT_SVC, CACHE_CONTROL, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, ETAG,
    HeaderMap, HeaderName, HeaderValue, LAST_MODIFIED, TRANSFER_ENCODING,
};
use http::{Method, Response, StatusCode};
use hyper::body::{Body as _, Incoming};
use tokio::time::Instant;

use super::body::{Answer, Body, BodyError, Stages};
use super::record::Entry;
use super::refusal::Refusal;
use super::slice::{self, Asked};
use super::upstream::Checkout;
use crate::route::TokenAnswer;
use crate::scrub::{Decoder, Patterns, Scrubber, Watch};

/// How much of a body is read ahead to know whether its validators still hold, in bytes.
const READ_AHEAD: usize = 64 * 1024;

static GRPC_ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
static CONNECT_CONTENT_ENCODING: HeaderName = HeaderName::from_static("connect-content-encoding");
static IM: HeaderName = HeaderName::from_static("im");

/// Digests of a body, which no longer hold once it is altered or decoded.
static DIGESTS: [HeaderName; 5] = [
    HeaderName::from_static("content-md5"),
    HeaderName::from_static("digest"),
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("repr-digest"),
    HeaderName::from_static("x-goog-hash"),
];

/// What a token endpoint would say, with a placeholder (RFC 6749 §5.1).
pub(super) fn token(answer: &TokenAnswer) -> Response<Body> {
    let mut response = Response::new(Body::full(answer.body()));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// How an answer is passed on.
#[derive(Debug)]
pub(super) struct Way {
    /// The method of the request.
    pub(super) method: Method,
    /// What is taken out of it.
    pub(super) scrub: Option<Watch>,
    /// The slice that is meant, where the upstream was asked for the whole.
    pub(super) slice: Option<Asked>,
    /// Whether the upstream may cut it by itself.
    pub(super) slices: bool,
    /// When it has to be there.
    pub(super) deadline: Instant,
}

/// Passes an upstream's answer on to the agent.
///
/// # Errors
/// The refusal that the agent gets instead: an answer that is malformed, or that cannot be inspected.
pub(super) async fn pass_on(
    response: Response<Incoming>,
    Way {
        method,
        scrub,
        slice,
        slices,
        deadline,
    }: Way,
    connection: Option<Checkout>,
    entry: &mut Option<Entry>,
) -> Result<Response<Body>, Refusal> {
    let (parts, incoming) = response.into_parts();
    if parts.status == StatusCode::SWITCHING_PROTOCOLS {
        return Err(Refusal::BadUpstream);
    }
    if scrub.is_some() {
        check_codings(parts.status, &parts.headers)?;
    }
    let mut headers = clean_head(parts.headers, scrub.as_deref());
    let bodiless = method == Method::HEAD
        || matches!(
            parts.status,
            StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
        )
        || incoming.is_end_stream();
    if !slices && !bodiless && slice::is_cut(parts.status, &headers) {
        return Err(Refusal::BadUpstream);
    }
    let stages = if bodiless {
        Stages::Pass
    } else {
        stages(&mut headers, scrub.as_ref())?
    };
    let cut = slice.filter(|_| !bodiless);
    let cut = cut.and_then(|asked| asked.cut(parts.status, &mut headers));
    let status = cut.map_or(parts.status, |(status, _)| status);
    if cut.is_some() {
        drop_digests(&mut headers);
    }
    let mut record = entry.take().ok_or(Refusal::BadUpstream)?;
    record.answered(status);
    let body = if bodiless {
        // What follows a head that has no body is nobody's, and is not passed on: its connection goes with it.
        if incoming.is_end_stream()
            && let Some(connection) = connection
        {
            connection.give_back();
        }
        drop(record);
        Body::empty()
    } else {
        let streams = is_event_stream(&headers);
        let mut answer = Answer::new(incoming, stages, record, connection);
        if super::exchange::is_grpc(&headers) {
            answer.keep_trailers(scrub.clone());
        }
        if !streams {
            answer.until(deadline);
        }
        answer.part();
        if scrub.is_some()
            && !streams
            && let Err(error) = settle_validators(&mut answer, &mut headers).await
        {
            *entry = Some(answer.into_entry());
            return Err(error);
        }
        if let Some((_, cut)) = cut {
            answer.cut(cut);
        }
        Body::answer(answer)
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    Ok(response)
}

/// Codings below the content coding, manipulations of an instance (RFC 3229 §10.4.1), and a content coding that
/// `Connection` would take away: what is in the body then cannot be known.
fn check_codings(status: StatusCode, headers: &HeaderMap) -> Result<(), Refusal> {
    if status == StatusCode::IM_USED {
        return Err(Refusal::Undecodable);
    }
    // One pass: a look-up by name costs as much as the comparison of a whole small head.
    for (name, value) in headers {
        let value = value.as_bytes();
        let codes = *name == GRPC_ENCODING || *name == CONNECT_CONTENT_ENCODING || *name == IM;
        if codes && value != b"identity" {
            return Err(Refusal::Undecodable);
        }
        let is_unread = *name == TRANSFER_ENCODING && !value.eq_ignore_ascii_case(b"chunked");
        let mut nominated = value.split(|b| *b == b',').map(<[u8]>::trim_ascii);
        let takes_away = *name == CONNECTION
            && nominated.any(|name| name.eq_ignore_ascii_case(b"content-encoding"));
        if is_unread || takes_away {
            return Err(Refusal::BadUpstream);
        }
    }
    Ok(())
}

/// What has to happen to the body; a coding that is taken off leaves the head too.
fn stages(headers: &mut HeaderMap, scrub: Option<&Watch>) -> Result<Stages, Refusal> {
    let Some(watch) = scrub else {
        return Ok(Stages::Pass);
    };
    let scrubber = Scrubber::new(watch.clone());
    let codings: Result<Vec<&str>, _> = headers
        .get_all(CONTENT_ENCODING)
        .iter()
        .map(HeaderValue::to_str)
        .collect();
    let codings = codings.map_err(|_| Refusal::Undecodable)?;
    match Decoder::new(codings).map_err(|_| Refusal::Undecodable)? {
        None => Ok(Stages::Scrub(scrubber)),
        Some(decoder) => {
            for name in [CONTENT_ENCODING, CONTENT_LENGTH].iter().chain(&DIGESTS) {
                headers.remove(name);
            }
            weaken(headers);
            Ok(Stages::Decode(Box::new(decoder), scrubber))
        }
    }
}

/// Another coding is another representation: a strong validator becomes a weak one (RFC 9110 §8.8.1).
fn weaken(headers: &mut HeaderMap) {
    let Some(tag) = headers
        .get(ETAG)
        .filter(|tag| !tag.as_bytes().starts_with(b"W/"))
    else {
        return;
    };
    match HeaderValue::from_bytes(&[b"W/", tag.as_bytes()].concat()) {
        Ok(weak) => headers.insert(ETAG, weak),
        Err(_) => headers.remove(ETAG),
    };
}

/// An altered body loses its validators and digests. A short one is known before its head leaves; of a long one it is
/// not known, so it loses them as well.
async fn settle_validators(answer: &mut Answer, headers: &mut HeaderMap) -> Result<(), Refusal> {
    let is_one = |name: &HeaderName| {
        *name == ETAG || *name == LAST_MODIFIED || DIGESTS.contains(name) || is_checksum(name)
    };
    if !headers.keys().any(is_one) {
        return Ok(());
    }
    let ended = answer
        .read_ahead(READ_AHEAD)
        .await
        .map_err(|error| match error {
            BodyError::Undecodable => Refusal::Undecodable,
            BodyError::Source(_) | BodyError::Chunks(_) => Refusal::BadUpstream,
            BodyError::TimedOut | BodyError::Over => Refusal::UpstreamTimeout,
        })?;
    if ended && !answer.altered() {
        return Ok(());
    }
    headers.remove(ETAG);
    headers.remove(LAST_MODIFIED);
    drop_digests(headers);
    Ok(())
}

/// Digests of another body than the one that is passed on.
fn drop_digests(headers: &mut HeaderMap) {
    let checksums: Vec<HeaderName> = headers
        .keys()
        .filter(|name| is_checksum(name))
        .cloned()
        .collect();
    for name in DIGESTS.iter().chain(&checksums) {
        headers.remove(name);
    }
}

fn is_checksum(name: &HeaderName) -> bool {
    name.as_str().starts_with("x-amz-checksum-")
}

fn is_event_stream(headers: &HeaderMap) -> bool {
    headers
        .get(CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"text/event-stream"))
}

/// An answer's head without what ends at this hop, what would lead the agent past us, and any secret.
fn clean_head(mut headers: HeaderMap, scrub: Option<&Patterns>) -> HeaderMap {
    let mut dropped: Vec<HeaderName> = Vec::new();
    for (name, value) in &headers {
        if *name == TRANSFER_ENCODING {
            // RFC 9112 §6.3: with both, the length is not to be believed.
            dropped.push(CONTENT_LENGTH);
        }
        if *name == CONNECTION {
            let nominated = value.as_bytes().split(|b| *b == b',');
            dropped.extend(nominated.filter_map(|t| HeaderName::from_bytes(t.trim_ascii()).ok()));
        }
        if ends_here(name) {
            dropped.push(name.clone());
        }
    }
    for name in dropped {
        headers.remove(name);
    }
    match scrub {
        Some(patterns) => scrub_fields(headers, patterns),
        None => headers,
    }
}

/// Trailers: the same sanitiser.
pub(super) fn clean_fields(fields: HeaderMap, patterns: Option<&Patterns>) -> HeaderMap {
    clean_head(fields, patterns)
}

/// The same for values of our own making.
pub(super) fn clean_values(headers: HeaderMap, patterns: &Patterns) -> HeaderMap {
    scrub_fields(headers, patterns)
}

/// Hop-by-hop fields, `Alt-Svc` (RFC 7838: it would lead the agent to a connection that nobody judges), and our own.
fn ends_here(name: &HeaderName) -> bool {
    *name == ALT_SVC
        || matches!(
            name.as_str(),
            "connection"
                | "keep-alive"
                | "proxy-connection"
                | "proxy-authenticate"
                | "proxy-authentication-info"
                | "te"
                | "trailer"
                | "transfer-encoding"
                | "upgrade"
        )
        || name.as_str().starts_with("keyward-")
}

/// Masks secrets in values, and drops a field whose name holds one, in whatever case.
fn scrub_fields(mut headers: HeaderMap, patterns: &Patterns) -> HeaderMap {
    let mut named: Vec<HeaderName> = Vec::new();
    for name in headers.keys() {
        if patterns.is_in_name(name.as_str().as_bytes()) {
            named.push(name.clone());
        }
    }
    for name in named {
        headers.remove(name);
    }
    for value in headers.values_mut() {
        if let Some(masked) = patterns.scrub_value(value.as_bytes()) {
            *value =
                HeaderValue::from_bytes(&masked).unwrap_or_else(|_| HeaderValue::from_static(""));
        }
    }
    headers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ends_here_is_dropped_with_what_connection_names() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "x-hop, close"),
            ("x-hop", "1"),
            ("keyward-refusal", "forged"),
            ("alt-svc", "h3=\":443\""),
            ("transfer-encoding", "chunked"),
            ("content-length", "5"),
            ("x-kept", "1"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        let cleaned = clean_head(headers, None);
        assert_eq!(
            cleaned.keys().map(HeaderName::as_str).collect::<Vec<_>>(),
            ["x-kept"]
        );
    }

    #[test]
    fn a_field_whose_lower_cased_name_holds_a_secret_is_dropped() {
        let secret = crate::secret::Secret::from("sk-Qm7vX2pLr9TzWc4NdYb8".to_owned());
        let patterns = Patterns::compile([&secret]);
        let mut headers = HeaderMap::new();
        for name in [&b"X-sk-Qm7vX2pLr9TzWc4NdYb8"[..], b"X-Request-Id"] {
            let name = HeaderName::from_bytes(name).unwrap();
            headers.insert(name, HeaderValue::from_static("1"));
        }
        let cleaned = clean_head(headers, Some(&patterns));
        assert_eq!(
            cleaned.keys().map(HeaderName::as_str).collect::<Vec<_>>(),
            ["x-request-id"]
        );
    }

    #[test]
    fn a_decoded_representation_has_a_weak_validator() {
        let mut headers = HeaderMap::new();
        headers.insert(ETAG, HeaderValue::from_static("\"a\""));
        weaken(&mut headers);
        weaken(&mut headers);
        assert_eq!(headers.get(ETAG).unwrap(), "W/\"a\"");
    }
}
