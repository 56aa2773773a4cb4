//! Connections over time: reused, cut, drained, limited, timed out.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Response;
use http_body_util::BodyExt as _;
use hyper::body::Frame;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::Notify;

use super::agent::{body_request, request, within};
use super::approval::{APPROVAL, TOKENS};
use super::channel::channel_body;
use super::harness::{BEARER, Setup, TOKEN_B};
use super::upstream::{Upstream, ok};

#[tokio::test]
async fn one_upstream_connection_serves_request_after_request() {
    for framed in [true, false] {
        let upstream = Upstream::service(&["http/1.1"], move |_| {
            Box::pin(async move {
                if framed {
                    return ok("framed by its length");
                }
                let (sender, body) = channel_body();
                let piece = Bytes::from_static(b"in chunks");
                sender.send(Ok(Frame::data(piece))).await.ok();
                Response::new(body)
            })
        })
        .await;
        let harness = Setup::new(BEARER)
            .to("api.test:443", &upstream)
            .start()
            .await;
        let agent = harness.agent();
        let mut sender = agent.h1("api.test:443").await;
        for _ in 0..5 {
            let answer = agent
                .ask(&mut sender, request("GET", "/x", "api.test"))
                .await;
            assert_eq!((answer.status, answer.whole), (200, true));
            // The next tunnel of the agent finds the connection that this one left.
            drop(agent.get("api.test:443", "/y").await);
        }
        assert_eq!(upstream.requests().len(), 10);
        assert_eq!(upstream.dialled(), 1, "framed by its length: {framed}");
        harness.finish().await;
    }
}

