//! What a route asks for less than its credential may give, as issuers and services see it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use http::{Response, StatusCode};
use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::jwt::{field, form, rsa};
use super::peer::{Oidc, token_of};
use super::records;
use crate::agent::{body_request, request};
use crate::canary::CANARY;
use crate::harness::{Harness, Setup};
use crate::upstream::{AnyBody, Upstream, full, ok};

/// One request by each method; the statuses.
async fn by_each(harness: &Harness) -> [u16; 3] {
    let agent = harness.agent();
    let mut statuses = [0; 3];
    for (place, method) in ["GET", "POST", "HEAD"].into_iter().enumerate() {
        let mut sender = agent.h1("api.test:443").await;
        let asked = if method == "POST" {
            body_request("POST", "/v1", "api.test", "x")
        } else {
            request(method, "/v1", "api.test")
        };
        statuses[place] = agent.ask(&mut sender, asked).await.status;
    }
    statuses
}

/// Ends keyward; the outcomes of its revocations.
async fn revocations(mut harness: Harness) -> Vec<String> {
    let app = harness.take_app();
    let audit = Arc::clone(app.audit());
    app.shut_down(Duration::from_secs(2), "test").await;
    let lines = String::from_utf8(audit.lines().unwrap()).unwrap();
    let records = lines
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    records
        .filter(|record| record["event"] == "revoke")
        .map(|record| record["outcome"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn a_read_route_and_a_write_route_have_a_token_each_of_one_scope_each() {
    let clients = json!([{ "client_id": "agents", "client_secret": CANARY, "scope": "contacts.read contacts.write" }]);
    let Some(oidc) = Oidc::start(clients, None).await else {
        return;
    };
    let upstream = oidc.service().await;
    let text = format!(
        "[credential.crm.oauth-client-credentials]\nissuer = \"{}\"\nclient-id = \"agents\"\n\
         client-secret = {{ env = \"CANARY\" }}\nscopes = [\"contacts.read\", \"contacts.write\"]\n\
         [[route]]\nhosts = [\"api.test\"]\nmethods = [\"GET\", \"HEAD\"]\ncredential = \"crm\"\ninject = \"bearer\"\nscopes = [\"contacts.read\"]\n\
         [[route]]\nhosts = [\"api.test\"]\ncredential = \"crm\"\ninject = \"bearer\"\n",
        oidc.issuer
    );
    let harness = Setup::new(&text)
        .to("api.test:443", &upstream)
        .start()
        .await;
    assert_eq!(by_each(&harness).await, [200, 200, 200]);
    let tokens: Vec<String> = upstream.requests().iter().filter_map(token_of).collect();
    let [read, write, head] = &tokens[..] else {
        panic!("{tokens:?}");
    };
    assert_eq!((read == write, read == head), (false, true));
    let scope = |known: Value| {
        let mut words: Vec<String> = known["scope"]
            .as_str()
            .unwrap()
            .split(' ')
            .map(str::to_owned)
            .collect();
        words.sort();
        words
    };
    assert_eq!(scope(oidc.introspect(read).await), ["contacts.read"]);
    assert_eq!(
        scope(oidc.introspect(write).await),
        ["contacts.read", "contacts.write"]
    );
    assert_eq!(revocations(harness).await, ["revoked", "revoked"]);
    assert!(!oidc.is_live(read).await && !oidc.is_live(write).await);
}

fn said(status: u16, body: &Value) -> Response<AnyBody> {
    let mut response = Response::new(full(body.to_string()));
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    response
}

#[tokio::test]
async fn an_app_gives_each_route_a_token_of_its_own_repositories_and_permissions() {
    let tokens: Arc<Mutex<BTreeMap<String, Value>>> = Arc::default();
    let ended: Arc<Mutex<Vec<String>>> = Arc::default();
    let (given, over) = (Arc::clone(&tokens), Arc::clone(&ended));
    let issuer = Upstream::plain(move |seen| {
        let (given, over) = (Arc::clone(&given), Arc::clone(&over));
        Box::pin(async move {
            if seen.method == "DELETE" {
                let bearer = seen.get("authorization").unwrap();
                over.lock().push(bearer.replace("Bearer ", ""));
                return said(204, &json!({}));
            }
            let body: Value = serde_json::from_slice(&seen.body).unwrap();
            let mut given = given.lock();
            let token = format!("ghs_installation_token_{:016}", given.len());
            let end = Timestamp::now() + SignedDuration::from_mins(60);
            let answer = json!({ "token": token, "expires_at": end.to_string(), "permissions": body["permissions"] });
            given.insert(token, body);
            said(201, &answer)
        })
    })
    .await;
    let files = tempfile::tempdir().unwrap();
    let path = files.path().join("app.pem");
    std::fs::write(&path, rsa().serialize_pem()).unwrap();
    let upstream = Upstream::service(&["http/1.1"], |_| Box::pin(async { ok("fine") })).await;
    let text = format!(
        "[credential.gh.github-app]\napp-id = \"12345\"\ninstallation-id = 678\nprivate-key = {{ file = \"{}\" }}\n\
         api-url = \"http://{}\"\nrepositories = [\"web\", \"docs\"]\npermissions = {{ contents = \"write\", issues = \"write\" }}\n\
         [[route]]\nhosts = [\"api.test\"]\nmethods = [\"GET\"]\ncredential = \"gh\"\ninject = \"bearer\"\n\
         repositories = [\"docs\"]\npermissions = {{ contents = \"read\" }}\n\
         [[route]]\nhosts = [\"api.test\"]\nmethods = [\"POST\"]\ncredential = \"gh\"\ninject = \"bearer\"\n\
         [[route]]\nhosts = [\"api.test\"]\nmethods = [\"HEAD\"]\ncredential = \"gh\"\ninject = \"bearer\"\n\
         permissions = {{ contents = \"read\" }}\nrepositories = [\"docs\"]\n",
        path.display(),
        issuer.address
    );
    let harness = Setup::new(&text)
        .to("api.test:443", &upstream)
        .start()
        .await;
    assert_eq!(by_each(&harness).await, [200, 200, 200]);
    let sent: Vec<String> = upstream.requests().iter().filter_map(token_of).collect();
    let tokens = tokens.lock().clone();
    // Two that narrow the same way share a token.
    assert_eq!((tokens.len(), sent[0] == sent[2]), (2, true));
    assert_eq!(
        tokens[&sent[0]],
        json!({ "repositories": ["docs"], "permissions": { "contents": "read" } })
    );
    let whole = &tokens[&sent[1]];
    assert_eq!(
        whole["permissions"],
        json!({ "contents": "write", "issues": "write" })
    );
    assert_eq!(whole["repositories"].as_array().unwrap().len(), 2);
    assert_eq!(revocations(harness).await, ["revoked", "revoked"]);
    let mut ended = ended.lock().clone();
    ended.sort();
    assert_eq!(ended, tokens.into_keys().collect::<Vec<_>>());
}

/// STS as its reference has it, as far as it can be without policies of its own.
async fn sts(count: Arc<Mutex<usize>>) -> Upstream {
    Upstream::plain(move |seen| {
        let count = Arc::clone(&count);
        Box::pin(async move {
            assert_eq!(field(&seen, "Action"), "AssumeRole");
            let mut count = count.lock();
            *count += 1;
            let end = Timestamp::now() + SignedDuration::from_mins(15);
            ok(format!(
                "<AssumeRoleResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><AssumeRoleResult><Credentials>\
                 <AccessKeyId>ASIALEASE{count}</AccessKeyId><SecretAccessKey>secret-of-lease-{count}-0123456789</SecretAccessKey>\
                 <SessionToken>token-of-lease-{count}-0123456789</SessionToken><Expiration>{end}</Expiration>\
                 </Credentials></AssumeRoleResult></AssumeRoleResponse>"
            ))
        })
    })
    .await
}

#[tokio::test]
async fn a_routes_session_policy_makes_keys_of_its_own_which_end_by_themselves() {
    let issued = Arc::default();
    let sts = sts(Arc::clone(&issued)).await;
    let upstream = Upstream::service(&["http/1.1"], |_| Box::pin(async { ok("fine") })).await;
    let files = tempfile::tempdir().unwrap();
    let policy = json!({ "Version": "2012-10-17", "Statement": [
        { "Effect": "Allow", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::reports/*" } ] });
    let file = files.path().join("read.json");
    std::fs::write(&file, serde_json::to_string_pretty(&policy).unwrap()).unwrap();
    let signs = "credential = \"keys\"\ninject = { sigv4 = { service = \"s3\", region = \"eu-central-1\" } }";
    let text = format!(
        "[credential.keys.aws]\nregion = \"eu-central-1\"\nrole-arn = \"arn:aws:iam::123456789012:role/agent\"\nsts-url = \"http://{}\"\n\
         source = {{ static = {{ access-key-id = {{ env = \"AWS_ID\" }}, secret-access-key = {{ env = \"CANARY\" }} }} }}\n\
         [[route]]\nhosts = [\"api.test\"]\nmethods = [\"GET\", \"HEAD\"]\n{signs}\nsession-policy = \"{}\"\n\
         [[route]]\nhosts = [\"api.test\"]\n{signs}\n",
        sts.address,
        file.display()
    );
    let harness = Setup::new(&text)
        .to("api.test:443", &upstream)
        .start()
        .await;
    assert_eq!(by_each(&harness).await, [200, 200, 200]);
    let ids: Vec<String> = upstream
        .requests()
        .iter()
        .map(|seen| {
            let field = seen.get("authorization").unwrap();
            let (_, rest) = field.split_once("Credential=").unwrap();
            rest.split('/').next().unwrap().to_owned()
        })
        .collect();
    assert_eq!(ids, ["ASIALEASE1", "ASIALEASE2", "ASIALEASE1"]);
    let asked = sts.requests();
    assert_eq!(asked.len(), 2, "two leases, and one of them twice");
    let sent: Value = serde_json::from_str(&field(&asked[0], "Policy")).unwrap();
    assert_eq!(sent, policy);
    assert!(form(&asked[1]).iter().all(|(name, _)| name != "Policy"));
    let names: Vec<String> = asked
        .iter()
        .map(|seen| field(seen, "RoleSessionName"))
        .collect();
    assert!(
        names[0].starts_with("keyward-a-") && names[0] == names[1],
        "{names:?}"
    );
    assert_eq!(
        records(&harness, "issue"),
        [("issued".to_owned(), None), ("issued".to_owned(), None)]
    );
    // STS has no call that ends keys: the trail says that they were not revoked.
    assert_eq!(revocations(harness).await, ["unsupported", "unsupported"]);
    assert_eq!(sts.requests().len(), 2);
}
