//! The operators' side from outside: who gets in, what is listed, what an order does, and that nothing of an agent's
//! opens it.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::canary;
use super::harness::{ALICE, BEARER, Harness, Setup, TOKEN_A};
use super::upstream::Upstream;

const TOKENS: &str = "tokens = { alice = { env = \"ALICE\" } }";

struct Answer {
    status: u16,
    head: String,
    body: Value,
}

async fn over<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, head: &str) -> Answer {
    let request = format!("{head}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.unwrap();
    assert_eq!(canary::find(&bytes), None);
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    Answer {
        status: head.split(' ').nth(1).unwrap().parse().unwrap(),
        head: head.to_ascii_lowercase(),
        body: serde_json::from_str(body).unwrap_or_default(),
    }
}

async fn ask(harness: &Harness, line: &str, token: Option<&str>) -> Answer {
    let address = harness.app().admin().unwrap();
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let token = token.map(|token| format!("\r\nAuthorization: Bearer {token}"));
    let head = format!(
        "{line} HTTP/1.1\r\nHost: {address}{}",
        token.unwrap_or_default()
    );
    over(stream, &head).await
}

async fn by_socket(path: &Path, line: &str) -> Answer {
    let stream = tokio::net::UnixStream::connect(path).await.unwrap();
    over(stream, &format!("{line} HTTP/1.1\r\nHost: localhost")).await
}

async fn scene(upstream: &Upstream) -> Harness {
    Setup::new(BEARER)
        .admin(TOKENS)
        .to("api.test:443", upstream)
        .start()
        .await
}

#[tokio::test]
async fn an_operator_lists_leases_and_revokes_one_and_all_of_a_credential() {
    let upstream = Upstream::echo(&["http/1.1"]).await;
    let harness = scene(&upstream).await;
    let agent = harness.agent();
    assert_eq!(agent.get("api.test:443", "/x").await.status, 200);
    let answer = ask(&harness, "GET /api/v1/leases", Some(ALICE)).await;
    assert_eq!(answer.status, 200);
    assert!(answer.head.contains("cache-control: no-store"));
    assert_eq!(answer.body["next"], Value::Null);
    let lease = &answer.body["items"][0];
    for (member, expected) in [("credential", "c"), ("agent", "a"), ("state", "live")] {
        assert_eq!(lease[member], expected, "{lease}");
    }
    assert!(
        lease["session"].is_string() && lease["issued"].is_string(),
        "{lease}"
    );
    let id = lease["lease"].as_str().unwrap();
    let order = format!("DELETE /api/v1/leases/{id}");
    assert_eq!(ask(&harness, &order, Some(ALICE)).await.status, 204);
    let record = harness.record(|record| record["event"] == "revoke").await;
    for (member, expected) in [("by", "alice"), ("reason", "order"), ("lease", id)] {
        assert_eq!(record[member], expected, "{record}");
    }
    let again = ask(&harness, &order, Some(ALICE)).await;
    assert_eq!(
        (again.status, &again.body["type"]),
        (404, &"urn:keyward:refusal:not-found".into())
    );
    assert_eq!(agent.get("api.test:443", "/x").await.status, 200);
    let all = ask(&harness, "POST /api/v1/credentials/c/revoke", Some(ALICE)).await;
    assert_eq!((all.status, &all.body["leases"]), (200, &1.into()));
    let none = ask(
        &harness,
        "POST /api/v1/credentials/none/revoke",
        Some(ALICE),
    )
    .await;
    assert_eq!(none.status, 404);
    harness.finish().await;
}

#[tokio::test]
async fn nothing_of_an_agents_opens_the_admin_side() {
    let upstream = Upstream::echo(&["http/1.1"]).await;
    let harness = scene(&upstream).await;
    assert_eq!(harness.agent().get("api.test:443", "/x").await.status, 200);
    let jwt = "eyJhbGciOiJFUzI1NiJ9.eyJhdWQiOiJrZXl3YXJkIn0.c2lnbmF0dXJl";
    for (token, expected, word) in [
        (None, 401, "unauthorized"),
        (Some("guess"), 401, "unauthorized"),
        (Some(""), 401, "unauthorized"),
        (Some(&ALICE[1..]), 401, "unauthorized"),
        (Some(TOKEN_A), 403, "forbidden"),
        (Some(jwt), 403, "forbidden"),
    ] {
        for line in [
            "GET /api/v1/leases",
            "POST /api/v1/credentials/c/revoke",
            "POST /api/v1/reload",
        ] {
            let answer = ask(&harness, line, token).await;
            assert_eq!(answer.status, expected, "{line} {token:?}");
            assert_eq!(answer.body["type"], format!("urn:keyward:refusal:{word}"));
            assert!(
                answer
                    .head
                    .contains("content-type: application/problem+json")
            );
            assert_eq!(
                expected == 401,
                answer.head.contains("www-authenticate: bearer")
            );
        }
    }
    // A name that somebody else resolves to the listener is not its own.
    let address = harness.app().admin().unwrap();
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let head = format!(
        "GET /api/v1/leases HTTP/1.1\r\nHost: evil.example.com\r\nAuthorization: Bearer {ALICE}"
    );
    assert_eq!(over(stream, &head).await.status, 421);
    let listed = ask(&harness, "GET /api/v1/leases", Some(ALICE)).await;
    assert_eq!(
        listed.body["items"].as_array().unwrap().len(),
        1,
        "nothing was revoked"
    );
    harness.finish().await;
}

/// A page whose name was pointed at the listener (DNS rebinding) reads no metrics. Probes come by whatever name, and
/// learn one word.
#[tokio::test]
async fn a_name_of_somebody_elses_reads_nothing_but_health() {
    let upstream = Upstream::echo(&["http/1.1"]).await;
    let harness = Setup::new(BEARER)
        .admin("public-url = \"https://keyward.example.com\"")
        .to("api.test:443", &upstream)
        .start()
        .await;
    let address = harness.app().admin().unwrap();
    let status = async |path: &str, host: &str| {
        let stream = tokio::net::TcpStream::connect(address).await.unwrap();
        over(stream, &format!("GET {path} HTTP/1.1{host}"))
            .await
            .status
    };
    for (host, status_of_metrics) in [
        ("\r\nHost: evil.example", 421),
        ("\r\nHost: 10.0.0.7.evil.example:8181", 421),
        ("\r\nHost: localhost\r\nHost: evil.example", 421),
        ("\r\nHost: 10.0.0.7:8181", 200),
        ("\r\nHost: [fd00::7]:8181", 200),
        ("\r\nHost: localhost:8181", 200),
        ("\r\nHost: keyward.example.com", 200),
    ] {
        for path in ["/metrics", "/openapi.json"] {
            assert_eq!(status(path, host).await, status_of_metrics, "{path} {host}");
        }
        if status_of_metrics == 421 {
            assert_eq!(status("/nothing", host).await, 421, "{host}");
        }
    }
    for path in ["/healthz", "/readyz"] {
        assert_eq!(status(path, "\r\nHost: probe.example").await, 200, "{path}");
    }
    harness.finish().await;
}

/// What is no page is taken for none, whoever has a browser show it.
#[tokio::test]
async fn no_answer_is_taken_for_a_page() {
    let upstream = Upstream::echo(&["http/1.1"]).await;
    let harness = scene(&upstream).await;
    for (line, token) in [
        ("GET /healthz", None),
        ("GET /metrics", None),
        ("GET /openapi.json", None),
        ("GET /nothing", None),
        ("GET /api/v1/leases", None),
        ("GET /api/v1/leases", Some(ALICE)),
    ] {
        let answer = ask(&harness, line, token).await;
        for field in [
            "x-content-type-options: nosniff",
            "content-security-policy: default-src 'none'; frame-ancestors 'none'",
            "cache-control: no-store",
        ] {
            assert!(answer.head.contains(field), "{line}: {}", answer.head);
        }
    }
    harness.finish().await;
}

#[tokio::test]
async fn the_socket_is_its_owners_and_says_who_ordered() {
    use std::os::unix::fs::PermissionsExt as _;
    let upstream = Upstream::echo(&["http/1.1"]).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("admin.sock");
    let harness = Setup::new(BEARER)
        .admin(&format!("socket = \"{}\"", path.display()))
        .to("api.test:443", &upstream)
        .start()
        .await;
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(harness.agent().get("api.test:443", "/x").await.status, 200);
    let revoked = by_socket(&path, "POST /api/v1/credentials/c/revoke").await;
    assert_eq!(revoked.body["leases"], 1);
    let record = harness.record(|record| record["event"] == "revoke").await;
    let uid = rustix::process::geteuid().as_raw();
    assert_eq!(record["by"], format!("uid-{uid}"));
    let stranger = tokio::net::UnixStream::connect(&path).await.unwrap();
    let head = format!("GET /api/v1/leases HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN_A}");
    assert_eq!(
        over(stranger, &head).await.status,
        403,
        "an agent's token is none here"
    );
    let nobody = by_socket(&path, "GET /api/v1/nothing").await;
    assert_eq!(nobody.status, 404);
    assert_eq!(by_socket(&path, "GET /healthz").await.status, 200);
    harness.finish().await;
    assert!(!path.exists());
}

#[tokio::test]
async fn a_reload_that_nobody_can_do_is_a_conflict() {
    let upstream = Upstream::echo(&["http/1.1"]).await;
    let harness = scene(&upstream).await;
    drop(harness.app().wishes());
    let answer = ask(&harness, "POST /api/v1/reload", Some(ALICE)).await;
    assert_eq!(answer.status, 409);
    harness.finish().await;
}

#[tokio::test]
async fn a_body_without_end_and_a_path_without_sense_are_refused() {
    let upstream = Upstream::echo(&["http/1.1"]).await;
    let harness = scene(&upstream).await;
    let address = harness.app().admin().unwrap();
    for line in [
        "GET /api/v1/leases/%ff",
        "GET /api/v1/%00",
        "GET /api/v1/leases/%2",
    ] {
        assert_eq!(ask(&harness, line, Some(ALICE)).await.status, 400, "{line}");
    }
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let head = format!(
        "POST /api/v1/reload HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {ALICE}\r\nContent-Length: 100000\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&vec![b'x'; 100_000]).await.ok();
    let mut text = vec![0; 64];
    let read = tokio::time::timeout(Duration::from_secs(5), stream.read(&mut text));
    read.await.unwrap().unwrap();
    assert!(
        text.starts_with(b"HTTP/1.1 413"),
        "{}",
        String::from_utf8_lossy(&text)
    );
    harness.finish().await;
}

/// Whether a value is of the kind that a schema says.
fn fits(value: &Value, schema: &Value) -> bool {
    let kinds = match &schema["type"] {
        Value::Array(kinds) => kinds.clone(),
        one => vec![one.clone()],
    };
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    kinds.contains(&Value::from(kind))
}

#[tokio::test]
async fn the_description_of_the_api_is_what_it_answers() {
    let upstream = Upstream::echo(&["http/1.1"]).await;
    let harness = scene(&upstream).await;
    assert_eq!(harness.agent().get("api.test:443", "/x").await.status, 200);
    let told = ask(&harness, "GET /openapi.json", None).await;
    assert_eq!((told.status, &told.body["openapi"]), (200, &"3.1.0".into()));
    let mut objects = 0;
    for (path, methods) in told.body["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let filled = path.replace('{', "no-such-").replace('}', "");
            let line = format!("{} {filled}", method.to_uppercase());
            if line == "POST /api/v1/reload" {
                // Nobody does it here: the daemon's tests do.
                drop(harness.app().wishes());
            }
            let answer = ask(&harness, &line, Some(ALICE)).await;
            assert_ne!(answer.status, 405, "{line}");
            let detail = answer.body["detail"].as_str().unwrap_or_default();
            assert_ne!(detail, "There is nothing at this path.", "{line}");
            let status = answer.status.to_string();
            let said = operation["responses"].get(&status);
            assert!(said.is_some(), "{line}: {status} {}", answer.body);
            let schema = &operation["responses"]["200"]["content"]["application/json"]["schema"];
            let name = schema["properties"]["items"]["items"]["$ref"].as_str();
            let (Some(name), 200) = (name, answer.status) else {
                continue;
            };
            let schema = told.body.pointer(name.trim_start_matches('#')).unwrap();
            let members = schema["properties"].as_object().unwrap();
            for item in answer.body["items"].as_array().unwrap() {
                objects += 1;
                for (member, value) in item.as_object().unwrap() {
                    let schema = members.get(member);
                    let schema = schema.unwrap_or_else(|| panic!("{line}: {member} is not told"));
                    assert!(fits(value, schema), "{line}: {member} = {value}");
                }
                for member in schema["required"].as_array().unwrap() {
                    assert!(
                        item.get(member.as_str().unwrap()).is_some(),
                        "{line}: {member}"
                    );
                }
            }
        }
    }
    assert!(
        objects >= 3,
        "a session, an agent and a lease were looked at"
    );
    let unknown = ask(&harness, "GET /api/v1/sessions/x/y", Some(ALICE)).await;
    assert_eq!(unknown.body["detail"], "There is nothing at this path.");
    harness.finish().await;
}
