//! Issuers that cannot be had on loopback, as their public documentation says they answer: Google, Salesforce, GitHub,
//! Entra ID. Signatures are verified, and what is wrong is answered as they would.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{Response, StatusCode};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::git;
use super::jwt::{field, form, life, rsa, verified};
use super::{records, setup};
use crate::canary::CANARY;
use crate::harness::Setup;
use crate::upstream::{AnyBody, Seen, Upstream, full, ok};

const BEARER: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";

fn said(status: u16, body: &Value) -> Response<AnyBody> {
    let mut response = Response::new(full(body.to_string()));
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    response
}

fn granted(token: &str) -> Response<AnyBody> {
    said(
        200,
        &json!({ "access_token": token, "token_type": "Bearer", "expires_in": 3599 }),
    )
}

/// One request of the agent; what the service and the issuer saw.
async fn through(kind: &str, issuer: &Upstream) -> (u16, Vec<Seen>, Vec<Seen>) {
    let upstream = Upstream::service(&["http/1.1"], |_| Box::pin(async { ok("fine") })).await;
    let harness = setup(kind, &upstream).start().await;
    let answer = harness.agent().get("api.test:443", "/v1").await;
    harness.finish().await;
    (answer.status, upstream.requests(), issuer.requests())
}

#[tokio::test]
async fn a_service_accounts_key_file_says_all_that_google_asks_for() {
    let key = Arc::new(rsa());
    let known = Arc::clone(&key);
    let issuer = Upstream::plain(move |seen| {
        let key = Arc::clone(&known);
        Box::pin(async move {
            let (header, claims) = verified(&field(&seen, "assertion"), &key);
            let at = format!("http://{}/token", seen.get("host").unwrap());
            let good = header.kid.as_deref() == Some("key-1")
                && claims["aud"] == at
                && claims["iss"] == "bot@p.iam.gserviceaccount.com"
                && life(&claims) <= 3600;
            if good && claims["scope"] == "https://www.googleapis.com/auth/bigquery" {
                granted("google-token-0123456789")
            } else {
                said(400, &json!({ "error": "invalid_grant" }))
            }
        })
    })
    .await;
    let files = tempfile::tempdir().unwrap();
    let path = files.path().join("sa.json");
    let account = json!({
        "type": "service_account",
        "client_email": "bot@p.iam.gserviceaccount.com",
        "private_key": key.serialize_pem(),
        "private_key_id": "key-1",
        "token_uri": format!("http://{}/token", issuer.address),
    });
    std::fs::write(&path, account.to_string()).unwrap();
    let kind = format!(
        "jwt-bearer = {{ service-account = {{ file = \"{}\" }}, scopes = [\"https://www.googleapis.com/auth/bigquery\"] }}\n",
        path.display()
    );
    let (status, sent, asked) = through(&kind, &issuer).await;
    assert_eq!(status, 200);
    assert_eq!(
        sent[0].all("authorization"),
        ["Bearer google-token-0123456789"]
    );
    assert_eq!(field(&asked[0], "grant_type"), BEARER);
    assert_eq!(form(&asked[0]).len(), 2, "the scope is a claim");

    // The key of another account signs nothing that is believed.
    let mut other = account.clone();
    other["client_email"] = "other@p.iam.gserviceaccount.com".into();
    std::fs::write(&path, other.to_string()).unwrap();
    let (status, sent, _) = through(&kind, &issuer).await;
    assert_eq!((status, sent.len()), (502, 0));
    // A file that sends the assertion away in the clear sends nothing.
    other["token_uri"] = "http://login.example.com/token".into();
    std::fs::write(&path, other.to_string()).unwrap();
    let before = issuer.requests().len();
    let (status, sent, asked) = through(&kind, &issuer).await;
    assert_eq!((status, sent.len(), asked.len()), (502, 0, before));
}

