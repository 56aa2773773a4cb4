//! `Range` where a credential is injected: the whole is asked for, and the slice of the scrubbed whole is cut here.

use std::convert::Infallible;
use std::pin::Pin;
use std::process::Stdio;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderValue, Response};
use http_body::Frame;
use http_body_util::BodyExt as _;

use super::agent::{Answer, request};
use super::canary::{CANARY, OTHER};
use super::harness::{BEARER, Harness, Setup, TOKEN_A};
use super::upstream::{AnyBody, Seen, Upstream, full};

/// Where the secret stands in the object.
const AT: usize = 70_000;
const LENGTH: usize = 200_000;

/// An object in which the service has written what it was sent.
fn object() -> Vec<u8> {
    let mut object: Vec<u8> = (b'a'..=b'z').cycle().take(LENGTH).collect();
    object[AT..AT + CANARY.len()].copy_from_slice(CANARY.as_bytes());
    object
}

/// The same as the agent may see it: the mask is as long as the secret.
fn masked() -> Vec<u8> {
    let mut object = object();
    object[AT..AT + CANARY.len()].fill(b'*');
    object
}

/// A body that does not say how long it is.
struct Unknown(Option<Bytes>);

impl http_body::Body for Unknown {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.get_mut().0.take().map(|data| Ok(Frame::data(data))))
    }
}

/// A service that honours ranges, and has a few objects that cannot be cut.
fn serve(seen: &Seen) -> Response<AnyBody> {
    let object = object();
    let mut response = match &*seen.uri {
        "/chunked" => Response::new(Unknown(Some(object.into())).boxed_unsync()),
        "/empty" => Response::new(full("")),
        _ => Response::new(full(object)),
    };
    let headers = response.headers_mut();
    headers.insert("content-md5", HeaderValue::from_static("AAAA"));
    if let Some(range) = seen.get("range").filter(|_| seen.uri == "/object") {
        let (first, last) = range["bytes=".len()..].split_once('-').unwrap();
        let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
        let slice = Bytes::from(self::object()).slice(first..=last);
        response = Response::new(full(slice));
        *response.status_mut() = http::StatusCode::PARTIAL_CONTENT;
        let range = format!("bytes {first}-{last}/{LENGTH}");
        response
            .headers_mut()
            .insert("content-range", range.parse().unwrap());
    }
    response
}

async fn start(alpn: &[&str], more: &str) -> (Upstream, Harness) {
    let upstream = Upstream::service(alpn, |seen| Box::pin(async move { serve(&seen) })).await;
    let harness = Setup::new(&format!("{BEARER}{more}"))
        .to("api.test:443", &upstream)
        .start()
        .await;
    (upstream, harness)
}

async fn ask(harness: &Harness, (method, path): (&str, &str), fields: &[(&str, &str)]) -> Answer {
    let agent = harness.agent();
    let mut asked = request(method, path, "api.test");
    for (name, value) in fields {
        let name: http::HeaderName = name.parse().unwrap();
        asked.headers_mut().append(name, value.parse().unwrap());
    }
    let mut sender = agent.h1("api.test:443").await;
    agent.ask(&mut sender, asked).await
}

#[tokio::test]
async fn a_slice_is_cut_from_the_scrubbed_whole() {
    for alpn in ["http/1.1", "h2"] {
        let (upstream, harness) = start(&[alpn], "").await;
        let whole = masked();
        // The second cuts the secret in two, the third begins within it: so nobody upstream is asked for them.
        for (range, first, last) in [
            ("bytes=0-99", 0, 99),
            (&*format!("bytes=69000-{}", AT + 9), 69_000, AT + 9),
            (&*format!("bytes={}-{}", AT + 10, AT + 99), AT + 10, AT + 99),
            ("bytes=150000-", 150_000, LENGTH - 1),
            ("bytes=-1000", LENGTH - 1000, LENGTH - 1),
            ("bytes=199999-999999", 199_999, 199_999),
        ] {
            let answer = ask(&harness, ("GET", "/object"), &[("range", range)]).await;
            let said = format!("bytes {first}-{last}/{LENGTH}");
            assert_eq!(
                (answer.status, answer.get("content-range")),
                (206, Some(&*said)),
                "{alpn} {range}"
            );
            assert_eq!(
                answer.get("content-length"),
                Some(&*(last - first + 1).to_string())
            );
            assert_eq!(answer.get("content-md5"), None, "a digest of the whole");
            assert!(
                answer.whole && answer.body == whole[first..=last],
                "{alpn} {range}"
            );
        }
        for seen in upstream.requests() {
            assert_eq!((seen.get("range"), seen.get("x-ms-range")), (None, None));
            assert_eq!(seen.get("accept-encoding").as_deref(), Some("identity"));
        }
        let beyond = ask(&harness, ("GET", "/object"), &[("range", "bytes=200000-")]).await;
        assert_eq!(
            (beyond.status, beyond.get("content-range")),
            (416, Some("bytes */200000"))
        );
        assert!(beyond.body.is_empty() && beyond.whole);
        // Azure's own field goes before the standard's.
        let both = [("range", "bytes=0-9"), ("x-ms-range", "bytes=5-6")];
        let answer = ask(&harness, ("GET", "/object"), &both).await;
        assert_eq!((answer.status, &*answer.text()), (206, "fg"));
        harness.finish().await;
    }
}

