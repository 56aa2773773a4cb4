//! `keyward login` and `run`, through the built program, at the certified provider.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStderr, Command};

use super::super::agent::within;
use super::super::canary::CANARY;
use super::super::oauth::peer::{Oidc, call};
use super::super::token::part;
use super::super::upstream::{CA, Upstream, ok};
use super::browser::{Browser, query};

const DEVICE: &str = "urn:ietf:params:oauth:grant-type:device_code";

/// A provider with a client for people, whose ID tokens live so long.
async fn provider(life: u32) -> Option<Oidc> {
    let client = json!({
        "client_id": "cli", "application_type": "native", "token_endpoint_auth_method": "none", "life": life,
        "grant_types": ["authorization_code", "refresh_token", DEVICE], "response_types": ["code"],
        "redirect_uris": ["http://127.0.0.1/callback"], "scope": "openid offline_access email",
    });
    Oidc::start(json!([client]), None).await
}

/// A configuration with this login, and a service that gets what a person's token was exchanged for.
struct World {
    oidc: Oidc,
    folder: tempfile::TempDir,
    upstream: Upstream,
    exchanger: Upstream,
}

impl World {
    async fn new(life: u32) -> Option<Self> {
        let oidc = provider(life).await?;
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
        let folder = tempfile::tempdir_in("/tmp").unwrap();
        let ca = folder.path().join("ca.pem");
        std::fs::write(&ca, &CA.pem).unwrap();
        let text = format!(
            "[upstream]\ntrust = [\"{}\"]\n[upstream.connect-to]\n\"api.test:443\" = \"{}\"\n\
             [agent.helper]\n\
             [login.corp.oidc]\nissuer = \"{}\"\nclient-id = \"cli\"\nscopes = [\"openid\", \"offline_access\"]\n\
             [credential.crm.token-exchange]\ntoken-url = \"http://{}/token\"\nclient-id = \"tx\"\n\
             client-secret = {{ env = \"CANARY\" }}\nsubject-token = \"user\"\nsubject-token-type = \"id_token\"\n\
             [[route]]\nhosts = [\"api.test\"]\ncredential = \"crm\"\ninject = \"bearer\"\n",
            ca.display(),
            upstream.address,
            oidc.issuer,
            exchanger.address,
        );
        std::fs::write(folder.path().join("keyward.toml"), text).unwrap();
        Some(Self {
            oidc,
            folder,
            upstream,
            exchanger,
        })
    }

