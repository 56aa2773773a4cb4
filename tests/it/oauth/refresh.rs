//! Refresh tokens that are good once: whatever is lost on the way, the family is not.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http::{Response, StatusCode};
use parking_lot::Mutex;
use serde_json::json;

use super::jwt::field;
use super::peer::{self, Oidc};
use crate::harness::{Harness, Setup, TOKEN_B};
use crate::upstream::{AnyBody, Seen, Upstream, full, ok};
use crate::vault_server::Postgres;

/// An issuer that replaces the refresh token at each use, and ends the family when one is used again.
#[derive(Default)]
struct Family {
    newest: u32,
    dead: bool,
    /// How long it thinks.
    slow: Duration,
    /// A token that it does not know is refused, and that is all.
    lenient: bool,
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
                family.dead = !family.lenient;
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
    let store = format!("sqlite = \"{}/keyward.db\"", folder.display());
    on(&store, issuer, upstream, (folder, deadline))
}

fn on(
    store: &str,
    issuer: &Upstream,
    upstream: &Upstream,
    (folder, deadline): (&Path, &str),
) -> Setup {
    let path = folder.display();
    let text = format!(
        "[store]\n{store}\nkey = {{ file = \"{path}/store.key\" }}\n\
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
        let (one, two) = (harness.agent(), harness.agent_with(Some(TOKEN_B)));
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

/// As one that was brought back from its last backup does.
#[tokio::test]
async fn an_issuer_that_went_back_by_one_is_shown_the_one_before() {
    let family: Arc<Mutex<Family>> = Arc::default();
    family.lock().lenient = true;
    let issuer = issuer(Arc::clone(&family)).await;
    let upstream = Upstream::service(&["http/1.1"], |_| Box::pin(async { ok("fine") })).await;
    let files = folder();
    for went_back in [false, false, true, false] {
        if went_back {
            family.lock().newest -= 1;
        }
        let harness = with(&issuer, &upstream, files.path(), "10s").start().await;
        assert_eq!(status(&harness).await, 200);
        harness.finish().await;
    }
    let numbers = [0, 1, 2, 1, 2];
    let due: Vec<_> = numbers.map(|n| format!("refresh-token-number-{n}")).into();
    assert_eq!(family.lock().uses, due);
}

/// The store takes nothing for a while, and meanwhile another replica replaces the token that nobody could store: the
/// newer one is used, none is used twice, and nobody has to start anew.
#[tokio::test]
async fn a_family_that_another_has_carried_on_is_taken_up_where_it_stands() {
    use keyward::credential::Vessel as _;
    use keyward::store::{Settings, Store};

    let family: Arc<Mutex<Family>> = Arc::default();
    let issuer = issuer(Arc::clone(&family)).await;
    let upstream = Upstream::service(&["http/1.1"], |_| Box::pin(async { ok("fine") })).await;
    let files = folder();
    let harness = with(&issuer, &upstream, files.path(), "20s").start().await;
    assert_eq!(status(&harness).await, 200);

    let path = files.path().join("keyward.db");
    let at = sqlx::sqlite::SqliteConnectOptions::new().filename(&path);
    let file = sqlx::SqlitePool::connect_with(at).await.unwrap();
    let deaf = "CREATE TRIGGER deaf BEFORE UPDATE ON keyward_secret
        BEGIN SELECT RAISE(ABORT, 'the disk is full'); END";
    sqlx::query(deaf).execute(&file).await.unwrap();
    let other = harness.agent_with(Some(TOKEN_B));
    let answer = other.get("api.test:443", "/").await;
    assert_eq!((answer.status, answer.word()), (503, "store-unavailable"));
    assert_eq!(family.lock().newest, 2, "the issuer has given the next");

    let settings = Settings::Sqlite {
        path,
        key: keyward::credential::Source::File(files.path().join("store.key")),
    };
    let nothing = |_: &str| -> Option<std::ffi::OsString> { None };
    let replica = Store::open(&settings, &nothing).await.unwrap();
    let kept = replica.load("mail").await.unwrap().unwrap();
    let mut state: serde_json::Value = serde_json::from_slice(kept.secret.expose()).unwrap();
    assert_eq!(state["newest"], "refresh-token-number-1");
    sqlx::query("DROP TRIGGER deaf")
        .execute(&file)
        .await
        .unwrap();
    family.lock().newest = 3;
    state["before"] = state["newest"].take();
    state["newest"] = json!("refresh-token-number-3");
    let next = keyward::secret::Secret::from(state.to_string());
    let version = Some(kept.version);
    assert!(replica.replace("mail", version, &next).await.unwrap());

    let answer = other.get("api.test:443", "/").await;
    assert_eq!((answer.status, answer.word()), (200, ""));
    let due: Vec<_> = [0, 1, 3]
        .map(|n| format!("refresh-token-number-{n}"))
        .into();
    assert_eq!(family.lock().uses, due, "each one once");
    assert!(!family.lock().dead);
    harness.finish().await;
}

/// Two gateways, one store, one family: never do both use it at a time, and never does one use what the other replaced.
#[tokio::test(flavor = "multi_thread")]
async fn two_gateways_use_one_family_one_after_the_other() {
    let Some(postgres) = Postgres::start().await else {
        return;
    };
    let family: Arc<Mutex<Family>> = Arc::default();
    family.lock().slow = Duration::from_millis(200);
    let issuer = issuer(Arc::clone(&family)).await;
    let upstream = Upstream::service(&["http/1.1"], |_| Box::pin(async { ok("fine") })).await;
    let files = folder();
    let url = files.path().join("url");
    std::fs::write(&url, postgres.url()).unwrap();
    let store = format!("postgres = {{ file = \"{}\" }}", url.display());
    let mut gateways = Vec::new();
    for _ in 0..2 {
        let setup = on(&store, &issuer, &upstream, (files.path(), "20s"));
        gateways.push(setup.start().await);
    }
    let mut asking = tokio::task::JoinSet::new();
    for gateway in &gateways {
        for agent in [gateway.agent(), gateway.agent_with(Some(TOKEN_B))] {
            asking.spawn(async move { agent.get("api.test:443", "/").await.status });
        }
    }
    let answers = asking.join_all().await;
    assert_eq!(answers, [200; 4]);
    let due: Vec<_> = (0..4)
        .map(|n| format!("refresh-token-number-{n}"))
        .collect();
    assert_eq!(family.lock().uses, due, "each one once, in order");
    assert!(!family.lock().dead);
    for gateway in gateways {
        gateway.finish().await;
    }
}

/// The certified provider ends a family whose used token is shown again. Where the answer with the next one is lost,
/// nobody can help that: the agent is refused, and a person's new login begins another family without a restart.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_of_a_provider_that_forgives_nothing_needs_another_login() {
    let client = json!({
        "client_id": "agents",
        "client_secret": crate::canary::CANARY,
        "grant_types": ["authorization_code", "refresh_token"],
        "redirect_uris": ["https://client.test/back"],
        "response_types": ["code"],
    });
    let Some(oidc) = Oidc::start(json!([client]), None).await else {
        return;
    };
    let (lose, shown) = (
        Arc::new(Mutex::new(false)),
        Arc::new(Mutex::new(Vec::new())),
    );
    let between = {
        let (lose, shown, at) = (lose.clone(), shown.clone(), oidc.issuer.clone());
        Upstream::plain(move |seen: Seen| {
            let (lose, shown, at) = (lose.clone(), shown.clone(), at.clone());
            Box::pin(async move {
                shown.lock().push(field(&seen, "refresh_token"));
                let basic = format!("authorization: {}", seen.get("authorization").unwrap());
                let form = String::from_utf8(seen.body.to_vec()).unwrap();
                let (status, body) = peer::call(&at, "POST /token", &[&basic], &form).await;
                let lost = std::mem::take(&mut *lose.lock());
                let mut answer = Response::new(full(if lost { Vec::new() } else { body }));
                *answer.status_mut() = if lost {
                    StatusCode::BAD_GATEWAY
                } else {
                    StatusCode::from_u16(status).unwrap()
                };
                answer
            })
        })
        .await
    };
    let files = folder();
    let first = oidc.family("agents").await;
    std::fs::write(files.path().join("rt"), &first).unwrap();
    let upstream = oidc.service().await;
    let harness = with(&between, &upstream, files.path(), "10s").start().await;
    assert_eq!(status(&harness).await, 200, "{}", oidc.seen().await);
    assert_eq!(*shown.lock(), std::slice::from_ref(&first));

    *lose.lock() = true;
    let other = harness.agent_with(Some(TOKEN_B));
    let answer = other.get("api.test:443", "/").await;
    assert_eq!((answer.status, answer.word()), (502, "broker-refused"));
    let second = shown.lock()[1].clone();
    assert_eq!(
        shown.lock()[1..],
        [second.clone(), second, first],
        "the newest, once more since no answer came, and the one before"
    );
    let failures = oidc.seen().await["failures"].to_string();
    assert!(failures.contains("already used"), "{failures}");

    let anew = oidc.family("agents").await;
    std::fs::write(files.path().join("rt"), &anew).unwrap();
    let mut answer = other.get("api.test:443", "/").await;
    for _ in 0..50 {
        if answer.status == 200 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        answer = other.get("api.test:443", "/").await;
    }
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(shown.lock().contains(&anew));
    harness.finish().await;
}
