//! What people have to approve, from both sides: an agent that asks over the proxy, approvers at the admin side.

use std::process::{Command, Output};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::agent::within;
use super::canary;
use super::harness::{ALICE, Harness, STORE_KEY, Setup, TOKEN_A, TOKEN_B};
use super::token::{ACCESS_TOKEN, EXCHANGE, Granted, part};
use super::upstream::{Upstream, ok};

pub const A: (&str, &str) = ("a", TOKEN_A);
/// The token of the operator bob.
pub const BOB: &str = STORE_KEY;

pub const APPROVAL: &str =
    "[approval.ops]\nmax-pending = 3\n[approval.ops.console]\napprovers = [\"alice\", \"bob\"]\n";
const ROUTES: &str = "[[route]]\nname = \"read\"\nhosts = [\"api.test\"]\nmethods = [\"GET\"]\ncredential = \"c\"\ninject = \"bearer\"\n\
    [[route]]\nname = \"write\"\nhosts = [\"api.test\"]\nmethods = [\"POST\"]\ncredential = \"c\"\ninject = \"bearer\"\n\
    [session]\napprove-beyond = 0\napproval = \"ops\"\n";
pub const TOKENS: &str = "tokens = { alice = { env = \"ALICE\" }, bob = { env = \"STORE_KEY\" } }";

async fn started(more: &str) -> (Harness, Upstream) {
    let upstream = Upstream::service(&["http/1.1"], |_| Box::pin(async { ok("fine") })).await;
    let harness = Setup::new(&format!("{ROUTES}{APPROVAL}{more}"))
        .admin(TOKENS)
        .to("api.test:443", &upstream)
        .start()
        .await;
    (harness, upstream)
}

