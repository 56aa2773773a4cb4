//! Credentials that would be minted, a CA that ends, what is carried over or pushed, and floods of names.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use keyward::clock::{Clock, Now};
use keyward::host::HostMatch;
use keyward::tls::{Authority, Constraints, Role};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;

use super::agent::{request, within};
use super::canary::CANARY;
use super::h2raw::{DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, Raw, SETTINGS, block, frame};
use super::harness::{BEARER, Setup, TOKEN_B};
use super::upstream::{self, Scripted, Upstream};

/// RFC 9113 §7.
const PROTOCOL_ERROR: u8 = 1;

const GITHUB: &str = "[[route]]\npreset = \"github\"\ncredential = \"c\"\n";

/// LEAK-26: a request whose answer would be a new credential is refused, however its path is written, unless granted.
#[tokio::test]
async fn a_credential_is_minted_only_where_the_route_grants_it() {
    let upstream = Upstream::echo(&["http/1.1"]).await;
    let setup = Setup::new(GITHUB).to("api.github.com:443", &upstream);
    let harness = setup.clone().start().await;
    let agent = harness.agent();
    let mut sender = agent.h1("api.github.com:443").await;
    for path in [
        "/app/installations/1/access_tokens",
        "/user/keys",
        "/user/keys/",
        "/User/Keys",
        "/user/keys?per_page=1",
        "/user/keys;a=b",
        "/user/%6beys",
        "/repos/o/r/keys.json",
    ] {
        let asked = request("POST", path, "api.github.com");
        let answer = agent.ask(&mut sender, asked).await;
        assert_eq!((answer.status, answer.word()), (403, "denied"), "{path}");
    }
    assert_eq!(upstream.dialled(), 0);
    // The rest of the service is there, and reading what exists mints nothing.
    for (method, path) in [("GET", "/user/keys"), ("POST", "/repos/o/r/issues")] {
        let asked = request(method, path, "api.github.com");
        assert_eq!(agent.ask(&mut sender, asked).await.status, 200, "{path}");
    }
    assert_eq!(upstream.requests().len(), 2);

    harness
        .reload(&setup.routes(&format!("{GITHUB}minting = true\n")))
        .await;
    let mut sender = agent.h1("api.github.com:443").await;
    let asked = request("POST", "/user/keys", "api.github.com");
    assert_eq!(agent.ask(&mut sender, asked).await.status, 200);
    let seen = upstream.requests();
    assert_eq!(
        seen.last().unwrap().all("authorization"),
        [format!("Bearer {CANARY}")]
    );
    harness.finish().await;
}

/// HOST-31: a connection serves the one name of its CONNECT, although both names have a route, and the upstream's
/// certificate speaks for both.
#[tokio::test]
async fn another_name_on_the_same_http2_connection_is_misdirected() {
    let (first, second) = (Upstream::echo(&["h2"]).await, Upstream::echo(&["h2"]).await);
    let other = BEARER.replace("api.test", "other.test");
    let harness = Setup::new(&format!("{BEARER}{other}"))
        .to("api.test:443", &first)
        .to("other.test:443", &second)
        .start()
        .await;
    let agent = harness.agent();
    let mut raw = Raw::open(&agent).await;
    for (stream, authority) in [
        (1, "other.test"),
        (3, "other.test:443"),
        (5, "api.test:8443"),
    ] {
        let fields = [
            (":method", "GET"),
            (":scheme", "https"),
            (":authority", authority),
            (":path", "/x"),
        ];
        raw.headers(stream, &block(&fields)).await;
        assert_eq!(raw.fate(stream).await, "421", "{authority}");
    }
    assert_eq!((first.dialled(), second.dialled()), (0, 0));
    harness
        .record(|record| record["word"] == "host-mismatch")
        .await;

    // Its own name is served there still, and the other one by a connection of its own on both sides.
    raw.headers(7, &super::h2raw::get("/x")).await;
    assert_eq!(raw.fate(7).await, "200");
    let mut sender = agent.h2("other.test:443").await;
    let answer = agent
        .ask_h2(&mut sender, request("GET", "/x", "other.test"))
        .await;
    assert_eq!(answer.status, 200);
    assert_eq!((first.requests().len(), second.requests().len()), (1, 1));
    // The leaf names the host of the CONNECT and no other.
    let (_, stream) = agent.connect("api.test:443").await;
    assert!(agent.tls(stream, "other.test", &["h2"]).await.is_err());
    harness.finish().await;
}

/// A clock that stands still.
#[derive(Debug)]
struct Stopped(Timestamp);

impl Clock for Stopped {
    fn now(&self) -> Now {
        Now {
            wall: self.0,
            mono: Instant::now(),
        }
    }
}

