//! What passes through: both protocols in every combination, trailers, events, expectations, sizes.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;

use http::{HeaderMap, Response};
use http_body_util::BodyExt as _;
use hyper::body::Frame;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::agent::{Answer, body_request, request, within};
use super::answers;
use super::canary::CANARY;
use super::channel::channel_body;
use super::harness::{BEARER, Setup};
use super::upstream::{Upstream, ok};

#[tokio::test]
async fn http1_and_http2_meet_in_all_four_combinations() {
    for (alpn, version) in [
        (&["http/1.1"][..], http::Version::HTTP_11),
        (&["h2", "http/1.1"][..], http::Version::HTTP_2),
    ] {
        let upstream = Upstream::echo(alpn).await;
        let harness = Setup::new(BEARER)
            .to("api.test:443", &upstream)
            .start()
            .await;
        let agent = harness.agent();
        let post = || body_request("POST", "/x?q=1", "api.test", "hello body");
        let mut h1 = agent.h1("api.test:443").await;
        let mut h2 = agent.h2("api.test:443").await;
        let answers: [Answer; 2] = [
            agent.ask(&mut h1, post()).await,
            agent.ask_h2(&mut h2, post()).await,
        ];
        for answer in answers {
            assert_eq!(answer.status, 200);
            assert!(answer.text().ends_with("hello body"), "{}", answer.text());
        }
        let seen = upstream.requests();
        assert_eq!(seen.len(), 2);
        for one in seen {
            assert_eq!(one.version, version);
            assert_eq!(one.all("authorization"), [format!("Bearer {CANARY}")]);
            assert_eq!(one.body, "hello body");
            assert_eq!(one.get("content-length").as_deref(), Some("10"));
        }
        harness.finish().await;
    }
}

/// A body belongs to its request whatever its method is, also where its length is not said.
#[tokio::test]
async fn a_get_keeps_a_body_of_unknown_length() {
    for alpn in ["http/1.1", "h2"] {
        let upstream = Upstream::echo(&[alpn]).await;
        let harness = Setup::new(BEARER)
            .to("api.test:443", &upstream)
            .start()
            .await;
        let agent = harness.agent();
        let (mut h1, mut h2) = (
            agent.h1("api.test:443").await,
            agent.h2("api.test:443").await,
        );
        for method in ["GET", "HEAD"] {
            for first in [true, false] {
                let (sender, body) = channel_body();
                let piece = Frame::data(Bytes::from_static(b"{\"query\": 1}"));
                sender.send(Ok::<_, Infallible>(piece)).await.ok();
                drop(sender);
                let mut asked = request(method, "/_search", "api.test");
                *asked.body_mut() = body;
                let answer = if first {
                    let chunked = "chunked".parse().unwrap();
                    asked.headers_mut().insert("transfer-encoding", chunked);
                    agent.ask(&mut h1, asked).await
                } else {
                    agent.ask_h2(&mut h2, asked).await
                };
                assert_eq!(answer.status, 200, "{alpn} {method}");
                let seen = upstream.requests().pop().unwrap();
                assert_eq!(seen.method, method);
                assert_eq!(seen.body, "{\"query\": 1}", "{alpn} {method} {first}");
            }
            // One without a body is no longer than it was.
            let answer = agent.ask(&mut h1, request(method, "/x", "api.test")).await;
            assert_eq!(answer.status, 200);
            let seen = upstream.requests().pop().unwrap();
            assert_eq!(seen.get("transfer-encoding"), None);
        }
        harness.finish().await;
    }
}

