//! The certified provider rotates its signing keys while agents and people come with tokens of it, and afterwards.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use keyward::clock::{Clock, ManualClock};
use keyward::identity::{AttestError, Logins, PersonError, UserEvidence};
use keyward::issuer::Network;
use keyward::preset::Presets;
use keyward::secret::Secret;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::super::harness::{BEARER, Harness, Setup, TOKEN_A};
use super::super::oauth::peer::{Oidc, call};
use super::super::token::{ACCESS_TOKEN, EXCHANGE, part};
use super::super::trust::{Provider, connector};
use super::super::upstream::{Upstream, ok};

const DEVICE: &str = "urn:ietf:params:oauth:grant-type:device_code";
const ID_TOKEN: &str = "urn:ietf:params:oauth:token-type:id_token";
const SECRET: &str = "secret-of-keyward-0123456789abcdef";
const AUDIENCE: &str = "https://jwt.keyward.test";
/// So many come at once, each so often, with a connection of its own and so many requests on it.
const WORKERS: usize = 6;
const ROUNDS: usize = 8;
const REQUESTS: usize = 8;

/// A provider with a client for agents and one for people, whose tokens live for an hour.
async fn provider() -> Option<Oidc> {
    let agents = json!({ "client_id": "robot", "client_secret": SECRET, "life": 3600 });
    let people = json!({
        "client_id": "keyward", "client_secret": SECRET, "life": 3600, "application_type": "native",
        "grant_types": ["authorization_code", DEVICE], "response_types": ["code"],
        "redirect_uris": ["http://127.0.0.1/callback"], "scope": "openid email",
    });
    Oidc::start(json!([agents, people]), None).await
}

fn basic(id: &str) -> String {
    let pair = STANDARD.encode(format!("{id}:{SECRET}"));
    format!("authorization: Basic {pair}")
}

async fn post(oidc: &Oidc, path: &str, id: &str, form: &str) -> Value {
    let what = format!("POST {path}");
    let (status, body) = call(&oidc.issuer, &what, &[&basic(id)], form).await;
    assert_eq!(status, 200, "{path}: {}", String::from_utf8_lossy(&body));
    serde_json::from_slice(&body).unwrap()
}

/// A token by which an agent proves itself.
async fn evidence(oidc: &Oidc) -> String {
    let form = format!("grant_type=client_credentials&scope=contacts.read&resource={AUDIENCE}");
    let granted = post(oidc, "/token", "robot", &form).await;
    granted["access_token"].as_str().unwrap().to_owned()
}

/// An ID token of this person.
async fn id_token(oidc: &Oidc, who: &str) -> String {
    let begun = post(oidc, "/device/auth", "keyward", "scope=openid").await;
    let code = begun["user_code"].as_str().unwrap();
    let approve = format!("GET /device-approved?who={who}&user_code={code}");
    assert_eq!(call(&oidc.issuer, &approve, &[], "").await.0, 200);
    let code = begun["device_code"].as_str().unwrap();
    let form = format!("grant_type={DEVICE}&device_code={code}");
    let granted = post(oidc, "/token", "keyward", &form).await;
    granted["id_token"].as_str().unwrap().to_owned()
}

fn key_of(token: &str) -> String {
    part(token, 0)["kid"].as_str().unwrap().to_owned()
}

/// keyward with this provider, and curl, which knows its root.
struct World {
    oidc: Oidc,
    harness: Harness,
    upstream: Upstream,
    folder: tempfile::TempDir,
    /// How many tokens were shown so far.
    turns: AtomicUsize,
}

impl World {
    async fn new(lines: impl FnOnce(&str) -> String) -> Option<Arc<Self>> {
        let oidc = provider().await?;
        let upstream = Upstream::service(&["http/1.1"], |_| Box::pin(async { ok("fine") })).await;
        let text = format!("{BEARER}{}", lines(&oidc.issuer));
        let setup = Setup::new(&text).to("api.test:443", &upstream);
        let harness = setup.start().await;
        let folder = tempfile::tempdir().unwrap();
        let roots = harness.app().roots_pem();
        std::fs::write(folder.path().join("root.pem"), &*roots).unwrap();
        Some(Arc::new(Self {
            oidc,
            harness,
            upstream,
            folder,
            turns: AtomicUsize::new(0),
        }))
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("root.pem")
    }

