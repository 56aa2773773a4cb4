//! The grants, against the certified OpenID provider: agent, keyward, and a service that introspects the token.

use rcgen::{CertificateParams, KeyPair};
use serde_json::json;

use super::jwt::{field, life};
use super::peer::{Oidc, call, token_of};
use super::{records, setup};
use crate::canary::{CANARY, OTHER};
use crate::upstream::{CA, Upstream, certificate};

/// Client credentials, as whom this table says, up to the service and back to the issuer's revocation.
async fn goes_through(oidc: &Oidc, lines: &str) {
    let upstream = oidc.service().await;
    let kind = format!(
        "[credential.crm.oauth-client-credentials]\n{lines}\nscopes = [\"contacts.read\"]\n"
    );
    let harness = setup(&kind, &upstream).start().await;
    let agent = harness.agent();
    for _ in 0..3 {
        let answer = agent.get("api.test:443", "/v1/contacts").await;
        assert_eq!(
            answer.status,
            200,
            "{lines}: {:?} {}",
            answer,
            oidc.seen().await
        );
        // The service answers with the token that it was sent.
        assert!(!answer.text().contains("contacts.read"));
    }
    let tokens: Vec<_> = upstream.requests().iter().filter_map(token_of).collect();
    assert_eq!(tokens.len(), 3);
    assert!(tokens.iter().all(|token| *token == tokens[0]), "one lease");
    let token = &tokens[0];
    let known = oidc.introspect(token).await;
    assert_eq!(
        (&known["active"], &known["scope"]),
        (&json!(true), &json!("contacts.read"))
    );
    assert_eq!(records(&harness, "issue"), [("issued".to_owned(), None)]);
    let metrics = harness.metrics().await;
    assert!(!metrics.contains(token.as_str()));
    harness.finish().await;
    assert!(!oidc.is_live(token).await, "{lines}: revoked at shutdown");
}

fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

#[tokio::test]
async fn a_client_with_a_secret_gets_a_token_that_ends_with_its_session() {
    let clients = json!([
        { "client_id": "agents:1", "client_secret": CANARY },
        {
            "client_id": "post",
            "client_secret": CANARY,
            "token_endpoint_auth_method": "client_secret_post",
        },
    ]);
    let Some(oidc) = Oidc::start(clients, None).await else {
        return;
    };
    let issuer = &oidc.issuer;
    goes_through(&oidc, &format!(
        "issuer = \"{issuer}\"\nclient-id = \"agents:1\"\nclient-secret = {{ env = \"CANARY\" }}"
    ))
    .await;
    goes_through(&oidc, &format!(
        "token-url = \"{issuer}/token\"\nrevocation-url = \"{issuer}/token/revocation\"\nclient-id = \"post\"\n\
         client-secret = {{ env = \"CANARY\" }}\nclient-auth = \"client-secret-post\""
    ))
    .await;
}

#[tokio::test]
async fn a_client_signs_a_jwt_that_is_good_once() {
    let key = KeyPair::generate().unwrap();
    let files = folder(&[("client.key", &key.serialize_pem())]);
    let clients = json!([{
        "client_id": "signs",
        "token_endpoint_auth_method": "private_key_jwt",
        "token_endpoint_auth_signing_alg": "ES256",
        "key": key.public_key_pem(),
    }]);
    let Some(oidc) = Oidc::start(clients, None).await else {
        return;
    };
    let path = files.path().join("client.key");
    // The provider refuses a `jti` that it has seen: issue and revocation each need one of their own.
    let issuer = &oidc.issuer;
    goes_through(&oidc, &format!(
        "issuer = \"{issuer}\"\nclient-id = \"signs\"\n\
         client-auth = {{ private-key-jwt = {{ key = {{ file = \"{}\" }}, alg = \"ES256\", kid = \"k1\" }} }}",
        path.display()
    ))
    .await;
    // And by token URL alone, with whom it is for said.
    goes_through(&oidc, &format!(
        "token-url = \"{issuer}/token\"\nrevocation-url = \"{issuer}/token/revocation\"\nclient-id = \"signs\"\n\
         client-auth = {{ private-key-jwt = {{ key = {{ file = \"{}\" }}, alg = \"ES256\", aud = \"{issuer}\" }} }}",
        path.display()
    ))
    .await;
}

