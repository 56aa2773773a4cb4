//! Head hygiene: a request head is clean, or it is refused; it is never forwarded half understood.
//!
//! hyper is lenient where a proxy that injects secrets must not be (two `Transfer-Encoding` fields, `Content-Length:
//! 010`, foreign `Host`, `Connection: authorization`). [`Head::clean`] checks what arrived against the one
//! [`Target`], drops what is hop-by-hop, and keeps parsed parts from which the upstream's request is built anew
//! (RFC 9110 §7.6.1, RFC 9112 §6 and §11, RFC 9113 §8).

mod field;
mod path;

use std::sync::Arc;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::PathAndQuery;
use http::{Method, Uri, Version, request::Parts};

use self::field::{dashed, ends_here, reroutes};
use crate::host::{Scheme, Target};

pub(crate) use self::field::remove_twins;

/// A clean request head. Framing and hop-by-hop fields are gone; the path is in one canonical spelling.
#[derive(Debug)]
pub struct Head {
    method: Method,
    path_and_query: PathAndQuery,
    headers: HeaderMap,
    framing: Framing,
    websocket: Option<WebSocket>,
    encoded_slash: bool,
    empty_segment: bool,
    parameter: bool,
}

/// How the body is delimited; the sending side writes its own framing from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// There is no body.
    None,
    /// A body of this many bytes.
    Length(u64),
    /// A body of unknown length (chunked, or an HTTP/2 stream without `content-length`).
    Unknown,
}

/// How the agent asked for a WebSocket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WebSocket {
    /// `Upgrade: websocket` with this key (RFC 6455 §4.1).
    Upgrade(HeaderValue),
    /// Extended CONNECT (RFC 8441 §4).
    ExtendedConnect,
}

/// Why a head is not clean. The texts name the rule, and nothing of the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Unclean {
    /// Host, `:authority`, scheme or port are not those of the connection: 421.
    #[error("the request names another host than this connection was opened for")]
    OtherHost,
    /// TRACE, CONNECT inside a tunnel, or a method that is no plain token: 405.
    #[error("this method is never forwarded")]
    Method,
    /// Missing, repeated or malformed Host: 400.
    #[error("exactly one Host is required")]
    Host,
    /// Framing that two parsers could read differently: 400.
    #[error("the framing of the body is ambiguous")]
    Framing,
    /// A path with dot segments, backslashes, double or overlong encodings, or none at all: 400.
    #[error("the path is not in canonical form")]
    Path,
    /// A field name or value outside RFC 9110 §5: 400.
    #[error("a header field is malformed")]
    Field,
    /// An Upgrade other than a well-formed WebSocket handshake: 400.
    #[error("only a WebSocket upgrade is forwarded")]
    Upgrade,
    /// More than [`MAX_FIELDS`] fields, [`MAX_HEAD`] bytes, or one value above [`MAX_VALUE`]: 431.
    #[error(
        "the head is larger than 64 KiB, a value larger than 16 KiB, or there are more than 100 fields"
    )]
    TooLarge,
}

/// The largest head in bytes, names and values together.
pub const MAX_HEAD: usize = 64 * 1024;
/// The largest value of one field in bytes.
pub const MAX_VALUE: usize = 16 * 1024;
/// The most fields in one head.
pub const MAX_FIELDS: usize = 100;

