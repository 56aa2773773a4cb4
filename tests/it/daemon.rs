//! The real program with a store: killed and started again, stopped, and asked by an operator's command line.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::agent::{Agent, Transcript};
use super::canary::{self, CANARY};
use super::harness::{ALICE, TOKEN_A};
use super::upstream::{CA, Upstream};

/// A plug-in that issues the canary, and writes down what it is asked. It revokes nothing while `refuse` lies there.
const PLUGIN: &str = r#"#!/bin/sh
folder=$(dirname "$0")
ask=$(cat)
case "$ask" in
*'"op":"issue"'*)
    handle="handle-$$"
    echo "issue $handle" >> "$folder/issuer.log"
    printf '{"secret":"CANARY","expires-in":600,"handle":"%s","revoke":true}\n' "$handle" ;;
*)
    [ -e "$folder/refuse" ] && exit 1
    handle=$(echo "$ask" | sed 's/.*"handle":"\([^"]*\)".*/\1/')
    echo "revoke $handle" >> "$folder/issuer.log"
    echo '{}' ;;
esac
"#;

/// A folder with everything that outlives a process in it.
pub struct Place {
    folder: tempfile::TempDir,
    pub upstream: Upstream,
}

/// One process.
pub struct Daemon {
    pub child: Child,
    pub proxy: SocketAddr,
    pub admin: SocketAddr,
    /// The lines that lead to the console.
    pub console: std::sync::mpsc::Receiver<String>,
}