/// Long enough to start and serve once on a machine that is busy.
const LEFT: SignedDuration = SignedDuration::from_secs(8);

/// Makes a CA in this folder whose intermediate ends after this time, and takes the root's key away.
fn ca_that_ends(folder: &Path, left: SignedDuration) {
    let hosts = ["api.test", "other.test"].map(|name| HostMatch::Exact(name.parse().unwrap()));
    let names = Constraints::new(&hosts);
    let issue = |at| Authority::issue(folder, &names, &Stopped(at)).unwrap();
    let ends = || {
        let facts = Authority::show(folder).unwrap();
        let mut of_intermediate = facts.iter().filter(|fact| fact.role == Role::Intermediate);
        of_intermediate.next().unwrap().not_after
    };
    let began = Timestamp::now() - SignedDuration::from_hours(24 * 40);
    issue(began);
    let life = ends().duration_since(began);
    issue(Timestamp::now() + left - life);
    assert!(ends() > Timestamp::now());
    std::fs::remove_file(folder.join("root.key")).unwrap();
}

/// HOST-40: where no leaf can be had, CONNECT is refused before its 200, also where unmatched hosts are let through.
#[tokio::test]
async fn a_ca_that_cannot_issue_refuses_the_connect_and_never_tunnels() {
    let upstream = Upstream::echo(&["http/1.1"]).await;
    let ca = tempfile::tempdir().unwrap();
    let folder = ca.path().join("ca");
    ca_that_ends(&folder, LEFT);
    let ends = Instant::now() + LEFT.unsigned_abs() + Duration::from_millis(500);
    let other = BEARER.replace("api.test", "other.test");
    let routes = format!("[ca]\ndir = \"{}\"\n{BEARER}{other}", folder.display());
    let harness = Setup::new(&routes)
        .proxy("unmatched = \"tunnel\"")
        .to("api.test:443", &upstream)
        .to("other.test:443", &upstream)
        .start()
        .await;
    let agent = harness.agent();
    // Until it ends the CA serves.
    assert_eq!(agent.get("api.test:443", "/x").await.status, 200);
    let dialled = upstream.dialled();
    tokio::time::sleep(ends.saturating_duration_since(Instant::now())).await;
    for authority in ["api.test:443", "other.test:443"] {
        let (answer, mut stream) = agent.connect(authority).await;
        assert_eq!(answer.status(), 503, "{authority} {answer:?}");
        assert_eq!(answer.get("keyward-refusal"), Some("ca-unavailable"));
        stream.write_all(b"GET /x HTTP/1.1\r\n\r\n").await.ok();
        assert!(stream.closes_within(Duration::from_secs(2)).await);
    }
    assert_eq!(upstream.dialled(), dialled);
    harness
        .record(|record| record["word"] == "ca-unavailable" && record["decision"] == "deny")
        .await;
    harness.finish().await;
}

/// A client that resumes, and would send early data where a ticket allows it.
fn eager(roots: Arc<rustls::RootCertStore>) -> TlsConnector {
    let mut config = rustls::ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.enable_early_data = true;
    TlsConnector::from(Arc::new(config))
}

/// One request over this stream; whether the session was resumed, and whether its ticket granted early data.
async fn hurried<S>(connector: &TlsConnector, stream: S) -> (bool, bool)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let name = ServerName::try_from("api.test").unwrap();
    let mut granted = false;
    let connecting = connector.connect_with(name, stream, |client| {
        granted = client.early_data().is_some();
    });
    let mut tls = within(connecting).await.unwrap();
    let head = b"GET /x HTTP/1.1\r\nHost: api.test\r\nConnection: close\r\n\r\n";
    tls.write_all(head).await.unwrap();
    tls.flush().await.unwrap();
    let mut read = Vec::new();
    within(tls.read_to_end(&mut read)).await.ok();
    assert!(read.starts_with(b"HTTP/1.1 200"));
    let resumed = tls.get_ref().1.handshake_kind() == Some(rustls::HandshakeKind::Resumed);
    (resumed, granted)
}

