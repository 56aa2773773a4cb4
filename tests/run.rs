//! `keyward run` as its user has it: what the command gets, what it cannot find, and how it ends.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

const CANARY: &str = "sk-canary-7f3a9c51d2e84b06";
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A home of its own for each test, in which the audit trail lies.
fn home() -> TempDir {
    tempfile::tempdir_in("/tmp").unwrap()
}

/// `keyward run OPTIONS -- COMMAND` under an environment that holds nothing else.
fn keyward(home: &Path, options: &[&str], command: &[&str]) -> Command {
    let mut run = Command::new(env!("CARGO_BIN_EXE_keyward"));
    run.arg("run").args(options).arg("--").args(command);
    run.env_clear().env("PATH", PATH).env("HOME", home);
    run.current_dir(home).stdin(Stdio::null());
    run
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn environment(output: &Output) -> HashMap<String, String> {
    let lines = out(output);
    let pairs = lines.lines().filter_map(|line| line.split_once('='));
    pairs
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

/// Searches all that a process can reach, memory included, for the bytes that its argument gives in hex.
const SEARCH: &str = r#"
import os, sys
needle = bytes.fromhex(sys.argv[1])
def look(name, read):
    try:
        if needle in read(): print("FOUND", name)
    except (OSError, ValueError, OverflowError): pass
def whole(name): return lambda: open(name, "rb").read()
def memory(pid):
    def read():
        with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb") as mem:
            for line in maps:
                if " rw" not in line: continue
                start, end = (int(x, 16) for x in line.split()[0].split("-"))
                mem.seek(start)
                try:
                    if needle in mem.read(end - start): return needle
                except OSError: pass
        return b""
    return read
pids = [pid for pid in os.listdir("/proc") if pid.isdigit()]
for pid in pids if len(pids) < 10 else [os.getpid(), os.getppid()]:
    for part in ("environ", "cmdline"): look(f"/proc/{pid}/{part}", whole(f"/proc/{pid}/{part}"))
    if int(pid) != os.getpid(): look(f"/proc/{pid}/mem", memory(pid))
tops = [os.environ["HOME"], os.path.dirname(os.environ.get("SSL_CERT_FILE", "/nowhere/x"))]
for top in tops:
    for folder, _, names in os.walk(top):
        for name in names: look(os.path.join(folder, name), whole(os.path.join(folder, name)))
print("searched", len(pids))
"#;

fn hex(text: &str) -> String {
    text.bytes().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").unwrap();
        hex
    })
}

#[test]
fn the_command_cannot_find_the_key_anywhere() {
    let home = home();
    let needle = hex(CANARY);
    // The search itself: without keyward it finds the key, and where it may look also in its parent's memory.
    let bare = Command::new("python3")
        .args(["-c", SEARCH, &needle])
        .env_clear()
        .env("PATH", PATH)
        .env("HOME", home.path())
        .env("ANTHROPIC_API_KEY", CANARY)
        .output()
        .unwrap();
    assert!(out(&bare).contains("FOUND"), "{}", err(&bare));
    if rustix::process::geteuid().is_root() {
        let memory = format!("FOUND /proc/{}/mem", std::process::id());
        assert!(out(&bare).contains(&memory), "{}", out(&bare));
    }
    let command = ["python3", "-c", SEARCH, &needle];
    for options in [&[][..], &["--isolate"]] {
        let output = keyward(home.path(), options, &command)
            .env("ANTHROPIC_API_KEY", CANARY)
            .output()
            .unwrap();
        let text = out(&output);
        assert!(text.contains("searched"), "{text}{}", err(&output));
        assert!(!text.contains("FOUND"), "{text}");
        assert!(!err(&output).contains(CANARY));
        assert_eq!(output.status.code(), Some(0));
    }
    let mut trail = String::new();
    for file in fs::read_dir(home.path().join(".local/state/keyward")).unwrap() {
        let bytes = fs::read(file.unwrap().path()).unwrap();
        trail.push_str(&String::from_utf8_lossy(&bytes));
    }
    assert!(trail.contains("\"event\":\"start\"") && !trail.contains(CANARY));
}

#[test]
fn the_command_gets_proxy_certificates_token_and_placeholder() {
    let home = home();
    let script = "env; grep -c BEGIN.CERT \"$NODE_EXTRA_CA_CERTS\"; \
                  test -s \"$SSL_CERT_FILE\" && stat -c mode=%a \"$(dirname \"$SSL_CERT_FILE\")\"";
    let output = keyward(home.path(), &[], &["sh", "-c", script])
        .env("ANTHROPIC_API_KEY", CANARY)
        .env("ALL_PROXY", "socks5://127.0.0.1:1")
        .env("PLAIN", "stays")
        .output()
        .unwrap();
    let given = environment(&output);
    let token = &given["KEYWARD_TOKEN"];
    // A session token (a JWT) of no more bytes than clients take in the URL of a proxy.
    assert!(
        token.starts_with("eyJ") && token.matches('.').count() == 2,
        "{token}"
    );
    assert!(token.len() < 700, "{}", token.len());
    let address = given["KEYWARD_URL"].strip_prefix("http://").unwrap();
    assert!(address.starts_with("127.0.0.1:"));
    let proxy = format!("http://default:{token}@{address}");
    for name in ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy"] {
        assert_eq!(given[name], proxy);
    }
    for name in ["NO_PROXY", "no_proxy"] {
        assert_eq!(given[name], "localhost,127.0.0.1,::1");
    }
    for name in [
        "SSL_CERT_FILE",
        "REQUESTS_CA_BUNDLE",
        "CURL_CA_BUNDLE",
        "GIT_SSL_CAINFO",
        "AWS_CA_BUNDLE",
        "PIP_CERT",
        "CARGO_HTTP_CAINFO",
        "npm_config_cafile",
        "CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE",
        "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
        "DENO_CERT",
    ] {
        assert_eq!(given[name], given["SSL_CERT_FILE"], "{name}");
    }
    assert_eq!(given["NODE_USE_ENV_PROXY"], "1");
    assert!(given["ANTHROPIC_API_KEY"].starts_with("sk-ant-api03-keyward-"));
    assert_eq!(given["PLAIN"], "stays");
    assert_eq!(given["mode"], "700");
    assert!(!given.contains_key("ALL_PROXY"));
    assert!(out(&output).contains("\n1\n"), "one root of ours alone");
    assert!(
        !Path::new(&given["SSL_CERT_FILE"]).exists(),
        "gone with the session"
    );
    let last = err(&output).lines().last().unwrap().to_owned();
    assert_eq!(
        last,
        "keyward: 0 requests, 0 tunnels, 0 hosts, 0 refusals; no credential used"
    );
}

