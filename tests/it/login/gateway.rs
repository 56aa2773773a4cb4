//! `keyward login` on a person's machine, and an agent that acts for them at a gateway: `keyward session bind`.

use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;

use super::super::agent::{request, within};
use super::super::harness::{Harness, Setup, TOKEN_A, TOKEN_B};
use super::super::oauth::peer::{Oidc, call};
use super::super::token::part;
use super::super::upstream::{Upstream, ok};
use super::browser::Browser;

const SECRET: &str = "secret-of-the-robot-0123456789abcdef";
const AUDIENCE: &str = "https://jwt.keyward.test";

/// A gateway whose login is the certified provider, and machines of people who know it.
struct World {
    oidc: Oidc,
    gateway: Harness,
    upstream: Upstream,
    _exchanger: Upstream,
    folder: tempfile::TempDir,
}

impl World {
    /// ID tokens live so long.
    async fn new(life: u32) -> Option<Self> {
        let people = json!({
            "client_id": "cli", "application_type": "native", "token_endpoint_auth_method": "none", "life": life,
            "grant_types": ["authorization_code", "refresh_token"], "response_types": ["code"],
            "redirect_uris": ["http://127.0.0.1/callback"], "scope": "openid offline_access email",
        });
        let agents = json!({ "client_id": "robot", "client_secret": SECRET, "life": 600 });
        let oidc = Oidc::start(json!([people, agents]), None).await?;
        let exchanger = Upstream::plain(|seen| {
            let fields: Vec<(String, String)> =
                form_urlencoded::parse(&seen.body).into_owned().collect();
            let subject = fields.iter().find(|(name, _)| name == "subject_token");
            let sub = part(&subject.unwrap().1, 1)["sub"].clone();
            let token = format!("lease-of-{}-0123456789abcdef", sub.as_str().unwrap());
            let answer = json!({"access_token": token, "token_type": "Bearer", "expires_in": 300});
            Box::pin(async move { ok(answer.to_string()) })
        })
        .await;
        let upstream = Upstream::service(&["http/1.1"], |_| Box::pin(async { ok("fine") })).await;
        let login = format!(
            "[login.corp.oidc]\nissuer = \"{}\"\nclient-id = \"cli\"\nscopes = [\"openid\", \"offline_access\"]\n",
            oidc.issuer
        );
        let text = format!(
            "{login}[trust.ci]\nagent = {{ map = {{ \"robot\" = \"b\" }} }}\n\
             [trust.ci.jwt]\nissuer = \"{}\"\naudience = [\"{AUDIENCE}\"]\n\
             [credential.crm.token-exchange]\ntoken-url = \"http://{}/token\"\nclient-id = \"tx\"\n\
             client-secret = {{ env = \"CANARY\" }}\nsubject-token = \"user\"\nsubject-token-type = \"id_token\"\n\
             [[route]]\nname = \"crm\"\nhosts = [\"api.test\"]\ncredential = \"crm\"\ninject = \"bearer\"\n",
            oidc.issuer, exchanger.address
        );
        let setup = Setup::new(&text).to("api.test:443", &upstream);
        let gateway = setup.start().await;
        let folder = tempfile::tempdir_in("/tmp").unwrap();
        std::fs::write(folder.path().join("me.toml"), login).unwrap();
        Some(Self {
            oidc,
            gateway,
            upstream,
            _exchanger: exchanger,
            folder,
        })
    }

    fn state(&self, user: &str) -> PathBuf {
        self.folder.path().join("state").join(user)
    }

