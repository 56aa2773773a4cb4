//! `[trust.NAME.spiffe]`: SVIDs of two trust domains, over mutual TLS and as tokens, and what only looks like one.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use keyward::identity::{AttestError, Attested, Bound, Evidence, Link, Peer, TokenType};
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use serde_json::{Value, json};
use tokio::process::Command;

use super::super::harness::{BEARER, Harness, Setup, TOKEN_A};
use super::super::session_admin::alice;
use super::super::svid::{DAY, Domain, Svid, entry, message, set_life};
use super::super::upstream::{self, CA, Upstream};
use super::mint::{Pair, respelled_certificate};
use super::{NOW, Provider};

const CALENDAR: &str = "spiffe://prod.example/sa/calendar";

fn table(file: &str) -> String {
    format!(
        "agent = {{ map = {{ \"{CALENDAR}\" = \"a\", \"spiffe://prod.example/*\" = \"b\" }} }}\n\
         spiffe = {{ trust-domain = \"prod.example\", bundle = {{ file = \"{file}\" }}, audience = [\"keyward\"] }}\n"
    )
}

fn provider(bundle: &str) -> Provider {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("bundle"), bundle).unwrap();
    Provider::within(&table("bundle"), folder)
}

async fn show(provider: &Provider, chain: &[&[u8]]) -> Result<Option<Attested>, AttestError> {
    let link = Link {
        certificates: chain.iter().map(|cert| (*cert).into()).collect(),
        ..Link::default()
    };
    let evidence = Evidence {
        presented: None,
        presented_as: TokenType::Any,
        peer: &Peer::Tcp("127.0.0.1".parse().unwrap()),
        link: &link,
    };
    provider.inner.attest(evidence).await
}

#[tokio::test]
async fn an_svid_of_the_trust_domain_is_its_agent() {
    let domain = Domain::new("prod.example");
    let svid = domain.svid(&[CALENDAR]);
    for bundle in [domain.pem.clone(), domain.bundle(&[])] {
        let provider = provider(&bundle);
        let attested = show(&provider, &[&svid.der]).await.unwrap().unwrap();
        assert_eq!((attested.agent.as_str(), &*attested.trust), ("a", "t"));
        let Some(Bound::Certificate(thumbprint)) = attested.bound else {
            panic!("{attested:?}");
        };
        let sum = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &svid.der);
        assert_eq!(thumbprint, sum.as_ref());
        assert!(attested.expires.unwrap().as_second() > NOW);
        let other = domain.svid(&["spiffe://prod.example/other"]);
        assert_eq!(
            show(&provider, &[&other.der])
                .await
                .unwrap()
                .unwrap()
                .agent
                .as_str(),
            "b"
        );
        // Without a certificate, and with one that is no certificate, there is nothing to judge.
        assert_eq!(show(&provider, &[]).await, Ok(None));
        assert_eq!(show(&provider, &[b"rubbish"]).await, Ok(None));
    }
}

