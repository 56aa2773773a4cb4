//! What it costs to know whose a request is, on a connection that was asked before.
//!
//! `cargo bench --bench identify`. A whole keyward stands behind it, with the parts that a request passes on its way:
//! headers, session, configuration and registry. Beside each kind of proof stands what it costs to look at it anew, which
//! happens at a connection's first request, after five seconds, and under another configuration.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::HeaderMap;
use http::header::PROXY_AUTHORIZATION;
use keyward::app::{App, Surroundings};
use keyward::audit::{Settings, Sink};
use keyward::clock::{Clock as _, SystemClock};
use keyward::config;
use keyward::identity::{Link, Peer, UnixPeer};
use keyward::preset::Presets;
use keyward::proxy::{Asker, ListenerSettings};
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};

const ROUNDS: u32 = 1_000_000;
const TOKEN: &str = "agent-token-of-the-benchmark-0123456789abcdef";

#[expect(clippy::print_stdout, reason = "a benchmark's answer")]
fn report(what: &str, took: Duration, rounds: u32) {
    let each = took.as_secs_f64() / f64::from(rounds);
    println!("{what:<52} {:9.1} ns", each * 1e9);
}

/// The certificate of an authority in PEM, and one of a workload of it in DER.
fn svid() -> (String, Vec<u8>) {
    let uri = |text: &str| SanType::URI(text.try_into().expect("ASCII"));
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.subject_alt_names = vec![uri("spiffe://bench.example")];
    let key = KeyPair::generate().expect("a key");
    let root = params.self_signed(&key).expect("a certificate");
    let issuer = Issuer::new(params, key);
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.subject_alt_names = vec![uri("spiffe://bench.example/agent")];
    let key = KeyPair::generate().expect("a key");
    let leaf = params.signed_by(&key, &issuer).expect("a certificate");
    (root.pem(), leaf.der().to_vec())
}

fn bearer(token: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("host", "plain.test".parse().expect("a value"));
    headers.insert("accept", "*/*".parse().expect("a value"));
    headers.insert("user-agent", "bench".parse().expect("a value"));
    if !token.is_empty() {
        let value = format!("Bearer {token}").parse().expect("a value");
        headers.insert(PROXY_AUTHORIZATION, value);
    }
    headers
}

struct Bench {
    app: App,
    listener: Arc<ListenerSettings>,
}

impl Bench {
    fn asker(&self, peer: Peer, link: Link) -> Asker {
        let asker = self
            .app
            .proxy()
            .asker(Arc::clone(&self.listener), (peer, link));
        asker.expect("a connection")
    }

    /// A request like the one before, and one whose proof is looked at anew.
    async fn measure(&self, what: &str, headers: &HeaderMap, place: impl Fn() -> (Peer, Link)) {
        let (peer, link) = place();
        let asker = self.asker(peer, link);
        for _ in 0..1000 {
            asker.identify(headers).await.expect("an agent");
        }
        let began = Instant::now();
        for _ in 0..ROUNDS {
            let hold = asker.identify(black_box(headers)).await;
            black_box(hold.expect("an agent"));
        }
        report(what, began.elapsed(), ROUNDS);
        let rounds = 500;
        let mut took = Duration::ZERO;
        for _ in 0..rounds {
            let (peer, link) = place();
            let asker = self.asker(peer, link);
            let began = Instant::now();
            black_box(asker.identify(black_box(headers)).await.expect("an agent"));
            took += began.elapsed();
        }
        report("  its first request", took, rounds);
    }
}

#[tokio::main]
async fn main() {
    let folder = tempfile::tempdir().expect("a folder");
    let (root, leaf) = svid();
    std::fs::write(folder.path().join("root.pem"), root).expect("a file");
    let uid = rustix::process::geteuid().as_raw();
    let text = format!(
        "[proxy]\nlisten = [\"127.0.0.1:0\"]\n[agent.a]\ntoken = {{ env = \"TOKEN\" }}\n\
         [[route]]\nhosts = [\"plain.test:80\"]\n\
         [trust.mesh]\nagent = {{ id = \"a\" }}\n\
         spiffe = {{ trust-domain = \"bench.example\", bundle = {{ file = \"root.pem\" }} }}\n\
         [trust.local]\nagent = {{ id = \"a\" }}\npeer = {{ uids = [{uid}] }}\n"
    );
    let loaded = config::parse(&text, "bench.toml", folder.path(), &**Presets::shipped());
    let Ok(loaded) = loaded else {
        unreachable!("the configuration is good")
    };
    let listener = loaded.config.listeners.first().expect("a listener").clone();
    let environment = [("TOKEN".to_owned(), TOKEN.into())];
    let surroundings = Surroundings {
        environment: Arc::new(environment.into_iter().collect()),
        audit: Settings::new(Sink::Memory),
        handed: Vec::new(),
    };
    let app = App::start(loaded.config, surroundings)
        .await
        .expect("keyward");
    let agent = "a".parse().expect("an id");
    let session_token = app.begin_run(&agent, None).expect("a token");
    let bench = Bench {
        app,
        listener: Arc::new(listener),
    };
    let tcp = || (Peer::Tcp([127, 0, 0, 1].into()), Link::default());

    let asker = bench.asker(tcp().0, tcp().1);
    let hold = asker
        .identify(&bearer(&session_token))
        .await
        .expect("an agent");
    let now = SystemClock.now();
    let began = Instant::now();
    for _ in 0..ROUNDS {
        let lives = asker.lives(black_box(hold.session()), black_box(&now));
        black_box(lives).expect("a session");
    }
    report("a request in a tunnel", began.elapsed(), ROUNDS);
    let began = Instant::now();
    for _ in 0..ROUNDS {
        black_box(SystemClock.now());
    }
    report("the clock alone", began.elapsed(), ROUNDS);

    let kept = "a plain request on a kept connection";
    let headers = bearer(&session_token);
    let what = format!("{kept}, session token");
    bench.measure(&what, &headers, tcp).await;
    bench
        .measure(&format!("{kept}, static token"), &bearer(TOKEN), tcp)
        .await;
    let process = || {
        let unix = UnixPeer {
            pid: std::process::id(),
            uid,
            gid: rustix::process::getegid().as_raw(),
            handle: None,
            inode: None,
        };
        let link = Link {
            unix: Some(Arc::new(unix)),
            ..Link::default()
        };
        (Peer::Unix { uid }, link)
    };
    bench
        .measure(&format!("{kept}, process"), &bearer(""), process)
        .await;
    let certificate = || {
        let link = Link {
            certificates: vec![leaf.clone().into()],
            ..Link::default()
        };
        (tcp().0, link)
    };
    bench
        .measure(&format!("{kept}, X.509-SVID"), &bearer(""), certificate)
        .await;
    bench
        .app
        .shut_down(Duration::from_millis(100), "exit")
        .await;
}
