//! Both legs on the wire: what is negotiated, what is refused and by which word, and what a flood costs.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]
#![expect(
    clippy::disallowed_methods,
    reason = "the test's own tasks end with the test"
)]

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use keyward::clock::{Clock, ManualClock, SystemClock};
use keyward::host::{Host, HostPattern};
use keyward::secret::Secret;
use keyward::tls::{
    AcceptError, Acceptor, Alpn, Authority, ClientIdentity, ConnectError, Connector, Constraints,
    Distrust, LeafError, Leaves, Protocol, TrustError, TrustSettings,
};
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use rustls::{
    AlertDescription, ClientConfig, ClientConnection, HandshakeKind, NamedGroup, ProtocolVersion,
    RootCertStore, ServerConfig,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio_rustls::client::TlsStream;

fn system() -> Arc<dyn Clock> {
    Arc::new(SystemClock)
}

fn leaves(hosts: &[&str]) -> Leaves {
    let patterns: Vec<HostPattern> = hosts.iter().map(|host| host.parse().unwrap()).collect();
    let names = Constraints::new(patterns.iter().map(|pattern| &pattern.kind));
    let authority = Authority::ephemeral(names, system()).unwrap();
    Leaves::new(Arc::new(authority), system()).unwrap()
}

fn acceptor(leaves: &Leaves, host: &str) -> Arc<Acceptor> {
    leaves.acceptor(&host.parse().unwrap()).unwrap()
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// An agent that trusts these roots.
fn agent(roots_pem: &str, alpn: &[&str]) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    for cert in CertificateDer::pem_slice_iter(roots_pem.as_bytes()) {
        roots.add(cert.unwrap()).unwrap();
    }
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    config
}

type Served = Result<Protocol, AcceptError>;
type Called = std::io::Result<TlsStream<DuplexStream>>;

/// One handshake of an agent with an acceptor; one byte from us afterwards brings the tickets.
async fn shake(
    acceptor: &Arc<Acceptor>,
    alpn: Alpn,
    agent: &Arc<ClientConfig>,
    name: &str,
) -> (Served, Called) {
    let (ours, theirs) = duplex(16 * 1024);
    let acceptor = acceptor.clone();
    let server = tokio::spawn(async move {
        let (mut stream, protocol) = acceptor.accept(ours, alpn).await?;
        stream.write_all(b"!").await.unwrap();
        stream.flush().await.unwrap();
        Ok(protocol)
    });
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut called = tokio_rustls::TlsConnector::from(agent.clone())
        .connect(name, theirs)
        .await;
    if let Ok(stream) = &mut called {
        drop(stream.read_u8().await);
    }
    (server.await.unwrap(), called)
}

#[tokio::test]
async fn alpn_is_agreed_and_a_peer_without_it_speaks_http1() {
    let leaves = leaves(&["api.test"]);
    let acceptor = acceptor(&leaves, "api.test");
    let roots = leaves.authority().roots_pem().clone();
    for (offer, ours, expected) in [
        (&["h2", "http/1.1"][..], Alpn::Both, Protocol::Http2),
        (&["h2", "http/1.1"], Alpn::Http1, Protocol::Http1),
        (&["http/1.1"], Alpn::Both, Protocol::Http1),
        (&[], Alpn::Both, Protocol::Http1),
    ] {
        let agent = Arc::new(agent(&roots, offer));
        let (served, called) = shake(&acceptor, ours, &agent, "api.test").await;
        assert_eq!(served.unwrap(), expected, "{offer:?} {ours:?}");
        let connection = called.unwrap();
        let connection = connection.get_ref().1;
        assert_eq!(
            connection.protocol_version(),
            Some(ProtocolVersion::TLSv1_3)
        );
        let group = connection.negotiated_key_exchange_group().unwrap().name();
        assert_eq!(group, NamedGroup::X25519, "cheap towards agents");
    }
    let agent = Arc::new(agent(&roots, &["h2"]));
    let (served, _) = shake(&acceptor, Alpn::Http1, &agent, "api.test").await;
    assert!(matches!(served, Err(AcceptError::Handshake(_))));
}

#[tokio::test]
async fn a_server_name_other_than_the_host_gets_an_alert_and_no_leaf() {
    let leaves = leaves(&["api.test", "*.crm.test", "127.0.0.1"]);
    let agent = Arc::new(agent(leaves.authority().roots_pem(), &[]));
    for (host, sni) in [
        ("api.test", "evil.test"),
        ("api.test", "a.crm.test"),
        ("127.0.0.1", "api.test"),
    ] {
        let acceptor = acceptor(&leaves, host);
        let before = leaves.len();
        let (served, called) = shake(&acceptor, Alpn::Both, &agent, sni).await;
        assert!(
            matches!(served, Err(AcceptError::SniMismatch)),
            "{host} {sni}"
        );
        let error = called.unwrap_err();
        let error = error.get_ref().unwrap().downcast_ref::<rustls::Error>();
        let alert = AlertDescription::UnrecognisedName;
        assert_eq!(error, Some(&rustls::Error::AlertReceived(alert)));
        assert_eq!(leaves.len(), before);
    }
    for (host, name) in [("api.test", "API.test"), ("127.0.0.1", "127.0.0.1")] {
        let (served, called) = shake(&acceptor(&leaves, host), Alpn::Both, &agent, name).await;
        served.unwrap();
        called.unwrap();
    }
}

#[tokio::test]
async fn an_agent_that_does_not_trust_us_is_told_apart() {
    let (ours, strangers) = (leaves(&["api.test"]), leaves(&["api.test"]));
    let agent = Arc::new(agent(strangers.authority().roots_pem(), &[]));
    let (served, _) = shake(&acceptor(&ours, "api.test"), Alpn::Both, &agent, "api.test").await;
    assert!(matches!(served, Err(AcceptError::Untrusted)), "{served:?}");
}

#[tokio::test]
async fn what_is_not_tls_and_what_is_garbage_end_the_handshake() {
    let leaves = leaves(&["api.test"]);
    let acceptor = acceptor(&leaves, "api.test");
    let mut record = vec![22, 3, 1, 0x40, 0];
    record.resize(64 * 1024, 0xff);
    let mut endless = Vec::new();
    // One handshake message that claims 16 MiB, in many records.
    for part in 0..64 {
        endless.extend([22, 3, 1, 4, 0]);
        let start = endless.len();
        endless.resize(start + 1024, 0);
        if part == 0 {
            endless[start..start + 4].copy_from_slice(&[1, 0xff, 0xff, 0xff]);
        }
    }
    for (what, bytes, not_tls) in [
        (
            "plaintext",
            b"GET / HTTP/1.1\r\nhost: api.test\r\n\r\n".to_vec(),
            true,
        ),
        ("garbage", record, false),
        ("an endless hello", endless, false),
        (
            "the PROXY protocol",
            b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2\r\n".to_vec(),
            true,
        ),
    ] {
        let (ours, mut theirs) = duplex(1 << 20);
        theirs.write_all(&bytes).await.unwrap();
        let error = acceptor.accept(ours, Alpn::Both).await.unwrap_err();
        assert_eq!(
            matches!(error, AcceptError::NotTls),
            not_tls,
            "{what}: {error}"
        );
        assert!(!matches!(error, AcceptError::Closed), "{what}: {error}");
    }
    let (ours, theirs) = duplex(1024);
    drop(theirs);
    let error = acceptor.accept(ours, Alpn::Both).await.unwrap_err();
    assert!(matches!(error, AcceptError::Closed), "{error:?}");
}

#[tokio::test]
async fn a_hello_in_records_of_one_byte_is_understood() {
    let leaves = leaves(&["api.test"]);
    let acceptor = acceptor(&leaves, "api.test");
    let config = Arc::new(agent(leaves.authority().roots_pem(), &["h2"]));
    let name = ServerName::try_from("api.test").unwrap();
    let mut client = ClientConnection::new(config, name).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    let crumbs: Vec<u8> = hello[5..]
        .iter()
        .flat_map(|byte| [22, 3, 1, 0, 1, *byte])
        .collect();
    let (ours, mut theirs) = duplex(64 * 1024);
    let server =
        tokio::spawn(async move { acceptor.accept(ours, Alpn::Both).await.map(|done| done.1) });
    theirs.write_all(&crumbs).await.unwrap();
    while client.is_handshaking() {
        let byte = [theirs.read_u8().await.unwrap()];
        client.read_tls(&mut &byte[..]).unwrap();
        client.process_new_packets().unwrap();
        let mut out = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut out).unwrap();
        }
        theirs.write_all(&out).await.unwrap();
    }
    let drain = tokio::spawn(async move { theirs.read_to_end(&mut Vec::new()).await });
    assert_eq!(server.await.unwrap().unwrap(), Protocol::Http2);
    drop(drain.await);
}

