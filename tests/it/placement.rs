//! Where the credential goes, and that what the agent put there itself never arrives.

use base64::Engine as _;

use super::agent::{body_request, request};
use super::canary::{CANARY, OTHER};
use super::harness::{BEARER, Setup};
use super::upstream::{Seen, Upstream};

/// One GET with these fields at a host with this placement; what the upstream saw.
async fn placed(inject: &str, path: &str, fields: &[(&str, &str)]) -> (u16, Vec<Seen>) {
    let upstream = Upstream::echo(&["http/1.1"]).await;
    let route =
        format!("[[route]]\nhosts = [\"api.test\"]\ncredential = \"c\"\ninject = {inject}\n");
    let harness = Setup::new(&route)
        .to("api.test:443", &upstream)
        .start()
        .await;
    let agent = harness.agent();
    let mut sender = agent.h1("api.test:443").await;
    let mut asked = request("GET", path, "api.test");
    for (name, value) in fields {
        let name: http::HeaderName = name.parse().unwrap();
        asked.headers_mut().append(name, value.parse().unwrap());
    }
    let answer = agent.ask(&mut sender, asked).await;
    harness.finish().await;
    (answer.status, upstream.requests())
}

#[tokio::test]
async fn a_bearer_replaces_every_authorization_of_the_agent() {
    let fields = [
        ("authorization", "Bearer mine"),
        ("authorization", "Basic bWluZTptaW5l"),
        ("x-kept", "yes"),
    ];
    let (status, seen) = placed("\"bearer\"", "/x?a=1", &fields).await;
    assert_eq!((status, seen.len()), (200, 1));
    assert_eq!(seen[0].all("authorization"), [format!("Bearer {CANARY}")]);
    assert_eq!(seen[0].all("host"), ["api.test"]);
    assert_eq!(seen[0].all("x-kept"), ["yes"]);
    assert_eq!(seen[0].uri, "/x?a=1");
}

#[tokio::test]
async fn a_header_and_its_format_replace_the_agents_own() {
    let fields = [("x-api-key", "mine")];
    let (status, seen) = placed("{ header = \"x-api-key\" }", "/x", &fields).await;
    assert_eq!((status, seen.len()), (200, 1));
    assert_eq!(seen[0].all("x-api-key"), [CANARY]);
    let inject = "{ header = \"authorization\", format = \"token {}\" }";
    let (_, seen) = placed(inject, "/x", &[("authorization", "token mine")]).await;
    assert_eq!(seen[0].all("authorization"), [format!("token {CANARY}")]);
}

#[tokio::test]
async fn basic_joins_user_and_secret() {
    let (status, seen) = placed("{ basic = \"bot\" }", "/x", &[("authorization", "mine")]).await;
    let pair = base64::engine::general_purpose::STANDARD.encode(format!("bot:{CANARY}"));
    assert_eq!((status, seen.len()), (200, 1));
    assert_eq!(seen[0].all("authorization"), [format!("Basic {pair}")]);
}

#[tokio::test]
async fn a_query_parameter_of_the_agent_is_replaced_in_every_spelling() {
    let path = "/x?key=mine&a=1&k%65y=mine&b=2&key";
    let (status, seen) = placed("{ query = \"key\" }", path, &[]).await;
    assert_eq!((status, seen.len()), (200, 1));
    let query = seen[0].uri.split_once('?').unwrap().1;
    let (kept, secret) = query.rsplit_once('&').unwrap();
    assert_eq!(kept, "a=1&b=2");
    let written = CANARY
        .replace('+', "%2B")
        .replace('/', "%2F")
        .replace('=', "%3D");
    assert_eq!(secret, format!("key={written}"));
}

#[tokio::test]
async fn a_cookie_of_the_agent_is_replaced_and_others_stay() {
    let fields = [("cookie", "a=1; sid=mine"), ("cookie", "sid=again; b=2")];
    let (status, seen) = placed("{ cookie = \"sid\" }", "/x", &fields).await;
    assert_eq!((status, seen.len()), (200, 1));
    let cookies = seen[0].all("cookie").join("; ");
    assert_eq!(cookies, format!("a=1; b=2; sid={CANARY}"));
}

/// LEAK-25: a placeholder is replaced in its one slot; anywhere else nothing is forwarded.
#[tokio::test]
async fn a_placeholder_is_replaced_in_its_slot_and_refused_anywhere_else() {
    let inject = "{ placeholder = \"KEYWARD-PLACEHOLDER\", in = { header = \"x-token\" } }";
    let good = [("x-token", "KEYWARD-PLACEHOLDER")];
    let (status, seen) = placed(inject, "/x", &good).await;
    assert_eq!((status, seen.len()), (200, 1));
    assert_eq!(seen[0].all("x-token"), [CANARY]);
    let elsewhere: [(&str, &[(&str, &str)]); 5] = [
        ("/x?q=KEYWARD-PLACEHOLDER", &good),
        ("/KEYWARD-PLACEHOLDER", &good),
        ("/x", &[good[0], ("user-agent", "KEYWARD-PLACEHOLDER")]),
        (
            "/x",
            &[good[0], ("referer", "https://x/KEYWARD-PLACEHOLDER")],
        ),
        ("/x", &[]),
    ];
    for (path, fields) in elsewhere {
        let (status, seen) = placed(inject, path, fields).await;
        assert_eq!((status, seen.len()), (400, 0), "{path} {fields:?}");
    }
}

