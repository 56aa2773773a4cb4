//! `[trust.NAME.jwt]`: tokens of an issuer, its keys as they rotate and vanish, and the list of attacks on JWTs.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::hmac;
use aws_lc_rs::signature::KeyPair as _;
use keyward::identity::{AttestError, TokenType};
use serde_json::{Value, json};

use super::super::agent::request;
use super::super::harness::{BEARER, Setup, TOKEN_A};
use super::super::upstream::Upstream;
use super::issuer::Issuer;
use super::mint::{Pair, b64};
use super::{NOW, Provider};

const SUBJECT: &str = "repo:acme/app:ref:refs/heads/main";

fn table(issuer: &str) -> String {
    format!(
        "agent = {{ map = {{ \"repo:acme/app:*\" = \"a\", \"repo:acme/*\" = \"b\" }} }}\n\
         [trust.t.jwt]\nissuer = \"{issuer}\"\naudience = [\"keyward\", \"https://kw.example\"]\n\
         claims = {{ environment = [\"production\", \"staging\"] }}\n"
    )
}

fn claims(issuer: &str) -> Value {
    json!({
        "iss": issuer, "sub": SUBJECT, "aud": "keyward", "exp": NOW + 300, "iat": NOW - 5,
        "nbf": NOW - 5, "environment": "production",
    })
}

/// The claims with one member changed; `null` takes it away.
fn with(issuer: &str, name: &str, value: Value) -> Value {
    let mut claims = claims(issuer);
    let members = claims.as_object_mut().unwrap();
    match value {
        Value::Null => members.shift_remove(name),
        value => members.insert(name.to_owned(), value),
    };
    claims
}

/// The header with these members put in.
fn head(extra: Value) -> Value {
    let mut header = json!({"alg": "RS256", "kid": "k1", "typ": "JWT"});
    let Value::Object(extra) = extra else {
        unreachable!()
    };
    for (name, value) in extra {
        header[name] = value;
    }
    header
}

struct World {
    pair: Pair,
    issuer: Issuer,
    provider: Provider,
}

impl World {
    async fn new() -> Self {
        let pair = Pair::rsa();
        let issuer = Issuer::start(vec![pair.jwk("k1")]).await;
        let provider = Provider::new(&table(&issuer.url));
        Self {
            pair,
            issuer,
            provider,
        }
    }

    fn token(&self, claims: &Value) -> String {
        self.pair
            .token(&json!({"alg": "RS256", "kid": "k1", "typ": "JWT"}), claims)
    }

    async fn refuses(&self, what: &str, token: &str) {
        let shown = self.provider.show(token).await;
        assert_eq!(shown, Err(AttestError::Bad), "{what}");
    }
}

#[tokio::test]
async fn a_token_of_the_issuer_is_the_agent_that_the_map_names() {
    let world = World::new().await;
    let url = &world.issuer.url;
    let attested = world
        .provider
        .show(&world.token(&claims(url)))
        .await
        .unwrap()
        .unwrap();
    assert_eq!((attested.agent.as_str(), &*attested.trust), ("a", "t"));
    assert_eq!(attested.expires.unwrap().as_second(), NOW + 300);
    assert!(attested.evidence.is_some());
    let other = world.token(&with(url, "sub", json!("repo:acme/web:ref")));
    assert_eq!(world.provider.agent(&other).await, "b");
    // An audience among several, and a claim that is another of the list.
    let mut wide = with(url, "aud", json!(["other", "https://kw.example"]));
    wide["environment"] = json!("staging");
    assert_eq!(world.provider.agent(&world.token(&wide)).await, "a");

    // Not this table's: another issuer's token, a static token, a caller's identity of AWS.
    let foreign = world.token(&claims("https://other.example"));
    assert_eq!(world.provider.show(&foreign).await, Ok(None));
    assert_eq!(
        world.provider.show("static-token-0123456789").await,
        Ok(None)
    );
    let own = world.token(&claims(url));
    let shown = world
        .provider
        .show_as(&own, TokenType::AwsCallerIdentity)
        .await;
    assert_eq!(shown, Ok(None));
    assert_eq!(world.issuer.fetches(), 1, "one fetch for all");
}

