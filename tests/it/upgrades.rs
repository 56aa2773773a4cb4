//! WebSockets over either protocol, early bytes behind an upgrade, and HTTP/2 connections that misbehave.

use std::time::Duration;

use base64::Engine as _;
use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::agent::{Agent, request, within};
use super::canary::CANARY;
use super::h2raw::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PING, PRIORITY, Raw, SETTINGS,
    WINDOW_UPDATE, frame, get,
};
use super::harness::{BEARER, Harness, Setup, TOKEN_A};
use super::upstream::{Scripted, Upstream};

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// An upstream that upgrades, sends its credential in messages cut in several ways, then echoes.
async fn echoing() -> Upstream {
    Upstream::script(async |mut script| {
        let Some(asked) = script.head().await else {
            return;
        };
        let key = asked.get("sec-websocket-key").unwrap().to_owned();
        assert_eq!(asked.get("sec-websocket-extensions"), None);
        assert_eq!(asked.all("authorization"), [format!("Bearer {CANARY}")]);
        let accept = accept(&key);
        script
            .write(format!(
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
            ))
            .await;
        let secret = format!("you sent {CANARY} ok").into_bytes();
        script.write(ws(0x81, &secret)).await;
        // Fragments of one byte.
        for (n, byte) in secret.iter().enumerate() {
            let first = if n == 0 { 0x01 } else { 0x00 };
            let last = if n + 1 == secret.len() { 0x80 } else { 0x00 };
            script.write(ws(first | last, &[*byte])).await;
        }
        relay(script).await;
    })
    .await
}

async fn relay(mut script: Scripted) {
    loop {
        let mut head = [0; 6];
        if script.stream.read_exact(&mut head).await.is_err() {
            return;
        }
        let mut text = vec![0; usize::from(head[1] & 0x7f)];
        script.stream.read_exact(&mut text).await.unwrap();
        for (n, byte) in text.iter_mut().enumerate() {
            *byte ^= head[2 + n % 4];
        }
        script.write(ws(0x81, &text)).await;
    }
}

fn accept(key: &str) -> String {
    let text = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    let digest = aws_lc_rs::digest::digest(
        &aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY,
        text.as_bytes(),
    );
    base64::engine::general_purpose::STANDARD.encode(digest)
}

fn ws(first: u8, text: &[u8]) -> Vec<u8> {
    [&[first, u8::try_from(text.len()).unwrap()], text].concat()
}

/// Reads messages until one is whole.
async fn message(stream: &mut (impl tokio::io::AsyncRead + Unpin), agent: &Agent) -> String {
    let mut text = Vec::new();
    loop {
        let mut head = [0; 2];
        within(stream.read_exact(&mut head)).await.unwrap();
        let mut piece = vec![0; usize::from(head[1])];
        within(stream.read_exact(&mut piece)).await.unwrap();
        text.extend_from_slice(&piece);
        if head[0] & 0x80 != 0 {
            agent.transcript.lock().extend_from_slice(&text);
            return String::from_utf8(text).unwrap();
        }
    }
}

async fn converse(
    stream: &mut (impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin),
    agent: &Agent,
) {
    for _ in 0..2 {
        let text = message(stream, agent).await;
        assert!(
            text.starts_with("you sent **") && text.ends_with("** ok"),
            "{text}"
        );
    }
    // Masked by a key of zeros, as an agent's frames must be.
    let sent = [&[0x81, 0x80 | 5, 0, 0, 0, 0][..], b"hello"].concat();
    stream.write_all(&sent).await.unwrap();
    stream.flush().await.unwrap();
    assert_eq!(message(stream, agent).await, "hello");
}

async fn started(upstream: &Upstream) -> Harness {
    Setup::new(BEARER)
        .to("api.test:443", upstream)
        .start()
        .await
}

