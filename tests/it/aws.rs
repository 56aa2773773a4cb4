//! `inject = "sigv4"` against an upstream that computes every signature again.

use std::sync::Arc;

use bytes::Bytes;
use http::Request;
use http_body_util::BodyExt as _;
use parking_lot::Mutex;

use super::agent::{Answer, body_request, request};
use super::canary::OTHER;
use super::harness::{Harness, Setup};
use super::signatures::{ID, answer, broken, sha256, verify};
use super::upstream::{AnyBody, Seen, Upstream};

const DUMMY: &str = "AWS4-HMAC-SHA256 Credential=AKIAEVIL/20200101/mars/iam/aws4_request, SignedHeaders=host;x-evil, Signature=00";
const DUMMY_QUERY: &str = "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIAEVIL%2F20200101%2Fmars%2Fiam%2Faws4_request\
    &X-Amz-Date=20200101T000000Z&X-Amz-Expires=604800&X-Amz-SignedHeaders=host&X-Amz-Signature=00";

/// Routes that sign for these hosts; the first is S3.
fn routes(more: &str) -> String {
    format!(
        "[credential.keys.aws]\nregion = \"eu-central-1\"\n\
         source = {{ static = {{ access-key-id = {{ env = \"AWS_ID\" }}, secret-access-key = {{ env = \"CANARY\" }}, session-token = {{ env = \"OTHER\" }} }} }}\n\
         [[route]]\nhosts = [\"api.test\"]\ncredential = \"keys\"\ninject = {{ sigv4 = {{ service = \"s3\", region = \"eu-central-1\" }} }}\n{more}\n\
         [[route]]\nhosts = [\"other.test\"]\ncredential = \"keys\"\ninject = {{ sigv4 = {{ service = \"secretsmanager\", region = \"us-east-1\" }} }}\n"
    )
}

async fn start(upstream: &Upstream, more: &str) -> Harness {
    Setup::new(&routes(more))
        .to("api.test:443", upstream)
        .to("other.test:443", upstream)
        .start()
        .await
}

/// An upstream that verifies; a body that breaks off is noted and no object.
async fn verifier(alpn: &[&str]) -> (Upstream, Arc<Mutex<usize>>) {
    let torn = Arc::new(Mutex::new(0));
    let tearing = Arc::clone(&torn);
    let upstream = Upstream::streaming(alpn, move |mut seen: Seen, body| {
        let torn = Arc::clone(&tearing);
        Box::pin(async move {
            if let Ok(body) = body.collect().await {
                seen.body = body.to_bytes();
                return answer(&seen);
            }
            *torn.lock() += 1;
            broken()
        })
    })
    .await;
    (upstream, torn)
}

fn with(mut request: Request<AnyBody>, fields: &[(&str, &str)]) -> Request<AnyBody> {
    for (name, value) in fields {
        let name: http::HeaderName = name.parse().unwrap();
        request.headers_mut().append(name, value.parse().unwrap());
    }
    request
}

async fn ask(harness: &Harness, request: Request<AnyBody>) -> Answer {
    let host = request.headers()["host"].to_str().unwrap().to_owned();
    let agent = harness.agent();
    let mut sender = agent.h1(&format!("{host}:443")).await;
    agent.ask(&mut sender, request).await
}

#[tokio::test]
async fn a_request_is_signed_anew_over_both_protocols() {
    for (agent_alpn, upstream_alpn) in [
        ("h1", "http/1.1"),
        ("h1", "h2"),
        ("h2", "http/1.1"),
        ("h2", "h2"),
    ] {
        let (upstream, _) = verifier(&[upstream_alpn]).await;
        let harness = start(&upstream, "").await;
        let sum = sha256(b"an object");
        let fields = [
            ("authorization", DUMMY),
            ("x-amz-date", "20200101T000000Z"),
            ("x-amz-security-token", "dummy"),
            ("x-amz-content-sha256", &*sum),
            ("x-amz-meta-two", "a  b"),
            ("x-amz-meta-two", "c"),
            ("x-evil", "1"),
            ("content-type", "text/plain"),
        ];
        let asked = body_request("PUT", "/bucket/key?x-id=PutObject", "api.test", "an object");
        let asked = with(asked, &fields);
        let agent = harness.agent();
        let answer = if agent_alpn == "h2" {
            let mut sender = agent.h2("api.test:443").await;
            agent.ask_h2(&mut sender, asked).await
        } else {
            ask(&harness, asked).await
        };
        assert_eq!(
            (answer.status, &*answer.text()),
            (200, "an object"),
            "{agent_alpn} {upstream_alpn}"
        );
        let seen = upstream.requests();
        let head = format!("{:?} {}", seen[0].headers, seen[0].uri);
        for gone in ["AKIAEVIL", "mars", "dummy", "20200101"] {
            assert!(!head.contains(gone), "{gone} in {head}");
        }
        harness.finish().await;
    }
}

