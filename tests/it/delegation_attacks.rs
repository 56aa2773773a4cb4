//! Delegation from the attacker's side: every spelling, every order and every race by which a sub-agent could get more
//! than its parent has, or outlive it.

use std::collections::BTreeSet;
use std::sync::Arc;

use proptest::strategy::{Strategy as _, ValueTree as _};
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};

use super::agent::request;
use super::harness::{Harness, Setup, TOKEN_A, TOKEN_B};
use super::token::{Granted, basic, part, word};
use super::upstream::{Upstream, ok};

const A: (&str, &str) = ("a", TOKEN_A);

const ROUTES: &str = "[[route]]\nname = \"read\"\nhosts = [\"api.test\"]\nmethods = [\"GET\"]\ncredential = \"c\"\ninject = \"bearer\"\n\
    [[route]]\nname = \"write\"\nhosts = [\"api.test\"]\nmethods = [\"POST\"]\ncredential = \"c\"\ninject = \"bearer\"\n\
    [[route]]\nname = \"only-b\"\nhosts = [\"plain.test\"]\nagents = [\"b\"]\ncredential = \"c\"\ninject = \"bearer\"\n\
    [[route]]\nname = \"all\"\nhosts = [\"other.test\"]\n\
    [agent.c]\npermissions = [\"route:read\", \"route:all\"]\n[agent.d]\n";
const TARGETS: [&str; 3] = ["api.test:443", "plain.test:443", "other.test:443"];

fn setup(more: &str, upstream: &Upstream) -> Setup {
    let setup = Setup::new(&format!("{ROUTES}{more}"));
    TARGETS
        .iter()
        .fold(setup, |setup, target| setup.to(target, upstream))
}

async fn started(more: &str) -> (Harness, Upstream) {
    let upstream = Upstream::service(&["http/1.1"], |_| Box::pin(async { ok("fine") })).await;
    let harness = setup(more, &upstream).start().await;
    (harness, upstream)
}

/// What a token opens, by asking.
async fn opened(harness: &Harness, token: &str) -> BTreeSet<String> {
    let mut open = BTreeSet::new();
    let agent = harness.agent().with_token(token);
    for target in TARGETS {
        let (answer, _) = agent.connect(target).await;
        if answer.status() != 200 {
            continue;
        }
        let host = target.trim_end_matches(":443");
        for method in ["GET", "POST"] {
            let mut sender = agent.h1(target).await;
            let answer = agent.ask(&mut sender, request(method, "/x", host)).await;
            if answer.status == 200 {
                open.insert(format!("{method} {host}"));
            }
        }
    }
    open
}

async fn refusal(harness: &Harness, token: &str) -> String {
    let agent = harness.agent().with_token(token);
    word(&agent.connect("api.test:443").await.0)
}

fn ends(token: &str) -> i64 {
    part(token, 1)["exp"].as_i64().unwrap()
}

#[tokio::test]
async fn no_spelling_of_a_scope_a_life_or_an_agent_widens() {
    let (harness, _upstream) = started("").await;
    let parent = harness
        .session(
            A,
            &[("scope", "route:read contacts.read"), ("expires_in", "60")],
        )
        .await;
    let parent = parent.token();
    let narrow = opened(&harness, parent).await;
    assert_eq!(narrow.iter().collect::<Vec<_>>(), ["GET api.test"]);
    for scope in [
        "route:read  route:write",
        " route:write",
        "route:write ",
        "route:read\troute:write",
        "route:read,route:write",
        "route:read\nroute:write",
        "route:read\0",
        "route:Write",
        "ROUTE:write",
        "route:",
        "route:*",
        "route:route:write",
        "route:nobody",
        "*",
        "all",
        "contacts.read contacts.write",
        "\u{feff}route:write",
    ] {
        let child = harness.delegate(parent, "b", &[("scope", scope)]).await;
        assert_eq!(child.error(), (400, "invalid_scope"), "{scope:?}");
    }
    // What stands twice is there once; an empty one is none at all (RFC 6749 §3.1), and that is what the parent has.
    for scope in ["route:read route:read", "contacts.read route:read", ""] {
        let child = harness.delegate(parent, "b", &[("scope", scope)]).await;
        assert_eq!(opened(&harness, child.token()).await, narrow, "{scope:?}");
    }
    for (name, one, two) in [
        ("scope", "route:read", "route:write"),
        ("expires_in", "10", "999"),
        ("agent", "b", "c"),
        ("subject_token", parent, parent),
    ] {
        let child = harness
            .delegate(parent, "b", &[(name, one), (name, two)])
            .await;
        assert_eq!(child.error(), (400, "invalid_request"), "{name} twice");
    }
    for life in [
        "0",
        "-1",
        "1.5",
        "1e3",
        "0x10",
        " 60",
        "60 ",
        "60s",
        "∞",
        "NaN",
        "18446744073709551616",
        "-18446744073709551615",
    ] {
        let child = harness.delegate(parent, "b", &[("expires_in", life)]).await;
        assert_eq!(child.error(), (400, "invalid_request"), "{life}");
    }
    for life in [
        "18446744073709551615",
        "9223372036854775807",
        "4294967296",
        "+61",
        "0061",
    ] {
        let child = harness.delegate(parent, "b", &[("expires_in", life)]).await;
        assert!(ends(child.token()) <= ends(parent), "{life}");
    }
    for agent in ["B", "b ", " b", "b\0", "b b", "../b", "nobody", "a,b", "*"] {
        let child = harness.delegate(parent, agent, &[]).await;
        assert_eq!(child.error(), (400, "invalid_request"), "{agent:?}");
    }
    harness.finish().await;
}

