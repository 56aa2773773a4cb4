//! Asking the proxy listeners for tokens: a small client of `/token` and `/revoke`, in origin form.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::Value;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpSocket;

use super::agent::{Agent, Tap};
use super::answers::Message;
use super::harness::Harness;

pub const EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
pub const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
pub const JWT: &str = "urn:ietf:params:oauth:token-type:jwt";

/// An answer of the endpoint.
#[derive(Debug)]
pub struct Granted {
    pub status: u16,
    pub message: Message,
    pub json: Value,
}

impl Granted {
    pub fn text(&self, member: &str) -> &str {
        self.json[member].as_str().unwrap_or("")
    }

    pub fn token(&self) -> &str {
        assert_eq!(self.status, 200, "{:?}", self.json);
        self.text("access_token")
    }

    /// Status and `error`.
    pub fn error(&self) -> (u16, &str) {
        (self.status, self.text("error"))
    }

    pub fn field(&self, name: &str) -> Option<String> {
        let mut fields = self.message.fields.iter();
        let found = fields.find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.clone())
    }
}

/// A part of a JWT.
pub fn part(token: &str, place: usize) -> Value {
    let part = token.split('.').nth(place).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}

pub fn encode(parameters: &[(&str, &str)]) -> String {
    let mut form = form_urlencoded::Serializer::new(String::new());
    form.extend_pairs(parameters);
    form.finish()
}

impl Agent {
    /// Sends a form to a page of ours, with these further header lines.
    pub async fn form(&self, path: &str, lines: &str, parameters: &[(&str, &str)]) -> Granted {
        let body = encode(parameters);
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n{lines}\r\n",
            self.proxy,
            body.len(),
        );
        self.send(&[head.as_bytes(), body.as_bytes()].concat(), "127.0.0.1")
            .await
    }

    /// Gets a page of ours.
    pub async fn page(&self, path: &str) -> Granted {
        let head = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", self.proxy);
        self.send(head.as_bytes(), "127.0.0.1").await
    }

    /// Sends bytes from this loopback address.
    pub async fn send(&self, bytes: &[u8], from: &str) -> Granted {
        let mut stream = self.tcp_from(from).await;
        stream.write_all(bytes).await.unwrap();
        let message = stream.answer().await;
        Granted {
            status: message.status(),
            json: serde_json::from_slice(&message.body).unwrap_or(Value::Null),
            message,
        }
    }

    /// A connection from another loopback address: another peer.
    pub async fn tcp_from(&self, from: &str) -> Tap<tokio::net::TcpStream> {
        let socket = TcpSocket::new_v4().unwrap();
        let from = format!("{from}:0").parse().unwrap();
        socket.bind(from).unwrap();
        let stream = socket.connect(self.proxy).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Tap::new(stream, &self.transcript)
    }

    /// CONNECT from another loopback address; its answer.
    pub async fn connect_from(&self, from: &str, authority: &str) -> Message {
        let mut stream = self.tcp_from(from).await;
        let head = self.connect_head(authority);
        stream.write_all(&head).await.unwrap();
        stream.head().await
    }

    /// This agent with another token.
    pub fn with_token(&self, token: &str) -> Self {
        let pair = STANDARD.encode(format!("any:{token}"));
        Self {
            authorization: Some(format!("Basic {pair}")),
            ..self.clone()
        }
    }
}

pub fn basic(agent: &str, token: &str) -> String {
    let pair = STANDARD.encode(format!("{agent}:{token}"));
    format!("Authorization: Basic {pair}\r\n")
}

impl Harness {
    /// A session token of an agent, by its static token.
    pub async fn session(&self, agent: (&str, &str), more: &[(&str, &str)]) -> Granted {
        let mut parameters = vec![("grant_type", "client_credentials")];
        parameters.extend_from_slice(more);
        let lines = basic(agent.0, agent.1);
        self.agent().form("/token", &lines, &parameters).await
    }

    /// A token for a sub-agent.
    pub async fn delegate(&self, parent: &str, agent: &str, more: &[(&str, &str)]) -> Granted {
        let mut parameters = vec![
            ("grant_type", EXCHANGE),
            ("subject_token", parent),
            ("subject_token_type", ACCESS_TOKEN),
            ("agent", agent),
        ];
        parameters.extend_from_slice(more);
        self.agent().form("/token", "", &parameters).await
    }
}

/// The word of a CONNECT's refusal; empty where it was granted.
pub fn word(message: &Message) -> String {
    let mut fields = message.fields.iter();
    let found = fields.find(|(name, _)| name.eq_ignore_ascii_case("keyward-refusal"));
    found.map(|(_, value)| value.clone()).unwrap_or_default()
}