/// LEAK-13: gRPC's trailers pass, masked; other trailers do not.
#[tokio::test]
async fn grpc_trailers_pass_and_are_masked() {
    let upstream = Upstream::service(&["h2"], |seen| {
        Box::pin(async move {
            let secret = seen.get("authorization").unwrap();
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", "0".parse().unwrap());
            trailers.insert("grpc-message", secret.replace('/', "%2F").parse().unwrap());
            let (sender, body) = channel_body();
            sender
                .send(Ok::<_, Infallible>(Frame::data(seen.body)))
                .await
                .ok();
            sender.send(Ok(Frame::trailers(trailers))).await.ok();
            let mut response = Response::new(body);
            let kind = seen.headers["content-type"].clone();
            response.headers_mut().insert("content-type", kind);
            response
        })
    })
    .await;
    let harness = Setup::new(BEARER)
        .to("api.test:443", &upstream)
        .start()
        .await;
    let agent = harness.agent();
    let mut sender = agent.h2("api.test:443").await;
    for (kind, kept) in [("application/grpc", true), ("text/plain", false)] {
        let mut asked = body_request("POST", "/pkg.Service/Call", "api.test", "\0\0\0\0\x02hi");
        let headers = asked.headers_mut();
        headers.insert("content-type", kind.parse().unwrap());
        headers.insert("te", "trailers".parse().unwrap());
        let answer = agent.ask_h2(&mut sender, asked).await;
        assert_eq!((answer.status, answer.whole), (200, true));
        assert_eq!(&answer.body[..], b"\0\0\0\0\x02hi");
        let trailers = answer.trailers.unwrap_or_default();
        assert_eq!(trailers.contains_key("grpc-status"), kept, "{trailers:?}");
        if kept {
            assert!(trailers["grpc-message"].to_str().unwrap().contains("**"));
        }
    }
    let seen = upstream.requests();
    assert_eq!(seen[0].get("te").as_deref(), Some("trailers"));
    harness.finish().await;
}

#[tokio::test]
async fn a_refused_grpc_call_gets_a_trailers_only_status() {
    let upstream = Upstream::echo(&["h2"]).await;
    let harness = Setup::new(&format!("{BEARER}paths = [\"/pkg.Service/*\"]\n"))
        .to("api.test:443", &upstream)
        .start()
        .await;
    let agent = harness.agent();
    let mut sender = agent.h2("api.test:443").await;
    let mut asked = body_request("POST", "/pkg.Other/Call", "api.test", "");
    asked
        .headers_mut()
        .insert("content-type", "application/grpc+proto".parse().unwrap());
    let answer = agent.ask_h2(&mut sender, asked).await;
    assert_eq!((answer.status, answer.word()), (200, "no-route"));
    assert_eq!(answer.get("grpc-status"), Some("7"));
    assert_eq!(upstream.dialled(), 0);
    harness.finish().await;
}

/// Each event reaches the agent before the upstream sends the next, on both protocols.
#[tokio::test]
async fn events_arrive_one_by_one() {
    let (release, gate) = tokio::sync::mpsc::channel::<()>(1);
    let gate = std::sync::Arc::new(tokio::sync::Mutex::new(gate));
    let upstream = Upstream::service(&["http/1.1"], move |_| {
        let gate = std::sync::Arc::clone(&gate);
        Box::pin(async move {
            let (sender, body) = channel_body();
            tokio::spawn(async move {
                for n in 0..5 {
                    let event = format!("data: event {n} of {CANARY}\n\n");
                    sender.send(Ok(Frame::data(event.into()))).await.ok();
                    if gate.lock().await.recv().await.is_none() {
                        return;
                    }
                }
            });
            let mut response = Response::new(body);
            let kind = http::HeaderValue::from_static("text/event-stream");
            response.headers_mut().insert("content-type", kind);
            response
        })
    })
    .await;
    let harness = Setup::new(BEARER)
        .to("api.test:443", &upstream)
        .start()
        .await;
    let agent = harness.agent();
    let mut h1 = agent.h1("api.test:443").await;
    let mut h2 = agent.h2("api.test:443").await;
    let first = h1.send_request(request("GET", "/events", "api.test"));
    let first = within(first).await.unwrap();
    read_events(&agent, first, &release).await;
    let mut asked = request("GET", "/", "api.test");
    asked.headers_mut().clear();
    *asked.uri_mut() = "https://api.test/events".parse().unwrap();
    let second = within(h2.send_request(asked)).await.unwrap();
    read_events(&agent, second, &release).await;
    harness.finish().await;
}

async fn read_events(
    agent: &super::agent::Agent,
    response: Response<hyper::body::Incoming>,
    release: &tokio::sync::mpsc::Sender<()>,
) {
    assert_eq!(response.status(), 200);
    let mut body = response.into_body();
    for n in 0..5 {
        let mut event = Vec::new();
        while !event.ends_with(b"\n\n") {
            let frame = within(body.frame()).await.unwrap().unwrap();
            event.extend_from_slice(&frame.into_data().unwrap());
        }
        let text = String::from_utf8(event).unwrap();
        agent.transcript.lock().extend_from_slice(text.as_bytes());
        assert!(
            text.starts_with(&format!("data: event {n} of **")),
            "{text}"
        );
        release.send(()).await.unwrap();
    }
}

