//! Evidence that was revoked, in every way in which whoever holds it can write it: it opens nothing any more, anywhere.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::super::agent::{Agent, Transcript};
use super::super::harness::{ALICE, BEARER, Harness, STORE_KEY, Setup, TOKEN_A};
use super::super::session_admin::alice;
use super::super::token::{ACCESS_TOKEN, EXCHANGE, Granted, JWT, word};
use super::super::upstream::Upstream;
use super::issuer::Issuer;
use super::mint::{Pair, b64, respelled};

const TABLE: &str = "agent = { map = { \"robot:*\" = \"a\" } }";

struct World {
    pairs: [(&'static str, Pair); 2],
    issuer: Issuer,
    _upstream: Upstream,
    harness: Harness,
}

impl World {
    async fn new() -> Self {
        let pairs = [("ES256", Pair::p256()), ("ES384", Pair::p384())];
        let keys = pairs.iter().map(|(alg, pair)| pair.jwk(alg)).collect();
        let issuer = Issuer::start(keys).await;
        let upstream = Upstream::echo(&["http/1.1"]).await;
        let harness = Setup::new(&trust(&issuer.url))
            .admin("tokens = { alice = { env = \"ALICE\" } }")
            .to("api.test:443", &upstream)
            .start()
            .await;
        Self {
            pairs,
            issuer,
            _upstream: upstream,
            harness,
        }
    }

    /// The tokens of this id, by each curve.
    fn tokens(&self, jti: &str) -> [String; 2] {
        let sign = |(alg, pair): &(&str, Pair)| signed(pair, (alg, alg), &self.issuer.url, jti);
        [sign(&self.pairs[0]), sign(&self.pairs[1])]
    }

    /// The word with which a CONNECT is refused; empty where it is granted.
    async fn connects(&self, token: &str) -> String {
        let agent = self.harness.agent_with(Some(token));
        let (answer, _) = agent.connect("api.test:443").await;
        assert_eq!(answer.status() == 407, !word(&answer).is_empty());
        word(&answer)
    }

    async fn exchanges(&self, token: &str) -> Granted {
        exchanges(&self.harness.agent_with(None), token).await
    }

    async fn revokes(&self, token: &str) {
        let agent = self.harness.agent_with(None);
        let revoked = agent.form("/revoke", "", &[("token", token)]).await;
        assert_eq!(revoked.status, 200);
    }

    /// Whether neither this token nor its other spelling is good for anything.
    async fn is_over(&self, token: &str) {
        for spelling in [token.to_owned(), respelled(token)] {
            assert_eq!(self.connects(&spelling).await, "session-ended");
            let granted = self.exchanges(&spelling).await;
            assert_eq!(granted.error(), (400, "invalid_request"));
        }
    }

    fn started(&self) -> Vec<Value> {
        let mut records = self.harness.audit();
        records.retain(|record| record["event"] == "session-start");
        records
    }
}

fn trust(issuer: &str) -> String {
    format!(
        "{BEARER}[trust.t]\n{TABLE}\n[trust.t.jwt]\nissuer = \"{issuer}\"\naudience = [\"keyward\"]\n"
    )
}

fn signed(pair: &Pair, (alg, kid): (&str, &str), issuer: &str, jti: &str) -> String {
    let now = jiff::Timestamp::now().as_second();
    let claims = json!({
        "iss": issuer, "sub": "robot:1", "aud": "keyward", "exp": now + 300, "jti": jti,
    });
    pair.token(&json!({"alg": alg, "kid": kid}), &claims)
}

async fn exchanges(agent: &Agent, token: &str) -> Granted {
    let parameters = [
        ("grant_type", EXCHANGE),
        ("subject_token", token),
        ("subject_token_type", JWT),
    ];
    agent.form("/token", "", &parameters).await
}

/// Two spellings of one evidence are one session, and the end of it is the end of both.
#[tokio::test]
async fn another_spelling_of_revoked_evidence_opens_nothing() {
    let world = World::new().await;
    for (place, token) in world.tokens("1").into_iter().enumerate() {
        let other = respelled(&token);
        assert_ne!(other, token);
        for spelling in [&token, &other, &token] {
            assert_eq!(world.connects(spelling).await, "");
        }
        assert_eq!(
            world.started().len(),
            place + 1,
            "one evidence, one session"
        );
        // Whoever revokes may show either.
        world
            .revokes(if place == 0 { &other } else { &token })
            .await;
        let session = world.started()[place]["session"].clone();
        let ended = |r: &Value| r["event"] == "session-end" && r["session"] == session;
        assert_eq!(world.harness.record(ended).await["reason"], "revoked");
        world.is_over(&token).await;
    }
    // Another evidence of the same agent is none of these.
    for token in world.tokens("2") {
        assert_eq!(world.connects(&token).await, "");
    }
    world.harness.finish().await;
}

/// The same by an operator's order, who names the session alone.
#[tokio::test]
async fn an_operators_order_ends_evidence_in_all_its_spellings() {
    let world = World::new().await;
    for token in world.tokens("1") {
        assert_eq!(world.connects(&token).await, "");
        let session = world.started().pop().unwrap()["session"].clone();
        let line = format!("DELETE /sessions/{}", session.as_str().unwrap());
        assert_eq!(alice(&world.harness, &line, "").await.0, 204);
        world.is_over(&token).await;
    }
    world.harness.finish().await;
}

/// Evidence that no connection ever showed is revoked as well (RFC 7009 §2.1), and only by whoever has all of it.
#[tokio::test]
async fn evidence_that_was_only_exchanged_is_revoked_too() {
    let world = World::new().await;
    for token in world.tokens("1") {
        assert_eq!(world.exchanges(&token).await.status, 200);
        let (stem, signature) = token.rsplit_once('.').unwrap();
        let length = signature.len() * 3 / 4;
        for forged in [
            stem.to_owned(),
            format!("{stem}."),
            format!("{stem}.{}", b64(vec![1; length])),
        ] {
            world.revokes(&forged).await;
        }
        assert_eq!(world.exchanges(&token).await.status, 200);
        world.revokes(&token).await;
        world.is_over(&token).await;
    }
    let [never_seen, _] = world.tokens("2");
    world.revokes(&respelled(&never_seen)).await;
    world.is_over(&never_seen).await;
    world.harness.finish().await;
}

/// What is left of the last character of a signature is zero (RFC 4648 §3.5): there is one base64url of it.
#[tokio::test]
async fn a_signature_has_one_base64url() {
    let world = World::new().await;
    let [token, _] = world.tokens("1");
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let last = alphabet
        .iter()
        .position(|b| *b == token.as_bytes()[token.len() - 1]);
    let next = char::from(alphabet[last.unwrap() + 1]);
    let cut = &token[..token.len() - 1];
    for other in [
        format!("{cut}{next}"),
        format!("{token}="),
        format!("{token}=="),
        format!("{token}A"),
        token.replacen('.', "=.", 1),
    ] {
        assert_eq!(world.connects(&other).await, "unidentified", "{other}");
    }
    assert_eq!(world.connects(&token).await, "");
    world.harness.finish().await;
}

/// A copy of evidence is good for nothing from another peer than the one that showed it first, in whatever spelling; nor
/// is evidence a session token that could be handed on.
#[tokio::test]
async fn evidence_is_its_first_peers_in_all_its_spellings() {
    let world = World::new().await;
    for token in world.tokens("1") {
        assert_eq!(world.connects(&token).await, "");
        for spelling in [token.clone(), respelled(&token)] {
            let agent = world.harness.agent_with(Some(&spelling));
            let answer = agent.connect_from("127.0.0.2", "api.test:443").await;
            assert_eq!(word(&answer), "wrong-peer");
        }
        assert_eq!(world.connects(&respelled(&token)).await, "");
        let parameters = [
            ("grant_type", EXCHANGE),
            ("subject_token", &*token),
            ("subject_token_type", ACCESS_TOKEN),
            ("agent", "b"),
        ];
        let agent = world.harness.agent_with(None);
        let granted = agent.form("/token", "", &parameters).await;
        assert_eq!(granted.error(), (400, "invalid_request"));
    }
    assert_eq!(world.started().len(), 2);
    world.harness.finish().await;
}

/// What evidence is worth, its provider says at each CONNECT, and not what it was worth once: neither another table of
/// who is who, nor a key that is gone, waits for the end of a session.
#[tokio::test]
async fn evidence_is_judged_at_each_connect() {
    let world = World::new().await;
    let [token, _] = world.tokens("1");
    world.issuer.cache_control("max-age=1");
    assert_eq!(world.connects(&token).await, "");
    let text = trust(&world.issuer.url).replace("= \"a\"", "= \"b\"");
    let other = world.harness.setup.clone().routes(&text);
    world.harness.reload(&other).await;
    assert_eq!(world.connects(&token).await, "");
    let agents: Vec<Value> = (world.started().iter())
        .map(|r| r["agent"].clone())
        .collect();
    assert_eq!(agents, ["a", "b"]);

    world.issuer.publish(vec![Pair::p256().jwk("other")]);
    let text = text.replace("[\"keyward\"]", "[\"keyward\", \"more\"]");
    world.harness.reload(&other.routes(&text)).await;
    assert_eq!(world.connects(&token).await, "unidentified");
    world.harness.finish().await;
}

/// Our own session tokens are ES256 as well: another spelling is the same session, for the same peer, until the same end.
#[tokio::test]
async fn another_spelling_of_a_session_token_is_the_same_session() {
    let world = World::new().await;
    let granted = world.harness.session(("a", TOKEN_A), &[]).await;
    let token = granted.token();
    let other = respelled(token);
    for spelling in [token, &other] {
        assert_eq!(world.connects(spelling).await, "");
        let agent = world.harness.agent_with(Some(spelling));
        let answer = agent.connect_from("127.0.0.2", "api.test:443").await;
        assert_eq!(word(&answer), "wrong-peer");
    }
    assert_eq!(world.started().len(), 1);
    world.revokes(&other).await;
    for spelling in [token, &other] {
        assert_eq!(world.connects(spelling).await, "session-ended");
        let child = world.harness.delegate(spelling, "b", &[]).await;
        assert_eq!(child.error(), (400, "invalid_request"));
    }
    world.harness.finish().await;
}

/// keyward as a process of its own.
struct Gateway(Child, SocketAddr);

impl Gateway {
    fn start(file: &Path) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_keyward"))
            .args(["serve", "-c"])
            .arg(file)
            .env_clear()
            .env("STORE_KEY", STORE_KEY)
            .env("ALICE", ALICE)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut told = BufReader::new(child.stderr.take().unwrap()).lines();
        let proxy = loop {
            let line = told.next().unwrap().unwrap();
            if let Some((_, rest)) = line.split_once("addresses=\"") {
                break rest.trim_end_matches('"').parse().unwrap();
            }
        };
        // Somebody must read on, or it waits.
        std::thread::spawn(move || told.for_each(drop));
        Self(child, proxy)
    }

    fn agent(&self) -> Agent {
        Agent::new(self.1, None, "", Transcript::default())
    }

    async fn connects(&self, token: &str) -> String {
        let agent = self.agent().with_token(token);
        word(&agent.connect("api.test:443").await.0)
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Two processes on one store: what is revoked at one is over at the other, in each spelling, with the session that it had
/// there; and a restart forgets nothing.
#[tokio::test(flavor = "multi_thread")]
async fn every_gateway_of_a_store_knows_revoked_evidence_in_all_its_spellings() {
    let pair = Pair::p256();
    let issuer = Issuer::start(vec![pair.jwk("k1")]).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keyward.toml");
    let text = format!(
        "[proxy]\nlisten = [\"127.0.0.1:0\"]\n[store]\nsqlite = \"{}\"\nkey = {{ env = \"STORE_KEY\" }}\n\
         [agent.a]\n[[route]]\nhosts = [\"api.test\"]\n[trust.t]\n{TABLE}\n[trust.t.jwt]\nissuer = \"{}\"\naudience = [\"keyward\"]\n",
        folder.path().join("k.db").display(),
        issuer.url,
    );
    std::fs::write(&file, text).unwrap();
    let (one, two) = (Gateway::start(&file), Gateway::start(&file));
    let token = signed(&pair, ("ES256", "k1"), &issuer.url, "1");
    let other = respelled(&token);
    for gateway in [&one, &two] {
        assert_eq!(gateway.connects(&token).await, "");
        assert_eq!(gateway.connects(&other).await, "");
    }
    let revoked = one.agent().form("/revoke", "", &[("token", &other)]).await;
    assert_eq!(revoked.status, 200);
    for spelling in [&token, &other] {
        assert_eq!(one.connects(spelling).await, "session-ended");
    }
    // The other one hears of it some times a second.
    let end = Instant::now() + Duration::from_secs(10);
    while two.connects(&token).await != "session-ended" {
        assert!(Instant::now() < end, "it is still good");
    }
    assert_eq!(two.connects(&other).await, "session-ended");
    drop(one);
    let again = Gateway::start(&file);
    for gateway in [&two, &again] {
        for spelling in [&token, &other] {
            assert_eq!(gateway.connects(spelling).await, "session-ended");
            let granted = exchanges(&gateway.agent(), spelling).await;
            assert_eq!(granted.error(), (400, "invalid_request"));
        }
    }
}
