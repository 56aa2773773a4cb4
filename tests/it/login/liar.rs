//! A provider that gives what no good one does: nothing of it signs anybody in.

use std::collections::HashMap;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use keyward::app::people;
use keyward::config;
use keyward::login::{Fault, Poll, Provider, Returned, SignedIn};
use keyward::preset::Presets;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::super::trust::mint::{Pair, b64};
use super::super::upstream::{Upstream, full};
use super::browser::query;

struct Liar {
    pair: Pair,
    url: String,
    upstream: Upstream,
    metadata: Arc<Mutex<Value>>,
    answer: Arc<Mutex<(u16, Value)>>,
    /// Further lines of the login.
    lines: &'static str,
}

impl Liar {
    async fn start() -> Self {
        let pair = Pair::p256();
        let jwks = json!({ "keys": [pair.jwk("k1")] }).to_string();
        let metadata = Arc::new(Mutex::new(Value::Null));
        let answer = Arc::new(Mutex::new((200, Value::Null)));
        let (said, given) = (Arc::clone(&metadata), Arc::clone(&answer));
        let upstream = Upstream::plain(move |seen| {
            let (status, body) = match &*seen.uri {
                "/.well-known/openid-configuration" => (200, said.lock().to_string()),
                "/jwks" => (200, jwks.clone()),
                _ => {
                    let (status, body) = &*given.lock();
                    (*status, body.to_string())
                }
            };
            let response = http::Response::builder().status(status);
            Box::pin(async move { response.body(full(body)).unwrap() })
        })
        .await;
        let url = format!("http://{}", upstream.address);
        *metadata.lock() = json!({
            "issuer": url,
            "jwks_uri": format!("{url}/jwks"),
            "authorization_endpoint": format!("{url}/auth"),
            "token_endpoint": format!("{url}/token"),
            "device_authorization_endpoint": format!("{url}/device"),
            "authorization_response_iss_parameter_supported": true,
        });
        Self {
            pair,
            url,
            upstream,
            metadata,
            answer,
            lines: "",
        }
    }

    async fn provider(&self) -> Provider {
        let text = format!(
            "[login.corp.oidc]\nissuer = \"{}\"\nclient-id = \"keyward\"\n{}",
            self.url, self.lines
        );
        let folder = std::path::Path::new("/");
        let loaded = config::parse(&text, "test.toml", folder, &**Presets::shipped());
        let environment = Arc::new(HashMap::new());
        let mut all = people(&loaded.unwrap().config, &environment).await.unwrap();
        all.remove(0)
    }

    fn sign(&self, claims: &Value) -> String {
        let header = json!({"alg": "ES256", "kid": "k1", "typ": "JWT"});
        self.pair.token(&header, claims)
    }

    fn claims(&self, nonce: &str) -> Value {
        let now = jiff::Timestamp::now().as_second();
        json!({
            "iss": self.url, "sub": "alice", "aud": "keyward", "nonce": nonce, "iat": now, "exp": now + 300,
        })
    }

    /// A whole sign-in, whose ID token is made from what a good one would be; how it ends.
    async fn sign_in(&self, made: impl FnOnce(&Self, Value) -> Value) -> Result<SignedIn, Fault> {
        let provider = self.provider().await;
        let begun = provider.begin("http://127.0.0.1:1/callback").await?;
        let nonce = query(&begun.url, "nonce").unwrap();
        *self.answer.lock() = (200, made(self, self.claims(&nonce)));
        let mut back = form_urlencoded::Serializer::new(String::new());
        back.extend_pairs([("code", "c"), ("state", &begun.state), ("iss", &self.url)]);
        let returned = Returned::read(&back.finish()).unwrap();
        provider.finish(begun, &returned).await
    }

    fn asked(&self, path: &str) -> usize {
        let seen = self.upstream.requests();
        seen.iter().filter(|seen| seen.uri == path).count()
    }
}