#[tokio::test]
async fn a_request_on_a_connection_that_died_idle_is_sent_on_a_new_one() {
    let upstream = Upstream::script(async |mut script| {
        script.request().await;
        script
            .write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\nok")
            .await;
        // Closed without a word.
    })
    .await;
    let harness = Setup::new(BEARER)
        .to("api.test:443", &upstream)
        .start()
        .await;
    let agent = harness.agent();
    let mut sender = agent.h1("api.test:443").await;
    for n in 1..=4 {
        let answer = agent
            .ask(&mut sender, request("GET", "/x", "api.test"))
            .await;
        assert_eq!((answer.status, upstream.dialled()), (200, n));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    harness.finish().await;
}

/// The peer closes as the request arrives: whether it has acted on it nobody knows. What may be done twice is sent once
/// more (RFC 9110 §9.2.2); what may not is refused, and has been sent once.
#[tokio::test]
async fn a_request_whose_kept_connection_dies_under_it_is_repeated_where_that_changes_nothing() {
    let cases = [
        ("GET", "", 200),
        ("HEAD", "", 200),
        ("DELETE", "", 200),
        ("PUT", "a body", 502),
        ("POST", "", 502),
        ("POST", "a body", 502),
        ("PATCH", "", 502),
    ];
    for (method, body, status) in cases {
        let upstream = Upstream::script(async |mut script| {
            while let Some(asked) = script.request().await {
                if script.connection == 0 && asked.start.contains("/second") {
                    return;
                }
                script
                    .write("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                    .await;
            }
        })
        .await;
        let harness = Setup::new(BEARER)
            .to("api.test:443", &upstream)
            .start()
            .await;
        let agent = harness.agent();
        let mut sender = agent.h1("api.test:443").await;
        let first = request("GET", "/first", "api.test");
        assert_eq!(agent.ask(&mut sender, first).await.status, 200);
        let second = body_request(method, "/second", "api.test", body);
        let answer = agent.ask(&mut sender, second).await;
        assert_eq!(answer.status, status, "{method} {body:?}");
        let twice = usize::from(status == 200);
        let text = String::from_utf8(upstream.bytes()).unwrap();
        let sent = text.matches("/second HTTP/1.1").count();
        assert_eq!(
            (sent, upstream.dialled()),
            (1 + twice, 1 + twice),
            "{method} {body:?}"
        );
        harness.finish().await;
    }
}

/// A peer that closes every kept connection under its request is asked twice, and no third time.
#[tokio::test]
async fn a_request_is_repeated_once() {
    let upstream = Upstream::script(async |mut script| {
        while let Some(asked) = script.request().await {
            if asked.start.contains("/second") {
                return;
            }
            script
                .write("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                .await;
        }
    })
    .await;
    let harness = Setup::new(BEARER)
        .to("api.test:443", &upstream)
        .start()
        .await;
    let agent = harness.agent();
    let mut sender = agent.h1("api.test:443").await;
    let mut statuses = Vec::new();
    for path in ["/first", "/second", "/third"] {
        let asked = request("GET", path, "api.test");
        statuses.push(agent.ask(&mut sender, asked).await.status);
    }
    assert_eq!(statuses, [200, 502, 200]);
    let text = String::from_utf8(upstream.bytes()).unwrap();
    assert_eq!(text.matches("/second HTTP/1.1").count(), 2);
    harness.finish().await;
}

/// HOST-30: bytes behind an answer are nobody's answer; the connection goes, and the next request is answered by its own.
#[tokio::test]
async fn an_answer_that_nobody_asked_for_is_never_handed_to_the_next() {
    let upstream = Upstream::script(async |mut script| {
        let mut poisoned = false;
        while let Some(asked) = script.request().await {
            let path = asked.start.split(' ').nth(1).unwrap().to_owned();
            let mut answer = format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{path}",
                path.len()
            );
            if !poisoned {
                answer.push_str("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison");
                poisoned = true;
            }
            script.write(answer).await;
        }
    })
    .await;
    let harness = Setup::new(BEARER)
        .to("api.test:443", &upstream)
        .start()
        .await;
    let agent = harness.agent();
    for n in 0..10 {
        let path = format!("/{n}");
        let answer = agent.get("api.test:443", &path).await;
        assert_eq!((answer.status, answer.text()), (200, path));
    }
    harness.finish().await;
}

/// LEAK-41, LEAK-43: two agents share neither a connection nor an answer.
#[tokio::test]
async fn two_agents_never_share_an_upstream_connection() {
    for alpn in ["http/1.1", "h2"] {
        let upstream = Upstream::service(&[alpn], |_| {
            Box::pin(async {
                let mut response = ok("fresh");
                let value = http::HeaderValue::from_static("public, max-age=600");
                response.headers_mut().insert("cache-control", value);
                response
            })
        })
        .await;
        let harness = Setup::new(BEARER)
            .to("api.test:443", &upstream)
            .start()
            .await;
        let (a, b) = (harness.agent(), harness.agent_with(Some(TOKEN_B)));
        for _ in 0..3 {
            for agent in [&a, &b] {
                let answer = agent.get("api.test:443", "/same").await;
                assert_eq!(answer.get("age"), None);
                assert_eq!(answer.get("x-cache"), None);
            }
        }
        let seen = upstream.requests();
        assert_eq!(seen.len(), 6, "nothing is cached");
        for (n, one) in seen.iter().enumerate() {
            assert_eq!(one.connection, n % 2, "{alpn}");
        }
        harness.finish().await;
    }
}

/// An upstream that answers before it has read the body leaves a busy connection: the next request does not wait for it.
#[tokio::test]
async fn an_early_answer_does_not_hold_up_the_next_request() {
    let upstream = Upstream::script(async |mut script| {
        while let Some(asked) = script.head().await {
            script
                .write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                .await;
            if asked.start.starts_with("POST") {
                tokio::time::sleep(Duration::from_secs(8)).await;
            }
        }
    })
    .await;
    let harness = Setup::new(BEARER)
        .to("api.test:443", &upstream)
        .start()
        .await;
    let agent = harness.agent();
    let mut slow = agent.tunnel("api.test:443", &["http/1.1"]).await;
    slow.write_all(b"POST /x HTTP/1.1\r\nHost: api.test\r\nContent-Length: 1000\r\n\r\nhalf")
        .await
        .unwrap();
    assert_eq!(slow.answer().await.status(), 200);
    let began = Instant::now();
    assert_eq!(agent.get("api.test:443", "/next").await.status, 200);
    assert!(began.elapsed() < Duration::from_secs(2));
    assert_eq!(upstream.dialled(), 2);
    drop(slow);
    harness.finish().await;
}

/// An upstream answers while it still reads, and the agent reads nothing before it has written everything.
#[tokio::test]
async fn an_answer_that_nobody_reads_yet_does_not_hold_up_the_upload() {
    const BYTES: usize = 32 * 1024 * 1024;
    let upstream = Upstream::streaming(&["http/1.1"], |_, body| {
        drop(tokio::spawn(body.collect()));
        Box::pin(async { ok("a".repeat(BYTES)) })
    })
    .await;
    let harness = Setup::new(BEARER)
        .to("api.test:443", &upstream)
        .start()
        .await;
    let agent = harness.agent();
    let mut tunnel = agent.tunnel("api.test:443", &["http/1.1"]).await;
    let head = format!("POST /x HTTP/1.1\r\nHost: api.test\r\nContent-Length: {BYTES}\r\n\r\n");
    let piece = vec![b'b'; 64 * 1024];
    let exchanged = async {
        tunnel.write_all(head.as_bytes()).await.unwrap();
        for _ in 0..BYTES / piece.len() {
            tunnel.write_all(&piece).await.unwrap();
        }
        let mut status = [0; 12];
        tunnel.read_exact(&mut status).await.unwrap();
        status
    };
    let status = tokio::time::timeout(Duration::from_secs(40), exchanged)
        .await
        .expect("neither side waits for the other");
    assert_eq!(&status, b"HTTP/1.1 200");
    drop(tunnel);
    harness.finish().await;
}

/// What the record of a request tells is all that went up: an upload ends with the answer, over both protocols.
#[tokio::test]
async fn an_upload_does_not_outlive_its_record() {
    for alpn in ["http/1.1", "h2"] {
        let (told, mut tells) = tokio::sync::mpsc::unbounded_channel();
        let upstream = Upstream::streaming(&[alpn], move |_, mut body| {
            let told = told.clone();
            drop(tokio::spawn(async move {
                let mut bytes = 0;
                while let Some(Ok(frame)) = body.frame().await {
                    bytes += frame.data_ref().map_or(0, Bytes::len);
                }
                told.send(bytes).ok();
            }));
            Box::pin(async { ok("ok") })
        })
        .await;
        let harness = Setup::new(BEARER)
            .to("api.test:443", &upstream)
            .start()
            .await;
        let agent = harness.agent();
        let mut tunnel = agent.tunnel("api.test:443", &["http/1.1"]).await;
        let head = "POST /x HTTP/1.1\r\nHost: api.test\r\nTransfer-Encoding: chunked\r\n\r\n";
        tunnel
            .write_all(format!("{head}4\r\nhalf\r\n").as_bytes())
            .await
            .unwrap();
        assert_eq!(tunnel.answer().await.status(), 200, "{alpn}");
        let recorded = harness.record(|r| r["event"] == "request").await;
        // Until nobody takes it any more; a megabyte is more than all that buffers on the way hold of it.
        for _ in 0..64 {
            let piece = format!("4000\r\n{}\r\n", "x".repeat(0x4000));
            if tunnel.write_all(piece.as_bytes()).await.is_err() {
                break;
            }
        }
        let arrived = within(tells.recv()).await.unwrap();
        assert_eq!(recorded["bytes-up"], arrived, "{alpn}");
        drop(tunnel);
        harness.finish().await;
    }
}

const OTHER_ROUTE: &str =
    "[[route]]\nhosts = [\"other.test\"]\ncredential = \"o\"\ninject = \"bearer\"\n";

#[tokio::test]
async fn a_reload_cuts_what_lost_its_grant_and_keeps_the_rest() {
    let upstream = Upstream::echo(&["http/1.1"]).await;
    let setup = Setup::new(&format!("{BEARER}{OTHER_ROUTE}"))
        .to("api.test:443", &upstream)
        .to("other.test:443", &upstream);
    let harness = setup.clone().start().await;
    let agent = harness.agent();
    let mut kept = agent.tunnel("api.test:443", &["http/1.1"]).await;
    let mut lost = agent.tunnel("other.test:443", &["http/1.1"]).await;
    let get = async |tunnel: &mut super::agent::Tunnel, host: &str| {
        let head = format!("GET /x HTTP/1.1\r\nHost: {host}\r\n\r\n");
        tunnel.write_all(head.as_bytes()).await.unwrap();
        tunnel.answer().await.status()
    };
    assert_eq!(get(&mut kept, "api.test").await, 200);
    assert_eq!(get(&mut lost, "other.test").await, 200);
    harness.reload(&setup.routes(BEARER)).await;
    assert!(lost.closes_within(Duration::from_secs(2)).await);
    assert_eq!(get(&mut kept, "api.test").await, 200);
    let (refused, _) = agent.connect("other.test:443").await;
    assert_eq!(
        (refused.status(), refused.get("keyward-refusal")),
        (403, Some("no-route"))
    );
    harness.finish().await;
}

#[tokio::test]
async fn a_token_that_was_replaced_ends_what_it_opened() {
    let upstream = Upstream::echo(&["http/1.1"]).await;
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, "first-token-of-agent-z").unwrap();
    let agent_z = format!("[agent.z]\ntoken = {{ file = \"{}\" }}\n", token.display());
    let harness = Setup::new(&format!("{BEARER}{agent_z}"))
        .to("api.test:443", &upstream)
        .start()
        .await;
    let stolen = harness.agent_with(Some("first-token-of-agent-z"));
    let mut tunnel = stolen.tunnel("api.test:443", &["http/1.1"]).await;
    tunnel
        .write_all(b"GET /x HTTP/1.1\r\nHost: api.test\r\n\r\n")
        .await
        .unwrap();
    assert_eq!(tunnel.answer().await.status(), 200);
    std::fs::write(&token, "second-token-of-agent-z").unwrap();
    assert!(tunnel.closes_within(Duration::from_secs(5)).await);
    let (refused, _) = stolen.connect("api.test:443").await;
    assert_eq!(
        (refused.status(), refused.get("keyward-refusal")),
        (407, Some("unidentified"))
    );
    harness.finish().await;
}

#[tokio::test]
async fn a_drain_finishes_what_runs_and_does_not_wait_for_idle_connections() {
    for alpn in ["http/1.1", "h2"] {
        let release = Arc::new(Notify::new());
        let gate = Arc::clone(&release);
        let upstream = Upstream::service(&[alpn], move |seen| {
            let gate = Arc::clone(&gate);
            Box::pin(async move {
                if seen.uri.ends_with("/slow") {
                    gate.notified().await;
                }
                ok("done")
            })
        })
        .await;
        let mut harness = Setup::new(BEARER)
            .to("api.test:443", &upstream)
            .start()
            .await;
        let agent = harness.agent();
        let idle = agent.h1("api.test:443").await;
        assert_eq!(agent.get("api.test:443", "/quick").await.status, 200);
        let running = tokio::spawn({
            let agent = agent.clone();
            async move { agent.get("api.test:443", "/slow").await }
        });
        while upstream.requests().len() < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let app = harness.take_app();
        let proxy = agent.proxy;
        let began = Instant::now();
        let stopping = tokio::spawn(app.shut_down(Duration::from_secs(8), "test"));
        tokio::time::sleep(Duration::from_millis(100)).await;
        let new = tokio::net::TcpStream::connect(proxy).await;
        assert!(new.is_err(), "nothing new is accepted");
        assert!(!stopping.is_finished());
        release.notify_one();
        let answer = within(running).await.unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (200, "done"));
        within(stopping).await.unwrap();
        let took = began.elapsed();
        assert!(
            took < Duration::from_secs(2),
            "{alpn}: stopped after {took:?}"
        );
        drop(idle);
    }
}

