//! Refresh tokens that are good once: whatever is lost on the way, the family is not.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http::{Response, StatusCode};
use parking_lot::Mutex;
use serde_json::json;

use super::jwt::field;
use crate::harness::{Harness, Setup};
use crate::upstream::{AnyBody, Upstream, full, ok};

/// An issuer that replaces the refresh token at each use, and ends the family when one is used again.
#[derive(Default)]
struct Family {
    newest: u32,
    dead: bool,
    /// How long it thinks.
    slow: Duration,
    uses: Vec<String>,
}

fn no() -> Response<AnyBody> {
    let mut response = Response::new(full(json!({ "error": "invalid_grant" }).to_string()));
    *response.status_mut() = StatusCode::BAD_REQUEST;
    response
}

async fn issuer(family: Arc<Mutex<Family>>) -> Upstream {
    Upstream::plain(move |seen| {
        let given = field(&seen, "refresh_token");
        assert_eq!(field(&seen, "grant_type"), "refresh_token");
        let (answer, slow) = {
            let mut family = family.lock();
            family.uses.push(given.clone());
            let due = format!("refresh-token-number-{}", family.newest);
            if given == due && !family.dead {
                family.newest += 1;
                let answer = json!({
                    "access_token": format!("access-token-number-{}", family.newest),
                    "refresh_token": format!("refresh-token-number-{}", family.newest),
                    "token_type": "Bearer",
                    "expires_in": 3600,
                });
                (ok(answer.to_string()), family.slow)
            } else {
                family.dead = true;
                (no(), family.slow)
            }
        };
        Box::pin(async move {
            tokio::time::sleep(slow).await;
            answer
        })
    })
    .await
}

fn with(issuer: &Upstream, upstream: &Upstream, folder: &Path, deadline: &str) -> Setup {
    let path = folder.display();
    let text = format!(
        "[store]\nsqlite = \"{path}/keyward.db\"\nkey = {{ file = \"{path}/store.key\" }}\n\
         [credential.mail]\ndeadline = \"{deadline}\"\nfailure-ttl = \"0s\"\n\
         oauth-refresh-token = {{ token-url = \"http://{}/token\", client-id = \"agents\", \
         client-secret = {{ env = \"CANARY\" }}, refresh-token = {{ file = \"{path}/rt\" }} }}\n\
         [[route]]\nhosts = [\"api.test\"]\ncredential = \"mail\"\ninject = \"bearer\"\n",
        issuer.address
    );
    Setup::new(&text).to("api.test:443", upstream)
}

fn folder() -> tempfile::TempDir {
    use base64::Engine as _;
    let folder = tempfile::tempdir().unwrap();
    let key = base64::engine::general_purpose::STANDARD.encode([7; 32]);
    std::fs::write(folder.path().join("store.key"), key).unwrap();
    std::fs::write(folder.path().join("rt"), "refresh-token-number-0").unwrap();
    folder
}

async fn status(harness: &Harness) -> u16 {
    harness.agent().get("api.test:443", "/").await.status
}

#[tokio::test]
async fn a_family_lives_on_over_sessions_and_restarts() {
    let family: Arc<Mutex<Family>> = Arc::default();
    let issuer = issuer(Arc::clone(&family)).await;
    let upstream = Upstream::service(&["http/1.1"], |_| Box::pin(async { ok("fine") })).await;
    let files = folder();
    for _ in 0..3 {
        let harness = with(&issuer, &upstream, files.path(), "10s").start().await;
        // Two sessions at once: one uses the family after the other.
        let (one, two) = (
            harness.agent(),
            harness.agent_with(Some(crate::harness::TOKEN_B)),
        );
        let (one, two) = tokio::join!(one.get("api.test:443", "/"), two.get("api.test:443", "/"));
        assert_eq!((one.status, two.status), (200, 200));
        harness.finish().await;
    }
    assert!(!family.lock().dead);
    let due: Vec<_> = (0..6)
        .map(|n| format!("refresh-token-number-{n}"))
        .collect();
    assert_eq!(family.lock().uses, due, "each one once, in order");
    // Sealed: no token stands in the file.
    let mut bytes = Vec::new();
    for entry in std::fs::read_dir(files.path()).unwrap() {
        let path = entry.unwrap().path();
        if path
            .file_name()
            .unwrap()
            .to_string_lossy()
            .starts_with("keyward.db")
        {
            bytes.extend(std::fs::read(path).unwrap());
        }
    }
    assert!(!bytes.is_empty());
    assert!(memchr::memmem::find(&bytes, b"refresh-token-number").is_none());
}

#[tokio::test]
async fn an_answer_that_comes_after_the_deadline_is_not_lost() {
    let family: Arc<Mutex<Family>> = Arc::default();
    family.lock().slow = Duration::from_millis(1500);
    let issuer = issuer(Arc::clone(&family)).await;
    let upstream = Upstream::service(&["http/1.1"], |_| Box::pin(async { ok("fine") })).await;
    let files = folder();
    let harness = with(&issuer, &upstream, files.path(), "500ms")
        .start()
        .await;
    assert_eq!(status(&harness).await, 504, "nobody waits that long");
    family.lock().slow = Duration::ZERO;
    // The answer comes, and is stored, though nobody waits for it.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(status(&harness).await, 200);
    let due = ["refresh-token-number-0", "refresh-token-number-1"];
    assert_eq!(family.lock().uses, due);
    harness.finish().await;
}

#[tokio::test]
async fn another_token_in_the_file_begins_another_family() {
    let family: Arc<Mutex<Family>> = Arc::default();
    let issuer = issuer(Arc::clone(&family)).await;
    let upstream = Upstream::service(&["http/1.1"], |_| Box::pin(async { ok("fine") })).await;
    let files = folder();
    let harness = with(&issuer, &upstream, files.path(), "10s").start().await;
    assert_eq!(status(&harness).await, 200);
    harness.finish().await;
    // The issuer ends the family, and somebody signs in again.
    family.lock().newest = 40;
    let harness = with(&issuer, &upstream, files.path(), "10s").start().await;
    assert_eq!(status(&harness).await, 502);
    harness.finish().await;
    family.lock().dead = false;
    std::fs::write(files.path().join("rt"), "refresh-token-number-40").unwrap();
    let harness = with(&issuer, &upstream, files.path(), "10s").start().await;
    assert_eq!(status(&harness).await, 200);
    assert_eq!(
        family.lock().uses.last().unwrap(),
        "refresh-token-number-40"
    );
    harness.finish().await;
}