/// Asks the API with this token.
pub async fn api(harness: &Harness, token: &str, line: &str, body: &str) -> (u16, Value) {
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

/// Says yes or no.
pub async fn decide(harness: &Harness, token: &str, id: &str, word: &str) -> (u16, Value) {
    let line = format!("POST /approvals/{id}/{word}");
    api(harness, token, &line, "{\"reason\":\"so\"}").await
}

/// The sub-agent's token is asked for with a ticket.
async fn with_ticket(
    harness: &Harness,
    parent: &str,
    ticket: &str,
    more: &[(&str, &str)],
) -> Granted {
    let mut parameters = vec![("ticket", ticket)];
    parameters.extend(more);
    harness.delegate(parent, "b", &parameters).await
}

/// The records and the counts of the delegation that was asked for, approved by bob, tried in vain and used.
async fn every_step_was_recorded(harness: &Harness, asked: &Granted) {
    let outcomes: Vec<Value> = harness
        .audit()
        .into_iter()
        .filter(|r| r["event"] == "approval")
        .collect();
    let words: Vec<&str> = outcomes
        .iter()
        .map(|r| r["outcome"].as_str().unwrap())
        .collect();
    assert_eq!(
        words,
        [
            "asked", "approved", "mismatch", "mismatch", "mismatch", "mismatch", "mismatch", "used"
        ]
    );
    for record in &outcomes {
        assert_eq!(
            (&record["approval"], &record["name"], &record["agent"]),
            (&asked.json["ticket"], &json!("ops"), &json!("a"))
        );
        assert_eq!(record["code"], asked.json["code"]);
    }
    assert_eq!(
        (&outcomes[1]["approver"], &outcomes[1]["reason"]),
        (&json!("bob"), &json!("so"))
    );
    let metrics = harness.metrics().await;
    for line in [
        "keyward_approvals_pending{approval=\"ops\"} 0",
        "keyward_approvals_total{approval=\"ops\",outcome=\"asked\"} 1",
        "keyward_approvals_total{approval=\"ops\",outcome=\"approved\"} 1",
        "keyward_approvals_total{approval=\"ops\",outcome=\"used\"} 1",
    ] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
}

#[tokio::test]
async fn a_delegation_waits_for_a_person_and_is_granted_once() {
    let (harness, _upstream) = started("").await;
    let parent = harness
        .session(A, &[("scope", "route:read route:write")])
        .await;
    let parent = parent.token();
    let wanted = [("scope", "route:read"), ("expires_in", "60")];
    let asked = harness.delegate(parent, "b", &wanted).await;
    assert_eq!(asked.error(), (400, "authorization_pending"));
    let ticket = asked.text("ticket").to_owned();
    assert!(asked.json["interval"].as_u64().unwrap() > 0);
    let again = harness.delegate(parent, "b", &wanted).await;
    assert_eq!(again.text("ticket"), ticket, "it is one question");

    let (status, listed) = api(&harness, ALICE, "GET /approvals?status=pending", "").await;
    assert_eq!(
        (status, listed["items"].as_array().unwrap().len()),
        (200, 1)
    );
    let shown = &listed["items"][0];
    for (name, value) in [
        ("approval", json!(ticket)),
        ("name", json!("ops")),
        ("status", json!("pending")),
        ("agent", json!("a")),
        ("chain", json!(["a"])),
        ("sub-agent", json!("b")),
        ("scopes", json!(["route:read"])),
        ("life", json!(60)),
        ("code", asked.json["code"].clone()),
        ("needed", json!(1)),
        ("decisions", json!([])),
        ("asks", json!(2)),
        ("user", Value::Null),
    ] {
        assert_eq!(shown[name], value, "{name}");
    }
    // Neither an agent's credential nor a stranger decides; nothing happens by looking.
    for token in [TOKEN_A, TOKEN_B, parent] {
        assert_eq!(decide(&harness, token, &ticket, "approve").await.0, 403);
    }
    assert_eq!(decide(&harness, "nobody", &ticket, "approve").await.0, 401);
    let line = format!("GET /approvals/{ticket}/approve");
    assert_eq!(api(&harness, ALICE, &line, "").await.0, 405);
    for guess in [asked.text("code"), "0", &"0".repeat(32)] {
        assert_eq!(
            decide(&harness, ALICE, guess, "approve").await.0,
            404,
            "{guess}"
        );
    }
    let pending = with_ticket(&harness, parent, &ticket, &wanted).await;
    assert_eq!(pending.error(), (400, "authorization_pending"));
    let metrics = harness.metrics().await;
    assert!(
        metrics.contains("keyward_approvals_pending{approval=\"ops\"} 1"),
        "{metrics}"
    );

    let (status, decided) = decide(&harness, BOB, &ticket, "approve").await;
    assert_eq!((status, &decided["status"]), (200, &json!("approved")));
    assert_eq!(decide(&harness, ALICE, &ticket, "deny").await.0, 409);
    // Another request than the approved one gets nothing by it.
    for other in [
        &[("scope", "route:write"), ("expires_in", "60")][..],
        &[("scope", "route:read"), ("expires_in", "61")],
        &[("scope", "route:read")],
        &[("expires_in", "60")],
    ] {
        let refused = with_ticket(&harness, parent, &ticket, other).await;
        assert_eq!(refused.error(), (400, "invalid_request"), "{other:?}");
    }
    let stranger = harness.session(A, &[("scope", "route:read")]).await;
    let stolen = with_ticket(&harness, stranger.token(), &ticket, &wanted).await;
    assert_eq!(
        stolen.error(),
        (400, "invalid_request"),
        "of another session"
    );

    let granted = with_ticket(&harness, parent, &ticket, &wanted).await;
    let claims = part(granted.token(), 1);
    assert_eq!(claims["act"], json!({ "sub": "b" }));
    assert_eq!(granted.text("scope"), "route:read");
    assert!(granted.json["expires_in"].as_i64().unwrap() <= 60);
    let agent = harness.agent().with_token(granted.token());
    assert_eq!(agent.get("api.test:443", "/x").await.status, 200);
    let replayed = with_ticket(&harness, parent, &ticket, &wanted).await;
    assert_eq!(replayed.error(), (400, "expired_token"));

    every_step_was_recorded(&harness, &asked).await;
    harness.finish().await;
}

#[tokio::test]
async fn a_denied_or_late_delegation_is_refused_and_a_parents_end_counts() {
    let (harness, _upstream) = started("").await;
    let parent = harness.session(A, &[]).await;
    let asked = harness.delegate(parent.token(), "b", &[]).await;
    let ticket = asked.text("ticket").to_owned();
    assert_eq!(decide(&harness, ALICE, &ticket, "deny").await.0, 200);
    let denied = with_ticket(&harness, parent.token(), &ticket, &[]).await;
    assert_eq!(denied.error(), (400, "access_denied"));
    // A yes of nobody's session is worth nothing.
    let asked = harness.delegate(parent.token(), "b", &[]).await;
    let ticket = asked.text("ticket").to_owned();
    assert_eq!(decide(&harness, ALICE, &ticket, "approve").await.0, 200);
    harness
        .agent()
        .form("/revoke", "", &[("token", parent.token())])
        .await;
    let late = with_ticket(&harness, parent.token(), &ticket, &[]).await;
    assert_eq!(late.error(), (400, "invalid_request"));
    let (_, shown) = api(&harness, BOB, &format!("GET /approvals/{ticket}"), "").await;
    assert_eq!(shown["status"], "approved", "it was not used");
    // What the sub-agent may do shrank in between: what comes of the yes is no wider than what is left.
    let parent = harness.session(A, &[]).await;
    let asked = harness.delegate(parent.token(), "b", &[]).await;
    let ticket = asked.text("ticket").to_owned();
    assert_eq!(decide(&harness, ALICE, &ticket, "approve").await.0, 200);
    let less = json!({ "permissions": ["route:read"] }).to_string();
    assert_eq!(api(&harness, ALICE, "PUT /agents/b", &less).await.0, 200);
    let granted = with_ticket(&harness, parent.token(), &ticket, &[]).await;
    granted.token();
    assert_eq!(granted.text("scope"), "route:read");
    // And where it grew, no wider than what was seen.
    let asked = harness.delegate(parent.token(), "b", &[]).await;
    let ticket = asked.text("ticket").to_owned();
    assert_eq!(api(&harness, ALICE, "DELETE /agents/b", "").await.0, 204);
    assert_eq!(decide(&harness, ALICE, &ticket, "approve").await.0, 200);
    let granted = with_ticket(&harness, parent.token(), &ticket, &[]).await;
    granted.token();
    assert_eq!(granted.text("scope"), "route:read");
    harness.finish().await;
}

/// An agent that asks and asks reaches its bound, and nobody else's.
#[tokio::test]
async fn people_are_not_flooded() {
    let (harness, _upstream) = started("").await;
    let parent = harness.session(A, &[]).await;
    let mut words = Vec::new();
    for seconds in 10..16 {
        let life = seconds.to_string();
        let asked = harness
            .delegate(parent.token(), "b", &[("expires_in", &life)])
            .await;
        words.push(asked.text("error").to_owned());
        if asked.text("error") == "slow_down" {
            assert!(asked.field("retry-after").is_some());
        }
    }
    assert_eq!(
        words
            .iter()
            .filter(|word| *word == "authorization_pending")
            .count(),
        3
    );
    assert_eq!(words.iter().filter(|word| *word == "slow_down").count(), 3);
    let other = harness.session(("b", TOKEN_B), &[]).await;
    let asked = harness.delegate(other.token(), "a", &[]).await;
    assert_eq!(asked.error(), (400, "authorization_pending"));
    harness.finish().await;
}

#[tokio::test]
async fn a_question_outlives_a_restart_and_its_answer_is_used_once() {
    let (upstream, folder) = (
        Upstream::service(&["http/1.1"], |_| Box::pin(async { ok("fine") })).await,
        tempfile::tempdir().unwrap(),
    );
    let start = async || {
        let store = folder.path().join("k.db");
        let more = format!(
            "[store]\nsqlite = \"{}\"\nkey = {{ env = \"STORE_KEY\" }}\n",
            store.display()
        );
        Setup::new(&format!("{ROUTES}{APPROVAL}{more}"))
            .admin("tokens = { alice = { env = \"ALICE\" }, bob = { env = \"TOKEN_B\" } }")
            .to("api.test:443", &upstream)
            .start()
            .await
    };
    let first = start().await;
    let parent = first.session(A, &[]).await.token().to_owned();
    let asked = first.delegate(&parent, "b", &[]).await;
    let ticket = asked.text("ticket").to_owned();
    first.finish().await;
    let second = start().await;
    assert_eq!(decide(&second, ALICE, &ticket, "approve").await.0, 200);
    second.finish().await;
    let third = start().await;
    let granted = with_ticket(&third, &parent, &ticket, &[]).await;
    assert_eq!(granted.status, 200, "{:?}", granted.json);
    third.finish().await;
    let fourth = start().await;
    let replayed = with_ticket(&fourth, &parent, &ticket, &[]).await;
    assert_eq!(replayed.error(), (400, "expired_token"));
    fourth.finish().await;
}

/// The program, with nothing else in its environment.
pub fn keyward(words: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_keyward"));
    command.env_clear().env("PATH", "/usr/bin:/bin");
    command.envs(environment.iter().copied());
    command.args(words).output().unwrap()
}

/// The programs that people and agents use: one waits, the other decides.
#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_asks_waits_and_decides() {
    let (harness, _upstream) = started("").await;
    let parent = harness.session(A, &[]).await;
    let proxy = format!("http://{}", harness.agent().proxy);
    let admin = format!("http://{}", harness.app().admin().unwrap());
    let agents = [("KEYWARD_URL", &*proxy), ("KEYWARD_TOKEN", parent.token())];
    let agents = agents.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let delegate = move |more: &[&str]| {
        let mut words = vec!["session", "delegate", "--agent", "b"];
        words.extend(more);
        let given: Vec<(&str, &str)> = agents.iter().map(|(n, v)| (&**n, &**v)).collect();
        keyward(&words, &given)
    };
    let asked = delegate(&["--no-wait"]);
    assert_eq!(asked.status.code(), Some(1));
    let ticket = String::from_utf8(asked.stdout).unwrap().trim().to_owned();
    let said = String::from_utf8(asked.stderr).unwrap();
    assert!(said.contains(&ticket) && said.contains("code "), "{said}");
    let waiting = tokio::task::spawn_blocking({
        let ticket = ticket.clone();
        move || delegate(&["--ticket", &ticket])
    });
    let operate = |words: &[&str], token: &str| {
        let mut all = vec!["approval"];
        all.extend(words);
        all.extend(["--admin", &admin]);
        keyward(&all, &[("KEYWARD_ADMIN_TOKEN", token)])
    };
    let listed = operate(&["list", "--status", "pending", "--json"], ALICE);
    let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
    assert_eq!(listed[0]["approval"], ticket);
    let table = operate(&["list"], ALICE);
    let table = String::from_utf8(table.stdout).unwrap();
    assert!(
        table.starts_with("approval") && table.contains(&ticket),
        "{table}"
    );
    let refused = operate(&["approve", &ticket], TOKEN_A);
    assert_eq!(refused.status.code(), Some(1));
    let approved = operate(&["approve", &ticket, "--reason", "fine"], ALICE);
    assert_eq!(approved.status.code(), Some(0));
    assert_eq!(
        operate(&["deny", &ticket], BOB).status.code(),
        Some(1),
        "decided"
    );
    let granted = tokio::time::timeout(Duration::from_secs(20), waiting)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(granted.status.code(), Some(0));
    let token = String::from_utf8(granted.stdout).unwrap();
    let agent = harness.agent().with_token(token.trim());
    assert_eq!(agent.get("api.test:443", "/x").await.status, 200);
    let shown = operate(&["show", &ticket, "--json"], BOB);
    let shown: Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!(
        (&shown["status"], &shown["decisions"][0]["reason"]),
        (&json!("used"), &json!("fine"))
    );
    harness.finish().await;
}

