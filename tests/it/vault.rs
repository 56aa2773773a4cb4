//! The `vault` provider end to end: keyward, a real OpenBao, and a real PostgreSQL whose users come and go.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use serde_json::{Value, json};

use super::canary::CANARY;
use super::harness::{Harness, Setup};
use super::upstream::Upstream;
use super::vault_server::{Bao, Postgres, ROOT};

/// A credential `v` of this OpenBao, and a route of api.test that puts it where `inject` says.
fn routes(bao: &Bao, vault: &str, inject: &str) -> String {
    let scheme = if bao.ca.is_some() { "https" } else { "http" };
    format!(
        "[credential.v.vault]\nurl = \"{scheme}://{}\"\n{vault}\n\
         [[route]]\nhosts = [\"api.test\"]\ncredential = \"v\"\ninject = {inject}\n",
        bao.address
    )
}

/// The same, with failures that are forgotten at once.
fn forgetful(routes: &str) -> String {
    let table = "[credential.v.vault]";
    routes.replace(
        table,
        &format!("[credential.v]\nfailure-ttl = \"0s\"\n{table}"),
    )
}

fn approle(role_id: &str, file: &std::path::Path, wrapped: bool) -> String {
    format!(
        "login = {{ approle = {{ role-id = \"{role_id}\", secret-id = {{ file = \"{}\" }}, wrapped = {wrapped} }} }}",
        file.display()
    )
}

fn root_login(folder: &std::path::Path) -> String {
    let file = folder.join("root");
    std::fs::write(&file, ROOT).unwrap();
    format!("login = {{ token = {{ file = \"{}\" }} }}", file.display())
}

async fn start(routes: &str, upstream: &Upstream) -> Harness {
    Setup::new(routes)
        .to("api.test:443", upstream)
        .start()
        .await
}

/// What the upstream was sent last as `Authorization: Basic`.
fn basic(upstream: &Upstream) -> (String, String) {
    let seen = upstream
        .requests()
        .pop()
        .unwrap()
        .get("authorization")
        .unwrap();
    let pair = seen.strip_prefix("Basic ").unwrap();
    let pair = base64::engine::general_purpose::STANDARD
        .decode(pair)
        .unwrap();
    let pair = String::from_utf8(pair).unwrap();
    let (user, password) = pair.split_once(':').unwrap();
    (user.to_owned(), password.to_owned())
}

fn bearer(upstream: &Upstream) -> String {
    let seen = upstream
        .requests()
        .pop()
        .unwrap()
        .get("authorization")
        .unwrap();
    seen.strip_prefix("Bearer ").unwrap().to_owned()
}

const DATABASE: &str =
    "path = \"database/creds/readonly\"\nfield = \"password\"\nuser-field = \"username\"";
const KV: &str = "kv = { mount = \"secret\", path = \"crm\", field = \"api-key\" }";

