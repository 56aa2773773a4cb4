//! `[trust.NAME.peer]`: real processes at the other end of unix sockets and loopback connections.

use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use tokio::process::Command;

use super::super::harness::{BEARER, Harness, Setup, TOKEN_A};
use super::super::upstream::Upstream;

/// A copy of curl at this path: another executable to the kernel, with the same content.
pub fn copy(folder: &Path, name: &str) -> PathBuf {
    let to = folder.join(name);
    std::fs::copy(curl(), &to).unwrap();
    std::fs::set_permissions(&to, std::fs::Permissions::from_mode(0o755)).unwrap();
    to.canonicalize().unwrap()
}

pub fn curl() -> PathBuf {
    Path::new("/usr/bin/curl").canonicalize().unwrap()
}

pub fn sha256(path: &Path) -> String {
    let sum = digest(&SHA256, &std::fs::read(path).unwrap());
    sum.as_ref().iter().map(|b| format!("{b:02x}")).collect()
}

/// Asks the proxy for `https://api.test/` with this program, and gives the status of the CONNECT.
pub async fn ask(program: &Path, proxy: &str) -> String {
    let mut command = Command::new(program);
    command.args([
        "-s",
        "-k",
        "-o",
        "/dev/null",
        "-w",
        "%{http_connect} %{http_code}",
    ]);
    command.args(["-x", proxy]);
    let asked = command
        .arg("https://api.test/")
        .env_clear()
        .stdin(Stdio::null())
        .output();
    let Output { stdout, .. } = asked.await.unwrap();
    String::from_utf8(stdout).unwrap()
}

pub fn proxy(harness: &Harness) -> String {
    format!("http://{}", harness.app().listeners()[0].2[0])
}

pub async fn start(trust: &str, upstream: &Upstream) -> Harness {
    let routes = format!("{BEARER}{trust}");
    Setup::new(&routes)
        .to("api.test:443", upstream)
        .start()
        .await
}

/// Two processes of one user, told apart by their executables alone; neither has a token.
#[tokio::test]
async fn two_processes_are_told_apart_by_their_executables() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (copy(folder.path(), "first"), copy(folder.path(), "second"));
    let third = copy(folder.path(), "third");
    let upstream = Upstream::echo(&["http/1.1"]).await;
    let trust = format!(
        "[trust.one]\nagent = {{ id = \"a\" }}\npeer = {{ executables = [\"{}\"], uids = [{}] }}\n\
         [trust.two]\nagent = {{ map = {{ \"*/second\" = \"b\" }} }}\npeer = {{ executables = [\"{}\"] }}\n",
        first.display(),
        rustix::process::geteuid().as_raw(),
        second.display(),
    );
    let harness = start(&trust, &upstream).await;
    assert_eq!(ask(&first, &proxy(&harness)).await, "200 200");
    assert_eq!(ask(&second, &proxy(&harness)).await, "200 200");
    for (agent, trust) in [("a", "one"), ("b", "two")] {
        let picks = |r: &serde_json::Value| r["event"] == "session-start" && r["agent"] == agent;
        assert_eq!(harness.record(picks).await["trust"], trust);
    }
    // The same content at a third path, and the system's own.
    for stranger in [third, curl()] {
        assert_eq!(
            ask(&stranger, &proxy(&harness)).await,
            "407 000",
            "{}",
            stranger.display()
        );
    }
    harness.finish().await;
}

/// Two programs that are one agent, at one address: each has a session of its own, and none is bound to the other's file.
#[tokio::test]
async fn each_program_of_an_agent_has_its_own_session() {
    let folder = tempfile::tempdir().unwrap();
    let programs = [copy(folder.path(), "first"), copy(folder.path(), "second")];
    let upstream = Upstream::echo(&["http/1.1"]).await;
    let trust = format!(
        "[trust.one]\nagent = {{ id = \"a\" }}\npeer = {{ executables = [\"{}\", \"{}\"] }}\n",
        programs[0].display(),
        programs[1].display(),
    );
    let harness = start(&trust, &upstream).await;
    for program in [0, 1, 0, 1] {
        assert_eq!(ask(&programs[program], &proxy(&harness)).await, "200 200");
    }
    let mut started = harness.audit();
    started.retain(|record| record["event"] == "session-start");
    let uid = rustix::process::geteuid().as_raw();
    let bound: Vec<_> = started
        .iter()
        .map(|record| record["bound"].clone())
        .collect();
    let own = programs.map(|program| format!("process:{uid} {}", program.display()));
    assert_eq!(bound, own);
    harness.finish().await;
}

