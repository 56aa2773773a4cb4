//! Sessions that outlast the process: a restart, a kill, and two gateways on one database.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::agent::{Agent, Transcript, request};
use super::harness::{Harness, STORE_KEY, Setup, TOKEN_A};
use super::token::{basic, word};
use super::upstream::{Upstream, ok};

const A: (&str, &str) = ("a", TOKEN_A);
const ROUTES: &str =
    "[[route]]\nname = \"read\"\nhosts = [\"api.test\"]\ncredential = \"c\"\ninject = \"bearer\"\n";

async fn echo() -> Upstream {
    Upstream::service(&["http/1.1"], |_| Box::pin(async { ok("fine") })).await
}

async fn on(store: &str, upstream: &Upstream) -> Harness {
    let store = format!("{ROUTES}[store]\n{store}\nkey = {{ env = \"STORE_KEY\" }}\n");
    Setup::new(&store)
        .to("api.test:443", upstream)
        .start()
        .await
}

fn sqlite(folder: &Path) -> String {
    format!("sqlite = \"{}\"", folder.join("k.db").display())
}

async fn refused(harness: &Harness, token: &str) -> String {
    let (answer, _) = harness
        .agent()
        .with_token(token)
        .connect("api.test:443")
        .await;
    word(&answer)
}

#[tokio::test]
async fn a_restart_keeps_sessions_and_revocations() {
    let (upstream, folder) = (echo().await, tempfile::tempdir().unwrap());
    let first = on(&sqlite(folder.path()), &upstream).await;
    let kept = first.session(A, &[("scope", "route:read")]).await;
    let child = first.delegate(kept.token(), "b", &[]).await;
    let revoked = first.session(A, &[]).await;
    let below = first.delegate(revoked.token(), "b", &[]).await;
    first
        .agent()
        .form("/revoke", "", &[("token", revoked.token())])
        .await;
    let jwks = first.agent().page("/.well-known/jwks.json").await.json;
    first.finish().await;

    let second = on(&sqlite(folder.path()), &upstream).await;
    assert_eq!(
        second.agent().page("/.well-known/jwks.json").await.json,
        jwks
    );
    for token in [&kept, &child] {
        let agent = second.agent().with_token(token.token());
        assert_eq!(agent.get("api.test:443", "/x").await.status, 200);
    }
    for token in [&revoked, &below] {
        assert_eq!(refused(&second, token.token()).await, "session-ended");
    }
    // What was taken up again is bound, narrowed and handed on as before, and ends as a tree.
    let agent = second.agent().with_token(kept.token());
    let answer = agent.connect_from("127.0.0.2", "api.test:443").await;
    assert_eq!(word(&answer), "wrong-peer");
    let wide = second
        .delegate(kept.token(), "b", &[("scope", "route:read other")])
        .await;
    assert_eq!(wide.error(), (400, "invalid_scope"));
    second
        .agent()
        .form("/revoke", "", &[("token", kept.token())])
        .await;
    assert_eq!(refused(&second, child.token()).await, "session-ended");
    second.finish().await;

    // Nothing of a token or key stands there to be read.
    let bytes = std::fs::read(folder.path().join("k.db")).unwrap();
    for secret in [kept.token().rsplit('.').next().unwrap(), TOKEN_A] {
        assert!(memchr::memmem::find(&bytes, secret.as_bytes()).is_none());
    }
}

#[tokio::test]
async fn a_session_ended_at_one_gateway_is_refused_at_the_other() {
    let Some(server) = super::server::Server::start() else {
        return;
    };
    let (upstream, folder) = (echo().await, tempfile::tempdir().unwrap());
    let url = folder.path().join("url");
    std::fs::write(&url, &server.url).unwrap();
    let store = format!("postgres = {{ file = \"{}\" }}", url.display());
    let (one, two) = (on(&store, &upstream).await, on(&store, &upstream).await);
    let granted = one.session(A, &[]).await;
    let child = two.delegate(granted.token(), "b", &[]).await;
    for gateway in [&one, &two] {
        for token in [granted.token(), child.token()] {
            let agent = gateway.agent().with_token(token);
            assert_eq!(agent.get("api.test:443", "/x").await.status, 200);
        }
    }
    let mut idle = two
        .agent()
        .with_token(child.token())
        .tunnel("api.test:443", &["http/1.1"])
        .await;
    one.agent()
        .form("/revoke", "", &[("token", granted.token())])
        .await;
    let began = Instant::now();
    assert_eq!(refused(&one, child.token()).await, "session-ended");
    let closed = tokio::io::AsyncReadExt::read_u8(&mut idle);
    assert!(
        super::agent::within(closed).await.is_err(),
        "its tunnel at the other one is cut"
    );
    for token in [granted.token(), child.token()] {
        assert_eq!(refused(&two, token).await, "session-ended");
    }
    assert!(
        began.elapsed() < Duration::from_secs(1),
        "{:?}",
        began.elapsed()
    );
    // A use at one of them is a use.
    let granted = one.session(A, &[]).await;
    assert_eq!(
        two.agent()
            .with_token(granted.token())
            .get("api.test:443", "/x")
            .await
            .status,
        200
    );

    // Without the store nobody knows what was ended, nor who was suspended: neither a session token is good, nor a static
    // one, nor a tunnel that was open before.
    let agents = [two.agent().with_token(granted.token()), two.agent()];
    let mut tunnels = Vec::new();
    for agent in &agents {
        let mut sender = agent.h1("api.test:443").await;
        let asked = agent.ask(&mut sender, request("GET", "/x", "api.test"));
        assert_eq!(asked.await.status, 200);
        tunnels.push(sender);
    }
    drop(server);
    let unknown = one.session(A, &[]).await;
    assert_eq!(unknown.error(), (503, "temporarily_unavailable"));
    until_silent(&agents[0]).await;
    for (agent, sender) in agents.iter().zip(&mut tunnels) {
        let (answer, _) = agent.connect("api.test:443").await;
        assert_eq!(word(&answer), "store-unavailable");
        let asked = agent.ask(sender, request("GET", "/x", "api.test")).await;
        assert_eq!((asked.status, asked.word()), (503, "store-unavailable"));
    }
}

