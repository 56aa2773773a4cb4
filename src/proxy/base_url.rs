//! Origin-form requests under `/NAME/`: for SDKs that know no proxy and take a base URL. The agent's own token stands
//! where the SDK puts its key; policy, audit and scrubbing are those of a tunnel.
//!
//! Without TLS towards the agent there is no certificate that a web page could not pass by, so a page must not get
//! here: neither by its own name for this address (DNS rebinding), nor across sites.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use http::header::{AUTHORIZATION, COOKIE, HOST, ORIGIN};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Request, Response, Uri};
use hyper::body::Incoming;

use super::Snapshot;
use super::body::Body;
use super::connect::Front;
use super::exchange::exchange;
use super::identify::identified;
use super::live::Place;
use super::plain::{self, Refused};
use super::refusal::Refusal;
use super::services::Base;
use super::tunnel::{Grant, Tunnel};
use crate::head::remove_twins;
use crate::identity::{AttestError, Presented};

/// Answers a request under a service's base, or gives it back where it is under none.
pub(super) async fn answer(
    front: &Arc<Front>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Request<Incoming>> {
    if !front.listener.base_url {
        return Err(request);
    }
    let snapshot = front.shared.snapshot.load_full();
    let Some(path) = request.uri().path_and_query().map(PathAndQuery::as_str) else {
        return Err(request);
    };
    let Some((base, rest)) = snapshot.services.base(path) else {
        return Err(request);
    };
    let rest = rest.to_owned();
    Ok(forward(front, (&snapshot, base, &rest), request).await)
}

async fn forward(
    front: &Arc<Front>,
    asked: (&Arc<Snapshot>, &Base, &str),
    mut request: Request<Incoming>,
) -> Response<Body> {
    match opened(front, asked, &mut request).await {
        Ok((tunnel, place)) => {
            front.known.store(true, Ordering::Relaxed);
            plain::begin(front, &tunnel, place);
            exchange(tunnel, request).await
        }
        Err(refused) => plain::refuse(front, &request, refused),
    }
}

/// Looks who asks, and makes the request one that came for the service itself.
async fn opened(
    front: &Arc<Front>,
    (snapshot, base, rest): (&Arc<Snapshot>, &Base, &str),
    request: &mut Request<Incoming>,
) -> Result<(Arc<Tunnel>, Place), Refused> {
    let bare = |refusal| (refusal, None, None);
    local(request.headers()).map_err(bare)?;
    let token = token(request.headers(), base).map_err(|error| bare(error.into()))?;
    let hold = identified(front, snapshot, token.as_ref())
        .await
        .map_err(bare)?;
    let malformed = || {
        bare(Refusal::Malformed(
            "The path after the service's name is malformed. Send the service's own path there.",
        ))
    };
    let path: PathAndQuery = rest.parse().map_err(|_| malformed())?;
    let host = HeaderValue::from_str(&base.target.authority()).map_err(|_| malformed())?;
    *request.uri_mut() = Uri::from(path);
    let headers = request.headers_mut();
    // The token was for us, and the cookies are of whatever else listens on this host.
    for (name, _) in &base.keys {
        headers.remove(name);
        remove_twins(headers, name);
    }
    headers.remove(AUTHORIZATION);
    headers.remove(COOKIE);
    headers.insert(HOST, host);
    let target = Arc::clone(&base.target);
    plain::open(front, snapshot, (hold, target), |session, target| {
        snapshot.upstream.precheck(target)?;
        // Never a host that no route names: only services that routes name are here.
        Grant::find(&front.shared, snapshot, session, target)
    })
}

/// A program of this machine, and no web page: browsers name the page's site, and the host by the page's name for it.
fn local(headers: &HeaderMap) -> Result<(), Refusal> {
    // Fetch standard, "Origin" and "Sec-Fetch-Site": a page's script cannot leave them out.
    if headers.contains_key(ORIGIN) || headers.contains_key("sec-fetch-site") {
        return Err(Refusal::Malformed(
            "Web pages are not served here. Call this base URL from a program, without Origin and Sec-Fetch-Site.",
        ));
    }
    let mut hosts = headers.get_all(HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return Err(Refusal::Malformed("Send exactly one Host."));
    };
    let host = host.to_str().map_err(|_| Refusal::HostMismatch)?;
    is_loopback(host).then_some(()).ok_or(Refusal::HostMismatch)
}

/// Whether `HOST[:PORT]` is a name that only this machine has for itself.
fn is_loopback(host: &str) -> bool {
    let bracketed = host.strip_prefix('[').and_then(|rest| rest.split_once(']'));
    let (name, port) = match bracketed {
        Some((name, port)) => (name, port),
        None => host.split_at(host.find(':').unwrap_or(host.len())),
    };
    let port_holds = match port.strip_prefix(':') {
        Some(port) => !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()),
        None => port.is_empty(),
    };
    let is_v6 = name.contains(':');
    port_holds
        && is_v6 == bracketed.is_some()
        && (name.eq_ignore_ascii_case("localhost")
            || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback()))
}

/// The token that stands for the key. Of two that differ neither is taken.
fn token(headers: &HeaderMap, base: &Base) -> Result<Option<Presented>, AttestError> {
    let mut found: Option<&[u8]> = None;
    for (name, format) in &base.keys {
        let mut fields = headers.get_all(name).iter();
        let Some(field) = fields.next() else { continue };
        let bare = stripped(field.as_bytes(), format.before.as_bytes())
            .and_then(|rest| rest.strip_suffix(format.after.as_bytes()))
            .ok_or(AttestError::Bad)?;
        if fields.next().is_some() || found.is_some_and(|other| other != bare) {
            return Err(AttestError::Bad);
        }
        found = Some(bare);
    }
    found.map(Presented::of).transpose()
}

/// What follows the prefix; a scheme's letters have no case (RFC 9110 §11.1).
fn stripped<'a>(value: &'a [u8], before: &[u8]) -> Option<&'a [u8]> {
    let (start, rest) = value.split_at_checked(before.len())?;
    start.eq_ignore_ascii_case(before).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_this_machine_has_for_itself_are_loopback() {
        for host in [
            "127.0.0.1:8180",
            "127.0.0.1",
            "localhost:1",
            "LOCALHOST",
            "[::1]:8180",
            "127.8.9.10:80",
        ] {
            assert!(is_loopback(host), "{host}");
        }
        for host in [
            "rebound.example:8180",
            "localhost.example",
            "127.0.0.1.example:80",
            "::1",
            "[127.0.0.1]:80",
            "10.0.0.1:80",
            "127.0.0.1:",
            "127.0.0.1:80@x",
            "user@127.0.0.1",
            "",
            "0.0.0.0:80",
            "0x7f.1",
        ] {
            assert!(!is_loopback(host), "{host}");
        }
    }

    #[test]
    fn a_page_is_refused_whatever_else_it_sends() {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, HeaderValue::from_static("127.0.0.1:8180"));
        assert_eq!(local(&headers), Ok(()));
        for (name, value) in [
            ("origin", "null"),
            ("origin", "http://127.0.0.1:8180"),
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-site", "same-origin"),
        ] {
            let mut page = headers.clone();
            page.insert(name, HeaderValue::from_static(value));
            assert!(matches!(local(&page), Err(Refusal::Malformed(_))), "{name}");
        }
        headers.append(HOST, HeaderValue::from_static("127.0.0.1:8180"));
        assert!(local(&headers).is_err());
    }
}