#[tokio::test(flavor = "multi_thread")]
async fn a_database_user_lives_as_long_as_its_session() {
    let (Some(bao), Some(postgres)) = (Bao::start().await, Postgres::start().await) else {
        return;
    };
    postgres.engine(&bao, "10m").await;
    bao.policy("path \"database/creds/readonly\" { capabilities = [\"read\"] }")
        .await;
    let role_id = bao.approle(json!({})).await;
    let folder = tempfile::tempdir().unwrap();
    let (sid, token) = (folder.path().join("sid"), folder.path().join("token"));
    std::fs::write(&sid, bao.secret_id().await).unwrap();
    std::fs::write(&token, "token-of-agent-c-0123456789abcdef").unwrap();
    let login = approle(&role_id, &sid, false);
    let mut text = routes(&bao, &format!("{login}\n{DATABASE}"), "{ basic = \"\" }");
    text.push_str(&format!(
        "[agent.c]\ntoken = {{ file = \"{}\" }}\n",
        token.display()
    ));
    let upstream = Upstream::echo(&["http/1.1"]).await;
    let mut harness = start(&text, &upstream).await;

    let agent = harness.agent_with(Some("token-of-agent-c-0123456789abcdef"));
    let answer = agent.get("api.test:443", "/").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let (user, password) = basic(&upstream);
    assert_eq!(postgres.users(), std::slice::from_ref(&user));
    let who = postgres.query(&user, &password, "select current_user");
    assert_eq!(who.unwrap(), user, "what was injected opens the database");
    assert!(!answer.text().contains(&password), "the echo is masked");
    agent.get("api.test:443", "/again").await;
    assert_eq!(basic(&upstream).1, password, "one lease serves the session");

    // The token changes, and so the session ends.
    std::fs::write(&token, "another-token-of-agent-c-0123456789").unwrap();
    assert!(postgres.settles_at(0).await, "{:?}", postgres.users());
    let gone = postgres.query(&user, &password, "select 1");
    assert!(gone.is_err(), "the user is gone after the session");
    let record = harness
        .record(|r| r["event"] == "revoke" && r["outcome"] == "revoked")
        .await;
    assert_eq!(record["reason"], "session-end");
    assert_eq!(record["provider"], "vault");

    // Two more sessions, and keyward stops.
    harness.agent().get("api.test:443", "/").await;
    let other = harness.agent_with(Some("another-token-of-agent-c-0123456789"));
    other.get("api.test:443", "/").await;
    assert_eq!(postgres.users().len(), 2, "each session has its own");
    let app = harness.take_app();
    let audit = Arc::clone(app.audit());
    app.shut_down(Duration::from_secs(20), "test").await;
    assert_eq!(postgres.users(), Vec::<String>::new());
    let trail = String::from_utf8(audit.lines().unwrap()).unwrap();
    assert!(!trail.contains(&password), "{trail}");
}