#[tokio::test]
async fn an_expectation_is_met_before_the_body_is_sent() {
    let upstream = Upstream::echo(&["http/1.1"]).await;
    let harness = Setup::new(BEARER)
        .to("api.test:443", &upstream)
        .start()
        .await;
    let mut tunnel = harness.agent().tunnel("api.test:443", &["http/1.1"]).await;
    let head =
        "POST /x HTTP/1.1\r\nHost: api.test\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n";
    tunnel.write_all(head.as_bytes()).await.unwrap();
    assert_eq!(tunnel.head().await.status(), 100);
    tunnel.write_all(b"hello").await.unwrap();
    let answer = tunnel.answer().await;
    assert_eq!(answer.status(), 200);
    assert!(answer.body.ends_with(b"hello"));
    assert_eq!(upstream.requests()[0].get("expect"), None);
    harness.finish().await;
}

/// A refused request that expected 100-continue is refused without its body, and the connection does not desynchronise.
#[tokio::test]
async fn a_refused_expectation_never_asks_for_the_body() {
    let upstream = Upstream::echo(&["http/1.1"]).await;
    let harness = Setup::new(&format!("{BEARER}methods = [\"GET\"]\n"))
        .to("api.test:443", &upstream)
        .start()
        .await;
    let head =
        "POST /x HTTP/1.1\r\nHost: api.test\r\nContent-Length: 40\r\nExpect: 100-continue\r\n\r\n";
    let bytes = harness.agent().throw("api.test:443", head.as_bytes()).await;
    let (answers, _) = answers::messages(&bytes).unwrap();
    assert_eq!(answers.len(), 1, "{}", String::from_utf8_lossy(&bytes));
    assert_eq!(answers[0].status(), 403);
    assert_eq!(upstream.dialled(), 0);
    harness.finish().await;
}

const BIG: usize = 64 << 20;

fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = text.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

/// DOS-13: 64 MiB each way, streamed: this whole process, all three parties, grows by a fraction of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_bodies_stream_both_ways_in_bounded_memory() {
    let upstream = Upstream::streaming(&["http/1.1"], |_, mut body| {
        Box::pin(async move {
            let mut taken = 0;
            while let Some(frame) = body.frame().await {
                taken += frame.unwrap().into_data().unwrap().len();
            }
            let (sender, body) = channel_body();
            tokio::spawn(async move {
                let piece = Bytes::from(vec![b'd'; 64 << 10]);
                for _ in 0..BIG / piece.len() {
                    if sender.send(Ok(Frame::data(piece.clone()))).await.is_err() {
                        return;
                    }
                }
            });
            let mut response = Response::new(body);
            let taken = taken.to_string().parse().unwrap();
            response.headers_mut().insert("x-taken", taken);
            response
        })
    })
    .await;
    let harness = Setup::new(BEARER)
        .to("api.test:443", &upstream)
        .start()
        .await;
    let agent = harness.agent();
    let mut sender = agent.h1("api.test:443").await;
    let (up, body) = channel_body();
    tokio::spawn(async move {
        let piece = Bytes::from(vec![b'u'; 64 << 10]);
        for _ in 0..BIG / piece.len() {
            up.send(Ok(Frame::data(piece.clone()))).await.unwrap();
        }
    });
    let asked = http::Request::builder()
        .method("POST")
        .uri("/x")
        .header("host", "api.test")
        .body(body)
        .unwrap();
    // The transcript would keep every byte: it is forgotten as it grows.
    let transcript = std::sync::Arc::clone(&agent.transcript);
    let before = resident();
    let long = Duration::from_secs(40);
    let response = tokio::time::timeout(long, sender.send_request(asked)).await;
    let response = response.unwrap().unwrap();
    assert_eq!(response.headers()["x-taken"], BIG.to_string().as_str());
    let (mut body, mut taken, mut highest) = (response.into_body(), 0, 0);
    while let Some(frame) = body.frame().await {
        taken += frame.unwrap().into_data().unwrap().len();
        transcript.lock().clear();
        highest = highest.max(resident());
    }
    assert_eq!(taken, BIG);
    let grown = highest.saturating_sub(before);
    assert!(grown < BIG / 2, "grew by {grown} bytes");
    drop(sender);
    harness
        .record(|record| record["bytes-down"] == BIG || record["bytes_down"] == BIG)
        .await;
    harness.finish().await;
}

