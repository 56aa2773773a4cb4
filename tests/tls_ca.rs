//! The CA as its folder and its clients see it: files and modes, re-issue, rotation, and what four verifiers refuse.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]
#![expect(
    clippy::disallowed_methods,
    reason = "the test's own server task ends with the test"
)]

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use keyward::clock::{Clock, ManualClock, SystemClock};
use keyward::host::{Host, HostPattern};
use keyward::tls::{
    Alpn, Authority, CaError, CertificateFacts, Connector, Constraints, LeafError, Leaves, Overlap,
    Role, TrustSettings,
};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;

fn names(hosts: &[&str]) -> Constraints {
    let patterns: Vec<HostPattern> = hosts.iter().map(|host| host.parse().unwrap()).collect();
    Constraints::new(patterns.iter().map(|pattern| &pattern.kind))
}

fn system() -> Arc<dyn Clock> {
    Arc::new(SystemClock)
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn chmod(path: &Path, mode: u32) {
    std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
}

fn ca_dir() -> (tempfile::TempDir, PathBuf) {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("var/ca");
    (temp, dir)
}

fn read(dir: &Path, name: &str) -> Vec<u8> {
    std::fs::read(dir.join(name)).unwrap()
}

#[test]
fn the_first_start_makes_a_private_folder_and_keys_for_the_owner_only() {
    let (_temp, dir) = ca_dir();
    let ca = Authority::open(&dir, names(&["api.test"]), system()).unwrap();
    assert_eq!(mode(&dir), 0o700);
    assert_eq!(mode(&dir.join("root.key")), 0o600);
    assert_eq!(mode(&dir.join("intermediate.pem")), 0o600);
    assert_eq!(mode(&Authority::roots_file(&dir)), 0o644);
    assert_eq!(ca.roots_pem().as_bytes(), read(&dir, "ca.pem"));
    assert!(!ca.roots_pem().contains("PRIVATE"));
}

#[test]
fn the_same_hosts_keep_the_intermediate_and_other_hosts_keep_the_root() {
    let (_temp, dir) = ca_dir();
    Authority::open(&dir, names(&["api.test"]), system()).unwrap();
    let (root, intermediate) = (read(&dir, "ca.pem"), read(&dir, "intermediate.pem"));
    Authority::open(&dir, names(&["api.test"]), system()).unwrap();
    assert_eq!(read(&dir, "intermediate.pem"), intermediate);
    Authority::open(&dir, names(&["api.test", "*.crm.test"]), system()).unwrap();
    assert_eq!(read(&dir, "ca.pem"), root);
    assert_ne!(read(&dir, "intermediate.pem"), intermediate);
}

#[test]
fn without_the_roots_key_the_intermediate_serves_until_the_hosts_change() {
    let (_temp, dir) = ca_dir();
    let key = dir.join("root.key");
    Authority::open(&dir, names(&["api.test"]), system()).unwrap();
    let away = std::fs::read(&key).unwrap();
    std::fs::remove_file(&key).unwrap();
    let ca = Authority::open(&dir, names(&["api.test"]), system()).unwrap();
    let leaves = Leaves::new(Arc::new(ca), system()).unwrap();
    assert!(leaves.acceptor(&"api.test".parse().unwrap()).is_ok());

    let changed = Authority::open(&dir, names(&["other.test"]), system()).unwrap_err();
    assert!(matches!(changed, CaError::Outdated { .. }), "{changed}");
    assert!(changed.to_string().contains("keyward ca issue"));
    let issue = Authority::issue(&dir, &names(&["other.test"]), &SystemClock).unwrap_err();
    assert!(matches!(issue, CaError::NoRootKey { .. }), "{issue}");

    std::fs::write(&key, away).unwrap();
    chmod(&key, 0o600);
    Authority::issue(&dir, &names(&["other.test"]), &SystemClock).unwrap();
    std::fs::remove_file(&key).unwrap();
    assert!(Authority::open(&dir, names(&["other.test"]), system()).is_ok());
}

#[test]
fn keys_that_others_can_read_links_and_open_folders_are_refused() {
    let (_temp, dir) = ca_dir();
    let open = || Authority::open(&dir, names(&["api.test"]), system()).map(drop);
    open().unwrap();
    for name in ["root.key", "intermediate.pem"] {
        let file = dir.join(name);
        chmod(&file, 0o640);
        assert!(matches!(open(), Err(CaError::Exposed { .. })), "{name}");
        chmod(&file, 0o600);
        let aside = dir.join("aside");
        std::fs::rename(&file, &aside).unwrap();
        symlink(&aside, &file).unwrap();
        assert!(matches!(open(), Err(CaError::Io { .. })), "{name}");
        std::fs::rename(&aside, &file).unwrap();
    }
    chmod(&dir, 0o770);
    assert!(matches!(open(), Err(CaError::Exposed { .. })));
    chmod(&dir, 0o755);
    open().unwrap();
}

#[test]
fn damaged_lost_or_foreign_files_are_named_and_never_replaced() {
    let (_temp, dir) = ca_dir();
    let (_other_temp, other) = ca_dir();
    Authority::open(&dir, names(&["api.test"]), system()).unwrap();
    Authority::open(&other, names(&["api.test"]), system()).unwrap();
    let files = ["ca.pem", "root.key", "intermediate.pem"];
    let good: Vec<Vec<u8>> = files.iter().map(|file| read(&dir, file)).collect();
    let mut cases: Vec<(&str, Option<Vec<u8>>)> = vec![("ca.pem", None)];
    for file in files {
        cases.push((file, Some(b"rubbish".to_vec())));
        cases.push((file, Some(Vec::new())));
        cases.push((file, Some(read(&other, file))));
    }
    // The right certificate with another intermediate's key.
    let own = String::from_utf8(good[2].clone()).unwrap();
    let foreign = String::from_utf8(read(&other, "intermediate.pem")).unwrap();
    let key_at = |text: &str| text.find("-----BEGIN PRIVATE").unwrap();
    let crossed = [&own[..key_at(&own)], &foreign[key_at(&foreign)..]].concat();
    cases.push(("intermediate.pem", Some(crossed.into_bytes())));
    for (file, content) in cases {
        match &content {
            Some(bytes) => std::fs::write(dir.join(file), bytes).unwrap(),
            None => std::fs::remove_file(dir.join(file)).unwrap(),
        }
        let error = Authority::open(&dir, names(&["api.test"]), system()).unwrap_err();
        assert!(
            matches!(error, CaError::Corrupt { .. } | CaError::Mismatch { .. }),
            "{file}: {error:?}"
        );
        let after = std::fs::read(dir.join(file)).ok();
        assert_eq!(after, content, "{file} was touched");
        for (file, bytes) in files.iter().zip(&good) {
            std::fs::write(dir.join(file), bytes).unwrap();
        }
    }
    Authority::open(&dir, names(&["api.test"]), system()).unwrap();
}

#[test]
fn processes_that_start_together_make_one_root() {
    let (_temp, dir) = ca_dir();
    let open = || {
        let ca = Authority::open(&dir, names(&["api.test"]), system()).unwrap();
        ca.roots_pem().clone()
    };
    let roots: Vec<Arc<str>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(open)).collect();
        threads.into_iter().map(|one| one.join().unwrap()).collect()
    });
    assert!(roots.iter().all(|root| root == &roots[0]));
}