#[test]
fn a_program_that_trusts_the_bundle_trusts_the_systems_roots_and_ours() {
    let home = home();
    fs::write(
        home.path().join("corp.pem"),
        certificate(home.path(), "corp"),
    )
    .unwrap();
    let script = "grep -c BEGIN.CERT \"$SSL_CERT_FILE\"; cat \"$SSL_CERT_FILE\"";
    let output = keyward(home.path(), &[], &["sh", "-c", script])
        .env("REQUESTS_CA_BUNDLE", home.path().join("corp.pem"))
        .output()
        .unwrap();
    let text = out(&output);
    let held: usize = text.lines().next().unwrap().parse().unwrap();
    let system = fs::read_to_string("/etc/ssl/certs/ca-certificates.crt").unwrap_or_default();
    let of_system = system.matches("BEGIN CERT").count();
    assert_eq!(held, of_system + 2, "ours, the caller's and the system's");
    let corp = fs::read_to_string(home.path().join("corp.pem")).unwrap();
    assert!(text.contains(corp.trim()));
}

#[test]
fn without_a_file_a_known_host_is_intercepted_and_judged() {
    let home = home();
    // Refused by the preset before anything goes upstream: a request that would mint a credential.
    let script = "curl -sS -m 20 -o body -w '%{http_code} %header{keyward-refusal} %{ssl_verify_result}' -X POST \
                  https://api.anthropic.com/v1/organizations/invites; cat body";
    let output = keyward(home.path(), &[], &["sh", "-c", script])
        .env("ANTHROPIC_API_KEY", CANARY)
        .output()
        .unwrap();
    let text = out(&output);
    assert!(text.starts_with("403 denied 0"), "{text}{}", err(&output));
    assert!(text.contains("urn:keyward:refusal:denied"), "{text}");
    let last = err(&output).lines().last().unwrap().to_owned();
    assert!(
        last.contains("1 request, ") && last.contains("1 refusal (denied)"),
        "{last}"
    );
}

#[test]
fn git_shows_its_token_before_it_is_asked() {
    let home = home();
    let script = "git ls-remote https://api.openai.com/x.git; echo $?";
    let output = keyward(home.path(), &["--strict"], &["sh", "-c", script])
        .output()
        .unwrap();
    assert!(out(&output).ends_with("128\n"), "{}", out(&output));
    let trail = home.path().join(".local/state/keyward/audit.jsonl");
    let trail = fs::read_to_string(trail).unwrap();
    // One CONNECT, refused for its host, and none before it for want of a token.
    assert!(trail.contains("\"word\":\"no-route\""), "{trail}");
    assert!(!trail.contains("unidentified"), "{trail}");
}

#[test]
fn strict_refuses_hosts_that_no_route_names_and_else_they_are_tried() {
    let home = home();
    let script = "curl -s -m 20 -o /dev/null -w '%{http_connect}' https://nowhere.invalid/";
    let run = |options: &[&str]| {
        keyward(home.path(), options, &["sh", "-c", script])
            .env("OPENAI_API_KEY", CANARY)
            .output()
            .unwrap()
    };
    let strict = run(&["--strict"]);
    assert_eq!(out(&strict), "403");
    assert!(
        err(&strict).contains("1 refusal (no-route)"),
        "{}",
        err(&strict)
    );
    // No such host: but it was asked for.
    let open = run(&[]);
    assert_eq!(out(&open), "502");
    assert!(
        err(&open).contains("(upstream-unreachable)"),
        "{}",
        err(&open)
    );
}

#[test]
fn the_exit_code_is_the_commands_own() {
    let home = home();
    let code = |command: &[&str]| {
        let output = keyward(home.path(), &[], command).output().unwrap();
        output.status.code().unwrap()
    };
    assert_eq!(code(&["sh", "-c", "exit 0"]), 0);
    assert_eq!(code(&["sh", "-c", "exit 37"]), 37);
    assert_eq!(code(&["sh", "-c", "kill -KILL $$"]), 128 + 9);
    assert_eq!(code(&["no-such-program-here"]), 127);
    assert_eq!(code(&["/etc/passwd"]), 126);
    let usage = Command::new(env!("CARGO_BIN_EXE_keyward"))
        .arg("run")
        .output()
        .unwrap();
    assert_eq!(usage.status.code(), Some(64));
}