/// LEAK-21.
#[tokio::test]
async fn a_websocket_over_http1_echoes_and_is_masked() {
    let upstream = echoing().await;
    let harness = started(&upstream).await;
    let agent = harness.agent();
    let mut tunnel = agent.tunnel("api.test:443", &["http/1.1"]).await;
    let head = format!(
        "GET /ws HTTP/1.1\r\nHost: api.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: {KEY}\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
    );
    tunnel.write_all(head.as_bytes()).await.unwrap();
    let answer = tunnel.head().await;
    assert_eq!(answer.status(), 101, "{answer:?}");
    assert_eq!(
        answer.get("sec-websocket-accept"),
        Some(accept(KEY).as_str())
    );
    converse(&mut tunnel, &agent).await;
    drop(tunnel);
    harness.record(|record| record["status"] == 101).await;
    harness.finish().await;
}

/// A socket outlives the connection that asked for it, but not its grant.
#[tokio::test]
async fn an_open_websocket_is_cut_when_a_reload_takes_its_route() {
    let upstream = echoing().await;
    let setup = Setup::new(BEARER).to("api.test:443", &upstream);
    let harness = setup.clone().start().await;
    let agent = harness.agent();
    let mut tunnel = agent.tunnel("api.test:443", &["http/1.1"]).await;
    let head = format!(
        "GET /ws HTTP/1.1\r\nHost: api.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: {KEY}\r\n\
         Sec-WebSocket-Version: 13\r\n\r\n"
    );
    tunnel.write_all(head.as_bytes()).await.unwrap();
    assert_eq!(tunnel.head().await.status(), 101);
    converse(&mut tunnel, &agent).await;
    harness
        .reload(&setup.routes("[[route]]\nhosts = [\"other.test\"]\n"))
        .await;
    assert!(tunnel.closes_within(Duration::from_secs(2)).await);
    harness.finish().await;
}

/// An operator's order ends what a session has open, whatever it is: a WebSocket and a tunnel of bytes nobody reads.
#[tokio::test]
async fn an_order_cuts_a_websocket_and_a_blind_tunnel_within_a_tenth_of_a_second() {
    let (upstream, blind) = (echoing().await, Upstream::echo(&["http/1.1"]).await);
    let harness = Setup::new(BEARER)
        .proxy("unmatched = \"tunnel\"")
        .admin("tokens = { alice = { env = \"ALICE\" } }")
        .to("api.test:443", &upstream)
        .to("other.test:443", &blind)
        .start()
        .await;
    let granted = harness.session(("a", TOKEN_A), &[]).await;
    let agent = harness.agent().with_token(granted.token());
    let mut socket = agent.tunnel("api.test:443", &["http/1.1"]).await;
    let head = format!(
        "GET /ws HTTP/1.1\r\nHost: api.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: {KEY}\r\n\
         Sec-WebSocket-Version: 13\r\n\r\n"
    );
    socket.write_all(head.as_bytes()).await.unwrap();
    assert_eq!(socket.head().await.status(), 101);
    converse(&mut socket, &agent).await;
    let (answer, mut bytes) = agent.connect("other.test:443").await;
    assert_eq!(answer.status(), 200);
    let line = format!("DELETE /sessions/{}", granted.text("session"));
    let (status, _) = super::session_admin::alice(&harness, &line, "").await;
    assert_eq!(status, 204);
    let tenth = Duration::from_millis(100);
    let (one, two) = tokio::join!(socket.closes_within(tenth), bytes.closes_within(tenth));
    assert!(one && two, "WebSocket cut: {one}, tunnel cut: {two}");
    harness.finish().await;
}

/// LEAK-21 over RFC 8441.
#[tokio::test]
async fn a_websocket_over_http2_echoes_and_is_masked() {
    let upstream = echoing().await;
    let harness = started(&upstream).await;
    let agent = harness.agent();
    let mut sender = agent.h2("api.test:443").await;
    // The server's SETTINGS must have come before an extended CONNECT may be sent.
    tokio::time::sleep(Duration::from_millis(50)).await;
    let asked = http::Request::builder()
        .method("CONNECT")
        .uri("https://api.test/ws")
        .header("sec-websocket-version", "13")
        .extension(hyper::ext::Protocol::from_static("websocket"))
        .body(http_body_util::Empty::<Bytes>::new().boxed_unsync())
        .unwrap();
    let mut response = within(sender.send_request(asked)).await.unwrap();
    assert_eq!(response.status(), 200);
    let upgraded = within(hyper::upgrade::on(&mut response)).await.unwrap();
    converse(&mut TokioIo::new(upgraded), &agent).await;
    harness.finish().await;
}