#[tokio::test]
async fn sessions_resume_at_their_own_host_and_nowhere_else_and_take_no_early_data() {
    let set = leaves(&["api.test", "127.0.0.1", "127.0.0.2"]);
    let mut config = agent(set.authority().roots_pem(), &[]);
    config.enable_early_data = true;
    let config = Arc::new(config);
    let host = acceptor(&set, "api.test");
    let mut kinds = Vec::new();
    for _ in 0..2 {
        let (served, called) = shake(&host, Alpn::Both, &config, "api.test").await;
        served.unwrap();
        let stream = called.unwrap();
        let connection = stream.get_ref().1;
        kinds.push(connection.handshake_kind().unwrap());
        assert!(!connection.is_early_data_accepted());
    }
    assert_eq!(kinds, [HandshakeKind::Full, HandshakeKind::Resumed]);

    // Two addresses: there is no server name to bind a session to. The client offers the first one's ticket to the
    // second, which must shake hands in full and so show the wrong certificate.
    let (first, second) = (acceptor(&set, "127.0.0.1"), acceptor(&set, "127.0.0.2"));
    shake(&first, Alpn::Both, &config, "127.0.0.1")
        .await
        .1
        .unwrap();
    let (_, called) = shake(&second, Alpn::Both, &config, "127.0.0.1").await;
    assert!(called.is_err());
}

