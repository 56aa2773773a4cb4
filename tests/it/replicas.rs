//! Two gateways on one PostgreSQL, each a program of its own: what is ended at one is ended at the other, and what a
//! killed one had issued is revoked by the one that lives. And one gateway that is killed at every step.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::agent::{Agent, Transcript};
use super::canary::{self, CANARY};
use super::harness::{STORE_KEY, TOKEN_A};
use super::server::Server;
use super::token::{basic, word};
use super::upstream::{CA, Upstream};

/// Issues the canary under a handle of its own each time, and writes down what it is asked.
const PLUGIN: &str = r#"#!/bin/sh
folder=$(dirname "$0")
ask=$(cat)
case "$ask" in
*'"op":"issue"'*)
    echo "issue handle-$$" >> "$folder/issuer.log"
    printf '{"secret":"CANARY","expires-in":600,"handle":"handle-%s","revoke":true}\n' "$$" ;;
*)
    handle=$(echo "$ask" | sed 's/.*"handle":"\([^"]*\)".*/\1/')
    echo "revoke $handle" >> "$folder/issuer.log"
    echo '{}' ;;
esac
"#;

/// The same, and kills the gateway with SIGKILL where the file `die` says.
const KILLER: &str = r#"#!/bin/sh
folder=$(dirname "$0")
ask=$(cat)
die=$(cat "$folder/die" 2>/dev/null)
at() {
    if [ "$die" = "$1" ]; then rm "$folder/die"; kill -9 "$PPID"; fi
}
case "$ask" in
*'"op":"issue"'*)
    echo "issue handle-$$" >> "$folder/issuer.log"
    at asked
    printf '{"secret":"CANARY","expires-in":600,"handle":"handle-%s","revoke":true}\n' "$$"
    at answered ;;
*)
    handle=$(echo "$ask" | sed 's/.*"handle":"\([^"]*\)".*/\1/')
    echo "revoke $handle" >> "$folder/issuer.log"
    at revoked
    echo '{}' ;;
esac
"#;

/// A gateway, and where it listens.
struct Gateway(Child, SocketAddr);

