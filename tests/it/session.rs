//! Session tokens: had at `/token`, used at the proxy, bound to a peer, ended in every way, and forged in vain.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use bytes::Bytes;
use http::Response;
use http_body_util::BodyExt as _;
use hyper::body::Frame;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;

use super::agent::{request, within};
use super::channel::channel_body;
use super::harness::{BEARER, Harness, Setup, TOKEN_A, TOKEN_B};
use super::token::{ACCESS_TOKEN, EXCHANGE, JWT, basic, part, word};
use super::upstream::{Upstream, ok};

const A: (&str, &str) = ("a", TOKEN_A);

async fn echo() -> Upstream {
    Upstream::service(&["http/1.1"], |_| Box::pin(async { ok("fine") })).await
}

/// Two routes at one host, and one at another.
const ROUTES: &str = "[[route]]\nname = \"read\"\nhosts = [\"api.test\"]\nmethods = [\"GET\"]\ncredential = \"c\"\ninject = \"bearer\"\n\
    [[route]]\nname = \"write\"\nhosts = [\"api.test\"]\nmethods = [\"POST\"]\ncredential = \"c\"\ninject = \"bearer\"\n\
    [[route]]\nname = \"plain\"\nhosts = [\"plain.test\"]\n";

async fn started(upstream: &Upstream) -> Harness {
    Setup::new(ROUTES)
        .to("api.test:443", upstream)
        .to("plain.test:443", upstream)
        .start()
        .await
}

#[tokio::test]
async fn a_session_token_is_had_with_a_static_one_and_opens_the_proxy() {
    let upstream = echo().await;
    let harness = started(&upstream).await;
    let granted = harness.session(A, &[("scope", "route:read")]).await;
    let token = granted.token().to_owned();
    assert_eq!(granted.text("token_type"), "Bearer");
    assert_eq!(granted.text("issued_token_type"), ACCESS_TOKEN);
    assert_eq!(granted.json["expires_in"], 900);
    assert_eq!(granted.text("scope"), "route:read");
    assert_eq!(granted.field("cache-control").as_deref(), Some("no-store"));
    let (head, claims) = (part(&token, 0), part(&token, 1));
    assert_eq!(
        (&head["typ"], &head["alg"]),
        (&json!("at+jwt"), &json!("ES256"))
    );
    assert_eq!(
        (&claims["sub"], &claims["client_id"]),
        (&json!("a"), &json!("a"))
    );
    assert_eq!(
        (&claims["aud"], &claims["scope"]),
        (&json!("keyward"), &json!("route:read"))
    );
    assert_eq!(claims["sid"], granted.json["session"]);
    assert!(claims.get("act").is_none());

    let jwks = harness.agent().page("/.well-known/jwks.json").await.json;
    assert_eq!(
        (&jwks["keys"][0]["kid"], &jwks["keys"][0]["kty"]),
        (&head["kid"], &json!("EC"))
    );
    assert!(jwks["keys"][0].get("d").is_none(), "{jwks}");
    let metadata = harness
        .agent()
        .page("/.well-known/oauth-authorization-server")
        .await
        .json;
    assert_eq!(metadata["issuer"], claims["iss"]);
    let endpoint = format!("http://{}/token", harness.agent().proxy);
    assert_eq!(metadata["token_endpoint"], endpoint);

    // Basic with any user, and Bearer.
    let agent = harness.agent().with_token(&token);
    assert_eq!(agent.get("api.test:443", "/x").await.status, 200);
    let mut bearer = agent.clone();
    bearer.authorization = Some(format!("Bearer {token}"));
    assert_eq!(bearer.get("api.test:443", "/y").await.status, 200);
    // What the scope does not cover is denied, inside a tunnel that it shares.
    let mut sender = agent.h1("api.test:443").await;
    let answer = agent
        .ask(&mut sender, request("POST", "/x", "api.test"))
        .await;
    assert_eq!((answer.status, answer.word()), (403, "denied"));
    let answer = agent.get("plain.test:443", "/").await;
    assert_eq!((answer.status, answer.word()), (403, "denied"));
    let sid = claims["sid"].as_str().unwrap();
    let start = harness
        .record(|record| record["event"] == "session-start" && record["session"] == sid)
        .await;
    assert_eq!(
        (&start["trust"], &start["bound"]),
        (&json!("token"), &json!("127.0.0.1"))
    );
    assert_eq!(
        (&start["scope"], &start["depth"]),
        (&json!("route:read"), &json!(0))
    );
    assert!(start["expires"].is_string());
    harness
        .record(|record| record["event"] == "intent" && record["session"] == sid)
        .await;
    harness.finish().await;
}

