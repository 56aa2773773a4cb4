//! Processes that would pass for another: by what they run, by what they hand on, and by what stands at a path.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::process::Command;

use super::super::harness::{BEARER, Harness, Setup};
use super::super::upstream::Upstream;
use super::peer::{ask, copy, curl, proxy, sha256, start};

/// A program that waits for long enough, at a path of its own.
fn sleeper(folder: &Path) -> PathBuf {
    let to = folder.join("agent");
    std::fs::copy("/bin/sleep", &to).unwrap();
    std::fs::set_permissions(&to, std::fs::Permissions::from_mode(0o755)).unwrap();
    to.canonicalize().unwrap()
}

fn running(executable: &Path) -> String {
    format!("executables = [\"{}\"]", executable.display())
}

/// Whether a network namespace can be made here. Where tests must not be left out, it must.
#[expect(clippy::print_stdout, reason = "a test that is left out says so")]
async fn has_networks() -> bool {
    let made = Command::new("unshare").args(["-Un", "true"]).output().await;
    let made = made.unwrap();
    let why = String::from_utf8_lossy(&made.stderr);
    if !made.status.success() {
        assert!(
            std::env::var_os("CI").is_none(),
            "no network namespace: {why}"
        );
        println!("skipped: no network namespace here: {why}");
    }
    made.status.success()
}

async fn on_unix(peer: &str, socket: &Path) -> Harness {
    let upstream = Upstream::echo(&["http/1.1"]).await;
    let trust = format!("{BEARER}[trust.one]\nagent = {{ id = \"a\" }}\npeer = {{ {peer} }}\n");
    let listen = format!("listen = [\"unix:{}\", \"127.0.0.1:0\"]", socket.display());
    let setup = Setup::new(&trust).proxy(&listen);
    setup.to("api.test:443", &upstream).start().await
}

/// Connects, and leaves its end to a child while it becomes the agent's program itself. The child asks.
const LEAVES_IT: &str = "import os, signal, socket, sys, time\n\
    where, agent, keeps = sys.argv[1:]\n\
    if where.startswith('/'):\n\
    \x20   s = socket.socket(socket.AF_UNIX)\n\
    \x20   s.connect(where)\n\
    else:\n\
    \x20   host, port = where.rsplit(':', 1)\n\
    \x20   s = socket.create_connection((host, int(port)))\n\
    s.set_inheritable(keeps == 'keeps')\n\
    first = os.getpid()\n\
    if os.fork() == 0:\n\
    \x20   while os.readlink(f'/proc/{first}/exe') != agent:\n\
    \x20       time.sleep(0.01)\n\
    \x20   s.settimeout(20)\n\
    \x20   s.sendall(b'CONNECT api.test:443 HTTP/1.1\\r\\nHost: api.test:443\\r\\n\\r\\n')\n\
    \x20   said = s.recv(64)\n\
    \x20   os.kill(first, signal.SIGKILL)\n\
    \x20   print(said.split()[1].decode() if said else 'closed', flush=True)\n\
    else:\n\
    \x20   os.execv(agent, [agent, '60'])\n";

/// A stranger connects and forks; the one who connected becomes the agent's program by `exec`, and the other speaks: on a
/// socket that both hold, and on one that the new program has not.
#[tokio::test]
async fn who_connected_is_not_enough_where_another_speaks() {
    let folder = tempfile::tempdir().unwrap();
    let (agent, socket) = (sleeper(folder.path()), folder.path().join("proxy.sock"));
    let harness = on_unix(&running(&agent), &socket).await;
    let tcp = proxy(&harness).replace("http://", "");
    for place in [socket.to_str().unwrap(), &tcp] {
        for keeps in ["keeps", "closes"] {
            let asked = Command::new("python3")
                .args(["-c", LEAVES_IT, place])
                .arg(&agent)
                .arg(keeps)
                .output();
            let output = tokio::time::timeout(Duration::from_secs(40), asked).await;
            let output = output.unwrap().unwrap();
            let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
            let why = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(said, "407", "{place} {keeps}: {why}");
        }
    }
    harness.finish().await;
}