#[test]
fn a_signal_reaches_the_command() {
    let home = home();
    let script =
        "trap 'exit 7' TERM; echo ready; n=0; while [ $n -lt 300 ]; do sleep 0.1; n=$((n+1)); done";
    let mut run = keyward(home.path(), &[], &["sh", "-c", script])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(run.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert_eq!(line, "ready\n");
    kill_process(Pid::from_child(&run), Signal::TERM).unwrap();
    assert_eq!(run.wait().unwrap().code(), Some(7));
}

#[test]
fn standard_input_and_output_are_the_callers() {
    let home = home();
    let mut run = keyward(home.path(), &[], &["tr", "a-z", "A-Z"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    run.stdin.take().unwrap().write_all(b"some words").unwrap();
    let mut text = String::new();
    run.stdout
        .take()
        .unwrap()
        .read_to_string(&mut text)
        .unwrap();
    assert_eq!(run.wait().unwrap().code(), Some(0));
    assert_eq!(text, "SOME WORDS");
}

#[test]
fn an_isolated_command_has_no_way_out_but_the_proxy() {
    let home = home();
    let outside = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = outside.local_addr().unwrap().port();
    let script = format!(
        "curl -s -m 5 --noproxy '*' http://127.0.0.1:{port}/ ; echo direct=$?
         curl -s -m 5 --noproxy '*' \"$KEYWARD_URL/ca.pem\" | head -n 1
         curl -s -m 20 -o /dev/null -w 'strict=%{{http_connect}}\\n' https://nowhere.invalid/
         ls /sys/class/net | tr '\\n' ' '; cut -d: -f1 /proc/net/dev | tail -n +3 | tr -d ' '"
    );
    let output = keyward(
        home.path(),
        &["--isolate", "--strict"],
        &["sh", "-c", &script],
    )
    .env("OPENAI_API_KEY", CANARY)
    .output()
    .unwrap();
    let text = out(&output);
    assert!(text.contains("direct=7\n"), "{text}{}", err(&output));
    assert!(text.contains("BEGIN CERTIFICATE"), "{text}");
    assert!(text.contains("strict=403"), "{text}");
    assert!(text.trim_end().ends_with("lo"), "{text}");
    outside.set_nonblocking(true).unwrap();
    assert!(outside.accept().is_err(), "nobody came");
}

/// A server that knows one key: anything else is 401. It answers with the header that it was sent.
const SERVER: &str = r#"
import http.server, ssl, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        sent = self.headers.get("authorization", "")
        right = sent == "Bearer " + sys.argv[2]
        body = ("right " if right else "wrong ") + sent
        self.send_response(200 if right else 401)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())
    def log_message(self, *_): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[1] + ".pem", sys.argv[1] + ".key")
server.socket = context.wrap_socket(server.socket, server_side=True)
print(server.server_address[1], flush=True)
server.serve_forever()
"#;

struct Server(Child, u16);

impl Drop for Server {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// Makes NAME.pem and NAME.key and returns the certificate.
fn certificate(folder: &Path, name: &str) -> String {
    let (cert, key) = (format!("{name}.pem"), format!("{name}.key"));
    let made = Command::new("openssl")
        .args(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2".split(' '),
        )
        .args([
            "-subj",
            "/CN=api.test",
            "-addext",
            "subjectAltName=DNS:api.test",
        ])
        .args(["-keyout", &key, "-out", &cert])
        .current_dir(folder)
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", err(&made));
    fs::read_to_string(folder.join(cert)).unwrap()
}

/// Makes ca.pem, and server.pem and server.key for `api.test` below it.
fn authority(folder: &Path) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peers/ca.sh");
    let made = Command::new("bash")
        .arg(script)
        .arg(folder)
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", err(&made));
}

fn server(folder: &Path) -> Server {
    authority(folder);
    let mut child = Command::new("python3")
        .args(["-c", SERVER, "server", CANARY])
        .current_dir(folder)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    Server(child, line.trim().parse().unwrap())
}

/// A file with listeners of its own, which `run` does not open.
fn write_file(folder: &Path, port: u16, listen: (u16, u16), source: &str) {
    let text = format!(
        r#"
[proxy]
listen = ["127.0.0.1:{}"]
[admin]
listen = "127.0.0.1:{}"
[upstream]
trust = ["ca.pem"]
connect-to = {{ "api.test:443" = "127.0.0.1:{port}" }}
[agent.builder]
token = {{ env = "BUILDER_TOKEN" }}
[credential.api.static]
value = {source}
[[route]]
hosts = ["api.test"]
agents = ["builder"]
credential = "api"
inject = "bearer"
"#,
        listen.0, listen.1
    );
    fs::write(folder.join("keyward.toml"), text).unwrap();
}

fn free_ports() -> (u16, u16) {
    let pick = || TcpListener::bind("127.0.0.1:0").unwrap();
    let (one, two) = (pick(), pick());
    (
        one.local_addr().unwrap().port(),
        two.local_addr().unwrap().port(),
    )
}

#[test]
fn a_file_lends_its_key_to_requests_and_never_to_the_command() {
    let home = home();
    let server = server(home.path());
    let listen = free_ports();
    write_file(home.path(), server.1, listen, "{ env = \"API_KEY\" }");
    let script = format!(
        "env; curl -sS -m 20 https://api.test/x; echo
         for port in {} {}; do curl -s -m 5 --noproxy '*' http://127.0.0.1:$port/; echo listener=$?; done",
        listen.0, listen.1
    );
    for options in [
        &["-c", "keyward.toml"][..],
        &["-c", "keyward.toml", "--isolate"],
    ] {
        let output = keyward(home.path(), options, &["sh", "-c", &script])
            .env("API_KEY", CANARY)
            .env("BUILDER_TOKEN", "the-file-s-own-token-0123456789")
            .output()
            .unwrap();
        let (text, given) = (out(&output), environment(&output));
        assert!(text.contains("\nright Bearer "), "{text}{}", err(&output));
        assert!(!text.contains(CANARY), "scrubbed, and nowhere else either");
        assert!(!given.contains_key("API_KEY") && !given.contains_key("BUILDER_TOKEN"));
        assert!(given["HTTPS_PROXY"].starts_with("http://builder:"));
        assert_eq!(text.matches("listener=7").count(), 2, "{text}");
        let last = err(&output).lines().last().unwrap().to_owned();
        let line = "keyward: 1 request, 0 tunnels, 1 host, 0 refusals; credentials used: api";
        assert_eq!(last, line);
    }
}

#[test]
fn a_key_file_is_empty_for_the_command_and_still_serves() {
    let home = home();
    let server = server(home.path());
    write_file(
        home.path(),
        server.1,
        free_ports(),
        "{ file = \"key.txt\" }",
    );
    fs::write(home.path().join("key.txt"), CANARY).unwrap();
    let script = "curl -sS -m 20 https://api.test/x; echo; cat key.txt | wc -c; ls -A .local/state/keyward | wc -l";
    let output = keyward(home.path(), &["-c", "keyward.toml"], &["sh", "-c", script])
        .env("BUILDER_TOKEN", "the-file-s-own-token-0123456789")
        .output()
        .unwrap();
    let text = out(&output);
    assert!(text.starts_with("right Bearer "), "{text}{}", err(&output));
    assert!(text.ends_with("\n0\n0\n"), "{text}");
    assert!(!text.contains(CANARY));
    let kept = fs::read_to_string(home.path().join("key.txt")).unwrap();
    assert_eq!(kept, CANARY);
}

#[test]
fn logins_of_served_services_are_masked_and_others_told() {
    let home = home();
    for folder in [".config/gh", ".aws"] {
        fs::create_dir_all(home.path().join(folder)).unwrap();
    }
    for file in [".config/gh/hosts.yml", ".aws/credentials", ".netrc"] {
        fs::write(home.path().join(file), CANARY).unwrap();
    }
    let script = "cat ~/.config/gh/hosts.yml ~/.netrc; echo; cat ~/.aws/credentials";
    let output = keyward(home.path(), &[], &["sh", "-c", script])
        .env("GITHUB_TOKEN", CANARY)
        .output()
        .unwrap();
    assert_eq!(out(&output), format!("\n{CANARY}"));
    let told = err(&output);
    assert!(told.contains(".aws/credentials"), "{told}");
    assert!(
        !told.contains(".netrc") && !told.contains("hosts.yml"),
        "{told}"
    );
}

#[test]
fn a_folder_above_a_mask_stays_where_it_is() {
    let home = home();
    let folder = home.path().join(".config/gh");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("hosts.yml"), CANARY).unwrap();
    let script = "mv ~/.config ~/moved; mv .config moved; mv ~/.config/gh ~/.config/other; cd ~/.config; mv gh ../gh; \
                  mv ../.config ../moved; cat ~/moved/gh/hosts.yml ~/.config/other/hosts.yml ~/gh/hosts.yml ~/.config/gh/hosts.yml; echo end";
    let output = keyward(home.path(), &[], &["sh", "-c", script])
        .env("GITHUB_TOKEN", CANARY)
        .output()
        .unwrap();
    assert!(!out(&output).contains(CANARY), "{}", out(&output));
    assert!(out(&output).contains("end"), "{}", err(&output));
    let kept = fs::read_to_string(folder.join("hosts.yml"));
    assert_eq!(kept.unwrap(), CANARY, "it stands where it stood");
}