/// SMUG-21: what stands behind an upgrade that is not granted is not a request, and never reaches the upstream.
#[tokio::test]
async fn bytes_behind_an_upgrade_that_is_not_granted_reach_nobody() {
    for answer in ["426 Upgrade Required", "200 OK", "101 Switching Protocols"] {
        let upstream = Upstream::script(move |mut script| async move {
            script.head().await;
            // A 101 without the proof that it belongs to this handshake is none.
            script
                .write(format!("HTTP/1.1 {answer}\r\nContent-Length: 0\r\n\r\n"))
                .await;
            let mut rest = Vec::new();
            while script.more(&mut rest).await {}
        })
        .await;
        let harness = started(&upstream).await;
        let head = format!(
            "GET /ws HTTP/1.1\r\nHost: api.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: {KEY}\r\n\
             Sec-WebSocket-Version: 13\r\n\r\nGET /admin HTTP/1.1\r\nHost: api.test\r\n\r\n"
        );
        let got = harness.agent().throw("api.test:443", head.as_bytes()).await;
        let (answers, _) = super::answers::messages(&got).unwrap();
        let wanted = if answer.starts_with("101") {
            "502"
        } else {
            &answer[..3]
        };
        assert_eq!(answers.len(), 1, "{answers:?}");
        assert_eq!(answers[0].status().to_string(), wanted);
        assert!(memchr::memmem::find(&upstream.bytes(), b"admin").is_none());
        harness.finish().await;
    }
}

/// SMUG-31: the protocol is what ALPN said; a preface on the wrong one is no request.
#[tokio::test]
async fn a_preface_of_http2_is_no_request_of_http1() {
    let upstream = Upstream::echo(&["http/1.1"]).await;
    let harness = started(&upstream).await;
    let agent = harness.agent();
    let preface = [
        &b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..],
        &frame(SETTINGS, 0, 0, &[]),
        &frame(HEADERS, 5, 1, &get("/x")),
    ]
    .concat();
    let mut outer = agent.tcp().await;
    outer.write_all(&preface).await.unwrap();
    for got in [
        agent.throw("api.test:443", &preface).await,
        outer.until_quiet().await,
    ] {
        assert!(
            got.is_empty() || got.starts_with(b"HTTP/1.1 4"),
            "{}",
            String::from_utf8_lossy(&got)
        );
    }
    assert_eq!(upstream.dialled(), 0);
    harness.finish().await;
}

/// Sends until the other side has closed; whether it did.
async fn flooded(raw: &mut Raw, bytes: &[u8], times: usize) -> bool {
    for _ in 0..times {
        if tokio::time::timeout(Duration::from_secs(2), raw.send(bytes)).await != Ok(true) {
            return true;
        }
    }
    raw.0.closes_within(Duration::from_secs(2)).await
}

/// DOS-05, DOS-06, DOS-08: resets, endless heads and control frames end the connection or are absorbed; others are served.
#[tokio::test]
async fn floods_of_http2_frames_end_their_connection_and_no_other() {
    let upstream = Upstream::echo(&["http/1.1"]).await;
    let harness = started(&upstream).await;
    let agent = harness.agent();

    // CONTINUATION without end.
    let mut raw = Raw::open(&agent).await;
    raw.send(&frame(HEADERS, END_STREAM, 1, &get("/x"))).await;
    let filler = frame(
        CONTINUATION,
        0,
        1,
        &super::h2raw::block(&[("x-filler", &"y".repeat(8000))]),
    );
    assert!(flooded(&mut raw, &filler, 200).await, "CONTINUATION");

    // MadeYouReset: a window update of zero makes the server reset the stream.
    let mut raw = Raw::open(&agent).await;
    let mut reset = Vec::new();
    for stream in (1..4001).step_by(2) {
        reset.extend(frame(HEADERS, END_HEADERS, stream, &get("/x")));
        reset.extend(frame(WINDOW_UPDATE, 0, stream, &[0; 4]));
    }
    assert!(flooded(&mut raw, &reset, 1).await, "resets by the server");

    // Rapid reset by the client.
    let mut raw = Raw::open(&agent).await;
    let mut reset = Vec::new();
    for stream in (1..8001).step_by(2) {
        reset.extend(frame(HEADERS, END_HEADERS | END_STREAM, stream, &get("/x")));
        reset.extend(frame(super::h2raw::RST_STREAM, 0, stream, &[0, 0, 0, 8]));
    }
    flooded(&mut raw, &reset, 1).await;

    // Control frames whose answers nobody reads, and frames that mean nothing.
    for bytes in [
        frame(PING, 0, 0, &[0; 8]).repeat(20_000),
        frame(SETTINGS, 0, 0, &[]).repeat(20_000),
        frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 0]).repeat(20_000),
        [
            frame(HEADERS, END_HEADERS, 1, &get("/x")),
            frame(DATA, 0, 1, &[]).repeat(20_000),
        ]
        .concat(),
    ] {
        let mut raw = Raw::open(&agent).await;
        tokio::time::timeout(Duration::from_secs(2), raw.send(&bytes))
            .await
            .ok();
    }
    assert_eq!(agent.get("api.test:443", "/x").await.status, 200);
    harness.finish().await;
}

