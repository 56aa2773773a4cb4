//! Approvals from the attacker's side: a yes is for one request, however it is spelled, cut, repeated or raced.

use std::sync::Arc;

use serde_json::json;
use tokio::io::AsyncWriteExt as _;

use super::agent::{Agent, request, within};
use super::approval::{A, BOB, TOKENS, api, decide};
use super::approval_request::{
    ROUTE, TARGET, id, pay, question, send, started, ticket, ticketed, with_tickets,
};
use super::harness::{ALICE, Harness, Setup, TOKEN_A};
use super::upstream::{Upstream, ok};

const BODY: &str = "{\"amount\":1}";

/// Sends these bytes on a tunnel of their own; the status and the word of a refusal.
async fn raw(agent: &Agent, bytes: &[u8]) -> (u16, String) {
    let mut tunnel = agent.tunnel(TARGET, &["http/1.1"]).await;
    tunnel.write_all(bytes).await.unwrap();
    tunnel.flush().await.unwrap();
    let answer = within(tunnel.answer()).await;
    let word = answer.get("keyward-refusal").unwrap_or_default().to_owned();
    (answer.status(), word)
}

/// APP-01: one yes, and many streams of one connection that come with it at the same time; then over HTTP/1.1.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_streams_one_is_served() {
    let (harness, upstream) = started(&with_tickets()).await;
    let agent = harness.agent();
    for round in 0..5 {
        let body = format!("round {round}");
        // Asked over HTTP/1.1, and the same request over HTTP/2.
        let ticket: Arc<str> = ticket(&agent, pay(&body)).await.into();
        assert_eq!(decide(&harness, ALICE, &ticket, "approve").await.0, 200);
        let sender = agent.h2(TARGET).await;
        let mut tries = tokio::task::JoinSet::new();
        for _ in 0..30 {
            let (agent, ticket, body) = (agent.clone(), Arc::clone(&ticket), body.clone());
            let mut sender = sender.clone();
            tries.spawn(async move {
                let answer = agent
                    .ask_h2(&mut sender, ticketed(pay(&body), &ticket))
                    .await;
                answer.word().to_owned()
            });
        }
        let words = tries.join_all().await;
        let served = words.iter().filter(|word| word.is_empty()).count();
        assert_eq!(served, 1, "{words:?}");
        assert!(
            words
                .iter()
                .all(|word| matches!(&**word, "" | "approval-expired"))
        );
        let late = send(&agent, ticketed(pay(&body), &ticket)).await;
        assert_eq!(late.word(), "approval-expired");
        assert_eq!(upstream.requests().len(), round + 1);
    }
    harness.finish().await;
}