fn token(id_token: &str) -> Value {
    json!({"access_token": "at", "token_type": "Bearer", "id_token": id_token})
}

fn hash(token: &str) -> String {
    b64(&digest(&SHA256, token.as_bytes()).as_ref()[..16])
}

#[tokio::test]
async fn an_id_token_that_is_not_of_this_sign_in_signs_nobody_in() {
    let liar = Liar::start().await;
    let good = liar.sign_in(|liar, mut claims| {
        claims["at_hash"] = json!(hash("at"));
        token(&liar.sign(&claims))
    });
    let good = good.await.unwrap();
    assert_eq!(
        (&*good.user.name, good.user.provider.as_str()),
        ("alice", "corp")
    );
    // The verifier, and nothing else that could not be checked, went along.
    let sent = liar.upstream.requests();
    let form: HashMap<String, String> = sent
        .iter()
        .find(|seen| seen.uri == "/token")
        .map(|seen| form_urlencoded::parse(&seen.body).into_owned().collect())
        .unwrap();
    assert_eq!(form["code_verifier"].len(), 43);
    assert_eq!(form["client_id"], "keyward");

    let now = jiff::Timestamp::now().as_second();
    for (name, value) in [
        ("nonce", json!("another")),
        ("nonce", Value::Null),
        ("aud", json!("another-client")),
        ("aud", json!(["keyward", "another-client"])),
        ("azp", json!("another-client")),
        ("iss", json!("https://evil.example")),
        ("exp", json!(now - 1)),
        ("exp", Value::Null),
        ("sub", json!("")),
        ("sub", json!("al\u{1b}[31mice")),
        ("at_hash", json!(hash("another"))),
        ("at_hash", json!(7)),
        ("iat", json!(now + 3600)),
    ] {
        let failed = liar.sign_in(|liar, mut claims| {
            claims[name] = value.clone();
            token(&liar.sign(&claims))
        });
        let failed = failed.await;
        assert!(
            matches!(failed, Err(Fault::Refused(_))),
            "{name} {value}: {failed:?}"
        );
    }
    let stranger = Pair::p256();
    for header in [
        json!({"alg": "none"}),
        json!({"alg": "HS256", "kid": "k1"}),
        json!({"alg": "ES256", "kid": "k1", "typ": "at+jwt"}),
        json!({"alg": "ES256", "kid": "k1"}),
    ] {
        let failed = liar
            .sign_in(|_, claims| token(&stranger.token(&header, &claims)))
            .await;
        assert!(
            matches!(failed, Err(Fault::Refused(_))),
            "{header}: {failed:?}"
        );
    }
    for answer in [
        json!({"access_token": "at", "token_type": "Bearer"}),
        json!({"id_token": 7}),
        json!({"error": "invalid_grant", "error_description": "canary"}),
        json!([]),
    ] {
        let failed = liar.sign_in(|_, _| answer.clone()).await.unwrap_err();
        assert!(
            matches!(failed, Fault::Refused(why) if !why.contains("canary")),
            "{answer}"
        );
    }
}

/// OpenID Connect Core 1.0 §5.7: who may write any address into an account is known by none of them.
#[tokio::test]
async fn an_email_names_a_person_only_where_the_provider_verified_it() {
    let mut liar = Liar::start().await;
    liar.lines = "user-claim = \"email\"\n";
    let with = async |verified: Option<Value>| {
        let signed_in = liar.sign_in(|liar, mut claims| {
            claims["email"] = json!("alice@example.com");
            if let Some(verified) = verified {
                claims["email_verified"] = verified;
            }
            token(&liar.sign(&claims))
        });
        signed_in.await
    };
    let good = with(Some(json!(true))).await.unwrap();
    assert_eq!(&*good.user.name, "alice@example.com");
    for verified in [
        None,
        Some(json!(false)),
        Some(json!("true")),
        Some(json!(1)),
    ] {
        let failed = with(verified.clone()).await;
        assert!(
            matches!(failed, Err(Fault::Refused(why)) if why.contains("email_verified")),
            "{verified:?}: {failed:?}"
        );
    }
}

