//! Keys of the tests' issuers, and tokens as they and their enemies make them.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair,
    KeyPair as _, RSA_PKCS1_SHA256, RSA_PSS_SHA256,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

/// A key pair of an issuer.
pub enum Pair {
    Rsa(RsaKeyPair),
    P256(EcdsaKeyPair),
    P384(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

pub fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

impl Pair {
    pub fn rsa() -> Self {
        Self::Rsa(RsaKeyPair::generate(KeySize::Rsa2048).unwrap())
    }

    pub fn p256() -> Self {
        Self::P256(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap())
    }

    pub fn p384() -> Self {
        Self::P384(EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap())
    }

    pub fn ed25519() -> Self {
        Self::Ed25519(Ed25519KeyPair::generate().unwrap())
    }

    /// The public half, as issuers publish it.
    pub fn jwk(&self, kid: &str) -> Value {
        let ec = |crv: &str, key: &EcdsaKeyPair| {
            let point = key.public_key().as_ref().to_vec();
            let (x, y) = point[1..].split_at((point.len() - 1) / 2);
            json!({"kty": "EC", "crv": crv, "kid": kid, "x": b64(x), "y": b64(y)})
        };
        match self {
            Self::Rsa(pair) => {
                let key = pair.public_key();
                let (n, e) = (key.modulus(), key.exponent());
                let (n, e) = (
                    n.big_endian_without_leading_zero(),
                    e.big_endian_without_leading_zero(),
                );
                json!({"kty": "RSA", "kid": kid, "use": "sig", "n": b64(n), "e": b64(e)})
            }
            Self::P256(key) => ec("P-256", key),
            Self::P384(key) => ec("P-384", key),
            Self::Ed25519(key) => {
                let x = b64(key.public_key().as_ref());
                json!({"kty": "OKP", "crv": "Ed25519", "kid": kid, "x": x})
            }
        }
    }

    pub fn sign(&self, alg: &str, bytes: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match self {
            Self::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                let padding: &dyn aws_lc_rs::signature::RsaEncoding = match alg {
                    "PS256" => &RSA_PSS_SHA256,
                    _ => &RSA_PKCS1_SHA256,
                };
                pair.sign(padding, &random, bytes, &mut signature).unwrap();
                signature
            }
            Self::P256(key) | Self::P384(key) => {
                key.sign(&random, bytes).unwrap().as_ref().to_vec()
            }
            Self::Ed25519(key) => key.sign(bytes).as_ref().to_vec(),
        }
    }

    /// A signed token with this header and these claims.
    pub fn token(&self, header: &Value, claims: &Value) -> String {
        let signed = format!("{}.{}", b64(header.to_string()), b64(claims.to_string()));
        let signature = self.sign(header["alg"].as_str().unwrap_or(""), signed.as_bytes());
        format!("{signed}.{}", b64(signature))
    }
}

/// The order of P-256 and of P-384.
const ORDERS: [&str; 2] = [
    "ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551",
    "ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973",
];

/// `n - s`, which holds wherever `s` does: ECDSA does not say which of both is meant.
fn other_s(s: &[u8]) -> Vec<u8> {
    let order = ORDERS.iter().find(|order| order.len() == 2 * s.len());
    let order = order.unwrap();
    let mut borrow = 0;
    let mut out = vec![0; s.len()];
    for at in (0..s.len()).rev() {
        let digit = i32::from(u8::from_str_radix(&order[2 * at..2 * at + 2], 16).unwrap());
        let left = digit - i32::from(s[at]) - borrow;
        borrow = i32::from(left < 0);
        out[at] = u8::try_from(left.rem_euclid(256)).unwrap();
    }
    out
}

/// The same JWT, its ECDSA signature written the other way.
pub fn respelled(token: &str) -> String {
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
    let (r, s) = signature.split_at(signature.len() / 2);
    format!("{signed}.{}", b64([r, &other_s(s)].concat()))
}

/// The same certificate, the P-256 signature of its issuer written the other way.
pub fn respelled_certificate(der: &[u8]) -> Vec<u8> {
    use x509_parser::prelude::{FromDer as _, X509Certificate};
    let (_, certificate) = X509Certificate::from_der(der).unwrap();
    let tbs: &[u8] = certificate.tbs_certificate.as_ref();
    let signature: &[u8] = &certificate.signature_value.data;
    // The outer tag and a length of two bytes; the algorithm; tag, length and unused bits of the signature.
    let algorithm = &der[4 + tbs.len()..der.len() - signature.len() - 3];
    let number = |at: usize| &signature[at + 2..at + 2 + usize::from(signature[at + 1])];
    let r = number(2);
    let s = number(2 + 2 + r.len());
    let mut padded = vec![0; 32 - s.len().min(32)];
    padded.extend_from_slice(
        s.strip_prefix(&[0][..])
            .filter(|s| s.len() == 32)
            .unwrap_or(s),
    );
    let other = other_s(&padded);
    let zeros = other.iter().take_while(|b| **b == 0).count();
    let mut other = other[zeros..].to_vec();
    if other[0] >= 0x80 {
        other.insert(0, 0);
    }
    let tagged = |tag: u8, content: &[u8]| {
        let length = u8::try_from(content.len()).unwrap();
        assert!(length < 0x80);
        [&[tag, length][..], content].concat()
    };
    let numbers = [tagged(2, r), tagged(2, &other)].concat();
    let bits = tagged(3, &[&[0][..], &tagged(0x30, &numbers)].concat());
    let content = [tbs, algorithm, &bits].concat();
    let length = u16::try_from(content.len()).unwrap().to_be_bytes();
    [&[0x30, 0x82][..], &length, &content].concat()
}
