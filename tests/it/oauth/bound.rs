//! DPoP (RFC 9449): against the certified provider for the token, and a service that checks every proof.

use std::collections::HashSet;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use http::{Response, StatusCode};
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::peer::{Oidc, token_of};
use super::setup;
use crate::agent::{body_request, request};
use crate::canary::CANARY;
use crate::upstream::{AnyBody, Seen, Upstream, full, ok};

fn part(text: &str) -> Value {
    serde_json::from_slice(&BASE64URL.decode(text).unwrap()).unwrap()
}

/// What a resource server checks of a proof (RFC 9449 §4.3, §7.1): the nonce that it was made with, or what is wrong.
fn proven(seen: &Seen, used: &Mutex<HashSet<String>>) -> Result<(Option<String>, String), String> {
    let [proof] = &*seen.all("dpop") else {
        return Err(format!("{} proofs", seen.all("dpop").len()));
    };
    let authorization = seen.all("authorization");
    let token = authorization[0].strip_prefix("DPoP ").ok_or("not DPoP")?;
    let (message, signature) = proof.rsplit_once('.').ok_or("no JWT")?;
    let (header, claims) = message.split_once('.').ok_or("no JWT")?;
    let (header, claims) = (part(header), part(claims));
    if header["typ"] != "dpop+jwt" || header["alg"] != "ES256" {
        return Err(format!("{header}"));
    }
    let coordinate = |name: &str| {
        BASE64URL
            .decode(header["jwk"][name].as_str().unwrap())
            .unwrap()
    };
    let point = [vec![4], coordinate("x"), coordinate("y")].concat();
    aws_lc_rs::signature::UnparsedPublicKey::new(
        &aws_lc_rs::signature::ECDSA_P256_SHA256_FIXED,
        point,
    )
    .verify(message.as_bytes(), &BASE64URL.decode(signature).unwrap())
    .map_err(|_| "the signature")?;
    let path = seen.uri.split('?').next().unwrap();
    let path = path.strip_prefix("https://api.test").unwrap_or(path);
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, token.as_bytes());
    let wanted = json!([
        seen.method,
        format!("https://api.test{path}"),
        BASE64URL.encode(hash)
    ]);
    if json!([claims["htm"], claims["htu"], claims["ath"]]) != wanted {
        return Err(format!("{claims} is not {wanted}"));
    }
    let now = jiff::Timestamp::now().as_second();
    if (now - claims["iat"].as_i64().unwrap()).abs() > 60 {
        return Err("the time".to_owned());
    }
    if !used.lock().insert(claims["jti"].to_string()) {
        return Err("the jti again".to_owned());
    }
    // RFC 7638: what the token is bound to.
    let (x, y) = (
        header["jwk"]["x"].as_str().unwrap(),
        header["jwk"]["y"].as_str().unwrap(),
    );
    let text = format!("{{\"crv\":\"P-256\",\"kty\":\"EC\",\"x\":\"{x}\",\"y\":\"{y}\"}}");
    let thumb = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
    let nonce = claims["nonce"].as_str().map(str::to_owned);
    Ok((nonce, BASE64URL.encode(thumb)))
}

fn unauthorized(nonce: &str) -> Response<AnyBody> {
    let mut response = Response::new(full("a nonce is due"));
    *response.status_mut() = StatusCode::UNAUTHORIZED;
    let headers = response.headers_mut();
    headers.insert(
        "www-authenticate",
        "DPoP error=\"use_dpop_nonce\"".parse().unwrap(),
    );
    headers.insert("dpop-nonce", nonce.parse().unwrap());
    response
}