/// A session as a desktop has it, in a folder: a bus, and on it the keyring with a login. Ends both at its own end.
const DESKTOP: &str = r#"
exec 2>desktop.log
dbus-daemon --session --nofork --nopidfile --address="$DBUS_SESSION_BUS_ADDRESS" & bus=$!
n=0; while [ ! -S "$XDG_RUNTIME_DIR/bus" ] && [ $n -lt 100 ]; do sleep 0.1; n=$((n+1)); done
printf pw | gnome-keyring-daemon --unlock --foreground --components=secrets >keyring.log & keyring=$!
n=0; while [ ! -S "$XDG_RUNTIME_DIR/keyring/control" ] && [ $n -lt 100 ]; do sleep 0.1; n=$((n+1)); done
printf %s "$CANARY" | timeout 20 secret-tool store --label=gh service gh:github.com username me
unset CANARY
"$@"
kill $keyring $bus
"#;

/// What a thief would do: ask the keyring, by the bus that is named and by the usual one, and knock at every socket.
const THIEF: &str = r#"
timeout 20 secret-tool lookup service gh:github.com
DBUS_SESSION_BUS_ADDRESS=unix:path=$XDG_RUNTIME_DIR/bus timeout 20 secret-tool lookup service gh:github.com
DBUS_SESSION_BUS_ADDRESS= timeout 20 secret-tool lookup service gh:github.com
python3 - <<'END'
import os, socket
runtime = os.environ["XDG_RUNTIME_DIR"]
for name in ("bus", "keyring/control", "systemd/private", "agent"):
    with socket.socket(socket.AF_UNIX) as one:
        try: one.connect(f"{runtime}/{name}"); print("open", name)
        except OSError as error: print("shut", name, error.errno)