/// An upstream that closes after each answer, whose tickets grant early data, and how many connections used that.
async fn generous() -> (Upstream, Arc<AtomicUsize>, Arc<AtomicUsize>) {
    let mut config =
        rustls::ServerConfig::clone(upstream::tls(&["api.test"], &["http/1.1"]).config());
    config.max_early_data_size = 1 << 14;
    let (early, resumed) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let counts = (Arc::clone(&early), Arc::clone(&resumed));
    let upstream = Upstream::script_with(Arc::new(config).into(), move |mut script| {
        let (early, resumed) = (Arc::clone(&counts.0), Arc::clone(&counts.1));
        async move {
            let connection = script.stream.get_mut().1;
            let used = usize::from(connection.early_data().is_some());
            early.fetch_add(used, Ordering::SeqCst);
            let kind = connection.handshake_kind();
            let again = usize::from(kind == Some(rustls::HandshakeKind::Resumed));
            resumed.fetch_add(again, Ordering::SeqCst);
            script.request().await;
            script
                .write("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                .await;
            script.stream.shutdown().await.ok();
        }
    })
    .await;
    (upstream, early, resumed)
}

/// HOST-33: sessions are resumed on both sides, and neither grants nor uses early data.
#[tokio::test]
async fn no_early_data_is_granted_to_agents_or_sent_to_upstreams() {
    let (upstream, early, resumed) = generous().await;
    let harness = Setup::new(BEARER)
        .to("api.test:443", &upstream)
        .start()
        .await;
    let agent = harness.agent();
    let connector = eager(Arc::clone(&agent.roots));
    let mut found = Vec::new();
    for _ in 0..2 {
        let (_, stream) = agent.connect("api.test:443").await;
        found.push(hurried(&connector, stream).await);
    }
    assert_eq!(found, [(false, false), (true, false)]);
    assert_eq!(upstream.dialled(), 2);
    assert_eq!(
        (early.load(Ordering::SeqCst), resumed.load(Ordering::SeqCst)),
        (0, 1)
    );

    // The same client at that upstream: its tickets do grant early data.
    let mut roots = rustls::RootCertStore::empty();
    let ca = CertificateDer::from_pem_slice(upstream::CA.pem.as_bytes()).unwrap();
    roots.add(ca).unwrap();
    let connector = eager(Arc::new(roots));
    let mut found = Vec::new();
    for _ in 0..2 {
        let stream = TcpStream::connect(upstream.address).await.unwrap();
        found.push(hurried(&connector, stream).await);
    }
    assert_eq!(found, [(false, false), (true, true)]);
    harness.finish().await;
}

const PUSH_PROMISE: u8 = 5;

/// Answers the first request of an HTTP/2 connection with a push before the answer; what the client said of pushes in
/// its SETTINGS, and the error of its GOAWAY.
async fn push(mut script: Scripted) -> (Option<u8>, Option<u8>) {
    let (mut pushes, mut error) = (None, None);
    let mut preface = [0; 24];
    script.stream.read_exact(&mut preface).await.unwrap();
    script.write(frame(SETTINGS, 0, 0, &[])).await;
    let mut head = [0; 9];
    while script.stream.read_exact(&mut head).await.is_ok() {
        let mut payload = vec![0; usize::from(u16::from_be_bytes([head[1], head[2]]))];
        script.stream.read_exact(&mut payload).await.unwrap();
        match head[3] {
            SETTINGS => {
                let of_push = payload.chunks(6).find(|setting| setting[1] == 2);
                pushes = pushes.or(of_push.map(|setting| setting[5]));
            }
            HEADERS => {
                let asked = super::h2raw::get("/pushed");
                let promise = [&[0, 0, 0, 2], &asked[..]].concat();
                let ok = block(&[(":status", "200")]);
                let mut out = frame(PUSH_PROMISE, END_HEADERS, 1, &promise);
                for stream in [2, 1] {
                    out.extend(frame(HEADERS, END_HEADERS, stream, &ok));
                    out.extend(frame(DATA, END_STREAM, stream, CANARY.as_bytes()));
                }
                script.write(out).await;
            }
            GOAWAY => error = Some(payload[7]),
            _ => {}
        }
    }
    (pushes, error)
}

/// LEAK-15: we say that we take no pushes, and one that comes ends the connection (RFC 9113 §8.4).
#[tokio::test]
async fn a_server_push_is_declined_and_ends_the_upstream_connection() {
    let (sender, mut said) = tokio::sync::mpsc::unbounded_channel();
    let acceptor = upstream::tls(&["api.test"], &["h2"]);
    let upstream = Upstream::script_with(acceptor, move |script| {
        let sender = sender.clone();
        async move {
            sender.send(push(script).await).unwrap();
        }
    })
    .await;
    let harness = Setup::new(BEARER)
        .to("api.test:443", &upstream)
        .start()
        .await;
    let answer = harness.agent().get("api.test:443", "/x").await;
    assert_eq!(answer.status, 502, "{answer:?}");
    let heard = within(said.recv()).await.unwrap();
    assert_eq!(heard, (Some(0), Some(PROTOCOL_ERROR)));
    harness.finish().await;
}

/// SSRF-03 turned round: an address of IPv6 is reached where the operator allows it, and only there.
#[tokio::test]
async fn a_literal_of_ipv6_is_dialled_where_its_network_is_allowed() {
    let listener = TcpListener::bind("[::1]:0").await.unwrap();
    let authority = listener.local_addr().unwrap().to_string();
    let dialled = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&dialled);
    let acceptor = upstream::tls(&["::1"], &["http/1.1"]);
    let serving = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::SeqCst);
            let mut stream = acceptor.accept(stream).await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            let head = String::from_utf8(head).unwrap();
            assert!(head.contains(&format!("Bearer {CANARY}")), "{head}");
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";
            stream.write_all(answer).await.unwrap();
            stream.shutdown().await.ok();
        }
    });
    let route = BEARER.replace("api.test", &authority);
    for (allowed, granted) in [("127.0.0.0/8", false), ("::1/128", true)] {
        let harness = Setup::new(&route)
            .upstream(&format!("allow-private = [\"{allowed}\"]"))
            .start()
            .await;
        let agent = harness.agent();
        if granted {
            let answer = agent.get(&authority, "/x").await;
            assert_eq!((answer.status, answer.text().as_str()), (200, "ok"));
        } else {
            let (answer, _) = agent.connect(&authority).await;
            assert_eq!(answer.get("keyward-refusal"), Some("private-address"));
            assert_eq!(dialled.load(Ordering::SeqCst), 0);
        }
        harness.finish().await;
    }
    serving.abort();
}