#[tokio::test]
async fn a_bound_token_goes_with_a_proof_for_each_request() {
    let clients = json!([{
        "client_id": "bound",
        "client_secret": CANARY,
        "dpop_bound_access_tokens": true,
    }]);
    let Some(oidc) = Oidc::start(clients, None).await else {
        return;
    };
    let wrong: Arc<Mutex<Vec<String>>> = Arc::default();
    let keys: Arc<Mutex<Vec<String>>> = Arc::default();
    let nonce: Arc<Mutex<String>> = Arc::new(Mutex::new("nonce-1".to_owned()));
    let (told, held, due) = (Arc::clone(&wrong), Arc::clone(&keys), Arc::clone(&nonce));
    let used: Arc<Mutex<HashSet<String>>> = Arc::default();
    let upstream = Upstream::service(&["h2", "http/1.1"], move |seen| {
        let answer = match proven(&seen, &used) {
            Ok((given, key)) => {
                held.lock().push(key);
                let due = due.lock().clone();
                if given.as_deref() == Some(&*due) {
                    ok("fine")
                } else {
                    unauthorized(&due)
                }
            }
            Err(error) => {
                told.lock().push(error);
                ok("wrong")
            }
        };
        Box::pin(async move { answer })
    })
    .await;
    let kind = format!(
        "[credential.crm.oauth-client-credentials]\nissuer = \"{}\"\nclient-id = \"bound\"\n\
         client-secret = {{ env = \"CANARY\" }}\nscopes = [\"contacts.read\"]\ndpop = true\n",
        oidc.issuer
    );
    let harness = setup(&kind, &upstream).start().await;
    let agent = harness.agent();
    let mut sender = agent.h1("api.test:443").await;
    // The first is sent twice: the nonce is the service's to give. The agent's own proof goes nowhere.
    let mut asked = request("GET", "/v1/contacts?page=2", "api.test");
    for (name, value) in [("dpop", "mine"), ("authorization", "DPoP mine")] {
        asked.headers_mut().insert(name, value.parse().unwrap());
    }
    let answer = agent.ask(&mut sender, asked).await;
    assert_eq!(
        (answer.status, &*answer.text()),
        (200, "fine"),
        "{:?}",
        wrong.lock()
    );
    assert_eq!(upstream.requests().len(), 2);
    // Later ones have it.
    for path in ["/v1/contacts", "/v1/%E2%82%AC"] {
        assert_eq!(agent.get("api.test:443", path).await.status, 200);
    }
    assert_eq!(upstream.requests().len(), 4);
    // A new nonce reaches a request with a body too late for that one, and in time for the next.
    "nonce-2".clone_into(&mut nonce.lock());
    let mut sender = agent.h1("api.test:443").await;
    let post = || body_request("POST", "/v1/contacts", "api.test", "hello");
    assert_eq!(agent.ask(&mut sender, post()).await.status, 401);
    assert_eq!(agent.ask(&mut sender, post()).await.status, 200);
    assert_eq!(*wrong.lock(), Vec::<String>::new());

    let requests = upstream.requests();
    let tokens: HashSet<_> = requests.iter().filter_map(token_of).collect();
    assert_eq!(tokens.len(), 1, "one lease");
    let token = tokens.into_iter().next().unwrap();
    let known = oidc.introspect(&token).await;
    assert_eq!(
        (&known["active"], &known["token_type"]),
        (&json!(true), &json!("DPoP"))
    );
    let keys: HashSet<_> = keys.lock().iter().cloned().collect();
    assert_eq!(
        keys.into_iter().collect::<Vec<_>>(),
        [known["cnf"]["jkt"].as_str().unwrap()]
    );
    harness.finish().await;
    assert!(!oidc.is_live(&token).await, "revoked at shutdown");
}

#[tokio::test]
async fn two_sessions_have_two_keys() {
    let clients = json!([{ "client_id": "bound", "client_secret": CANARY, "dpop_bound_access_tokens": true }]);
    let Some(oidc) = Oidc::start(clients, None).await else {
        return;
    };
    let keys: Arc<Mutex<HashSet<String>>> = Arc::default();
    let held = Arc::clone(&keys);
    let upstream = Upstream::service(&["http/1.1"], move |seen| {
        held.lock()
            .insert(proven(&seen, &Mutex::default()).unwrap().1);
        Box::pin(async { ok("fine") })
    })
    .await;
    let kind = format!(
        "[credential.crm.oauth-client-credentials]\nissuer = \"{}\"\nclient-id = \"bound\"\n\
         client-secret = {{ env = \"CANARY\" }}\ndpop = true\n",
        oidc.issuer
    );
    let harness = setup(&kind, &upstream).start().await;
    let other = harness.agent_with(Some(crate::harness::TOKEN_B));
    for agent in [harness.agent(), other] {
        assert_eq!(agent.get("api.test:443", "/").await.status, 200);
    }
    assert_eq!(keys.lock().len(), 2);
    harness.finish().await;
}

#[tokio::test]
async fn an_issuer_that_binds_nothing_is_not_believed() {
    let issuer = Upstream::plain(|_| {
        let token = json!({ "access_token": "tok-0123456789abcdef", "token_type": "Bearer" });
        Box::pin(async move { ok(token.to_string()) })
    })
    .await;
    let upstream = Upstream::echo(&["http/1.1"]).await;
    let kind = format!(
        "[credential.crm.oauth-client-credentials]\ntoken-url = \"http://{}/token\"\nclient-id = \"bound\"\n\
         client-secret = {{ env = \"CANARY\" }}\ndpop = true\n",
        issuer.address
    );
    let harness = setup(&kind, &upstream).start().await;
    let answer = harness.agent().get("api.test:443", "/").await;
    assert_eq!((answer.status, answer.word()), (502, "broker-refused"));
    assert_eq!(upstream.requests().len(), 0);
    harness.finish().await;
}