/// RFC 9112 §3.2.2: `http://` in absolute form is forwarded bare, and never where a credential belongs.
#[tokio::test]
async fn plain_http_is_forwarded_without_a_credential_and_refused_with_one() {
    let upstream =
        Upstream::plain(|seen| Box::pin(async move { super::upstream::echo(&seen) })).await;
    let routes = format!("{BEARER}hosts2");
    let routes = routes.replace(
        "hosts2",
        "[[route]]\nhosts = [\"plain.test:80\"]\n[[route]]\nhosts = [\"api.test:80\"]\ncredential = \"c\"\ninject = \"bearer\"\n",
    );
    let harness = Setup::new(&routes)
        .to("plain.test:80", &upstream)
        .to("api.test:80", &upstream)
        .start()
        .await;
    let agent = harness.agent();
    let ask = async |url: &str, host: &str| {
        let mut stream = agent.tcp().await;
        let authorization = agent.authorization.as_ref().unwrap();
        let head = format!(
            "GET {url} HTTP/1.1\r\nHost: {host}\r\nProxy-Authorization: {authorization}\r\nProxy-Connection: keep-alive\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.answer().await
    };
    let answer = ask("http://plain.test/x?y=1", "plain.test").await;
    assert_eq!(answer.status(), 200, "{answer:?}");
    let seen = upstream.requests();
    assert_eq!(
        (seen[0].uri.as_str(), seen[0].all("host")),
        ("/x?y=1", vec!["plain.test".to_owned()])
    );
    for gone in ["proxy-authorization", "proxy-connection", "authorization"] {
        assert_eq!(seen[0].get(gone), None);
    }
    let refused = ask("http://api.test/x", "api.test").await;
    assert_eq!(refused.status(), 403);
    assert_eq!(refused.get("keyward-refusal"), Some("cleartext"));
    let refused = ask("http://unknown.test/x", "unknown.test").await;
    assert_eq!(refused.get("keyward-refusal"), Some("no-route"));
    let refused = ask("http://plain.test/x", "api.test").await;
    assert!(matches!(refused.status(), 400 | 421), "{refused:?}");
    assert_eq!(upstream.requests().len(), 1);
    harness.finish().await;
}

/// SSRF-05 for `connect-to`: name and TLS checks stay those of the left side.
#[tokio::test]
async fn connect_to_dials_elsewhere_but_the_name_must_still_be_proven() {
    let good = Upstream::echo(&["http/1.1"]).await;
    let other = Upstream::script_with(
        super::upstream::tls(&["evil.test"], &["http/1.1"]),
        async |mut script| script.answer_all("evil").await,
    )
    .await;
    let routes = format!("{BEARER}[[route]]\nhosts = [\"other.test\"]\n");
    let harness = Setup::new(&routes)
        .to("api.test:443", &good)
        .to("other.test:443", &other)
        .start()
        .await;
    let agent = harness.agent();
    assert_eq!(agent.get("api.test:443", "/x").await.status, 200);
    let refused = agent.get("other.test:443", "/x").await;
    assert_eq!(
        (refused.status, refused.word()),
        (502, "upstream-untrusted")
    );
    assert!(other.bytes().is_empty());
    harness.finish().await;
}

#[tokio::test]
async fn a_parent_proxy_gets_a_bare_connect_and_the_end_to_end_tls() {
    let upstream = Upstream::echo(&["http/1.1"]).await;
    let address = upstream.address;
    let heads: std::sync::Arc<parking_lot::Mutex<Vec<String>>> = std::sync::Arc::default();
    let log = std::sync::Arc::clone(&heads);
    let parent = Upstream::tcp(move |mut stream| {
        let log = std::sync::Arc::clone(&log);
        async move {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            let head = String::from_utf8(head).unwrap();
            let granted = head.starts_with("CONNECT api.test:443 ");
            log.lock().push(head);
            if !granted {
                stream.write_all(b"HTTP/1.1 403 No\r\n\r\n").await.ok();
                return;
            }
            stream
                .write_all(b"HTTP/1.1 200 OK\r\nX: y\r\n\r\n")
                .await
                .unwrap();
            let mut up = tokio::net::TcpStream::connect(address).await.unwrap();
            tokio::io::copy_bidirectional(&mut stream, &mut up)
                .await
                .ok();
        }
    })
    .await;
    let routes = format!("{BEARER}[[route]]\nhosts = [\"other.test\"]\n");
    let harness = Setup::new(&routes)
        .upstream(&format!("via = \"http://{}\"", parent.address))
        .start()
        .await;
    let agent = harness.agent();
    assert_eq!(agent.get("api.test:443", "/x").await.status, 200);
    assert_eq!(
        agent.get("other.test:443", "/x").await.word(),
        "upstream-unreachable"
    );
    let heads = heads.lock().clone();
    assert_eq!(
        heads[0],
        "CONNECT api.test:443 HTTP/1.1\r\nHost: api.test:443\r\n\r\n"
    );
    assert_eq!(
        upstream.requests()[0].all("authorization"),
        [format!("Bearer {CANARY}")]
    );
    harness.finish().await;
}

#[tokio::test]
async fn a_unix_socket_serves_as_a_tcp_port_does() {
    let upstream = Upstream::echo(&["http/1.1"]).await;
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("proxy.sock");
    let harness = Setup::new(BEARER)
        .proxy(&format!("listen = [\"unix:{}\"]", socket.display()))
        .to("api.test:443", &upstream)
        .start()
        .await;
    let agent = harness.agent();
    let mut stream = tokio::net::UnixStream::connect(&socket).await.unwrap();
    stream
        .write_all(&agent.connect_head("api.test:443"))
        .await
        .unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(within(stream.read_u8()).await.unwrap());
    }
    assert!(head.starts_with(b"HTTP/1.1 200 "));
    let mut config = rustls::ClientConfig::builder()
        .with_root_certificates(std::sync::Arc::clone(&agent.roots))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
    let name = rustls::pki_types::ServerName::try_from("api.test").unwrap();
    let mut tunnel = within(connector.connect(name, stream)).await.unwrap();
    tunnel
        .write_all(b"GET /x HTTP/1.1\r\nHost: api.test\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut answer = Vec::new();
    within(tunnel.read_to_end(&mut answer)).await.ok();
    agent.transcript.lock().extend_from_slice(&answer);
    assert!(answer.starts_with(b"HTTP/1.1 200 OK\r\n"));
    drop(tunnel);
    harness.finish().await;
    assert!(!socket.exists(), "the socket's file goes with its listener");
}

#[tokio::test]
async fn an_answer_without_secrets_keeps_its_validators_and_length() {
    let upstream = Upstream::service(&["http/1.1"], |seen| {
        Box::pin(async move {
            let body = if seen.uri == "/clean" {
                "nothing to hide".to_owned()
            } else {
                format!("all of {CANARY}")
            };
            let mut response = ok(body);
            for (name, value) in [
                ("etag", "\"abc\""),
                ("content-md5", "Q2hlY2sgSW50ZWdyaXR5IQ=="),
                ("digest", "sha-256=x"),
                ("last-modified", "Sat, 21 Nov 2026 10:00:00 GMT"),
                ("x-amz-checksum-crc32", "AAAAAA=="),
            ] {
                response.headers_mut().insert(name, value.parse().unwrap());
            }
            response
        })
    })
    .await;
    let harness = Setup::new(BEARER)
        .to("api.test:443", &upstream)
        .start()
        .await;
    let agent = harness.agent();
    let clean = agent.get("api.test:443", "/clean").await;
    let altered = agent.get("api.test:443", "/secret").await;
    for name in [
        "etag",
        "content-md5",
        "digest",
        "last-modified",
        "x-amz-checksum-crc32",
    ] {
        assert!(clean.get(name).is_some(), "{name}");
        assert_eq!(altered.get(name), None, "{name}");
    }
    assert_eq!(clean.get("content-length"), Some("15"));
    let length = format!("all of {CANARY}").len();
    assert_eq!(altered.body.len(), length, "masking keeps the length");
    harness.finish().await;
}