#[tokio::test]
async fn certificates_that_are_no_svid_of_the_domain_are_refused() {
    let (prod, test) = (Domain::new("prod.example"), Domain::new("test.example"));
    let provider = provider(&prod.pem);
    let foreign = test.svid(&["spiffe://test.example/sa/calendar"]);
    assert_eq!(
        show(&provider, &[&foreign.der]).await,
        Ok(None),
        "another domain's"
    );
    let dns = prod.svid_with(&[], |params| {
        params.subject_alt_names = vec![SanType::DnsName("prod.example".try_into().unwrap())];
    });
    assert_eq!(
        show(&provider, &[&dns.der]).await,
        Ok(None),
        "no SVID at all"
    );

    let ca =
        |params: &mut CertificateParams| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let signs =
        |params: &mut CertificateParams| params.key_usages.push(KeyUsagePurpose::KeyCertSign);
    let usage = |params: &mut CertificateParams| params.key_usages = Vec::new();
    let servers = |params: &mut CertificateParams| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    };
    for (what, svid) in [
        ("signed by another domain", test.svid(&[CALENDAR])),
        (
            "two URIs",
            prod.svid(&[CALENDAR, "spiffe://prod.example/other"]),
        ),
        (
            "a URI beside it",
            prod.svid(&[CALENDAR, "https://prod.example/"]),
        ),
        (
            "two domains",
            prod.svid(&[CALENDAR, "spiffe://test.example/sa/calendar"]),
        ),
        ("the domain itself", prod.svid(&["spiffe://prod.example"])),
        ("a CA", prod.svid_with(&[CALENDAR], ca)),
        (
            "one that signs certificates",
            prod.svid_with(&[CALENDAR], signs),
        ),
        ("one without a usage", prod.svid_with(&[CALENDAR], usage)),
        ("one for servers", prod.svid_with(&[CALENDAR], servers)),
        (
            "one that ended",
            prod.svid_with(&[CALENDAR], |p| set_life(p, -9 * DAY, -2 * DAY)),
        ),
        (
            "one that has not begun",
            prod.svid_with(&[CALENDAR], |p| set_life(p, 2 * DAY, 9 * DAY)),
        ),
    ] {
        assert_eq!(
            show(&provider, &[&svid.der]).await,
            Err(AttestError::Bad),
            "{what}"
        );
    }
    // A leaf that acts as an authority for another.
    let leaf = prod.svid(&["spiffe://prod.example/evil"]);
    let pair = KeyPair::from_pem(&leaf.key).unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.subject_alt_names = vec![SanType::URI(CALENDAR.try_into().unwrap())];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    set_life(&mut params, -9 * DAY, 9 * DAY);
    let evil = Issuer::new(params.clone(), pair);
    let forged = params
        .signed_by(&KeyPair::generate().unwrap(), &evil)
        .unwrap();
    let shown = show(&provider, &[forged.der(), &leaf.der]).await;
    assert_eq!(shown, Err(AttestError::Bad));
}

#[tokio::test]
async fn tokens_of_the_trust_domain_are_verified_with_its_bundle() {
    let (domain, pair) = (Domain::new("prod.example"), Pair::p256());
    let provider = provider(&domain.bundle(&[pair.jwk("j1")]));
    let claims = |sub: &str, aud: Value| json!({"sub": sub, "aud": aud, "exp": NOW + 300});
    let header = json!({"alg": "ES256", "kid": "j1", "typ": "JWT"});
    let good = claims(CALENDAR, json!(["keyward"]));
    assert_eq!(provider.agent(&pair.token(&header, &good)).await, "a");
    for (what, token) in [
        (
            "another audience",
            pair.token(&header, &claims(CALENDAR, json!(["other"]))),
        ),
        ("no key id", pair.token(&json!({"alg": "ES256"}), &good)),
        ("another's key", Pair::p256().token(&header, &good)),
        (
            "EdDSA",
            pair.token(&json!({"alg": "EdDSA", "kid": "j1"}), &good),
        ),
        (
            "the domain itself",
            pair.token(&header, &claims("spiffe://prod.example", json!("keyward"))),
        ),
    ] {
        assert_eq!(provider.show(&token).await, Err(AttestError::Bad), "{what}");
    }
    for foreign in [
        "spiffe://test.example/a",
        "spiffe://prod.example.evil/a",
        "calendar",
    ] {
        let token = pair.token(&header, &claims(foreign, json!("keyward")));
        assert_eq!(provider.show(&token).await, Ok(None), "{foreign}");
    }
}

/// The bundle is replaced while keyward runs: the new authority counts, and the old one no longer.
#[tokio::test]
async fn a_bundle_is_read_again_when_it_changes() {
    let (old, new) = (Domain::new("prod.example"), Domain::new("prod.example"));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("bundle");
    std::fs::write(&file, &old.pem).unwrap();
    let provider = Provider::within(&table("bundle"), folder);
    let (first, second) = (old.svid(&[CALENDAR]), new.svid(&[CALENDAR]));
    assert!(show(&provider, &[&first.der]).await.is_ok());
    assert_eq!(show(&provider, &[&second.der]).await, Err(AttestError::Bad));
    std::fs::write(&file, new.bundle(&[])).unwrap();
    provider.clock.advance(Duration::from_secs(3));
    let turned = async {
        while show(&provider, &[&second.der]).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), turned)
        .await
        .unwrap();
    assert_eq!(show(&provider, &[&first.der]).await, Err(AttestError::Bad));
    // Rubbish in its place changes nothing.
    std::fs::write(&file, "{\"keys\": 1}").unwrap();
    provider.clock.advance(Duration::from_secs(3));
    for _ in 0..3 {
        assert!(show(&provider, &[&second.der]).await.is_ok());
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
}