#[tokio::test]
async fn a_scope_is_never_cut_in_silence() {
    let upstream = echo().await;
    let mut routes = ROUTES.to_owned();
    routes.push_str("[agent.narrow]\ntoken = { env = \"OTHER\" }\npermissions = [\"route:read\", \"contacts.read\"]\n");
    let harness = Setup::new(&routes)
        .to("api.test:443", &upstream)
        .start()
        .await;
    let narrow = ("narrow", super::canary::OTHER);
    let granted = harness.session(narrow, &[]).await;
    assert_eq!(
        granted.text("scope"),
        "contacts.read route:read",
        "as wide as allowed"
    );
    for wide in [
        "route:write",
        "route:read route:write",
        "contacts.write",
        "route:nowhere",
    ] {
        let granted = harness.session(narrow, &[("scope", wide)]).await;
        assert_eq!(granted.error(), (400, "invalid_scope"), "{wide}");
    }
    let granted = harness.session(A, &[("scope", "route:nowhere")]).await;
    assert_eq!(granted.error(), (400, "invalid_scope"), "no such route");
    for odd in ["  ", "a  b", " a", "a\"b"] {
        let granted = harness.session(A, &[("scope", odd)]).await;
        assert_eq!(granted.error(), (400, "invalid_scope"), "{odd:?}");
    }
    // The permissions hold for a static token's session too.
    let agent = harness.agent_with(Some(super::canary::OTHER));
    let mut sender = agent.h1("api.test:443").await;
    let answer = agent
        .ask(&mut sender, request("POST", "/x", "api.test"))
        .await;
    assert_eq!((answer.status, answer.word()), (403, "denied"));
    harness.finish().await;
}

#[tokio::test]
async fn what_is_no_token_request_gets_no_token() {
    let upstream = echo().await;
    let harness = started(&upstream).await;
    let agent = harness.agent();
    let credentials = [("grant_type", "client_credentials")];
    for lines in [
        String::new(),
        basic("a", "wrong"),
        basic("b", TOKEN_A),
        basic("a", ""),
        "Authorization: Basic !!!\r\n".into(),
        format!("Authorization: Bearer {TOKEN_A}\r\n"),
        format!("{}{}", basic("a", TOKEN_A), basic("b", TOKEN_B)),
    ] {
        let granted = agent.form("/token", &lines, &credentials).await;
        assert_eq!(granted.error(), (401, "invalid_client"), "{lines}");
        assert!(granted.field("www-authenticate").is_some());
        assert_eq!(granted.field("cache-control").as_deref(), Some("no-store"));
    }
    let own = basic("a", TOKEN_A);
    let twice = [credentials[0], credentials[0]];
    let huge = "s".repeat(70_000);
    for (parameters, error) in [
        (&[][..], "invalid_request"),
        (&twice, "invalid_request"),
        (&[("grant_type", "password")], "unsupported_grant_type"),
        (&[("grant_type", "refresh_token")], "unsupported_grant_type"),
        (&[("grant_type", EXCHANGE)], "invalid_request"),
        (&[credentials[0], ("scope", &huge)], "invalid_request"),
        (&[credentials[0], ("expires_in", "-1")], "invalid_request"),
        (&[credentials[0], ("expires_in", "0")], "invalid_request"),
        // A static token is no JWT, and no session token.
        (
            &[
                ("grant_type", EXCHANGE),
                ("subject_token", TOKEN_A),
                ("subject_token_type", JWT),
            ],
            "invalid_request",
        ),
        (
            &[
                ("grant_type", EXCHANGE),
                ("subject_token", TOKEN_A),
                ("subject_token_type", ACCESS_TOKEN),
                ("agent", "b"),
            ],
            "invalid_request",
        ),
    ] {
        let granted = agent.form("/token", &own, parameters).await;
        assert_eq!(granted.error(), (400, error), "{parameters:?}");
    }
    let page = format!("{own}Origin: http://evil.test\r\n");
    let granted = agent.form("/token", &page, &credentials).await;
    assert_eq!(
        granted.error(),
        (400, "invalid_request"),
        "a page in a browser"
    );
    assert_eq!(agent.page("/token").await.error(), (405, "invalid_request"));
    let granted = agent
        .form("/token?grant_type=client_credentials", &own, &credentials)
        .await;
    assert_eq!(
        granted.error(),
        (400, "invalid_request"),
        "parameters in the query"
    );
    let text = "POST /token HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";
    assert_eq!(
        agent.send(text.as_bytes(), "127.0.0.1").await.error(),
        (400, "invalid_request")
    );
    harness.finish().await;
}

