//! What an upstream may try to hand back: every place of an answer, every coding, every cut.

use std::io::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use hyper::body::Frame;

use super::agent::request;
use super::answers;
use super::canary::{CANARY, find, forms};
use super::channel::channel_body;
use super::harness::{BEARER, Setup};
use super::upstream::{Upstream, ok};

/// keyward before an upstream that answers each request with these bytes.
async fn answered(bytes: Vec<u8>) -> Vec<u8> {
    let upstream = Upstream::script(move |mut script| {
        let bytes = bytes.clone();
        async move {
            if script.request().await.is_some() {
                script.write(&bytes).await;
            }
        }
    })
    .await;
    let harness = Setup::new(BEARER)
        .to("api.test:443", &upstream)
        .start()
        .await;
    let head = b"GET /x HTTP/1.1\r\nHost: api.test\r\nAccept-Encoding: gzip, br, zstd, deflate, dcb\r\n\r\n";
    let got = harness.agent().throw("api.test:443", head).await;
    harness.finish().await;
    got
}

fn only(bytes: &[u8]) -> answers::Message {
    let (mut answers, rest) = answers::messages(bytes).unwrap();
    assert_eq!(
        (answers.len(), rest.len()),
        (1, 0),
        "{}",
        String::from_utf8_lossy(bytes)
    );
    answers.remove(0)
}

/// LEAK-05: whatever goes wrong upstream, the agent reads a fixed text and a request id.
#[tokio::test]
async fn a_refusal_holds_nothing_of_request_or_upstream() {
    let oversize = format!(
        "HTTP/1.1 200 OK\r\nX-Big: {}\r\n\r\n",
        "marker ".repeat(20_000)
    );
    let broken: [&[u8]; 5] = [
        b"",
        b"marker is no status line\r\n\r\n",
        b"HTTP/1.1 999999 marker\r\n\r\n",
        oversize.as_bytes(),
        b"HTTP/1.1 200 OK\r\nContent-Length: marker\r\n\r\n",
    ];
    for bytes in broken {
        let answer = only(&answered(bytes.to_vec()).await);
        assert_eq!(answer.status(), 502);
        assert_eq!(answer.get("keyward-refusal"), Some("bad-upstream"));
        let problem: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(problem["type"], "urn:keyward:refusal:bad-upstream");
        let text = format!("{answer:?}").to_lowercase() + &String::from_utf8_lossy(&answer.body);
        for part in [
            "marker",
            "api.test",
            "/x",
            "mailto",
            "hyper",
            "accept-encoding",
        ] {
            assert!(!text.contains(part), "{part} in {text}");
        }
    }
    let nobody = Setup::new(BEARER)
        .upstream("[upstream.connect-to]\n\"api.test:443\" = \"127.0.0.1:1\"")
        .start()
        .await;
    let answer = nobody.agent().get("api.test:443", "/x").await;
    assert_eq!(
        (answer.status, answer.word()),
        (502, "upstream-unreachable")
    );
    nobody.finish().await;
}

/// HOST-21, HOST-23 for the upstream: what is no TLS, or not the CA's, gets nothing.
#[tokio::test]
async fn an_upstream_that_fails_tls_gets_nothing() {
    for greeting in [&b"SSH-2.0-x\r\n"[..], b"\x15\x03\x01\x00\x02\x02\x46", b""] {
        let upstream = Upstream::tcp(async move |mut stream| {
            use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
            let mut hello = [0; 1024];
            assert!(stream.read(&mut hello).await.is_ok());
            stream.write_all(greeting).await.ok();
        })
        .await;
        let harness = Setup::new(BEARER)
            .to("api.test:443", &upstream)
            .start()
            .await;
        let answer = harness.agent().get("api.test:443", "/x").await;
        assert_eq!(answer.status, 502);
        harness.finish().await;
    }
}

/// LEAK-06, SSRF-08: redirects are handed on, masked, and never followed.
#[tokio::test]
async fn a_redirect_is_masked_and_not_followed() {
    for status in [301, 302, 303, 307, 308] {
        let body =
            format!("<meta http-equiv=refresh content='0;url=https://evil.test/?t={CANARY}'>");
        let bytes = format!(
            "HTTP/1.1 {status} Moved\r\nLocation: https://evil.test/?t={}\r\nRefresh: 0; url=http://169.254.169.254/{CANARY}\r\nContent-Length: {}\r\n\r\n{body}",
            CANARY
                .replace('+', "%2B")
                .replace('/', "%2F")
                .replace('=', "%3D"),
            body.len()
        );
        let answer = only(&answered(bytes.into_bytes()).await);
        assert_eq!(answer.status(), status);
        assert!(
            answer
                .get("location")
                .unwrap()
                .starts_with("https://evil.test/?t=**")
        );
    }
}

