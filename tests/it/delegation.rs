//! What an agent hands on: never more than it has, at most so deep, and never longer than its own session.

use serde_json::json;

use super::agent::request;
use super::harness::{Setup, TOKEN_A, TOKEN_B};
use super::token::{ACCESS_TOKEN, EXCHANGE, basic, part, word};
use super::upstream::{Upstream, ok};

const A: (&str, &str) = ("a", TOKEN_A);

const ROUTES: &str = "[[route]]\nname = \"read\"\nhosts = [\"api.test\"]\nmethods = [\"GET\"]\ncredential = \"c\"\ninject = \"bearer\"\n\
    [[route]]\nname = \"write\"\nhosts = [\"api.test\"]\nmethods = [\"POST\"]\ncredential = \"c\"\ninject = \"bearer\"\n\
    [[route]]\nname = \"only-b\"\nhosts = [\"b.test\"]\nagents = [\"b\"]\ncredential = \"c\"\ninject = \"bearer\"\n\
    [agent.c]\npermissions = [\"route:read\"]\n[agent.off]\nstatus = \"suspended\"\n";

async fn started(more: &str) -> (super::harness::Harness, Upstream) {
    let upstream = Upstream::service(&["http/1.1"], |_| Box::pin(async { ok("fine") })).await;
    let harness = Setup::new(&format!("{ROUTES}{more}"))
        .to("api.test:443", &upstream)
        .to("b.test:443", &upstream)
        .start()
        .await;
    (harness, upstream)
}

#[tokio::test]
async fn a_sub_agent_gets_a_token_of_its_own_with_the_chain_in_it() {
    let (harness, _upstream) = started("").await;
    let parent = harness.session(A, &[]).await;
    let child = harness
        .delegate(
            parent.token(),
            "b",
            &[("scope", "route:read"), ("expires_in", "60")],
        )
        .await;
    let claims = part(child.token(), 1);
    assert_eq!(
        (&claims["sub"], &claims["client_id"]),
        (&json!("a"), &json!("b"))
    );
    assert_eq!(claims["act"], json!({ "sub": "b" }));
    assert_eq!(
        (child.text("scope"), &child.json["expires_in"]),
        ("route:read", &json!(60))
    );
    let grandchild = harness.delegate(child.token(), "c", &[]).await;
    let claims = part(grandchild.token(), 1);
    assert_eq!(claims["act"], json!({ "sub": "c", "act": { "sub": "b" } }));

    let agent = harness.agent().with_token(grandchild.token());
    assert_eq!(agent.get("api.test:443", "/x").await.status, 200);
    let sid = grandchild.text("session");
    for event in ["session-start", "intent", "request", "connect"] {
        let record = harness
            .record(|record| record["event"] == event && record["session"] == sid)
            .await;
        assert_eq!(record["chain"], json!(["a", "b", "c"]), "{event}");
        assert_eq!(record["agent"], "c", "{event}");
    }
    let start = harness
        .record(|record| record["event"] == "session-start" && record["session"] == sid)
        .await;
    assert_eq!(
        (&start["depth"], &start["parent"]),
        (&json!(2), &child.json["session"])
    );
    harness.finish().await;
}

/// DEL-01: a superset is refused, whichever way it is asked for.
#[tokio::test]
async fn delegation_never_widens() {
    let (harness, _upstream) = started("").await;
    let parent = harness
        .session(A, &[("scope", "route:read contacts.read")])
        .await;
    let parent = parent.token();
    for wide in [
        "route:write",
        "route:read route:write",
        "contacts.write",
        "route:only-b",
    ] {
        let child = harness.delegate(parent, "b", &[("scope", wide)]).await;
        assert_eq!(child.error(), (400, "invalid_scope"), "{wide}");
    }
    // More than the sub-agent may have by the registry.
    let child = harness
        .delegate(parent, "c", &[("scope", "contacts.read")])
        .await;
    assert_eq!(child.error(), (400, "invalid_scope"));
    let child = harness.delegate(parent, "c", &[]).await;
    assert_eq!(child.text("scope"), "route:read", "what both may");
    // As wide as allowed is as wide as the parent, in deed as in word.
    let child = harness.delegate(parent, "b", &[]).await;
    let agent = harness.agent().with_token(child.token());
    assert_eq!(agent.get("api.test:443", "/x").await.status, 200);
    let mut sender = agent.h1("api.test:443").await;
    let answer = agent
        .ask(&mut sender, request("POST", "/x", "api.test"))
        .await;
    assert_eq!((answer.status, answer.word()), (403, "denied"));
    // A route that is the sub-agent's alone is no part of what the parent has.
    let unbounded = harness.session(A, &[]).await;
    let child = harness.delegate(unbounded.token(), "b", &[]).await;
    assert!(!child.text("scope").contains("only-b"), "{:?}", child.json);
    let agent = harness.agent().with_token(child.token());
    let (answer, _) = agent.connect("b.test:443").await;
    assert_eq!((answer.status(), &*word(&answer)), (403, "no-route"));
    // Nor is time: it is cut, and the answer says so.
    let short = harness.session(A, &[("expires_in", "30")]).await;
    let child = harness
        .delegate(short.token(), "b", &[("expires_in", "999999")])
        .await;
    assert!(
        child.json["expires_in"].as_i64().unwrap() <= 30,
        "{:?}",
        child.json
    );
    assert!(part(child.token(), 1)["exp"].as_i64() <= part(short.token(), 1)["exp"].as_i64());
    harness.finish().await;
}