#[tokio::test]
async fn a_client_shows_its_certificate() {
    let (server, server_key) = certificate(&["127.0.0.1"]);
    let (issued, issued_key) = certificate(&["agents.test"]);
    let own_key = KeyPair::generate().unwrap();
    let own = CertificateParams::new(vec!["own.test".to_owned()]).unwrap();
    let own = own.self_signed(&own_key).unwrap().pem();
    let files = folder(&[
        ("issued.pem", &issued),
        ("issued.key", &issued_key),
        ("own.pem", &own),
        ("own.key", &own_key.serialize_pem()),
    ]);
    let clients = json!([
        {
            "client_id": "issued",
            "token_endpoint_auth_method": "tls_client_auth",
            "tls_client_auth_san_dns": "agents.test",
        },
        {
            "client_id": "own",
            "token_endpoint_auth_method": "self_signed_tls_client_auth",
            "certificate": own,
        },
    ]);
    let tls = json!({ "cert": server, "key": server_key, "ca": CA.pem });
    let Some(oidc) = Oidc::start(clients, Some(tls)).await else {
        return;
    };
    let at = oidc.mutual.clone().unwrap();
    for (id, method) in [
        ("issued", "tls-client-auth"),
        ("own", "self-signed-tls-client-auth"),
    ] {
        let path = files.path().join(id);
        let path = path.display();
        goes_through(&oidc, &format!(
            "token-url = \"{at}/token\"\nrevocation-url = \"{at}/token/revocation\"\nclient-id = \"{id}\"\n\
             client-auth = {{ {method} = {{ cert = \"{path}.pem\", key = {{ file = \"{path}.key\" }} }} }}"
        ))
        .await;
    }
    // The certificate of another client is not good enough.
    let path = files.path().display();
    let upstream = oidc.service().await;
    let kind = format!(
        "[credential.crm.oauth-client-credentials]\ntoken-url = \"{at}/token\"\nclient-id = \"issued\"\n\
         client-auth = {{ tls-client-auth = {{ cert = \"{path}/own.pem\", key = {{ file = \"{path}/own.key\" }} }} }}"
    );
    let harness = setup(&kind, &upstream).start().await;
    let answer = harness.agent().get("api.test:443", "/").await;
    assert_eq!((answer.status, answer.word()), (502, "broker-refused"));
    assert_eq!(upstream.requests().len(), 0);
    harness.finish().await;
}

#[tokio::test]
async fn a_token_is_for_the_resource_that_was_named() {
    let clients = json!([{ "client_id": "agents", "client_secret": CANARY }]);
    let Some(oidc) = Oidc::start(clients, None).await else {
        return;
    };
    let upstream = oidc.service().await;
    let kind = format!(
        "[credential.crm.oauth-client-credentials]\nissuer = \"{}\"\nclient-id = \"agents\"\n\
         client-secret = {{ env = \"CANARY\" }}\nscopes = [\"contacts.read\"]\nresource = [\"https://api.test/v1\"]\n",
        oidc.issuer
    );
    let harness = setup(&kind, &upstream).start().await;
    assert_eq!(harness.agent().get("api.test:443", "/").await.status, 200);
    let token = token_of(&upstream.requests()[0]).unwrap();
    assert_eq!(oidc.introspect(&token).await["aud"], "https://api.test/v1");
    harness.finish().await;
}

#[tokio::test]
async fn a_live_token_is_exchanged_and_the_agent_is_told_nothing_of_a_dead_one() {
    let exchange = "urn:ietf:params:oauth:grant-type:token-exchange";
    let clients = json!([
        { "client_id": "tx", "client_secret": CANARY, "grant_types": [exchange] },
        { "client_id": "user", "client_secret": OTHER.replace(['+', '/', '='], "x") },
    ]);
    let Some(oidc) = Oidc::start(clients, None).await else {
        return;
    };
    let subject = oidc
        .token("user", &OTHER.replace(['+', '/', '='], "x"))
        .await;
    let files = folder(&[("subject", &subject), ("dead", "no-token-of-this-issuer")]);
    let kind = |file: &str| {
        format!(
            "[credential.crm.token-exchange]\ntoken-url = \"{issuer}/token\"\nrevocation-url = \"{issuer}/token/revocation\"\n\
             client-id = \"tx\"\nclient-secret = {{ env = \"CANARY\" }}\nsubject-token = {{ source = {{ file = \"{path}/{file}\" }} }}\n\
             subject-token-type = \"access_token\"\nactor-token = {{ source = {{ file = \"{path}/subject\" }} }}\n\
             audience = \"https://calendar.test\"\nresource = [\"https://calendar.test/v1\"]\nscopes = [\"contacts.read\"]\n",
            issuer = oidc.issuer,
            path = files.path().display()
        )
    };
    let upstream = oidc.service().await;
    let harness = setup(&kind("subject"), &upstream).start().await;
    assert_eq!(harness.agent().get("api.test:443", "/").await.status, 200);
    let token = token_of(&upstream.requests()[0]).unwrap();
    assert_ne!(token, subject);
    let seen = &oidc.seen().await["exchanged"][0];
    let urn = |last: &str| format!("urn:ietf:params:oauth:token-type:{last}");
    assert_eq!(seen["subject_token"], subject);
    assert_eq!(seen["subject_token_type"], urn("access_token"));
    assert_eq!(seen["actor_token"], subject);
    assert_eq!(seen["actor_token_type"], urn("jwt"));
    assert_eq!(seen["audience"], "https://calendar.test");
    assert_eq!(seen["resource"], "https://calendar.test/v1");
    assert_eq!(seen["scope"], "contacts.read");
    harness.finish().await;
    assert!(!oidc.is_live(&token).await, "revoked at shutdown");
    assert!(
        oidc.is_live(&subject).await,
        "the user's own token lives on"
    );

    let harness = setup(&kind("dead"), &upstream).start().await;
    let answer = harness.agent().get("api.test:443", "/").await;
    assert_eq!((answer.status, answer.word()), (502, "broker-refused"));
    assert!(
        !answer.text().contains("canary-of-the-issuer"),
        "{}",
        answer.text()
    );
    harness.finish().await;
}

