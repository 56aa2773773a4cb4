//! Which fields never go upstream, and which names are one to servers.

use std::borrow::Cow;

use http::{HeaderMap, HeaderName};

/// Fields that end at each hop (RFC 9110 §7.6.1), framing that is written anew, what only proxies exchange, and our own.
pub(super) fn ends_here(name: &str) -> bool {
    matches!(
        name,
        "connection"
            | "keep-alive"
            | "proxy-connection"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "content-length"
            | "upgrade"
            | "expect"
            | "http2-settings"
            | "sec-websocket-key"
            | "sec-websocket-extensions"
    ) || name.starts_with("keyward-")
}

/// Fields by which some servers route or dispatch a request anew, or take another for its sender: what was judged would
/// not be what is done.
pub(super) fn reroutes(name: &str) -> bool {
    name.starts_with("x-forwarded-")
        || matches!(
            name,
            "forwarded"
                | "x-host"
                | "x-backend-host"
                | "x-http-host-override"
                | "x-original-host"
                | "x-original-method"
                | "x-original-uri"
                | "x-original-url"
                | "x-envoy-original-path"
                | "x-http-path-override"
                | "x-override-url"
                | "x-rewrite-url"
                | "x-http-method"
                | "x-http-method-override"
                | "x-method"
                | "x-method-override"
                | "x-wp-method"
                | "cf-connecting-ip"
                | "client-ip"
                | "true-client-ip"
                | "x-client-ip"
                | "x-cluster-client-ip"
                | "x-real-ip"
        )
}

/// The name as servers read it that turn fields into variables (RFC 3875 §4.1.18): `_` and `-` are one to them.
pub(super) fn dashed(name: &str) -> Cow<'_, str> {
    if name.contains('_') {
        Cow::Owned(name.replace('_', "-"))
    } else {
        Cow::Borrowed(name)
    }
}

/// Removes the fields that are this one to such servers, and keeps the field itself.
pub(crate) fn remove_twins(headers: &mut HeaderMap, name: &HeaderName) {
    let wanted = dashed(name.as_str());
    let is_twin = |other: &&HeaderName| *other != name && dashed(other.as_str()) == wanted;
    let twins: Vec<HeaderName> = headers.keys().filter(is_twin).cloned().collect();
    for twin in twins {
        headers.remove(twin);
    }
}
