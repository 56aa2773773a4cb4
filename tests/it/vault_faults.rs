//! The `vault` provider against answers that no good Vault gives: a scripted one on loopback.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::harness::{Harness, Setup};
use super::upstream::{Answering, AnyBody, Seen, Upstream, full};

const GOOD: &str = "good-secret-of-the-engine-0123";

fn answer(status: u16, body: impl Into<String>) -> Response<AnyBody> {
    let mut answer = Response::new(full(body.into()));
    *answer.status_mut() = StatusCode::from_u16(status).unwrap();
    answer
}

fn login() -> Response<AnyBody> {
    let auth =
        json!({ "client_token": "s.login-token", "lease_duration": 3600, "renewable": true });
    answer(200, json!({ "auth": auth }).to_string())
}

fn leased(secret: &str, duration: &Value) -> String {
    json!({ "lease_id": "engine/creds/x/1", "lease_duration": duration, "data": { "password": secret, "username": "u" } })
        .to_string()
}

/// keyward with a credential of this Vault.
async fn start(vault: &Upstream, upstream: &Upstream, more: &str) -> Harness {
    let text = format!(
        "[credential.v]\ndeadline = \"2s\"\n[credential.v.vault]\nurl = \"http://{}\"\n\
         login = {{ kubernetes = {{ role = \"r\", token = {{ env = \"OTHER\" }} }} }}\n\
         path = \"engine/creds/x\"\nfield = \"password\"\n{more}\n\
         [[route]]\nhosts = [\"api.test\"]\ncredential = \"v\"\ninject = \"bearer\"\n",
        vault.address
    );
    Setup::new(&text).to("api.test:443", upstream).start().await
}