#[tokio::test]
async fn what_cannot_be_cut_comes_whole() {
    let (upstream, harness) = start(&["http/1.1"], "").await;
    let range = ("range", "bytes=10-19");
    for (path, fields) in [
        ("/object", vec![range, ("if-range", "\"a\"")]),
        ("/object", vec![("range", "bytes=0-9,20-29")]),
        ("/object", vec![("range", "pages=1-2")]),
        ("/chunked", vec![range]),
    ] {
        let answer = ask(&harness, ("GET", path), &fields).await;
        assert_eq!(
            (answer.status, answer.get("content-range")),
            (200, None),
            "{path} {fields:?}"
        );
        assert!(answer.whole && answer.body == masked(), "{path} {fields:?}");
    }
    let empty = ask(&harness, ("GET", "/empty"), &[range]).await;
    assert_eq!((empty.status, empty.body.len()), (200, 0));
    let head = ask(&harness, ("HEAD", "/object"), &[range]).await;
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert!(
        upstream
            .requests()
            .iter()
            .all(|seen| seen.get("range").is_none())
    );
    harness.finish().await;
}

#[tokio::test]
async fn ranges_pass_where_the_operator_says_so() {
    let (upstream, harness) = start(&["http/1.1"], "ranges = true\n").await;
    let answer = ask(&harness, ("GET", "/object"), &[("range", "bytes=10-19")]).await;
    assert_eq!((answer.status, &*answer.text()), (206, "klmnopqrst"));
    assert_eq!(
        upstream.requests()[0].get("range").as_deref(),
        Some("bytes=10-19")
    );
    harness.finish().await;
}

/// curl takes a whole object for a failure to resume, and others for the rest of the file: here they get the rest.
#[tokio::test]
async fn a_download_is_resumed_by_curl() {
    let (upstream, harness) = start(&["http/1.1"], "").await;
    let folder = tempfile::tempdir().unwrap();
    let (part, ca) = (folder.path().join("part"), folder.path().join("ca.pem"));
    std::fs::write(&ca, &*harness.app().roots_pem()).unwrap();
    for have in [1, AT + 10, LENGTH - 1] {
        std::fs::write(&part, &masked()[..have]).unwrap();
        let done = tokio::process::Command::new("curl")
            .args(["-sS", "-f", "-C", "-", "-o"])
            .arg(&part)
            .arg("https://api.test/object")
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env(
                "HTTPS_PROXY",
                format!("http://a:{TOKEN_A}@{}", harness.agent().proxy),
            )
            .env("CURL_CA_BUNDLE", &ca)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .unwrap();
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert!(done.status.success(), "from {have}: {said}");
        let file = std::fs::read(&part).unwrap();
        assert!(file == masked(), "from {have}: {} bytes", file.len());
        assert!(memchr::memmem::find(&file, OTHER.as_bytes()).is_none());
    }
    assert_eq!(upstream.requests().len(), 3);
    harness.finish().await;
}

/// Where the slices of [`short`] meet: within the secret.
const SEAM: usize = 30;

/// A small object that is cut by whatever field asks for it, and services that say things like it.
fn short(seen: &Seen) -> Response<AnyBody> {
    let object = format!("key: {CANARY} .");
    let asked = ["range", "x-ms-range", "request-range", "x-range"]
        .iter()
        .find_map(|name| seen.get(name));
    let (status, fields, body): (u16, &[(&str, &str)], String) = match (&*seen.uri, asked) {
        ("/parts", _) => (
            206,
            &[("content-type", "multipart/byteranges; boundary=b")],
            format!(
                "--b\r\nContent-Range: bytes 0-{}/63\r\n\r\n{}\r\n--b--\r\n",
                SEAM - 1,
                &object[..SEAM]
            ),
        ),
        ("/page-blob", Some(_)) => (201, &[], String::new()),
        ("/resumed", _) => (308, &[("range", "bytes=0-29")], String::new()),
        ("/beyond", _) => (
            416,
            &[("content-range", "bytes */63")],
            "too far".to_owned(),
        ),
        ("/rows", _) => (206, &[("content-range", "0-24/99")], "[]".to_owned()),
        ("/object", Some(asked)) => (
            206,
            &[("content-range", "bytes 0-29/63")],
            if asked.starts_with("bytes=0-") {
                object[..SEAM].to_owned()
            } else {
                object[SEAM..].to_owned()
            },
        ),
        _ => (200, &[], object),
    };
    let mut response = Response::new(full(body));
    *response.status_mut() = http::StatusCode::from_u16(status).unwrap();
    for (name, value) in fields {
        let name: http::HeaderName = name.parse().unwrap();
        response.headers_mut().insert(name, value.parse().unwrap());
    }
    response
}