#[tokio::test]
async fn salesforce_is_asked_with_its_own_claims() {
    let key = Arc::new(rsa());
    let known = Arc::clone(&key);
    let issuer = Upstream::plain(move |seen| {
        let key = Arc::clone(&known);
        Box::pin(async move {
            let (_, claims) = verified(&field(&seen, "assertion"), &key);
            assert_eq!(claims["iss"], "CLIENT-ID");
            assert_eq!(claims["sub"], "bot@example.com");
            assert_eq!(claims["aud"], "https://login.salesforce.com");
            assert!(life(&claims) <= 180);
            // Salesforce says nothing of a life.
            said(200, &json!({ "access_token": "00Dxx!salesforce-token", "token_type": "Bearer", "instance_url": "https://x" }))
        })
    })
    .await;
    let files = tempfile::tempdir().unwrap();
    let path = files.path().join("sf.key");
    std::fs::write(&path, key.serialize_pem()).unwrap();
    let kind = format!(
        "jwt-bearer = {{ token-url = \"http://{}/token\", iss = \"CLIENT-ID\", sub = \"bot@example.com\", \
         aud = \"https://login.salesforce.com\", key = {{ file = \"{}\" }}, alg = \"RS256\" }}\n",
        issuer.address,
        path.display()
    );
    let (status, sent, _) = through(&kind, &issuer).await;
    assert_eq!(status, 200);
    assert_eq!(
        sent[0].all("authorization"),
        ["Bearer 00Dxx!salesforce-token"]
    );
}

#[tokio::test]
async fn a_foreign_token_becomes_a_service_accounts() {
    let issuer = Upstream::plain(|seen| {
        Box::pin(async move {
            match &*seen.uri {
                "/v1/token" => {
                    let due = [
                        ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
                        ("audience", "//iam.googleapis.com/projects/1/x"),
                        ("subject_token", CANARY),
                        ("subject_token_type", "urn:ietf:params:oauth:token-type:jwt"),
                        ("requested_token_type", "urn:ietf:params:oauth:token-type:access_token"),
                        ("scope", "https://www.googleapis.com/auth/cloud-platform"),
                    ];
                    for (name, value) in due {
                        assert_eq!(field(&seen, name), value);
                    }
                    granted("federated-token-0123456789")
                }
                "/v1/projects/-/serviceAccounts/bot@p.iam.gserviceaccount.com:generateAccessToken" => {
                    assert_eq!(seen.all("authorization"), ["Bearer federated-token-0123456789"]);
                    let body: Value = serde_json::from_slice(&seen.body).unwrap();
                    assert_eq!(body, json!({ "scope": ["https://www.googleapis.com/auth/bigquery"] }));
                    let end = Timestamp::now() + SignedDuration::from_mins(60);
                    said(200, &json!({ "accessToken": "account-token-0123456789", "expireTime": end.to_string() }))
                }
                _ => said(404, &json!({})),
            }
        })
    })
    .await;
    let kind = format!(
        "[credential.crm.jwt-bearer]\nworkload-identity = {{ audience = \"//iam.googleapis.com/projects/1/x\", \
         subject-token = {{ env = \"CANARY\" }}, service-account = \"bot@p.iam.gserviceaccount.com\" }}\n\
         sts-url = \"http://{at}/v1/token\"\niam-url = \"http://{at}\"\n\
         scopes = [\"https://www.googleapis.com/auth/bigquery\"]\n",
        at = issuer.address
    );
    let (status, sent, asked) = through(&kind, &issuer).await;
    assert_eq!((status, asked.len()), (200, 2));
    assert_eq!(
        sent[0].all("authorization"),
        ["Bearer account-token-0123456789"]
    );
}