/// DOS-16: pipelined requests are answered in order, one at a time.
#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let upstream = Upstream::script(async |mut script| {
        while let Some(asked) = script.request().await {
            let path = asked.start.split(' ').nth(1).unwrap().to_owned();
            script
                .write(format!(
                    "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{path}",
                    path.len()
                ))
                .await;
        }
    })
    .await;
    let harness = started(&upstream).await;
    let agent = harness.agent();
    let mut tunnel = agent.tunnel("api.test:443", &["http/1.1"]).await;
    let many = 500;
    let bytes: String = (0..many)
        .map(|n| format!("GET /{n} HTTP/1.1\r\nHost: api.test\r\n\r\n"))
        .collect();
    tunnel.write_all(bytes.as_bytes()).await.unwrap();
    for n in 0..many {
        let answer = tunnel.answer().await;
        assert_eq!(
            (answer.status(), answer.body),
            (200, format!("/{n}").into_bytes())
        );
    }
    assert_eq!(upstream.dialled(), 1);
    harness.finish().await;
}

/// SMUG-18, DOS-21: heads past the limits are refused with 431 or 414, or the connection is closed.
#[tokio::test]
async fn oversized_heads_are_refused() {
    let upstream = Upstream::echo(&["http/1.1"]).await;
    let harness = Setup::new(&format!("{BEARER}paths = [\"/a/**/b/**/c/**/d\"]\n"))
        .to("api.test:443", &upstream)
        .start()
        .await;
    let agent = harness.agent();
    let heads = [
        format!(
            "GET /{} HTTP/1.1\r\nHost: api.test\r\n\r\n",
            "a/b/".repeat(1 << 18)
        ),
        format!(
            "GET /x HTTP/1.1\r\nHost: api.test\r\nX: {}\r\n\r\n",
            "v".repeat(1 << 20)
        ),
        format!(
            "GET /x HTTP/1.1\r\nHost: api.test\r\n{}\r\n",
            "X: y\r\n".repeat(101)
        ),
        format!(
            "GET /x HTTP/1.1\r\nHost: api.test\r\n{}\r\n",
            "X: y\r\n".repeat(100_000)
        ),
        format!(
            "GET /x HTTP/1.1\r\nHost: api.test\r\nX: {}\r\n\r\n",
            "v".repeat(17 << 10)
        ),
    ];
    for head in heads {
        let got = agent.throw("api.test:443", head.as_bytes()).await;
        let (answers, _) = super::answers::messages(&got).unwrap();
        let status = answers.first().map_or(0, super::answers::Message::status);
        assert!(
            [0, 414, 431].contains(&status),
            "{status} for {} bytes",
            head.len()
        );
    }
    // A long path that the patterns could backtrack over.
    let path = format!("/a/{}", "b/c/".repeat(2000));
    let began = std::time::Instant::now();
    let mut sender = agent.h1("api.test:443").await;
    let answer = agent
        .ask(
            &mut sender,
            request("GET", path.trim_end_matches('/'), "api.test"),
        )
        .await;
    assert_eq!(answer.word(), "no-route");
    assert!(began.elapsed() < Duration::from_secs(2));
    assert_eq!(upstream.dialled(), 0);
    harness.finish().await;
}