/// The value of a metric without labels.
fn gauge(metrics: &str, name: &str) -> usize {
    let of_name = |line: &&str| line.split(' ').next() == Some(name);
    let line = metrics.lines().find(of_name).unwrap();
    line.split(' ').nth(1).unwrap().parse().unwrap()
}

/// Resident memory of this process, in KiB.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// DOS-10: names without end below a wildcard fill a bounded store, and others are served meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_names_below_a_wildcard_keeps_a_bounded_number_of_leaves() {
    let upstream = Upstream::echo(&["http/1.1"]).await;
    let routes = format!("{BEARER}[[route]]\nhosts = [\"*.wild.test\"]\n");
    let harness = Setup::new(&routes)
        .to("api.test:443", &upstream)
        .start()
        .await;
    let (agent, other) = (harness.agent(), harness.agent_with(Some(TOKEN_B)));
    let most = keyward::tls::Leaves::CAPACITY;
    let (mut next, mut filled) = (0, 0);
    for goal in [most + most / 16, most + most / 8] {
        while next < goal {
            let batch = (next..next + 16).map(|n| {
                let agent = agent.clone();
                tokio::spawn(async move {
                    agent
                        .connect(&format!("n{n}.wild.test:443"))
                        .await
                        .0
                        .status()
                })
            });
            for connect in batch.collect::<Vec<_>>() {
                assert_eq!(connect.await.unwrap(), 200);
            }
            next += 16;
            if next % 1024 == 0 {
                let began = Instant::now();
                assert_eq!(other.get("api.test:443", "/x").await.status, 200);
                assert!(began.elapsed() < Duration::from_secs(8));
            }
        }
        let kept = gauge(&harness.metrics().await, "keyward_leaves");
        assert!(kept <= most && kept > most / 2, "{kept}");
        let now = resident();
        println!("{next} names, {kept} leaves, {now} KiB");
        // The store was nearly full at the first look: what a name costs is not kept again.
        assert!(
            filled == 0 || now < filled + 16 * 1024,
            "{filled} to {now} KiB"
        );
        filled = now;
    }
    let (deeper, _) = agent.connect("a.b.wild.test:443").await;
    assert_eq!(deeper.status(), 403);
    harness.finish().await;
}

/// DOS-18: a connection that asks for new keys and for nothing else ends; others go on.
#[tokio::test]
async fn a_flood_of_key_updates_ends_its_connection_and_no_other() {
    let upstream = Upstream::echo(&["http/1.1"]).await;
    let harness = Setup::new(BEARER)
        .to("api.test:443", &upstream)
        .start()
        .await;
    let agent = harness.agent();
    let mut good = agent.h1("api.test:443").await;
    let mut tunnel = agent.tunnel("api.test:443", &["http/1.1"]).await;
    let mut sent = 0;
    let ended = async {
        while sent < 100_000 {
            tunnel.stream.get_mut().1.refresh_traffic_keys().unwrap();
            tunnel.stream.flush().await?;
            sent += 1;
        }
        let mut byte = [0];
        tunnel.stream.read(&mut byte).await
    };
    let read = within(ended).await;
    assert!(!matches!(read, Ok(1..)), "{read:?}");
    assert!(sent < 100_000, "all {sent} were taken");
    let answer = agent.ask(&mut good, request("GET", "/x", "api.test")).await;
    assert_eq!(answer.status, 200);
    harness.finish().await;
}
