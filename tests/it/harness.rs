//! keyward in this process, with the pieces that every test needs and a search for canaries at the end.

use std::collections::HashMap;
use std::ffi::OsString;
use std::sync::Arc;
use std::time::Duration;

use keyward::app::{App, Surroundings};
use keyward::audit::{Settings, Sink};
use keyward::config::{self, Config};
use keyward::preset::Presets;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::agent::{Agent, Transcript};
use super::canary::{self, CANARY, OTHER};
use super::upstream::{CA, Upstream};

/// The tokens of the two agents.
pub const TOKEN_A: &str = "agent-token-a-0123456789abcdef";
pub const TOKEN_B: &str = "agent-token-b-0123456789abcdef";

/// 32 bytes in base64.
pub const STORE_KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
/// The token of the operator alice.
pub const ALICE: &str = "operator-token-alice-0123456789abcdef";

/// A route that puts the canary into `Authorization: Bearer` at api.test.
pub const BEARER: &str =
    "[[route]]\nhosts = [\"api.test\"]\ncredential = \"c\"\ninject = \"bearer\"\n";

/// What a configuration is made of.
#[derive(Debug, Clone, Default)]
pub struct Setup {
    proxy: String,
    admin: String,
    admin_port: u16,
    upstream: String,
    connect: String,
    rest: String,
    agent_a: String,
    open: bool,
    audit_file: Option<std::path::PathBuf>,
    trusted: String,
}

/// keyward, running.
pub struct Harness {
    app: Option<App>,
    pub setup: Setup,
    folder: tempfile::TempDir,
    transcript: Transcript,
}

impl Setup {
    pub fn new(routes: &str) -> Self {
        Self {
            rest: routes.to_owned(),
            ..Self::default()
        }
    }

    /// Dials this upstream for this target.
    pub fn to(mut self, target: &str, upstream: &Upstream) -> Self {
        self.connect
            .push_str(&format!("\"{target}\" = \"{}\"\n", upstream.address));
        self
    }

    /// Lines of `[proxy]`.
    pub fn proxy(mut self, lines: &str) -> Self {
        self.proxy.push_str(lines);
        self.proxy.push('\n');
        self
    }

    /// Lines of `[admin]`.
    pub fn admin(mut self, lines: &str) -> Self {
        self.admin.push_str(lines);
        self.admin.push('\n');
        self
    }

    /// Other lines of `[admin]`, for a reload.
    pub fn admin_instead(mut self, lines: &str) -> Self {
        self.admin = format!("{lines}\n");
        self
    }

    /// The admin side listens on this port, for a peer that must know it beforehand.
    pub fn admin_port(mut self, port: u16) -> Self {
        self.admin_port = port;
        self
    }

    /// Lines of `[upstream]`.
    pub fn upstream(mut self, lines: &str) -> Self {
        self.upstream.push_str(lines);
        self.upstream.push('\n');
        self
    }

    /// Trusts these certificates beside the CA of the tests' upstreams.
    pub fn also_trusting(mut self, pem: &str) -> Self {
        self.trusted.push_str(pem);
        self
    }

    /// Lines of `[agent.a]`.
    pub fn agent_a(mut self, lines: &str) -> Self {
        self.agent_a.push_str(lines);
        self
    }

    /// Nothing is asked of the agent, and there is one.
    pub fn open(mut self) -> Self {
        self.open = true;
        self
    }

    /// Other routes, for a reload.
    pub fn routes(mut self, routes: &str) -> Self {
        routes.clone_into(&mut self.rest);
        self
    }

    /// The configuration as text.
    pub fn text(&self, folder: &std::path::Path) -> String {
        let ca = folder.join("upstream-ca.pem");
        let identify = if self.open { "open" } else { "required" };
        let listen = if self.proxy.contains("listen =") {
            ""
        } else {
            "listen = [\"127.0.0.1:0\"]\n"
        };
        let mut text = format!(
            "[proxy]\n{listen}identify = \"{identify}\"\n{}\n[admin]\nlisten = \"127.0.0.1:{}\"\n{}\n\
             [upstream]\ntrust = [\"{}\"]\n{}\n",
            self.proxy,
            self.admin_port,
            self.admin,
            ca.display(),
            self.upstream,
        );
        if let Some(file) = &self.audit_file {
            text.push_str(&format!("[audit]\nfile = \"{}\"\n", file.display()));
        }
        if !self.connect.is_empty() {
            text.push_str(&format!("[upstream.connect-to]\n{}\n", self.connect));
        }
        text.push_str("[agent.a]\ntoken = { env = \"TOKEN_A\" }\n");
        text.push_str(&self.agent_a);
        if !self.open {
            text.push_str("[agent.b]\ntoken = { env = \"TOKEN_B\" }\n");
        }
        for (name, variable) in [("c", "CANARY"), ("o", "OTHER")] {
            if self.rest.contains(&format!("credential = \"{name}\"")) {
                text.push_str(&format!(
                    "[credential.{name}.static]\nvalue = {{ env = \"{variable}\" }}\n"
                ));
            }
        }
        text.push_str(&self.rest);
        text
    }