/// GitHub as its REST documentation has it: an App proves itself, a token of its installation ends itself.
async fn github(key: Arc<rcgen::KeyPair>, ended: Arc<AtomicBool>) -> Upstream {
    Upstream::plain(move |seen| {
        let (key, ended) = (Arc::clone(&key), Arc::clone(&ended));
        Box::pin(async move {
            assert!(seen.get("user-agent").is_some(), "GitHub serves nobody without one");
            let bearer = seen.get("authorization").unwrap();
            let bearer = bearer.strip_prefix("Bearer ").unwrap();
            match (&*seen.method, &*seen.uri) {
                ("POST", "/app/installations/678/access_tokens") => {
                    let (_, claims) = verified(bearer, &key);
                    assert_eq!(claims["iss"], "12345");
                    assert!(life(&claims) <= 600, "ten minutes at most");
                    let body: Value = serde_json::from_slice(&seen.body).unwrap();
                    assert_eq!(body, json!({ "repositories": ["web"], "permissions": { "contents": "write" } }));
                    let end = Timestamp::now() + SignedDuration::from_mins(60);
                    said(201, &json!({ "token": TOKEN, "expires_at": end.to_string(), "permissions": { "contents": "write" } }))
                }
                ("DELETE", "/installation/token") => {
                    assert_eq!(bearer, TOKEN);
                    ended.store(true, Ordering::SeqCst);
                    said(204, &json!({}))
                }
                _ => said(404, &json!({})),
            }
        })
    })
    .await
}

const TOKEN: &str = "ghs_installation_token_0123456789";

fn app(issuer: &Upstream, path: &std::path::Path) -> String {
    format!(
        "[credential.gh.github-app]\napp-id = \"12345\"\ninstallation-id = 678\nprivate-key = {{ file = \"{}\" }}\n\
         api-url = \"http://{}\"\nrepositories = [\"web\"]\npermissions = {{ contents = \"write\" }}\n",
        path.display(),
        issuer.address
    )
}

#[tokio::test]
async fn an_installation_token_serves_api_and_git_and_ends_itself() {
    let (key, ended) = (Arc::new(rsa()), Arc::new(AtomicBool::new(false)));
    let issuer = github(Arc::clone(&key), Arc::clone(&ended)).await;
    let files = tempfile::tempdir().unwrap();
    let path = files.path().join("app.pem");
    std::fs::write(&path, key.serialize_pem()).unwrap();
    let upstream = Upstream::service(&["http/1.1"], |_| Box::pin(async { ok("fine") })).await;
    let routes = format!(
        "{}[[route]]\nhosts = [\"api.test\"]\ncredential = \"gh\"\ninject = \"bearer\"\n\
         [[route]]\nhosts = [\"other.test\"]\ncredential = \"gh\"\ninject = {{ basic = \"x-access-token\" }}\n\
         [[route]]\nhosts = [\"plain.test\"]\ncredential = \"gh\"\ninject = {{ basic = \"\" }}\n",
        app(&issuer, &path)
    );
    let harness = Setup::new(&routes)
        .to("api.test:443", &upstream)
        .to("other.test:443", &upstream)
        .to("plain.test:443", &upstream)
        .start()
        .await;
    let agent = harness.agent();
    for host in ["api.test:443", "other.test:443", "plain.test:443"] {
        assert_eq!(agent.get(host, "/").await.status, 200, "{host}");
    }
    let basic = format!(
        "Basic {}",
        STANDARD.encode(format!("x-access-token:{TOKEN}"))
    );
    let seen: Vec<_> = upstream
        .requests()
        .iter()
        .filter_map(|seen| seen.get("authorization"))
        .collect();
    assert_eq!(seen, [format!("Bearer {TOKEN}"), basic.clone(), basic]);
    assert_eq!(issuer.requests().len(), 1, "one lease");
    assert_eq!(records(&harness, "issue"), [("issued".to_owned(), None)]);
    harness.finish().await;
    assert!(ended.load(Ordering::SeqCst), "revoked at shutdown");
}