/// The right path with another content, a deleted file, a symlink, and a file that only a name space has.
#[tokio::test]
async fn a_path_is_not_enough_where_the_content_differs() {
    let folder = tempfile::tempdir().unwrap();
    let program = copy(folder.path(), "agent");
    let upstream = Upstream::echo(&["http/1.1"]).await;
    let trust = format!(
        "[trust.one]\nagent = {{ id = \"a\" }}\npeer = {{ executables = [\"{}\"], sha256 = [\"{}\"] }}\n",
        program.display(),
        sha256(&program),
    );
    let harness = start(&trust, &upstream).await;
    assert_eq!(ask(&program, &proxy(&harness)).await, "200 200");

    // A symlink to it runs it, and so is it; a symlink at its path to another file is not.
    let link = folder.path().join("link");
    symlink(&program, &link).unwrap();
    assert_eq!(ask(&link, &proxy(&harness)).await, "200 200");
    std::fs::rename(&program, folder.path().join("moved")).unwrap();
    symlink(curl(), &program).unwrap();
    assert_eq!(
        ask(&program, &proxy(&harness)).await,
        "407 000",
        "a symlink in its place"
    );

    // The same path, one byte more.
    std::fs::remove_file(&program).unwrap();
    let mut bytes = std::fs::read(folder.path().join("moved")).unwrap();
    bytes.push(0);
    std::fs::write(&program, bytes).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(
        ask(&program, &proxy(&harness)).await,
        "407 000",
        "another content"
    );
    harness.finish().await;
}

/// A process in a mount namespace of its own can have any file at any path.
#[tokio::test]
async fn a_file_that_only_a_mount_namespace_has_at_that_path_is_another() {
    let folder = tempfile::tempdir().unwrap();
    let (program, other) = (copy(folder.path(), "agent"), copy(folder.path(), "other"));
    let upstream = Upstream::echo(&["http/1.1"]).await;
    let trust = format!(
        "[trust.one]\nagent = {{ id = \"a\" }}\npeer = {{ executables = [\"{}\"] }}\n",
        program.display(),
    );
    let harness = start(&trust, &upstream).await;
    assert_eq!(ask(&program, &proxy(&harness)).await, "200 200");
    let script = format!(
        "mount --bind '{}' '{}' && exec '{}' -s -k -o /dev/null -w '%{{http_connect}} %{{http_code}}' -x {} https://api.test/",
        other.display(),
        program.display(),
        program.display(),
        proxy(&harness),
    );
    let asked = Command::new("unshare")
        .args(["-rm", "sh", "-c", &script])
        .output()
        .await;
    let output = asked.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    if text.is_empty() {
        let why = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            std::env::var_os("CI").is_none(),
            "no mount namespace: {why}"
        );
        println!("skipped: no mount namespace here: {why}");
    } else {
        assert_eq!(text, "407 000");
    }
    harness.finish().await;
}

/// What does not match leaves the agent to the next table, and to its token at last.
#[tokio::test]
async fn a_stranger_with_a_token_is_who_the_token_says() {
    let upstream = Upstream::echo(&["http/1.1"]).await;
    let other_uid = rustix::process::geteuid().as_raw() + 1;
    let trust = format!(
        "[trust.one]\nagent = {{ id = \"b\" }}\npeer = {{ uids = [{other_uid}] }}\n\
         [trust.two]\nagent = {{ id = \"b\" }}\npeer = {{ cgroups = [\"/no/such/group\"] }}\n\
         [trust.three]\nagent = {{ id = \"b\" }}\npeer = {{ sha256 = [\"{}\"] }}\n",
        "0".repeat(64),
    );
    let harness = start(&trust, &upstream).await;
    assert_eq!(ask(&curl(), &proxy(&harness)).await, "407 000");
    let with_token = proxy(&harness).replace("http://", &format!("http://x:{TOKEN_A}@"));
    assert_eq!(ask(&curl(), &with_token).await, "200 200");
    let record = harness.record(|r| r["event"] == "session-start").await;
    assert_eq!(
        (&record["agent"], &record["trust"]),
        (&"a".into(), &"token".into())
    );
    harness.finish().await;
}