#[test]
fn rotation_makes_another_root_and_keeps_the_old_one_only_if_asked() {
    let (_temp, dir) = ca_dir();
    let set = names(&["api.test"]);
    Authority::open(&dir, set.clone(), system()).unwrap();
    let first = Authority::show(&dir).unwrap();
    Authority::rotate(&dir, &set, &SystemClock, Overlap::Keep).unwrap();
    let second = Authority::show(&dir).unwrap();
    let roles: Vec<Role> = second.iter().map(|fact| fact.role).collect();
    assert_eq!(roles, [Role::Root, Role::PreviousRoot, Role::Intermediate]);
    assert_eq!(second[1].fingerprint, first[0].fingerprint);
    assert_ne!(second[0].subject, first[0].subject);
    Authority::open(&dir, set.clone(), system()).unwrap();
    Authority::rotate(&dir, &set, &SystemClock, Overlap::Drop).unwrap();
    assert_eq!(Authority::show(&dir).unwrap().len(), 2);
    Authority::open(&dir, set, system()).unwrap();
}

#[test]
fn the_facts_tell_lives_serials_and_permitted_names() {
    let (_temp, dir) = ca_dir();
    let before = SystemClock.now().wall;
    let set = names(&["api.test", "*.crm.test", "10.0.0.1", "[::1]"]);
    Authority::open(&dir, set, system()).unwrap();
    let facts = Authority::show(&dir).unwrap();
    let [root, intermediate] = &facts[..] else {
        panic!("{facts:?}");
    };
    assert!(root.permitted.is_empty());
    assert_eq!(
        intermediate.permitted,
        ["api.test", "crm.test", "10.0.0.1", "::1"]
    );
    let days =
        |fact: &CertificateFacts| fact.not_after.duration_since(fact.not_before).as_hours() / 24;
    assert_eq!((days(root), days(intermediate)), (5 * 365, 30));
    for fact in &facts {
        assert_eq!(fact.serial.len(), 16 * 3 - 1);
        assert_eq!(fact.fingerprint.len(), 32 * 3 - 1);
        let backdated = before.duration_since(fact.not_before).as_mins();
        assert!((50..60).contains(&backdated), "{backdated}");
    }
}