impl Place {
    pub async fn new() -> Self {
        let upstream = Upstream::echo(&["http/1.1"]).await;
        let folder = tempfile::tempdir().unwrap();
        let place = Self { folder, upstream };
        std::fs::write(place.path("upstream-ca.pem"), &CA.pem).unwrap();
        place.secret(
            "store.key",
            "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=\n",
        );
        place.secret("plugin", &PLUGIN.replace("CANARY", CANARY));
        let mode = std::fs::Permissions::from_mode(0o700);
        std::fs::set_permissions(place.path("plugin"), mode).unwrap();
        place.configure("");
        place
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn secret(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
        let mode = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(self.path(name), mode).unwrap();
    }

    pub fn configure(&self, more: &str) {
        let text = format!(
            r#"drain = "2s"
[proxy]
listen = ["127.0.0.1:0"]
[admin]
listen = "127.0.0.1:0"
socket = "admin.sock"
tokens = {{ alice = {{ env = "ALICE" }} }}
[audit]
file = "audit.jsonl"
[store]
sqlite = "keyward.db"
key = {{ file = "store.key" }}
[upstream]
trust = ["upstream-ca.pem"]
connect-to = {{ "api.test:443" = "{}" }}
[agent.a]
token = {{ env = "TOKEN_A" }}
[credential.own.command]
run = ["./plugin"]
[[route]]
hosts = ["api.test"]
credential = "own"
inject = "bearer"
{more}"#,
            self.upstream.address
        );
        std::fs::write(self.path("keyward.toml"), text).unwrap();
    }

    pub fn keyward(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_keyward"));
        command.env_clear().env("PATH", "/usr/bin:/bin");
        command.current_dir(self.folder.path()).stdin(Stdio::null());
        command
    }

    pub fn start(&self) -> Daemon {
        Daemon::start(self.keyward())
    }

    /// With these further arguments.
    pub fn start_with(&self, more: &[&str]) -> Daemon {
        Daemon::start_with(self.keyward(), more)
    }

    /// The lines that the plug-in wrote, once there are so many.
    pub async fn issuer(&self, lines: usize) -> Vec<String> {
        let mut found = Vec::new();
        for _ in 0..500 {
            let text = std::fs::read_to_string(self.path("issuer.log")).unwrap_or_default();
            found = text.lines().map(str::to_owned).collect();
            if found.len() >= lines {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("{lines} lines of the issuer, not {found:?}");
    }

    pub fn audit(&self, event: &str) -> Vec<Value> {
        let text = std::fs::read_to_string(self.path("audit.jsonl")).unwrap();
        text.lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap())
            .filter(|record| record["event"] == event)
            .collect()
    }

    /// Waits for a record of this event that this picks.
    pub async fn record(&self, event: &str, picks: impl Fn(&Value) -> bool) -> Value {
        for _ in 0..500 {
            if let Some(found) = self.audit(event).into_iter().find(|record| picks(record)) {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("no such record in {:#?}", self.audit(event));
    }

    /// Waits for a file of this name.
    pub async fn appears(&self, name: &str) {
        for _ in 0..500 {
            if self.path(name).exists() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{name} does not appear");
    }

    /// Runs a subcommand of an operator.
    pub fn operate(&self, words: &[&str], token: Option<&str>) -> Output {
        let mut command = self.keyward();
        command.args(words);
        if let Some(token) = token {
            command.env("KEYWARD_ADMIN_TOKEN", token);
        }
        let output = command.output().unwrap();
        for text in [&output.stdout, &output.stderr] {
            assert_eq!(canary::find(text), None);
        }
        output
    }

    /// Nothing that a process left on the disk holds a secret.
    pub fn search(&self) {
        for entry in std::fs::read_dir(self.folder.path()).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            if name.starts_with("keyward.db") || name.starts_with("audit") {
                let bytes = std::fs::read(&path).unwrap();
                assert_eq!(canary::find(&bytes), None, "{name}");
                assert!(memchr::memmem::find(&bytes, b"handle-").is_none(), "{name}");
            }
        }
    }
}

impl Daemon {
    /// Starts by this command of [`Place::keyward`]: another uid, more variables.
    pub fn start(command: Command) -> Self {
        Self::start_with(command, &[])
    }

    fn start_with(mut command: Command, more: &[&str]) -> Self {
        command.args(["serve", "-c", "keyward.toml"]).args(more);
        command.env("TOKEN_A", TOKEN_A).env("ALICE", ALICE);
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let (mut proxy, mut admin) = (None, None);
        let mut said = String::new();
        while proxy.is_none() || admin.is_none() {
            let Some(Ok(line)) = lines.next() else {
                panic!("keyward ended:\n{said}");
            };
            let line = plain(&line);
            let after = |word: &str| {
                let rest = line.split_once(word)?.1;
                rest.split([' ', '"']).find_map(|part| part.parse().ok())
            };
            if line.contains("admin listening") {
                admin = after("address=");
            } else if line.contains("listening") {
                proxy = after("addresses=").or_else(|| after("addresses=\""));
            }
            said.push_str(&line);
            said.push('\n');
        }
        let (sender, console) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                assert_eq!(canary::find(line.as_bytes()), None, "{line}");
                if line.starts_with("console ") {
                    sender.send(line).ok();
                }
            }
        });
        Daemon {
            child,
            proxy: proxy.unwrap(),
            admin: admin.unwrap(),
            console,
        }
    }

    pub async fn get(&self) -> u16 {
        let mut pem = String::new();
        let mut stream = std::net::TcpStream::connect(self.proxy).unwrap();
        std::io::Write::write_all(
            &mut stream,
            b"GET /ca.pem HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        )
        .unwrap();
        stream.read_to_string(&mut pem).unwrap();
        let pem = &pem[pem.find("-----BEGIN").unwrap()..];
        let transcript = Transcript::default();
        let agent = Agent::new(self.proxy, Some(TOKEN_A), pem, Arc::clone(&transcript));
        let status = agent.get("api.test:443", "/x").await.status;
        assert_eq!(canary::find(&transcript.lock()), None);
        status
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    pub fn kill(mut self) {
        self.signal(rustix::process::Signal::KILL);
        self.child.wait().unwrap();
    }

    /// Waits for its end.
    pub fn wait(mut self) -> std::process::ExitStatus {
        self.child.wait().unwrap()
    }

    /// Stops it as an init does; its exit code.
    pub fn stop(mut self) -> i32 {
        self.signal(rustix::process::Signal::TERM);
        self.child.wait().unwrap().code().unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// A line of the log without its colours.
fn plain(line: &str) -> String {
    let mut out = String::new();
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        if c == '\u{1b}' {
            for c in chars.by_ref() {
                if c.is_ascii_alphabetic() {
                    break;
                }
            }
        } else {
            out.push(c);
        }
    }
    out
}

fn handle(line: &str) -> &str {
    line.split_once(' ').unwrap().1
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn what_a_killed_daemon_left_is_revoked_at_the_next_start() {
    let place = Place::new().await;
    let first = place.start();
    assert_eq!(first.get().await, 200);
    let lines = place.issuer(1).await;
    first.kill();
    assert_eq!(place.issuer(1).await.len(), 1, "nobody revoked it");
    let issued = place.audit("issue");
    let second = place.start();
    let both = place.issuer(2).await;
    assert_eq!(both[1], format!("revoke {}", handle(&lines[0])));
    let revoked = place.record("revoke", |_| true).await;
    for (member, expected) in [
        ("lease", issued[0]["lease"].as_str().unwrap()),
        ("session", issued[0]["session"].as_str().unwrap()),
        ("agent", "a"),
        ("credential", "own"),
        ("reason", "shutdown"),
        ("outcome", "revoked"),
    ] {
        assert_eq!(revoked[member], expected, "{revoked}");
    }
    place.search();
    assert_eq!(mode(&place.path("keyward.db")), 0o600);
    assert_eq!(second.stop(), 0);
    assert_eq!(place.issuer(2).await.len(), 2, "it is revoked once");
}

#[tokio::test]
async fn a_stop_revokes_within_its_drain_and_what_it_could_not_the_next_start_does() {
    let place = Place::new().await;
    let first = place.start();
    assert_eq!(first.get().await, 200);
    assert_eq!(first.stop(), 0);
    let lines = place.issuer(2).await;
    assert_eq!(handle(&lines[0]), handle(&lines[1]));
    let second = place.start();
    assert_eq!(second.get().await, 200);
    let lines = place.issuer(3).await;
    std::fs::write(place.path("refuse"), "").unwrap();
    let began = Instant::now();
    assert_eq!(second.stop(), 0);
    assert!(
        began.elapsed() < Duration::from_secs(8),
        "{:?}",
        began.elapsed()
    );
    std::fs::remove_file(place.path("refuse")).unwrap();
    let third = place.start();
    let revoked = place.issuer(4).await;
    assert_eq!(revoked[3], format!("revoke {}", handle(&lines[2])));
    assert_eq!(third.stop(), 0);
    let tries = place.audit("revoke");
    let last = tries.last().unwrap();
    assert_eq!(last["outcome"], "revoked");
    assert!(
        last["attempt"].as_u64().unwrap() > 1,
        "it goes on counting: {last}"
    );
    place.search();
}

#[tokio::test]
async fn an_operators_command_line_lists_and_revokes() {
    let place = Place::new().await;
    let daemon = place.start();
    assert_eq!(daemon.get().await, 200);
    let listed = place.operate(&["lease", "list", "-c", "keyward.toml", "--json"], None);
    assert_eq!(listed.status.code(), Some(0));
    let items: Value = serde_json::from_slice(&listed.stdout).unwrap();
    let id = items[0]["lease"].as_str().unwrap().to_owned();
    let table = place.operate(&["lease", "list", "-c", "keyward.toml"], None);
    let table = String::from_utf8(table.stdout).unwrap();
    assert!(
        table.starts_with("lease ") && table.contains(&id),
        "{table}"
    );
    let url = format!("http://{}", daemon.admin);
    let code = |words: &[&str], token| place.operate(words, token).status.code();
    let revoke = ["lease", "revoke", &id, "--admin", &url];
    assert_eq!(code(&revoke, None), Some(64));
    assert_eq!(code(&revoke, Some("guess")), Some(1));
    assert_eq!(code(&revoke, Some(TOKEN_A)), Some(1), "an agent's token");
    assert_eq!(place.issuer(1).await.len(), 1);
    assert_eq!(code(&revoke, Some(ALICE)), Some(0));
    assert_eq!(place.issuer(2).await.len(), 2);
    // Until the journal has heard of it too it is still there, as `revoking`.
    let mut gone = false;
    for _ in 0..100 {
        gone = code(&revoke, Some(ALICE)) == Some(1);
        if gone {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(gone, "a lease that is revoked is not found any more");
    place
        .record("revoke", |record| record["by"] == "alice")
        .await;
    assert_eq!(daemon.get().await, 200);
    let all = place.operate(
        &[
            "lease",
            "revoke",
            "--credential",
            "own",
            "-c",
            "keyward.toml",
        ],
        None,
    );
    assert_eq!(String::from_utf8(all.stdout).unwrap(), "own: 1 revoked\n");
    assert_eq!(daemon.stop(), 0);
    let gone = place.operate(&["lease", "list", "-c", "keyward.toml"], None);
    assert_eq!(gone.status.code(), Some(69));
}

#[tokio::test]
async fn the_trail_is_asked_for_offline_and_over_the_api() {
    let place = Place::new().await;
    let daemon = place.start();
    for _ in 0..3 {
        assert_eq!(daemon.get().await, 200);
    }
    place
        .record("request", |record| record["status"] == 200)
        .await;
    let url = format!("http://{}", daemon.admin);
    let asked = |words: &[&str], token| {
        let output = place.operate(&[&["audit", "query"], words].concat(), token);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    // The last records of a connection may come a moment later: a span of time that is over does not grow.
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let until = jiff::Timestamp::now().to_string();
    let offline = asked(
        &["-c", "keyward.toml", "--agent", "a", "--until", &until],
        None,
    );
    let online = asked(
        &["--admin", &url, "--agent", "a", "--until", &until],
        Some(ALICE),
    );
    assert_eq!(offline, online, "the same records, byte for byte");
    assert!(offline.lines().count() >= 6, "{offline}");
    let none = asked(&["--admin", &url, "--host", "nowhere.test"], Some(ALICE));
    assert_eq!(none, "");
    let page = |query: &str, token: &str| {
        let mut stream = std::net::TcpStream::connect(daemon.admin).unwrap();
        let head = format!(
            "GET /api/v1/audit?{query} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n"
        );
        std::io::Write::write_all(&mut stream, head.as_bytes()).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse::<u16>().unwrap();
        (status, serde_json::from_str::<Value>(body).unwrap())
    };
    let (status, first) = page("limit=2", ALICE);
    assert_eq!((status, first["items"].as_array().unwrap().len()), (200, 2));
    assert_eq!(first["next"], first["items"][1]["seq"]);
    let (_, second) = page(&format!("limit=2&after={}", first["next"]), ALICE);
    assert_eq!(second["items"][0]["prev"], first["items"][1]["hash"]);
    for bad in ["limit=0", "limit=10001", "after=x", "since=yesterday"] {
        assert_eq!(page(bad, ALICE).0, 400, "{bad}");
    }
    assert_eq!(page("", TOKEN_A).0, 403);
    let verified = place.operate(&["audit", "verify", "-c", "keyward.toml"], None);
    assert_eq!(verified.status.code(), Some(0), "{verified:?}");
    assert_eq!(daemon.stop(), 0);
}

#[tokio::test]
async fn a_reload_by_order_is_taken_whole_or_not_at_all() {
    let place = Place::new().await;
    let daemon = place.start();
    let reload = |daemon: &Daemon| {
        let mut stream = std::net::TcpStream::connect(daemon.admin).unwrap();
        let head = format!(
            "POST /api/v1/reload HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {ALICE}\r\nConnection: close\r\n\r\n"
        );
        std::io::Write::write_all(&mut stream, head.as_bytes()).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    };
    let text = reload(&daemon);
    assert!(
        text.starts_with("HTTP/1.1 200")
            && text.ends_with("{\"outcome\":\"loaded\",\"needs-restart\":[]}"),
        "{text}"
    );
    let by_alice = |outcome: &'static str| {
        move |record: &Value| record["by"] == "alice" && record["outcome"] == outcome
    };
    place.record("config", by_alice("loaded")).await;
    place.configure("[ca]\ndir = \"ca\"\n");
    let text = reload(&daemon);
    assert!(
        text.starts_with("HTTP/1.1 200") && text.ends_with("\"needs-restart\":[\"[ca]\"]}"),
        "{text}"
    );
    place.configure("[[route]]\nhosts = [\"b.test\"]\nno-such-key = 1\n");
    let text = reload(&daemon);
    assert!(
        text.starts_with("HTTP/1.1 409") && text.contains("no-such-key"),
        "{text}"
    );
    place.record("config", by_alice("rejected")).await;
    assert_eq!(daemon.get().await, 200, "the old one stays");
    assert_eq!(daemon.stop(), 0);
}

#[tokio::test]
async fn another_key_stops_the_start_and_check_sees_one_that_is_none() {
    let place = Place::new().await;
    assert_eq!(place.start().stop(), 0);
    place.secret("store.key", "CAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAg=");
    let mut serve = place.keyward();
    serve.args(["serve", "-c", "keyward.toml"]);
    let output = serve
        .env("TOKEN_A", TOKEN_A)
        .env("ALICE", ALICE)
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(78), "{said}");
    assert!(said.contains("made with another key"), "{said}");
    place.secret("store.key", "hunter2hunter2");
    let check = place.operate(&["check", "-c", "keyward.toml"], None);
    let said = String::from_utf8(check.stdout).unwrap();
    assert_eq!(check.status.code(), Some(78), "{said}");
    assert!(
        said.contains("not 32 bytes in base64") && !said.contains("hunter2"),
        "{said}"
    );
}

/// The same with a real OpenBao, whose lease is a user of a real PostgreSQL.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_user_of_a_killed_daemon_is_gone_after_the_next_start() {
    use super::vault_server::{Bao, Postgres, ROOT};
    let (Some(bao), Some(postgres)) = (Bao::start().await, Postgres::start().await) else {
        return;
    };
    postgres.engine(&bao, "10m").await;
    let place = Place::new().await;
    place.secret("vault", ROOT);
    let text = std::fs::read_to_string(place.path("keyward.toml")).unwrap();
    let vault = format!(
        "[credential.own.vault]\nurl = \"http://{}\"\nlogin = {{ token = {{ file = \"vault\" }} }}\n\
         path = \"database/creds/readonly\"\nfield = \"password\"\n",
        bao.address
    );
    let text = text.replace("[credential.own.command]\nrun = [\"./plugin\"]\n", &vault);
    std::fs::write(place.path("keyward.toml"), text).unwrap();
    let first = place.start();
    assert_eq!(first.get().await, 200);
    first.kill();
    assert_eq!(postgres.users().len(), 1, "nobody revoked it");
    let second = place.start();
    assert!(postgres.settles_at(0).await, "{:?}", postgres.users());
    place
        .record("revoke", |one| one["outcome"] == "revoked")
        .await;
    assert_eq!(second.get().await, 200);
    assert_eq!(postgres.users().len(), 1);
    assert_eq!(second.stop(), 0);
    assert_eq!(postgres.users(), Vec::<String>::new(), "and after a stop");
    place.search();
}