END
"#;

#[test]
fn the_command_cannot_ask_the_keyring_of_the_session() {
    let lacks = |program: &&str| !Path::new("/usr/bin").join(program).exists();
    let needed = ["dbus-daemon", "gnome-keyring-daemon", "secret-tool"];
    if let Some(missing) = needed.iter().find(|program| lacks(program)) {
        assert!(
            std::env::var_os("CI").is_none(),
            "tests/peers/install.sh was not run"
        );
        eprintln!("SKIPPED: {missing} is not installed (tests/peers/install.sh)");
        return;
    }
    let home = home();
    let runtime = home.path().join("runtime");
    fs::create_dir_all(runtime.join("systemd")).unwrap();
    fs::set_permissions(&runtime, fs::Permissions::from_mode(0o700)).unwrap();
    let _manager = UnixListener::bind(runtime.join("systemd/private")).unwrap();
    let _agent = UnixListener::bind(runtime.join("agent")).unwrap();
    fs::create_dir(home.path().join(".kube")).unwrap();
    fs::write(home.path().join(".kube/config"), "x").unwrap();
    let desktop = |words: &[&str]| {
        Command::new("sh")
            .args(["-c", DESKTOP, "desktop"])
            .args(words)
            .args(["sh", "-c", THIEF])
            .env_clear()
            .env("PATH", PATH)
            .env("HOME", home.path())
            .env("XDG_RUNTIME_DIR", &runtime)
            .env("SSH_AUTH_SOCK", runtime.join("agent"))
            .env(
                "DBUS_SESSION_BUS_ADDRESS",
                format!("unix:path={}/bus", runtime.display()),
            )
            .env("CANARY", CANARY)
            .current_dir(home.path())
            .stdin(Stdio::null())
            .output()
            .unwrap()
    };
    // The thief itself: without keyward it has what it came for.
    let bare = desktop(&[]);
    let log = fs::read_to_string(home.path().join("desktop.log")).unwrap();
    assert!(out(&bare).contains(CANARY), "{}{log}", out(&bare));
    assert!(
        out(&bare).contains("open keyring/control"),
        "{}",
        out(&bare)
    );
    for file in ["bus", "keyring/control"] {
        fs::remove_file(runtime.join(file)).ok();
    }
    let output = desktop(&[env!("CARGO_BIN_EXE_keyward"), "run", "--"]);
    let text = out(&output);
    assert!(!text.contains(CANARY), "{text}");
    for name in ["bus", "keyring/control", "systemd/private"] {
        assert!(text.contains(&format!("shut {name} 111")), "{text}");
    }
    // What can be used, and holds no secret that it gives away, stays, and is told once.
    assert!(text.contains("open agent"), "{text}");
    let told = fs::read_to_string(home.path().join("desktop.log")).unwrap();
    let agent = format!("ssh-agent ({}/agent)", runtime.display());
    assert_eq!(told.matches(&agent).count(), 1, "{told}");
    assert_eq!(told.matches(".kube/config").count(), 1, "{told}");
}

#[test]
fn an_agent_that_the_file_does_not_know_is_a_fault_of_usage() {
    let home = home();
    authority(home.path());
    write_file(home.path(), 1, free_ports(), "{ env = \"API_KEY\" }");
    let options = ["-c", "keyward.toml", "--agent", "stranger"];
    let output = keyward(home.path(), &options, &["true"]).output().unwrap();
    assert_eq!(output.status.code(), Some(64));
    assert!(
        err(&output).contains("the file has: builder"),
        "{}",
        err(&output)
    );
}

#[test]
fn sessions_at_the_same_time_have_ports_tokens_and_trails_of_their_own() {
    let home = home();
    let start = || {
        keyward(home.path(), &[], &["sh", "-c", "env; read go"])
            .env("ANTHROPIC_API_KEY", CANARY)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    };
    let mut runs: Vec<Child> = (0..3).map(|_| start()).collect();
    // Each holds its trail open until all of them run.
    for run in &runs {
        let mut tries = 0;
        let trails = || fs::read_dir(home.path().join(".local/state/keyward"));
        while trails().map_or(0, |found| found.flatten().filter(is_trail).count()) < 3 {
            std::thread::sleep(std::time::Duration::from_millis(50));
            tries += 1;
            assert!(tries < 400, "{} did not start", run.id());
        }
    }
    let mut urls = Vec::new();
    let mut tokens = Vec::new();
    for run in &mut runs {
        run.stdin.take().unwrap().write_all(b"go\n").unwrap();
    }
    for run in runs {
        let output = run.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0));
        let given = environment(&output);
        urls.push(given["KEYWARD_URL"].clone());
        tokens.push(given["KEYWARD_TOKEN"].clone());
    }
    urls.sort();
    urls.dedup();
    tokens.sort();
    tokens.dedup();
    assert_eq!((urls.len(), tokens.len()), (3, 3));
    for file in fs::read_dir(home.path().join(".local/state/keyward")).unwrap() {
        let file = file.unwrap();
        if is_trail(&file) {
            let verified = Command::new(env!("CARGO_BIN_EXE_keyward"))
                .args(["audit", "verify"])
                .arg(file.path())
                .output()
                .unwrap();
            assert_eq!(verified.status.code(), Some(0), "{}", err(&verified));
        }
    }
}

fn is_trail(file: &fs::DirEntry) -> bool {
    file.path().extension().is_some_and(|end| end == "jsonl")
}