#[test]
fn the_intermediate_is_renewed_under_its_root_while_serving() {
    let (_temp, dir) = ca_dir();
    let clock = Arc::new(ManualClock::new(SystemClock.now().wall));
    let host: Host = "api.test".parse().unwrap();
    let set = names(&["api.test"]);
    for memory in [true, false] {
        let ca = if memory {
            Authority::ephemeral(set.clone(), clock.clone())
        } else {
            Authority::open(&dir, set.clone(), clock.clone())
        };
        let leaves = Leaves::new(Arc::new(ca.unwrap()), clock.clone()).unwrap();
        let first = leaves.authority();
        for _ in 0..10 {
            leaves.acceptor(&host).unwrap();
            clock.advance(Duration::from_hours(13 * 24));
        }
        let last = leaves.authority();
        assert!(last.expires() > first.expires());
        assert_eq!(last.roots_pem(), first.roots_pem());
    }
    // Without the root's key there is no renewal, and in the end no leaf: a refusal, not a stale certificate.
    let ca = Authority::open(&dir, set, clock.clone()).unwrap();
    let leaves = Leaves::new(Arc::new(ca), clock.clone()).unwrap();
    std::fs::remove_file(dir.join("root.key")).unwrap();
    clock.advance(Duration::from_hours(15 * 24));
    leaves.acceptor(&host).unwrap();
    clock.advance(Duration::from_hours(20 * 24));
    let error = leaves.acceptor(&host).unwrap_err();
    assert!(matches!(
        error,
        LeafError::Unavailable(CaError::Outdated { .. })
    ));
}

/// What a thief of the intermediate signs, and whether clients may believe it.
struct Claim {
    what: &'static str,
    hosts: &'static [&'static str],
    sans: Vec<SanType>,
    below_another_ca: bool,
    accepted: bool,
}

fn claim(what: &'static str, sans: Vec<SanType>, accepted: bool) -> Claim {
    Claim {
        what,
        hosts: &["api.test", "*.crm.test", "127.0.0.1"],
        sans,
        below_another_ca: false,
        accepted,
    }
}

fn dns(name: &str) -> SanType {
    SanType::DnsName(name.try_into().unwrap())
}

fn address(text: &str) -> SanType {
    SanType::IpAddress(text.parse().unwrap())
}

