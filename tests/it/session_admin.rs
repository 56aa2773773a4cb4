//! Sessions and agents from the operators' side: listed, ended, suspended, by the API and by the command line.

use std::process::{Command, Output};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::agent::within;
use super::canary;
use super::harness::{ALICE, Harness, Setup, TOKEN_A};
use super::token::word;
use super::upstream::{Upstream, ok};

const A: (&str, &str) = ("a", TOKEN_A);
const ROUTES: &str = "[[route]]\nname = \"read\"\nhosts = [\"api.test\"]\ncredential = \"c\"\ninject = \"bearer\"\n\
    [agent.off]\nstatus = \"suspended\"\nowner = \"o@example.com\"\ncreated = \"2020-01-01\"\n";

async fn started() -> (Harness, Upstream) {
    let upstream = Upstream::service(&["http/1.1"], |_| Box::pin(async { ok("fine") })).await;
    let harness = Setup::new(ROUTES)
        .admin("tokens = { alice = { env = \"ALICE\" } }")
        .to("api.test:443", &upstream)
        .start()
        .await;
    (harness, upstream)
}

/// Asks the API as alice, or with another token.
async fn api(harness: &Harness, line: &str, body: &str, token: &str) -> (u16, Value) {
    let address = harness.app().admin().unwrap();
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let (method, path) = line.split_once(' ').unwrap();
    let request = format!(
        "{method} /api/v1{path} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut bytes = Vec::new();
    within(stream.read_to_end(&mut bytes)).await.unwrap();
    assert_eq!(canary::find(&bytes), None);
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(body).unwrap_or_default())
}

pub async fn alice(harness: &Harness, line: &str, body: &str) -> (u16, Value) {
    api(harness, line, body, ALICE).await
}

#[tokio::test]
async fn operators_list_and_end_sessions_and_agents_do_not() {
    let (harness, _upstream) = started().await;
    let parent = harness.session(A, &[]).await;
    let child = harness
        .delegate(parent.token(), "b", &[("scope", "route:read")])
        .await;
    let agent = harness.agent().with_token(child.token());
    assert_eq!(agent.get("api.test:443", "/x").await.status, 200);
    let (status, listed) = alice(&harness, "GET /sessions", "").await;
    assert_eq!(
        (status, listed["items"].as_array().unwrap().len()),
        (200, 2)
    );
    let sid = child.text("session");
    let (status, shown) = alice(&harness, &format!("GET /sessions/{sid}"), "").await;
    assert_eq!(status, 200);
    for (name, value) in [
        ("session", json!(sid)),
        ("agent", json!("b")),
        ("user", Value::Null),
        ("chain", json!(["a", "b"])),
        ("trust", json!("token")),
        ("depth", json!(1)),
        ("parent", parent.json["session"].clone()),
        ("scope", json!("route:read")),
        ("bound", json!("127.0.0.1")),
    ] {
        assert_eq!(shown[name], value, "{name}");
    }
    assert_eq!(shown["leases"].as_array().unwrap().len(), 1, "{shown}");
    for name in ["created", "expires", "last-used"] {
        assert!(shown[name].is_string(), "{name}");
    }
    // Nothing of an agent's opens this side.
    for token in [parent.token(), TOKEN_A] {
        let (status, _) = api(&harness, "GET /sessions", "", token).await;
        assert_eq!(status, 403);
        let line = format!("DELETE /sessions/{sid}");
        assert_eq!(api(&harness, &line, "", token).await.0, 403);
    }
    let line = format!("DELETE /sessions/{}", parent.text("session"));
    assert_eq!(alice(&harness, &line, "").await, (204, Value::Null));
    assert_eq!(alice(&harness, &line, "").await.0, 404, "it ends once");
    let (answer, _) = agent.connect("api.test:443").await;
    assert_eq!((answer.status(), &*word(&answer)), (407, "session-ended"));
    let end = harness
        .record(|record| {
            record["event"] == "session-end" && record["session"] == parent.json["session"]
        })
        .await;
    assert_eq!(
        (&end["reason"], &end["by"]),
        (&json!("order"), &json!("alice"))
    );
    let (_, leases) = alice(&harness, "GET /leases", "").await;
    let held = leases["items"].as_array().unwrap().iter();
    assert_eq!(
        held.filter(|lease| lease["session"] == sid).count(),
        0,
        "{leases}"
    );
    harness.finish().await;
}