/// The same stranger in a network namespace of its own, whose sockets the kernel tells us nothing about.
#[tokio::test]
async fn who_speaks_from_another_network_is_not_taken_for_a_program() {
    if !has_networks().await {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (agent, socket) = (sleeper(folder.path()), folder.path().join("proxy.sock"));
    let sum = format!("sha256 = [\"{}\"]", sha256(&agent));
    for peer in [running(&agent), sum] {
        let harness = on_unix(&peer, &socket).await;
        for keeps in ["keeps", "closes"] {
            let asked = Command::new("unshare")
                .args(["-Un", "python3", "-c", LEAVES_IT])
                .args([&socket, &agent])
                .arg(keeps)
                .output();
            let output = tokio::time::timeout(Duration::from_secs(40), asked).await;
            let output = output.unwrap().unwrap();
            let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
            let why = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(said, "407", "{peer} {keeps}: {why}");
        }
        harness.finish().await;
    }
}

/// Containers that share a socket: their users and control groups count in every network, and a session is bound to those.
#[tokio::test]
async fn a_user_and_a_control_group_count_in_every_network() {
    if !has_networks().await {
        return;
    }
    let script = "import json, socket, sys\n\
        def say(text):\n\
        \x20   s = socket.socket(socket.AF_UNIX)\n\
        \x20   s.settimeout(20)\n\
        \x20   s.connect(sys.argv[1])\n\
        \x20   s.sendall(text.replace('\\n', '\\r\\n').encode())\n\
        \x20   f = s.makefile('rb')\n\
        \x20   status, length = f.readline().split()[1].decode(), 0\n\
        \x20   for line in iter(f.readline, b'\\r\\n'):\n\
        \x20       name, value = line.decode().split(':', 1)\n\
        \x20       length = int(value) if name.lower() == 'content-length' else length\n\
        \x20   return status, f.read(length)\n\
        connect = 'CONNECT api.test:443 HTTP/1.1\\nHost: api.test:443\\n'\n\
        first, _ = say(connect + '\\n')\n\
        form = 'grant_type=client_credentials'\n\
        kind = 'Content-Type: application/x-www-form-urlencoded'\n\
        granted, body = say(f'POST /token HTTP/1.1\\nHost: localhost\\n{kind}\\nContent-Length: {len(form)}\\n\\n{form}')\n\
        token = json.loads(body).get('access_token', '')\n\
        bound, _ = say(f'{connect}Proxy-Authorization: Bearer {token}\\n\\n')\n\
        print(first, granted, bound)\n";
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("proxy.sock");
    let uid = rustix::process::geteuid().as_raw();
    let mut cases = vec![
        (format!("uids = [{uid}]"), "200 200 200"),
        (format!("uids = [{}]", uid + 4242), "407 401 407"),
    ];
    // Where the machine puts us in one.
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap();
    let own = own.lines().find_map(|line| line.strip_prefix("0::"));
    let own = own.filter(|own| *own != "/");
    cases.extend(own.map(|own| (format!("cgroups = [\"{own}\"]"), "200 200 200")));
    for (peer, expected) in &cases {
        let harness = on_unix(peer, &socket).await;
        for own in [false, true] {
            let mut command = if own {
                let mut command = Command::new("unshare");
                command.args(["-Un", "python3"]);
                command
            } else {
                Command::new("python3")
            };
            let asked = command.args(["-c", script]).arg(&socket).output();
            let output = tokio::time::timeout(Duration::from_secs(40), asked).await;
            let output = output.unwrap().unwrap();
            let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
            let why = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(said, *expected, "{peer} {own}: {why}");
        }
        harness.finish().await;
    }
}

/// The same content without the path: a hard link, a file in memory, and one that was deleted.
#[tokio::test]
async fn the_content_at_another_place_is_not_the_executable() {
    let folder = tempfile::tempdir().unwrap();
    let program = copy(folder.path(), "agent");
    let link = folder.path().join("hard");
    std::fs::hard_link(&program, &link).unwrap();
    let upstream = Upstream::echo(&["http/1.1"]).await;
    let trust = format!(
        "[trust.one]\nagent = {{ id = \"a\" }}\npeer = {{ executables = [\"{}\"] }}\n",
        program.display(),
    );
    let harness = start(&trust, &upstream).await;
    let at = proxy(&harness);
    assert_eq!(ask(&program, &at).await, "200 200");
    assert_eq!(ask(&link, &at).await, "407 000", "a hard link");
    // A link to the file is resolved before it runs: it is the file.
    let soft = folder.path().join("soft");
    std::os::unix::fs::symlink(&program, &soft).unwrap();
    assert_eq!(ask(&soft, &at).await, "200 200");
    let words = "['agent', '-s', '-k', '-o', '/dev/null', '-w', '%{http_connect} %{http_code}', '-x', proxy, 'https://api.test/']";
    for (what, open) in [
        (
            "in memory",
            "f = os.memfd_create('agent', 0)\nos.write(f, open(program, 'rb').read())",
        ),
        (
            "deleted",
            "import shutil\nshutil.copy2(program, program + '.x')\nf = os.open(program + '.x', os.O_RDONLY)\n\
             os.set_inheritable(f, True)\nos.unlink(program + '.x')",
        ),
        (
            "deleted, and the right file in its place",
            "import shutil\nshutil.copy2(program, program + '.y')\nf = os.open(program, os.O_RDONLY)\n\
             os.set_inheritable(f, True)\nos.rename(program + '.y', program)",
        ),
    ] {
        let script = format!(
            "import os, sys\nprogram, proxy = sys.argv[1:]\n{open}\nos.execv(f'/proc/self/fd/{{f}}', {words})\n"
        );
        let asked = Command::new("python3")
            .args(["-c", &script])
            .arg(&program)
            .arg(&at)
            .output();
        let output = asked.await.unwrap();
        let why = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(
            String::from_utf8(output.stdout).unwrap(),
            "407 000",
            "{what}: {why}"
        );
    }
    // A script is no executable: what runs is its interpreter.
    let script = folder.path().join("script");
    let text = format!(
        "#!/bin/sh\nexec '{}' -s -k -o /dev/null -w '%{{http_connect}} %{{http_code}}' -x {at} https://api.test/\n",
        curl().display()
    );
    std::fs::write(&script, text).unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    harness.finish().await;
    let trust = format!(
        "[trust.one]\nagent = {{ id = \"a\" }}\npeer = {{ executables = [\"{}\"] }}\n",
        script.display(),
    );
    let harness = start(&trust, &upstream).await;
    let text = std::fs::read_to_string(&script)
        .unwrap()
        .replace(&at, &proxy(&harness));
    std::fs::write(&script, text).unwrap();
    let output = Command::new(&script).output().await.unwrap();
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        "407 000",
        "a script"
    );
    harness.finish().await;
}