/// ID-01: a token that was copied to another peer.
#[tokio::test]
async fn a_stolen_token_is_refused_from_another_peer() {
    let upstream = echo().await;
    let harness = started(&upstream).await;
    let token = harness.session(A, &[]).await.token().to_owned();
    let agent = harness.agent().with_token(&token);
    let answer = agent.connect_from("127.0.0.2", "api.test:443").await;
    assert_eq!((answer.status(), &*word(&answer)), (407, "wrong-peer"));
    let stolen = [
        ("grant_type", EXCHANGE),
        ("subject_token", &token),
        ("subject_token_type", ACCESS_TOKEN),
        ("agent", "b"),
    ];
    let body = super::token::encode(&stolen);
    let head = format!(
        "POST /token HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let granted = agent.send(head.as_bytes(), "127.0.0.2").await;
    assert_eq!(
        granted.error(),
        (400, "invalid_request"),
        "nor can it be handed on"
    );
    assert_eq!(
        agent.get("api.test:443", "/x").await.status,
        200,
        "its owner goes on"
    );
    harness.finish().await;

    let free = Setup::new(&format!("{ROUTES}[session]\nbind = \"none\"\n"))
        .to("api.test:443", &upstream)
        .start()
        .await;
    let token = free.session(A, &[]).await.token().to_owned();
    let agent = free.agent().with_token(&token);
    assert_eq!(
        agent
            .connect_from("127.0.0.2", "api.test:443")
            .await
            .status(),
        200
    );
    free.finish().await;
}

/// ID-03, ID-05, ID-06, ID-08, ID-10, ID-11, and what else is tried with a JWT. That each check refuses by itself is for
/// `session::token::tests`, which can sign.
#[tokio::test]
#[expect(clippy::too_many_lines, reason = "one list of forgeries")]
async fn forged_session_tokens_open_nothing() {
    let upstream = echo().await;
    let harness = started(&upstream).await;
    let other = started(&upstream).await;
    let good = harness.session(A, &[]).await.token().to_owned();
    let foreign = other.session(A, &[]).await.token().to_owned();
    let parts: Vec<&str> = good.split('.').collect();
    let head = |change: &[(&str, Value)]| {
        let mut head = part(&good, 0);
        for (name, value) in change {
            head[*name] = value.clone();
        }
        BASE64URL.encode(head.to_string())
    };
    let claims = |change: &[(&str, Value)]| {
        let mut claims = part(&good, 1);
        for (name, value) in change {
            claims[*name] = value.clone();
        }
        BASE64URL.encode(claims.to_string())
    };
    let jwks = harness.agent().page("/.well-known/jwks.json").await.json;
    let public = jwks["keys"][0]["x"].as_str().unwrap();
    let signed = |secret: &[u8]| {
        let text = format!("{}.{}", head(&[("alg", "HS256".into())]), parts[1]);
        let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, secret);
        let tag = aws_lc_rs::hmac::sign(&key, text.as_bytes());
        format!("{text}.{}", BASE64URL.encode(tag))
    };
    let evil = jwks["keys"][0].clone();
    let nested = BASE64URL.encode("[".repeat(2000));
    for forged in [
        foreign,
        format!("{}.{}.", head(&[("alg", "none".into())]), parts[1]),
        format!(
            "{}.{}.{}",
            head(&[("alg", "none".into())]),
            parts[1],
            parts[2]
        ),
        signed(public.as_bytes()),
        signed(jwks.to_string().as_bytes()),
        signed(b""),
        format!(
            "{}.{}.{}",
            head(&[("kid", "../../x".into())]),
            parts[1],
            parts[2]
        ),
        format!("{}.{}.{}", head(&[("jwk", evil)]), parts[1], parts[2]),
        format!(
            "{}.{}.{}",
            head(&[("jku", "http://127.0.0.1:1/".into())]),
            parts[1],
            parts[2]
        ),
        format!(
            "{}.{}.{}",
            head(&[("typ", "JWT".into())]),
            parts[1],
            parts[2]
        ),
        format!(
            "{}.{}.{}",
            parts[0],
            claims(&[("aud", Value::Null)]),
            parts[2]
        ),
        format!(
            "{}.{}.{}",
            parts[0],
            claims(&[("exp", json!(9_999_999_999_i64))]),
            parts[2]
        ),
        format!(
            "{}.{}.{}",
            parts[0],
            claims(&[("scope", "route:write".into())]),
            parts[2]
        ),
        format!(
            "{}.{}.{}",
            parts[0],
            claims(&[("act", json!({ "sub": "b" }))]),
            parts[2]
        ),
        format!("{}.{}.{}", parts[0], parts[1], BASE64URL.encode([0; 64])),
        format!("{}.{}.", parts[0], parts[1]),
        format!("{nested}.{nested}.{nested}"),
        // Nearly the most that the head of a request may hold.
        format!("{}.{}.{}", parts[0], "A".repeat(11_000), parts[2]),
    ] {
        let agent = harness.agent().with_token(&forged);
        let (answer, _) = agent.connect("api.test:443").await;
        assert_eq!(
            (answer.status(), &*word(&answer)),
            (407, "unidentified"),
            "{forged}"
        );
        let granted = harness.delegate(&forged, "b", &[]).await;
        assert_eq!(granted.error(), (400, "invalid_request"), "{forged}");
        // Whatever it is, nothing is said about it, and nothing is ended by it.
        let revoked = harness
            .agent()
            .form("/revoke", "", &[("token", &forged)])
            .await;
        assert_eq!(revoked.status, 200);
    }
    let agent = harness.agent().with_token(&good);
    assert_eq!(agent.get("api.test:443", "/x").await.status, 200);
    // ID-16: two fields, whatever they hold.
    let mut twice = harness.agent().with_token(&good);
    let line = twice.authorization.clone().unwrap();
    twice.authorization = Some(format!("{line}\r\nProxy-Authorization: {line}"));
    let (answer, _) = twice.connect("api.test:443").await;
    assert_eq!((answer.status(), &*word(&answer)), (407, "unidentified"));
    other.finish().await;
    harness.finish().await;
}

