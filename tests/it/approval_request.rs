//! Requests that people have to approve: held, or with a ticket; exactly what was approved, and once.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;

use super::agent::{Agent, Answer, body_request, request, within};
use super::approval::{A, APPROVAL, BOB, TOKENS, api, decide, keyward};
use super::harness::{ALICE, Harness, Setup, TOKEN_B};
use super::upstream::{AnyBody, Upstream, ok};

pub const ROUTE: &str = "[[route]]\nname = \"pay\"\nhosts = [\"api.test\"]\npaths = [\"/pay/**\"]\ncredential = \"c\"\ninject = \"bearer\"\napproval = \"ops\"\n\
    [[route]]\nname = \"rest\"\nhosts = [\"api.test\"]\ncredential = \"c\"\ninject = \"bearer\"\n";
pub const TARGET: &str = "api.test:443";

fn setup(approval: &str, upstream: &Upstream) -> Setup {
    Setup::new(&format!("{ROUTE}{approval}"))
        .admin(TOKENS)
        .to(TARGET, upstream)
}

pub async fn started(approval: &str) -> (Harness, Upstream) {
    let alpn = ["http/1.1"];
    let upstream = Upstream::service(&alpn, |_| Box::pin(async { ok("fine") })).await;
    let harness = setup(approval, &upstream).start().await;
    (harness, upstream)
}

pub fn with_tickets() -> String {
    APPROVAL.replace("[approval.ops]\n", "[approval.ops]\nmode = \"ticket\"\n")
}

pub fn pay(body: &str) -> Request<AnyBody> {
    body_request("POST", "/pay/x?to=bob", "api.test", body.to_owned())
}

pub fn ticketed(mut request: Request<AnyBody>, ticket: &str) -> Request<AnyBody> {
    let headers = request.headers_mut();
    headers.insert("keyward-ticket", ticket.parse().unwrap());
    request
}

pub async fn send(agent: &Agent, request: Request<AnyBody>) -> Answer {
    let mut sender = agent.h1(TARGET).await;
    agent.ask(&mut sender, request).await
}

fn json_of(answer: &Answer) -> Value {
    serde_json::from_slice(&answer.body).unwrap()
}

/// Asks for a ticket; its id.
pub async fn ticket(agent: &Agent, request: Request<AnyBody>) -> String {
    let answer = send(agent, request).await;
    assert_eq!(
        (answer.status, answer.word()),
        (403, "approval-required"),
        "{}",
        answer.text()
    );
    assert!(answer.get("retry-after").is_some());
    json_of(&answer)["ticket"].as_str().unwrap().to_owned()
}