/// A bundle endpoint over HTTPS.
#[tokio::test]
async fn a_bundle_comes_from_an_endpoint() {
    let domain = Domain::new("prod.example");
    let bundle = domain.bundle(&[]);
    let server = Upstream::service(&["http/1.1"], move |_| {
        let bundle = bundle.clone();
        Box::pin(async move { upstream::ok(bundle) })
    })
    .await;
    let file = "bundle = { file = \"bundle\" }";
    let endpoint = format!(
        "bundle = {{ endpoint = \"https://{}/bundle\" }}",
        server.address
    );
    let provider = Provider::new(&table("bundle").replace(file, &endpoint));
    let svid = domain.svid(&[CALENDAR]);
    assert_eq!(
        show(&provider, &[&svid.der])
            .await
            .unwrap()
            .unwrap()
            .agent
            .as_str(),
        "a"
    );
    assert_eq!(server.requests().len(), 1);
}

/// The agent of SPIFFE on this machine, as far as it is asked: two streams that stay open after their first message.
fn workload_api(socket: &Path, domain: &Domain, tokens: &[Value]) -> tokio::task::JoinHandle<()> {
    let roots = message(&entry(2, "spiffe://prod.example", &domain.der));
    let set = json!({"keys": tokens}).to_string();
    let set = message(&entry(1, "spiffe://prod.example", set.as_bytes()));
    let listener = tokio::net::UnixListener::bind(socket).unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (roots, set) = (roots.clone(), set.clone());
            let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                assert_eq!(request.headers()["workload.spiffe.io"], "true");
                let message = match request.uri().path() {
                    "/SpiffeWorkloadAPI/FetchX509Bundles" => roots.clone(),
                    "/SpiffeWorkloadAPI/FetchJWTBundles" => set.clone(),
                    other => panic!("{other}"),
                };
                let body = upstream::full(message);
                let endless = StreamOpen(body);
                let response = http::Response::builder()
                    .header("content-type", "application/grpc")
                    .body(endless)
                    .unwrap();
                async move { Ok::<_, std::convert::Infallible>(response) }
            });
            let served = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service);
            tokio::spawn(served);
        }
    })
}

/// A body that goes on after its last piece.
struct StreamOpen(upstream::AnyBody);

impl hyper::body::Body for StreamOpen {
    type Data = bytes::Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<bytes::Bytes>, Self::Error>>> {
        match std::pin::Pin::new(&mut self.0).poll_frame(cx) {
            std::task::Poll::Ready(None) => std::task::Poll::Pending,
            piece => piece,
        }
    }
}

/// Roots and keys by the Workload API; without it nobody is let in.
#[tokio::test]
async fn a_bundle_comes_from_the_workload_api() {
    let (domain, pair) = (Domain::new("prod.example"), Pair::p256());
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("api.sock");
    let place = format!(
        "bundle = {{ workload-api = \"unix:{}\" }}",
        socket.display()
    );
    let lines = table("bundle").replace("bundle = { file = \"bundle\" }", &place);
    let provider = Provider::within(&lines, folder);
    let svid = domain.svid(&[CALENDAR]);
    assert_eq!(
        show(&provider, &[&svid.der]).await,
        Err(AttestError::Unavailable)
    );
    provider.clock.advance(Duration::from_secs(2));
    let agent = workload_api(&socket, &domain, &[pair.jwk("j1")]);
    assert_eq!(
        show(&provider, &[&svid.der])
            .await
            .unwrap()
            .unwrap()
            .agent
            .as_str(),
        "a"
    );
    let claims = json!({"sub": CALENDAR, "aud": ["keyward"], "exp": NOW + 300});
    let token = pair.token(&json!({"alg": "ES256", "kid": "j1"}), &claims);
    assert_eq!(provider.agent(&token).await, "a");
    let forged = Domain::new("prod.example").svid(&[CALENDAR]);
    assert_eq!(show(&provider, &[&forged.der]).await, Err(AttestError::Bad));
    agent.abort();
}