#[test]
fn a_name_outside_the_configuration_is_refused_before_minting() {
    let leaves = leaves(&["api.test", "*.crm.test"]);
    for name in [
        "evil.test",
        "x.api.test",
        "a.b.crm.test",
        "crm.test",
        "127.0.0.1",
    ] {
        let host: Host = name.parse().unwrap();
        assert!(
            matches!(leaves.acceptor(&host), Err(LeafError::NotPermitted(_))),
            "{name}"
        );
    }
    assert!(leaves.is_empty());
}

fn minted(leaves: &Leaves) -> String {
    let mut registry = prometheus_client::registry::Registry::default();
    leaves.metrics().register(&mut registry);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    let count = text
        .lines()
        .find(|line| line.starts_with("keyward_leaf_mint_seconds_count"));
    count.unwrap().rsplit(' ').next().unwrap().to_owned()
}

#[test]
fn agents_that_meet_a_new_host_together_cause_one_minting() {
    let leaves = leaves(&["api.test"]);
    let barrier = std::sync::Barrier::new(64);
    let acceptors: Vec<Arc<Acceptor>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..64)
            .map(|_| {
                scope.spawn(|| {
                    barrier.wait();
                    acceptor(&leaves, "api.test")
                })
            })
            .collect();
        threads.into_iter().map(|one| one.join().unwrap()).collect()
    });
    assert!(acceptors.iter().all(|one| Arc::ptr_eq(one, &acceptors[0])));
    assert_eq!(minted(&leaves), "1");
}

