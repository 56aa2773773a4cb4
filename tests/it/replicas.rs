//! Two gateways on one PostgreSQL, each a program of its own: what is ended at one is ended at the other, and what a
//! killed one had issued is revoked by the one that lives.

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