#[tokio::test]
async fn entra_id_is_asked_by_secret_by_a_foreign_token_and_as_the_machine() {
    let issuer = Upstream::plain(|seen| {
        Box::pin(async move {
            let host = seen.get("host").unwrap();
            let machine = "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https%3A%2F%2Fgraph.microsoft.com&client_id=c-1";
            if seen.uri == machine {
                // Numbers are text there.
                let good = seen.get("metadata").as_deref() == Some("true");
                let token = json!({ "access_token": format!("machine-{CANARY}"), "expires_in": "3599", "token_type": "Bearer" });
                return if good { said(200, &token) } else { said(400, &json!({})) };
            }
            assert_eq!(seen.uri, "/contoso.example/oauth2/v2.0/token", "{host}");
            assert_eq!(field(&seen, "grant_type"), "client_credentials");
            assert_eq!(field(&seen, "client_id"), "c-1");
            assert_eq!(field(&seen, "scope"), "https://graph.microsoft.com/.default");
            let fields = form(&seen);
            if fields.iter().any(|(name, _)| name == "client_assertion") {
                assert_eq!(field(&seen, "client_assertion"), CANARY);
                assert_eq!(
                    field(&seen, "client_assertion_type"),
                    "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
                );
                assert!(fields.iter().all(|(name, _)| name != "client_secret"));
            } else {
                assert_eq!(field(&seen, "client_secret"), CANARY);
            }
            granted("entra-token-0123456789")
        })
    })
    .await;
    let at = issuer.address;
    let client = "tenant = \"contoso.example\"\nclient-id = \"c-1\"";
    let scopes = "scopes = [\"https://graph.microsoft.com/.default\"]";
    for (login, token) in [
        (
            format!(
                "{client}\nlogin = {{ client-secret = {{ env = \"CANARY\" }} }}\nauthority = \"http://{at}\""
            ),
            "entra-token-0123456789".to_owned(),
        ),
        (
            format!(
                "{client}\nlogin = {{ federated = {{ env = \"CANARY\" }} }}\nauthority = \"http://{at}\""
            ),
            "entra-token-0123456789".to_owned(),
        ),
        (
            format!(
                "client-id = \"c-1\"\nlogin = \"managed-identity\"\nimds-url = \"http://{at}\""
            ),
            format!("machine-{CANARY}"),
        ),
    ] {
        let kind = format!("[credential.crm.azure]\n{login}\n{scopes}\n");
        let (status, sent, _) = through(&kind, &issuer).await;
        assert_eq!(status, 200, "{login}");
        assert_eq!(sent[0].all("authorization"), [format!("Bearer {token}")]);
    }
}

#[tokio::test]
async fn git_clones_with_an_installation_token() {
    let key = Arc::new(rsa());
    let issuer = github(Arc::clone(&key), Arc::default()).await;
    let files = tempfile::tempdir().unwrap();
    let path = files.path().join("app.pem");
    std::fs::write(&path, key.serialize_pem()).unwrap();
    let service = git::service(files.path(), &format!("x-access-token:{TOKEN}")).await;
    let routes = format!(
        "{}[[route]]\nhosts = [\"api.test\"]\ncredential = \"gh\"\ninject = {{ basic = \"x-access-token\" }}\n",
        app(&issuer, &path)
    );
    let setup = Setup::new(&routes).to("api.test:443", &service);
    let harness = setup.start().await;
    let (done, said) = git::clone(&harness, files.path(), "https://api.test/web.git").await;
    assert!(done, "{said}");
    assert!(!said.contains(TOKEN), "{said}");
    let read = std::fs::read_to_string(files.path().join("cloned/readme")).unwrap();
    assert_eq!(read, "hello\n");
    harness.finish().await;
    // The same repository is closed to whoever comes without keyward's token.
    let open = Setup::new("[[route]]\nhosts = [\"api.test\"]\n").to("api.test:443", &service);
    let harness = open.start().await;
    std::fs::remove_dir_all(files.path().join("cloned")).unwrap();
    let (done, said) = git::clone(&harness, files.path(), "https://api.test/web.git").await;
    assert!(!done, "{said}");
    harness.finish().await;
}