/// A sub-agent's token is asked for from within, works, and ends with the command.
#[test]
fn the_command_hands_its_session_on() {
    let home = home();
    let script = "curl -sS \"$KEYWARD_URL/token\" \
        -d grant_type=urn:ietf:params:oauth:grant-type:token-exchange \
        -d subject_token_type=urn:ietf:params:oauth:token-type:access_token \
        --data-urlencode \"subject_token=$KEYWARD_TOKEN\" -d agent=default -d expires_in=60";
    let output = keyward(home.path(), &[], &["sh", "-c", script])
        .output()
        .unwrap();
    let text = out(&output);
    for expected in [
        "\"access_token\":\"eyJ",
        "\"expires_in\":60",
        "\"session\":",
    ] {
        assert!(text.contains(expected), "{text} {}", err(&output));
    }
}

/// A sub-agent as a program of its own, with the token that `session delegate` printed: it may do what it was given, and
/// nothing that its parent may do beside that; its end is not its parent's.
#[test]
fn a_sub_agent_works_with_the_token_that_it_was_given() {
    let home = home();
    let server = server(home.path());
    let text = format!(
        r#"
[upstream]
trust = ["ca.pem"]
connect-to = {{ "api.test:443" = "127.0.0.1:{}" }}
[agent.builder]
[agent.searcher]
[trust.local]
agent = {{ id = "searcher" }}
peer = {{ uids = [{}] }}
[credential.api.static]
value = {{ env = "API_KEY" }}
[[route]]
name = "read"
hosts = ["api.test"]
methods = ["GET"]
credential = "api"
inject = "bearer"
[[route]]
name = "write"
hosts = ["api.test"]
methods = ["POST"]
credential = "api"
inject = "bearer"
"#,
        server.1,
        fs::metadata(home.path()).unwrap().uid()
    );
    fs::write(home.path().join("keyward.toml"), text).unwrap();
    let script = r#"
        hand() { "$PROGRAM" session delegate "$@"; echo "exit=$?" >&2; }
        # The sub-agent has its own token, and of its parent's surroundings the address and the CA alone.
        as() { env -i PATH="$PATH" SSL_CERT_FILE="$SSL_CERT_FILE" KEYWARD_URL="$KEYWARD_URL" KEYWARD_TOKEN="$1" \
            HTTPS_PROXY="http://any:$1@${KEYWARD_URL#http://}" sh -c "$2"; }
        get='curl -sS -m 20 --cacert "$SSL_CERT_FILE" https://api.test/x; echo'
        post='curl -sS -m 20 --cacert "$SSL_CERT_FILE" -o /dev/null -D - -d x https://api.test/x | grep -i keyward-refusal'
        hop='curl -s -m 20 -o /dev/null -w "%{http_connect}" --cacert "$SSL_CERT_FILE" https://api.test/x'
        sub=$(hand --agent searcher --scope route:read --ttl 60s)
        echo "child reads: $(as "$sub" "$get")"
        echo "child writes: $(as "$sub" "$post")"
        echo "wider: $(as "$sub" "\"$PROGRAM\" session delegate --agent builder --scope route:write 2>&1; echo exit=\$?")"
        low=$(as "$sub" "\"$PROGRAM\" session delegate --agent builder")
        echo "below reads: $(as "$low" "$get")"
        echo "too deep: $(as "$low" "\"$PROGRAM\" session delegate --agent searcher 2>&1; echo exit=\$?")"
        curl -sS -o /dev/null "$KEYWARD_URL/revoke" --data-urlencode "token=$sub"
        echo "child over: $(as "$sub" "$hop") below over: $(as "$low" "$hop")"
        # A table says that processes of this user are the searcher; here the token alone says who is who.
        echo "no token: $(env -i curl -s -m 20 -o /dev/null -w "%{http_code}" "$KEYWARD_URL/token" -d grant_type=client_credentials) \
$(env -i curl -s -m 20 -o /dev/null -w "%{http_connect}" -x "$KEYWARD_URL" --cacert "$SSL_CERT_FILE" https://api.test/x)"
        echo "parent: $(as "$KEYWARD_TOKEN" "$get")"
    "#;
    let script = script.replace("\"$PROGRAM\"", env!("CARGO_BIN_EXE_keyward"));
    let script = script.replace("\\\"$PROGRAM\\\"", env!("CARGO_BIN_EXE_keyward"));
    for isolate in [&[][..], &["--isolate"]] {
        let options = [&["-c", "keyward.toml", "--agent", "builder"][..], isolate].concat();
        let output = keyward(home.path(), &options, &["bash", "-c", &script])
            .env("API_KEY", CANARY)
            .output()
            .unwrap();
        let text = out(&output);
        let said = err(&output);
        for expected in [
            "child reads: right Bearer ****",
            "child writes: keyward-refusal: denied",
            "wider: keyward: 400 invalid_scope",
            "below reads: right Bearer ****",
            "too deep: keyward: 400 invalid_request",
            "child over: 407 below over: 407",
            "no token: 401 407",
            "parent: right Bearer ****",
        ] {
            assert!(text.contains(expected), "{expected}\n{text}\n{said}");
        }
        assert_eq!(text.matches("exit=1").count(), 2, "{text}");
        assert!(!text.contains(CANARY) && !said.contains(CANARY));
    }
}