impl Head {
    /// Checks and cleans one head that arrived for `target`.
    ///
    /// # Errors
    /// [`Unclean`], by the status that it leads to.
    pub fn clean(parts: Parts, target: &Target) -> Result<Self, Unclean> {
        let Parts {
            method,
            uri,
            version,
            mut headers,
            extensions,
            ..
        } = parts;
        check_size(&uri, &headers)?;
        let http2 = version == Version::HTTP_2;
        let extended = extensions
            .get::<hyper::ext::Protocol>()
            .map(hyper::ext::Protocol::as_str);
        check_method(&method, extended)?;
        check_authority(&uri, &headers, target, http2)?;
        check_fields(&headers, http2)?;
        let framing = framing(&headers, version)?;
        let websocket = websocket(&method, &headers, http2, extended, framing)?;
        let path = uri.path_and_query().ok_or(Unclean::Path)?;
        if uri.path() == "*" && method != Method::OPTIONS {
            return Err(Unclean::Path);
        }
        let path = path::canonical(path)?;
        strip(&mut headers);
        // RFC 8441 §5: an extended CONNECT asks what the GET of RFC 6455 asks, and is routed and judged as one.
        let method = match websocket {
            Some(WebSocket::ExtendedConnect) => Method::GET,
            Some(WebSocket::Upgrade(_)) | None => method,
        };
        Ok(Self {
            method,
            encoded_slash: path.encoded_slash,
            empty_segment: path.empty_segment,
            parameter: path.parameter,
            path_and_query: path.text,
            headers,
            framing,
            websocket,
        })
    }

    /// The method.
    pub fn method(&self) -> &Method {
        &self.method
    }

    /// The path in its canonical spelling, without the query.
    pub fn path(&self) -> &str {
        self.path_and_query.path()
    }

    /// Path and query; a clone shares the bytes.
    pub fn path_and_query(&self) -> &PathAndQuery {
        &self.path_and_query
    }

    /// The query, without `?`.
    pub fn query(&self) -> Option<&str> {
        self.path_and_query.query()
    }

    /// Puts another path and query in place; the caller made it from this one.
    pub(crate) fn set_path_and_query(&mut self, text: PathAndQuery) {
        self.path_and_query = text;
    }

    /// The fields that go upstream.
    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// The fields that go upstream, to be changed.
    pub fn headers_mut(&mut self) -> &mut HeaderMap {
        &mut self.headers
    }

    /// How the body is delimited.
    pub fn framing(&self) -> Framing {
        self.framing
    }

    /// Method, path and query, and fields: what the request is built anew from.
    pub fn into_parts(self) -> (Method, PathAndQuery, HeaderMap) {
        (self.method, self.path_and_query, self.headers)
    }

    /// Whether the agent asks for a WebSocket.
    pub fn is_websocket(&self) -> bool {
        self.websocket.is_some()
    }

    /// How the agent asked for a WebSocket.
    pub fn websocket(&self) -> Option<&WebSocket> {
        self.websocket.as_ref()
    }

    /// Whether `%2F` stands in the path.
    pub fn has_encoded_slash(&self) -> bool {
        self.encoded_slash
    }

    /// Whether a segment but the last is empty (`//`).
    pub fn has_empty_segment(&self) -> bool {
        self.empty_segment
    }

    /// The path with each run of slashes as one and without parameters of segments (`;…`), where such stand in it: some
    /// servers read it so.
    pub fn folded_path(&self) -> Option<String> {
        (self.empty_segment || self.parameter).then(|| path::folded(self.path()))
    }

    /// The path as servers read it that decode `%2F` before they route: as it then stands, and folded as by
    /// [`Self::folded_path`]. Empty where no `%2F` stands in it.
    pub fn decoded_paths(&self) -> Vec<String> {
        if !self.encoded_slash {
            return Vec::new();
        }
        let decoded = path::with_slashes(self.path());
        let folded = path::folded(&decoded);
        vec![decoded, folded]
    }
}

fn check_size(uri: &Uri, headers: &HeaderMap) -> Result<(), Unclean> {
    let mut total = uri.path_and_query().map_or(0, |path| path.as_str().len());
    if headers.len() > MAX_FIELDS || total > MAX_VALUE {
        return Err(Unclean::TooLarge);
    }
    for (name, value) in headers {
        total += name.as_str().len() + value.len() + 4;
        if value.len() > MAX_VALUE {
            return Err(Unclean::TooLarge);
        }
    }
    if total > MAX_HEAD {
        Err(Unclean::TooLarge)
    } else {
        Ok(())
    }
}

