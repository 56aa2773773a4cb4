//! A request head: what is clean stays clean when it is cleaned again, and holds nothing that ends at a hop.
#![no_main]

use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version};
use keyward::head::Head;
use keyward::host::Target;
use libfuzzer_sys::fuzz_target;

/// The input as a head: a line of method and URI, then a line for each field; a first byte of `2` is HTTP/2.
fn read(input: &[u8]) -> Option<Parts> {
    let (version, input) = match input.split_first()? {
        (b'2', rest) => (Version::HTTP_2, rest),
        (_, rest) => (Version::HTTP_11, rest),
    };
    let mut lines = input.split(|byte| *byte == b'\n');
    let start = lines.next()?;
    let at = start.iter().position(|byte| *byte == b' ')?;
    let (method, uri) = (start.get(..at)?, start.get(at + 1..)?);
    let (mut parts, ()) = Request::new(()).into_parts();
    parts.version = version;
    parts.method = Method::from_bytes(method).ok()?;
    parts.uri = Uri::try_from(uri).ok()?;
    let mut headers = HeaderMap::new();
    for line in lines {
        let at = line.iter().position(|byte| *byte == b':')?;
        let name = HeaderName::from_bytes(line.get(..at)?).ok()?;
        let value = HeaderValue::from_bytes(line.get(at + 1..)?.trim_ascii()).ok()?;
        headers.append(name, value);
    }
    parts.headers = headers;
    Some(parts)
}

fuzz_target!(|input: &[u8]| {
    let target = Target::from_connect("api.test:443").expect("a plain target");
    let Some(parts) = read(input) else { return };
    let Ok(head) = Head::clean(parts, &target) else {
        return;
    };
    for name in [
        "connection",
        "transfer-encoding",
        "content-length",
        "te",
        "upgrade",
        "expect",
    ] {
        assert!(!head.headers().contains_key(name), "{name} is left");
    }
    let path = head.path();
    assert!(
        !path
            .split('/')
            .any(|segment| segment == "." || segment == ".."),
        "{path}"
    );
    if head.is_websocket() {
        return;
    }
    let (method, path, mut headers) = head.into_parts();
    let (mut again, ()) = Request::new(()).into_parts();
    again.version = Version::HTTP_11;
    again.method = method.clone();
    again.uri = Uri::from(path.clone());
    headers.insert("host", HeaderValue::from_static("api.test"));
    again.headers = headers.clone();
    let twice = Head::clean(again, &target).expect("what is clean is taken");
    assert_eq!(twice.into_parts(), (method, path, headers));
});