/// DEL-03: nobody hands on another's session, and nobody acts for an agent that is not there.
#[tokio::test]
async fn whose_session_it_is_hands_it_on_to_agents_that_may_act() {
    let (harness, _upstream) = started("").await;
    let parent = harness.session(A, &[]).await.token().to_owned();
    let parameters = [
        ("grant_type", EXCHANGE),
        ("subject_token", &*parent),
        ("subject_token_type", ACCESS_TOKEN),
        ("agent", "b"),
    ];
    let agent = harness.agent();
    let swapped = agent
        .form("/token", &basic("b", TOKEN_B), &parameters)
        .await;
    assert_eq!(swapped.error(), (400, "invalid_request"));
    let own = agent
        .form("/token", &basic("a", TOKEN_A), &parameters)
        .await;
    assert_eq!(own.status, 200);
    for unfit in ["nobody", "off", "A", "../b", ""] {
        let child = harness.delegate(&parent, unfit, &[]).await;
        assert_eq!(child.error(), (400, "invalid_request"), "{unfit}");
    }
    harness.finish().await;
}

#[tokio::test]
async fn a_chain_is_no_deeper_than_the_file_says() {
    let (harness, _upstream) = started("[session]\nmax-depth = 3\napprove-beyond = 3\n").await;
    let mut token = harness.session(A, &[]).await.token().to_owned();
    for agent in ["b", "a", "b"] {
        token = harness
            .delegate(&token, agent, &[])
            .await
            .token()
            .to_owned();
    }
    let more = harness.delegate(&token, "a", &[]).await;
    assert_eq!(more.error(), (400, "invalid_request"));
    harness.finish().await;

    // Beyond depth 2 a person is asked; nobody is named, so it is refused.
    let (harness, _upstream) = started("").await;
    let mut token = harness.session(A, &[]).await.token().to_owned();
    for agent in ["b", "a"] {
        token = harness
            .delegate(&token, agent, &[])
            .await
            .token()
            .to_owned();
    }
    let more = harness.delegate(&token, "b", &[]).await;
    assert_eq!(more.error(), (400, "invalid_request"));
    harness.finish().await;

    let (harness, _upstream) = started("[session]\nshrink = \"strict\"\n").await;
    let token = harness
        .session(A, &[("scope", "route:read route:write")])
        .await;
    let same = harness.delegate(token.token(), "b", &[]).await;
    assert_eq!(same.error(), (400, "invalid_scope"));
    let less = harness
        .delegate(token.token(), "b", &[("scope", "route:read")])
        .await;
    assert_eq!(less.status, 200);
    harness.finish().await;
}

/// DEL-05: no child outlives its parent.
#[tokio::test]
async fn a_parents_end_ends_the_tree() {
    let (harness, _upstream) = started("").await;
    let parent = harness.session(A, &[]).await;
    let child = harness.delegate(parent.token(), "b", &[]).await;
    let below = harness.delegate(child.token(), "c", &[]).await;
    let agent = harness.agent().with_token(below.token());
    assert_eq!(agent.get("api.test:443", "/x").await.status, 200);
    let revoked = harness
        .agent()
        .form("/revoke", "", &[("token", parent.token())])
        .await;
    assert_eq!(revoked.status, 200);
    for token in [&parent, &child, &below] {
        let agent = harness.agent().with_token(token.token());
        let (answer, _) = agent.connect("api.test:443").await;
        assert_eq!((answer.status(), &*word(&answer)), (407, "session-ended"));
        let more = harness.delegate(token.token(), "c", &[]).await;
        assert_eq!(more.error(), (400, "invalid_request"));
    }
    for (granted, reason) in [(&parent, "revoked"), (&child, "parent"), (&below, "parent")] {
        let sid = granted.text("session");
        let end = harness
            .record(|record| record["event"] == "session-end" && record["session"] == sid)
            .await;
        assert_eq!(end["reason"], reason);
    }
    // A child's end leaves its parent alone.
    let parent = harness.session(A, &[]).await;
    let child = harness.delegate(parent.token(), "b", &[]).await;
    harness
        .agent()
        .form("/revoke", "", &[("token", child.token())])
        .await;
    let agent = harness.agent().with_token(parent.token());
    assert_eq!(agent.get("api.test:443", "/x").await.status, 200);
    harness.finish().await;
}