#[tokio::test]
async fn a_suspended_agent_is_out_at_once_and_comes_back() {
    let (harness, _upstream) = started().await;
    let token = harness.session(A, &[]).await;
    let child = harness.delegate(token.token(), "b", &[]).await;
    let mut tunnel = harness
        .agent()
        .with_token(child.token())
        .tunnel("api.test:443", &["http/1.1"])
        .await;
    let (status, shown) = alice(&harness, "POST /agents/a/suspend", "{\"reason\":\"odd\"}").await;
    assert_eq!(
        (status, &shown["status"], &shown["reason"]),
        (200, &json!("suspended"), &json!("odd"))
    );
    let began = Instant::now();
    let (answer, _) = harness.agent().connect("api.test:443").await;
    assert_eq!((answer.status(), &*word(&answer)), (403, "suspended"));
    // A chain that it stands in is cut, whoever acts.
    assert!(within(tunnel.read_u8()).await.is_err());
    assert!(
        began.elapsed() < Duration::from_millis(500),
        "{:?}",
        began.elapsed()
    );
    let (answer, _) = harness
        .agent()
        .with_token(child.token())
        .connect("api.test:443")
        .await;
    assert_eq!(word(&answer), "session-ended");
    assert_eq!(
        harness.session(A, &[]).await.error(),
        (400, "invalid_request")
    );
    let record = harness.record(|record| record["event"] == "agent").await;
    for (name, value) in [
        ("agent", "a"),
        ("outcome", "suspended"),
        ("reason", "odd"),
        ("by", "alice"),
    ] {
        assert_eq!(record[name], value, "{name}");
    }
    // A reload of the file does not let it back.
    harness.reload(&harness.setup.clone()).await;
    let (answer, _) = harness.agent().connect("api.test:443").await;
    assert_eq!(word(&answer), "suspended");
    assert_eq!(alice(&harness, "POST /agents/a/resume", "").await.0, 200);
    assert_eq!(harness.agent().get("api.test:443", "/x").await.status, 200);
    // What the file says is not for an order to undo.
    assert_eq!(alice(&harness, "POST /agents/off/resume", "").await.0, 409);
    assert_eq!(
        alice(&harness, "POST /agents/nobody/suspend", "").await.0,
        404
    );
    harness.finish().await;
}