#[test]
fn ten_thousand_names_stay_within_the_bound_and_a_host_in_use_stays() {
    let leaves = leaves(&["api.test", "*.crm.test"]);
    let busy = acceptor(&leaves, "api.test");
    let start = Instant::now();
    for n in 0..10_000 {
        acceptor(&leaves, &format!("h{n}.crm.test"));
        if n % 100 == 0 {
            assert!(Arc::ptr_eq(&busy, &acceptor(&leaves, "api.test")));
        }
    }
    println!("{} µs for a mint", start.elapsed().as_micros() / 10_000);
    assert!(leaves.len() <= Leaves::CAPACITY, "{}", leaves.len());
    assert!(leaves.get(&"api.test".parse().unwrap()).is_some());
}

#[test]
fn a_leaf_is_minted_anew_long_before_its_end_and_when_the_clock_goes_back() {
    let clock = Arc::new(ManualClock::new(SystemClock.now().wall));
    let pattern: HostPattern = "api.test".parse().unwrap();
    let names = Constraints::new([&pattern.kind]);
    let authority = Arc::new(Authority::ephemeral(names, clock.clone()).unwrap());
    let leaves = Leaves::new(authority.clone(), clock.clone()).unwrap();
    let first = acceptor(&leaves, "api.test");
    clock.advance(Duration::from_hours(11));
    assert!(Arc::ptr_eq(&first, &acceptor(&leaves, "api.test")));
    clock.advance(Duration::from_hours(2));
    let second = acceptor(&leaves, "api.test");
    assert!(!Arc::ptr_eq(&first, &second));
    clock.set_wall(clock.now().wall - Duration::from_hours(2));
    assert!(!Arc::ptr_eq(&second, &acceptor(&leaves, "api.test")));
    leaves.replace(authority);
    assert!(leaves.is_empty());
}

/// A certificate that signs itself, changed by `edit`.
fn upstream(edit: impl FnOnce(&mut CertificateParams)) -> (String, Arc<ServerConfig>) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["up.test".into(), "127.0.0.1".into()]).unwrap();
    edit(&mut params);
    let cert = params.self_signed(&key).unwrap();
    let der = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], der)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    (cert.pem(), Arc::new(config))
}

fn connector(pem: &str) -> Connector {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), pem).unwrap();
    let trust = TrustSettings {
        system: false,
        pem: vec![file.path().to_owned()],
    };
    Connector::new(&trust, None, system()).unwrap()
}

async fn call(
    connector: &Connector,
    server: Arc<ServerConfig>,
    host: &str,
    alpn: Alpn,
) -> (Result<Protocol, ConnectError>, Option<NamedGroup>) {
    let (ours, theirs) = duplex(16 * 1024);
    let server = tokio::spawn(async move {
        let stream = tokio_rustls::TlsAcceptor::from(server)
            .accept(theirs)
            .await
            .ok()?;
        let connection = stream.get_ref().1;
        assert_eq!(connection.server_name().is_some(), host_is_name(connection));
        Some(connection.negotiated_key_exchange_group()?.name())
    });
    let host: Host = host.parse().unwrap();
    let result = connector.connect(ours, &host, alpn).await;
    // The stream lives until the server has written its tickets.
    let group = server.await.unwrap();
    (result.map(|(_, protocol)| protocol), group)
}

/// Where there is a server name, it is the name.
fn host_is_name(connection: &rustls::ServerConnection) -> bool {
    connection
        .server_name()
        .is_some_and(|name| name == "up.test")
}

#[tokio::test]
async fn upstreams_are_reached_with_the_hybrid_group_and_the_protocol_asked_for() {
    let (pem, server) = upstream(|_| ());
    let connector = connector(&pem);
    for (host, alpn, expected) in [
        ("up.test", Alpn::Both, Protocol::Http2),
        ("up.test", Alpn::Http1, Protocol::Http1),
        ("127.0.0.1", Alpn::Both, Protocol::Http2),
    ] {
        let (result, group) = call(&connector, server.clone(), host, alpn).await;
        assert_eq!(result.unwrap(), expected);
        assert_eq!(group, Some(NamedGroup::X25519MLKEM768));
    }
}