    /// Takes a turn. A third of the way through another key signs; two thirds, the old one is no longer published.
    async fn turn(&self) {
        let turn = self.turns.fetch_add(1, Ordering::SeqCst);
        if turn == WORKERS * ROUNDS / 3 {
            self.oidc.keys(2, &[2, 1]).await;
        } else if turn == WORKERS * ROUNDS * 2 / 3 {
            self.oidc.keys(2, &[2]).await;
        }
    }

    /// Requests of curl on a new connection; the status of each.
    async fn curl(&self, token: &str) -> Vec<String> {
        let url = format!("https://api.test/[1-{REQUESTS}]");
        let proxy = self.harness.agent().proxy.to_string();
        requests(&self.root(), &proxy, token, &url).await
    }
}

async fn requests(root: &Path, proxy: &str, token: &str, url: &str) -> Vec<String> {
    let field = format!("Proxy-Authorization: Bearer {token}");
    let output = tokio::process::Command::new("curl")
        .args(["-sS", "--proxy", proxy, "--proxy-header", &field])
        .args(["-o", "/dev/null", "-w", "%{http_code}\n", url, "--cacert"])
        .arg(root)
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let mut lines: Vec<String> = said.lines().map(str::to_owned).collect();
    if !output.status.success() {
        lines.push(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    lines
}

#[tokio::test(flavor = "multi_thread")]
async fn no_agent_is_turned_away_while_the_provider_rotates_its_keys() {
    let lines = |issuer: &str| {
        format!(
            "[trust.ci]\nagent = {{ map = {{ \"robot\" = \"a\" }} }}\n\
             [trust.ci.jwt]\nissuer = \"{issuer}\"\naudience = [\"{AUDIENCE}\"]\n"
        )
    };
    let Some(world) = World::new(lines).await else {
        return;
    };
    let mut workers = JoinSet::new();
    for _ in 0..WORKERS {
        let world = Arc::clone(&world);
        workers.spawn(async move {
            let mut keys = Vec::new();
            for _ in 0..ROUNDS {
                world.turn().await;
                let token = evidence(&world.oidc).await;
                let key = key_of(&token);
                let statuses = world.curl(&token).await;
                assert_eq!(statuses, ["200"; REQUESTS], "a token of {key}");
                keys.push(key);
            }
            keys
        });
    }
    let keys: Vec<String> = workers.join_all().await.into_iter().flatten().collect();
    for key in ["key-1", "key-2"] {
        assert!(keys.iter().any(|used| used == key), "{key} in {keys:?}");
    }
    let total = WORKERS * ROUNDS * REQUESTS;
    assert_eq!(world.upstream.requests().len(), total);
    // One for the first token, one for the first with the other key.
    assert_eq!(world.oidc.seen().await["fetched"]["jwks"], 2);
    let world = Arc::into_inner(world).unwrap();
    world.harness.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_person_is_turned_away_while_the_provider_rotates_its_keys() {
    let lines = |issuer: &str| {
        format!("[login.corp.oidc]\nissuer = \"{issuer}\"\nclient-id = \"keyward\"\n")
    };
    let Some(world) = World::new(lines).await else {
        return;
    };
    let own = world.harness.session(("a", TOKEN_A), &[]).await;
    let own: Arc<str> = own.token().into();
    let mut workers = JoinSet::new();
    for worker in 0..WORKERS {
        let (world, own) = (Arc::clone(&world), Arc::clone(&own));
        workers.spawn(async move {
            let mut keys = Vec::new();
            for round in 0..ROUNDS {
                world.turn().await;
                let who = format!("person-{worker}-{round}");
                let token = id_token(&world.oidc, &who).await;
                let key = key_of(&token);
                let parameters = [
                    ("grant_type", EXCHANGE),
                    ("subject_token", &*token),
                    ("subject_token_type", ID_TOKEN),
                    ("actor_token", &*own),
                    ("actor_token_type", ACCESS_TOKEN),
                ];
                let bound = world.harness.agent().form("/token", "", &parameters).await;
                assert_eq!(bound.status, 200, "an ID token of {key}: {:?}", bound.json);
                assert_eq!(part(bound.token(), 1)["user"], *who);
                assert_eq!(world.curl(bound.token()).await, ["200"; REQUESTS]);
                keys.push(key);
            }
            keys
        });
    }
    let keys: Vec<String> = workers.join_all().await.into_iter().flatten().collect();
    for key in ["key-1", "key-2"] {
        assert!(keys.iter().any(|used| used == key), "{key} in {keys:?}");
    }
    assert_eq!(world.oidc.seen().await["fetched"]["jwks"], 2);
    let world = Arc::into_inner(world).unwrap();
    world.harness.finish().await;
}

/// What the provider says of its keys holds for ten minutes where it gives no other time, and a minute in which others
/// are fetched; then what the withdrawn key signed opens nothing, though nobody came in between and though it is not
/// over.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_the_provider_withdrew_is_good_for_nothing_after_its_time() {
    let Some(oidc) = provider().await else { return };
    let wall = jiff::Timestamp::now();
    let table = format!(
        "agent = {{ map = {{ \"robot\" = \"a\" }} }}\n\
         [trust.t.jwt]\nissuer = \"{}\"\naudience = [\"{AUDIENCE}\"]\n",
        oidc.issuer
    );
    let agents = Provider::at(&table, tempfile::tempdir().unwrap(), wall);
    let folder = tempfile::tempdir().unwrap();
    let text = format!(
        "[login.corp.oidc]\nissuer = \"{}\"\nclient-id = \"keyward\"\n",
        oidc.issuer
    );
    let loaded = keyward::config::parse(&text, "t.toml", folder.path(), &**Presets::shipped());
    let login = loaded.unwrap().config.logins[0].settings.clone();
    let network = Network::new(connector(folder.path()), BTreeMap::new());
    let clock = Arc::new(ManualClock::new(wall));
    let people = Logins::new(&[login], &network, &(Arc::clone(&clock) as Arc<dyn Clock>));
    let robot = evidence(&oidc).await;
    let alice = Secret::from(id_token(&oidc, "alice").await);
    let person = async |token: &Secret| {
        let known = people.person(token, UserEvidence::IdToken).await;
        known.map(|known| known.map(|known| known.user.name.to_string()))
    };
    assert_eq!(agents.agent(&robot).await, "a");
    assert_eq!(person(&alice).await, Ok(Some("alice".to_owned())));
    oidc.keys(2, &[2]).await;
    // A second before the ten minutes are over, and a second after the minute behind them.
    let (before, after) = (Duration::from_secs(599), Duration::from_secs(62));
    for clock in [&agents.clock, &clock] {
        clock.advance(before);
    }
    assert_eq!(agents.agent(&robot).await, "a", "as the provider had it");
    assert_eq!(person(&alice).await, Ok(Some("alice".to_owned())));
    for clock in [&agents.clock, &clock] {
        clock.advance(after);
    }
    assert_eq!(agents.show(&robot).await, Err(AttestError::Bad));
    assert_eq!(person(&alice).await, Err(PersonError::Bad));
    // Those of the other key come in.
    let robot = evidence(&oidc).await;
    let bob = Secret::from(id_token(&oidc, "bob").await);
    assert_eq!(agents.agent(&robot).await, "a");
    assert_eq!(person(&bob).await, Ok(Some("bob".to_owned())));
    // For each the first, the one after its time, and one because a key was missed in that.
    assert_eq!(oidc.seen().await["fetched"]["jwks"], 6);
}
