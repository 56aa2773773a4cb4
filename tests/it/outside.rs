//! What lies outside of the configuration and has no say: the environment's proxies and roots, and the resolver of
//! names that are refused.

use std::collections::HashMap;
use std::io::BufRead as _;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::io::AsyncWriteExt as _;
use tokio::net::UdpSocket;

use super::agent::{Agent, PATIENCE};
use super::canary::{self, CANARY};
use super::harness::{BEARER, Setup, TOKEN_A};
use super::upstream::{CA, Upstream};

/// The built program, serving; killed at the end.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

impl Program {
    /// Starts `keyward serve` with this environment alone, and waits for the address that its log names.
    fn serve(file: &Path, environment: &[(&str, &str)]) -> (Self, SocketAddr) {
        let mut child = Command::new(env!("CARGO_BIN_EXE_keyward"))
            .args(["serve", "-c"])
            .arg(file)
            .env_clear()
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = child.stderr.take().unwrap();
        let program = Self(child);
        let (sender, found) = std::sync::mpsc::channel();
        // The log is read to its end, or the program would stand still at a full pipe.
        std::thread::spawn(move || {
            for line in std::io::BufReader::new(log).lines().map_while(Result::ok) {
                assert_eq!(canary::find(line.as_bytes()), None);
                let named = line.split("addresses=").nth(1);
                if let Some(address) = named.filter(|_| line.contains("listening")) {
                    let text: String = address
                        .chars()
                        .filter(|c| c.is_ascii_digit() || ".:".contains(*c))
                        .collect();
                    sender.send(text.parse().unwrap()).ok();
                }
            }
        });
        let address = found.recv_timeout(PATIENCE).unwrap();
        (program, address)
    }
}

/// Writes a configuration that is its owner's.
fn write(file: &Path, text: &str) {
    use std::io::Write as _;
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(file)
        .unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

/// HOST-26: what the environment says of proxies and roots changes nothing for our own connections.
#[tokio::test]
async fn proxies_and_roots_of_the_environment_have_no_say() {
    let upstream = Upstream::echo(&["http/1.1"]).await;
    let evil = Upstream::tcp(async |_| {}).await;
    let place = tempfile::tempdir().unwrap();
    let pem = place.path().join("upstream-ca.pem");
    std::fs::write(&pem, &CA.pem).unwrap();
    let pem = pem.to_str().unwrap();
    let folder = place.path().to_str().unwrap();
    let through = format!("http://{}", evil.address);
    let mut environment = vec![
        ("CANARY", CANARY),
        ("TOKEN_A", TOKEN_A),
        ("TOKEN_B", super::harness::TOKEN_B),
        ("SSL_CERT_FILE", pem),
        ("SSL_CERT_DIR", folder),
    ];
    for name in ["HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY"] {
        environment.push((name, &through));
    }
    for name in ["https_proxy", "http_proxy", "all_proxy"] {
        environment.push((name, &through));
    }
    for (trusted, status, word) in [(true, 200, ""), (false, 502, "upstream-untrusted")] {
        let ca = place.path().join(format!("ca-{trusted}"));
        let routes = format!("[ca]\ndir = \"{}\"\n{BEARER}", ca.display());
        let setup = Setup::new(&routes).to("api.test:443", &upstream);
        let mut text = setup.text(place.path());
        if !trusted {
            // The system's roots, which the variables stand for elsewhere.
            text = text.replace(&format!("trust = [\"{pem}\"]"), "trust = [\"system\"]");
            assert!(text.contains("\"system\""));
        }
        let file = place.path().join(format!("keyward-{trusted}.toml"));
        write(&file, &text);
        let (program, address) = Program::serve(&file, &environment);
        let roots = std::fs::read_to_string(ca.join("ca.pem")).unwrap();
        let transcript = Arc::default();
        let agent = Agent::new(address, Some(TOKEN_A), &roots, Arc::clone(&transcript));
        let answer = agent.get("api.test:443", "/x").await;
        assert_eq!((answer.status, answer.word()), (status, word));
        assert_eq!(canary::find(&transcript.lock()), None);
        drop(program);
    }
    assert_eq!(evil.dialled(), 0);
    assert_eq!(upstream.requests().len(), 1);
}

/// Says that this process is the one within the namespaces.
const INSIDE: &str = "KEYWARD_TEST_INSIDE";
const RESOLVER: &str = "ip link set lo up && mount --bind \"$1/resolv.conf\" /etc/resolv.conf && mount --bind \"$1/nsswitch.conf\" /etc/nsswitch.conf && shift && exec \"$@\"";

/// SSRF-11: a name that is refused is never looked up, so that it carries nothing to a resolver.
///
/// The test runs itself again in a network of its own, where it is the resolver.
#[tokio::test]
async fn a_name_that_is_refused_is_never_looked_up() {
    if std::env::var_os(INSIDE).is_some() {
        return inside().await;
    }
    let place = tempfile::tempdir().unwrap();
    let conf = place.path().join("resolv.conf");
    std::fs::write(conf, "nameserver 127.0.0.1\noptions timeout:2 attempts:1\n").unwrap();
    std::fs::write(place.path().join("nsswitch.conf"), "hosts: files dns\n").unwrap();
    let within = |program: &[&str]| {
        Command::new("unshare")
            .args(["-rnm", "sh", "-c", RESOLVER, "sh"])
            .arg(place.path())
            .args(program)
            .env(INSIDE, "1")
            .output()
    };
    match within(&["true"]) {
        Ok(tried) if tried.status.success() => {}
        tried => {
            eprintln!("SKIPPED: no network of its own can be made here: {tried:?}");
            return;
        }
    }
    let this = std::env::current_exe().unwrap();
    let name = "outside::a_name_that_is_refused_is_never_looked_up";
    let ran = within(&[this.to_str().unwrap(), "--exact", name, "--nocapture"]).unwrap();
    let said = String::from_utf8_lossy(&ran.stdout);
    let complaint = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{said}{complaint}");
    assert!(said.contains("1 passed"), "{said}");
}

type Asked = Arc<Mutex<HashMap<String, usize>>>;

/// Answers every question for an IPv4 address with 127.0.0.1 and every other with nothing, and counts names.
async fn resolver() -> Asked {
    let socket = UdpSocket::bind("127.0.0.1:53").await.unwrap();
    let asked = Asked::default();
    let log = Arc::clone(&asked);
    tokio::spawn(async move {
        let mut bytes = [0; 1500];
        while let Ok((length, from)) = socket.recv_from(&mut bytes).await {
            let (name, end) = question(&bytes[..length]);
            *log.lock().entry(name).or_default() += 1;
            let is_v4 = bytes[end - 4..end] == [0, 1, 0, 1];
            let answers = u8::from(is_v4);
            let mut out = bytes[..2].to_vec();
            out.extend([0x81, 0x80, 0, 1, 0, answers, 0, 0, 0, 0]);
            out.extend_from_slice(&bytes[12..end]);
            if is_v4 {
                out.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4, 127, 0, 0, 1]);
            }
            socket.send_to(&out, from).await.unwrap();
        }
    });
    asked
}

