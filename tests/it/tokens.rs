//! Requests that keyward answers itself: token endpoints that agents' libraries call with placeholders.

use super::agent::{body_request, request};
use super::harness::{BEARER, Setup, TOKEN_B};
use super::upstream::Upstream;

const ROUTES: &str = "[[route]]\nname = \"refresh\"\nhosts = [\"login.test\"]\nmethods = [\"POST\"]\npaths = [\"/oauth/token\"]\nanswer = \"token\"\n";

#[tokio::test]
async fn a_refresh_with_a_placeholder_is_answered_and_nothing_goes_upstream() {
    let upstream = Upstream::echo(&["h2", "http/1.1"]).await;
    let harness = Setup::new(&format!("{ROUTES}{BEARER}"))
        .to("login.test:443", &upstream)
        .to("api.test:443", &upstream)
        .start()
        .await;
    let agent = harness.agent();
    let mut sender = agent.h1("login.test:443").await;
    for _ in 0..2 {
        let form = "grant_type=refresh_token&refresh_token=keyward-placeholder";
        let asked = body_request("POST", "/oauth/token", "login.test", form);
        let answer = agent.ask(&mut sender, asked).await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.get("cache-control"), Some("no-store"));
        let body: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(
            body,
            serde_json::json!({"access_token": "keyward-placeholder", "token_type": "Bearer", "expires_in": 3600})
        );
    }
    let record = harness
        .record(|record| record["event"] == "request" && record["route"] == "refresh")
        .await;
    for (member, expected) in [
        ("decision", "allow"),
        ("path", "/oauth/token"),
        ("host", "login.test"),
    ] {
        assert_eq!(record[member], expected, "{record}");
    }
    assert_eq!(record["status"], 200);
    // Anything else of the host is refused, and nothing was ever sent to it.
    let other = agent
        .ask(&mut sender, request("GET", "/oauth/token", "login.test"))
        .await;
    assert_eq!((other.status, other.word()), (403, "no-route"));
    assert_eq!(upstream.dialled(), 0);
    harness.finish().await;
}

const PRESET: &str = "[preset.crm]\ntitle = \"CRM\"\nhosts = [\"api.test\"]\n\
    token-endpoints = [{ host = \"login.test\", path = \"/*/oauth/token\" }]\n\
    [[preset.crm.key]]\ninject = \"bearer\"\nenv = [\"CRM_TOKEN\"]\nplaceholder = \"crm-placeholder-0000\"\n\
    [[route]]\nname = \"crm\"\npreset = \"crm\"\ncredential = \"c\"\nagents = [\"a\"]\nmethods = [\"GET\"]\n";

/// A preset knows where its clients refresh: its route answers there, for its own agents and under its own guards.
#[tokio::test]
async fn a_presets_token_endpoints_are_answered_with_its_placeholder() {
    let upstream = Upstream::echo(&["http/1.1"]).await;
    let start = async |routes: String| {
        Setup::new(&routes)
            .to("login.test:443", &upstream)
            .to("oauth2.googleapis.com:443", &upstream)
            .start()
            .await
    };
    let post =
        |host: &str, path: &str| body_request("POST", path, host, "grant_type=refresh_token");
    let harness = start(PRESET.to_owned()).await;
    let agent = harness.agent();
    let mut sender = agent.h1("login.test:443").await;
    let answer = agent
        .ask(&mut sender, post("login.test", "/eu/oauth/token"))
        .await;
    let body: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(body["access_token"], "crm-placeholder-0000");
    let record = harness.record(|record| record["event"] == "request").await;
    assert_eq!(
        (&record["route"], &record["host"]),
        (&"crm".into(), &"login.test".into())
    );
    for (method, path) in [("POST", "/oauth/token"), ("GET", "/eu/oauth/token")] {
        let asked = match method {
            "GET" => request("GET", path, "login.test"),
            _ => post("login.test", path),
        };
        assert_eq!(
            agent.ask(&mut sender, asked).await.word(),
            "no-route",
            "{method} {path}"
        );
    }
    // Another agent has no such route.
    let (refused, _) = harness
        .agent_with(Some(TOKEN_B))
        .connect("login.test:443")
        .await;
    assert!(refused.start.contains(" 403 "), "{refused:?}");
    harness.finish().await;

    let guarded = format!("{PRESET}source = [\"192.0.2.0/24\"]\n");
    let harness = start(guarded).await;
    let agent = harness.agent();
    let mut sender = agent.h1("login.test:443").await;
    let answer = agent
        .ask(&mut sender, post("login.test", "/eu/oauth/token"))
        .await;
    assert_eq!(answer.word(), "condition");
    harness.finish().await;

    // Google's, as it is shipped.
    let google = "[[route]]\nhosts = [\"api.test\"]\npreset = \"google\"\ncredential = \"c\"\n";
    let harness = start(google.to_owned()).await;
    let agent = harness.agent();
    let mut sender = agent.h1("oauth2.googleapis.com:443").await;
    let answer = agent
        .ask(&mut sender, post("oauth2.googleapis.com", "/token"))
        .await;
    let body: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(body["access_token"], "ya29.keyward-0000000000");
    harness.finish().await;
    assert_eq!(upstream.dialled(), 0, "no issuer was reached");

    // What the file itself says of such a host is what is meant, wherever it stands.
    let own = format!("{PRESET}[[route]]\nname = \"own\"\nhosts = [\"login.test\"]\n");
    let harness = start(own).await;
    let agent = harness.agent();
    let mut sender = agent.h1("login.test:443").await;
    let answer = agent
        .ask(&mut sender, post("login.test", "/eu/oauth/token"))
        .await;
    assert!(
        answer.text().contains("grant_type=refresh_token"),
        "{}",
        answer.text()
    );
    harness.finish().await;
}

#[tokio::test]
async fn a_body_without_end_is_not_read_for_ever() {
    let upstream = Upstream::echo(&["http/1.1"]).await;
    let harness = Setup::new(ROUTES)
        .to("login.test:443", &upstream)
        .start()
        .await;
    let agent = harness.agent();
    let mut sender = agent.h1("login.test:443").await;
    let asked = body_request("POST", "/oauth/token", "login.test", vec![b'x'; 2 << 20]);
    let answer = agent.ask(&mut sender, asked).await;
    assert_eq!((answer.status, answer.word()), (413, "too-large"));
    harness.finish().await;
}