#[tokio::test]
async fn each_algorithm_goes_with_the_keys_of_its_own_type() {
    let pairs = [
        ("RS256", Pair::rsa()),
        ("PS256", Pair::rsa()),
        ("ES256", Pair::p256()),
        ("ES384", Pair::p384()),
        ("EdDSA", Pair::ed25519()),
    ];
    let keys = pairs.iter().map(|(alg, pair)| pair.jwk(alg)).collect();
    let issuer = Issuer::start(keys).await;
    let provider = Provider::new(&table(&issuer.url));
    for (alg, pair) in &pairs {
        for (kid, _) in &pairs {
            let token = pair.token(&json!({"alg": alg, "kid": kid}), &claims(&issuer.url));
            let shown = provider.show(&token).await;
            assert_eq!(shown.is_ok(), alg == kid, "{alg} with the key of {kid}");
        }
    }
    // RS512 is not in the list, though the key could verify it.
    let token = pairs[0].1.token(
        &json!({"alg": "RS512", "kid": "RS256"}),
        &claims(&issuer.url),
    );
    assert_eq!(provider.show(&token).await, Err(AttestError::Bad));
}

/// ID-05, ID-08: headers that ask for more than a signature by a key of the issuer.
#[tokio::test]
async fn headers_that_ask_for_something_else_are_refused() {
    let world = World::new().await;
    let (url, enemy) = (world.issuer.url.clone(), Issuer::start(vec![]).await);
    let good = claims(&url);
    assert_eq!(
        world.provider.agent(&world.token(&good)).await,
        "a",
        "the token itself is good"
    );

    for (what, header) in [
        ("crit", head(json!({"crit": ["b64"], "b64": false}))),
        ("crit that is empty", head(json!({"crit": []}))),
        ("crit that is null", head(json!({"crit": null}))),
        ("crit of what is known", head(json!({"crit": ["kid"]}))),
        ("b64", head(json!({"b64": true}))),
        ("enc", head(json!({"enc": "A256GCM"}))),
        ("a security event", head(json!({"typ": "secevent+jwt"}))),
        ("a type with parameters", head(json!({"typ": "jwt; x=y"}))),
        ("a kid that is null", head(json!({"kid": null}))),
        ("zip", head(json!({"zip": "DEF"}))),
        ("a logout token", head(json!({"typ": "logout+jwt"}))),
        ("a proof of possession", head(json!({"typ": "dpop+jwt"}))),
        ("a type that is no text", head(json!({"typ": 1}))),
        ("a kid that is a list", head(json!({"kid": ["k1"]}))),
        (
            "an algorithm that is a list",
            head(json!({"alg": ["RS256"]})),
        ),
        ("an algorithm in lower case", head(json!({"alg": "rs256"}))),
    ] {
        world.refuses(what, &world.pair.token(&header, &good)).await;
    }
    for (what, header) in [
        ("a kid with a line", head(json!({"kid": "k1\n"}))),
        ("a kid that begins so", head(json!({"kid": "k1\u{0}"}))),
        ("a kid in capitals", head(json!({"kid": "K1"}))),
        ("an empty kid", head(json!({"kid": ""}))),
        (
            "a kid that is a path",
            head(json!({"kid": "../../../dev/null"})),
        ),
        (
            "a kid that is SQL",
            head(json!({"kid": "x' UNION SELECT 'k"})),
        ),
        (
            "a kid that is a URL",
            head(json!({"kid": format!("{}/jwks", enemy.url)})),
        ),
    ] {
        // Long enough after the last that it is looked for.
        world.provider.clock.advance(Duration::from_secs(11));
        let fetches = world.issuer.fetches();
        world.refuses(what, &world.pair.token(&header, &good)).await;
        assert_eq!(world.issuer.fetches(), fetches + 1, "{what}");
    }
    for typ in [
        "jwt",
        "JWT",
        "at+JWT",
        "application/jwt",
        "application/at+jwt",
    ] {
        let token = world.pair.token(&head(json!({"typ": typ})), &good);
        assert_eq!(world.provider.agent(&token).await, "a", "{typ}");
    }
    for (what, value) in [("none", "none"), ("None", "None"), ("no", "")] {
        let parts = format!(
            "{}.{}",
            b64(head(json!({"alg": value})).to_string()),
            b64(good.to_string())
        );
        world.refuses(what, &format!("{parts}.")).await;
        world.refuses(what, &format!("{parts}.{}", b64("x"))).await;
    }
}