#[tokio::test]
async fn a_token_for_a_user_needs_a_user() {
    // No issuer is asked: the port is closed, and would answer broker-unavailable.
    let upstream = Upstream::echo(&["http/1.1"]).await;
    let kind = "[credential.crm.token-exchange]\ntoken-url = \"http://127.0.0.1:1/token\"\nclient-id = \"tx\"\n\
                client-secret = { env = \"CANARY\" }\nsubject-token = \"user\"\n";
    let harness = setup(kind, &upstream).start().await;
    let answer = harness.agent().get("api.test:443", "/").await;
    assert_eq!((answer.status, answer.word()), (403, "user-required"));
    assert_eq!(upstream.requests().len(), 0);
    harness.finish().await;
}

#[tokio::test]
async fn an_agent_is_named_by_a_jwt_that_keyward_signs() {
    let issuer = Upstream::plain(|_| {
        let token = json!({ "access_token": "for-the-agent-0123456789", "token_type": "Bearer" });
        Box::pin(async move { crate::upstream::ok(token.to_string()) })
    })
    .await;
    let at = format!("http://{}/token", issuer.address);
    let upstream = Upstream::service(&["http/1.1"], |_| {
        Box::pin(async { crate::upstream::ok("fine") })
    })
    .await;
    let kind = format!(
        "[credential.crm.token-exchange]\ntoken-url = \"{at}\"\nclient-id = \"tx\"\n\
         client-secret = {{ env = \"CANARY\" }}\nsubject-token = \"agent\"\nactor-token = \"agent\"\n"
    );
    let harness = setup(&kind, &upstream).start().await;
    let agent = harness.agent();
    assert_eq!(agent.get("api.test:443", "/").await.status, 200);
    // With the keys that keyward publishes, as the issuer would.
    let proxy = format!("http://{}", agent.proxy);
    let (_, keys) = call(&proxy, "GET /.well-known/jwks.json", &[], "").await;
    let keys: jsonwebtoken::jwk::JwkSet = serde_json::from_slice(&keys).unwrap();
    let mut jtis = Vec::new();
    for name in ["subject_token", "actor_token"] {
        let seen = &issuer.requests()[0];
        assert_eq!(
            field(seen, &format!("{name}_type")),
            "urn:ietf:params:oauth:token-type:jwt"
        );
        let token = field(seen, name);
        let kid = jsonwebtoken::decode_header(&token).unwrap().kid.unwrap();
        let key = jsonwebtoken::DecodingKey::from_jwk(keys.find(&kid).unwrap()).unwrap();
        let mut rules = jsonwebtoken::Validation::new(jsonwebtoken::Algorithm::ES256);
        rules.set_audience(&[&at]);
        let read = jsonwebtoken::decode::<serde_json::Value>(&token, &key, &rules).unwrap();
        assert_eq!(read.claims["sub"], "a");
        assert_eq!(life(&read.claims), 60);
        jtis.push(read.claims["jti"].clone());
        // It is for the issuer alone: it opens no session here.
        let proxied = harness.agent_with(Some(&token));
        let (answer, _) = proxied.connect("api.test:443").await;
        assert_eq!(answer.status(), 407);
    }
    assert_ne!(jtis[0], jtis[1]);
    harness.finish().await;
}