    /// The program on this person's machine.
    fn keyward(&self, user: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_keyward"));
        let gateway = format!("http://{}", self.gateway.agent().proxy);
        command
            .args(arguments)
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("HOME", self.folder.path())
            .env("XDG_STATE_HOME", self.state(user))
            .env("KEYWARD_URL", gateway)
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    async fn sign_in(&self, user: &str) {
        let arguments = ["login", "-c", "me.toml", "--no-browser"];
        let mut child = self.keyward(user, &arguments).spawn().unwrap();
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
        assert!(output.status.success());
    }

    /// Has the agent of this token act for whoever is signed in at this person's machine.
    async fn bind(&self, user: &str, token: &str, more: &[&str]) -> Output {
        let arguments = [&["session", "bind", "-c", "me.toml"], more].concat();
        let mut command = self.keyward(user, &arguments);
        within(command.env("KEYWARD_TOKEN", token).output())
            .await
            .unwrap()
    }

    /// The same, where it must come to a token.
    async fn bound(&self, user: &str, token: &str, more: &[&str]) -> String {
        let output = self.bind(user, token, more).await;
        assert!(output.status.success(), "{}", err(&output));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// A request of an agent with this token; its status, and what went upstream in place of it.
    async fn ask(&self, token: &str) -> (u16, Vec<String>) {
        let before = self.upstream.requests().len();
        let agent = self.gateway.agent().with_token(token);
        let mut sender = agent.h1("api.test:443").await;
        let asked = agent.ask(&mut sender, request("GET", "/", "api.test"));
        let status = asked.await.status;
        let seen = self.upstream.requests();
        let sent = seen.get(before).map(|seen| seen.all("authorization"));
        (status, sent.unwrap_or_default())
    }

    fn content(&self, user: &str) -> Value {
        let folder = std::fs::read_dir(self.state(user).join("keyward/login")).unwrap();
        let mut files = folder.map(|entry| entry.unwrap().path());
        let file = files.find(|path| path.extension().is_some_and(|kind| kind == "json"));
        serde_json::from_slice(&std::fs::read(file.unwrap()).unwrap()).unwrap()
    }
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// One agent, two people, three ways of proving the agent: each session uses its own person's credential only.
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_at_a_gateway_acts_for_whoever_signed_in_on_their_machine() {
    let Some(world) = World::new(600).await else {
        return;
    };
    let nobody = world.bind("alice", TOKEN_A, &["--agent", "a"]).await;
    assert_eq!(nobody.status.code(), Some(1), "{}", err(&nobody));
    assert!(err(&nobody).contains("keyward login"), "{}", err(&nobody));
    for user in ["alice", "bob"] {
        world.sign_in(user).await;
    }
    let own = world.gateway.session(("b", TOKEN_B), &[]).await;
    assert_eq!(world.ask(own.token()).await.0, 403, "it acts for nobody");
    let basic = super::super::token::basic("robot", SECRET);
    let form = format!("grant_type=client_credentials&scope=contacts.read&resource={AUDIENCE}");
    let issuer = &world.oidc.issuer;
    let (_, granted) = call(issuer, "POST /token", &[basic.trim_end()], &form).await;
    let granted: Value = serde_json::from_slice(&granted).unwrap();
    let evidence = granted["access_token"].as_str().unwrap();
    for user in ["alice", "bob"] {
        for (agent, token, more) in [
            ("a", TOKEN_A, &["--agent", "a"][..]),
            ("b", own.token(), &[]),
            ("b", evidence, &[]),
        ] {
            let bound = world.bound(user, token, more).await;
            let claims = part(&bound, 1);
            assert_eq!(
                (&claims["user"], &claims["sub"]),
                (&json!(user), &json!(agent))
            );
            let lease = format!("Bearer lease-of-{user}-0123456789abcdef");
            assert_eq!(world.ask(&bound).await, (200, vec![lease]));
        }
    }
    // As narrow as it is asked for, and told whole.
    let more = [
        "--agent",
        "a",
        "--scope",
        "route:crm",
        "--ttl",
        "60s",
        "--json",
    ];
    let narrow: Value = serde_json::from_str(&world.bound("alice", TOKEN_A, &more).await).unwrap();
    assert_eq!(narrow["scope"], "route:crm");
    assert!(narrow["expires_in"].as_i64().unwrap() <= 60, "{narrow}");
    // What the gateway refuses is a no.
    for (what, token, more) in [
        ("a guess", "guess-0123456789abcdef", &["--agent", "a"][..]),
        ("another's name", TOKEN_A, &["--agent", "b"]),
        (
            "a route that is not there",
            TOKEN_A,
            &["--agent", "a", "--scope", "route:x"],
        ),
        (
            "who acts for somebody",
            narrow["access_token"].as_str().unwrap(),
            &[],
        ),
    ] {
        let refused = world.bind("bob", token, more).await;
        assert_eq!(refused.status.code(), Some(1), "{what}: {}", err(&refused));
        assert!(refused.stdout.is_empty(), "{what}");
    }
    world.gateway.finish().await;
}

/// The sign-in is renewed for it, and once the provider renews it no longer there is no session.
#[tokio::test(flavor = "multi_thread")]
async fn a_kept_sign_in_is_renewed_for_a_gateway_as_long_as_the_provider_does() {
    // Shorter than the margin: each use renews it.
    let Some(world) = World::new(30).await else {
        return;
    };
    world.sign_in("alice").await;
    let first = world.content("alice");
    // Tokens that are issued within the same second are the same bytes.
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let bound = world.bound("alice", TOKEN_A, &["--agent", "a"]).await;
    assert_eq!(part(&bound, 1)["user"], "alice");
    let second = world.content("alice");
    assert_ne!(first["id-token"], second["id-token"]);
    let token = second["refresh-token"].as_str().unwrap();
    let form = format!("client_id=cli&token={token}");
    call(&world.oidc.issuer, "POST /token/revocation", &[], &form).await;
    let refused = world.bind("alice", TOKEN_A, &["--agent", "a"]).await;
    assert_eq!(refused.status.code(), Some(1), "{}", err(&refused));
    assert!(refused.stdout.is_empty());
    assert!(
        err(&refused).contains("keyward login corp"),
        "{}",
        err(&refused)
    );
    world.gateway.finish().await;
}