#[tokio::test]
async fn a_key_of_any_spelling_is_signed_as_it_is_sent() {
    let (upstream, _) = verifier(&["http/1.1"]).await;
    let harness = start(&upstream, "").await;
    for path in [
        "/bucket/with%20space",
        "/bucket/with+plus",
        "/bucket/with%2Bplus",
        "/bucket/%C3%BC/%E2%82%AC",
        "/bucket/a:b@c=d;e,f!(g)*'h'$&",
        "/bucket/%7etilde",
        "/bucket/?prefix=a+b%20c%2Bd&list-type=2&delimiter=/&acl",
        "/bucket/?marker=%C3%BC&marker=a",
        "/bucket//key",
        "/bucket/a///b..c//...",
        "//key",
        "/",
    ] {
        let answer = ask(
            &harness,
            with(
                request("GET", path, "api.test"),
                &[("authorization", DUMMY)],
            ),
        )
        .await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    }
    // What has two readings is refused, whoever signs it.
    for path in [
        "/bucket/../other/key",
        "/bucket//../other/key",
        "/bucket/a%2Fb",
        "/bucket/?a=%zz",
        "/bucket/?a=%ff",
    ] {
        let answer = ask(
            &harness,
            with(
                request("GET", path, "api.test"),
                &[("authorization", DUMMY)],
            ),
        )
        .await;
        assert_eq!(answer.word(), "bad-request", "{path}");
    }
    // A request that is not signed at all is signed in its head.
    assert_eq!(
        ask(&harness, request("GET", "/bucket/key", "api.test"))
            .await
            .status,
        200
    );
    assert_eq!(upstream.requests().len(), 13);
    harness.finish().await;
}

/// S3 tells `a//b` from `a/b`, and servers that only speak like it may not: a request goes where both are one route's.
#[tokio::test]
async fn an_empty_segment_opens_no_other_route() {
    let (upstream, _) = verifier(&["http/1.1"]).await;
    let guarded = format!(
        "[[route]]\nname = \"secret\"\nhosts = [\"api.test\"]\npaths = [\"/bucket/secret/**\"]\ncredential = \"keys\"\n\
         inject = {{ sigv4 = {{ service = \"s3\", region = \"eu-central-1\" }} }}\nsource = [\"192.0.2.0/24\"]\n{}",
        routes("paths = [\"/bucket/**\"]")
    );
    let harness = Setup::new(&guarded)
        .to("api.test:443", &upstream)
        .to("other.test:443", &upstream)
        .start()
        .await;
    let signed =
        |path: &str, host: &str| with(request("GET", path, host), &[("authorization", DUMMY)]);
    for (path, host, word) in [
        ("/bucket/secret/x", "api.test", "condition"),
        ("/bucket//secret/x", "api.test", "bad-request"),
        ("/bucket/secret//x", "api.test", "condition"),
        ("//bucket/secret/x", "api.test", "no-route"),
        ("//bucket/x", "api.test", "no-route"),
        // Nobody but S3 has such names.
        ("/a//b", "other.test", "bad-request"),
        ("//a", "other.test", "bad-request"),
    ] {
        let answer = ask(&harness, signed(path, host)).await;
        assert_eq!(answer.word(), word, "{path} at {host}");
    }
    assert_eq!(upstream.requests().len(), 0);
    let answer = ask(&harness, signed("/bucket/public//secret//x", "api.test")).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(upstream.requests()[0].uri, "/bucket/public//secret//x");
    harness.finish().await;
}