#[tokio::test]
async fn a_code_of_another_provider_is_not_sent_to_this_one() {
    let liar = Liar::start().await;
    let provider = liar.provider().await;
    for (what, back) in [
        ("mix-up", "code=c&iss=https%3A%2F%2Fevil.example"),
        ("no issuer", "code=c"),
    ] {
        let begun = provider.begin("http://127.0.0.1:1/callback").await.unwrap();
        let back = format!("{back}&state={}", begun.state);
        let returned = Returned::read(&back).unwrap();
        let failed = provider.finish(begun, &returned).await;
        assert!(matches!(failed, Err(Fault::Refused(_))), "{what}");
    }
    let begun = provider.begin("http://127.0.0.1:1/callback").await.unwrap();
    let returned = Returned::read("code=c&state=forged").unwrap();
    assert!(provider.finish(begun, &returned).await.is_err());
    assert_eq!(liar.asked("/token"), 0, "no code left keyward");
}

#[tokio::test]
async fn metadata_of_another_issuer_begin_nothing() {
    let liar = Liar::start().await;
    let good = liar.metadata.lock().clone();
    for (name, value) in [
        ("issuer", json!("https://evil.example")),
        ("issuer", json!(format!("{}/", liar.url))),
        ("token_endpoint", json!("http://evil.example/token")),
        ("authorization_endpoint", json!("javascript:alert(1)")),
        ("authorization_endpoint", Value::Null),
    ] {
        let mut metadata = good.clone();
        metadata[name] = value.clone();
        *liar.metadata.lock() = metadata;
        let failed = liar
            .provider()
            .await
            .begin("http://127.0.0.1:1/callback")
            .await;
        assert!(matches!(failed, Err(Fault::Refused(_))), "{name} {value}");
    }
}

#[tokio::test]
async fn a_device_asks_as_often_as_it_may_and_no_longer() {
    let liar = Liar::start().await;
    let provider = liar.provider().await;
    let begun = |code: &str, uri: &str| {
        json!({
            "device_code": "dc", "user_code": code, "verification_uri": uri,
            "verification_uri_complete": "javascript:alert(1)", "expires_in": 600, "interval": 7,
        })
    };
    for (code, uri) in [
        ("A\u{1b}[2J", "https://id.example"),
        ("AB", "javascript:alert(1)"),
    ] {
        *liar.answer.lock() = (200, begun(code, uri));
        assert!(
            matches!(provider.device().await, Err(Fault::Refused(_))),
            "{code:?} {uri}"
        );
    }
    *liar.answer.lock() = (200, begun("ABCD", "https://id.example/device"));
    let mut device = provider.device().await.unwrap();
    assert_eq!((&*device.user_code, device.interval.as_secs()), ("ABCD", 7));
    assert_eq!(device.verification_uri_complete, None);
    let mut poll = async |status: u16, answer: Value| {
        *liar.answer.lock() = (status, answer);
        let polled = provider.poll(&mut device).await;
        (polled, device.interval.as_secs())
    };
    let pending = poll(400, json!({"error": "authorization_pending"})).await;
    assert!(matches!(pending, (Ok(Poll::Pending), 7)), "{pending:?}");
    let slower = poll(400, json!({"error": "slow_down"})).await;
    assert!(matches!(slower, (Ok(Poll::Pending), 12)), "{slower:?}");
    let down = poll(503, Value::Null).await;
    assert!(matches!(down, (Ok(Poll::Pending), 24)), "{down:?}");
    for error in ["access_denied", "expired_token", "invalid_grant"] {
        let over = poll(400, json!({ "error": error })).await.0;
        assert!(matches!(over, Err(Fault::Refused(_))), "{error}");
    }
    let done = poll(200, token(&liar.sign(&liar.claims("")))).await.0;
    assert!(matches!(done, Ok(Poll::Done(_))), "{done:?}");
}