/// A Vault that lets everybody log in, and answers all else so.
async fn vault<F>(answers: F) -> Upstream
where
    F: Fn(Seen) -> Response<AnyBody> + Send + Sync + 'static,
{
    Upstream::plain(move |seen: Seen| -> Answering {
        let answer = if seen.uri == "/v1/auth/kubernetes/login" {
            login()
        } else {
            answers(seen)
        };
        Box::pin(async move { answer })
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_no_lease_is_refused_and_what_it_leased_revoked() {
    let upstream = Upstream::echo(&["http/1.1"]).await;
    for (name, body, revoked) in [
        ("no life", leased(GOOD, &json!(0)), true),
        ("a negative life", leased(GOOD, &json!(-5)), true),
        ("no number", leased(GOOD, &json!("300")), false),
        (
            "a second header",
            leased("a-secret-0123456789\r\nx: y", &json!(300)),
            true,
        ),
        (
            "another field",
            leased("", &json!(300)).replace("password", "passwort"),
            true,
        ),
        (
            "twice the field",
            leased(GOOD, &json!(300)).replace("\"username\"", "\"password\""),
            true,
        ),
        ("HTML", "<html>hello</html>".to_owned(), false),
        ("nothing", String::new(), false),
        ("too much", "x".repeat((1 << 20) + 1), false),
    ] {
        let told = body.clone();
        let bad = vault(move |seen| match seen.uri.as_str() {
            "/v1/sys/leases/revoke" => answer(204, ""),
            _ => answer(200, told.clone()),
        })
        .await;
        let harness = start(&bad, &upstream, "").await;
        let refused = harness.agent().get("api.test:443", "/").await;
        assert_eq!(
            (refused.status, refused.word()),
            (502, "broker-refused"),
            "{name}"
        );
        let order = bad
            .requests()
            .into_iter()
            .find(|seen| seen.uri == "/v1/sys/leases/revoke");
        assert_eq!(order.is_some(), revoked, "{name}");
        if let Some(order) = order {
            let body: Value = serde_json::from_slice(&order.body).unwrap();
            assert_eq!(body["lease_id"], "engine/creds/x/1");
        }
        harness.finish().await;
    }
    assert_eq!(upstream.dialled(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_is_not_followed_and_each_failure_has_its_word() {
    let upstream = Upstream::echo(&["http/1.1"]).await;
    let elsewhere =
        Upstream::plain(|_| Box::pin(async { answer(200, leased(GOOD, &json!(300))) })).await;
    let location = format!("http://{}/v1/engine/creds/x", elsewhere.address);
    for (status, header, word, after) in [
        (
            307,
            Some(("location", location.as_str())),
            "broker-unavailable",
            None,
        ),
        (
            429,
            Some(("retry-after", "7")),
            "broker-unavailable",
            Some("7"),
        ),
        (500, None, "broker-unavailable", None),
        (503, None, "broker-sealed", None),
        (
            502,
            Some(("retry-after", "9")),
            "broker-unavailable",
            Some("9"),
        ),
        (404, None, "broker-refused", None),
        (400, None, "broker-refused", None),
    ] {
        let header = header.map(|(name, value)| (name, value.to_owned()));
        let bad = vault(move |_| {
            let mut answer = answer(status, "{\"errors\":[\"Vault is sealed\"]}");
            if let Some((name, value)) = &header {
                answer.headers_mut().insert(*name, value.parse().unwrap());
            }
            answer
        })
        .await;
        let harness = start(&bad, &upstream, "").await;
        let refused = harness.agent().get("api.test:443", "/").await;
        assert_eq!(refused.word(), word, "{status}");
        if after.is_some() {
            assert_eq!(refused.get("retry-after"), after, "{status}");
        }
        harness.finish().await;
    }
    assert_eq!(elsewhere.dialled(), 0, "a token never goes elsewhere");
    assert_eq!(upstream.dialled(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_is_one_flight_and_its_call_is_as_documented() {
    let upstream = Upstream::echo(&["http/1.1"]).await;
    let good = vault(|seen| match seen.uri.as_str() {
        "/v1/sys/leases/revoke" => answer(204, ""),
        "/v1/engine/creds/x" => answer(200, leased(GOOD, &json!(300))),
        _ => answer(404, "{}"),
    })
    .await;
    let harness = start(
        &good,
        &upstream,
        "namespace = \"team-a\"\ndata = { ttl = \"1h\" }",
    )
    .await;
    let (one, two) = (
        harness.agent(),
        harness.agent_with(Some(super::harness::TOKEN_B)),
    );
    let answers = tokio::join!(one.get("api.test:443", "/"), two.get("api.test:443", "/"));
    assert_eq!((answers.0.status, answers.1.status), (200, 200));
    let requests = good.requests();
    let logins: Vec<&Seen> = requests
        .iter()
        .filter(|seen| seen.uri.contains("login"))
        .collect();
    assert_eq!(logins.len(), 1, "two first requests make one login");
    let body: Value = serde_json::from_slice(&logins[0].body).unwrap();
    assert_eq!(body, json!({ "role": "r", "jwt": super::canary::OTHER }));
    let reads: Vec<&Seen> = requests
        .iter()
        .filter(|seen| seen.uri.contains("creds"))
        .collect();
    assert_eq!(reads.len(), 2, "each session has its own lease");
    assert_eq!(reads[0].method, "POST");
    assert_eq!(reads[0].body, "{\"ttl\":\"1h\"}");
    assert_eq!(reads[0].get("x-vault-token").unwrap(), "s.login-token");
    assert_eq!(reads[0].get("x-vault-namespace").unwrap(), "team-a");
    harness.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_is_tried_until_it_is_confirmed() {
    let upstream = Upstream::echo(&["http/1.1"]).await;
    let tries = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&tries);
    let bad = vault(move |seen| match seen.uri.as_str() {
        "/v1/sys/leases/revoke" => match count.fetch_add(1, Ordering::SeqCst) {
            0 => answer(500, "{}"),
            1 => answer(403, "{}"),
            _ => answer(204, ""),
        },
        "/v1/auth/token/lookup-self" => answer(200, "{}"),
        _ => answer(200, leased(GOOD, &json!(300))),
    })
    .await;
    let mut harness = start(&bad, &upstream, "").await;
    assert_eq!(harness.agent().get("api.test:443", "/").await.status, 200);
    let app = harness.take_app();
    let audit = Arc::clone(app.audit());
    app.shut_down(Duration::from_secs(20), "test").await;
    assert_eq!(tries.load(Ordering::SeqCst), 3);
    let trail = String::from_utf8(audit.lines().unwrap()).unwrap();
    let outcomes: Vec<String> = trail
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .filter(|record| record["event"] == "revoke")
        .map(|record| record["outcome"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(outcomes, ["pending", "pending", "revoked"]);
    assert!(
        !trail.contains(GOOD) && !trail.contains("login-token"),
        "{trail}"
    );
}