/// A file that lends its network alone: the rest is as without one.
fn write_network(folder: &Path, port: u16) {
    let text = format!(
        "[upstream]\ntrust = [\"ca.pem\"]\nconnect-to = {{ \"api.openai.com:443\" = \"127.0.0.1:{port}\" }}\n"
    );
    fs::write(folder.join("network.toml"), text).unwrap();
}

#[test]
fn a_file_without_credentials_and_routes_lends_its_network_and_no_more() {
    let home = home();
    let server = server(home.path());
    write_network(home.path(), server.1);
    let script = "curl -sS -m 20 https://api.openai.com/v1/models; echo; echo $OPENAI_API_KEY
                  curl -s -m 20 -o /dev/null -w '%{http_connect}\\n' https://nowhere.invalid/";
    let run = |more: &[&str], file: &str| {
        let options = [&["-c", file][..], more].concat();
        keyward(home.path(), &options, &["sh", "-c", script])
            .env("OPENAI_API_KEY", CANARY)
            .output()
            .unwrap()
    };
    let output = run(&[], "network.toml");
    let text = out(&output);
    assert!(
        text.starts_with("right Bearer ****"),
        "{text}{}",
        err(&output)
    );
    assert!(text.contains("\nsk-keyward-"), "{text}");
    // Tried, as it is without a file, and refused where the caller or the file's own listener says so.
    assert!(text.ends_with("\n502\n"), "{text}");
    assert!(out(&run(&["--strict"], "network.toml")).ends_with("\n403\n"));
    let mut file = fs::read_to_string(home.path().join("network.toml")).unwrap();
    file.insert_str(0, "[proxy]\nlisten = [\"127.0.0.1:0\"]\n");
    fs::write(home.path().join("closed.toml"), file).unwrap();
    assert!(out(&run(&[], "closed.toml")).ends_with("\n403\n"));
}

#[test]
fn a_key_that_is_wrong_or_missing_fails_in_the_services_own_words_and_stays_hidden() {
    let home = home();
    let server = server(home.path());
    write_network(home.path(), server.1);
    let wrong = "sk-expired-90b1c7d2a4e6f8035";
    let script = "curl -sS -m 20 -w ' %{http_code}' https://api.openai.com/v1/models";
    let output = keyward(home.path(), &["-c", "network.toml"], &["sh", "-c", script])
        .env("OPENAI_API_KEY", wrong)
        .output()
        .unwrap();
    let text = out(&output);
    assert!(text.starts_with("wrong Bearer ****"), "{text}");
    assert!(text.ends_with(" 401") && !text.contains(wrong), "{text}");
    assert!(err(&output).contains("0 refusals; credentials used: openai"));
    // None is set: nothing is injected, the host is let through untouched, and the user is told at the start.
    let script = "curl -sS -k -m 20 -w ' %{http_code}' https://api.openai.com/v1/models";
    let output = keyward(home.path(), &["-c", "network.toml"], &["sh", "-c", script])
        .output()
        .unwrap();
    assert_eq!(out(&output), "wrong  401");
    let told = err(&output);
    assert!(told.contains("so nothing is injected"), "{told}");
    assert!(
        told.contains("1 tunnel, 1 host, 0 refusals; no credential used"),
        "{told}"
    );
}

/// What `keyward doctor` finds in this folder, by check; and its exit code.
fn doctor(folder: &Path, more: &[(&str, &str)]) -> (Vec<(String, String, String)>, i32) {
    let mut run = Command::new(env!("CARGO_BIN_EXE_keyward"));
    run.args(["doctor", "-c", "keyward.toml", "--json"]);
    run.env_clear().env("PATH", PATH).env("HOME", folder);
    run.envs(more.iter().copied()).current_dir(folder);
    let output = run.output().unwrap();
    let found: serde_json::Value = serde_json::from_str(&out(&output))
        .unwrap_or_else(|error| panic!("{error}: {}{}", out(&output), err(&output)));
    let text = |one: &serde_json::Value, name: &str| one[name].as_str().unwrap_or("").to_owned();
    let found = found.as_array().unwrap().iter();
    let found = found.map(|one| {
        let message = format!("{} = {}", text(one, "message"), text(one, "help"));
        (text(one, "check"), text(one, "state"), message)
    });
    (found.collect(), output.status.code().unwrap())
}

fn only(found: &[(String, String, String)], check: &str, state: &str) -> Vec<String> {
    let picked = (found.iter()).filter(|(c, s, _)| c == check && s == state);
    picked.map(|(_, _, message)| message.clone()).collect()
}