#[tokio::test]
async fn bad_upstreams_are_refused_each_with_its_reason() {
    // Another name, so that it is not taken for the issuer of the others.
    let (own, _) = upstream(|params| {
        let name = &mut params.distinguished_name;
        name.push(rcgen::DnType::CommonName, "another root");
    });
    let day = Duration::from_hours(24);
    let now = rcgen::date_time_ymd(1970, 1, 1)
        + Duration::from_secs(u64::try_from(SystemClock.now().wall.as_second()).unwrap());
    let (expired_pem, expired) = upstream(|params| params.not_after = now - day);
    let (early_pem, early) = upstream(|params| params.not_before = now + day);
    let (good_pem, good) = upstream(|_| ());
    let (client_pem, client_only) = upstream(|params| {
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    });
    for (pem, server, host, reason) in [
        (&expired_pem, expired, "up.test", Distrust::Expired),
        (&early_pem, early, "up.test", Distrust::NotYetValid),
        (&good_pem, good.clone(), "other.test", Distrust::WrongHost),
        (&good_pem, good.clone(), "127.0.0.2", Distrust::WrongHost),
        (&own, good, "up.test", Distrust::UnknownIssuer),
        (&client_pem, client_only, "up.test", Distrust::WrongPurpose),
    ] {
        let (result, _) = call(&connector(pem), server, host, Alpn::Both).await;
        let error = result.unwrap_err();
        assert!(
            matches!(error, ConnectError::Untrusted(found) if found == reason),
            "{reason}: {error:?}"
        );
    }
}

#[tokio::test]
async fn an_upstream_that_speaks_plaintext_or_hangs_up_is_told_apart() {
    let (pem, _) = upstream(|_| ());
    let connector = connector(&pem);
    let host: Host = "up.test".parse().unwrap();
    let (ours, mut theirs) = duplex(16 * 1024);
    theirs
        .write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        .await
        .unwrap();
    let error = connector
        .connect(ours, &host, Alpn::Both)
        .await
        .unwrap_err();
    assert!(matches!(error, ConnectError::Refused(_)), "{error:?}");
    let (ours, theirs) = duplex(16 * 1024);
    drop(theirs);
    let error = connector
        .connect(ours, &host, Alpn::Both)
        .await
        .unwrap_err();
    assert!(matches!(error, ConnectError::Io(_)), "{error:?}");
}

#[tokio::test]
async fn a_tls_1_1_peer_is_refused_on_both_sides() {
    let dir = tempfile::tempdir().unwrap();
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["up.test".into()]).unwrap();
    let cert = params.self_signed(&key).unwrap();
    std::fs::write(dir.path().join("c.pem"), cert.pem()).unwrap();
    std::fs::write(dir.path().join("k.pem"), key.serialize_pem()).unwrap();
    for (version, works) in [("-tls1_1", false), ("-tls1_2", true)] {
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let mut server = openssl(dir.path())
            .args(["s_server", "-accept", &format!("127.0.0.1:{port}")])
            .args([
                "-cert",
                "c.pem",
                "-key",
                "k.pem",
                version,
                "-cipher",
                "ALL:@SECLEVEL=0",
            ])
            .spawn()
            .unwrap();
        let said = BufReader::new(server.stdout.take().unwrap());
        let mut lines = said.lines().map(|line| line.unwrap());
        assert!(lines.any(|line| line == "ACCEPT"));
        let tcp = tokio::net::TcpStream::connect(("127.0.0.1", port))
            .await
            .unwrap();
        let host: Host = "up.test".parse().unwrap();
        let result = connector(&cert.pem()).connect(tcp, &host, Alpn::Both).await;
        let refused = matches!(result, Err(ConnectError::Refused(_)));
        server.kill().unwrap();
        server.wait().unwrap();
        assert_eq!((result.is_ok(), refused), (works, !works), "{version}");

        let set = leaves(&["up.test"]);
        let acceptor = acceptor(&set, "up.test");
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let mut client = openssl(dir.path())
            .args([
                "s_client",
                "-connect",
                &address,
                version,
                "-cipher",
                "ALL:@SECLEVEL=0",
            ])
            .spawn()
            .unwrap();
        let (tcp, _) = listener.accept().await.unwrap();
        let result = acceptor.accept(tcp, Alpn::Both).await;
        let refused = matches!(result, Err(AcceptError::Handshake(_)));
        assert_eq!((result.is_ok(), refused), (works, !works), "{version}");
        client.kill().unwrap();
        client.wait().unwrap();
    }
}