/// LEAK-08, LEAK-10: fields are masked, a field whose name is the secret is gone, and the reason phrase is our own.
#[tokio::test]
async fn a_secret_in_the_head_of_an_answer_is_masked() {
    let name = CANARY.replace(['+', '/', '='], "");
    let bytes = format!(
        "HTTP/1.1 200 Bearer {CANARY}\r\nX-Echo: Bearer {CANARY}\r\nWWW-Authenticate: Bearer error_description=\"{CANARY}\"\r\n\
         Authentication-Info: {CANARY}\r\nServer-Timing: x;desc=\"{CANARY}\"\r\nContent-Disposition: attachment; filename={CANARY}\r\n\
         Set-Cookie: a={CANARY}\r\nX-{name}: y\r\nkeyward-refusal: forged\r\nAlt-Svc: h3=\":443\"\r\nContent-Length: 2\r\n\r\nok"
    );
    let answer = only(&answered(bytes.into_bytes()).await);
    assert_eq!(answer.start, "HTTP/1.1 200 OK");
    assert!(answer.get("x-echo").unwrap().starts_with("Bearer **"));
    for gone in ["keyward-refusal", "alt-svc"] {
        assert_eq!(answer.get(gone), None);
    }
}

/// LEAK-08: a field folded over two lines is either refused or masked as one.
#[tokio::test]
async fn a_folded_field_does_not_hide_a_secret() {
    let (left, right) = CANARY.split_at(12);
    let bytes = format!(
        "HTTP/1.1 200 OK\r\nX-Echo: {left}\r\n {right}\r\nX-Two: {CANARY}\r\nContent-Length: 0\r\n\r\n"
    );
    let got = answered(bytes.into_bytes()).await;
    let text = String::from_utf8_lossy(&got);
    assert!(!text.contains(right), "{text}");
}

/// LEAK-11: chunk extensions and trailers of an HTTP/1 answer end here.
#[tokio::test]
async fn chunk_extensions_and_trailers_end_here() {
    let bytes = format!(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n5;x={CANARY}\r\nhello\r\n0;y=\"{CANARY}\"\r\nX-T: {CANARY}\r\n\r\n"
    );
    let answer = only(&answered(bytes.into_bytes()).await);
    assert_eq!((answer.status(), &answer.body[..]), (200, &b"hello"[..]));
    assert_eq!(answer.get("trailer"), None);
}

/// LEAK-16: every coding that can be read is read; another is refused.
#[tokio::test]
async fn a_coded_echo_is_decoded_and_masked() {
    let text = format!("before {CANARY} after");
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    gzip.write_all(text.as_bytes()).unwrap();
    let gzip = gzip.finish().unwrap();
    let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
    zlib.write_all(text.as_bytes()).unwrap();
    let zstd = zstd::encode_all(text.as_bytes(), 3).unwrap();
    let mut twice = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    twice.write_all(&brotli(text.as_bytes())).unwrap();
    for (coding, bytes) in [
        ("gzip", gzip.clone()),
        ("x-gzip", gzip.clone()),
        ("deflate", zlib.finish().unwrap()),
        ("br", brotli(text.as_bytes())),
        ("zstd", zstd),
        ("br, gzip", twice.finish().unwrap()),
    ] {
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Encoding: {coding}\r\nETag: \"x\"\r\nContent-Length: {}\r\n\r\n",
            bytes.len()
        );
        let answer = only(&answered([head.as_bytes(), &bytes].concat()).await);
        let body = String::from_utf8_lossy(&answer.body).into_owned();
        assert!(
            body.starts_with("before **") && body.ends_with("** after"),
            "{coding}: {body}"
        );
        assert_eq!(answer.get("content-encoding"), None);
        assert_eq!(answer.get("etag"), None, "an altered body has no validator");
    }
    for (coding, bytes) in [
        ("dcb", gzip.clone()),
        ("compress", gzip.clone()),
        ("br", b"\xff\xff\xff".to_vec()),
    ] {
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Encoding: {coding}\r\nETag: \"x\"\r\nContent-Length: {}\r\n\r\n",
            bytes.len()
        );
        let answer = only(&answered([head.as_bytes(), &bytes].concat()).await);
        assert_eq!(
            (answer.status(), answer.get("keyward-refusal")),
            (502, Some("undecodable")),
            "{coding}"
        );
    }
    // gzip that is not said to be so is bytes: what it hides is not in any form that is looked for, nor is it text.
    let claimed = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", gzip.len());
    let answer = only(&answered([claimed.as_bytes(), &gzip].concat()).await);
    assert_eq!(find(&answer.body), None);
}

/// One uncompressed meta-block and the empty last one (RFC 7932 §9.2).
fn brotli(bytes: &[u8]) -> Vec<u8> {
    let head = u32::try_from(bytes.len() - 1).unwrap() << 4 | 1 << 20;
    [&head.to_le_bytes()[..3], bytes, &[3]].concat()
}