#[test]
fn doctor_finds_what_works_and_says_how_to_mend_what_does_not() {
    let home = home();
    let server = server(home.path());
    write_file(home.path(), server.1, free_ports(), "{ env = \"API_KEY\" }");
    let file = home.path().join("keyward.toml");
    let text = fs::read_to_string(&file).unwrap() + "[ca]\ndir = \"ca\"\n";
    fs::write(&file, text).unwrap();
    // No CA yet: the variables of `keyward env` are tried with one of memory, and none is made by looking.
    let (found, code) = doctor(home.path(), &[]);
    assert_eq!(code, 0, "{found:#?}");
    assert!(only(&found, "trust", "ok").contains(&"curl trusts the CA = ".to_owned()));
    assert!(only(&found, "trust", "fail").is_empty(), "{found:#?}");
    assert_eq!(only(&found, "reach", "ok").len(), 1, "{found:#?}");
    assert_eq!(only(&found, "clock", "ok").len(), 1, "{found:#?}");
    assert!(!home.path().join("ca").exists());
    // A shell whose variables lead to keyward, and to the root in one runtime alone.
    let issued = Command::new(env!("CARGO_BIN_EXE_keyward"))
        .args(["ca", "issue", "-c", "keyward.toml"])
        .current_dir(home.path())
        .output()
        .unwrap();
    assert!(issued.status.success(), "{}", err(&issued));
    let before = fs::read(home.path().join("ca/ca.pem")).unwrap();
    let root = home.path().join("ca/ca.pem");
    let shell = [
        ("HTTPS_PROXY", "http://builder:x@127.0.0.1:1"),
        ("NO_PROXY", "localhost,.test"),
        ("SSL_CERT_FILE", root.to_str().unwrap()),
        ("CURL_CA_BUNDLE", "/etc/ssl/certs/ca-certificates.crt"),
    ];
    fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
    let (found, code) = doctor(home.path(), &shell);
    assert_eq!(code, 1);
    assert!(only(&found, "trust", "ok").contains(&"Python trusts the CA = ".to_owned()));
    let bad = only(&found, "trust", "fail").join("\n");
    assert!(
        bad.contains("export CURL_CA_BUNDLE=") && bad.contains("ca/ca.pem"),
        "{bad}"
    );
    let bad = only(&found, "variables", "fail").join("\n");
    assert!(
        bad.contains("another proxy") && bad.contains("`.test`"),
        "{bad}"
    );
    let bad = only(&found, "modes", "fail").join("\n");
    assert!(bad.contains("0666") && bad.contains("chmod go-w"), "{bad}");
    assert_eq!(fs::read(&root).unwrap(), before, "looking changes nothing");
}

#[test]
fn init_writes_a_file_that_holds_and_never_over_another() {
    let home = home();
    let init = || {
        Command::new(env!("CARGO_BIN_EXE_keyward"))
            .arg("init")
            .env_clear()
            .env("HOME", home.path())
            .env("OPENAI_API_KEY", CANARY)
            .current_dir(home.path())
            .output()
            .unwrap()
    };
    let first = init();
    assert_eq!(first.status.code(), Some(0), "{}", err(&first));
    let file = home.path().join("keyward.toml");
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.contains("preset = \"openai\"") && !text.contains(CANARY));
    assert_eq!(
        fs::metadata(&file).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let again = init();
    assert_eq!(again.status.code(), Some(1));
    assert!(err(&again).contains("stays as it is"));
    assert_eq!(fs::read_to_string(&file).unwrap(), text);
    let output = keyward(
        home.path(),
        &["-c", "keyward.toml"],
        &["sh", "-c", "echo $OPENAI_API_KEY"],
    )
    .env("OPENAI_API_KEY", CANARY)
    .output()
    .unwrap();
    assert!(out(&output).starts_with("sk-keyward-"), "{}", err(&output));
}

#[test]
fn with_base_urls_a_client_without_a_proxy_gets_its_answer_and_no_key() {
    let home = home();
    let server = server(home.path());
    write_network(home.path(), server.1);
    let script = "curl -sS -m 20 --noproxy '*' -H \"Authorization: Bearer $OPENAI_API_KEY\" $OPENAI_BASE_URL/models; \
                  echo; echo \"$OPENAI_BASE_URL $OPENAI_API_KEY $KEYWARD_TOKEN\"";
    let output = keyward(
        home.path(),
        &["--base-url", "-c", "network.toml"],
        &["sh", "-c", script],
    )
    .env("OPENAI_API_KEY", CANARY)
    .output()
    .unwrap();
    let text = out(&output);
    assert!(
        text.starts_with("right Bearer ****"),
        "{text}{}",
        err(&output)
    );
    assert!(!text.contains(CANARY));
    let last: Vec<&str> = text.lines().last().unwrap().split(' ').collect();
    assert!(last[0].starts_with("http://127.0.0.1:") && last[0].ends_with("/openai/v1"));
    assert_eq!(last[1], last[2], "the session's token is the key");
}

#[test]
fn the_login_of_a_tool_is_served_and_masked() {
    let home = home();
    let server = server(home.path());
    write_network(home.path(), server.1);
    fs::create_dir(home.path().join(".codex")).unwrap();
    let login = home.path().join(".codex/auth.json");
    let text = format!("{{\"OPENAI_API_KEY\":\"{CANARY}\",\"tokens\":null}}");
    fs::write(&login, &text).unwrap();
    let script = "curl -sS -m 20 https://api.openai.com/v1/models; echo; cat ~/.codex/auth.json; echo $OPENAI_API_KEY; env";
    let options = ["-c", "network.toml"];
    let output = keyward(home.path(), &options, &["sh", "-c", script])
        .output()
        .unwrap();
    let (shown, told) = (out(&output), err(&output));
    assert!(shown.starts_with("right Bearer ****"), "{shown}{told}");
    assert!(shown.contains("\n{}\nsk-keyward-"), "{shown}");
    assert!(!shown.contains(CANARY) && !told.contains(CANARY));
    assert!(told.contains("~/.codex/auth.json is served"), "{told}");
    assert!(!told.contains("so nothing is injected"), "{told}");
    assert_eq!(fs::read_to_string(&login).unwrap(), text);
    // A key that was set is the one that is meant: here it is a wrong one.
    let output = keyward(home.path(), &options, &["sh", "-c", script])
        .env("OPENAI_API_KEY", "sk-another-90b1c7d2a4e6f8035")
        .output()
        .unwrap();
    assert!(
        out(&output).starts_with("wrong Bearer ****"),
        "{}",
        err(&output)
    );
    assert!(!out(&output).contains(CANARY));
}
