//! A person signs in on their machine, and the relay there acts for them: at the certified provider, with real programs.

use std::process::Stdio;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::Command;

use super::super::agent::within;
use super::super::harness::TOKEN_A;
use super::super::login::browser::Browser;
use super::super::oauth::peer::Oidc;
use super::super::svid::Domain;
use super::super::trust::issuer::Issuer;
use super::super::trust::mint::Pair;
use super::world::{Running, World, curl};
use super::{MESH, RELAY, has, unix_now};

/// A gateway that knows people of a provider, and their machine.
struct Place {
    _oidc: Oidc,
    world: World,
    state: String,
    _gateway: Running,
}

const CERTIFICATE: [&str; 4] = ["--cert", "svid.pem", "--key", "svid.key"];

impl Place {
    /// Where ID tokens live so many seconds.
    async fn new(life: u32, lines: &str) -> Option<Self> {
        let client = json!({
            "client_id": "cli", "application_type": "native", "token_endpoint_auth_method": "none", "life": life,
            "grant_types": ["authorization_code", "refresh_token"], "response_types": ["code"],
            "redirect_uris": ["http://127.0.0.1/callback"], "scope": "openid offline_access email",
        });
        let oidc = Oidc::start(json!([client]), None).await?;
        let login = format!(
            "[login.corp.oidc]\nissuer = \"{}\"\nclient-id = \"cli\"\nscopes = [\"openid\", \"offline_access\"]\n",
            oidc.issuer
        );
        let world = World::new(&format!("{MESH}{lines}{login}")).await;
        let domain = Domain::new("prod.example");
        world.write("prod.pem", &domain.pem);
        world.write_svid(&domain.svid(&[RELAY]));
        world.write("person.toml", &format!("[agent.helper]\n{login}"));
        let gateway = world.start_gateway();
        Some(Self {
            _oidc: oidc,
            state: world.path("state").display().to_string(),
            _gateway: gateway,
            world,
        })
    }

    fn relay(&self, words: &[&str]) -> Running {
        let words = [words, &["-c", "person.toml"]].concat();
        let home = self.world.folder.path().to_str().unwrap();
        let variables = [("XDG_STATE_HOME", &*self.state), ("HOME", home)];
        self.world.start_relay(&words, &variables)
    }

    fn login(&self, more: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_keyward"));
        command
            .args(["login", "-c", "person.toml", "--json"])
            .args(more)
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", self.world.folder.path())
            .env("XDG_STATE_HOME", &self.state)
            .current_dir(self.world.folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    async fn sign_in(&self, user: &str) {
        let mut child = self.login(&["--no-browser"]).spawn().unwrap();
        let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
        let url = loop {
            let line = within(said.next_line()).await.unwrap();
            let line = line.expect("it shows a URL");
            if line.starts_with("http") {
                break line;
            }
        };
        let mut browser = Browser::default();
        let back = browser.away(&format!("{url}&login_hint={user}")).await;
        assert_eq!(browser.get(&back).await.status, 200);
        let output = within(child.wait_with_output()).await.unwrap();
        assert_eq!(output.status.code(), Some(0));
    }

    async fn forget(&self) {
        let done = within(self.login(&["--forget"]).output()).await.unwrap();
        assert_eq!(done.status.code(), Some(0));
    }

    async fn curl(&self, relay: &Running) -> String {
        self.world.curl(&curl(), &relay.proxy(), &[]).await
    }

    /// For whom sessions of agent a have begun.
    fn people(&self) -> Vec<Value> {
        let all = self.world.audit(|r| has(r, "session-start", "a"));
        let users = all.iter().map(|record| record["user"].clone());
        users.filter(|user| !user.is_null()).collect()
    }
}

/// What a client of the relay is told where it asks for a tunnel.
async fn refusal(relay: &Running) -> String {
    let address = &relay.address;
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let head = b"CONNECT api.test:443 HTTP/1.1\r\nHost: api.test:443\r\nConnection: close\r\n\r\n";
    stream.write_all(head).await.unwrap();
    let mut text = String::new();
    within(stream.read_to_string(&mut text)).await.unwrap();
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_acts_for_whoever_is_signed_in_and_for_nobody_after() {
    let Some(place) = Place::new(600, "").await else {
        return;
    };
    let relay = place.relay(&CERTIFICATE);
    let nobody = refusal(&relay).await;
    assert!(nobody.starts_with("HTTP/1.1 403"), "{nobody}");
    for word in ["user-required", "keyward login -c FILE"] {
        assert!(nobody.contains(word), "{nobody}");
    }
    relay.says("nobody is signed in").await;
    assert!(place.people().is_empty());

    place.sign_in("alice").await;
    // A failure is told for half a second before it is tried again.
    while place.curl(&relay).await != "200 200" {}
    assert_eq!(place.people(), ["alice"]);
    let of_alice = |r: &Value| has(r, "request", "a") && r["user"] == "alice";
    place.world.record(of_alice).await;
    let session = place
        .world
        .audit(|r| has(r, "session-start", "a") && r["user"] == "alice");
    assert!(
        session[0]["bound"]
            .as_str()
            .unwrap()
            .starts_with("x5t#S256:")
    );

    // Somebody else signs in on this machine: from then on it is their name.
    place.sign_in("bob").await;
    assert_eq!(place.curl(&relay).await, "200 200");
    let last = |people: Vec<Value>| people.last().cloned();
    assert_eq!(last(place.people()), Some(json!("bob")));
    let id = session[0]["session"].clone();
    let ended = |r: &Value| r["event"] == "session-end" && r["session"] == id;
    assert_eq!(place.world.record(ended).await["reason"], "revoked");

    let before = place.people().len();
    place.forget().await;
    let refused = refusal(&relay).await;
    assert!(refused.starts_with("HTTP/1.1 403"), "{refused}");
    assert!(refused.contains("user-required"), "{refused}");
    let ended = |r: &Value| r["event"] == "session-end" && r["user"] == "bob";
    assert_eq!(place.world.record(ended).await["reason"], "revoked");
    assert_eq!(place.people().len(), before);
    // Each request that got through was somebody's.
    let all = place.world.audit(|r| has(r, "request", "a"));
    assert!(
        all.iter().all(|record| record["user"].is_string()),
        "{all:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_of_a_person_follow_one_another_while_the_sign_in_is_renewed() {
    let pair = Pair::p256();
    let issuer = Issuer::start(vec![pair.jwk("k1")]).await;
    let lines = format!(
        "[trust.ci]\nagent = {{ id = \"a\" }}\n[trust.ci.jwt]\nissuer = \"{0}\"\njwks-url = \"{0}/jwks\"\naudience = [\"keyward\"]\nalgorithms = [\"ES256\"]\n",
        issuer.url
    );
    let Some(place) = Place::new(8, &lines).await else {
        return;
    };
    let now = unix_now();
    let claims =
        json!({"iss": issuer.url, "sub": "pod", "aud": "keyward", "iat": now, "exp": now + 600});
    let token = pair.token(&json!({"alg": "ES256", "kid": "k1", "typ": "JWT"}), &claims);
    place.world.write("token", &token);
    place.sign_in("alice").await;
    let relay = place.relay(&["--token-file", "token"]);
    while place.people().len() < 3 {
        assert_eq!(place.curl(&relay).await, "200 200");
    }
    assert!(place.people().iter().all(|user| user == "alice"));

    // What proves no agent by itself acts for nobody.
    place.world.write("static", TOKEN_A);
    let relay = place.relay(&["--token-file", "static"]);
    assert_eq!(place.curl(&relay).await, "503 000");
    relay.says("a static token acts for no person").await;
}
