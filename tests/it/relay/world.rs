//! A gateway and a relay as they are built, an upstream behind them, and the agent of SPIFFE between.

use std::convert::Infallible;
use std::io::{BufRead as _, BufReader, Lines};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::{Child, ChildStderr, Command, Output, Stdio};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::watch;

use super::super::canary::{self, CANARY};
use super::super::harness::{ALICE, TOKEN_A};
use super::super::svid::{Domain, Svid};
use super::super::upstream::{self, CA, Upstream};

/// A folder, an upstream, and where the gateway listens.
pub struct World {
    pub folder: tempfile::TempDir,
    pub upstream: Upstream,
    pub gateway: SocketAddr,
}

/// A process of ours.
pub struct Running {
    pub child: Child,
    pub address: String,
    said: Arc<Mutex<String>>,
}

impl World {
    /// The gateway's file holds these lines beside the usual ones.
    pub async fn new(lines: &str) -> Self {
        let upstream = Upstream::echo(&["http/1.1"]).await;
        // Free, and the same after a restart.
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let gateway = free.local_addr().unwrap();
        drop(free);
        let folder = tempfile::tempdir().unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(folder.path(), mode).unwrap();
        let world = Self {
            folder,
            upstream,
            gateway,
        };
        let (cert, key) = upstream::certificate(&["127.0.0.1", "gw.test"]);
        world.write("gw.pem", &cert);
        world.write("gw.key", &key);
        world.write("ca.pem", &CA.pem);
        let text = format!(
            r#"drain = "1s"
[proxy]
listen = ["tls:{gateway}"]
tls = {{ cert = "gw.pem", key = {{ file = "gw.key" }} }}
[admin]
listen = "127.0.0.1:0"
socket = "admin.sock"
tokens = {{ alice = {{ env = "ALICE" }} }}
[audit]
file = "audit.jsonl"
[upstream]
trust = ["ca.pem"]
connect-to = {{ "api.test:443" = "{}" }}
[agent.a]
token = {{ env = "TOKEN_A" }}
[agent.b]
[credential.c.static]
value = {{ env = "CANARY" }}
[[route]]
hosts = ["api.test"]
credential = "c"
inject = "bearer"
{lines}"#,
            world.upstream.address
        );
        world.write("gateway.toml", &text);
        world
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file as careful programs do: beside it, and then in its place.
    pub fn write(&self, name: &str, text: &str) {
        let beside = self.path(&format!("{name}.new"));
        std::fs::write(&beside, text).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&beside, mode).unwrap();
        std::fs::rename(beside, self.path(name)).unwrap();
    }

    pub fn write_svid(&self, svid: &Svid) {
        self.write("svid.key", &svid.key);
        self.write("svid.pem", &svid.pem);
    }

    fn keyward(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_keyward"));
        command.env_clear().env("PATH", "/usr/bin:/bin");
        command.current_dir(self.folder.path()).stdin(Stdio::null());
        command
    }

    pub fn start_gateway(&self) -> Running {
        let mut command = self.keyward();
        command.args(["serve", "-c", "gateway.toml"]);
        command.env("TOKEN_A", TOKEN_A).env("ALICE", ALICE);
        command.env("CANARY", CANARY);
        Running::start(command, "admin listening")
    }

    /// A relay to this gateway, with these arguments beside.
    pub fn start_relay(&self, words: &[&str], variables: &[(&str, &str)]) -> Running {
        Running::start(self.relay(words, variables), "relaying")
    }

    pub fn relay(&self, words: &[&str], variables: &[(&str, &str)]) -> Command {
        let mut command = self.keyward();
        command.args(["relay", "--gateway", "gw.test:8543", "--connect-to"]);
        command.arg(self.gateway.to_string());
        if !words.contains(&"--listen") {
            command.args(["--listen", "127.0.0.1:0"]);
        }
        if !words.contains(&"--trust") {
            command.args(["--trust", "ca.pem"]);
        }
        command.args(words).envs(variables.iter().copied());
        command
    }