/// A process whose executable no row of the map names is refused, and not passed on.
#[tokio::test]
async fn a_match_without_an_agent_is_refused() {
    let upstream = Upstream::echo(&["http/1.1"]).await;
    let uid = rustix::process::geteuid().as_raw();
    let trust = format!(
        "[trust.one]\nagent = {{ map = {{ \"/opt/agents/*\" = \"b\" }} }}\npeer = {{ uids = [{uid}] }}\n"
    );
    let harness = start(&trust, &upstream).await;
    let with_token = proxy(&harness).replace("http://", &format!("http://x:{TOKEN_A}@"));
    assert_eq!(ask(&curl(), &with_token).await, "407 000");
    harness.finish().await;
}

/// A token that one program got is nothing in another program's hands, at the same address and by the same user.
#[tokio::test]
async fn a_token_got_by_a_process_is_refused_from_another_executable() {
    let folder = tempfile::tempdir().unwrap();
    let (own, thief) = (copy(folder.path(), "own"), copy(folder.path(), "thief"));
    let upstream = Upstream::echo(&["http/1.1"]).await;
    let trust = format!(
        "[trust.one]\nagent = {{ id = \"a\" }}\npeer = {{ executables = [\"{}\"] }}\n",
        own.display(),
    );
    let harness = start(&trust, &upstream).await;
    let mut command = Command::new(&own);
    command.args(["-s", "-d", "grant_type=client_credentials"]);
    let asked = command
        .arg(format!("{}/token", proxy(&harness)))
        .env_clear()
        .output();
    let granted: serde_json::Value = serde_json::from_slice(&asked.await.unwrap().stdout).unwrap();
    let token = granted["access_token"].as_str().expect("a token");
    let with_token = proxy(&harness).replace("http://", &format!("http://x:{token}@"));
    assert_eq!(ask(&own, &with_token).await, "200 200");
    assert_eq!(ask(&thief, &with_token).await, "407 000");
    let picks = |r: &serde_json::Value| r["event"] == "connect" && r["word"] == "wrong-peer";
    harness.record(picks).await;
    harness.finish().await;
}

/// Over a unix socket: python speaks CONNECT on it; the interpreter's path decides.
#[tokio::test]
async fn a_process_on_a_unix_socket_is_known_by_its_executable() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("proxy.sock");
    let script = "import os, socket, sys\n\
        print(os.readlink('/proc/self/exe'), flush=True)\n\
        s = socket.socket(socket.AF_UNIX)\n\
        s.connect(sys.argv[1])\n\
        s.sendall(b'CONNECT api.test:443 HTTP/1.1\\r\\nHost: api.test:443\\r\\n\\r\\n')\n\
        print(s.recv(64).split()[1].decode())\n";
    let run = |program: &'static str| {
        let socket = socket.clone();
        async move {
            let mut command = Command::new(program);
            command.args(["-c", script]).arg(&socket);
            let run = tokio::time::timeout(Duration::from_secs(20), command.output());
            let output = run.await.unwrap().unwrap();
            String::from_utf8(output.stdout).unwrap()
        }
    };
    // Which file `python3` is, nobody knows before it has run.
    let executable = run("python3").await.lines().next().unwrap().to_owned();
    for (path, status) in [(executable.as_str(), "200"), ("/usr/bin/curl", "407")] {
        let upstream = Upstream::echo(&["http/1.1"]).await;
        let trust = format!(
            "{BEARER}[trust.one]\nagent = {{ id = \"a\" }}\npeer = {{ executables = [\"{path}\"] }}\n"
        );
        let harness = Setup::new(&trust)
            .proxy(&format!("listen = [\"unix:{}\"]", socket.display()))
            .to("api.test:443", &upstream)
            .start()
            .await;
        let text = run("python3").await;
        assert_eq!(text.lines().nth(1), Some(status), "{path}: {text}");
        harness.finish().await;
    }
}
