use std::sync::Arc;

use super::*;
use crate::clock::{Clock, ManualClock};
use crate::delegation::{Bounds, Scope};
use crate::session::{Opening, Sessions, Settings};

const NOW: i64 = 1_795_000_000;

fn fresh() -> Keys {
    let clock = ManualClock::new(jiff::Timestamp::from_second(NOW).unwrap());
    Keys::new(&clock.now()).unwrap()
}

fn session(chain: &[&str]) -> Arc<Session> {
    let clock = ManualClock::new(jiff::Timestamp::from_second(NOW).unwrap());
    let opening = Opening {
        chain: chain.iter().map(|id| id.parse().unwrap()).collect(),
        trust: "token".into(),
        person: None,
        bounds: Bounds {
            scope: Scope::ALL,
            expires: None,
            depth: 0,
        },
        parent: None,
        bound: None,
        idles: true,
    };
    let sessions = Sessions::new(Settings::default());
    sessions.start(opening, &clock.now()).unwrap()
}

fn token(keys: &Keys, chain: &[&str]) -> String {
    mint(keys, &session(chain), "iss", ("a", NOW, NOW + 60)).unwrap()
}

fn part(token: &str, place: usize) -> Value {
    let part = token.split('.').nth(place).unwrap();
    serde_json::from_slice(&BASE64URL.decode(part).unwrap()).unwrap()
}

/// A token of this head and payload, signed by the key that signs: what only a thief of the key could make, so that
/// each check is tried by itself.
fn signed(keys: &Keys, head: &Value, payload: &Value) -> String {
    let text = format!(
        "{}.{}",
        BASE64URL.encode(head.to_string()),
        BASE64URL.encode(payload.to_string())
    );
    let signature = keys.signing().unwrap().sign(text.as_bytes(), 0).unwrap();
    format!("{text}.{}", BASE64URL.encode(signature))
}

fn reads(keys: &Keys, token: &str) -> Result<Claims, TokenFault> {
    read(keys, token.as_bytes(), NOW)
}

#[test]
fn a_token_says_who_acts_and_who_stands_behind() {
    let keys = fresh();
    let long = token(&keys, &["first", "second", "third"]);
    let head = part(&long, 0);
    assert_eq!(
        (head["typ"].as_str(), head["alg"].as_str()),
        (Some("at+jwt"), Some("ES256"))
    );
    assert_eq!(head["kid"], keys.signing().unwrap().id());
    let claims = part(&long, 1);
    for (name, value) in [
        ("iss", json!("iss")),
        ("aud", json!("keyward")),
        ("sub", json!("first")),
        ("client_id", json!("third")),
        ("iat", json!(NOW)),
        ("exp", json!(NOW + 60)),
        ("scope", json!("a")),
        ("act", json!({ "sub": "third", "act": { "sub": "second" } })),
    ] {
        assert_eq!(claims[name], value, "{name}");
    }
    assert!(claims["jti"].is_string() && claims["sid"].is_string());
    assert_eq!(
        reads(&keys, &long).unwrap().sid,
        claims["sid"].as_str().unwrap()
    );
    let own = token(&keys, &["first"]);
    assert!(part(&own, 1).get("act").is_none(), "delegated only");
}

#[test]
fn a_head_that_is_not_ours_in_every_point_is_refused() {
    let keys = fresh();
    let good = token(&keys, &["a"]);
    let (head, payload) = (part(&good, 0), part(&good, 1));
    assert!(
        reads(&keys, &signed(&keys, &head, &payload)).is_ok(),
        "the forge itself works"
    );
    let with = |name: &str, value: Value| {
        let mut head = head.clone();
        head[name] = value;
        reads(&keys, &signed(&keys, &head, &payload))
    };
    for alg in [
        "none", "None", "HS256", "RS256", "PS256", "ES384", "EdDSA", "ES256 ", "",
    ] {
        assert_eq!(with("alg", alg.into()), Err(TokenFault::Bad), "{alg}");
    }
    for typ in ["JWT", "at+JWT ", "id+jwt", "logout+jwt", ""] {
        assert_eq!(with("typ", typ.into()), Err(TokenFault::Bad), "{typ}");
    }
    for kid in ["", "../../dev/null", "' OR 1=1 --", "0"] {
        assert_eq!(with("kid", kid.into()), Err(TokenFault::NotOurs), "{kid}");
    }
    assert_eq!(with("crit", json!(["exp"])), Err(TokenFault::Bad));
    assert_eq!(with("zip", json!("DEF")), Err(TokenFault::Bad));
    // Where to find a key is not for the token to say: it is not read, and our key decides.
    for name in ["jku", "x5u", "jwk", "x5c"] {
        assert!(
            with(name, json!("https://evil.test/keys")).is_ok(),
            "{name}"
        );
    }
}

#[test]
fn the_public_key_is_no_shared_secret() {
    use aws_lc_rs::hmac;
    let keys = fresh();
    let good = token(&keys, &["a"]);
    let jwks = keys.jwks()["keys"][0].to_string();
    let x = keys.jwks()["keys"][0]["x"].as_str().unwrap().to_owned();
    for secret in [
        jwks.into_bytes(),
        BASE64URL.decode(&x).unwrap(),
        x.into_bytes(),
        Vec::new(),
    ] {
        let mut head = part(&good, 0);
        head["alg"] = "HS256".into();
        let text = format!(
            "{}.{}",
            BASE64URL.encode(head.to_string()),
            good.split('.').nth(1).unwrap()
        );
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &secret), text.as_bytes());
        let forged = format!("{text}.{}", BASE64URL.encode(tag));
        assert_eq!(reads(&keys, &forged), Err(TokenFault::Bad));
    }
}