    /// The records of the gateway that this picks.
    pub fn audit(&self, picks: impl Fn(&Value) -> bool) -> Vec<Value> {
        let text = std::fs::read_to_string(self.path("audit.jsonl")).unwrap_or_default();
        assert_eq!(canary::find(text.as_bytes()), None);
        let records = text.lines().map(|line| serde_json::from_str(line).unwrap());
        records.filter(picks).collect()
    }

    /// Waits for a record that this picks.
    pub async fn record(&self, picks: impl Fn(&Value) -> bool) -> Value {
        for _ in 0..500 {
            if let Some(found) = self.audit(&picks).pop() {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("no such record in {:#?}", self.audit(|_| true));
    }

    /// Runs a subcommand of an operator.
    pub fn operate(&self, words: &[&str]) -> String {
        let mut command = self.keyward();
        command.args(words).args(["-c", "gateway.toml"]);
        command.env("KEYWARD_ADMIN_TOKEN", ALICE);
        let Output { stdout, stderr, .. } = command.output().unwrap();
        format!(
            "{}{}",
            String::from_utf8_lossy(&stdout),
            String::from_utf8_lossy(&stderr)
        )
    }

    /// `https://api.test/` by curl, or a copy of it, with this proxy: the statuses of CONNECT and request.
    pub async fn curl(&self, program: &Path, proxy: &str, words: &[&str]) -> String {
        let mut command = tokio::process::Command::new(program);
        command.args(["-s", "-k", "-o", "/dev/null", "--max-time", "20"]);
        command.args(["-w", "%{http_connect} %{http_code}", "-x", proxy]);
        command.args(words).arg("https://api.test/").env_clear();
        let output = command.stdin(Stdio::null()).output().await.unwrap();
        String::from_utf8(output.stdout).unwrap()
    }
}

pub fn curl() -> PathBuf {
    Path::new("/usr/bin/curl").canonicalize().unwrap()
}

impl Running {
    fn start(mut command: Command, ready: &str) -> Self {
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let said = Arc::new(Mutex::new(String::new()));
        let address = until(lines, ready, &said);
        Self {
            child,
            address,
            said,
        }
    }

    pub fn proxy(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What it has logged so far.
    pub fn said(&self) -> String {
        self.said.lock().clone()
    }

    /// Waits until it has logged this.
    pub async fn says(&self, what: &str) {
        for _ in 0..1000 {
            if self.said().contains(what) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("it did not say {what:?}:\n{}", self.said());
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Its exit code, once it has ended.
    pub async fn ended(&mut self, within: Duration) -> Option<i32> {
        let end = tokio::time::Instant::now() + within;
        while tokio::time::Instant::now() < end {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        None
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        if std::thread::panicking() {
            std::io::Write::write_all(&mut std::io::stderr(), self.said().as_bytes()).ok();
        }
    }
}

/// Reads the log until it is ready, and goes on reading; the address that it names.
fn until(
    mut lines: Lines<BufReader<ChildStderr>>,
    ready: &str,
    said: &Arc<Mutex<String>>,
) -> String {
    let mut address = None;
    while address.is_none() {
        let Some(Ok(line)) = lines.next() else {
            panic!("keyward ended:\n{}", said.lock());
        };
        if line.contains(ready) {
            let (_, rest) = line.split_once("address").unwrap();
            let named = rest.split(['"', ' ', '=']).find(|part| part.contains(':'));
            address = named.map(str::to_owned);
        }
        said.lock().push_str(&format!("{line}\n"));
    }
    let said = Arc::clone(said);
    std::thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            assert_eq!(canary::find(line.as_bytes()), None, "{line}");
            said.lock().push_str(&format!("{line}\n"));
        }
    });
    address.unwrap()
}

/// The agent of SPIFFE on this machine: X.509-SVIDs in a stream that stays open, and JWT-SVIDs.
pub struct Workload {
    pub socket: String,
    next: watch::Sender<Vec<u8>>,
    mood: watch::Sender<Mood>,
    token: Arc<Mutex<String>>,
    _folder: tempfile::TempDir,
}

/// How it answers who asks for an X.509-SVID.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    Good,
    /// It closes each connection.
    Away,
    /// `PermissionDenied`.
    Denies,
    /// A message without any.
    Empty,
    /// A message of two mebibytes.
    Huge,
}

impl Workload {
    pub fn start(domain: &Domain, id: &str, svid: &Svid) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("api.sock");
        let (next, seen) = watch::channel(message(domain, id, svid));
        let token = Arc::new(Mutex::new(String::new()));
        let listener = tokio::net::UnixListener::bind(&path).unwrap();
        let tokens = Arc::clone(&token);
        let (mood, moods) = watch::channel(Mood::Good);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let mut moods = moods.clone();
                let mood = *moods.borrow_and_update();
                if mood == Mood::Away {
                    continue;
                }
                let (seen, tokens) = (seen.clone(), Arc::clone(&tokens));
                let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                    assert_eq!(request.headers()["workload.spiffe.io"], "true");
                    let mut response = http::Response::builder();
                    let body = match request.uri().path() {
                        "/SpiffeWorkloadAPI/FetchX509SVID" if mood != Mood::Good => {
                            let said = match mood {
                                Mood::Huge => vec![0x0a; 2 << 20],
                                _ => Vec::new(),
                            };
                            if mood == Mood::Denies {
                                response = response.header("grpc-status", "7");
                            }
                            Stream::of(watch::channel(said).1)
                        }
                        "/SpiffeWorkloadAPI/FetchX509SVID" => {
                            let mut seen = seen.clone();
                            seen.mark_changed();
                            Stream::of(seen)
                        }
                        "/SpiffeWorkloadAPI/FetchJWTSVID" => {
                            let entry = field(2, tokens.lock().as_bytes());
                            Stream::of(watch::channel(field(1, &entry)).1)
                        }
                        other => panic!("{other}"),
                    };
                    let response = response
                        .header("content-type", "application/grpc")
                        .body(body)
                        .unwrap();
                    async move { Ok::<_, Infallible>(response) }
                });
                let served = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service);
                tokio::spawn(async move {
                    tokio::select! {
                        _ = served => {}
                        _ = moods.changed() => {}
                    }
                });
            }
        });
        Self {
            socket: format!("unix://{}", path.display()),
            next,
            mood,
            token,
            _folder: folder,
        }
    }

    /// Gives another in its place.
    pub fn rotate(&self, domain: &Domain, id: &str, svid: &Svid) {
        self.next.send(message(domain, id, svid)).unwrap();
    }

    /// Breaks off whatever it says, and answers so from now on.
    pub fn becomes(&self, mood: Mood) {
        self.mood.send(mood).unwrap();
    }

    pub fn set_token(&self, token: String) {
        *self.token.lock() = token;
    }
}