/// The only open question, once there is one.
pub async fn question(harness: &Harness) -> Value {
    for _ in 0..300 {
        let (_, listed) = api(harness, ALICE, "GET /approvals?status=pending", "").await;
        if let Some(first) = listed["items"].as_array().unwrap().first() {
            return first.clone();
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("nobody was asked");
}

pub fn id(question: &Value) -> String {
    question["approval"].as_str().unwrap().to_owned()
}

async fn status(harness: &Harness, id: &str) -> String {
    let (_, shown) = api(harness, BOB, &format!("GET /approvals/{id}"), "").await;
    shown["status"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_held_request_waits_for_its_yes_and_goes_once() {
    let (harness, upstream) = started(APPROVAL).await;
    assert_eq!(
        harness.agent().get(TARGET, "/free").await.status,
        200,
        "nobody is asked for this"
    );
    for (word, expected) in [("approve", (200, "")), ("deny", (403, "approval-denied"))] {
        let before = upstream.requests().len();
        let agent = harness.agent();
        let waiting = tokio::spawn(async move { send(&agent, pay("{\"amount\":1}")).await });
        let asked = question(&harness).await;
        for (name, value) in [
            ("method", json!("POST")),
            ("url", json!("https://api.test/pay/x?to=bob")),
            ("agent", json!("a")),
            ("chain", json!(["a"])),
            ("name", json!("ops")),
        ] {
            assert_eq!(asked[name], value, "{name}");
        }
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, b"{\"amount\":1}");
        let digest: String = digest.as_ref().iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(asked["body-sha256"], digest);
        assert_eq!(upstream.requests().len(), before, "nothing was sent yet");
        assert_eq!(decide(&harness, BOB, &id(&asked), word).await.0, 200);
        let answer = within(waiting).await.unwrap();
        assert_eq!((answer.status, answer.word()), expected);
        assert_eq!(
            upstream.requests().len() - before,
            usize::from(word == "approve")
        );
        let record = harness
            .record(|r| r["event"] == "request" && r["approval"] == asked["approval"])
            .await;
        let decision = if word == "approve" { "allow" } else { "deny" };
        assert_eq!(record["decision"], decision);
    }
    let sent = upstream.requests().pop().unwrap();
    assert_eq!(&sent.body[..], b"{\"amount\":1}");
    assert!(sent.get("authorization").unwrap().starts_with("Bearer "));
    let intents: Vec<Value> = harness
        .audit()
        .into_iter()
        .filter(|r| r["event"] == "intent" && r["route"] == "pay")
        .collect();
    assert_eq!(intents.len(), 1);
    assert!(intents[0]["approval"].is_string());
    harness.finish().await;
}

/// APP-03: who judges sees what the yes is for, as text that cannot be anything else, and no credential.
#[tokio::test]
async fn an_approver_sees_the_headers_that_the_yes_is_for() {
    let (harness, upstream) = started(&with_tickets()).await;
    let evil = "eve\u{202e}bob\u{200b} \"><script>";
    let head = format!(
        "POST /pay/x HTTP/1.1\r\nHost: api.test\r\nX-Tenant: {evil}\r\nX-Tenant: two\r\nX-Api-Key: hush-1\r\n\
         Cookie: sid=hush-2\r\nX-Other: Bearer hush-3\r\nAuthorization: Bearer hush-4\r\nTraceparent: 00-1\r\n\
         X-Long: {}\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok",
        "l".repeat(9000)
    );
    let answer = harness.agent().throw(TARGET, head.as_bytes()).await;
    assert!(String::from_utf8_lossy(&answer).contains("approval-required"));
    let asked = question(&harness).await;
    assert_eq!(
        asked["headers"],
        json!([
            { "name": "content-type", "value": "text/plain" },
            { "name": "cookie", "value": null, "bytes": 10 },
            { "name": "x-api-key", "value": null, "bytes": 6 },
            { "name": "x-long", "value": "l".repeat(256), "bytes": 9000 },
            { "name": "x-other", "value": null, "bytes": 13 },
            { "name": "x-tenant", "value": "eve\\xe2\\x80\\xaebob\\xe2\\x80\\x8b \"><script>" },
            { "name": "x-tenant", "value": "two" },
        ])
    );
    let admin = format!("http://{}", harness.app().admin().unwrap());
    let show = async |more: &[&str]| {
        let mut words = vec!["approval", "show", asked["approval"].as_str().unwrap()];
        words.extend_from_slice(more);
        words.extend(["--admin", &admin]);
        let words: Vec<String> = words.into_iter().map(str::to_owned).collect();
        let shown = tokio::task::spawn_blocking(move || {
            let words: Vec<&str> = words.iter().map(|word| &**word).collect();
            keyward(&words, &[("KEYWARD_ADMIN_TOKEN", ALICE)])
        });
        String::from_utf8(shown.await.unwrap().stdout).unwrap()
    };
    let (text, json) = (show(&[]).await, show(&["--json"]).await);
    assert!(
        text.contains("headers      {\"name\":\"x-tenant\",\"value\":\"two\"}\n"),
        "{text}"
    );
    for shown in [text, json, asked.to_string()] {
        assert!(shown.contains("POST") && shown.contains("https://api.test/pay/x"));
        assert!(
            shown
                .bytes()
                .all(|b| b == b'\n' || (b' '..=b'~').contains(&b)),
            "{shown}"
        );
        assert!(!shown.contains("hush"), "{shown}");
    }
    assert!(upstream.requests().is_empty());
    harness.finish().await;
}

#[tokio::test]
async fn whoever_hangs_up_takes_the_question_along() {
    let (harness, upstream) = started(APPROVAL).await;
    let mut tunnel = harness.agent().tunnel(TARGET, &["http/1.1"]).await;
    let head = "POST /pay/x HTTP/1.1\r\nHost: api.test\r\nContent-Length: 2\r\n\r\n{}";
    tunnel.write_all(head.as_bytes()).await.unwrap();
    tunnel.flush().await.unwrap();
    let asked = question(&harness).await;
    drop(tunnel);
    let gone = harness
        .record(|r| r["event"] == "approval" && r["outcome"] == "expired")
        .await;
    assert_eq!(
        (&gone["approval"], &gone["reason"]),
        (&asked["approval"], &json!("withdrawn"))
    );
    assert_eq!(decide(&harness, ALICE, &id(&asked), "approve").await.0, 409);
    let record = harness
        .record(|r| r["event"] == "request" && r["route"] == "pay")
        .await;
    assert_eq!(record["decision"], "ask");
    // The same over HTTP/2: a reset stream.
    let agent = harness.agent();
    let mut sender = agent.h2(TARGET).await;
    let asking = tokio::spawn(async move {
        agent.ask_h2(&mut sender, pay("h2")).await;
    });
    let asked = question(&harness).await;
    asking.abort();
    let picks = |r: &Value| r["outcome"] == "expired" && r["approval"] == asked["approval"];
    harness.record(picks).await;
    assert!(upstream.requests().is_empty());
    harness.finish().await;
}

#[tokio::test]
async fn nobody_answers_and_the_request_is_refused() {
    let short = APPROVAL.replace("[approval.ops]\n", "[approval.ops]\nexpires = \"1s\"\n");
    let (harness, upstream) = started(&short).await;
    let answer = send(&harness.agent(), pay("x")).await;
    assert_eq!((answer.status, answer.word()), (403, "approval-expired"));
    assert!(upstream.requests().is_empty());
    harness.finish().await;
}

/// APP-01: what is approved is what is sent; every part of another request is another request.
#[tokio::test]
async fn a_ticket_is_for_exactly_one_request() {
    let (harness, upstream) = started(&with_tickets()).await;
    let agent = harness.agent();
    let good = "{\"amount\":1}";
    let ticket = ticket(&agent, pay(good)).await;
    let pending = send(&agent, ticketed(pay(good), &ticket)).await;
    assert_eq!((pending.status, pending.word()), (403, "approval-required"));
    assert_eq!(json_of(&pending)["ticket"], ticket);
    assert_eq!(decide(&harness, ALICE, &ticket, "approve").await.0, 200);
    let with = |name: &'static str, value: &str| {
        let mut request = pay(good);
        request.headers_mut().append(name, value.parse().unwrap());
        request
    };
    let others = [
        pay("{\"amount\":10000}"),
        pay(""),
        body_request("PUT", "/pay/x?to=bob", "api.test", good),
        body_request("POST", "/pay/y?to=bob", "api.test", good),
        body_request("POST", "/pay/x?to=eve", "api.test", good),
        body_request("POST", "/pay/x", "api.test", good),
        with("x-tenant", "other"),
        with("content-type", "text/plain"),
    ];
    for other in others {
        let shown = format!("{} {} {:?}", other.method(), other.uri(), other.headers());
        let answer = send(&agent, ticketed(other, &ticket)).await;
        assert_eq!(
            (answer.status, answer.word()),
            (403, "approval-mismatch"),
            "{shown}"
        );
    }
    // Another session's, of the same agent and of another.
    let own = harness.session(A, &[]).await;
    for token in [own.token(), TOKEN_B] {
        let other = harness.agent().with_token(token);
        let answer = send(&other, ticketed(pay(good), &ticket)).await;
        assert_eq!(answer.word(), "approval-mismatch");
    }
    for unknown in [
        "",
        "0",
        &"0".repeat(32),
        &ticket.to_uppercase(),
        &format!("{ticket},{ticket}"),
    ] {
        let answer = send(&agent, ticketed(pay(good), unknown)).await;
        assert_eq!(answer.word(), "approval-expired", "{unknown}");
    }
    let twice = with("keyward-ticket", &ticket);
    let mut twice = ticketed(twice, &ticket);
    twice
        .headers_mut()
        .append("keyward-ticket", ticket.parse().unwrap());
    assert_eq!(send(&agent, twice).await.word(), "bad-request");
    assert!(upstream.requests().is_empty());
    // What clients change from try to try is no other request, and a name is a name in any case.
    let mut tunnel = agent.tunnel(TARGET, &["http/1.1"]).await;
    let head = format!(
        "POST /pay/x?to=bob HTTP/1.1\r\nHost: api.test\r\nDate: now\r\nTraceparent: 00-1\r\nKEYWARD-Ticket: {ticket}\r\nContent-Length: {}\r\n\r\n{good}",
        good.len()
    );
    tunnel.write_all(head.as_bytes()).await.unwrap();
    assert_eq!(tunnel.answer().await.status(), 200);
    let sent = upstream.requests();
    assert_eq!(sent.len(), 1);
    assert_eq!(
        (&sent[0].body[..], sent[0].get("keyward-ticket")),
        (good.as_bytes(), None)
    );
    let replayed = send(&agent, ticketed(pay(good), &ticket)).await;
    assert_eq!(replayed.word(), "approval-expired");
    assert_eq!(upstream.requests().len(), 1);
    harness.finish().await;
}

/// A yes is used once, however many come with it at the same time.
#[tokio::test]
async fn of_many_who_redeem_one_is_served() {
    let (harness, upstream) = started(&with_tickets()).await;
    let agent = harness.agent();
    let ticket: Arc<str> = ticket(&agent, pay("x")).await.into();
    assert_eq!(decide(&harness, ALICE, &ticket, "approve").await.0, 200);
    let mut tries = tokio::task::JoinSet::new();
    for _ in 0..40 {
        let (agent, ticket) = (harness.agent(), Arc::clone(&ticket));
        tries.spawn(async move {
            send(&agent, ticketed(pay("x"), &ticket))
                .await
                .word()
                .to_owned()
        });
    }
    let words = tries.join_all().await;
    assert_eq!(
        words.iter().filter(|word| word.is_empty()).count(),
        1,
        "{words:?}"
    );
    assert!(
        words
            .iter()
            .all(|word| matches!(&**word, "" | "approval-expired")),
        "{words:?}"
    );
    assert_eq!(upstream.requests().len(), 1);
    harness.finish().await;
}

/// APP-06: never judged in part.
#[tokio::test]
async fn a_body_too_long_to_be_approved_is_refused_and_nobody_is_asked() {
    let (harness, upstream) = started(APPROVAL).await;
    let long = Bytes::from(vec![b'x'; 1024 * 1024 + 1]);
    let request = body_request("POST", "/pay/x", "api.test", long);
    let answer = send(&harness.agent(), request).await;
    assert_eq!((answer.status, answer.word()), (413, "too-large"));
    let mut tunnel = harness.agent().tunnel(TARGET, &["http/1.1"]).await;
    let head = "POST /pay/x HTTP/1.1\r\nHost: api.test\r\nTransfer-Encoding: chunked\r\n\r\n";
    tunnel.write_all(head.as_bytes()).await.unwrap();
    let chunk = format!("80000\r\n{}\r\n", "y".repeat(0x80000));
    for _ in 0..3 {
        tunnel.write_all(chunk.as_bytes()).await.ok();
    }
    assert_eq!(tunnel.answer().await.status(), 413);
    let socket = "GET /pay/ws HTTP/1.1\r\nHost: api.test\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let refused = harness.agent().throw(TARGET, socket.as_bytes()).await;
    assert!(String::from_utf8_lossy(&refused).contains("keyward-refusal: condition"));
    let (_, listed) = api(&harness, ALICE, "GET /approvals", "").await;
    assert_eq!(listed["items"], json!([]));
    assert!(upstream.requests().is_empty());
    harness.finish().await;
}

/// A yes does not outlive what it was given under.
#[tokio::test]
async fn what_ended_while_it_waited_is_not_sent() {
    let (harness, upstream) = started(APPROVAL).await;
    // The route is closed meanwhile: policy judges anew.
    let agent = harness.agent();
    let waiting = tokio::spawn(async move {
        let mut sender = agent.h1(TARGET).await;
        let sent = within(sender.send_request(pay("1"))).await;
        match sent {
            Ok(response) => agent.read(response).await.word().to_owned(),
            Err(_) => "cut".to_owned(),
        }
    });
    let asked = question(&harness).await;
    let closed = ROUTE.replace("/pay/**", "/paid/**").replacen(
        "hosts = [\"api.test\"]\ncredential",
        "hosts = [\"api.test\"]\nmethods = [\"GET\"]\ncredential",
        1,
    );
    let closed = setup("", &upstream).routes(&format!("{closed}{APPROVAL}"));
    harness.reload(&closed).await;
    decide(&harness, ALICE, &id(&asked), "approve").await;
    let word = within(waiting).await.unwrap();
    assert!(matches!(&*word, "cut" | "no-route"), "{word}");
    harness.reload(&harness.setup.clone()).await;
    // The agent is suspended meanwhile.
    let agent = harness.agent();
    let waiting = tokio::spawn(async move {
        let mut sender = agent.h1(TARGET).await;
        within(sender.send_request(pay("2")))
            .await
            .is_ok_and(|response| response.status() == 200)
    });
    let asked = question(&harness).await;
    assert_eq!(
        api(&harness, ALICE, "POST /agents/a/suspend", "{}").await.0,
        200
    );
    assert!(!within(waiting).await.unwrap());
    for _ in 0..100 {
        if status(&harness, &id(&asked)).await == "expired" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(decide(&harness, ALICE, &id(&asked), "approve").await.0, 409);
    assert!(upstream.requests().is_empty());
    harness.finish().await;
}

/// Questions of one agent have a bound; what is asked already is no further one.
#[tokio::test]
async fn an_agent_that_asks_too_much_is_throttled() {
    let (harness, upstream) = started(&with_tickets()).await;
    let agent = harness.agent();
    let first = ticket(&agent, pay("0")).await;
    for body in ["1", "2"] {
        ticket(&agent, pay(body)).await;
    }
    let answer = send(&agent, pay("3")).await;
    assert_eq!((answer.status, answer.word()), (429, "throttled"));
    assert!(answer.get("retry-after").is_some());
    assert_eq!(ticket(&agent, pay("0")).await, first);
    assert_eq!(
        agent.get(TARGET, "/free").await.status,
        200,
        "other requests go on"
    );
    let refused = agent
        .ask(
            &mut agent.h1(TARGET).await,
            request("GET", "/pay/x", "api.test"),
        )
        .await;
    assert_eq!(refused.word(), "throttled");
    assert_eq!(upstream.requests().len(), 1);
    harness.finish().await;
}
