//! What an issuer does with a JWT: verifies it for real, and says what is in it.

use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use rcgen::{KeyPair, PKCS_RSA_SHA256, RsaKeySize};
use serde_json::Value;

use crate::upstream::Seen;

/// An RSA key, as Google and GitHub hand them out.
pub fn rsa() -> KeyPair {
    KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap()
}

/// The header and the claims of a JWT of RS256 that this key signed; a panic for any other.
pub fn verified(token: &str, key: &KeyPair) -> (jsonwebtoken::Header, Value) {
    let mut rules = Validation::new(Algorithm::RS256);
    rules.validate_aud = false;
    rules.leeway = 0;
    rules.required_spec_claims = ["exp".to_owned()].into();
    let key = DecodingKey::from_rsa_pem(key.public_key_pem().as_bytes()).unwrap();
    let read = jsonwebtoken::decode::<Value>(token, &key, &rules).unwrap();
    (read.header, read.claims)
}

/// The fields of a form.
pub fn form(seen: &Seen) -> Vec<(String, String)> {
    form_urlencoded::parse(&seen.body).into_owned().collect()
}

/// One field of a form, which stands there once.
pub fn field(seen: &Seen, name: &str) -> String {
    let fields = form(seen);
    let mut found = fields.iter().filter(|(known, _)| known == name);
    let value = found
        .next()
        .unwrap_or_else(|| panic!("{name} in {fields:?}"));
    assert!(found.next().is_none(), "{name} twice");
    value.1.clone()
}

/// `exp - iat`, in seconds.
pub fn life(claims: &Value) -> i64 {
    claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap()
}
