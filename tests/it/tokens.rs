//! Requests that keyward answers itself: token endpoints that agents' libraries call with placeholders.

use super::agent::{body_request, request};
use super::harness::{BEARER, Setup};
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