/// Upper-case tokens only: `get` is another method than `GET`, and some servers fold it.
fn check_method(method: &Method, extended: Option<&str>) -> Result<(), Unclean> {
    match (method, extended) {
        (&Method::CONNECT, Some("websocket")) => Ok(()),
        (&Method::CONNECT | &Method::TRACE, _) | (_, Some(_)) => Err(Unclean::Method),
        (method, None)
            if method
                .as_str()
                .bytes()
                .all(|b| b.is_ascii_uppercase() || b == b'-') =>
        {
            Ok(())
        }
        _ => Err(Unclean::Method),
    }
}

/// The authority, in whatever form it came, must be the target (RFC 9112 §3.2, RFC 9113 §8.3.1).
fn check_authority(
    uri: &Uri,
    headers: &HeaderMap,
    target: &Target,
    http2: bool,
) -> Result<(), Unclean> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(Unclean::Host);
    }
    let host = host
        .map(|value| value.to_str().map_err(|_| Unclean::Host))
        .transpose()?;
    if host.is_some_and(|host| host.is_empty() || host.contains([',', ' ', '\t', '@', '/'])) {
        return Err(Unclean::Host);
    }
    if let Some(authority) = uri.authority() {
        if uri.scheme_str() != Some(target.scheme.as_str())
            || !target.is_named_by(authority.as_str())
        {
            return Err(Unclean::OtherHost);
        }
    } else if uri.scheme().is_some() {
        return Err(Unclean::OtherHost);
    }
    match (host, uri.authority()) {
        (Some(host), _) if !target.is_named_by(host) => Err(Unclean::OtherHost),
        (None, None) => Err(Unclean::Host),
        (None, Some(_)) if !http2 => Err(Unclean::Host),
        _ => Ok(()),
    }
}

/// Values that hyper's parsers let through and that others read differently.
fn check_fields(headers: &HeaderMap, http2: bool) -> Result<(), Unclean> {
    for (name, value) in headers {
        if matches!(
            &*dashed(name.as_str()),
            "transfer-encoding" | "content-length"
        ) && name.as_str().contains('_')
        {
            return Err(Unclean::Framing);
        }
        let bytes = value.as_bytes();
        // RFC 9113 §8.2.1: no surrounding white space. h1 parsers trim it.
        let edge = |b: Option<&u8>| matches!(b, Some(b' ' | b'\t'));
        if edge(bytes.first())
            || edge(bytes.last())
            || bytes
                .iter()
                .any(|b| (*b < 0x20 && *b != b'\t') || *b == 0x7f)
        {
            return Err(Unclean::Field);
        }
        if http2 && is_connection_specific(name, bytes) {
            return Err(Unclean::Field);
        }
    }
    Ok(())
}

/// RFC 9113 §8.2.2: malformed on HTTP/2.
fn is_connection_specific(name: &HeaderName, value: &[u8]) -> bool {
    match name.as_str() {
        "connection" | "keep-alive" | "proxy-connection" | "transfer-encoding" | "upgrade" => true,
        "te" => !value.eq_ignore_ascii_case(b"trailers"),
        _ => false,
    }
}

/// One reading of the framing or none (RFC 9112 §6.3, §11.2).
fn framing(headers: &HeaderMap, version: Version) -> Result<Framing, Unclean> {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    let (coding, length) = (codings.next(), lengths.next());
    if codings.next().is_some() || lengths.next().is_some() {
        return Err(Unclean::Framing);
    }
    match (coding, length) {
        (Some(_), Some(_)) => Err(Unclean::Framing),
        (Some(coding), None) => {
            // A coding other than `chunked` alone, or any at all before HTTP/1.1, has no one meaning.
            let chunked =
                coding.as_bytes().eq_ignore_ascii_case(b"chunked") && version == Version::HTTP_11;
            if chunked {
                Ok(Framing::Unknown)
            } else {
                Err(Unclean::Framing)
            }
        }
        (None, Some(length)) => match parse_length(length.as_bytes()).ok_or(Unclean::Framing)? {
            0 => Ok(Framing::Length(0)),
            length => Ok(Framing::Length(length)),
        },
        (None, None) if version == Version::HTTP_2 => Ok(Framing::Unknown),
        (None, None) => Ok(Framing::None),
    }
}