struct World {
    harness: Harness,
    _upstreams: [Upstream; 2],
    folder: tempfile::TempDir,
}

impl World {
    /// keyward with a `tls:` listener that believes `prod` (as a) and `test` (as b).
    async fn new(prod: &Domain, test: &Domain) -> Self {
        let (folder, upstream) = (
            tempfile::tempdir().unwrap(),
            Upstream::echo(&["http/1.1"]).await,
        );
        let path = |name: &str| folder.path().join(name).display().to_string();
        let (cert, key) = upstream::certificate(&["127.0.0.1"]);
        for (name, text) in [
            ("cert.pem", &cert),
            ("key.pem", &key),
            ("prod.pem", &prod.pem),
            ("test.pem", &test.pem),
            ("ca.pem", &CA.pem),
        ] {
            std::fs::write(path(name), text).unwrap();
        }
        let one = |name: &str, agent: &str| {
            format!(
                "[trust.{name}]\nagent = {{ map = {{ \"spiffe://{name}.example/*\" = \"{agent}\" }} }}\n\
                 spiffe = {{ trust-domain = \"{name}.example\", bundle = {{ file = \"{}\" }} }}\n",
                path(&format!("{name}.pem"))
            )
        };
        let plain = Upstream::plain(|_| Box::pin(async { upstream::ok("") })).await;
        let open = "[[route]]\nhosts = [\"plain.test:80\"]\n";
        let trusts = one("prod", "a") + &one("test", "b");
        let harness = Setup::new(&format!("{BEARER}{open}{trusts}"))
            .admin("tokens = { alice = { env = \"ALICE\" } }")
            .proxy("listen = [\"tls:127.0.0.1:0\"]")
            .proxy(&format!(
                "tls = {{ cert = \"{}\", key = {{ file = \"{}\" }} }}",
                path("cert.pem"),
                path("key.pem")
            ))
            .to("api.test:443", &upstream)
            .to("plain.test:80", &plain)
            .start()
            .await;
        Self {
            harness,
            _upstreams: [upstream, plain],
            folder,
        }
    }

    /// curl through the proxy with this SVID; the statuses of CONNECT and request.
    async fn curl(&self, svid: Option<&Svid>, user: &str) -> String {
        let proxy = self.harness.app().listeners()[0].2[0];
        let path = |name: &str| self.folder.path().join(name);
        let mut command = Command::new(Path::new("/usr/bin/curl"));
        command
            .args([
                "-s",
                "-k",
                "-o",
                "/dev/null",
                "-w",
                "%{http_connect} %{http_code}",
            ])
            .args(["-x", &format!("https://{user}{proxy}")])
            .arg("--proxy-cacert")
            .arg(path("ca.pem"));
        if let Some(svid) = svid {
            std::fs::write(path("svid.pem"), &svid.pem).unwrap();
            std::fs::write(path("svid.key"), &svid.key).unwrap();
            command.arg("--proxy-cert").arg(path("svid.pem"));
            command.arg("--proxy-key").arg(path("svid.key"));
        }
        let asked = command
            .arg("https://api.test/")
            .env_clear()
            .stdin(Stdio::null())
            .output();
        String::from_utf8(asked.await.unwrap().stdout).unwrap()
    }
}