/// A chain may come back to an agent. It has what is left by then, and its depth counts.
#[tokio::test]
async fn a_loop_gives_nothing_back() {
    let (harness, _upstream) = started("[session]\napprove-beyond = 3\n").await;
    let parent = harness.session(A, &[]).await;
    let full = opened(&harness, parent.token()).await;
    let own = harness
        .delegate(parent.token(), "a", &[("scope", "route:read")])
        .await;
    let claims = part(own.token(), 1);
    assert_eq!(claims["act"], json!({ "sub": "a" }));
    let back = harness.delegate(own.token(), "a", &[]).await;
    let less = opened(&harness, back.token()).await;
    assert!(less.is_subset(&full) && less.len() == 1, "{less:?}");
    let wide = harness
        .delegate(own.token(), "a", &[("scope", "route:write")])
        .await;
    assert_eq!(wide.error(), (400, "invalid_scope"));
    let last = harness.delegate(back.token(), "a", &[]).await;
    let more = harness.delegate(last.token(), "a", &[]).await;
    assert_eq!(more.error(), (400, "invalid_request"), "its depth counts");
    // Over an agent that may do less, and back to one that may do more.
    let over = harness.delegate(parent.token(), "c", &[]).await;
    let back = harness.delegate(over.token(), "b", &[]).await;
    let less = opened(&harness, back.token()).await;
    let expected: BTreeSet<String> = ["GET api.test", "GET other.test", "POST other.test"]
        .map(str::to_owned)
        .into();
    assert_eq!(less, expected);
    harness.finish().await;
}

#[tokio::test]
async fn under_strict_a_child_can_do_less_in_deed() {
    let (harness, _upstream) = started("[session]\nshrink = \"strict\"\n").await;
    let all = harness.session(A, &[]).await;
    let every = "route:read route:write route:all";
    let junk = format!("{every} x y z");
    let junky = harness.session(A, &[("scope", &junk)]).await;
    for (parent, scope) in [
        (&all, every),
        (&all, &junk),
        (&junky, every),
        (&junky, &format!("{every} x y")),
        (&junky, &junk),
    ] {
        let same = harness
            .delegate(
                parent.token(),
                "d",
                &[("scope", scope), ("expires_in", "5")],
            )
            .await;
        assert_eq!(same.error(), (400, "invalid_scope"), "{scope}");
        let same = harness
            .delegate(parent.token(), "d", &[("expires_in", "5")])
            .await;
        assert_eq!(
            same.error(),
            (400, "invalid_scope"),
            "a shorter life is no smaller scope"
        );
    }
    let less = harness
        .delegate(junky.token(), "d", &[("scope", "route:read route:all")])
        .await;
    let less_yet = harness
        .delegate(less.token(), "d", &[("scope", "route:read")])
        .await;
    assert_eq!(opened(&harness, less_yet.token()).await.len(), 1);
    // Who may do less by the registry has less.
    let child = harness.delegate(all.token(), "c", &[]).await;
    assert_eq!(child.status, 200, "{:?}", child.json);
    harness.finish().await;
}