    fn parse(&self, folder: &std::path::Path) -> Config {
        let text = self.text(folder);
        match config::parse(&text, "test.toml", folder, &**Presets::shipped()) {
            Ok(loaded) => loaded.config,
            Err(report) => panic!("{report}\n{text}"),
        }
    }

    pub async fn start(self) -> Harness {
        let folder = tempfile::tempdir().unwrap();
        let trusted = format!("{}{}", CA.pem, self.trusted);
        std::fs::write(folder.path().join("upstream-ca.pem"), trusted).unwrap();
        let config = self.parse(folder.path());
        let surroundings = Surroundings {
            environment: Arc::new(environment()),
            audit: Settings::new(Sink::Memory),
            handed: Vec::new(),
        };
        let app = App::start(config, surroundings).await.unwrap();
        Harness {
            app: Some(app),
            setup: self,
            folder,
            transcript: Transcript::default(),
        }
    }
}

/// The environment that the sources of secrets read.
pub fn environment() -> HashMap<String, OsString> {
    [
        ("CANARY", CANARY),
        ("OTHER", OTHER),
        ("AWS_ID", super::signatures::ID),
        ("TOKEN_A", TOKEN_A),
        ("TOKEN_B", TOKEN_B),
        ("STORE_KEY", STORE_KEY),
        ("ALICE", ALICE),
        ("OIDC", "secret-of-keyward-0123456789abcdef"),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value.into()))
    .collect()
}

impl Harness {
    pub fn app(&self) -> &App {
        self.app.as_ref().unwrap()
    }

    /// Agent `a`.
    pub fn agent(&self) -> Agent {
        self.agent_with((!self.setup.open).then_some(TOKEN_A))
    }

    pub fn agent_with(&self, token: Option<&str>) -> Agent {
        let proxy = self.app().listeners()[0].2.first().copied();
        Agent::new(
            proxy.unwrap_or_else(|| "127.0.0.1:1".parse().unwrap()),
            token,
            &self.app().roots_pem(),
            Arc::clone(&self.transcript),
        )
    }

    /// Takes up other routes.
    pub async fn reload(&self, setup: &Setup) {
        let config = setup.parse(self.folder.path());
        self.app().reload(&config).await.unwrap();
    }

    /// The audit trail so far, a JSON value a line.
    pub fn audit(&self) -> Vec<serde_json::Value> {
        let lines = self.app().audit().lines().unwrap();
        String::from_utf8(lines)
            .unwrap()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// Waits for a record that this picks.
    pub async fn record(&self, picks: impl Fn(&serde_json::Value) -> bool) -> serde_json::Value {
        for _ in 0..200 {
            if let Some(found) = self.audit().into_iter().find(|record| picks(record)) {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("no such record in {:#?}", self.audit());
    }

    pub async fn metrics(&self) -> String {
        let mut stream = tokio::net::TcpStream::connect(self.app().admin().unwrap())
            .await
            .unwrap();
        stream
            .write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            .await
            .unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }

    /// The app itself, for a test that ends it.
    pub fn take_app(&mut self) -> App {
        self.app.take().unwrap()
    }

    /// Searches all that came out for canaries.
    pub async fn finish(mut self) {
        let metrics = self.metrics().await;
        assert!(metrics.contains("keyward_"), "{metrics}");
        assert_eq!(canary::find(metrics.as_bytes()), None, "{metrics}");
        let app = self.take_app();
        let audit = Arc::clone(app.audit());
        app.shut_down(Duration::from_millis(200), "test").await;
        let lines = audit.lines().unwrap_or_default();
        assert_eq!(
            canary::find(&lines),
            None,
            "{}",
            String::from_utf8_lossy(&lines)
        );
        assert!(
            memchr::memmem::find(&lines, TOKEN_A.as_bytes()).is_none(),
            "the agent's token stands in the audit trail"
        );
    }
}

impl Drop for Harness {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        let transcript = self.transcript.lock();
        if let Some(form) = canary::find(&transcript) {
            let text = String::from_utf8_lossy(&transcript).into_owned();
            let tail: String = text.chars().rev().take(4000).collect();
            let tail: String = tail.chars().rev().collect();
            drop(transcript);
            panic!("the agent received the {form}:\n{tail}");
        }
    }
}

/// A port that has to be known before it is listened on: below those that the kernel gives to whoever asks for any, so
/// that nobody gets it in between.
pub fn port_of_ones_own() -> u16 {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    loop {
        let nth = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let port = 12_000 + (std::process::id().wrapping_mul(7) + nth) % 20_000;
        let port = u16::try_from(port).unwrap();
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