/// LEAK-18: the secret is found wherever the chunks, and the frames, are cut.
#[tokio::test]
async fn a_secret_is_masked_at_every_cut() {
    for alpn in ["http/1.1", "h2"] {
        let upstream = Upstream::service(&[alpn], |seen| {
            Box::pin(async move {
                let text = format!("before {CANARY} after").into_bytes();
                let (sender, body) = channel_body();
                let cut: usize = seen.uri.rsplit('/').next().unwrap().parse().unwrap();
                tokio::spawn(async move {
                    let pieces: Vec<Vec<u8>> = if cut == 0 {
                        text.iter().map(|b| vec![*b]).collect()
                    } else {
                        vec![text[..cut].to_vec(), text[cut..].to_vec()]
                    };
                    for piece in pieces {
                        sender.send(Ok(Frame::data(piece.into()))).await.ok();
                        tokio::task::yield_now().await;
                    }
                });
                http::Response::new(body)
            })
        })
        .await;
        let harness = Setup::new(BEARER)
            .to("api.test:443", &upstream)
            .start()
            .await;
        let agent = harness.agent();
        let mut sender = agent.h1("api.test:443").await;
        for cut in 0..CANARY.len() + 8 {
            let path = format!("/{cut}");
            let answer = agent
                .ask(&mut sender, request("GET", &path, "api.test"))
                .await;
            let text = answer.text();
            assert!(
                text.starts_with("before **") && text.ends_with("** after"),
                "{cut}: {text}"
            );
            assert_eq!(text.len(), CANARY.len() + 13);
        }
        harness.finish().await;
    }
}

/// LEAK-20: in every form that is promised, at any alignment.
#[tokio::test]
async fn an_encoded_echo_is_masked_in_every_promised_form() {
    let mut texts: Vec<String> = forms(CANARY)
        .into_iter()
        .map(|(_, form)| String::from_utf8(form).unwrap())
        .collect();
    for lead in 0..3 {
        let text = format!("{}{CANARY} and more", "z".repeat(lead));
        texts.push(STANDARD.encode(&text));
        texts.push(URL_SAFE.encode(&text));
    }
    texts.push(STANDARD.encode(format!("bot:{CANARY}")));
    texts.push(CANARY.bytes().map(|b| format!("&#{b};")).collect());
    texts.push(CANARY.bytes().map(|b| format!("&#x{b:x};")).collect());
    for text in texts {
        let body = format!("<{text}>");
        let bytes = format!(
            "HTTP/1.1 200 OK\r\nX-Echo: {body}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let answer = only(&answered(bytes.into_bytes()).await);
        let got = String::from_utf8_lossy(&answer.body).into_owned();
        assert!(got.contains("**"), "{text}: {got}");
        assert!(!got.contains(&text), "{text}: {got}");
        assert!(!answer.get("x-echo").unwrap().contains(&text), "{answer:?}");
    }
}

/// SMUG-33: a 101 that nobody asked for is a malformed answer.
#[tokio::test]
async fn an_unasked_101_is_a_malformed_answer() {
    let bytes = format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n{CANARY}"
    );
    let answer = only(&answered(bytes.into_bytes()).await);
    assert_eq!(
        (answer.status(), answer.get("keyward-refusal")),
        (502, Some("bad-upstream"))
    );
}

/// An answer with both framings is passed on with one, and its connection is not reused for another's bytes.
#[tokio::test]
async fn an_answer_with_two_framings_leaves_with_one() {
    let bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    let answer = only(&answered(bytes.to_vec()).await);
    assert!(matches!(answer.status(), 200 | 502), "{answer:?}");
    if answer.status() == 200 {
        assert_eq!(answer.body, b"hello");
    }
}

/// LEAK-36, AUD-01, AUD-05: labels come from the configuration, and what an agent writes stays data.
#[tokio::test]
async fn what_agents_write_neither_grows_metrics_nor_breaks_records() {
    let upstream = Upstream::service(&["http/1.1"], |_| Box::pin(async { ok("x") })).await;
    let harness = Setup::new(BEARER)
        .to("api.test:443", &upstream)
        .start()
        .await;
    let agent = harness.agent();
    let mut sender = agent.h1("api.test:443").await;
    agent
        .ask(&mut sender, request("GET", "/first", "api.test"))
        .await;
    let before = harness.metrics().await.lines().count();
    for n in 0..50 {
        let path = format!("/random-{n}/%22,%22allow%22:true/%1b%5b2J?q=secret-query-{n}");
        let mut asked = request("GET", &path, "api.test");
        let agent_text = format!("ua-{n} \",\"decision\":\"allow");
        asked
            .headers_mut()
            .insert("user-agent", agent_text.parse().unwrap());
        agent.ask(&mut sender, asked).await;
        let (refused, _) = agent.connect(&format!("h{n}.unknown.test:443")).await;
        assert_eq!(refused.status(), 403);
    }
    let metrics = harness.metrics().await;
    let grown = metrics.lines().count() - before;
    assert!(grown < 20, "{grown} more lines: {metrics}");
    for part in ["random-", "unknown.test", "ua-"] {
        assert!(!metrics.contains(part), "{part}");
    }
    // Every line parsed as JSON in `audit`; queries and agents' texts are in none.
    let text = serde_json::to_string(&harness.audit()).unwrap();
    for part in ["secret-query", "ua-", "\\u001b["] {
        assert!(!text.contains(part), "{part}");
    }
    harness.finish().await;
}