/// What a user namespace calls its user is its own affair: counted is who it is outside.
#[tokio::test]
async fn a_user_of_a_namespace_is_who_it_is_outside() {
    let own = rustix::process::geteuid().as_raw();
    let other = own + 4242;
    for (uid, expected) in [(own, "200 200"), (other, "407 000")] {
        let upstream = Upstream::echo(&["http/1.1"]).await;
        let trust = format!("[trust.one]\nagent = {{ id = \"a\" }}\npeer = {{ uids = [{uid}] }}\n");
        let harness = start(&trust, &upstream).await;
        let at = proxy(&harness);
        let script = format!(
            "id -u >&2; exec curl -s -k -o /dev/null -w '%{{http_connect}} %{{http_code}}' -x {at} https://api.test/"
        );
        let mapped = format!("--map-user={other}");
        let asked = Command::new("unshare")
            .args(["-U", &mapped, "sh", "-c", &script])
            .output();
        let output = asked.await.unwrap();
        let (text, why) = (
            String::from_utf8(output.stdout).unwrap(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        );
        if text.is_empty() {
            assert!(std::env::var_os("CI").is_none(), "no user namespace: {why}");
            println!("skipped: no user namespace here: {why}");
        } else {
            assert!(why.contains(&other.to_string()), "it is mapped: {why}");
            assert_eq!(text, expected, "{uid}");
        }
        harness.finish().await;
    }
}