/// The rules are those of the moment at which something is handed on.
#[tokio::test]
async fn a_reload_between_two_delegations_counts() {
    let (harness, upstream) = started("").await;
    let parent = harness.session(A, &[]).await;
    let child = harness.delegate(parent.token(), "b", &[]).await;
    harness
        .reload(&setup("[session]\nmax-depth = 1\n", &upstream))
        .await;
    let more = harness.delegate(child.token(), "d", &[]).await;
    assert_eq!(more.error(), (400, "invalid_request"));
    assert!(harness.delegate(parent.token(), "d", &[]).await.status == 200);
    // A route that is no longer there is nobody's, whoever held its name.
    let named = harness
        .delegate(parent.token(), "d", &[("scope", "route:read")])
        .await;
    let other = ROUTES
        .replace("\"read\"", "\"other\"")
        .replace("\"route:read\", ", "");
    let other = setup("", &upstream).routes(&other);
    harness.reload(&other).await;
    let gone = harness
        .delegate(parent.token(), "d", &[("scope", "route:read")])
        .await;
    assert_eq!(gone.error(), (400, "invalid_scope"));
    assert!(opened(&harness, named.token()).await.is_empty());
    let wide = harness
        .delegate(named.token(), "d", &[("scope", "route:other")])
        .await;
    assert_eq!(wide.error(), (400, "invalid_scope"));
    harness.finish().await;
}

/// RFC 7009 §2.1: whose token it is may end it, by name or by having it; an end goes down the tree and nowhere else.
#[tokio::test]
async fn an_end_goes_down_the_tree_only() {
    let (harness, _upstream) = started("").await;
    let parent = harness.session(A, &[]).await;
    let child = harness.delegate(parent.token(), "b", &[]).await;
    let sibling = harness.delegate(parent.token(), "c", &[]).await;
    let below = harness.delegate(child.token(), "c", &[]).await;
    let revoke = async |token: &str, lines: &str| {
        let agent = harness.agent();
        agent.form("/revoke", lines, &[("token", token)]).await
    };
    let b = basic("b", TOKEN_B);
    for above in [&parent, &sibling] {
        let refused = revoke(above.token(), &b).await;
        assert_eq!(refused.error(), (400, "invalid_request"));
        assert_eq!(refusal(&harness, above.token()).await, "");
    }
    let wrong = revoke(parent.token(), &basic("a", TOKEN_B)).await;
    assert_eq!(wrong.error(), (401, "invalid_client"));
    assert_eq!(revoke("none.at.all", &b).await.status, 200);
    // What is no token of a session ends none: a session's id, or a token cut short.
    let short = &parent.token()[..parent.token().len() - 1];
    for guess in [parent.text("session"), short, ""] {
        revoke(guess, "").await;
        assert_eq!(refusal(&harness, parent.token()).await, "");
    }
    assert_eq!(revoke(child.token(), &b).await.status, 200);
    for over in [&child, &below] {
        assert_eq!(refusal(&harness, over.token()).await, "session-ended");
    }
    for alive in [&parent, &sibling] {
        assert_eq!(refusal(&harness, alive.token()).await, "");
    }
    // An agent ends what was handed on from it.
    let again = harness.delegate(parent.token(), "b", &[]).await;
    assert_eq!(
        revoke(again.token(), &basic("a", TOKEN_A)).await.status,
        200
    );
    assert_eq!(refusal(&harness, again.token()).await, "session-ended");
    harness.finish().await;
}

/// A parent ends while its child is being minted, many times: nobody is left over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_child_is_minted_past_its_parents_end() {
    let (harness, _upstream) = started("").await;
    let harness = Arc::new(harness);
    let mut minted = Vec::new();
    for _ in 0..100 {
        let parent = harness.session(A, &[]).await.token().to_owned();
        let minting = {
            let (harness, parent) = (Arc::clone(&harness), parent.clone());
            tokio::spawn(async move { harness.delegate(&parent, "b", &[]).await })
        };
        let form = [("token", &*parent)];
        let revoked = harness.agent().form("/revoke", "", &form).await;
        assert_eq!(revoked.status, 200);
        let child: Granted = minting.await.unwrap();
        match child.status {
            200 => minted.push(child.token().to_owned()),
            _ => assert_eq!(child.error(), (400, "invalid_request")),
        }
    }
    for token in &minted {
        assert_eq!(refusal(&harness, token).await, "session-ended");
    }
    let live = harness.metrics().await;
    assert!(live.contains("keyward_sessions 0\n"), "{live}");
    Arc::into_inner(harness).unwrap().finish().await;
}