fn claims() -> Vec<Claim> {
    let api = || dns("api.test");
    let uri = SanType::URI("https://evil.test/".try_into().unwrap());
    let email = SanType::Rfc822Name("a@evil.test".try_into().unwrap());
    vec![
        claim("a permitted name", vec![api()], true),
        claim("one label below", vec![dns("a.crm.test")], true),
        claim("a permitted address", vec![address("127.0.0.1")], true),
        claim("another name", vec![dns("evil.test")], false),
        claim("a look-alike", vec![dns("xapi.test")], false),
        claim("a second name", vec![api(), dns("evil.test")], false),
        claim("a second address", vec![api(), address("10.0.0.1")], false),
        claim("IPv6 beside", vec![api(), address("::1")], false),
        claim("a URI beside", vec![api(), uri], false),
        claim("an e-mail beside", vec![api(), email], false),
        Claim {
            below_another_ca: true,
            ..claim("a CA below", vec![api()], false)
        },
        Claim {
            hosts: &["api.test"],
            ..claim("any address", vec![address("127.0.0.1")], false)
        },
        Claim {
            hosts: &["127.0.0.1"],
            ..claim("any name", vec![api()], false)
        },
        Claim {
            hosts: &[],
            ..claim("a name of nothing", vec![api()], false)
        },
    ]
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.use_authority_key_identifier_extension = true;
    params
}

fn forge(dir: &Path, claim: &Claim) -> (Vec<CertificateDer<'static>>, KeyPair) {
    let pem = String::from_utf8(read(dir, "intermediate.pem")).unwrap();
    let stolen = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    let key = KeyPair::from_pem(&pem[pem.find("-----BEGIN PRIVATE").unwrap()..]).unwrap();
    let mut issuer = Issuer::from_ca_cert_der(&stolen, key).unwrap();
    let mut chain = vec![stolen];
    if claim.below_another_ca {
        let key = KeyPair::generate().unwrap();
        let mut params = params("sub");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let cert = params.signed_by(&key, &issuer).unwrap();
        chain.insert(0, cert.der().clone());
        issuer = Issuer::new(params, key);
    }
    let key = KeyPair::generate().unwrap();
    let mut params = params("leaf");
    params.subject_alt_names.clone_from(&claim.sans);
    params.is_ca = IsCa::ExplicitNoCa;
    let cert = params.signed_by(&key, &issuer).unwrap();
    chain.insert(0, cert.der().clone());
    (chain, key)
}

#[tokio::test]
async fn a_stolen_intermediate_speaks_for_the_permitted_hosts_only_to_every_verifier() {
    for claim in claims() {
        let (_temp, dir) = ca_dir();
        Authority::open(&dir, names(claim.hosts), system()).unwrap();
        let (chain, key) = forge(&dir, &claim);
        let root = Authority::roots_file(&dir);
        let host = match &claim.sans[0] {
            SanType::DnsName(name) => name.to_string(),
            SanType::IpAddress(ip) => ip.to_string(),
            other => panic!("{other:?}"),
        };
        let port = serve(chain.clone(), &key).await;
        for (verifier, accepted) in [
            ("rustls", rustls_accepts(port, &root, &host).await),
            ("openssl", openssl_accepts(&dir, &chain, &host).await),
            ("node", node_accepts(port, &root, &host).await),
            ("python", python_accepts(port, &root, &host).await),
        ] {
            assert_eq!(accepted, claim.accepted, "{verifier}: {}", claim.what);
        }
    }
}

#[tokio::test]
async fn our_own_leaves_verify_everywhere_also_in_strict_mode() {
    let (_temp, dir) = ca_dir();
    let set = names(&["api.test", "*.crm.test", "127.0.0.1"]);
    let ca = Authority::open(&dir, set, system()).unwrap();
    let leaves = Leaves::new(Arc::new(ca), system()).unwrap();
    let root = Authority::roots_file(&dir);
    for host in ["api.test", "a.crm.test", "127.0.0.1"] {
        let acceptor = leaves.acceptor(&host.parse().unwrap()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                drop(acceptor.accept(tcp, Alpn::Both).await);
            }
        });
        assert!(rustls_accepts(port, &root, host).await, "rustls {host}");
        assert!(node_accepts(port, &root, host).await, "node {host}");
        assert!(python_accepts(port, &root, host).await, "python {host}");
    }
}