/// SigV4a signs for many regions with another key, S3 Express for a session: neither is made into something else.
#[tokio::test]
async fn a_signature_of_another_kind_is_refused_by_its_name() {
    const ASYMMETRIC: &str = "AWS4-ECDSA-P256-SHA256 Credential=AKIAEVIL/20200101/s3/aws4_request, SignedHeaders=host;x-amz-region-set, Signature=00";
    let (upstream, _) = verifier(&["http/1.1"]).await;
    let harness = start(&upstream, "").await;
    let asymmetric_query = DUMMY_QUERY.replace("AWS4-HMAC-SHA256", "AWS4-ECDSA-P256-SHA256");
    let of_session = format!("{DUMMY_QUERY}&X-Amz-S3session-Token=abc");
    for (query, fields) in [
        ("", vec![("authorization", ASYMMETRIC)]),
        (
            "",
            vec![("authorization", DUMMY), ("x-amz-region-set", "*")],
        ),
        (
            "",
            vec![("authorization", DUMMY), ("x-amz-s3session-token", "abc")],
        ),
        ("", vec![("x-amz-s3session-token", "abc")]),
        ("", vec![("authorization", "AWS4-HMAC-SHA512 Credential=x")]),
        (
            "",
            vec![
                ("authorization", DUMMY),
                (
                    "x-amz-content-sha256",
                    "STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD",
                ),
            ],
        ),
        (
            "",
            vec![
                ("authorization", DUMMY),
                ("x-amz-content-sha256", "STREAMING-AWS4-HMAC-SHA256-EVENTS"),
            ],
        ),
        (&*asymmetric_query, vec![]),
        (&*of_session, vec![]),
        ("X-Amz-S3session-Token=abc", vec![]),
    ] {
        let path = format!("/bucket/key?{query}");
        let answer = ask(&harness, with(request("GET", &path, "api.test"), &fields)).await;
        assert_eq!(
            (answer.status, answer.word()),
            (400, "bad-request"),
            "{query} {fields:?}"
        );
        assert!(
            answer.text().contains("AWS4-HMAC-SHA256"),
            "{}",
            answer.text()
        );
    }
    assert_eq!(upstream.requests().len(), 0);
    harness.finish().await;
}

#[tokio::test]
async fn a_presigned_url_is_signed_in_its_query() {
    let (upstream, _) = verifier(&["http/1.1"]).await;
    let harness = start(&upstream, "methods = [\"GET\"]").await;
    let path = format!("/bucket/key?versionId=3&{DUMMY_QUERY}&response-content-type=a%2Fb");
    let answer = ask(&harness, request("GET", &path, "api.test")).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let sent = &upstream.requests()[0].uri;
    assert!(
        !sent.contains("AKIAEVIL") && !sent.contains("604800"),
        "{sent}"
    );
    assert!(
        sent.starts_with("/bucket/key?versionId=3&response-content-type=a%2Fb&X-Amz-Algorithm="),
        "{sent}"
    );
    assert!(!sent.contains(OTHER), "a plus is escaped");
    // A URL for one method opens no other: routes say what may be done, not the agent's URL.
    let asked = body_request("PUT", &path, "api.test", "x");
    assert_eq!(ask(&harness, asked).await.word(), "no-route");
    // The same for a query of Version 2, which is answered by a signature in the head.
    let path = "/bucket/key?AWSAccessKeyId=AKIAEVIL&Signature=x%3D&Expires=1";
    let answer = ask(&harness, request("GET", path, "api.test")).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(upstream.requests().len(), 2);
    harness.finish().await;
}

#[tokio::test]
async fn two_signatures_go_nowhere() {
    let (upstream, _) = verifier(&["http/1.1"]).await;
    let harness = start(&upstream, "").await;
    let dummy = ("authorization", DUMMY);
    let presigned = format!("/k?{DUMMY_QUERY}");
    let twice = format!("/k?{DUMMY_QUERY}&X-Amz-Signature=11");
    for (path, fields) in [
        ("/k", vec![dummy, dummy]),
        ("/k", vec![dummy, ("authorization", "Bearer x")]),
        (&*presigned, vec![dummy]),
        (&*twice, vec![]),
    ] {
        let answer = ask(&harness, with(request("GET", path, "api.test"), &fields)).await;
        assert_eq!(answer.word(), "bad-request", "{path}");
    }
    assert_eq!(upstream.requests().len(), 0);
    harness.finish().await;
}