/// curl with SVIDs of two trust domains at one listener, without any, and with a token in its place.
#[tokio::test]
async fn a_client_with_an_svid_needs_no_token() {
    let (prod, test) = (Domain::new("prod.example"), Domain::new("test.example"));
    let world = World::new(&prod, &test).await;
    let svid = prod.svid(&[CALENDAR]);
    assert_eq!(world.curl(Some(&svid), "").await, "200 200");
    let svid = test.svid(&["spiffe://test.example/sa/x"]);
    assert_eq!(world.curl(Some(&svid), "").await, "200 200");
    for (agent, trust) in [("a", "prod"), ("b", "test")] {
        let picks = |r: &Value| r["event"] == "session-start" && r["trust"] == trust;
        assert_eq!(world.harness.record(picks).await["agent"], agent);
    }
    assert_eq!(
        world.curl(None, "").await,
        "407 000",
        "a certificate is asked for"
    );
    assert_eq!(
        world.curl(None, &format!("x:{TOKEN_A}@")).await,
        "200 200",
        "and not required"
    );
    let forged = test.svid(&[CALENDAR]);
    assert_eq!(
        world.curl(Some(&forged), "").await,
        "407 000",
        "an SVID of the wrong authority"
    );
    // A certificate without its key ends the handshake.
    let stolen = Svid {
        key: KeyPair::generate().unwrap().serialize_pem(),
        ..prod.svid(&[CALENDAR])
    };
    assert_eq!(world.curl(Some(&stolen), "").await, "000 000");
    world.harness.finish().await;
}

/// The certificate of an SVID whose session was ended, with its issuer's signature written another way: over real mutual TLS
/// it is the same evidence, and opens nothing.
#[tokio::test]
async fn another_spelling_of_a_certificate_is_the_same_evidence() {
    let (prod, test) = (Domain::new("prod.example"), Domain::new("test.example"));
    let world = World::new(&prod, &test).await;
    let svid = prod.svid(&[CALENDAR]);
    let der = respelled_certificate(&svid.der);
    assert_ne!(der, svid.der);
    let other = Svid {
        pem: pem_of(&der),
        der,
        key: svid.key.clone(),
    };
    let kept = prod.svid(&[CALENDAR]);
    for good in [&svid, &kept] {
        assert_eq!(world.curl(Some(good), "").await, "200 200");
    }
    // Bound to the one that was shown first (RFC 8705 §3.1 counts the whole certificate).
    assert_eq!(world.curl(Some(&other), "").await, "407 000");
    let picks = |r: &Value| r["event"] == "connect" && r["word"] == "wrong-peer";
    world.harness.record(picks).await;
    let started = world
        .harness
        .record(|r| r["event"] == "session-start")
        .await;
    let line = format!("DELETE /sessions/{}", started["session"].as_str().unwrap());
    assert_eq!(alice(&world.harness, &line, "").await.0, 204);
    for over in [&svid, &other] {
        assert_eq!(world.curl(Some(over), "").await, "407 000");
        let last = world.harness.audit();
        let last = last.iter().rfind(|r| r["event"] == "connect");
        assert_eq!(last.unwrap()["word"], "session-ended");
    }
    assert_eq!(world.curl(Some(&kept), "").await, "200 200", "another one");
    world.harness.finish().await;
}

fn pem_of(der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<&str> = text
        .as_bytes()
        .chunks(64)
        .map(|l| std::str::from_utf8(l).unwrap())
        .collect();
    format!(
        "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n",
        lines.join("\n")
    )
}