/// ID-03, ID-05: keys that are no secrets, and keys that the token itself brings.
#[tokio::test]
async fn a_token_has_no_say_in_which_key_it_is_checked_with() {
    let world = World::new().await;
    let (url, enemy) = (world.issuer.url.clone(), Issuer::start(vec![]).await);
    let good = claims(&url);
    // HS256 with the public key as the secret, in each form that a library might take for one.
    let Pair::Rsa(rsa) = &world.pair else {
        unreachable!()
    };
    let der = rsa.public_key().as_der().unwrap();
    let pem = rcgen::PublicKeyData::subject_public_key_info(&rcgen::KeyPair::generate().unwrap());
    let secrets = [
        der.as_ref().to_vec(),
        rsa.public_key().as_ref().to_vec(),
        world.pair.jwk("k1").to_string().into_bytes(),
        world.pair.jwk("k1")["n"]
            .as_str()
            .unwrap()
            .as_bytes()
            .to_vec(),
        pem,
    ];
    for secret in secrets {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &secret);
        let parts = format!(
            "{}.{}",
            b64(head(json!({"alg": "HS256"})).to_string()),
            b64(good.to_string())
        );
        let tag = hmac::sign(&key, parts.as_bytes());
        world
            .refuses(
                "HS256 with the public key",
                &format!("{parts}.{}", b64(tag)),
            )
            .await;
    }

    // A key that the token brings along, or says where to get.
    let own = Pair::rsa();
    for (what, header) in [
        ("jwk", head(json!({"jwk": own.jwk("k1")}))),
        ("jku", head(json!({"jku": format!("{}/jwks", enemy.url)}))),
        (
            "x5u",
            head(json!({"x5u": format!("{}/cert.pem", enemy.url)})),
        ),
        ("x5c", head(json!({"x5c": ["MIIB"]}))),
        ("another's key", head(json!({}))),
    ] {
        world.refuses(what, &own.token(&header, &good)).await;
    }
    assert_eq!(
        enemy.connections(),
        0,
        "nobody called where the token pointed"
    );
}

/// ID-06, ID-08: claims of another type, of another time, for another audience.
#[tokio::test]
async fn claims_are_what_they_must_be_or_the_token_is_refused() {
    let world = World::new().await;
    let url = world.issuer.url.clone();
    let date = |seconds: i64| json!(NOW + seconds);
    for (name, value) in [
        ("aud", Value::Null),
        ("aud", json!("other")),
        ("aud", json!("Keyward")),
        ("aud", json!("keyward/")),
        ("aud", json!([])),
        ("aud", json!({"keyward": true})),
        ("aud", json!(["keyward", {"x": 1}])),
        ("aud", json!([["keyward"]])),
        ("aud", json!(true)),
        ("aud", json!(["keyward", null])),
        ("aud", json!(["keyward", ["keyward"]])),
        ("aud", json!("keyward\u{0}")),
        ("aud", json!("keyward,other")),
        ("aud", json!("keyward other")),
        ("exp", Value::Null),
        ("exp", date(-60)),
        ("exp", json!("9999999999")),
        ("exp", json!(-1)),
        ("exp", json!(1e300)),
        ("exp", json!([NOW + 300])),
        ("exp", json!(true)),
        ("exp", json!({})),
        ("exp", json!("NaN")),
        ("exp", json!(NOW - 6)),
        ("exp", json!(253_402_300_800_i64)),
        ("exp", json!(u64::MAX)),
        ("exp", json!((NOW + 300) * 1000)),
        ("nbf", date(120)),
        ("nbf", json!("0")),
        ("nbf", json!(false)),
        ("nbf", json!(1e15)),
        ("iat", date(3600)),
        ("iat", json!("now")),
        ("iat", json!(-1)),
        ("sub", Value::Null),
        ("sub", json!([SUBJECT])),
        ("sub", json!("")),
        ("sub", json!("repo:evil/app:x")),
        ("sub", json!("xrepo:acme/app:y")),
        ("sub", json!("repo:acme/app:\u{0}x")),
        ("environment", Value::Null),
        ("environment", json!("development")),
        ("environment", json!(["production"])),
        ("environment", json!({"production": 1})),
        ("typ", json!("Refresh")),
        (
            "events",
            json!({"http://schemas.openid.net/event/backchannel-logout": {}}),
        ),
    ] {
        let mut changed = with(&url, name, value.clone());
        if value.is_null() {
            // What is null is not what is left out, and neither will do.
            let members = changed.as_object_mut().unwrap();
            members.insert(name.to_owned(), Value::Null);
            world
                .refuses(&format!("{name} = null"), &world.token(&changed))
                .await;
            changed = with(&url, name, Value::Null);
        }
        world
            .refuses(&format!("{name} = {value}"), &world.token(&changed))
            .await;
    }
}