async fn start_short(more: &str) -> (Upstream, Harness) {
    let upstream =
        Upstream::service(&["http/1.1"], |seen| Box::pin(async move { short(&seen) })).await;
    let harness = Setup::new(&format!("{BEARER}{more}"))
        .to("api.test:443", &upstream)
        .start()
        .await;
    (upstream, harness)
}

/// LEAK: two slices, neither of which holds the whole secret.
#[tokio::test]
async fn a_slice_that_the_upstream_cut_is_not_passed_on() {
    let (_upstream, harness) = start_short("").await;
    for range in ["bytes=0-29", "bytes=30-62"] {
        for (method, field) in [
            ("PUT", "range"),
            ("PATCH", "range"),
            ("DELETE", "range"),
            ("PUT", "x-ms-range"),
            ("PATCH", "x-ms-range"),
            ("GET", "x-range"),
            ("POST", "x-range"),
        ] {
            let answer = ask(&harness, (method, "/object"), &[(field, range)]).await;
            let said = (answer.status, answer.word());
            assert_eq!(said, (502, "bad-upstream"), "{method} {field}");
        }
        // The old name of `Range` never gets there.
        for method in ["GET", "POST"] {
            let answer = ask(&harness, (method, "/object"), &[("request-range", range)]).await;
            assert_eq!(answer.status, 200, "{method}");
            assert!(answer.text().starts_with("key: ***"), "{method}");
        }
    }
    let parts = ask(&harness, ("GET", "/parts"), &[]).await;
    assert_eq!((parts.status, parts.word()), (502, "bad-upstream"));
    harness.finish().await;
}

#[tokio::test]
async fn what_only_looks_like_a_slice_passes() {
    let (upstream, harness) = start_short("").await;
    for (asked, field, status) in [
        (("PUT", "/page-blob"), ("x-ms-range", "bytes=0-511"), 201),
        (("PUT", "/resumed"), ("content-range", "bytes 0-29/63"), 308),
        (("GET", "/beyond"), ("range", "bytes=99-"), 416),
        (("GET", "/rows"), ("prefer", "count=exact"), 206),
    ] {
        let answer = ask(&harness, asked, &[field]).await;
        assert_eq!((answer.status, answer.word()), (status, ""), "{asked:?}");
    }
    let seen = upstream.requests();
    assert_eq!(seen[0].get("x-ms-range").as_deref(), Some("bytes=0-511"));
    assert_eq!(
        seen[1].get("content-range").as_deref(),
        Some("bytes 0-29/63")
    );
    harness.finish().await;
    let (_upstream, harness) = start_short("ranges = true\n").await;
    let answer = ask(
        &harness,
        ("GET", "/object"),
        &[("request-range", "bytes=0-3")],
    )
    .await;
    assert_eq!((answer.status, answer.body.len()), (206, SEAM));
    harness.finish().await;
}

/// RFC 3229: a second kind of coding, and deltas.
#[tokio::test]
async fn a_manipulated_instance_is_neither_asked_for_nor_passed_on() {
    let upstream = Upstream::service(&["http/1.1"], |seen| {
        Box::pin(async move {
            let mut response = Response::new(full("packed"));
            if seen.uri != "/field" {
                *response.status_mut() = http::StatusCode::IM_USED;
            }
            if seen.uri != "/status" {
                let packed = HeaderValue::from_static("gzip");
                response.headers_mut().insert("im", packed);
            }
            response
        })
    })
    .await;
    let setup = Setup::new(BEARER).to("api.test:443", &upstream);
    let harness = setup.start().await;
    for path in ["/both", "/field", "/status"] {
        let answer = ask(&harness, ("GET", path), &[("a-im", "gzip")]).await;
        assert_eq!(
            (answer.status, answer.word()),
            (502, "undecodable"),
            "{path}"
        );
    }
    assert!(
        upstream
            .requests()
            .iter()
            .all(|seen| seen.get("a-im").is_none())
    );
    harness.finish().await;
}