impl Gateway {
    fn start(folder: &Path) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_keyward"));
        command.args(["serve", "-c", "keyward.toml"]);
        command.current_dir(folder).env_clear();
        command.env("PATH", "/usr/bin:/bin");
        command.env("TOKEN_A", TOKEN_A).env("STORE_KEY", STORE_KEY);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut told = BufReader::new(child.stderr.take().unwrap()).lines();
        let proxy = loop {
            let line = told.next().unwrap().unwrap();
            if let Some((_, rest)) = line.split_once("addresses=\"") {
                break rest.trim_end_matches('"').parse().unwrap();
            }
        };
        // Somebody must read on, or it waits.
        std::thread::spawn(move || {
            for line in told.map_while(Result::ok) {
                assert_eq!(canary::find(line.as_bytes()), None, "{line}");
            }
        });
        Self(child, proxy)
    }

    async fn agent(&self, token: Option<&str>) -> Agent {
        let bare = Agent::new(self.1, None, "", Transcript::default());
        let pem = String::from_utf8(bare.page("/ca.pem").await.message.body).unwrap();
        Agent::new(self.1, token, &pem, Transcript::default())
    }

    /// The status of a request with this session token.
    async fn get(&self, token: &str) -> u16 {
        let agent = self.agent(None).await.with_token(token);
        let status = agent.get("api.test:443", "/x").await.status;
        assert_eq!(canary::find(&agent.transcript.lock()), None);
        status
    }

    /// The word with which a session token is refused.
    async fn refused(&self, token: &str) -> String {
        let agent = self.agent(None).await.with_token(token);
        word(&agent.connect("api.test:443").await.0)
    }

    async fn session(&self) -> String {
        let parameters = [("grant_type", "client_credentials")];
        let lines = basic("a", TOKEN_A);
        let agent = self.agent(None).await;
        let granted = agent.form("/token", &lines, &parameters).await;
        granted.token().to_owned()
    }

    async fn revoke(&self, token: &str) {
        let agent = self.agent(None).await;
        assert_eq!(
            agent.form("/revoke", "", &[("token", token)]).await.status,
            200
        );
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// The lines of the issuer that begin so.
fn issuer(folder: &Path, kind: &str) -> Vec<String> {
    let text = std::fs::read_to_string(folder.join("issuer.log")).unwrap_or_default();
    let lines = text.lines().filter_map(|line| line.strip_prefix(kind));
    lines.map(|handle| handle.trim().to_owned()).collect()
}

async fn until(what: &str, within: Duration, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + within;
    while !holds() {
        assert!(Instant::now() < end, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_revokes_what_a_killed_one_left_and_both_know_every_end() {
    let Some(server) = Server::start() else {
        return;
    };
    let upstream = Arc::new(Upstream::echo(&["http/1.1"]).await);
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str, mode: u32| {
        std::fs::write(folder.path().join(name), text).unwrap();
        let mode = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(folder.path().join(name), mode).unwrap();
    };
    write("url", &server.url, 0o600);
    write("ca.pem", &CA.pem, 0o600);
    write("plugin", &PLUGIN.replace("CANARY", CANARY), 0o700);
    let text = format!(
        r#"drain = "1s"
[proxy]
listen = ["127.0.0.1:0"]
[store]
postgres = {{ file = "url" }}
key = {{ env = "STORE_KEY" }}
[upstream]
trust = ["ca.pem"]
connect-to = {{ "api.test:443" = "{}" }}
[agent.a]
token = {{ env = "TOKEN_A" }}
[credential.own.command]
run = ["./plugin"]
[[route]]
hosts = ["api.test"]
credential = "own"
inject = "bearer"
"#,
        upstream.address
    );
    write("keyward.toml", &text, 0o600);
    let (one, two) = (Gateway::start(folder.path()), Gateway::start(folder.path()));

    // Ended at one, refused at the other within a second; what either had leased for it is revoked.
    let first = one.session().await;
    assert_eq!((one.get(&first).await, two.get(&first).await), (200, 200));
    one.revoke(&first).await;
    let began = Instant::now();
    while two.refused(&first).await != "session-ended" {
        assert!(began.elapsed() < Duration::from_secs(1), "it is still good");
    }
    assert_eq!(one.refused(&first).await, "session-ended");
    let issued = issuer(folder.path(), "issue");
    assert_eq!(issued.len(), 2);
    until("both leases are revoked", Duration::from_secs(10), || {
        let revoked = issuer(folder.path(), "revoke");
        issued.iter().all(|handle| revoked.contains(handle))
    })
    .await;

    // SIGKILL behind the last answer: neither an end nor a lease is lost.
    let (ended, open) = (one.session().await, one.session().await);
    assert_eq!(one.get(&open).await, 200);
    one.revoke(&ended).await;
    drop(one);
    assert_eq!(two.refused(&ended).await, "session-ended");
    assert_eq!(
        two.get(&open).await,
        200,
        "the session is not the process's"
    );
    let issued = issuer(folder.path(), "issue");
    assert_eq!(issued.len(), 4);
    let left = issued[2].clone();
    // Who says nothing for a minute is dead: the minute is put into the past.
    let aged = Command::new("psql")
        .args([
            &server.url,
            "-qc",
            "UPDATE keyward_replica SET seen = seen - 61000",
        ])
        .stdin(Stdio::null())
        .status();
    assert!(aged.unwrap().success());
    until(
        "the dead one's lease is revoked",
        Duration::from_secs(90),
        || issuer(folder.path(), "revoke").contains(&left),
    )
    .await;
    assert_eq!(two.get(&open).await, 200, "the other's own is not");
    assert!(!issuer(folder.path(), "revoke").contains(&issued[3]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_between_any_two_steps_loses_no_lease_on_a_file() {
    killed_at_every_step("sqlite = \"keyward.db\"", None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_between_any_two_steps_loses_no_lease_on_a_server() {
    if let Some(server) = Server::start() {
        killed_at_every_step("postgres = { file = \"url\" }", Some(&server.url)).await;
    }
}

/// The folder of a gateway whose issuer kills it.
fn one_to_be_killed(store: &str, url: Option<&str>, upstream: &Upstream) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str, mode: u32| {
        std::fs::write(folder.path().join(name), text).unwrap();
        let mode = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(folder.path().join(name), mode).unwrap();
    };
    write("url", url.unwrap_or_default(), 0o600);
    write("ca.pem", &CA.pem, 0o600);
    write("plugin", &KILLER.replace("CANARY", CANARY), 0o700);
    let text = format!(
        r#"drain = "1s"
[proxy]
listen = ["127.0.0.1:0"]
[audit]
file = "audit.jsonl"
[store]
{store}
key = {{ env = "STORE_KEY" }}
[upstream]
trust = ["ca.pem"]
connect-to = {{ "api.test:443" = "{}" }}
[agent.a]
token = {{ env = "TOKEN_A" }}
[credential.own.command]
run = ["./plugin"]
[[route]]
hosts = ["api.test"]
credential = "own"
inject = "bearer"
"#,
        upstream.address
    );
    write("keyward.toml", &text, 0o600);
    folder
}

/// SIGKILL between each two steps of a lease's life: whatever step it is, the next process revokes what was issued, or
/// says that something may have been.
async fn killed_at_every_step(store: &str, url: Option<&str>) {
    let upstream = Arc::new(Upstream::echo(&["http/1.1"]).await);
    let folder = one_to_be_killed(store, url, &upstream);
    for step in ["asked", "answered", "used", "revoked"] {
        std::fs::remove_file(folder.path().join("issuer.log")).ok();
        std::fs::remove_file(folder.path().join("audit.jsonl")).ok();
        let mut gateway = Gateway::start(folder.path());
        let session = gateway.session().await;
        let agent = gateway.agent(None).await.with_token(&session);
        let gone = gateway.agent(None).await;
        if step == "revoked" {
            assert_eq!(agent.get("api.test:443", "/x").await.status, 200);
        }
        if step == "used" {
            assert_eq!(agent.get("api.test:443", "/x").await.status, 200);
            gateway.0.kill().unwrap();
        } else {
            std::fs::write(folder.path().join("die"), step).unwrap();
            let mut asking = tokio::task::JoinSet::new();
            asking.spawn(async move {
                if step == "revoked" {
                    gone.form("/revoke", "", &[("token", &session)]).await;
                } else {
                    agent.get("api.test:443", "/x").await;
                }
            });
            let ended = || gateway.0.try_wait().unwrap().is_some();
            until("the gateway is killed", Duration::from_secs(20), ended).await;
            // Whoever asked was cut off.
            asking.abort_all();
        }
        gateway.0.wait().unwrap();
        if let Some(url) = url {
            let aged = Command::new("psql")
                .args([url, "-qc"])
                .arg("UPDATE keyward_replica SET seen = seen - 61000")
                .stdin(Stdio::null())
                .status();
            assert!(aged.unwrap().success());
        }
        let next = Gateway::start(folder.path());
        let issued = issuer(folder.path(), "issue");
        assert_eq!(issued.len(), 1, "{step}");
        let what = format!("what was issued is known: {step}, {store}");
        let tries = if step == "revoked" { 2 } else { 1 };
        until(&what, Duration::from_secs(40), || {
            let revoked = issuer(folder.path(), "revoke");
            let audit = std::fs::read_to_string(folder.path().join("audit.jsonl"));
            let told = audit
                .unwrap_or_default()
                .contains("\"outcome\":\"unknown\"");
            match step {
                "asked" => told,
                // The kill comes before the answer is written down, or behind that.
                "answered" => told || revoked == issued,
                _ => revoked == vec![issued[0].clone(); tries],
            }
        })
        .await;
        // One that stops has taken out its notes: nothing of this step comes up in the next.
        let mut next = next;
        let pid = rustix::process::Pid::from_raw(next.0.id().try_into().unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        assert!(next.0.wait().unwrap().success());
    }
}
