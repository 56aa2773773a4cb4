//! Plain requests on a connection that is kept: it is known whose they are by what the one before showed, and by nothing
//! that has changed since.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::agent::{Agent, Tap};
use super::harness::{Harness, Setup, TOKEN_A, TOKEN_B};
use super::session_admin::alice;
use super::token::word;
use super::upstream::{Upstream, ok};

const A: (&str, &str) = ("a", TOKEN_A);
const ROUTE: &str = "[[route]]\nname = \"open\"\nhosts = [\"plain.test:80\"]\n";

struct World {
    harness: Harness,
    _upstream: Upstream,
}

impl World {
    async fn new(more: &str) -> Self {
        let upstream = Upstream::plain(|_| Box::pin(async { ok("fine") })).await;
        let harness = Setup::new(&format!("{ROUTE}{more}"))
            .admin("tokens = { alice = { env = \"ALICE\" } }")
            .to("plain.test:80", &upstream)
            .start()
            .await;
        Self {
            harness,
            _upstream: upstream,
        }
    }

    async fn line(&self) -> Line {
        let agent = self.harness.agent_with(None);
        let stream = agent.tcp().await;
        Line { agent, stream }
    }

    /// Whose the last request was.
    async fn last(&self, count: usize) -> Value {
        for _ in 0..500 {
            let mut records = self.harness.audit();
            records.retain(|record| record["event"] == "request");
            if records.len() == count {
                return records.pop().unwrap()["agent"].clone();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("there are not {count} requests");
    }
}

/// One connection.
struct Line {
    agent: Agent,
    stream: Tap<TcpStream>,
}

impl Line {
    /// What a request with these header lines comes to: nothing where it is served, else the word, or that the connection
    /// was closed.
    async fn ask(&mut self, lines: &str) -> String {
        let head = format!("GET http://plain.test/ HTTP/1.1\r\nHost: plain.test\r\n{lines}\r\n");
        if self.stream.write_all(head.as_bytes()).await.is_err() {
            return "closed".to_owned();
        }
        let answer = self.stream.answer().await;
        if answer.start.is_empty() {
            return "closed".to_owned();
        }
        assert_eq!(answer.status() == 200, word(&answer).is_empty());
        word(&answer)
    }

    /// The same on a connection of its own.
    async fn ask_anew(&self, lines: &str) -> String {
        let (agent, stream) = (self.agent.clone(), self.agent.tcp().await);
        Line { agent, stream }.ask(lines).await
    }
}

fn bearer(token: &str) -> String {
    format!("Proxy-Authorization: Bearer {token}\r\n")
}

fn basic(token: &str) -> String {
    format!(
        "Proxy-Authorization: Basic {}\r\n",
        STANDARD.encode(format!("x:{token}"))
    )
}

/// Each request is whose it says, whoever the one before it was.
#[tokio::test]
async fn what_the_request_before_showed_counts_for_the_same_bytes_only() {
    let world = World::new("").await;
    let session = world.harness.session(A, &[]).await;
    let (mut line, token) = (world.line().await, session.token());
    let mut served = 0;
    for (lines, agent) in [
        (bearer(token), "a"),
        (bearer(token), "a"),
        (bearer(TOKEN_B), "b"),
        (basic(token), "a"),
        (bearer(TOKEN_B), "b"),
        (bearer(TOKEN_B), "b"),
        (bearer(TOKEN_A), "a"),
    ] {
        assert_eq!(line.ask(&lines).await, "");
        served += 1;
        assert_eq!(world.last(served).await, agent, "{served}");
    }
    for bad in [
        String::new(),
        bearer(&token[..token.len() - 1]),
        bearer(&format!("{token}A")),
        bearer(&TOKEN_A.to_uppercase()),
        format!("{}{}", bearer(TOKEN_A), bearer(TOKEN_A)),
        format!("{}Keyward-Process: e30\r\n", bearer(TOKEN_A)),
        "Proxy-Authorization: Bearer\r\n".to_owned(),
    ] {
        let mut line = world.line().await;
        assert_eq!(line.ask(&bearer(TOKEN_A)).await, "");
        let refused = line.ask(&bad).await;
        assert!(
            ["unidentified", "bad-request", "closed"].contains(&&*refused),
            "{refused}: {bad}"
        );
    }
    world.harness.finish().await;
}

/// The end of a session is seen by the next request on a connection that showed it just now.
#[tokio::test]
async fn the_next_request_sees_the_end_of_its_session() {
    let world = World::new("").await;
    // By whoever has the token.
    let session = world.harness.session(A, &[]).await;
    let lines = bearer(session.token());
    let mut line = world.line().await;
    for _ in 0..3 {
        assert_eq!(line.ask(&lines).await, "");
    }
    let parameters = [("token", session.token())];
    let revoked = line.agent.form("/revoke", "", &parameters).await;
    assert_eq!(revoked.status, 200);
    assert!(["session-ended", "closed"].contains(&&*line.ask(&lines).await));
    assert_eq!(line.ask_anew(&lines).await, "session-ended");
    // By its time.
    let session = world.harness.session(A, &[("expires_in", "1")]).await;
    let end = super::token::part(session.token(), 1)["exp"]
        .as_i64()
        .unwrap();
    let (mut line, lines) = (world.line().await, bearer(session.token()));
    let began = Instant::now();
    loop {
        let asked_at = jiff::Timestamp::now();
        let answer = line.ask(&lines).await;
        if !answer.is_empty() {
            assert!(["session-ended", "closed"].contains(&&*answer), "{answer}");
            break;
        }
        // `exp` has no fractions of a second, and the session has.
        assert!(asked_at.as_second() <= end, "it is past its time");
        assert!(began.elapsed() < Duration::from_secs(30));
    }
    assert_eq!(line.ask_anew(&lines).await, "session-ended");
    // By an operator who suspends the agent.
    let session = world.harness.session(A, &[]).await;
    let lines = [bearer(session.token()), bearer(TOKEN_A), basic(TOKEN_A)];
    let mut open = Vec::new();
    for lines in &lines {
        let mut line = world.line().await;
        assert_eq!(line.ask(lines).await, "");
        assert_eq!(line.ask(lines).await, "");
        open.push(line);
    }
    assert_eq!(
        alice(&world.harness, "POST /agents/a/suspend", "{}")
            .await
            .0,
        200
    );
    for (line, lines) in open.iter_mut().zip(&lines) {
        let refused = line.ask(lines).await;
        assert!(
            ["session-ended", "suspended", "closed"].contains(&&*refused),
            "{refused}"
        );
        assert_ne!(line.ask_anew(lines).await, "");
    }
    world.harness.finish().await;
}

/// Another configuration is seen by the next request.
#[tokio::test]
async fn the_next_request_sees_another_configuration() {
    let world = World::new("").await;
    let mut line = world.line().await;
    for _ in 0..2 {
        assert_eq!(line.ask(&bearer(TOKEN_A)).await, "");
    }
    let suspended = world
        .harness
        .setup
        .clone()
        .agent_a("status = \"suspended\"\n");
    world.harness.reload(&suspended).await;
    let refused = line.ask(&bearer(TOKEN_A)).await;
    assert!(["suspended", "closed"].contains(&&*refused), "{refused}");
    assert_eq!(line.ask_anew(&bearer(TOKEN_A)).await, "suspended");
    assert_eq!(line.ask_anew(&bearer(TOKEN_B)).await, "");
    world.harness.finish().await;
}