/// Waits until this agent is refused because nothing is heard of the store.
async fn until_silent(agent: &Agent) {
    for _ in 0..300 {
        let (answer, _) = agent.connect("api.test:443").await;
        if word(&answer) == "store-unavailable" {
            assert_eq!(answer.status(), 503);
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("an agent is served without the store");
}

/// The sessions are heard of, and which agents may act is not: a row of the registry that cannot be read. Somebody may be
/// suspended in it, so nobody is served until it can.
#[tokio::test]
async fn a_registry_that_cannot_be_read_is_not_believed_for_long() {
    let (upstream, folder) = (echo().await, tempfile::tempdir().unwrap());
    let gateway = on(&sqlite(folder.path()), &upstream).await;
    let agent = gateway.agent();
    assert_eq!(agent.get("api.test:443", "/x").await.status, 200);
    let url = format!("sqlite://{}", folder.path().join("k.db").display());
    let database = sqlx::sqlite::SqlitePool::connect(&url).await.unwrap();
    let damaged =
        "INSERT INTO keyward_agent (id, entry, suspended, changed) VALUES ('a', '{', 'why', 9)";
    sqlx::query(damaged).execute(&database).await.unwrap();
    until_silent(&agent).await;
    // Mended, it is heard at once that the agent is suspended; without the row it may act.
    let mended = "UPDATE keyward_agent SET entry = NULL, changed = 10";
    sqlx::query(mended).execute(&database).await.unwrap();
    until(&agent, "suspended").await;
    sqlx::query("DELETE FROM keyward_agent")
        .execute(&database)
        .await
        .unwrap();
    until(&agent, "").await;
    database.close().await;
    gateway.finish().await;
}

async fn until(agent: &Agent, wanted: &str) {
    for _ in 0..100 {
        let (answer, _) = agent.connect("api.test:443").await;
        if word(&answer) == wanted {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("it never is {wanted}");
}

/// keyward as a process of its own, and where it listens.
struct Daemon(Child, SocketAddr);

impl Daemon {
    fn start(file: &Path) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_keyward"))
            .args(["serve", "-c"])
            .arg(file)
            .env_clear()
            .env("TOKEN_A", TOKEN_A)
            .env("STORE_KEY", STORE_KEY)
            .env("RUST_LOG", "info")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut told = BufReader::new(child.stderr.take().unwrap()).lines();
        let proxy = loop {
            let line = told.next().unwrap().unwrap();
            if let Some((_, rest)) = line.split_once("addresses=\"") {
                break rest.trim_end_matches('"').parse().unwrap();
            }
        };
        // Somebody must read on, or it waits.
        std::thread::spawn(move || told.for_each(drop));
        Self(child, proxy)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_gateway_loses_no_revocation() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keyward.toml");
    let text = format!(
        "[proxy]\nlisten = [\"127.0.0.1:0\"]\n[store]\n{}\nkey = {{ env = \"STORE_KEY\" }}\n\
         [agent.a]\ntoken = {{ env = \"TOKEN_A\" }}\n[[route]]\nhosts = [\"nowhere.test\"]\n",
        sqlite(folder.path())
    );
    std::fs::write(&file, text).unwrap();
    let daemon = Daemon::start(&file);
    let agent = Agent::new(daemon.1, None, "", Transcript::default());
    let parameters = [("grant_type", "client_credentials")];
    let mut tokens = Vec::new();
    for _ in 0..6 {
        let granted = agent
            .form("/token", &basic("a", TOKEN_A), &parameters)
            .await;
        tokens.push(granted.token().to_owned());
    }
    for token in &tokens[..5] {
        let revoked = agent.form("/revoke", "", &[("token", token)]).await;
        assert_eq!(revoked.status, 200);
    }
    // SIGKILL, with the last answer just read.
    drop(daemon);
    let daemon = Daemon::start(&file);
    let agent = Agent::new(daemon.1, None, "", Transcript::default());
    for (place, token) in tokens.iter().enumerate() {
        let (answer, _) = agent.with_token(token).connect("elsewhere.test:443").await;
        let expected = if place < 5 {
            "session-ended"
        } else {
            "no-route"
        };
        assert_eq!(word(&answer), expected);
    }
}