/// What `/token` gives a client with an SVID, only that client can use: neither a thief without it, nor one with another.
#[tokio::test]
async fn a_token_got_with_a_certificate_is_refused_without_it() {
    let (prod, test) = (Domain::new("prod.example"), Domain::new("test.example"));
    let world = World::new(&prod, &test).await;
    let svid = prod.svid(&[CALENDAR]);
    // Leaves the SVID's files behind.
    assert_eq!(world.curl(Some(&svid), "").await, "200 200");
    let path = |name: &str| world.folder.path().join(name);
    let proxy = world.harness.app().listeners()[0].2[0];
    let asked = Command::new(Path::new("/usr/bin/curl"))
        .args(["-s", "-d", "grant_type=client_credentials", "--cacert"])
        .arg(path("ca.pem"))
        .arg("--cert")
        .arg(path("svid.pem"))
        .arg("--key")
        .arg(path("svid.key"))
        .arg(format!("https://{proxy}/token"))
        .env_clear()
        .output();
    let granted: Value = serde_json::from_slice(&asked.await.unwrap().stdout).unwrap();
    let token = granted["access_token"].as_str().expect("a token");
    let sum = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &svid.der);
    let thumbprint = super::mint::b64(sum.as_ref());
    let claims = super::super::token::part(token, 1);
    assert_eq!(claims["cnf"], json!({"x5t#S256": thumbprint}));
    let picks = |r: &Value| r["event"] == "session-start" && r["session"] == granted["session"];
    let started = world.harness.record(picks).await;
    assert_eq!(started["bound"], format!("x5t#S256:{thumbprint}"));

    let user = format!("x:{token}@");
    assert_eq!(world.curl(Some(&svid), &user).await, "200 200");
    assert_eq!(world.curl(None, &user).await, "407 000", "a thief");
    let picks = |r: &Value| r["event"] == "connect" && r["word"] == "wrong-peer";
    world.harness.record(picks).await;
    let other = prod.svid(&[CALENDAR]);
    assert_eq!(world.curl(Some(&other), &user).await, "407 000", "a twin");
    assert_eq!(world.curl(Some(&svid), &user).await, "200 200");
    world.harness.finish().await;
}

/// A stranger who speaks no TLS, or is slow, ends alone.
#[tokio::test]
async fn what_is_no_tls_is_not_heard() {
    let (prod, test) = (Domain::new("prod.example"), Domain::new("test.example"));
    let world = World::new(&prod, &test).await;
    let mut plain = world.harness.agent();
    plain.authorization = None;
    let (answer, _) = plain.connect("api.test:443").await;
    assert_eq!(answer.start, "", "{answer:?}");
    world.harness.finish().await;
}

/// A connection that is kept is not proved anew at each request; after five seconds, and under another configuration, it is.
#[tokio::test(flavor = "multi_thread")]
async fn a_kept_connection_is_known_for_a_bounded_time_and_one_configuration() {
    let (prod, test) = (Domain::new("prod.example"), Domain::new("test.example"));
    let world = World::new(&prod, &test).await;
    let svid = prod.svid(&[CALENDAR]);
    let proxy = world.harness.app().listeners()[0].2[0];
    let stream = tokio::net::TcpStream::connect(proxy).await.unwrap();
    let stream = upstream::tls_client(&svid.pem, &svid.key)
        .connect("127.0.0.1".try_into().unwrap(), stream)
        .await
        .unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    let mut ask = async || {
        let request = http::Request::get("http://plain.test/")
            .header("host", "plain.test")
            .body(upstream::full(""))
            .unwrap();
        sender.ready().await.unwrap();
        let answer = sender.send_request(request).await.unwrap();
        let status = answer.status().as_u16();
        http_body_util::BodyExt::collect(answer.into_body())
            .await
            .unwrap();
        status
    };
    let attested = "keyward_attestations_total{trust=\"prod\",outcome=\"attested\"}";
    let count = async |harness: &Harness| -> usize {
        let metrics = harness.metrics().await;
        let line = metrics.lines().find_map(|line| line.strip_prefix(attested));
        line.map_or(0, |rest| rest.trim().parse().unwrap())
    };
    for _ in 0..5 {
        assert_eq!(ask().await, 200);
    }
    assert_eq!(count(&world.harness).await, 1);
    let text = world.harness.setup.clone();
    world
        .harness
        .reload(&text.agent_a("purpose = \"x\"\n"))
        .await;
    ask().await;
    assert_eq!(count(&world.harness).await, 2);
    // Another authority: the connection is nobody's when it is looked at again.
    let other = Domain::new("prod.example");
    std::fs::write(world.folder.path().join("prod.pem"), &other.pem).unwrap();
    let refused = async {
        while ask().await != 407 {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), refused)
        .await
        .unwrap();
    world.harness.finish().await;
}
