//! The key that a token is bound to, and the proofs of holding it (RFC 9449).
//!
//! There is no clock here and no network: whoever sends a request says when it is, and what nobody has said before.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use http::HeaderValue;
use serde_json::json;

/// A key of P-256 that lives as long as its lease, and the nonce that the resource server last gave for it.
pub struct DpopKey {
    pair: EcdsaKeyPair,
    random: SystemRandom,
    /// The JOSE header of every proof, encoded: it holds the public key.
    header: String,
    nonce: ArcSwapOption<HeaderValue>,
}

/// What one proof is for (RFC 9449 §4.2).
#[derive(Debug, Clone, Copy)]
pub struct Proof<'a> {
    /// The request's method (`htm`).
    pub method: &'a str,
    /// Its URL without query and fragment (`htu`).
    pub url: &'a str,
    /// Now, in seconds since 1970 (`iat`).
    pub issued_at: i64,
    /// 16 bytes that no other proof has (`jti`).
    pub id: [u8; 16],
    /// The server's nonce, where it gave one (`nonce`).
    pub nonce: Option<&'a str>,
    /// [`DpopKey::hash`] of the token that the request carries; none at the token endpoint (`ath`).
    pub token_hash: Option<&'a str>,
}

/// No key, or no signature: the machine gives no random bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no DPoP proof can be made")]
pub struct NoProof;

impl DpopKey {
    /// A new key.
    ///
    /// # Errors
    /// [`NoProof`] if there is no randomness.
    pub fn generate() -> Result<Self, NoProof> {
        let made = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING);
        let pair = made.map_err(|_| NoProof)?;
        // The point uncompressed: 4, x, y (SEC 1 §2.3.3).
        let point = pair.public_key().as_ref();
        let (Some(x), Some(y)) = (point.get(1..33), point.get(33..65)) else {
            return Err(NoProof);
        };
        let header = json!({
            "typ": "dpop+jwt",
            "alg": "ES256",
            "jwk": {
                "kty": "EC",
                "crv": "P-256",
                "x": BASE64URL.encode(x),
                "y": BASE64URL.encode(y),
            },
        });
        Ok(Self {
            header: BASE64URL.encode(header.to_string()),
            pair,
            random: SystemRandom::new(),
            nonce: ArcSwapOption::empty(),
        })
    }

    /// A proof for one request, as the field `DPoP` carries it.
    ///
    /// # Errors
    /// [`NoProof`] if there is no randomness.
    pub fn prove(&self, proof: &Proof<'_>) -> Result<HeaderValue, NoProof> {
        let mut claims = json!({
            "jti": BASE64URL.encode(proof.id),
            "htm": proof.method,
            "htu": proof.url,
            "iat": proof.issued_at,
        });
        if let Some(claims) = claims.as_object_mut() {
            for (name, value) in [("nonce", proof.nonce), ("ath", proof.token_hash)] {
                if let Some(value) = value {
                    claims.insert(name.into(), value.into());
                }
            }
        }
        let message = format!("{}.{}", self.header, BASE64URL.encode(claims.to_string()));
        let signed = self.pair.sign(&self.random, message.as_bytes());
        let signature = BASE64URL.encode(signed.map_err(|_| NoProof)?);
        HeaderValue::try_from(format!("{message}.{signature}")).map_err(|_| NoProof)
    }

    /// The hash of a token, as proofs name it (`ath`).
    pub fn hash(token: &[u8]) -> String {
        BASE64URL.encode(digest(&SHA256, token))
    }

    /// The nonce that the resource server last gave.
    pub fn nonce(&self) -> Option<Arc<HeaderValue>> {
        self.nonce.load_full()
    }

    /// Takes up a nonce; whether it is another one. What is no nonce (RFC 9449 §8.1) is left alone.
    pub fn remember(&self, nonce: &HeaderValue) -> bool {
        let legal = |b: &u8| matches!(b, 0x21 | 0x23..=0x5b | 0x5d..=0x7e);
        let bytes = nonce.as_bytes();
        if bytes.is_empty() || bytes.len() > LONGEST_NONCE || !bytes.iter().all(legal) {
            return false;
        }
        let old = self.nonce.swap(Some(Arc::new(nonce.clone())));
        old.is_none_or(|old| *old != *nonce)
    }
}

impl fmt::Debug for DpopKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DpopKey(..)")
    }
}

/// No nonce is longer, in bytes.
const LONGEST_NONCE: usize = 1024;

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
    use serde_json::Value;

    use super::*;

    fn part(text: &str) -> Value {
        serde_json::from_slice(&BASE64URL.decode(text).unwrap()).unwrap()
    }

    #[test]
    fn a_proof_verifies_with_the_key_that_it_names() {
        let key = DpopKey::generate().unwrap();
        let proof = Proof {
            method: "GET",
            url: "https://api.example.com/v1",
            issued_at: 1_790_000_000,
            id: [7; 16],
            nonce: Some("n-1"),
            token_hash: Some(&DpopKey::hash(b"token")),
        };
        let proof = key.prove(&proof).unwrap();
        let proof = proof.to_str().unwrap();
        let (message, signature) = proof.rsplit_once('.').unwrap();
        let (header, claims) = message.split_once('.').unwrap();
        let (header, claims) = (part(header), part(claims));
        assert_eq!(
            (&header["typ"], &header["alg"]),
            (&"dpop+jwt".into(), &"ES256".into())
        );
        let coordinate = |name: &str| {
            BASE64URL
                .decode(header["jwk"][name].as_str().unwrap())
                .unwrap()
        };
        let point = [vec![4], coordinate("x"), coordinate("y")].concat();
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point)
            .verify(message.as_bytes(), &BASE64URL.decode(signature).unwrap())
            .unwrap();
        assert_eq!(header["jwk"].get("d"), None, "the private key stays here");
        assert_eq!(claims["htm"], "GET");
        assert_eq!(claims["htu"], "https://api.example.com/v1");
        assert_eq!(claims["iat"], 1_790_000_000);
        assert_eq!(claims["nonce"], "n-1");
        // `printf token | openssl dgst -sha256 -binary | basenc --base64url`
        assert_eq!(claims["ath"], "PEaenWxYddN6Q_NT1PiOYfz4EsZu7jRXRlpAsNpBU-A");
    }

    #[test]
    fn only_a_nonce_is_remembered_and_only_a_new_one_is_new() {
        let key = DpopKey::generate().unwrap();
        let one = HeaderValue::from_static("one");
        assert!(key.remember(&one));
        assert!(!key.remember(&one));
        assert!(key.remember(&HeaderValue::from_static("two")));
        for bad in ["", "a b", "a\"b", "a\\b"] {
            assert!(!key.remember(&HeaderValue::from_static(bad)), "{bad}");
        }
        assert_eq!(key.nonce().unwrap().to_str().unwrap(), "two");
    }
}
