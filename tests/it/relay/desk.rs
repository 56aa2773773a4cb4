//! Sessions end with the sign-in that they are for: a relay in this process, between a sign-in that comes and goes and a
//! gateway that refuses, fails and counts.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use http::Response;
use keyward::agent::User;
use keyward::clock::SystemClock;
use keyward::host::Target;
use keyward::identity::PeerSettings;
use keyward::relay::{Absent, Certificate, Kept, Listen, Proved, Relay, Settings, SignIn, Token};
use keyward::secret::Secret;
use parking_lot::Mutex;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use super::super::agent::within;
use super::super::svid::Domain;
use super::super::trust::mint::Pair;
use super::super::upstream::{CA, Upstream, full, tls};
use super::RELAY;
use super::world::{Mood, Workload};

/// A gateway that gives whatever session it is asked for.
struct Gateway {
    upstream: Upstream,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    /// `begin S1-alice`, `revoke S1-alice 200`, `tunnel S1-alice`.
    log: Mutex<Vec<String>>,
    refuses: Mutex<Option<&'static str>>,
    /// What a revocation is answered with; 0: as usual.
    revoking: AtomicU16,
}

impl State {
    fn answer(&self, path: &str, method: &str, body: &[u8], shown: &str) -> (u16, String) {
        let form: Vec<(String, String)> = form_urlencoded::parse(body).into_owned().collect();
        let field = |name: &str| {
            let found = form.iter().find(|(key, _)| key == name);
            found.map(|(_, value)| value.clone()).unwrap_or_default()
        };
        let mut log = self.log.lock();
        if method == "CONNECT" {
            log.push(format!("tunnel {shown}"));
            return (200, String::new());
        }
        if path.ends_with("/revoke") {
            let status = match self.revoking.load(Ordering::SeqCst) {
                0 => 200,
                status => status,
            };
            log.push(format!("revoke {} {status}", field("token")));
            return (status, "{}".to_owned());
        }
        // What is made out for itself alone is the relay's own.
        let subject = field("subject_token");
        let user = subject.split('.').next().unwrap_or_default();
        if *self.refuses.lock() == Some(user) {
            log.push(format!("refuse {user}"));
            let no = json!({"error": "invalid_request", "error_description": "no"});
            return (400, no.to_string());
        }
        let begun = log.iter().filter(|line| line.starts_with("begin")).count();
        let token = format!("S{}-{user}", begun + 1);
        log.push(format!("begin {token}"));
        let given = json!({"access_token": token, "token_type": "Bearer", "expires_in": 900});
        (200, given.to_string())
    }
}

impl Gateway {
    async fn start() -> Self {
        let state = Arc::new(State::default());
        let of = Arc::clone(&state);
        let acceptor = tls(&["127.0.0.1"], &["http/1.1"]);
        let upstream = Upstream::behind(acceptor, move |seen| {
            let shown = seen.get("proxy-authorization").unwrap_or_default();
            let shown = shown.trim_start_matches("Bearer ");
            let (status, body) = of.answer(&seen.uri, &seen.method, &seen.body, shown);
            let response = Response::builder().status(status);
            Box::pin(async move { response.body(full(body)).unwrap() })
        })
        .await;
        Self { upstream, state }
    }

    fn log(&self) -> Vec<String> {
        self.state.log.lock().clone()
    }

    /// Waits until this is in the log.
    async fn saw(&self, what: &str) {
        for _ in 0..1500 {
            if self.log().iter().any(|line| line == what) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("no {what:?} in {:#?}", self.log());
    }
}

/// Where people sign in and out.
#[derive(Debug, Default)]
struct Desk {
    /// Somebody, and the how-manieth ID token of theirs.
    who: Mutex<Option<(&'static str, u32)>>,
    /// Whether it waits in the middle of the next renewal.
    slow: AtomicBool,
    entered: Notify,
    go_on: Notify,
    finished: AtomicBool,
    broken_off: AtomicBool,
}

/// Notes that a renewal was broken off.
struct Flight<'a>(&'a Desk);

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        if !self.0.finished.load(Ordering::SeqCst) {
            self.0.broken_off.store(true, Ordering::SeqCst);
        }
    }
}

fn id_token((user, number): (&str, u32)) -> Secret {
    Secret::new(format!("{user}.{number}").into_bytes())
}

impl Desk {
    fn sign_in(&self, user: &'static str, number: u32) {
        *self.who.lock() = Some((user, number));
    }

    fn sign_out(&self) {
        *self.who.lock() = None;
    }
}

#[async_trait]
impl SignIn for Desk {
    async fn current(&self) -> Result<Proved, Absent> {
        if self.slow.load(Ordering::SeqCst) {
            let _flight = Flight(self);
            self.entered.notify_one();
            self.go_on.notified().await;
            self.finished.store(true, Ordering::SeqCst);
        }
        let who = *self.who.lock();
        let who = who.ok_or(Absent::SignedOut("nobody is"))?;
        Ok(Proved {
            user: User {
                provider: "corp".parse().unwrap(),
                name: who.0.into(),
            },
            id_token: id_token(who),
        })
    }