#[tokio::test]
async fn a_body_without_a_digest_is_read_and_digested() {
    let (upstream, _) = verifier(&["http/1.1"]).await;
    let harness = start(&upstream, "").await;
    let fields = [
        ("authorization", DUMMY),
        ("x-amz-target", "secretsmanager.GetSecretValue"),
        ("content-type", "application/x-amz-json-1.1"),
    ];
    let asked = with(
        body_request("POST", "/", "other.test", "{\"a\":1}"),
        &fields,
    );
    let answer = ask(&harness, asked).await;
    assert_eq!((answer.status, &*answer.text()), (200, "{\"a\":1}"));
    let mut seen = upstream.requests()[0].clone();
    seen.body = Bytes::from_static(b"{\"a\":1}");
    assert_eq!(verify(&seen).unwrap().scope, "us-east-1/secretsmanager");
    // A body that no digest covers is not read without bound.
    let long = vec![b'x'; 16 * 1024 * 1024 + 1];
    let answer = ask(
        &harness,
        with(body_request("POST", "/", "other.test", long), &fields),
    )
    .await;
    assert_eq!(answer.word(), "too-large");
    assert_eq!(upstream.requests().len(), 1);
    harness.finish().await;
}

fn chunked(kind: &str, length: usize, body: Vec<u8>, more: &[(&str, &str)]) -> Request<AnyBody> {
    let length = length.to_string();
    let fields = [
        ("authorization", DUMMY),
        ("content-encoding", "aws-chunked"),
        ("x-amz-content-sha256", kind),
        ("x-amz-decoded-content-length", &*length),
    ];
    with(
        with(
            body_request("PUT", "/bucket/key", "api.test", body),
            &fields,
        ),
        more,
    )
}

const SIGNED: &str = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD";
const SIGNED_TRAILER: &str = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER";
const UNSIGNED_TRAILER: &str = "STREAMING-UNSIGNED-PAYLOAD-TRAILER";
const CRC: (&str, &str) = ("x-amz-trailer", "x-amz-checksum-crc32");

#[tokio::test]
async fn chunks_are_signed_anew_one_by_one() {
    let (upstream, torn) = verifier(&["http/1.1"]).await;
    let harness = start(&upstream, "").await;
    let zero = "0".repeat(64);
    let object: Vec<u8> = (0..300_000_u32).map(|n| (n % 251) as u8).collect();
    let mut signed = Vec::new();
    let mut unsigned = Vec::new();
    for part in object.chunks(65_536) {
        signed.extend(format!("{:x};chunk-signature={zero}\r\n", part.len()).bytes());
        unsigned.extend(format!("{:x}\r\n", part.len()).bytes());
        for out in [&mut signed, &mut unsigned] {
            out.extend_from_slice(part);
            out.extend(b"\r\n");
        }
    }
    signed.extend(format!("0;chunk-signature={zero}\r\n").bytes());
    unsigned.extend(b"0\r\nx-amz-checksum-crc32:AAAAAA==\r\n\r\n");
    let plain = [&signed[..], b"\r\n"].concat();
    let trailer =
        format!("x-amz-checksum-crc32:AAAAAA==\r\nx-amz-trailer-signature:{zero}\r\n\r\n");
    let trailed = [&signed[..], trailer.as_bytes()].concat();
    for (kind, body, more) in [
        (SIGNED, plain, &[][..]),
        (SIGNED_TRAILER, trailed, &[CRC]),
        (UNSIGNED_TRAILER, unsigned, &[CRC]),
    ] {
        let length = body.len();
        let answer = ask(&harness, chunked(kind, object.len(), body, more)).await;
        assert_eq!(answer.status, 200, "{kind}: {}", answer.text());
        assert!(answer.body == object, "{kind}: another object");
        let seen = upstream.requests().pop().unwrap();
        assert_eq!(seen.get("content-length"), Some(length.to_string()));
        assert_eq!(seen.get("x-amz-content-sha256").as_deref(), Some(kind));
    }
    assert_eq!(*torn.lock(), 0);
    harness.finish().await;
}