/// ID-11: tokens that are cut, glued, nested or huge.
#[tokio::test]
async fn a_token_that_is_not_whole_is_refused() {
    let world = World::new().await;
    let url = world.issuer.url.clone();
    let good = claims(&url);
    // The signature: empty, cut, of zeros, of other claims, with padding; a name twice; three parts and more.
    let token = world.token(&good);
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let (header, payload) = signed.split_once('.').unwrap();
    let raised = b64(with(&url, "sub", json!("repo:acme/web:x")).to_string());
    let twice = b64(good.to_string().replacen('{', "{\"aud\":\"keyward\",", 1));
    for (what, bad) in [
        ("no signature", format!("{signed}.")),
        (
            "a cut signature",
            format!("{signed}.{}", &signature[..signature.len() - 8]),
        ),
        ("zeros", format!("{signed}.{}", b64([0_u8; 256]))),
        ("other claims", format!("{header}.{raised}.{signature}")),
        ("padding", format!("{signed}.{signature}==")),
    ] {
        world.refuses(what, &bad).await;
    }
    for (what, strange) in [
        ("a name twice", format!("{header}.{twice}.{signature}")),
        ("five parts", format!("{token}.x.y")),
        ("two parts", signed.to_owned()),
        (
            "claims that are a list",
            format!("{header}.{}.{signature}", b64("[]")),
        ),
        ("no header", format!(".{payload}.{signature}")),
    ] {
        assert_ne!(
            world
                .provider
                .show(&strange)
                .await
                .ok()
                .flatten()
                .map(|a| a.agent.to_string()),
            Some("a".to_owned()),
            "{what}"
        );
    }
    // Names that stand twice, however they are written, and what stands around the JSON, with signatures that hold.
    let sign = |header: &str, claims: &str| {
        let signed = format!("{}.{}", b64(header), b64(claims));
        format!(
            "{signed}.{}",
            b64(world.pair.sign("RS256", signed.as_bytes()))
        )
    };
    let (header, claims) = (
        json!({"alg": "RS256", "kid": "k1"}).to_string(),
        good.to_string(),
    );
    assert_eq!(world.provider.agent(&sign(&header, &claims)).await, "a");
    let first = |text: &str, member: &str| text.replacen('{', &format!("{{{member},"), 1);
    for (header, claims) in [
        (first(&header, r#""alg":"none""#), claims.clone()),
        (first(&header, r#""\u0061lg":"RS256""#), claims.clone()),
        (first(&header, r#""kid":"k1""#), claims.clone()),
        (header.clone(), first(&claims, r#""sub":"repo:acme/web:x""#)),
        (
            header.clone(),
            first(&claims, r#""s\u0075b":"repo:acme/web:x""#),
        ),
        (header.clone(), first(&claims, r#""exp":1"#)),
        (header.clone(), format!("\u{feff}{claims}")),
        (header.clone(), format!("{claims}{claims}")),
        (header.clone(), format!("{claims}\0")),
        (format!("{header}}}"), claims.clone()),
        (header.clone(), format!("[{claims}]")),
    ] {
        let shown = world.provider.show(&sign(&header, &claims)).await;
        assert!(!matches!(shown, Ok(Some(_))), "{header} {claims}");
    }
    let header = head(json!({}));
    let header = b64(header.to_string());
    // Fifteen KiB of claims are still read; what is longer is no token.
    let huge = with(&url, "pad", json!("x".repeat(11_000)));
    assert_eq!(world.provider.agent(&world.token(&huge)).await, "a");
    let deep = format!(
        "{header}.{}.{signature}",
        b64(format!("{}{}", "[".repeat(5000), "]".repeat(5000)))
    );
    assert_eq!(world.provider.show(&deep).await, Ok(None));
    assert!(
        world.issuer.fetches() <= 2,
        "{} fetches",
        world.issuer.fetches()
    );
    assert_eq!(world.issuer.other(), 0);
}

/// ID-10: signatures on curves that are none (CVE-2022-21449), and DER where the raw form is due.
#[tokio::test]
async fn edges_of_ecdsa_are_refused() {
    let pair = Pair::p256();
    let issuer = Issuer::start(vec![pair.jwk("e")]).await;
    let provider = Provider::new(&table(&issuer.url));
    let token = pair.token(&json!({"alg": "ES256", "kid": "e"}), &claims(&issuer.url));
    assert_eq!(provider.agent(&token).await, "a");
    let (signed, _) = token.rsplit_once('.').unwrap();
    let order = "ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551";
    let order: Vec<u8> = (0..32)
        .map(|i| u8::from_str_radix(&order[2 * i..2 * i + 2], 16).unwrap())
        .collect();
    let Pair::P256(key) = &pair else {
        unreachable!()
    };
    let der = {
        let raw = key
            .sign(&aws_lc_rs::rand::SystemRandom::new(), signed.as_bytes())
            .unwrap();
        let half = |part: &[u8]| [&[2, 33, 0][..], part].concat();
        let (r, s) = raw.as_ref().split_at(32);
        let body = [half(r), half(s)].concat();
        [&[0x30, u8::try_from(body.len()).unwrap()][..], &body].concat()
    };
    for bad in [
        vec![0; 64],
        [order.clone(), order].concat(),
        vec![0xff; 64],
        der,
        vec![0; 63],
    ] {
        let shown = provider.show(&format!("{signed}.{}", b64(&bad))).await;
        assert_eq!(shown, Err(AttestError::Bad), "{bad:?}");
    }
}

/// ID-10: public keys of Ed25519 of small order, under which a signature of nothing at all holds for any text.
#[tokio::test]
async fn keys_under_which_anything_holds_are_passed_over() {
    let hex = |text: &str| -> Vec<u8> {
        let byte = |at: usize| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap();
        (0..text.len() / 2).map(byte).collect()
    };
    let one = format!("01{}", "00".repeat(31));
    let points = [
        one.clone(),
        format!("01{}80", "00".repeat(30)),
        "00".repeat(32),
        format!("{}80", "00".repeat(31)),
        format!("ec{}7f", "ff".repeat(30)),
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05".to_owned(),
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85".to_owned(),
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a".to_owned(),
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa".to_owned(),
    ];
    let pair = Pair::ed25519();
    for point in &points {
        let jwk = json!({"kty": "OKP", "crv": "Ed25519", "kid": "s", "x": b64(hex(point))});
        let issuer = Issuer::start(vec![jwk, pair.jwk("good")]).await;
        let provider = Provider::new(&table(&issuer.url));
        // R is a point of small order too, and S is 0: for some text among these it holds, if the key is taken.
        for n in 0..16 {
            let claims = with(&issuer.url, "jti", json!(n));
            let signed = format!(
                "{}.{}",
                b64(json!({"alg": "EdDSA", "kid": "s"}).to_string()),
                b64(claims.to_string())
            );
            // Once the issuer is asked whether it has another of this id; then nobody knows.
            provider.clock.advance(Duration::from_secs(11));
            let mut expected = AttestError::Bad;
            for r in &points {
                let signature = b64([hex(r), vec![0; 32]].concat());
                let shown = provider.show(&format!("{signed}.{signature}")).await;
                assert_eq!(shown, Err(expected), "{point} {r}");
                expected = AttestError::Unavailable;
            }
        }
        let token = pair.token(
            &json!({"alg": "EdDSA", "kid": "good"}),
            &claims(&issuer.url),
        );
        assert_eq!(provider.agent(&token).await, "a");
    }
}

/// ID-23: keys that are published, and not for this.
#[tokio::test]
async fn keys_that_are_not_for_signatures_are_passed_over() {
    let world = World::new().await;
    let token = world.token(&claims(&world.issuer.url));
    let jwk = |name: &str, value: Value| {
        let mut jwk = world.pair.jwk("k1");
        jwk[name] = value;
        jwk
    };
    for (what, key) in [
        ("for encryption", jwk("use", json!("enc"))),
        ("to sign", jwk("key_ops", json!(["sign"]))),
        ("for another algorithm", jwk("alg", json!("PS256"))),
        ("for HMAC", jwk("alg", json!("HS256"))),
        ("private", jwk("d", json!("AQAB"))),
        ("of 1024 bits", jwk("n", json!(b64([0xff; 128])))),
        ("with an even exponent", jwk("e", json!("AAAC"))),
        ("with the exponent 1", jwk("e", json!("AQ"))),
        (
            "a secret",
            json!({"kty": "oct", "kid": "k1", "k": b64("secret")}),
        ),
        ("with an id that is no text", jwk("kid", json!(1))),
    ] {
        // A good key beside it, so that the set is one.
        world.issuer.publish(vec![key, Pair::p256().jwk("other")]);
        let provider = Provider::new(&table(&world.issuer.url));
        assert_eq!(provider.show(&token).await, Err(AttestError::Bad), "{what}");
    }
    // Two keys that would do: without a kid nobody knows which, and of two with one id neither.
    world
        .issuer
        .publish(vec![world.pair.jwk("k1"), Pair::rsa().jwk("k1")]);
    let provider = Provider::new(&table(&world.issuer.url));
    assert_eq!(provider.show(&token).await, Err(AttestError::Bad));
    let nameless = world
        .pair
        .token(&json!({"alg": "RS256"}), &claims(&world.issuer.url));
    provider.clock.advance(Duration::from_secs(11));
    assert_eq!(provider.show(&nameless).await, Err(AttestError::Bad));
    world.issuer.publish(vec![world.pair.jwk("k1")]);
    let provider = Provider::new(&table(&world.issuer.url));
    assert_eq!(provider.agent(&nameless).await, "a");
}

/// ID-21: keys rotate while many ask: everybody is served, by one fetch.
#[tokio::test]
async fn keys_rotate_under_load_with_one_fetch() {
    let world = World::new().await;
    let url = world.issuer.url.clone();
    assert_eq!(world.provider.agent(&world.token(&claims(&url))).await, "a");
    let fresh = Pair::rsa();
    world
        .issuer
        .publish(vec![world.pair.jwk("k1"), fresh.jwk("k2")]);
    world.issuer.delay(Duration::from_millis(100));
    world.provider.clock.advance(Duration::from_secs(11));
    let inner = Arc::clone(&world.provider.inner);
    let mut tasks = Vec::new();
    for n in 0..200 {
        let token = fresh.token(
            &json!({"alg": "RS256", "kid": "k2"}),
            &with(&url, "jti", json!(n)),
        );
        let inner = Arc::clone(&inner);
        tasks.push(tokio::spawn(async move {
            let presented = super::presented(&token);
            let evidence = keyward::identity::Evidence {
                presented: Some(&presented),
                presented_as: TokenType::Any,
                peer: &keyward::identity::Peer::Tcp("127.0.0.1".parse().unwrap()),
                link: &keyward::identity::Link::default(),
            };
            inner
                .attest(evidence)
                .await
                .unwrap()
                .unwrap()
                .agent
                .to_string()
        }));
    }
    for task in tasks {
        assert_eq!(task.await.unwrap(), "a");
    }
    assert_eq!(
        world.issuer.fetches(),
        2,
        "one for the first key, one for the second"
    );

    // A flood of unknown keys makes no flood of fetches.
    world.issuer.delay(Duration::ZERO);
    for n in 0..300 {
        let header = json!({"alg": "RS256", "kid": format!("unknown-{n}")});
        let token = world.pair.token(&header, &claims(&url));
        // Nobody looked whether there is such a key by now, so nobody can say that there is none.
        let shown = world.provider.show(&token).await;
        assert_eq!(shown, Err(AttestError::Unavailable), "{n}");
    }
    assert_eq!(world.issuer.fetches(), 2);
    world.provider.clock.advance(Duration::from_secs(11));
    let header = json!({"alg": "RS256", "kid": "unknown"});
    world
        .refuses("an unknown key", &world.pair.token(&header, &claims(&url)))
        .await;
    assert_eq!(world.issuer.fetches(), 3);
}

/// A key that is withdrawn verifies nothing any more: neither a new token nor one that was verified before.
#[tokio::test]
async fn a_withdrawn_key_ends_the_tokens_that_it_verified() {
    let world = World::new().await;
    world.issuer.cache_control("public, max-age=60");
    let token = world.token(&claims(&world.issuer.url));
    assert_eq!(world.provider.agent(&token).await, "a");
    world.issuer.publish(vec![Pair::rsa().jwk("k2")]);
    world.provider.clock.advance(Duration::from_secs(61));
    // Stale: the answer is still by the old keys, while others are fetched behind.
    assert_eq!(world.provider.agent(&token).await, "a");
    let gone = async {
        while world.provider.show(&token).await != Err(AttestError::Bad) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), gone)
        .await
        .unwrap();
}

#[tokio::test]
async fn an_issuer_that_is_down_is_outlived_for_a_time_and_then_nobody_is_let_in() {
    let world = World::new().await;
    let url = world.issuer.url.clone();
    let long = with(&url, "exp", json!(NOW + 100_000));
    let token = world.token(&long);
    assert_eq!(world.provider.agent(&token).await, "a");
    world.issuer.fail(500);
    world.provider.clock.advance(Duration::from_mins(11));
    let another = world.token(&with(&url, "exp", json!(NOW + 99_999)));
    assert_eq!(
        world.provider.agent(&another).await,
        "a",
        "stale keys still verify"
    );
    let unknown = world
        .pair
        .token(&json!({"alg": "RS256", "kid": "new"}), &long);
    tokio::time::sleep(Duration::from_millis(100)).await;
    world.provider.clock.advance(Duration::from_secs(2));
    assert_eq!(
        world.provider.show(&unknown).await,
        Err(AttestError::Unavailable)
    );
    world.provider.clock.advance(Duration::from_hours(1));
    for token in [&token, &another] {
        assert_eq!(
            world.provider.show(token).await,
            Err(AttestError::Unavailable)
        );
    }
    world.issuer.fail(0);
    world.provider.clock.advance(Duration::from_secs(2));
    assert_eq!(world.provider.agent(&token).await, "a");
}

/// Metadata of another issuer, keys that are none, too many, too long, or slower than anybody waits.
#[tokio::test]
async fn what_an_issuer_says_is_held_to_bounds() {
    let world = World::new().await;
    let (url, jwks) = (&world.issuer.url, format!("{}/jwks", world.issuer.url));
    let token = world.token(&claims(url));
    for metadata in [
        json!({"issuer": format!("{url}/"), "jwks_uri": jwks}),
        json!({"issuer": "https://other.example", "jwks_uri": jwks}),
        json!({"issuer": url}),
        json!({"issuer": url, "jwks_uri": "http://keys.example/jwks"}),
        json!({"issuer": url, "jwks_uri": "file:///etc/passwd"}),
        json!([]),
    ] {
        world.issuer.metadata(metadata.clone());
        let shown = Provider::new(&table(url)).show(&token).await;
        assert_eq!(shown, Err(AttestError::Unavailable), "{metadata}");
    }
    world
        .issuer
        .metadata(json!({"issuer": url, "jwks_uri": jwks}));
    let many = (0..300)
        .map(|n| Pair::ed25519().jwk(&n.to_string()))
        .collect();
    let long = vec![
        json!({"kty": "RSA", "n": "x".repeat(300_000)}),
        world.pair.jwk("k1"),
    ];
    for keys in [vec![], many, long] {
        world.issuer.publish(keys);
        let shown = Provider::new(&table(url)).show(&token).await;
        assert_eq!(shown, Err(AttestError::Unavailable));
    }
    world.issuer.publish(vec![world.pair.jwk("k1")]);
    for status in [302, 404, 503] {
        world.issuer.fail(status);
        let shown = Provider::new(&table(url)).show(&token).await;
        assert_eq!(shown, Err(AttestError::Unavailable), "{status}");
    }
}

/// The whole way: a token of an issuer opens the proxy; its copies with another audience, or without an issuer, do not.
#[tokio::test]
async fn a_token_opens_the_proxy() {
    let (pair, upstream) = (Pair::rsa(), Upstream::echo(&["http/1.1"]).await);
    let issuer = Issuer::start(vec![pair.jwk("k1")]).await;
    let trust = format!("{BEARER}[trust.t]\n{}", table(&issuer.url));
    let harness = Setup::new(&trust)
        .to("api.test:443", &upstream)
        .start()
        .await;
    let now = jiff::Timestamp::now().as_second();
    let token = |audience: &str| {
        let mut claims = claims(&issuer.url);
        claims["aud"] = json!(audience);
        claims["exp"] = json!(now + 300);
        pair.token(&json!({"alg": "RS256", "kid": "k1"}), &claims)
    };
    let mut agent = harness.agent_with(Some(&token("keyward")));
    for _ in 0..2 {
        let mut sender = agent.h1("api.test:443").await;
        let answer = agent
            .ask(&mut sender, request("GET", "/", "api.test"))
            .await;
        assert_eq!(answer.status, 200);
        agent.authorization = Some(format!("Bearer {}", token("keyward")));
    }
    let started = harness
        .record(|record| record["event"] == "session-start")
        .await;
    assert_eq!(
        (&started["agent"], &started["trust"]),
        (&json!("a"), &json!("t"))
    );

    let (answer, _) = harness
        .agent_with(Some(&token("other")))
        .connect("api.test:443")
        .await;
    assert_eq!(answer.status(), 407, "{answer:?}");
    // A token that keyward has not seen, while the issuer gives no keys: not refused, but not let in either.
    let (answer, _) = harness
        .agent_with(Some(TOKEN_A))
        .connect("api.test:443")
        .await;
    assert_eq!(
        answer.status(),
        200,
        "static tokens are asked last, and still hold"
    );
    let metrics = harness.metrics().await;
    for line in [
        // At each CONNECT: nobody is let in by what a token was worth once.
        "keyward_attestations_total{trust=\"t\",outcome=\"attested\"} 2",
        "keyward_attestations_total{trust=\"t\",outcome=\"refused\"} 1",
        "keyward_attestations_total{trust=\"token\",outcome=\"attested\"} 1",
    ] {
        assert!(metrics.contains(line), "{line} in {metrics}");
    }
    harness.finish().await;
}

#[tokio::test]
async fn without_its_issuers_keys_the_proxy_says_that_it_cannot_tell() {
    let (pair, upstream) = (Pair::rsa(), Upstream::echo(&["http/1.1"]).await);
    let issuer = Issuer::start(vec![pair.jwk("k1")]).await;
    issuer.fail(503);
    let trust = format!("{BEARER}[trust.t]\n{}", table(&issuer.url));
    let harness = Setup::new(&trust)
        .to("api.test:443", &upstream)
        .start()
        .await;
    let mut claims = claims(&issuer.url);
    claims["exp"] = json!(jiff::Timestamp::now().as_second() + 300);
    let token = pair.token(&json!({"alg": "RS256", "kid": "k1"}), &claims);
    let (answer, _) = harness
        .agent_with(Some(&token))
        .connect("api.test:443")
        .await;
    assert_eq!(answer.status(), 503);
    assert_eq!(answer.get("keyward-refusal"), Some("identity-unavailable"));
    let metrics = harness.metrics().await;
    assert!(
        metrics.contains("keyward_attestations_total{trust=\"t\",outcome=\"unavailable\"} 1"),
        "{metrics}"
    );
    harness.finish().await;
}

/// A reload that says the same of a trust table keeps the keys that it has; one that says something else does not.
#[tokio::test]
async fn a_reload_keeps_the_keys_of_tables_that_did_not_change() {
    let (pair, upstream) = (Pair::rsa(), Upstream::echo(&["http/1.1"]).await);
    let issuer = Issuer::start(vec![pair.jwk("k1")]).await;
    let trust = format!("{BEARER}[trust.t]\n{}", table(&issuer.url));
    let setup = Setup::new(&trust).to("api.test:443", &upstream);
    let harness = setup.clone().start().await;
    let now = jiff::Timestamp::now().as_second();
    let token = |jti: usize| {
        let mut claims = claims(&issuer.url);
        claims["exp"] = json!(now + 300);
        claims["jti"] = json!(jti);
        pair.token(&json!({"alg": "RS256", "kid": "k1"}), &claims)
    };
    let connects = async |jti: usize| {
        let agent = harness.agent_with(Some(&token(jti)));
        agent.connect("api.test:443").await.0.status()
    };
    assert_eq!(connects(1).await, 200);
    issuer.fail(503);
    let more = format!("{trust}[[route]]\nhosts = [\"other.test\"]\n");
    harness.reload(&setup.clone().routes(&more)).await;
    assert_eq!(connects(2).await, 200, "a token that was never seen");
    assert_eq!(issuer.fetches(), 1);
    let other = trust.replace("[\"keyward\",", "[\"keyward\", \"other\",");
    assert_ne!(other, trust);
    harness.reload(&setup.routes(&other)).await;
    assert_eq!(connects(3).await, 503);
    harness.finish().await;
}