#[tokio::test]
async fn agents_of_the_store_stand_beside_those_of_the_file() {
    let (harness, _upstream) = started().await;
    let entry = json!({ "owner": "team@example.com", "permissions": ["route:read"], "created": "2020-01-01" });
    let (status, shown) = alice(&harness, "PUT /agents/helper", &entry.to_string()).await;
    assert_eq!(
        (status, &shown["source"], &shown["stale"]),
        (200, &json!("store"), &json!(true))
    );
    let parent = harness.session(A, &[]).await;
    let child = harness.delegate(parent.token(), "helper", &[]).await;
    assert_eq!(child.text("scope"), "route:read");
    let agent = harness.agent().with_token(child.token());
    assert_eq!(agent.get("api.test:443", "/x").await.status, 200);
    let (_, shown) = alice(&harness, "GET /agents/helper", "").await;
    assert!(
        shown["last-used"].is_string() && shown["stale"] == false,
        "{shown}"
    );
    let (_, listed) = alice(&harness, "GET /agents", "").await;
    let ids: Vec<&str> = listed["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["agent"].as_str().unwrap())
        .collect();
    assert_eq!(ids, ["a", "b", "helper", "off"]);
    assert_eq!(
        listed["items"][3]["stale"], true,
        "created long ago, and never used"
    );
    assert!(listed["items"][0].get("token").is_none());
    for bad in [
        "{\"token\":\"x\"}",
        "{\"status\":\"gone\"}",
        "{\"created\":\"soon\"}",
        "{\"permissions\":[\"a b\"]}",
        "[",
        "[]",
    ] {
        assert_eq!(
            alice(&harness, "PUT /agents/helper", bad).await.0,
            400,
            "{bad}"
        );
    }
    assert_eq!(alice(&harness, "PUT /agents/NO", "{}").await.0, 400);
    // The store can take from an agent of the file, and not give.
    let less = json!({ "permissions": ["route:other"] }).to_string();
    assert_eq!(alice(&harness, "PUT /agents/a", &less).await.0, 200);
    let granted = harness.session(A, &[("scope", "route:read")]).await;
    assert_eq!(granted.error(), (400, "invalid_scope"));
    assert_eq!(alice(&harness, "DELETE /agents/a", "").await.0, 204);
    assert_eq!(
        harness.session(A, &[("scope", "route:read")]).await.status,
        200
    );
    assert_eq!(alice(&harness, "DELETE /agents/a", "").await.0, 409);
    // Gone from the registry is out.
    assert_eq!(alice(&harness, "DELETE /agents/helper", "").await.0, 204);
    let (answer, _) = agent.connect("api.test:443").await;
    assert_eq!(word(&answer), "session-ended");
    harness.finish().await;
}

fn keyward(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_keyward"))
        .args(arguments)
        .env_clear()
        .envs(environment.iter().copied())
        .output()
        .unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// What a gateway writes is shown, and draws nothing on the terminal.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_gateway_says_moves_no_cursor() {
    for error in ["access_denied", "authorization_pending"] {
        let gateway = Upstream::plain(move |_| {
            let nasty = "no\u{1b}[2J\r\u{202e}\u{9b}31m \"here\"";
            let answer = json!({
                "error": error, "error_description": nasty, "ticket": nasty, "code": nasty, "interval": 1,
            });
            let mut answer = ok(answer.to_string());
            *answer.status_mut() = http::StatusCode::BAD_REQUEST;
            Box::pin(async move { answer })
        })
        .await;
        let url = format!("http://{}", gateway.address);
        let own = [("KEYWARD_URL", &*url), ("KEYWARD_TOKEN", TOKEN_A)];
        let output = keyward(&["session", "delegate", "--agent", "b", "--no-wait"], &own);
        let shown = String::from_utf8(output.stderr).unwrap();
        assert!(
            shown.contains("no\\u{1b}[2J\\r\\u{202e}\\u{9b}31m \"here\""),
            "{error}: {shown:?}"
        );
        let moves = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
        assert!(!shown.contains(moves), "{error}: {shown:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_lists_ends_suspends_and_delegates() {
    let (harness, _upstream) = started().await;
    let parent = harness.session(A, &[]).await;
    let proxy = format!("http://{}", harness.agent().proxy);
    let own = [("KEYWARD_URL", &*proxy), ("KEYWARD_TOKEN", parent.token())];
    let wanted = [
        "session",
        "delegate",
        "--agent",
        "b",
        "--scope",
        "route:read",
        "--ttl",
        "60s",
    ];
    let delegated = keyward(&wanted, &own);
    let token = text(&delegated).trim().to_owned();
    assert_eq!(delegated.status.code(), Some(0), "{delegated:?}");
    assert_eq!(
        harness
            .agent()
            .with_token(&token)
            .get("api.test:443", "/x")
            .await
            .status,
        200
    );
    let wide = keyward(
        &[
            "session",
            "delegate",
            "--agent",
            "b",
            "--scope",
            "route:none",
        ],
        &own,
    );
    assert_eq!(wide.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&wide.stderr).contains("invalid_scope"));
    assert_eq!(
        keyward(&["session", "delegate", "--agent", "b"], &[])
            .status
            .code(),
        Some(64)
    );

    let admin = format!("http://{}", harness.app().admin().unwrap());
    let operator = [("KEYWARD_ADMIN_TOKEN", ALICE)];
    let ask = |arguments: &[&str]| keyward(&[arguments, &["--admin", &admin]].concat(), &operator);
    let listed = ask(&["session", "list", "--json"]);
    let items: Value = serde_json::from_str(&text(&listed)).unwrap();
    assert_eq!(items.as_array().unwrap().len(), 2, "{items}");
    assert!(text(&ask(&["session", "list"])).contains("route:read"));
    let sid = parent.text("session");
    assert!(text(&ask(&["session", "show", sid])).contains("127.0.0.1"));
    assert_eq!(ask(&["session", "end", sid]).status.code(), Some(0));
    assert_eq!(ask(&["session", "end", sid]).status.code(), Some(1));
    assert_eq!(
        ask(&["session", "show", "../leases"]).status.code(),
        Some(1)
    );
    let (answer, _) = harness
        .agent()
        .with_token(&token)
        .connect("api.test:443")
        .await;
    assert_eq!(word(&answer), "session-ended");

    assert!(text(&ask(&["agent", "list"])).contains("o@example.com"));
    let suspended = ask(&["agent", "suspend", "a", "--reason", "odd", "--json"]);
    let shown: Value = serde_json::from_str(&text(&suspended)).unwrap();
    assert_eq!(
        (&shown["agent"], &shown["status"]),
        (&json!("a"), &json!("suspended"))
    );
    assert!(text(&ask(&["agent", "show", "a"])).contains("odd"));
    assert_eq!(ask(&["agent", "resume", "a"]).status.code(), Some(0));
    assert_eq!(ask(&["agent", "show", "nobody"]).status.code(), Some(1));
    // An agent's own token opens none of it.
    let agent = [("KEYWARD_ADMIN_TOKEN", &*token)];
    let stranger = keyward(&["session", "list", "--admin", &admin], &agent);
    assert_eq!(stranger.status.code(), Some(1));
    harness.finish().await;
}