#[tokio::test]
async fn chunks_that_lie_never_become_an_object() {
    for alpn in ["http/1.1", "h2"] {
        let (upstream, torn) = verifier(&[alpn]).await;
        let harness = start(&upstream, "").await;
        let zero = "0".repeat(64);
        let end = format!("0;chunk-signature={zero}\r\n\r\n");
        let chunk = |size: &str| format!("{size};chunk-signature={zero}\r\nhello\r\n");
        let crc = "x-amz-checksum-crc32:AAAAAA==\r\n";
        let tries = [
            (SIGNED, 5, chunk("6") + &end, None),
            (SIGNED, 5, chunk("4") + &end, None),
            (SIGNED, 5, chunk("5"), None),
            (SIGNED, 6, chunk("5") + &end, None),
            (SIGNED, 4, chunk("5") + &end, None),
            (SIGNED, 5, chunk("5") + &end + "more", None),
            (SIGNED, 5, "5\r\nhello\r\n0\r\n\r\n".into(), None),
            (SIGNED_TRAILER, 5, chunk("5") + &end, Some(CRC)),
            (
                UNSIGNED_TRAILER,
                5,
                format!("6\r\nhello\r\n0\r\n{crc}\r\n"),
                Some(CRC),
            ),
            (
                UNSIGNED_TRAILER,
                5,
                format!("5\r\nhello\r\n0\r\n{crc}"),
                Some(CRC),
            ),
            (
                UNSIGNED_TRAILER,
                7,
                format!("5\r\nhello\r\n0\r\n{crc}\r\n"),
                Some(CRC),
            ),
            (
                UNSIGNED_TRAILER,
                5,
                "5\r\nhello\r\n0\r\nx-amz-acl:public-read\r\n\r\n".into(),
                Some(CRC),
            ),
        ];
        let count = tries.len();
        for (place, (kind, length, body, more)) in tries.into_iter().enumerate() {
            let more: Vec<_> = more.into_iter().collect();
            let answer = ask(&harness, chunked(kind, length, body.into_bytes(), &more)).await;
            assert_eq!((place, answer.word()), (place, "bad-request"), "{alpn}");
        }
        // Whatever of them reached it was torn off before its end.
        for _ in 0..100 {
            if *torn.lock() == upstream.requests().len() {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        assert_eq!(
            *torn.lock(),
            upstream.requests().len(),
            "{alpn}: of {count}"
        );
        harness.finish().await;
    }
}

/// The AWS command line loads large objects in slices, and takes a whole object for one.
#[tokio::test]
async fn a_range_is_asked_for_as_the_agent_asks() {
    let upstream = Upstream::echo(&["http/1.1"]).await;
    let harness = start(&upstream, "").await;
    let fields = [("authorization", DUMMY), ("range", "bytes=0-9")];
    ask(
        &harness,
        with(request("GET", "/bucket/key", "api.test"), &fields),
    )
    .await;
    assert_eq!(
        upstream.requests()[0].get("range").as_deref(),
        Some("bytes=0-9")
    );
    harness.finish().await;
}

/// Amazon's refusals name the access key and echo the string to sign: neither is a secret, and no secret is in them.
#[tokio::test]
async fn an_echo_of_the_signature_holds_no_secret() {
    let upstream = Upstream::echo(&["http/1.1"]).await;
    let harness = start(&upstream, "").await;
    let asked = with(
        request("GET", "/bucket/key", "api.test"),
        &[("authorization", DUMMY)],
    );
    let answer = ask(&harness, asked).await;
    assert!(
        answer.text().contains(&format!("Credential={ID}/")),
        "{}",
        answer.text()
    );
    assert!(answer.text().contains("x-amz-security-token: "));
    let presigned = request("GET", &format!("/bucket/key?{DUMMY_QUERY}"), "api.test");
    assert!(
        ask(&harness, presigned)
            .await
            .text()
            .contains("X-Amz-Security-Token=")
    );
    // The harness searches all that the agent received for both secrets, in every form.
    harness.finish().await;
}

/// The judge itself: one byte elsewhere, and it says no.
#[tokio::test]
async fn the_verifier_is_no_rubber_stamp() {
    let (upstream, _) = verifier(&["http/1.1"]).await;
    let harness = start(&upstream, "").await;
    let asked = with(
        request("GET", "/bucket/key?a=1", "api.test"),
        &[("authorization", DUMMY)],
    );
    assert_eq!(ask(&harness, asked).await.status, 200);
    let good = upstream.requests()[0].clone();
    assert!(verify(&good).is_ok());
    for change in 0..5 {
        let mut seen = good.clone();
        match change {
            0 => seen.method = "PUT".into(),
            1 => seen.uri = seen.uri.replace("a=1", "a=2"),
            2 => seen.uri = seen.uri.replace("key", "kez"),
            3 => drop(
                seen.headers
                    .insert("x-amz-acl", "public-read".parse().unwrap()),
            ),
            _ => seen.body = Bytes::from_static(b"x"),
        }
        assert!(verify(&seen).is_err(), "{change}");
    }
    harness.finish().await;
}