#[test]
fn a_payload_that_does_not_fit_is_refused() {
    let keys = fresh();
    let good = token(&keys, &["a"]);
    let (head, payload) = (part(&good, 0), part(&good, 1));
    let with = |name: &str, value: Option<Value>| {
        let mut payload = payload.as_object().unwrap().clone();
        match value {
            Some(value) => drop(payload.insert(name.to_owned(), value)),
            None => drop(payload.remove(name)),
        }
        reads(&keys, &signed(&keys, &head, &Value::Object(payload)))
    };
    for aud in [
        None,
        Some(json!("other")),
        Some(json!(["keyward"])),
        Some(json!("Keyward")),
    ] {
        assert_eq!(with("aud", aud.clone()), Err(TokenFault::Bad), "{aud:?}");
    }
    assert_eq!(with("nbf", Some(json!(NOW + 1))), Err(TokenFault::Bad));
    assert!(with("nbf", Some(json!(NOW))).is_ok());
    assert_eq!(with("exp", Some(json!(NOW))), Err(TokenFault::Expired));
    for exp in [
        None,
        Some(json!("soon")),
        Some(json!(1e300)),
        Some(json!(-1e9)),
    ] {
        assert!(with("exp", exp.clone()).is_err(), "{exp:?}");
    }
    for name in ["iss", "sid"] {
        assert_eq!(with(name, None), Err(TokenFault::Bad), "{name}");
    }
    // The same claim twice: neither the first nor the last wins.
    let twice = payload.to_string().replacen('{', "{\"sid\":\"0\",", 1);
    let text = format!(
        "{}.{}",
        BASE64URL.encode(head.to_string()),
        BASE64URL.encode(twice)
    );
    let signature = keys.signing().unwrap().sign(text.as_bytes(), 0).unwrap();
    let twice = format!("{text}.{}", BASE64URL.encode(signature));
    assert_eq!(reads(&keys, &twice), Err(TokenFault::Bad));
}

#[test]
fn a_changed_or_odd_signature_is_refused() {
    let keys = fresh();
    let good = token(&keys, &["a"]);
    let (signed, signature) = good.rsplit_once('.').unwrap();
    let raw = BASE64URL.decode(signature).unwrap();
    // DER (X9.62) in place of R and S; the values of CVE-2022-21449; an order too large; cut and lengthened.
    let mut der = vec![0x30, 68, 2, 32];
    der.extend_from_slice(&raw[..32]);
    der.extend_from_slice(&[2, 32]);
    der.extend_from_slice(&raw[32..]);
    let mut other = raw.clone();
    other[10] ^= 1;
    let mut longer = raw.clone();
    longer.push(0);
    for odd in [
        der,
        vec![0; 64],
        vec![0xff; 64],
        raw[..63].to_vec(),
        longer,
        other,
        Vec::new(),
    ] {
        let token = format!("{signed}.{}", BASE64URL.encode(&odd));
        assert_eq!(reads(&keys, &token), Err(TokenFault::Bad), "{odd:?}");
    }
    let mut payload = part(&good, 1);
    payload["sid"] = "0".into();
    let mut parts: Vec<String> = good.split('.').map(str::to_owned).collect();
    parts[1] = BASE64URL.encode(payload.to_string());
    assert_eq!(reads(&keys, &parts.join(".")), Err(TokenFault::Bad));
    assert_eq!(
        reads(&fresh(), &good),
        Err(TokenFault::NotOurs),
        "another daemon"
    );
}

#[test]
fn what_is_no_token_is_not_looked_into() {
    let keys = fresh();
    let good = token(&keys, &["a"]);
    let nested = BASE64URL.encode("[".repeat(1000));
    let bomb = format!("{{\"kid\":{}", "[".repeat(1000));
    for odd in [
        String::new(),
        ".".into(),
        "..".into(),
        "...".into(),
        "a.b.c".into(),
        format!("{good}."),
        format!("{good}.{good}"),
        format!("{good}="),
        format!("{nested}.{nested}.{nested}"),
        format!("{}.a.b", BASE64URL.encode(bomb)),
        format!("{}.a.b", BASE64URL.encode("\u{feff}{}")),
        format!("{}.a.b", BASE64URL.encode("x".repeat(100_000))),
        "a".repeat(1 << 20),
        // A JWE has five parts (RFC 7516 §3.1).
        "a.b.c.d.e".into(),
    ] {
        assert!(reads(&keys, &odd).is_err(), "{}", &odd[..odd.len().min(80)]);
    }
}

#[test]
fn a_jwt_that_names_an_agent_opens_nothing_here() {
    let (keys, agent) = (fresh(), "calendar".parse().unwrap());
    let at = "https://login.example.com/token";
    let token = name_agent(&keys, &agent, ("iss", at), NOW).unwrap();
    let (head, claims) = (part(&token, 0), part(&token, 1));
    assert_eq!(
        (&head["typ"], &head["alg"]),
        (&json!("JWT"), &json!("ES256"))
    );
    assert_eq!(claims["sub"], "calendar");
    assert_eq!(claims["aud"], at);
    assert_eq!(
        claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap(),
        60
    );
    assert_eq!(read(&keys, token.as_bytes(), NOW), Err(TokenFault::Bad));
    assert!(name_agent(&keys, &agent, ("iss", AUDIENCE), NOW).is_err());
}