    async fn look(&self, proved: &Proved) -> Kept {
        let who = *self.who.lock();
        match who {
            Some(who) if id_token(who) == proved.id_token => Kept::Same,
            Some((user, _)) if user == &*proved.user.name => Kept::Renewed,
            _ => Kept::Gone,
        }
    }
}

struct Place {
    gateway: Gateway,
    desk: Arc<Desk>,
    folder: tempfile::TempDir,
}

impl Place {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.pem"), &CA.pem).unwrap();
        let actor = Pair::p256().token(&json!({"alg": "ES256"}), &json!({"sub": "pod"}));
        std::fs::write(folder.path().join("token"), actor).unwrap();
        Self {
            gateway: Gateway::start().await,
            desk: Arc::default(),
            folder,
        }
    }

    fn settings(&self) -> Settings {
        let address = self.gateway.upstream.address.to_string();
        let desk: Arc<dyn SignIn> = Arc::<Desk>::clone(&self.desk);
        Settings {
            listen: vec![Listen::Tcp("127.0.0.1:0".parse().unwrap())],
            gateway: Target::from_connect(&address).unwrap(),
            connect_to: None,
            trust: vec![self.folder.path().join("ca.pem")],
            certificate: Certificate::Own,
            token: Some(Token::File(self.folder.path().join("token"))),
            person: Some(desk),
            callers: None,
            tells: None,
            passes: false,
            max_connections: 64,
        }
    }

    async fn relay(&self, settings: Settings) -> Relay {
        let started = Relay::start(settings, Arc::new(SystemClock)).await;
        started.unwrap()
    }
}

const ASK: &str = "CONNECT api.test:443 HTTP/1.1\r\nHost: api.test:443\r\n\r\n";

async fn open(relay: &Relay) -> TcpStream {
    TcpStream::connect(&relay.addresses()[0]).await.unwrap()
}

/// The first line of what is answered.
async fn ask(relay: &Relay, head: &str) -> String {
    let mut stream = open(relay).await;
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut text = Vec::new();
    while !text.ends_with(b"\n") {
        text.push(within(stream.read_u8()).await.unwrap());
    }
    let text = String::from_utf8(text).unwrap();
    text.split(' ').nth(1).unwrap().to_owned()
}