/// LEAK-25: the body of a request is no slot unless it is the declared one, so a planted placeholder stays text.
#[tokio::test]
async fn a_placeholder_in_a_body_is_replaced_only_in_its_declared_field() {
    let upstream = Upstream::echo(&["http/1.1"]).await;
    let route = "[[route]]\nhosts = [\"api.test\"]\ncredential = \"c\"\n\
        inject = { placeholder = \"KEYWARD-PLACEHOLDER\", in = { json = \"auth.token\" } }\n\
        [[route]]\nhosts = [\"other.test\"]\ncredential = \"o\"\n\
        inject = { placeholder = \"KEYWARD-PLACEHOLDER\", in = { header = \"x-token\" } }\n";
    let harness = Setup::new(route)
        .to("api.test:443", &upstream)
        .to("other.test:443", &upstream)
        .start()
        .await;
    let agent = harness.agent();
    let mut sender = agent.h1("api.test:443").await;
    let post = |body: &'static str| {
        let mut asked = body_request("POST", "/x", "api.test", body);
        let json = http::HeaderValue::from_static("application/json");
        asked.headers_mut().insert("content-type", json);
        asked
    };
    let asked = post("{\"auth\":{\"token\":\"KEYWARD-PLACEHOLDER\"},\"a\":1}");
    assert_eq!(agent.ask(&mut sender, asked).await.status, 200);
    let body: serde_json::Value = serde_json::from_slice(&upstream.requests()[0].body).unwrap();
    assert_eq!(body["auth"]["token"], CANARY);
    for planted in [
        "{\"auth\":{\"token\":\"KEYWARD-PLACEHOLDER\"},\"body\":\"KEYWARD-PLACEHOLDER\"}",
        "{\"body\":\"KEYWARD-PLACEHOLDER\"}",
    ] {
        let answer = agent.ask(&mut sender, post(planted)).await;
        assert_eq!(answer.status, 400, "{planted}");
    }
    assert_eq!(upstream.requests().len(), 1);
    // HOST-38: of two members of one name the upstream gets one, so that nobody can read the other.
    let twice = "{\"auth\":{\"token\":\"x\",\"token\":\"KEYWARD-PLACEHOLDER\"}}";
    assert_eq!(agent.ask(&mut sender, post(twice)).await.status, 200);
    let one = format!("{{\"auth\":{{\"token\":\"{CANARY}\"}}}}");
    assert_eq!(upstream.requests()[1].body, one);
    // With the slot in a header, the body passes untouched.
    let mut sender = agent.h1("other.test:443").await;
    let mut asked = body_request("POST", "/x", "other.test", "issue: KEYWARD-PLACEHOLDER");
    let placeholder = http::HeaderValue::from_static("KEYWARD-PLACEHOLDER");
    asked.headers_mut().insert("x-token", placeholder);
    assert_eq!(agent.ask(&mut sender, asked).await.status, 200);
    let seen = upstream.requests();
    assert_eq!(seen[2].body, "issue: KEYWARD-PLACEHOLDER");
    assert_eq!(seen[2].all("x-token"), [OTHER]);
    harness.finish().await;
}

/// LEAK-01, LEAK-30: the echo of an injected request is masked; the agent's own token never travels.
#[tokio::test]
async fn an_echo_is_masked_and_the_agents_token_stays_here() {
    let upstream = Upstream::echo(&["http/1.1"]).await;
    let harness = Setup::new(BEARER)
        .to("api.test:443", &upstream)
        .start()
        .await;
    let agent = harness.agent();
    let mut sender = agent.h1("api.test:443").await;
    let mut asked = request("GET", "/headers", "api.test");
    asked.headers_mut().insert(
        "proxy-authorization",
        agent.authorization.as_ref().unwrap().parse().unwrap(),
    );
    let answer = agent.ask(&mut sender, asked).await;
    assert_eq!(answer.status, 200);
    assert!(
        answer.text().contains("authorization: Bearer **"),
        "{}",
        answer.text()
    );
    let seen = upstream.requests();
    assert_eq!(
        seen[0].get("authorization").unwrap(),
        format!("Bearer {CANARY}")
    );
    assert_eq!(seen[0].get("proxy-authorization"), None);
    let record = harness
        .record(|record| record["event"] == "request" || record["type"] == "request")
        .await;
    assert_eq!(record["status"], 200, "{record}");
    harness.finish().await;
}

/// LEAK-23: a preflight carries no credential unless the route names OPTIONS.
#[tokio::test]
async fn a_preflight_is_not_injected_unless_the_route_names_options() {
    for (methods, injected) in [("", false), ("methods = [\"GET\", \"OPTIONS\"]\n", true)] {
        let upstream = Upstream::echo(&["http/1.1"]).await;
        let harness = Setup::new(&format!("{BEARER}{methods}"))
            .to("api.test:443", &upstream)
            .start()
            .await;
        let agent = harness.agent();
        let mut sender = agent.h1("api.test:443").await;
        let mut asked = request("OPTIONS", "/x", "api.test");
        let origin = http::HeaderValue::from_static("https://evil.test");
        asked.headers_mut().insert("origin", origin);
        assert_eq!(agent.ask(&mut sender, asked).await.status, 200);
        let seen = upstream.requests();
        assert_eq!(seen[0].get("authorization").is_some(), injected, "{seen:?}");
        harness.finish().await;
    }
}
