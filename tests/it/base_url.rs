//! Base URLs: SDKs that know no proxy call the listener itself, and web pages do not get through there.

use tokio::io::AsyncWriteExt as _;

use super::answers::Message;
use super::canary::CANARY;
use super::harness::{Harness, Setup, TOKEN_A, TOKEN_B};
use super::upstream::Upstream;

/// A service of the operator's own: it shows `[preset.NAME]` at work as well.
const MINE: &str = r#"
[preset.mine]
title = "Mine"
hosts = ["api.test"]
minting = [{ method = "POST", path = "/v1/keys" }]
[[preset.mine.key]]
inject = { header = "x-api-key" }
env = ["MINE_KEY"]
placeholder = "mine-keyward-00000000"
[[route]]
preset = "mine"
credential = "c"
"#;

async fn started(upstream: &Upstream) -> Harness {
    let setup = Setup::new(MINE).to("api.test:443", upstream);
    setup.proxy("base-url = true").start().await
}

/// One request on a connection of its own, written as it is.
async fn ask(harness: &Harness, path: &str, fields: &[(&str, &str)]) -> Message {
    let mut stream = harness.agent_with(None).tcp().await;
    let mut text = format!("POST {path} HTTP/1.1\r\nContent-Length: 2\r\n");
    if !fields.iter().any(|(name, _)| *name == "Host") {
        text.push_str("Host: 127.0.0.1:8180\r\n");
    }
    for (name, value) in fields {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str("\r\n{}");
    stream.write_all(text.as_bytes()).await.unwrap();
    stream.answer().await
}

fn word(answer: &Message) -> (&str, &str) {
    let word = answer
        .fields
        .iter()
        .find(|(name, _)| name == "keyward-refusal");
    let status = answer.start.split(' ').nth(1).unwrap_or_default();
    (status, word.map_or("", |(_, value)| value))
}

#[tokio::test]
async fn a_base_url_brings_the_key_and_the_token_goes_no_further() {
    let upstream = Upstream::echo(&["http/1.1"]).await;
    let harness = started(&upstream).await;
    let bearer = format!("Bearer {TOKEN_A}");
    let placements: [&[(&str, &str)]; 5] = [
        &[("x-api-key", TOKEN_A)],
        &[("Authorization", &bearer)],
        &[("authorization", &bearer), ("X-Api-Key", TOKEN_A)],
        &[("x-api-key", TOKEN_A), ("Cookie", "of=another-program")],
        // One name to servers that turn fields into variables (RFC 3875 §4.1.18).
        &[("Authorization", &bearer), ("X_API_KEY", TOKEN_A)],
    ];
    for fields in placements {
        let answer = ask(&harness, "/mine/v1/chat?x=1", fields).await;
        assert!(answer.start.contains(" 200"), "{}", answer.start);
    }
    let seen = upstream.requests();
    assert_eq!(seen.len(), placements.len());
    for request in &seen {
        assert_eq!(request.uri, "/v1/chat?x=1");
        assert_eq!(request.all("host"), ["api.test"]);
        assert_eq!(request.all("x-api-key"), [CANARY]);
        assert!(request.all("authorization").is_empty());
        assert!(request.all("cookie").is_empty());
        assert!(!format!("{request:?}").contains(TOKEN_A));
    }
    let record = harness.record(|record| record["event"] == "request").await;
    assert_eq!(record["host"], "api.test");
    assert_eq!(record["path"], "/v1/chat");
    assert_eq!(record["agent"], "a");
    harness.finish().await;
}

#[tokio::test]
async fn a_web_page_gets_nothing_from_a_base_url() {
    let upstream = Upstream::echo(&["http/1.1"]).await;
    let harness = started(&upstream).await;
    let token = ("x-api-key", TOKEN_A);
    // DNS rebinding: the page's own name leads to this address. It may even know the token.
    for host in [
        "rebound.example:8180",
        "127.0.0.1.rebound.example",
        "localhost.rebound.example:8180",
        "api.test",
    ] {
        let answer = ask(&harness, "/mine/v1/chat", &[("Host", host), token]).await;
        assert_eq!(word(&answer), ("421", "host-mismatch"), "{host}");
    }
    // Another site's page, which a browser lets send, though not read.
    for field in [
        ("Origin", "https://page.example"),
        ("Origin", "null"),
        ("Sec-Fetch-Site", "cross-site"),
        ("Sec-Fetch-Site", "same-site"),
    ] {
        let answer = ask(&harness, "/mine/v1/chat", &[field, token]).await;
        assert_eq!(word(&answer), ("400", "bad-request"), "{field:?}");
        let allows = |name: &str| name.starts_with("access-control-");
        assert!(!answer.fields.iter().any(|(name, _)| allows(name)));
    }
    assert_eq!(upstream.dialled(), 0);
    harness.finish().await;
}

#[tokio::test]
async fn without_a_token_of_its_own_nobody_uses_a_base_url() {
    let upstream = Upstream::echo(&["http/1.1"]).await;
    let harness = started(&upstream).await;
    let other = format!("Bearer {TOKEN_B}");
    let cases: [&[(&str, &str)]; 6] = [
        &[],
        &[("x-api-key", "mine-keyward-00000000")],
        &[("x-api-key", "")],
        &[("x-api-key", TOKEN_A), ("x-api-key", TOKEN_A)],
        &[("x-api-key", TOKEN_A), ("Authorization", &other)],
        &[("Authorization", TOKEN_A)],
    ];
    for fields in cases {
        let answer = ask(&harness, "/mine/v1/chat", fields).await;
        assert_eq!(word(&answer), ("407", "unidentified"), "{fields:?}");
    }
    // What a tunnel refuses is refused here too, and only services that routes name are there.
    let token = ("x-api-key", TOKEN_A);
    for (path, refusal) in [
        ("/mine/v1/keys", ("403", "denied")),
        ("/mine/v1/../keys", ("400", "bad-request")),
        ("/mine//v1/chat", ("400", "bad-request")),
        ("//mine/v1/chat", ("400", "bad-request")),
        ("/mine", ("400", "bad-request")),
        ("/openai/v1/models", ("400", "bad-request")),
    ] {
        let answer = ask(&harness, path, &[token]).await;
        assert_eq!(word(&answer), refusal, "{path}");
    }
    assert_eq!(upstream.dialled(), 0);
    harness.finish().await;
}

#[tokio::test]
async fn a_listener_has_no_base_urls_unless_its_file_says_so() {
    let upstream = Upstream::echo(&["http/1.1"]).await;
    let setup = Setup::new(MINE).to("api.test:443", &upstream);
    let harness = setup.start().await;
    let answer = ask(&harness, "/mine/v1/chat", &[("x-api-key", TOKEN_A)]).await;
    assert_eq!(word(&answer), ("400", "bad-request"));
    assert_eq!(upstream.dialled(), 0);
    harness.finish().await;
}

#[tokio::test]
async fn a_placeholder_that_a_client_says_twice_is_not_judged_upstream() {
    let upstream = Upstream::echo(&["http/1.1"]).await;
    let harness = started(&upstream).await;
    let mut sender = harness.agent().h1("api.test:443").await;
    for (value, goes) in [
        ("Bearer mine-keyward-00000000", false),
        ("Bearer keyward-user-00000000", true),
    ] {
        let mut request = super::agent::request("GET", "/v1/models", "api.test");
        let value = http::HeaderValue::from_static(value);
        request.headers_mut().insert("authorization", value);
        let answer = harness.agent().ask(&mut sender, request).await;
        assert_eq!(answer.status, 200);
        let seen = upstream.requests().pop().unwrap();
        assert_eq!(!seen.all("authorization").is_empty(), goes);
        assert_eq!(seen.all("x-api-key"), [CANARY]);
    }
    harness.finish().await;
}