/// The webhook tells of a question, signed, and is not made loud by an agent.
#[tokio::test]
async fn a_webhook_is_signed_and_comes_once_in_ten_seconds() {
    let hook = Upstream::plain(|_| Box::pin(async { ok("") })).await;
    let more = format!(
        "webhook = {{ url = \"http://{}/k\", secret = {{ env = \"STORE_KEY\" }} }}\n",
        hook.address
    );
    let upstream = Upstream::service(&["http/1.1"], |_| Box::pin(async { ok("fine") })).await;
    let harness = Setup::new(&format!("{ROUTES}{APPROVAL}{more}"))
        .admin("tokens = { alice = { env = \"ALICE\" }, bob = { env = \"TOKEN_B\" } }")
        .to("api.test:443", &upstream)
        .start()
        .await;
    let parent = harness.session(A, &[]).await;
    let asked = harness
        .delegate(parent.token(), "b", &[("expires_in", "20")])
        .await;
    let more = harness
        .delegate(parent.token(), "b", &[("expires_in", "21")])
        .await;
    assert_eq!(more.error(), (400, "authorization_pending"));
    for _ in 0..200 {
        if !hook.requests().is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    let seen = hook.requests();
    assert_eq!(seen.len(), 1);
    let body = &seen[0].body;
    let message: Value = serde_json::from_slice(body).unwrap();
    assert_eq!(
        (&message["type"], &message["data"]["approval"]),
        (&json!("approval.asked"), &asked.json["ticket"])
    );
    let field = |name: &str| {
        seen[0]
            .headers
            .get(name)
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned()
    };
    let signed = format!("{}.{}.", field("webhook-id"), field("webhook-timestamp"));
    let key: Vec<u8> = (0..32).collect();
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &key);
    let expected = aws_lc_rs::hmac::sign(&key, &[signed.as_bytes(), body].concat());
    let expected = STANDARD.encode(expected);
    assert_eq!(field("webhook-signature"), format!("v1,{expected}"));
    harness.finish().await;
}

/// Without a ticket the parameters are those of RFC 8693; a person is asked in the name of the session alone.
#[tokio::test]
async fn nobody_is_asked_for_what_would_be_refused_anyway() {
    let (harness, _upstream) = started("[agent.off]\nstatus = \"suspended\"\n").await;
    let parent = harness.session(A, &[("scope", "route:read")]).await;
    for (agent, more) in [
        ("off", &[][..]),
        ("nobody", &[]),
        ("b", &[("scope", "route:write")]),
        ("b", &[("scope", "route:none")]),
    ] {
        let refused = harness.delegate(parent.token(), agent, more).await;
        assert!(
            matches!(refused.text("error"), "invalid_request" | "invalid_scope"),
            "{:?}",
            refused.json
        );
    }
    let parameters = [
        ("grant_type", EXCHANGE),
        ("subject_token", TOKEN_A),
        ("subject_token_type", ACCESS_TOKEN),
        ("agent", "b"),
    ];
    let refused = harness.agent().form("/token", "", &parameters).await;
    assert_eq!(refused.error(), (400, "invalid_request"));
    let (_, listed) = api(&harness, ALICE, "GET /approvals", "").await;
    assert_eq!(listed["items"], json!([]));
    harness.finish().await;
}