    /// The program, as the user of this state folder has it.
    fn keyward(&self, user: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_keyward"));
        command
            .args(arguments)
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("HOME", self.folder.path())
            .env("XDG_STATE_HOME", self.state(user))
            .env("CANARY", CANARY)
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    fn state(&self, user: &str) -> PathBuf {
        self.folder.path().join("state").join(user)
    }

    /// Begins a sign-in; the program, what it still says, and the URL that it shows.
    async fn begin(
        &self,
        user: &str,
        more: &[&str],
    ) -> (Child, Lines<BufReader<ChildStderr>>, String) {
        let arguments = [&["login", "-c", "keyward.toml", "--json"], more].concat();
        let mut child = self.keyward(user, &arguments).spawn().unwrap();
        let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
        let url = loop {
            let line = within(said.next_line())
                .await
                .unwrap()
                .expect("it shows a URL");
            if line.starts_with("http") {
                break line;
            }
        };
        (child, said, url)
    }

    /// Signs this person in with a browser.
    async fn sign_in(&self, user: &str) -> (i32, Value) {
        let (child, _said, url) = self.begin(user, &["--no-browser"]).await;
        let mut browser = Browser::default();
        let back = browser.away(&format!("{url}&login_hint={user}")).await;
        assert_eq!(browser.get(&back).await.status, 200);
        let output = within(child.wait_with_output()).await.unwrap();
        (
            output.status.code().unwrap(),
            serde_json::from_slice(&output.stdout).unwrap_or_default(),
        )
    }

    /// Runs a command for this user.
    async fn run(&self, user: &str, script: &str) -> Output {
        let arguments = ["run", "-c", "keyward.toml", "--", "sh", "-c", script];
        let mut command = self.keyward(user, &arguments);
        within(command.output()).await.unwrap()
    }

    fn kept(&self, user: &str) -> Option<PathBuf> {
        let folder = std::fs::read_dir(self.state(user).join("keyward/login")).ok()?;
        let mut files = folder.map(|entry| entry.unwrap().path());
        files.find(|path| path.extension().is_some_and(|kind| kind == "json"))
    }

    fn content(&self, user: &str) -> Value {
        let file = self.kept(user).unwrap();
        serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
    }

    fn audit(&self, user: &str) -> Vec<Value> {
        let file = self.state(user).join("keyward/audit.jsonl");
        let text = std::fs::read_to_string(file).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

const ASK: &str = "curl -sS -o /dev/null -w '%{http_code} ' https://api.test/; \
    find \"$XDG_STATE_HOME\" -type f | wc -l";

/// Two people, one agent: a lease each, and each session uses its own person's only.
#[tokio::test(flavor = "multi_thread")]
async fn two_people_who_signed_in_have_two_leases_of_one_agent() {
    let Some(world) = World::new(600).await else {
        return;
    };
    let nobody = world.run("alice", ASK).await;
    assert!(
        String::from_utf8_lossy(&nobody.stdout).starts_with("403 "),
        "{}",
        err(&nobody)
    );
    for user in ["alice", "bob"] {
        let (code, said) = world.sign_in(user).await;
        assert_eq!(code, 0);
        assert_eq!(
            (&said["user"], &said["provider"]),
            (&json!(user), &json!("corp"))
        );
        assert!(
            said["expires"]
                .as_str()
                .unwrap()
                .parse::<jiff::Timestamp>()
                .is_ok()
        );
        let file = world.kept(user).unwrap();
        assert_eq!((mode(&file), mode(file.parent().unwrap())), (0o600, 0o700));
    }
    for user in ["alice", "bob", "alice"] {
        let before = world.upstream.requests().len();
        let ran = world.run(user, ASK).await;
        // The sign-in, its refresh token above all, is nowhere for the command to find.
        let said = String::from_utf8_lossy(&ran.stdout).trim().to_owned();
        assert_eq!(said, "200 0", "{}", err(&ran));
        assert!(
            err(&ran).contains(&format!("acting for {user} (corp)")),
            "{}",
            err(&ran)
        );
        let seen = world.upstream.requests()[before].all("authorization");
        assert_eq!(seen, [format!("Bearer lease-of-{user}-0123456789abcdef")]);
    }
    for user in ["alice", "bob"] {
        for event in ["session-start", "request", "issue"] {
            let all = world.audit(user);
            let of: Vec<&Value> = (all.iter())
                .filter(|record| record["event"] == event && record["word"].is_null())
                .filter(|record| event != "session-start" || !record["user"].is_null())
                .collect();
            assert!(!of.is_empty(), "{user} {event}");
            for record in of {
                assert_eq!(
                    (&record["user"], &record["agent"]),
                    (&json!(user), &json!("helper"))
                );
            }
        }
    }
    // Whose token is exchanged is whose session asks.
    let exchanged = world.exchanger.requests().len();
    assert_eq!(exchanged, 3, "one for each run that acts for somebody");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_answer_ends_no_sign_in_and_one_of_another_issuer_does() {
    let Some(world) = World::new(600).await else {
        return;
    };
    let (child, _said, url) = world.begin("alice", &["--no-browser"]).await;
    let home = query(&url, "redirect_uri").unwrap();
    let state = query(&url, "state").unwrap();
    let mut browser = Browser::default();
    for forged in [
        "?code=x&state=forged",
        "?code=x",
        &format!("?code=x&state={state}&state={state}"),
    ] {
        let page = browser.get(&format!("{home}{forged}")).await;
        assert_eq!(page.status, 400, "{forged}");
        assert!(!page.body.contains("forged"));
        assert!(
            page.get("content-security-policy")
                .contains("default-src 'none'")
        );
    }
    let rebound = browser
        .send("GET", &home, &["host: evil.example"], "")
        .await;
    assert_eq!(rebound.status, 404);
    let back = browser.away(&format!("{url}&login_hint=alice")).await;
    assert_eq!(browser.get(&back).await.status, 200);
    let done = within(child.wait_with_output()).await.unwrap();
    assert_eq!(done.status.code(), Some(0));
    // The answer is good once: nobody listens any more, and the code was used.
    let listening = tokio::net::TcpStream::connect(super::browser::parts(&home).0).await;
    assert!(listening.is_err());
    let kept = world.content("alice");

    let (child, _said, url) = world.begin("alice", &["--no-browser"]).await;
    let back = browser.away(&format!("{url}&login_hint=bob")).await;
    let iss = query(&back, "iss").expect("the provider says who it is");
    let evil: String = form_urlencoded::byte_serialize(iss.as_bytes()).collect();
    let mixed = back.replace(&evil, "https%3A%2F%2Fevil.example");
    assert_ne!(mixed, back);
    browser.get(&mixed).await;
    let refused = within(child.wait_with_output()).await.unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert_eq!(world.content("alice"), kept, "who was signed in still is");

    // Who says no is told so.
    let (child, _said, url) = world.begin("alice", &["--no-browser"]).await;
    let back = Browser::default()
        .away(&format!("{url}&login_hint=nobody"))
        .await;
    browser.get(&back).await;
    let denied = within(child.wait_with_output()).await.unwrap();
    assert_eq!(denied.status.code(), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sign_in_is_renewed_while_it_holds_and_forgotten_at_the_provider_too() {
    // Shorter than the margin: each use renews it.
    let Some(world) = World::new(30).await else {
        return;
    };
    world.sign_in("alice").await;
    let first = world.content("alice");
    // Tokens that are issued within the same second are the same bytes.
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let ran = world.run("alice", ASK).await;
    assert!(
        String::from_utf8_lossy(&ran.stdout).starts_with("200 "),
        "{}",
        err(&ran)
    );
    let second = world.content("alice");
    assert_ne!(first["id-token"], second["id-token"]);
    assert_eq!(second["user"], "alice");

    let forget = ["login", "-c", "keyward.toml", "--forget", "--json"];
    let forgotten = within(world.keyward("alice", &forget).output())
        .await
        .unwrap();
    let said: Value = serde_json::from_slice(&forgotten.stdout).unwrap();
    assert_eq!(said, json!({"provider": "corp", "revoked": true}));
    assert!(world.kept("alice").is_none());
    let form = format!(
        "grant_type=refresh_token&client_id=cli&refresh_token={}",
        second["refresh-token"].as_str().unwrap()
    );
    let (status, _) = call(&world.oidc.issuer, "POST /token", &[], &form).await;
    assert_eq!(status, 400, "the provider knows it no longer");
    let again = within(world.keyward("alice", &forget).output())
        .await
        .unwrap();
    assert_eq!(again.status.code(), Some(1), "nobody is signed in");

    // A sign-in that the provider no longer renews is a fault, not a session for nobody.
    world.sign_in("alice").await;
    let token = world.content("alice")["refresh-token"]
        .as_str()
        .unwrap()
        .to_owned();
    let form = format!("client_id=cli&token={token}");
    call(&world.oidc.issuer, "POST /token/revocation", &[], &form).await;
    let ran = world.run("alice", "echo ran").await;
    assert_eq!(ran.status.code(), Some(1));
    assert!(
        ran.stdout.is_empty() && err(&ran).contains("keyward login corp"),
        "{}",
        err(&ran)
    );
    // Nor is a file that others could have written.
    let file = world.kept("alice").unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(world.run("alice", "true").await.status.code(), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_signs_in_on_another_device() {
    let Some(world) = World::new(600).await else {
        return;
    };
    let (child, mut said, url) = world.begin("carol", &["--device"]).await;
    assert_eq!(url, format!("{}/device", world.oidc.issuer));
    let code = within(said.next_line()).await.unwrap().unwrap();
    let path = format!("GET /device-approved?who=carol&user_code={code}");
    assert_eq!(call(&world.oidc.issuer, &path, &[], "").await.0, 200);
    let done = within(child.wait_with_output()).await.unwrap();
    let told: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(
        (&told["user"], &told["provider"]),
        (&json!("carol"), &json!("corp"))
    );
    assert_eq!(world.content("carol")["user"], "carol");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_in_the_file_is_no_place_to_sign_in() {
    let Some(world) = World::new(600).await else {
        return;
    };
    for (arguments, code) in [
        (&["login", "elsewhere", "-c", "keyward.toml"][..], 64),
        (&["login", "-c", "keyward.toml", "--forget"], 1),
        (
            &["run", "-c", "keyward.toml", "--login", "corp", "--", "true"],
            1,
        ),
    ] {
        let output = within(world.keyward("dora", arguments).output())
            .await
            .unwrap();
        assert_eq!(
            output.status.code(),
            Some(code),
            "{arguments:?}: {}",
            err(&output)
        );
    }
}