#[tokio::test]
async fn an_agents_connections_are_limited_and_anothers_are_not() {
    let upstream = Upstream::echo(&["http/1.1"]).await;
    let harness = Setup::new(BEARER)
        .proxy("max-connections-per-agent = 2")
        .to("api.test:443", &upstream)
        .start()
        .await;
    let (a, b) = (harness.agent(), harness.agent_with(Some(TOKEN_B)));
    let first = a.tunnel("api.test:443", &["http/1.1"]).await;
    let _second = a.tunnel("api.test:443", &["http/1.1"]).await;
    let (refused, _) = a.connect("api.test:443").await;
    assert_eq!(refused.status(), 429);
    assert_eq!(refused.get("keyward-refusal"), Some("too-many-connections"));
    assert!(refused.get("retry-after").is_some());
    assert_eq!(b.get("api.test:443", "/x").await.status, 200);
    drop(first);
    for _ in 0..100 {
        if a.connect("api.test:443").await.0.status() == 200 {
            return harness.finish().await;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the place of a closed connection is free again");
}

/// DOS-01: a head that drips is cut off by its own time, on every kind of connection, and others are served meanwhile.
#[tokio::test]
async fn a_head_that_drips_is_cut_off() {
    let upstream = Upstream::echo(&["http/1.1"]).await;
    let harness = Setup::new(BEARER)
        .proxy("header-timeout = \"400ms\"")
        .to("api.test:443", &upstream)
        .start()
        .await;
    let agent = harness.agent();
    let limit = Duration::from_millis(2500);
    // Nothing at all, and half a CONNECT.
    let mut silent = agent.tcp().await;
    let mut half = agent.tcp().await;
    half.write_all(b"CONNECT api.test:443 HTT").await.unwrap();
    // The second head of a connection whose first was refused with 407.
    let mut second = agent.tcp().await;
    second
        .write_all(b"CONNECT api.test:443 HTTP/1.1\r\nHost: api.test:443\r\n\r\n")
        .await
        .unwrap();
    assert_eq!(second.answer().await.status(), 407);
    second.write_all(b"CONNECT api.test:443 HTT").await.unwrap();
    // A tunnel without a ClientHello, and one with half a request in it.
    let (_, mut hello) = agent.connect("api.test:443").await;
    let mut inside = agent.tunnel("api.test:443", &["http/1.1"]).await;
    inside.write_all(b"GET /x HTTP/1.1\r\nHost").await.unwrap();
    let mut later = agent.tunnel("api.test:443", &["http/1.1"]).await;
    later
        .write_all(b"GET /x HTTP/1.1\r\nHost: api.test\r\n\r\n")
        .await
        .unwrap();
    assert_eq!(later.answer().await.status(), 200);
    later
        .write_all(b"GET /x HTTP/1.1\r\nX-Drip: ")
        .await
        .unwrap();
    let drip = async {
        for _ in 0..40 {
            if later.write_all(b"y").await.is_err() || later.flush().await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("dripping for 2 s went on");
    };
    let (a, b, c, d, e, ()) = tokio::join!(
        silent.closes_within(limit),
        half.closes_within(limit),
        second.closes_within(limit),
        hello.closes_within(limit),
        inside.closes_within(limit),
        drip,
    );
    assert_eq!([a, b, c, d, e], [true; 5]);
    assert_eq!(agent.get("api.test:443", "/x").await.status, 200);
    harness.finish().await;
}

/// DOS-03: an answer that stalls is given up when the request's time is over.
#[tokio::test]
async fn a_stalled_answer_ends_with_the_total_time() {
    for alpn in ["http/1.1", "h2"] {
        let upstream = Upstream::script(async |mut script| {
            script.request().await;
            script
                .write("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf of it")
                .await;
            tokio::time::sleep(Duration::from_secs(20)).await;
        })
        .await;
        let harness = Setup::new(BEARER)
            .proxy("total-timeout = \"1s\"")
            .to("api.test:443", &upstream)
            .start()
            .await;
        let agent = harness.agent();
        let began = Instant::now();
        let answer = if alpn == "h2" {
            let mut sender = agent.h2("api.test:443").await;
            agent
                .ask_h2(&mut sender, request("GET", "/x", "api.test"))
                .await
        } else {
            agent.get("api.test:443", "/x").await
        };
        assert_eq!((answer.status, answer.whole), (200, false), "{alpn}");
        assert!(began.elapsed() < Duration::from_secs(4));
        harness
            .record(|record| record["word"] == "upstream-timeout")
            .await;
        harness.finish().await;
    }
}

/// DOS-03: a body that stalls, and an agent that does not read, are held to the idle time.
#[tokio::test]
async fn a_stalled_upload_and_a_stalled_reader_are_idle() {
    let upstream = Upstream::streaming(&["http/1.1"], |seen, mut body| {
        Box::pin(async move {
            if seen.method == "POST" {
                while body.frame().await.is_some_and(|frame| frame.is_ok()) {}
                return ok("read");
            }
            ok(vec![b'z'; 64 << 20])
        })
    })
    .await;
    let harness = Setup::new(BEARER)
        .proxy("idle-timeout = \"1s\"")
        .to("api.test:443", &upstream)
        .start()
        .await;
    let agent = harness.agent();
    let mut upload = agent.tunnel("api.test:443", &["http/1.1"]).await;
    upload
        .write_all(b"POST /x HTTP/1.1\r\nHost: api.test\r\nContent-Length: 100\r\n\r\nhalf")
        .await
        .unwrap();
    let mut reader = agent.tunnel("api.test:443", &["http/1.1"]).await;
    reader
        .write_all(b"GET /big HTTP/1.1\r\nHost: api.test\r\n\r\n")
        .await
        .unwrap();
    assert!(upload.closes_within(Duration::from_secs(4)).await);
    for _ in 0..300 {
        let ended = harness
            .audit()
            .iter()
            .filter(|r| r["event"] == "request" || r["type"] == "request")
            .count();
        if ended == 2 {
            drop(reader);
            return harness.finish().await;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{:#?}", harness.audit());
}

/// A blind tunnel is held to its listener's idle time, not to the default one.
#[tokio::test]
async fn a_silent_tunnel_is_closed_by_its_listeners_idle_time() {
    let upstream = Upstream::tcp(async |mut stream| {
        let mut bytes = [0; 4];
        while stream.read_exact(&mut bytes).await.is_ok() {
            stream.write_all(&bytes).await.ok();
        }
    })
    .await;
    let harness = Setup::new(BEARER)
        .proxy("unmatched = \"tunnel\"\nidle-timeout = \"1s\"")
        .to("blind.test:443", &upstream)
        .start()
        .await;
    let (answer, mut stream) = harness.agent().connect("blind.test:443").await;
    assert_eq!(answer.status(), 200);
    stream.write_all(b"ping").await.unwrap();
    let mut bytes = [0; 4];
    within(stream.read_exact(&mut bytes)).await.unwrap();
    assert_eq!(&bytes, b"ping");
    assert!(stream.closes_within(Duration::from_secs(4)).await);
    let record = harness
        .record(|record| record["host"] == "blind.test")
        .await;
    assert_eq!(record["decision"], "allow", "{record}");
    harness.finish().await;
}

/// Unmatched hosts: refused by default, tunnelled where the listener says so; a host with a credential never.
#[tokio::test]
async fn unmatched_hosts_are_refused_or_tunnelled_as_the_listener_says() {
    let blind = Upstream::echo(&["http/1.1"]).await;
    for tunnel in [false, true] {
        let word = if tunnel { "tunnel" } else { "refuse" };
        let harness = Setup::new(&format!("{BEARER}agents = [\"b\"]\n"))
            .proxy(&format!("unmatched = \"{word}\""))
            .to("other.test:443", &blind)
            .to("api.test:443", &blind)
            .to("api.test:8443", &blind)
            .start()
            .await;
        let agent = harness.agent();
        let (answer, _) = agent.connect("other.test:443").await;
        assert_eq!(answer.status(), if tunnel { 200 } else { 403 });
        // The credential is another agent's, or at another port: no tunnel either.
        for authority in ["api.test:443", "api.test:8443"] {
            let (answer, _) = agent.connect(authority).await;
            assert_eq!(
                (answer.status(), answer.get("keyward-refusal")),
                (403, Some("no-route"))
            );
        }
        harness.finish().await;
    }
}

/// What a route asks for cannot be held in a tunnel: not for an agent that it does not name, nor at another port.
#[tokio::test]
async fn a_host_that_any_route_speaks_of_is_never_tunnelled() {
    let blind = Upstream::echo(&["http/1.1"]).await;
    let guards = [
        "approval = \"ops\"",
        "methods = [\"GET\"]",
        "paths = [\"/v1/**\"]",
        "source = [\"10.0.0.0/8\"]",
        "when = { hours = \"08:00-09:00\", zone = \"UTC\" }",
        "websocket = false",
        "answer = \"token\"",
        "",
    ];
    for guard in guards {
        let routes = format!(
            "[[route]]\nhosts = [\"api.test\", \"*.wild.test\"]\nagents = [\"b\"]\n{guard}\n{APPROVAL}"
        );
        let setup = Setup::new(&routes)
            .proxy("unmatched = \"tunnel\"")
            .admin(TOKENS)
            .to("api.test:443", &blind)
            .to("api.test:80", &blind)
            .to("api.test:8443", &blind)
            .to("x.wild.test:443", &blind)
            .to("other.test:443", &blind);
        let harness = setup.clone().start().await;
        let agent = harness.agent();
        for authority in ["api.test:443", "api.test:8443", "x.wild.test:443"] {
            let (answer, _) = agent.connect(authority).await;
            assert_eq!(
                (answer.status(), answer.get("keyward-refusal")),
                (403, Some("no-route")),
                "{guard} {authority}"
            );
        }
        // Nor does a request in the clear get around it.
        let mut plain = agent.tcp().await;
        let proof = agent.authorization.as_ref().unwrap();
        let head = format!(
            "GET http://api.test/v1/x HTTP/1.1\r\nHost: api.test\r\nProxy-Authorization: {proof}\r\n\r\n"
        );
        plain.write_all(head.as_bytes()).await.unwrap();
        let answer = plain.head().await;
        assert_eq!(
            (answer.status(), answer.get("keyward-refusal")),
            (403, Some("no-route")),
            "{guard}"
        );
        let (answer, mut open) = agent.connect("other.test:443").await;
        assert_eq!(answer.status(), 200, "{guard}");
        // A tunnel that is open when a route begins to speak of its host is cut.
        let named = routes.replace("api.test", "other.test");
        harness.reload(&setup.clone().routes(&named)).await;
        assert!(open.closes_within(Duration::from_secs(5)).await, "{guard}");
        assert!(blind.requests().is_empty(), "{guard}");
        harness.finish().await;
    }
}

/// Absolute-form requests are connections of their agent like any other, and end with what granted them.
#[tokio::test]
async fn a_plain_stream_is_counted_and_is_cut_by_a_reload() {
    let upstream = Upstream::tcp(|mut stream| async move {
        let mut head = vec![0; 4096];
        let _read = stream.read(&mut head).await;
        let answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n";
        stream.write_all(answer).await.ok();
        // No end: the stream is open until somebody cuts it.
        let _read = stream.read(&mut head).await;
    })
    .await;
    let setup = Setup::new("[[route]]\nhosts = [\"plain.test:80\"]\n")
        .proxy("max-connections-per-agent = 1")
        .to("plain.test:80", &upstream);
    let harness = setup.clone().start().await;
    let agent = harness.agent();
    let ask = async || {
        let mut stream = agent.tcp().await;
        let authorization = agent.authorization.as_ref().unwrap();
        let head = format!(
            "GET http://plain.test/ HTTP/1.1\r\nHost: plain.test\r\nProxy-Authorization: {authorization}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let head = stream.head().await;
        (head, stream)
    };
    let (head, mut open) = ask().await;
    assert_eq!(head.status(), 200);
    let (refused, _) = ask().await;
    assert_eq!(refused.get("keyward-refusal"), Some("too-many-connections"));
    harness
        .reload(&setup.routes("[[route]]\nhosts = [\"other.test:80\"]\n"))
        .await;
    assert!(open.closes_within(Duration::from_secs(2)).await);
    harness.finish().await;
}