/// The name that a query asks for, and where its question ends.
fn question(query: &[u8]) -> (String, usize) {
    let (mut at, mut labels) = (12, Vec::new());
    while query[at] != 0 {
        let length = usize::from(query[at]);
        labels.push(String::from_utf8_lossy(&query[at + 1..=at + length]).to_lowercase());
        at += 1 + length;
    }
    (labels.join("."), at + 5)
}

async fn inside() {
    let asked = resolver().await;
    let upstream = Upstream::echo(&["http/1.1"]).await;
    let port = upstream.address.port();
    let routes = format!(
        "[[route]]\nhosts = [\"api.test:{port}\"]\ncredential = \"c\"\ninject = \"bearer\"\n\
         [[route]]\nhosts = [\"other.test:{port}\"]\npaths = [\"/allowed\"]\ncredential = \"c\"\ninject = \"bearer\"\n\
         [[route]]\nhosts = [\"theirs.test:{port}\"]\nagents = [\"b\"]\ncredential = \"c\"\ninject = \"bearer\"\n"
    );
    let harness = Setup::new(&routes)
        .upstream("allow-private = [\"127.0.0.0/8\"]")
        .start()
        .await;
    let agent = harness.agent();
    for authority in [
        "mfrggzdfmztwq2lk.evil.test:443".to_owned(),
        "mfrggzdfmztwq2lk.api.test:443".to_owned(),
        "api.test:443".to_owned(),
        format!("theirs.test:{port}"),
        format!("mfrggzdfmztwq2lk.api.test:{port}"),
        "metadata.google.internal:80".to_owned(),
    ] {
        let (answer, _) = agent.connect(&authority).await;
        assert_eq!(answer.status(), 403, "{authority}");
    }
    let (answer, _) = harness
        .agent_with(None)
        .connect(&format!("api.test:{port}"))
        .await;
    assert_eq!(answer.status(), 407);
    let mut plain = agent.tcp().await;
    let head =
        "GET http://mfrggzdfmztwq2lk.evil.test/ HTTP/1.1\r\nHost: mfrggzdfmztwq2lk.evil.test\r\n";
    let who = agent.authorization.clone().unwrap();
    let head = format!("{head}Proxy-Authorization: {who}\r\n\r\n");
    plain.write_all(head.as_bytes()).await.unwrap();
    assert_eq!(plain.answer().await.status(), 403);
    // Refused within the tunnel: by its path, and by its Host.
    let refused = agent.get(&format!("other.test:{port}"), "/secret").await;
    assert_eq!(refused.word(), "no-route");
    let mut sender = agent.h1(&format!("other.test:{port}")).await;
    let asked_for = super::agent::request("GET", "/allowed", "mfrggzdfmztwq2lk.evil.test");
    let answer = agent.ask(&mut sender, asked_for).await;
    assert_eq!(answer.word(), "host-mismatch");
    assert_eq!(*asked.lock(), HashMap::new());

    // And what is allowed is looked up, which shows that this resolver is the one that is asked.
    let answer = agent.get(&format!("api.test:{port}"), "/x").await;
    assert_eq!(answer.status, 200);
    {
        let asked = asked.lock();
        assert!(asked["api.test"] >= 1, "{asked:?}");
        assert_eq!(asked.len(), 1, "{asked:?}");
    }
    assert_eq!(upstream.requests().len(), 1);
    harness.finish().await;
}