/// Serves a chain to whoever comes.
async fn serve(chain: Vec<CertificateDer<'static>>, key: &KeyPair) -> u16 {
    let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            drop(acceptor.accept(tcp).await);
        }
    });
    port
}

async fn rustls_accepts(port: u16, root: &Path, host: &str) -> bool {
    let trust = TrustSettings {
        system: false,
        pem: vec![root.to_owned()],
    };
    let connector = Connector::new(&trust, None, system()).unwrap();
    let tcp = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let host = host.parse().unwrap();
    connector.connect(tcp, &host, Alpn::Both).await.is_ok()
}

async fn openssl_accepts(dir: &Path, chain: &[CertificateDer<'static>], host: &str) -> bool {
    use base64::Engine as _;
    let pem = |cert: &CertificateDer<'_>| {
        let text = base64::engine::general_purpose::STANDARD.encode(cert);
        let lines: Vec<_> = text.as_bytes().chunks(64).map(<[u8]>::to_vec).collect();
        let body = String::from_utf8(lines.join(&b'\n')).unwrap();
        format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n")
    };
    let rest: String = chain[1..].iter().map(pem).collect();
    std::fs::write(dir.join("leaf.crt"), pem(&chain[0])).unwrap();
    std::fs::write(dir.join("chain.crt"), rest).unwrap();
    let is_address = host.parse::<std::net::IpAddr>().is_ok();
    let name = ["-verify_hostname", "-verify_ip"][usize::from(is_address)];
    let output = clean("openssl")
        .current_dir(dir)
        .args(["verify", "-CAfile", "ca.pem", "-untrusted", "chain.crt"])
        .args(["-purpose", "sslserver", name, host, "leaf.crt"])
        .output()
        .await
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() || said.contains("verification failed"),
        "{said}"
    );
    output.status.success()
}

async fn node_accepts(port: u16, root: &Path, host: &str) -> bool {
    script_accepts("node", ["-e", NODE], port, root, host).await
}

async fn python_accepts(port: u16, root: &Path, host: &str) -> bool {
    script_accepts("python3", ["-c", PYTHON], port, root, host).await
}

/// Exit code 0: shook hands and trusts; 3: does not trust. Anything else is a broken test.
async fn script_accepts(
    program: &str,
    script: [&str; 2],
    port: u16,
    root: &Path,
    host: &str,
) -> bool {
    let output = clean(program)
        .args(script)
        .arg(port.to_string())
        .arg(root)
        .arg(host)
        .output()
        .await
        .unwrap();
    match output.status.code() {
        Some(0) => true,
        Some(3) => false,
        other => panic!(
            "{program}: {other:?} {}",
            String::from_utf8_lossy(&output.stderr)
        ),
    }
}

fn clean(program: &str) -> Command {
    let mut command = Command::new(program);
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .stdin(Stdio::null());
    command
}

/// A connection that was refused, closed or timed out has a system call's name in its error; distrust has none.
const NODE: &str = r"
const [port, ca, host] = process.argv.slice(-3);
const options = { port, host: '127.0.0.1', ca: require('fs').readFileSync(ca) };
if (!require('net').isIP(host)) options.servername = host;
const socket = require('tls').connect(options, () => process.exit(socket.authorized ? 0 : 1));
socket.on('error', e => { console.error(e); process.exit(e.syscall || e.library ? 1 : 3); });
";

const PYTHON: &str = r"
import socket, ssl, sys
port, ca, host = sys.argv[1:]
context = ssl.create_default_context(cafile=ca)
context.verify_flags |= ssl.VERIFY_X509_STRICT
try:
    with socket.create_connection(('127.0.0.1', int(port))) as tcp:
        context.wrap_socket(tcp, server_hostname=host).close()
except ssl.SSLCertVerificationError as error:
    print(error, file=sys.stderr)
    sys.exit(3)
";