fn openssl(dir: &std::path::Path) -> std::process::Command {
    let mut command = std::process::Command::new("openssl");
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .current_dir(dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    command
}

#[tokio::test]
async fn an_identity_is_shown_to_a_server_that_asks_and_a_foreign_key_is_refused() {
    let (key, other) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let cert = CertificateParams::new(vec!["agent.test".into()])
        .unwrap()
        .self_signed(&key)
        .unwrap();
    let secret = |key: &KeyPair| Secret::from(key.serialize_pem());
    let identity = ClientIdentity::from_pem(cert.pem().as_bytes(), &secret(&key)).unwrap();
    assert!(ClientIdentity::from_pem(cert.pem().as_bytes(), &secret(&other)).is_err());
    assert!(ClientIdentity::from_pem(b"", &secret(&key)).is_err());
    assert!(ClientIdentity::from_pem(cert.pem().as_bytes(), &Secret::new(vec![])).is_err());

    let mut roots = RootCertStore::empty();
    roots.add(cert.der().clone()).unwrap();
    let verifier =
        rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
            .allow_unauthenticated()
            .build()
            .unwrap();
    let server_key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["up.test".into()]).unwrap();
    let server_cert = params.self_signed(&server_key).unwrap();
    let der = PrivateKeyDer::Pkcs8(server_key.serialize_der().into());
    let server = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![server_cert.der().clone()], der)
        .unwrap();
    let server = Arc::new(server);
    let nobody = connector(&server_cert.pem());
    let somebody = nobody.with_identity(&identity).unwrap();
    for (connector, shown) in [(&nobody, false), (&somebody, true), (&nobody, false)] {
        let (ours, theirs) = duplex(16 * 1024);
        let server = tokio_rustls::TlsAcceptor::from(server.clone());
        let task = tokio::spawn(async move {
            let stream = server.accept(theirs).await.unwrap();
            stream.get_ref().1.peer_certificates().is_some()
        });
        let host: Host = "up.test".parse().unwrap();
        let _alive = connector.connect(ours, &host, Alpn::Both).await.unwrap();
        assert_eq!(task.await.unwrap(), shown);
    }
}

#[test]
fn trust_that_is_empty_missing_or_damaged_is_a_fault() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let with = |store, pem: Vec<std::path::PathBuf>| {
        Connector::new(&TrustSettings { system: store, pem }, None, system()).map(drop)
    };
    assert!(matches!(with(false, vec![]), Err(TrustError::Nothing)));
    assert!(matches!(
        with(true, vec!["/nonexistent.pem".into()]),
        Err(TrustError::Io { .. })
    ));
    assert!(matches!(
        with(true, vec![file.path().into()]),
        Err(TrustError::Corrupt { .. })
    ));
    std::fs::write(
        file.path(),
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    )
    .unwrap();
    assert!(matches!(
        with(true, vec![file.path().into()]),
        Err(TrustError::Corrupt { .. })
    ));
    assert!(with(true, vec![]).is_ok());
}