/// HOST-01, HOST-23, DOS-11: another SNI, plain text or a ClientHello in splinters inside a CONNECT.
#[tokio::test]
async fn a_tunnel_carries_tls_for_its_own_name_or_nothing() {
    let upstream = Upstream::echo(&["http/1.1"]).await;
    let harness = Setup::new(BEARER)
        .proxy("unmatched = \"tunnel\"")
        .to("api.test:443", &upstream)
        .start()
        .await;
    let agent = harness.agent();
    let (_, stream) = agent.connect("api.test:443").await;
    assert!(agent.tls(stream, "evil.test", &["http/1.1"]).await.is_err());
    harness
        .record(|record| record["word"] == "host-mismatch")
        .await;
    for plain in [
        &b"GET /x HTTP/1.1\r\nHost: api.test\r\n\r\n"[..],
        b"SSH-2.0-x\r\n",
    ] {
        let (_, mut stream) = agent.connect("api.test:443").await;
        stream.write_all(plain).await.unwrap();
        let got = stream.until_quiet().await;
        assert!(
            !got.starts_with(b"HTTP/") && !got.starts_with(b"SSH"),
            "{got:?}"
        );
        assert!(stream.closes_within(Duration::from_secs(2)).await);
    }
    let (_, mut stream) = agent.connect("api.test:443").await;
    for _ in 0..200 {
        // One-byte records of a handshake message that claims 64 KiB.
        let record = [0x16, 3, 1, 0, 1, 1];
        if stream.write_all(&record).await.is_err() {
            break;
        }
    }
    drop(stream);
    assert_eq!(upstream.dialled(), 0);
    assert_eq!(agent.get("api.test:443", "/x").await.status, 200);
    harness.finish().await;
}

/// SMUG-23: what is sent before the 200 of a CONNECT is not carried into the tunnel.
#[tokio::test]
async fn bytes_before_the_200_close_the_connection() {
    let upstream = Upstream::echo(&["http/1.1"]).await;
    let harness = started(&upstream).await;
    let agent = harness.agent();
    for early in [
        &b"\x16\x03\x01\x00\x05hello"[..],
        b"GET / HTTP/1.1\r\n\r\n",
        b"x",
    ] {
        let mut stream = agent.tcp().await;
        let bytes = [&agent.connect_head("api.test:443")[..], early].concat();
        stream.write_all(&bytes).await.unwrap();
        assert!(stream.closes_within(Duration::from_secs(2)).await);
    }
    assert_eq!(upstream.dialled(), 0);
    harness.finish().await;
}

/// SSRF-05, SSRF-06, SSRF-11: our own listeners are refused, and a denied host is refused without a look-up.
#[tokio::test]
async fn our_own_listeners_and_unknown_names_are_refused_at_once() {
    let harness = Setup::new(BEARER)
        .proxy("unmatched = \"tunnel\"")
        .upstream("allow-private = [\"127.0.0.0/8\", \"::1/128\"]")
        .start()
        .await;
    let agent = harness.agent();
    for port in [agent.proxy.port(), harness.app().admin().unwrap().port()] {
        for host in [
            "127.0.0.1",
            "127.0.0.2",
            "[::1]",
            "0.0.0.0",
            "[::ffff:127.0.0.1]",
        ] {
            let (answer, _) = agent.connect(&format!("{host}:{port}")).await;
            assert_eq!(answer.status(), 403, "{host}:{port}");
        }
    }
    harness.finish().await;
    // A resolver that is asked for a name of no such zone takes its time or fails with 502: a refusal at once with 403
    // says that it was not asked.
    let strict = Setup::new(BEARER).start().await;
    let agent = strict.agent();
    let began = std::time::Instant::now();
    for n in 0..50 {
        let (answer, _) = agent.connect(&format!("data{n}.evil.invalid:443")).await;
        assert_eq!(answer.get("keyward-refusal"), Some("no-route"));
    }
    assert!(began.elapsed() < Duration::from_secs(2));
    strict.finish().await;
}