/// Its user is renewed past the first end that it was given, is another one past the longest life, and none lives longer
/// than the session.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_user_is_renewed_up_to_its_longest_life() {
    let (Some(bao), Some(postgres)) = (Bao::start().await, Postgres::start().await) else {
        return;
    };
    postgres.engine(&bao, "6s").await;
    let statement =
        "CREATE ROLE \"{{name}}\" WITH LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}';";
    let role = json!({
        "db_name": "pg", "creation_statements": [statement], "default_ttl": "6s", "max_ttl": "16s",
    });
    bao.api("POST", "database/roles/readonly", role).await;
    bao.policy("path \"database/creds/readonly\" { capabilities = [\"read\"] }")
        .await;
    let role_id = bao.approle(json!({})).await;
    let folder = tempfile::tempdir().unwrap();
    let sid = folder.path().join("sid");
    std::fs::write(&sid, bao.secret_id().await).unwrap();
    let login = approle(&role_id, &sid, false);
    let text = routes(&bao, &format!("{login}\n{DATABASE}"), "{ basic = \"\" }");
    let upstream = Upstream::echo(&["http/1.1"]).await;
    let mut harness = start(&text, &upstream).await;
    let agent = harness.agent();
    let begun = std::time::Instant::now();
    let mut used: Vec<(String, Duration)> = Vec::new();
    while begun.elapsed() < Duration::from_secs(22) {
        let answer = agent.get("api.test:443", "/").await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let (user, password) = basic(&upstream);
        let who = postgres.query(&user, &password, "select current_user");
        assert_eq!(who.as_deref(), Ok(&*user), "after {:?}", begun.elapsed());
        match used.last_mut() {
            Some((last, until)) if *last == user => *until = begun.elapsed(),
            _ => used.push((user, begun.elapsed())),
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    assert!(
        used[0].1 > Duration::from_secs(8),
        "the first lived past its first end: {used:?}"
    );
    assert!(used.len() >= 2, "and not past its longest life: {used:?}");
    let first = harness
        .record(|r| r["event"] == "issue" && r["cause"] == "refresh")
        .await;
    let issued = harness
        .record(|r| r["event"] == "issue" && r["cause"] == "first")
        .await;
    assert_eq!(first["lease"], issued["lease"], "the same lease");
    let app = harness.take_app();
    app.shut_down(Duration::from_secs(20), "test").await;
    assert!(postgres.settles_at(0).await, "{:?}", postgres.users());
}

/// A lease that falls due while the Vault is sealed: its requests have the word for that, and once it is open again all
/// goes on with another user.
#[tokio::test(flavor = "multi_thread")]
async fn a_vault_that_is_sealed_when_a_lease_falls_due_says_so() {
    let (Some(bao), Some(postgres)) = (Bao::start().await, Postgres::start().await) else {
        return;
    };
    postgres.engine(&bao, "6s").await;
    let folder = tempfile::tempdir().unwrap();
    let vault = format!("{}\n{DATABASE}", root_login(folder.path()));
    let text = forgetful(&routes(&bao, &vault, "{ basic = \"\" }"));
    let upstream = Upstream::echo(&["http/1.1"]).await;
    let harness = start(&text, &upstream).await;
    let agent = harness.agent();
    assert_eq!(agent.get("api.test:443", "/").await.status, 200);
    let (first, _) = basic(&upstream);
    bao.seal().await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    let answer = agent.get("api.test:443", "/").await;
    assert_eq!((answer.status, answer.word()), (503, "broker-sealed"));
    bao.unseal().await;
    let mut answer = agent.get("api.test:443", "/").await;
    for _ in 0..50 {
        if answer.status == 200 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
        answer = agent.get("api.test:443", "/").await;
    }
    assert_eq!(answer.status, 200, "{}", answer.text());
    let (second, password) = basic(&upstream);
    assert_ne!(first, second);
    let who = postgres.query(&second, &password, "select current_user");
    assert_eq!(who.as_deref(), Ok(&*second));
    harness.finish().await;
    assert!(postgres.settles_at(0).await, "{:?}", postgres.users());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kv_field_is_read_over_tls_that_the_operator_trusts() {
    let Some(bao) = Bao::start_tls().await else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let text = routes(
        &bao,
        &format!("{}\n{KV}", root_login(folder.path())),
        "\"bearer\"",
    );
    let upstream = Upstream::echo(&["http/1.1"]).await;
    // Nobody has said that this CA is trusted.
    let harness = start(&text, &upstream).await;
    let answer = harness.agent().get("api.test:443", "/").await;
    assert_eq!(answer.word(), "broker-unavailable");
    harness.finish().await;
    let trust = std::fs::read_to_string(bao.ca.as_ref().unwrap()).unwrap();
    let harness = Setup::new(&text)
        .to("api.test:443", &upstream)
        .also_trusting(&trust)
        .start()
        .await;
    let answer = harness.agent().get("api.test:443", "/").await;
    assert_eq!(answer.word(), "broker-refused", "there is no such secret");
    harness.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrapped_secret_id_is_unwrapped_once_and_theft_of_it_shows() {
    let Some(bao) = Bao::start().await else {
        return;
    };
    bao.api(
        "POST",
        "secret/data/crm",
        json!({ "data": { "api-key": CANARY } }),
    )
    .await;
    bao.policy("path \"secret/data/crm\" { capabilities = [\"read\"] }")
        .await;
    // The secret id is good for one login, and the token for less than the test: what lives on was renewed.
    let role_id = bao
        .approle(json!({ "secret_id_num_uses": 1, "token_ttl": "4s", "token_max_ttl": "10m" }))
        .await;
    let folder = tempfile::tempdir().unwrap();
    let sid = folder.path().join("sid");
    std::fs::write(&sid, bao.wrapped_secret_id().await).unwrap();
    let login = approle(&role_id, &sid, true);
    let text = forgetful(&routes(&bao, &format!("{login}\n{KV}"), "\"bearer\""));
    let upstream = Upstream::echo(&["http/1.1"]).await;
    let harness = start(&text, &upstream).await;
    let answer = harness.agent().get("api.test:443", "/").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(bearer(&upstream), CANARY);
    tokio::time::sleep(Duration::from_secs(6)).await;
    let other = harness.agent_with(Some(super::harness::TOKEN_B));
    let answer = other.get("api.test:443", "/").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    harness.finish().await;

    // A wrapping token that somebody else has used already.
    let wrapping = bao.wrapped_secret_id().await;
    let thief = [("x-vault-token", &*wrapping)];
    let (status, _) = bao
        .try_api("POST", "sys/wrapping/unwrap", json!({}), &thief)
        .await;
    assert_eq!(status, 200);
    std::fs::write(&sid, &wrapping).unwrap();
    let harness = start(&text, &upstream).await;
    let answer = harness.agent().get("api.test:443", "/").await;
    assert_eq!(answer.word(), "broker-refused");

    // The operator brings another: no restart is needed.
    std::fs::write(&sid, bao.wrapped_secret_id().await).unwrap();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let answer = harness.agent().get("api.test:443", "/").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    harness.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sealed_vault_has_a_word_of_its_own_and_comes_back() {
    let Some(bao) = Bao::start().await else {
        return;
    };
    bao.api(
        "POST",
        "secret/data/crm",
        json!({ "data": { "api-key": CANARY } }),
    )
    .await;
    let folder = tempfile::tempdir().unwrap();
    let vault = format!("{}\n{KV}", root_login(folder.path()));
    let text = forgetful(&routes(&bao, &vault, "\"bearer\""));
    let upstream = Upstream::echo(&["http/1.1"]).await;
    let harness = start(&text, &upstream).await;
    bao.seal().await;
    let answer = harness.agent().get("api.test:443", "/").await;
    assert_eq!((answer.status, answer.word()), (503, "broker-sealed"));
    bao.unseal().await;
    let answer = harness.agent().get("api.test:443", "/").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    harness.finish().await;

    drop(bao);
    let harness = start(&text, &upstream).await;
    let answer = harness.agent().get("api.test:443", "/").await;
    assert_eq!((answer.status, answer.word()), (503, "broker-unavailable"));
    harness.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_is_its_own_world() {
    let Some(bao) = Bao::start().await else {
        return;
    };
    bao.api("POST", "sys/namespaces/team-a", json!({})).await;
    let inside = [("x-vault-token", ROOT), ("x-vault-namespace", "team-a")];
    let mount = json!({ "type": "kv", "options": { "version": "2" } });
    for (path, body) in [
        ("sys/mounts/secret", mount),
        ("secret/data/crm", json!({ "data": { "api-key": CANARY } })),
    ] {
        for _ in 0..50 {
            let (status, _) = bao.try_api("POST", path, body.clone(), &inside).await;
            if status < 300 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let login = root_login(folder.path());
    let upstream = Upstream::echo(&["http/1.1"]).await;
    for (namespace, good) in [("team-a", true), ("team-b", false), ("", false)] {
        let line = match namespace {
            "" => String::new(),
            name => format!("namespace = \"{name}\"\n"),
        };
        let text = routes(&bao, &format!("{line}{login}\n{KV}"), "\"bearer\"");
        let harness = start(&text, &upstream).await;
        let answer = harness.agent().get("api.test:443", "/").await;
        if good {
            assert_eq!(answer.status, 200, "{namespace}: {}", answer.text());
            assert_eq!(bearer(&upstream), CANARY);
        } else {
            assert_eq!(answer.word(), "broker-refused", "{namespace:?}");
        }
        harness.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_field_that_cannot_stand_in_a_request_is_refused() {
    let Some(bao) = Bao::start().await else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let text = routes(
        &bao,
        &format!("{}\n{KV}", root_login(folder.path())),
        "{ query = \"key\" }",
    );
    let upstream = Upstream::echo(&["http/1.1"]).await;
    for bad in [
        json!("secret-0123456789\r\nx-admin: 1"),
        json!("secret-0123456789\n"),
        json!(1_234_567_890_123_u64),
        json!({ "nested": "secret-0123456789" }),
        json!("geheim-äöü-0123456789"),
        Value::Null,
    ] {
        bao.api(
            "POST",
            "secret/data/crm",
            json!({ "data": { "api-key": bad } }),
        )
        .await;
        let harness = start(&text, &upstream).await;
        let answer = harness.agent().get("api.test:443", "/").await;
        assert_eq!(answer.word(), "broker-refused", "{bad}");
        harness.finish().await;
    }
    assert_eq!(upstream.dialled(), 0);
}

/// ES256 by a key of ours.
fn jwt(key: &rcgen::KeyPair, audience: &str) -> String {
    let now = jiff::Timestamp::now().as_second();
    let claims = json!({ "sub": "keyward", "aud": audience, "iat": now, "exp": now + 300 });
    let header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::ES256);
    let key = jsonwebtoken::EncodingKey::from_ec_pem(key.serialize_pem().as_bytes()).unwrap();
    jsonwebtoken::encode(&header, &claims, &key).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_by_jwt_follows_the_file_that_holds_it() {
    let Some(bao) = Bao::start().await else {
        return;
    };
    bao.api(
        "POST",
        "secret/data/crm",
        json!({ "data": { "api-key": CANARY } }),
    )
    .await;
    bao.policy("path \"secret/data/crm\" { capabilities = [\"read\"] }")
        .await;
    let key = rcgen::KeyPair::generate().unwrap();
    bao.api("POST", "sys/auth/jwt", json!({ "type": "jwt" }))
        .await;
    let config = json!({ "jwt_validation_pubkeys": [key.public_key_pem()] });
    bao.api("POST", "auth/jwt/config", config).await;
    let role = json!({
        "role_type": "jwt",
        "user_claim": "sub",
        "bound_audiences": ["vault.test"],
        "token_policies": ["keyward"],
        "token_ttl": "10m",
    });
    bao.api("POST", "auth/jwt/role/keyward", role).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("jwt");
    std::fs::write(&file, jwt(&key, "somebody-else")).unwrap();
    let login = format!(
        "login = {{ jwt = {{ role = \"keyward\", token = {{ file = \"{}\" }} }} }}",
        file.display()
    );
    let text = forgetful(&routes(&bao, &format!("{login}\n{KV}"), "\"bearer\""));
    let upstream = Upstream::echo(&["http/1.1"]).await;
    let harness = start(&text, &upstream).await;
    let answer = harness.agent().get("api.test:443", "/").await;
    assert_eq!(
        answer.word(),
        "broker-refused",
        "a JWT for another audience"
    );
    std::fs::write(&file, jwt(&key, "vault.test")).unwrap();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let answer = harness.agent().get("api.test:443", "/").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(bearer(&upstream), CANARY);
    // One login served both sessions.
    let before = bao.tokens().await;
    let other = harness.agent_with(Some(super::harness::TOKEN_B));
    assert_eq!(other.get("api.test:443", "/").await.status, 200);
    assert_eq!(bao.tokens().await, before);
    harness.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_token_that_was_withdrawn_is_replaced_once() {
    let Some(bao) = Bao::start().await else {
        return;
    };
    bao.api(
        "POST",
        "secret/data/crm",
        json!({ "data": { "api-key": CANARY } }),
    )
    .await;
    bao.policy("path \"secret/data/crm\" { capabilities = [\"read\"] }")
        .await;
    let role_id = bao.approle(json!({})).await;
    let folder = tempfile::tempdir().unwrap();
    let sid = folder.path().join("sid");
    std::fs::write(&sid, bao.secret_id().await).unwrap();
    let login = approle(&role_id, &sid, false);
    let text = forgetful(&routes(&bao, &format!("{login}\n{KV}"), "\"bearer\""));
    let upstream = Upstream::echo(&["http/1.1"]).await;
    let harness = start(&text, &upstream).await;
    assert_eq!(harness.agent().get("api.test:443", "/").await.status, 200);
    bao.revoke_logins().await;
    let other = harness.agent_with(Some(super::harness::TOKEN_B));
    let answer = other.get("api.test:443", "/").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    // What its policy forbids is no reason for another login.
    bao.policy("path \"secret/data/other\" { capabilities = [\"read\"] }")
        .await;
    let before = bao.tokens().await;
    harness.reload(&harness.setup).await;
    let credential = format!("{text}[agent.c]\ntoken = {{ env = \"OTHER\" }}\n");
    harness
        .reload(&harness.setup.clone().routes(&credential))
        .await;
    let third = harness.agent_with(Some(super::canary::OTHER));
    let answer = third.get("api.test:443", "/").await;
    assert_eq!(answer.word(), "broker-refused");
    assert_eq!(bao.tokens().await, before);
    harness.finish().await;
}