fn field(number: u8, value: &[u8]) -> Vec<u8> {
    let mut out = vec![number << 3 | 2];
    let mut length = value.len();
    while length >= 0x80 {
        out.push(u8::try_from(length & 0x7f).unwrap() | 0x80);
        length >>= 7;
    }
    out.push(u8::try_from(length).unwrap());
    out.extend_from_slice(value);
    out
}

fn message(domain: &Domain, id: &str, svid: &Svid) -> Vec<u8> {
    let key = rcgen::KeyPair::from_pem(&svid.key).unwrap().serialize_der();
    let parts = [
        field(1, id.as_bytes()),
        field(2, &svid.der),
        field(3, &key),
        field(4, &domain.der),
    ];
    field(1, &parts.concat())
}

/// Messages of gRPC as they come, without an end.
struct Stream {
    wait: Pin<Box<dyn Future<Output = watch::Receiver<Vec<u8>>> + Send>>,
}

impl Stream {
    fn of(mut seen: watch::Receiver<Vec<u8>>) -> Self {
        seen.mark_changed();
        Self { wait: next(seen) }
    }
}

fn next(
    mut seen: watch::Receiver<Vec<u8>>,
) -> Pin<Box<dyn Future<Output = watch::Receiver<Vec<u8>>> + Send>> {
    Box::pin(async move {
        if seen.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        seen
    })
}

impl Body for Stream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let mut seen = std::task::ready!(self.wait.as_mut().poll(cx));
        let message = seen.borrow_and_update().clone();
        self.wait = next(seen);
        let length = u32::try_from(message.len()).unwrap().to_be_bytes();
        let framed = [&[0][..], &length, &message].concat();
        Poll::Ready(Some(Ok(Frame::data(framed.into()))))
    }
}