/// A parent is ended at one gateway while the other hands on from it and from what came of it: all of it is over at both.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_gateway_hands_on_meanwhile_ends_with_the_tree() {
    let upstream = Upstream::service(&["http/1.1"], |_| Box::pin(async { ok("fine") })).await;
    let folder = tempfile::tempdir().unwrap();
    let store = format!(
        "[store]\nsqlite = \"{}\"\nkey = {{ env = \"STORE_KEY\" }}\n[session]\nmax-depth = 6\napprove-beyond = 6\n",
        folder.path().join("k.db").display()
    );
    let one = setup(&store, &upstream).start().await;
    let two = Arc::new(setup(&store, &upstream).start().await);
    for _ in 0..20 {
        let parent = one.session(A, &[]).await.token().to_owned();
        let minting = {
            let (two, parent) = (Arc::clone(&two), parent.clone());
            tokio::spawn(async move {
                let (mut tokens, mut token) = (Vec::new(), parent);
                for depth in 0.. {
                    let child = two.delegate(&token, "b", &[]).await;
                    if child.status != 200 {
                        assert!(depth <= 6);
                        break;
                    }
                    child.token().clone_into(&mut token);
                    tokens.push(token.clone());
                }
                tokens
            })
        };
        let revoked = one.agent().form("/revoke", "", &[("token", &parent)]).await;
        assert_eq!(revoked.status, 200);
        for token in minting.await.unwrap() {
            // It hears of it within a second; then neither takes it up again.
            for gateway in [&one, &two] {
                let mut word = String::new();
                for _ in 0..200 {
                    word = refusal(gateway, &token).await;
                    if word == "session-ended" {
                        break;
                    }
                    tokio::time::sleep(std::time::Duration::from_millis(10)).await;
                }
                assert_eq!(word, "session-ended");
            }
        }
    }
    // Depth is counted over gateways.
    let mut token = one.session(A, &[]).await.token().to_owned();
    for depth in 0..6 {
        let gateway = if depth % 2 == 0 { &*two } else { &one };
        token = gateway.delegate(&token, "b", &[]).await.token().to_owned();
    }
    for gateway in [&one, &*two] {
        let more = gateway.delegate(&token, "b", &[]).await;
        assert_eq!(more.error(), (400, "invalid_request"));
    }
    one.finish().await;
    Arc::into_inner(two).unwrap().finish().await;
}

/// Chains as they come, over the real endpoint: whatever is asked for, what is granted is within what there was, in word
/// and in deed.
#[tokio::test]
async fn no_chain_over_the_endpoint_widens_anything() {
    let (harness, _upstream) = started("[session]\napprove-beyond = 3\n").await;
    let words = proptest::sample::subsequence(
        vec![
            "route:read",
            "route:write",
            "route:only-b",
            "route:all",
            "x.read",
            "x.write",
        ],
        0..=6,
    );
    let life = proptest::option::of(1_u32..2_000);
    let agent = proptest::sample::select(vec!["a", "b", "c", "d"]);
    let link = (agent, words, life);
    let chains = proptest::collection::vec(link, 2..6);
    let mut runner = TestRunner::deterministic();
    let mut granted = 0;
    for _ in 0..24 {
        let links = chains.new_tree(&mut runner).unwrap().current();
        let mut parent: Option<(String, BTreeSet<String>)> = None;
        let mut chain = Vec::new();
        // What has no bound names the routes that are there, and may hand any word on.
        let mut bounded = false;
        for (agent, words, life) in links {
            let (scope, life) = (words.join(" "), life.unwrap_or_default().to_string());
            let mut asked = vec![("scope", &*scope)];
            if life != "0" {
                asked.push(("expires_in", &*life));
            }
            let child = match &parent {
                None => harness.session(A, &asked).await,
                Some((token, _)) => harness.delegate(token, agent, &asked).await,
            };
            if child.status != 200 {
                continue;
            }
            granted += 1;
            chain.push(if parent.is_some() { agent } else { "a" });
            let (token, open) = (child.token(), opened(&harness, child.token()).await);
            let claims = part(token, 1);
            if let Some((above, wide)) = &parent {
                let before = part(above, 1);
                assert!(open.is_subset(wide), "{open:?} {wide:?}");
                assert!(ends(token) <= ends(above));
                let held = |claims: &Value| -> BTreeSet<String> {
                    let scope = claims["scope"].as_str().unwrap();
                    scope.split(' ').map(str::to_owned).collect()
                };
                assert!(!bounded || held(&claims).is_subset(&held(&before)));
                assert_eq!(claims["sub"], before["sub"]);
                assert_eq!(claims.get("user"), before.get("user"));
            }
            bounded |= !scope.is_empty() || chain.last() == Some(&"c");
            let sid = child.text("session");
            let start = harness
                .record(|record| record["event"] == "session-start" && record["session"] == sid)
                .await;
            assert_eq!(start["chain"].as_array().map_or(1, Vec::len), chain.len());
            assert_eq!(start["depth"].as_u64(), Some(chain.len() as u64 - 1));
            assert!(chain.len() <= 4);
            assert_eq!(start["bound"], "127.0.0.1");
            parent = Some((token.to_owned(), open));
        }
    }
    assert!(granted > 40, "{granted}");
    harness.finish().await;
}