/// Asks until it is let through: a failure is told for a while.
async fn let_through(relay: &Relay) {
    while ask(relay, ASK).await != "200" {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Each renewal begins a session of its own: with the person all of them end, and not the newest alone.
#[tokio::test]
async fn all_sessions_of_a_person_end_with_their_sign_in() {
    let place = Place::new().await;
    place.desk.sign_in("alice", 1);
    let relay = place.relay(place.settings()).await;
    let_through(&relay).await;
    place.gateway.saw("tunnel S1-alice").await;
    place.desk.sign_in("alice", 2);
    let_through(&relay).await;
    place.gateway.saw("tunnel S2-alice").await;
    let revoked = |line: &String| line.starts_with("revoke");
    assert!(
        !place.gateway.log().iter().any(revoked),
        "her tunnels go on"
    );

    place.desk.sign_out();
    place.gateway.saw("revoke S1-alice 200").await;
    place.gateway.saw("revoke S2-alice 200").await;
    assert_eq!(ask(&relay, ASK).await, "403");

    place.desk.sign_in("alice", 3);
    let_through(&relay).await;
    place.desk.sign_in("alice", 4);
    let_through(&relay).await;
    place.desk.sign_in("bob", 1);
    place.gateway.saw("revoke S3-alice 200").await;
    place.gateway.saw("revoke S4-alice 200").await;
    let_through(&relay).await;
    // Nothing was begun or revoked twice.
    let count = |what: &str| {
        let log = place.gateway.log();
        log.iter().filter(|line| line.starts_with(what)).count()
    };
    assert_eq!(
        (count("begin"), count("revoke")),
        (5, 4),
        "{:#?}",
        place.gateway.log()
    );
    relay.shut_down(Duration::ZERO).await;
}

/// A session ends with the sign-in whatever else is wrong: no later step decides it.
#[tokio::test]
async fn a_session_ends_though_no_other_can_begin() {
    // The gateway does not know whoever comes.
    let place = Place::new().await;
    place.desk.sign_in("alice", 1);
    let relay = place.relay(place.settings()).await;
    let_through(&relay).await;
    *place.gateway.state.refuses.lock() = Some("bob");
    place.desk.sign_in("bob", 1);
    place.gateway.saw("revoke S1-alice 200").await;
    relay.shut_down(Duration::ZERO).await;

    // The relay's own evidence is gone.
    let place = Place::new().await;
    place.desk.sign_in("alice", 1);
    let relay = place.relay(place.settings()).await;
    let_through(&relay).await;
    std::fs::remove_file(place.folder.path().join("token")).unwrap();
    place.desk.sign_out();
    place.gateway.saw("revoke S1-alice 200").await;
    relay.shut_down(Duration::ZERO).await;
}

#[tokio::test]
async fn a_session_of_a_person_ends_with_the_certificate_that_is_withdrawn() {
    let place = Place::new().await;
    place.desk.sign_in("alice", 1);
    let domain = Domain::new("prod.example");
    let workload = Workload::start(&domain, RELAY, &domain.svid(&[RELAY]));
    let settings = Settings {
        certificate: Certificate::Workload(workload.socket.parse().unwrap()),
        ..place.settings()
    };
    let relay = place.relay(settings).await;
    let_through(&relay).await;
    workload.becomes(Mood::Denies);
    place.gateway.saw("revoke S1-alice 200").await;
    relay.shut_down(Duration::ZERO).await;
}

/// What the gateway did not do at once is asked of it until it has.
#[tokio::test]
async fn a_revocation_that_failed_is_tried_again() {
    let place = Place::new().await;
    place.desk.sign_in("alice", 1);
    let relay = place.relay(place.settings()).await;
    let_through(&relay).await;
    place.gateway.state.revoking.store(503, Ordering::SeqCst);
    place.desk.sign_out();
    place.gateway.saw("revoke S1-alice 503").await;
    place.gateway.state.revoking.store(0, Ordering::SeqCst);
    place.gateway.saw("revoke S1-alice 200").await;
    relay.shut_down(Duration::ZERO).await;
}

/// Between the provider's answer and the file that keeps it nobody who hangs up may end a renewal of the sign-in, nor may
/// the relay's own end.
#[tokio::test]
async fn a_renewal_of_the_sign_in_is_not_broken_off() {
    let place = Place::new().await;
    place.desk.sign_in("alice", 1);
    let relay = place.relay(place.settings()).await;
    let_through(&relay).await;
    place.desk.slow.store(true, Ordering::SeqCst);
    place.desk.sign_in("alice", 2);
    let mut stream = open(&relay).await;
    stream.write_all(ASK.as_bytes()).await.unwrap();
    within(place.desk.entered.notified()).await;
    stream.shutdown().await.unwrap();
    let mut rest = Vec::new();
    within(stream.read_to_end(&mut rest)).await.unwrap();
    assert_eq!(rest, b"", "the relay has seen that the client is gone");
    assert!(!place.desk.broken_off.load(Ordering::SeqCst));

    let stopping = tokio::spawn(relay.shut_down(Duration::ZERO));
    while TcpStream::connect(place.gateway.upstream.address)
        .await
        .is_err()
    {}
    assert!(!place.desk.broken_off.load(Ordering::SeqCst));
    place.desk.go_on.notify_one();
    within(stopping).await.unwrap();
    assert!(place.desk.finished.load(Ordering::SeqCst));
    assert!(!place.desk.broken_off.load(Ordering::SeqCst));
}

/// Whoever is not served may ask for the relay's health, and costs the gateway nothing; nor may a page in a browser ask.
#[tokio::test]
async fn a_stranger_makes_no_connections_to_the_gateway() {
    let place = Place::new().await;
    let settings = Settings {
        person: None,
        callers: Some(PeerSettings {
            uids: vec![u32::MAX - 7],
            ..PeerSettings::default()
        }),
        ..place.settings()
    };
    let health = "GET /healthz HTTP/1.1\r\nHost: relay\r\n\r\n";
    let relay = place.relay(settings.clone()).await;
    within(relay.probe()).await.unwrap();
    let before = place.gateway.upstream.dialled();
    for _ in 0..20 {
        assert_eq!(ask(&relay, health).await, "200");
    }
    assert_eq!(place.gateway.upstream.dialled(), before);
    relay.shut_down(Duration::ZERO).await;

    // Of those that are served as many as ask at once share one.
    let relay = place
        .relay(Settings {
            callers: None,
            ..settings
        })
        .await;
    within(relay.probe()).await.unwrap();
    let before = place.gateway.upstream.dialled();
    let mut asked = Vec::new();
    for _ in 0..20 {
        let mut stream = open(&relay).await;
        stream.write_all(health.as_bytes()).await.unwrap();
        asked.push(stream);
    }
    for stream in &mut asked {
        let mut start = [0; 12];
        within(stream.read_exact(&mut start)).await.unwrap();
        assert_eq!(&start, b"HTTP/1.1 200");
    }
    assert!(place.gateway.upstream.dialled() - before < 10);
    let of_a_page = "GET /healthz HTTP/1.1\r\nHost: relay\r\nOrigin: http://page.example\r\n\r\n";
    assert_eq!(ask(&relay, of_a_page).await, "403");
    relay.shut_down(Duration::ZERO).await;
}