/// `^(0|[1-9][0-9]{0,18})$`.
fn parse_length(digits: &[u8]) -> Option<u64> {
    let plain = digits.len() <= 19
        && digits.iter().all(u8::is_ascii_digit)
        && (digits.len() == 1 || digits.first() != Some(&b'0'));
    if !plain {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// A WebSocket handshake, or no upgrade at all. `Upgrade: h2c` and other words are not refused but dropped with the
/// other hop-by-hop fields, unless the agent means them (`Connection: upgrade`).
fn websocket(
    method: &Method,
    headers: &HeaderMap,
    http2: bool,
    extended: Option<&str>,
    framing: Framing,
) -> Result<Option<WebSocket>, Unclean> {
    if extended.is_some() {
        return if http2 {
            Ok(Some(WebSocket::ExtendedConnect))
        } else {
            Err(Unclean::Upgrade)
        };
    }
    if http2 || !nominates(headers, "upgrade") {
        return Ok(None);
    }
    let mut upgrades = headers.get_all(header::UPGRADE).iter();
    let (Some(upgrade), None) = (upgrades.next(), upgrades.next()) else {
        return Err(Unclean::Upgrade);
    };
    if !upgrade.as_bytes().eq_ignore_ascii_case(b"websocket") {
        return Err(Unclean::Upgrade);
    }
    let mut keys = headers.get_all(header::SEC_WEBSOCKET_KEY).iter();
    let version = headers
        .get(header::SEC_WEBSOCKET_VERSION)
        .map(HeaderValue::as_bytes);
    match (keys.next(), keys.next()) {
        (Some(key), None)
            if method == Method::GET && framing == Framing::None && version == Some(b"13") =>
        {
            Ok(Some(WebSocket::Upgrade(key.clone())))
        }
        _ => Err(Unclean::Upgrade),
    }
}

/// Whether `Connection` lists this option.
fn nominates(headers: &HeaderMap, option: &str) -> bool {
    headers.get_all(header::CONNECTION).iter().any(|value| {
        value
            .as_bytes()
            .split(|b| *b == b',')
            .any(|token| token.trim_ascii().eq_ignore_ascii_case(option.as_bytes()))
    })
}

/// Removes what ends at this hop: first all that `Connection` names, then the fixed list. Injection comes after, so an
/// agent cannot have the injected field removed.
fn strip(headers: &mut HeaderMap) {
    if headers.keys().any(|name| *name == header::CONNECTION) {
        let nominated: Vec<HeaderName> = headers
            .get_all(header::CONNECTION)
            .iter()
            .flat_map(|value| value.as_bytes().split(|b| *b == b','))
            .filter_map(|token| HeaderName::from_bytes(token.trim_ascii()).ok())
            .collect();
        for name in nominated {
            headers.remove(name);
        }
    }
    let dropped: Vec<HeaderName> = headers
        .keys()
        .filter(|name| {
            let name = dashed(name.as_str());
            ends_here(&name) || reroutes(&name)
        })
        .cloned()
        .collect();
    for name in dropped {
        headers.remove(name);
    }
}

/// The target of an absolute-form request (`GET http://host/path`), for the plain side of a proxy listener.
///
/// # Errors
/// [`Unclean`] for another scheme than `http`, or an authority outside the grammar.
pub fn absolute_target(uri: &Uri) -> Result<Arc<Target>, Unclean> {
    let authority = uri.authority().ok_or(Unclean::Host)?;
    if uri.scheme_str() != Some("http") {
        return Err(Unclean::OtherHost);
    }
    Target::from_authority(Scheme::Http, authority.as_str())
        .map(Arc::new)
        .map_err(|_| Unclean::Host)
}

#[cfg(test)]
mod tests;