#[tokio::test]
async fn a_revoked_session_is_refused_at_once_and_what_it_held_is_cut() {
    let upstream = Upstream::service(&["http/1.1"], |request| {
        Box::pin(async move {
            if request.uri != "/stream" {
                return ok("fine");
            }
            let (sender, body) = channel_body();
            tokio::spawn(async move {
                while sender
                    .send(Ok(Frame::data(Bytes::from_static(b"tick "))))
                    .await
                    .is_ok()
                {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            });
            Response::new(body)
        })
    })
    .await;
    let harness = started(&upstream).await;
    let granted = harness.session(A, &[]).await;
    let (token, sid) = (
        granted.token().to_owned(),
        granted.text("session").to_owned(),
    );
    let agent = harness.agent().with_token(&token);
    let mut sender = agent.h1("api.test:443").await;
    let stream = within(sender.send_request(request("GET", "/stream", "api.test")))
        .await
        .unwrap();
    let mut body = stream.into_body();
    assert!(within(body.frame()).await.unwrap().is_ok());
    let mut idle = agent.tunnel("api.test:443", &["http/1.1"]).await;

    let revoked = harness
        .agent()
        .form("/revoke", "", &[("token", &token)])
        .await;
    assert_eq!(revoked.status, 200);
    let began = Instant::now();
    let (answer, _) = agent.connect("api.test:443").await;
    assert_eq!((answer.status(), &*word(&answer)), (407, "session-ended"));
    while let Some(Ok(_)) = within(body.frame()).await {
        assert!(began.elapsed() < Duration::from_millis(100), "it goes on");
    }
    assert_eq!(within(idle.read_u8()).await.map_err(|_| ()).err(), Some(()));
    assert!(
        began.elapsed() < Duration::from_millis(100),
        "{:?}",
        began.elapsed()
    );
    let end = harness
        .record(|record| record["event"] == "session-end" && record["session"] == *sid)
        .await;
    assert_eq!(end["reason"], "revoked");
    // The agent itself is not locked out.
    assert_eq!(harness.agent().get("api.test:443", "/x").await.status, 200);
    assert_eq!(harness.session(A, &[]).await.status, 200);
    harness.finish().await;
}

#[tokio::test]
async fn time_and_idleness_end_a_session_while_it_is_used() {
    let upstream = echo().await;
    let harness = Setup::new(&format!("{ROUTES}[session]\nttl = \"1s\"\n"))
        .to("api.test:443", &upstream)
        .start()
        .await;
    let token = harness.session(A, &[]).await.token().to_owned();
    let agent = harness.agent().with_token(&token);
    let began = Instant::now();
    let mut idle = agent.tunnel("api.test:443", &["http/1.1"]).await;
    assert!(within(idle.read_u8()).await.is_err(), "the tunnel is cut");
    let took = began.elapsed();
    assert!(
        took > Duration::from_millis(700) && took < Duration::from_millis(1300),
        "{took:?}"
    );
    let (answer, _) = agent.connect("api.test:443").await;
    assert_eq!((answer.status(), &*word(&answer)), (407, "session-ended"));
    let end = harness
        .record(|record| record["event"] == "session-end")
        .await;
    assert_eq!(end["reason"], "expired");
    harness.finish().await;

    let harness = Setup::new(&format!("{ROUTES}[session]\nidle = \"1s\"\n"))
        .to("api.test:443", &upstream)
        .start()
        .await;
    let token = harness.session(A, &[]).await.token().to_owned();
    let end = harness
        .record(|record| record["event"] == "session-end")
        .await;
    assert_eq!(end["reason"], "idle");
    let agent = harness.agent().with_token(&token);
    let (answer, _) = agent.connect("api.test:443").await;
    assert_eq!((answer.status(), &*word(&answer)), (407, "session-ended"));
    harness.finish().await;
}

#[tokio::test]
async fn a_suspended_agents_sessions_end_with_the_reload() {
    let upstream = echo().await;
    let harness = Setup::new(BEARER)
        .to("api.test:443", &upstream)
        .start()
        .await;
    let granted = harness.session(A, &[]).await;
    let agent = harness.agent().with_token(granted.token());
    assert_eq!(agent.get("api.test:443", "/x").await.status, 200);
    let suspended = harness.setup.clone().agent_a("status = \"suspended\"\n");
    harness.reload(&suspended).await;
    let (answer, _) = agent.connect("api.test:443").await;
    assert_eq!((answer.status(), &*word(&answer)), (407, "session-ended"));
    let (answer, _) = harness.agent().connect("api.test:443").await;
    assert_eq!((answer.status(), &*word(&answer)), (403, "suspended"));
    assert_eq!(
        harness.session(A, &[]).await.error(),
        (400, "invalid_request")
    );
    let sid = granted.text("session");
    let end = harness
        .record(|record| record["event"] == "session-end" && record["session"] == sid)
        .await;
    assert_eq!(end["reason"], "suspend");
    harness.finish().await;
}