/// Requests that are not the approved one: the line, the fields, the body, and how each is refused.
const OTHERS: &str = "\
POST /pay/x?to=bob | LIST; Transfer-Encoding: chunked | {\"amount\":9} | mismatch
POST /pay/x?to=bob | LIST; Content-Length: 0 |  | mismatch
POST /pay/x?to=bob | LIST; LENGTH; Content-Encoding: gzip | {\"amount\":1} | mismatch
POST /pay/x?to=bob | LIST; LENGTH; Content-Type: text/plain | {\"amount\":1} | mismatch
POST /pay/x?to=bob | X-List: two; X-List: one; LENGTH | {\"amount\":1} | mismatch
POST /pay/x?to=bob | X-List: one, two; LENGTH | {\"amount\":1} | mismatch
POST /pay/x?to=bob | X-List: one; LENGTH | {\"amount\":1} | mismatch
POST /pay/x?to=bob | LIST; X-List: two; LENGTH | {\"amount\":1} | mismatch
POST /pay/x?to=bob | X-List: ONE; X-List: two; LENGTH | {\"amount\":1} | mismatch
POST /pay/X?to=bob | LIST; LENGTH | {\"amount\":1} | mismatch
POST /pay/x?to=%62ob | LIST; LENGTH | {\"amount\":1} | mismatch
POST /pay/x?to=bob& | LIST; LENGTH | {\"amount\":1} | mismatch
POST /pay/x/?to=bob | LIST; LENGTH | {\"amount\":1} | mismatch
PUT /pay/x?to=bob | LIST; LENGTH | {\"amount\":1} | mismatch
POST /pay/y/../x?to=bob | LIST; LENGTH | {\"amount\":1} | unclean
POST /pay/%2e/x?to=bob | LIST; LENGTH | {\"amount\":1} | unclean
POST /pay//x?to=bob | LIST; LENGTH | {\"amount\":1} | unclean
post /pay/x?to=bob | LIST; LENGTH | {\"amount\":1} | unclean
POST /pay/x?to=bob | LIST; LENGTH; Transfer-Encoding: chunked | {\"amount\":1} | unclean
POST /pay/x?to=bob | LIST; LENGTH; Host: evil.test | {\"amount\":1} | unclean
POST https://evil.test/pay/x?to=bob | LIST; LENGTH | {\"amount\":1} | unclean";

/// APP-01: the same bytes in another framing are the same request; other bytes, another order of values, or another
/// spelling that a server could read otherwise are not.
#[tokio::test]
async fn a_yes_is_for_what_is_sent_and_not_for_how_it_is_written() {
    let (harness, upstream) = started(&with_tickets()).await;
    let agent = harness.agent();
    let mut asked = pay(BODY);
    for value in ["one", "two"] {
        asked.headers_mut().append("x-list", value.parse().unwrap());
    }
    let ticket = ticket(&agent, asked).await;
    assert_eq!(decide(&harness, ALICE, &ticket, "approve").await.0, 200);
    for other in OTHERS.lines() {
        let mut parts = other.split(" | ");
        let mut part = || parts.next().unwrap();
        let (line, fields, body, word) = (part(), part(), part(), part());
        let fields = fields
            .replace("LIST", "X-List: one; X-List: two")
            .replace("LENGTH", &format!("Content-Length: {}", body.len()))
            .replace("; ", "\r\n");
        let body = if fields.contains("chunked") && !fields.contains("Length") {
            format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len())
        } else {
            body.to_owned()
        };
        let request = format!(
            "{line} HTTP/1.1\r\nHost: api.test\r\nKeyward-Ticket: {ticket}\r\n{fields}\r\n\r\n{body}"
        );
        let (status, got) = raw(&agent, request.as_bytes()).await;
        // What two servers could read in two ways is refused before anybody looks at a ticket, by one word, another or none.
        let right = match word {
            "mismatch" => got == "approval-mismatch",
            _ => status != 200 && !got.starts_with("approval"),
        };
        assert!(right, "{status} {got} for {request}");
    }
    assert!(upstream.requests().is_empty());
    // Names in any case, fields in any order, in chunks with trailers that nobody saw, after a 100: it is what was approved.
    let request = format!(
        "POST /pay/%78?to=bob HTTP/1.1\r\nx-LIST: one\r\nKeyward-Ticket: {ticket}\r\nHOST: api.test:443\r\nExpect: 100-continue\r\nX-HTTP-Method-Override: DELETE\r\n\
         Trailer: X-Late\r\nX-List: two\r\nTransfer-Encoding: chunked\r\n\r\n"
    );
    let mut tunnel = agent.tunnel(TARGET, &["http/1.1"]).await;
    tunnel.write_all(request.as_bytes()).await.unwrap();
    tunnel.flush().await.unwrap();
    assert_eq!(within(tunnel.head()).await.status(), 100);
    let (one, two) = BODY.split_at(4);
    let body = format!(
        "{:x}\r\n{one}\r\n{:x}\r\n{two}\r\n0\r\nX-Late: to=eve\r\n\r\n",
        one.len(),
        two.len()
    );
    tunnel.write_all(body.as_bytes()).await.unwrap();
    tunnel.flush().await.unwrap();
    assert_eq!(within(tunnel.answer()).await.status(), 200);
    let sent = upstream.requests();
    assert_eq!((sent.len(), &sent[0].body[..]), (1, BODY.as_bytes()));
    assert_eq!(sent[0].uri, "/pay/x?to=bob");
    for name in ["x-late", "x-http-method-override"] {
        assert_eq!(
            sent[0].get(name),
            None,
            "it was taken out before anybody judged"
        );
    }
    harness.finish().await;
}

/// APP-05: whatever an agent has, it decides nothing; nor does anybody decide late, twice, or for two.
#[tokio::test]
async fn nobody_decides_who_is_no_approver_or_spoke_already() {
    let quorum = with_tickets().replace("approvers =", "quorum = 2\napprovers =");
    let (harness, upstream) = started(&quorum).await;
    let agent = harness.agent();
    let ticket = ticket(&agent, pay("x")).await;
    let own = harness.session(A, &[]).await;
    let pair = format!("alice:{ALICE}");
    for token in [TOKEN_A, own.token(), &ticket, &pair, "alice", ""] {
        for word in ["approve", "deny"] {
            let (status, _) = decide(&harness, token, &ticket, word).await;
            assert!(matches!(status, 401 | 403), "{status}");
        }
    }
    // The admin side is reached by no agent over the proxy, with whatever token.
    let admin = harness.app().admin().unwrap();
    let (answer, _) = agent.connect(&admin.to_string()).await;
    assert_eq!(answer.status(), 403);
    assert_eq!(decide(&harness, ALICE, &ticket, "approve").await.0, 200);
    for word in ["approve", "deny"] {
        assert_eq!(decide(&harness, ALICE, &ticket, word).await.0, 409);
    }
    let early = send(&agent, ticketed(pay("x"), &ticket)).await;
    assert_eq!(early.word(), "approval-required", "one of two");
    assert_eq!(decide(&harness, BOB, &ticket, "approve").await.0, 200);
    assert_eq!(send(&agent, ticketed(pay("x"), &ticket)).await.status, 200);
    assert_eq!(upstream.requests().len(), 1);
    harness.finish().await;
}

/// A question of one gateway is decided at another, and the yes is used at one of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_yes_of_one_gateway_is_good_once_at_all_of_them() {
    let upstream = Upstream::service(&["http/1.1"], |_| Box::pin(async { ok("fine") })).await;
    let folder = tempfile::tempdir().unwrap();
    let store = format!(
        "[store]\nsqlite = \"{}\"\nkey = {{ env = \"STORE_KEY\" }}\n[session]\nbind = \"none\"\n",
        folder.path().join("k.db").display()
    );
    let start = async |approval: &str| {
        let setup = Setup::new(&format!("{ROUTE}{approval}{store}"));
        let tokens = TOKENS.replace("STORE_KEY", "TOKEN_B");
        setup.admin(&tokens).to(TARGET, &upstream).start().await
    };
    let (one, two) = (start(&with_tickets()).await, start(&with_tickets()).await);
    let token = one.session(A, &[]).await.token().to_owned();
    let at = |harness: &Harness| harness.agent().with_token(&token);
    for round in 0..5 {
        let body = format!("round {round}");
        let ticket: Arc<str> = ticket(&at(&one), pay(&body)).await.into();
        let again = super::approval_request::ticket(&at(&two), pay(&body)).await;
        assert_eq!(*again, *ticket, "it is one question");
        assert_eq!(decide(&two, ALICE, &ticket, "approve").await.0, 200);
        let mut tries = tokio::task::JoinSet::new();
        for number in 0..20 {
            let agent = at(if number % 2 == 0 { &one } else { &two });
            let (ticket, body) = (Arc::clone(&ticket), body.clone());
            tries.spawn(async move {
                let answer = send(&agent, ticketed(pay(&body), &ticket)).await;
                answer.word().to_owned()
            });
        }
        let words = tries.join_all().await;
        let served = words.iter().filter(|word| word.is_empty()).count();
        assert_eq!(served, 1, "{words:?}");
        assert_eq!(upstream.requests().len(), round + 1);
    }
    // One that waits at one gateway is answered by a word at the other.
    one.finish().await;
    two.finish().await;
    let hold = with_tickets().replace("mode = \"ticket\"\n", "");
    let (one, two) = (start(&hold).await, start(&hold).await);
    let agent = one.agent();
    let waiting = tokio::spawn(async move { send(&agent, pay("held")).await });
    let asked = question(&two).await;
    assert_eq!(decide(&two, ALICE, &id(&asked), "approve").await.0, 200);
    assert_eq!(within(waiting).await.unwrap().status, 200);
    one.finish().await;
    two.finish().await;
}

/// The database goes away while somebody waits: nothing is sent. It comes back, and so do the questions.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_store_nothing_is_approved_and_with_it_nothing_is_lost() {
    let Some(mut server) = super::server::Server::start() else {
        return;
    };
    let (upstream, folder) = (
        Upstream::service(&["http/1.1"], |_| Box::pin(async { ok("fine") })).await,
        tempfile::tempdir().unwrap(),
    );
    let url = folder.path().join("url");
    std::fs::write(&url, &server.url).unwrap();
    let store = format!(
        "[approval.wait.console]\napprovers = [\"alice\"]\n\
         [[route]]\nname = \"held\"\nhosts = [\"plain.test\"]\ncredential = \"c\"\ninject = \"bearer\"\napproval = \"wait\"\n\
         [store]\npostgres = {{ file = \"{}\" }}\nkey = {{ env = \"STORE_KEY\" }}\n",
        url.display()
    );
    let setup = Setup::new(&format!("{ROUTE}{}{store}", with_tickets()))
        .admin(&TOKENS.replace("STORE_KEY", "TOKEN_B"))
        .to(TARGET, &upstream)
        .to("plain.test:443", &upstream);
    let harness = setup.start().await;
    let agent = harness.agent();
    let (pending, approved) = (
        ticket(&agent, pay("pending")).await,
        ticket(&agent, pay("approved")).await,
    );
    assert_eq!(decide(&harness, ALICE, &approved, "approve").await.0, 200);
    let waiting = {
        let agent = harness.agent();
        tokio::spawn(async move {
            let mut sender = agent.h1("plain.test:443").await;
            let held = request("GET", "/held", "plain.test");
            let answer = within(sender.send_request(held)).await.unwrap();
            agent.read(answer).await
        })
    };
    let mut held = json!(null);
    for _ in 0..500 {
        let (_, listed) = api(&harness, ALICE, "GET /approvals?status=pending", "").await;
        let items = listed["items"].as_array().unwrap();
        if let Some(one) = items.iter().find(|one| one["name"] == "wait") {
            held = one.clone();
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    server.stop();
    let answer = waiting.await.unwrap();
    assert_eq!(
        (answer.status, answer.word()),
        (503, "approval-unavailable")
    );
    for request in [
        pay("new"),
        ticketed(pay("pending"), &pending),
        ticketed(pay("approved"), &approved),
    ] {
        let answer = send(&agent, request).await;
        assert_eq!(
            (answer.status, answer.word()),
            (503, "approval-unavailable")
        );
    }
    let (status, _) = decide(&harness, ALICE, &pending, "approve").await;
    assert_eq!(status, 503);
    assert!(upstream.requests().is_empty());
    server.start_again();
    let mut answer = send(&agent, ticketed(pay("approved"), &approved)).await;
    for _ in 0..200 {
        if answer.status == 200 {
            break;
        }
        assert_eq!(answer.word(), "approval-unavailable");
        answer = send(&agent, ticketed(pay("approved"), &approved)).await;
    }
    assert_eq!(answer.status, 200, "the yes is there");
    assert_eq!(decide(&harness, ALICE, &pending, "approve").await.0, 200);
    let answer = send(&agent, ticketed(pay("pending"), &pending)).await;
    assert_eq!(answer.status, 200);
    // Whoever waited has left; who comes again joins the question, or asks anew where it was withdrawn.
    assert!(id(&held).len() == 32);
    assert_eq!(upstream.requests().len(), 2);
    harness.finish().await;
}
