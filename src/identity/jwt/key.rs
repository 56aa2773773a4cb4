//! Public keys as issuers publish them (JWK, RFC 7517), and the one check of a signature.
//!
//! A key verifies the algorithms of its own type and curve only: an RSA key is never an HMAC secret (CVE-2016-5431).

use aws_lc_rs::signature::{
    self, RsaPublicKeyComponents, UnparsedPublicKey, VerificationAlgorithm,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use serde_json::Value;

use super::Bad;
use super::object::Object;
use crate::identity::settings::Algorithm;

/// One public key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::identity) struct Key {
    /// `kid`.
    pub(in crate::identity) id: Option<Box<str>>,
    material: Material,
    /// `alg`: where the issuer says it, the key is for that one alone.
    only: Option<Algorithm>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Material {
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
    /// An uncompressed point.
    P256(Vec<u8>),
    P384(Vec<u8>),
    P521(Vec<u8>),
    Ed25519(Vec<u8>),
}

impl Key {
    /// Reads a JWK. `None`: it is none that verifies signatures here; a set may hold such, and they are passed over.
    pub(in crate::identity) fn read(jwk: &Object) -> Option<Self> {
        let for_signatures = match jwk.get("use") {
            None => true,
            // `jwt-svid` is SPIFFE's word for the same (SPIFFE Trust Domain and Bundle §4.2.2).
            Some(value) => matches!(value.as_str(), Some("sig" | "jwt-svid")),
        };
        let verifies = match jwk.get("key_ops") {
            None => true,
            Some(Value::Array(ops)) => ops.iter().any(|op| op.as_str() == Some("verify")),
            Some(_) => false,
        };
        // A private key that was published is everybody's (RFC 7518 §6.2.2).
        if !for_signatures || !verifies || jwk.has("d") || jwk.has("k") {
            return None;
        }
        let only = match jwk.get("alg") {
            None => None,
            Some(name) => Some(name.as_str()?.parse().ok()?),
        };
        let bytes = |name| BASE64URL.decode(jwk.text(name)?).ok();
        let point = |length: usize| {
            let (x, y) = (bytes("x")?, bytes("y")?);
            (x.len() == length && y.len() == length).then(|| [&[4][..], &x, &y].concat())
        };
        let material = match (jwk.text("kty")?, jwk.text("crv")) {
            ("RSA", None) => Material::rsa(bytes("n")?, bytes("e")?)?,
            ("EC", Some("P-256")) => Material::P256(point(32)?),
            ("EC", Some("P-384")) => Material::P384(point(48)?),
            ("EC", Some("P-521")) => Material::P521(point(66)?),
            ("OKP", Some("Ed25519")) => Material::ed25519(bytes("x")?)?,
            _ => return None,
        };
        let key = Self {
            id: jwk.text("kid").map(Into::into),
            material,
            only,
        };
        if jwk.has("kid") && key.id.is_none() {
            return None;
        }
        let fits_own = key.only.is_none_or(|only| key.verifier(only).is_some());
        fits_own.then_some(key)
    }

    /// Whether it verifies signatures of this algorithm.
    pub(in crate::identity) fn fits(&self, algorithm: Algorithm) -> bool {
        self.only.is_none_or(|only| only == algorithm) && self.verifier(algorithm).is_some()
    }

    /// Verifies a signature.
    pub(in crate::identity) fn verify(
        &self,
        algorithm: Algorithm,
        signed: &[u8],
        signature: &[u8],
    ) -> Result<(), Bad> {
        if !self.fits(algorithm) {
            return Err(Bad);
        }
        let verified = match (self.verifier(algorithm).ok_or(Bad)?, &self.material) {
            (Verifier::Rsa(parameters), Material::Rsa { n, e }) => {
                RsaPublicKeyComponents { n, e }.verify(parameters, signed, signature)
            }
            (
                Verifier::Curve(verification),
                Material::P256(key)
                | Material::P384(key)
                | Material::P521(key)
                | Material::Ed25519(key),
            ) => UnparsedPublicKey::new(verification, key).verify(signed, signature),
            _ => return Err(Bad),
        };
        verified.map_err(|_| Bad)
    }

    fn verifier(&self, algorithm: Algorithm) -> Option<Verifier> {
        use Algorithm as A;
        Some(match (&self.material, algorithm) {
            (Material::Rsa { .. }, A::Rs256) => {
                Verifier::Rsa(&signature::RSA_PKCS1_2048_8192_SHA256)
            }
            (Material::Rsa { .. }, A::Rs384) => {
                Verifier::Rsa(&signature::RSA_PKCS1_2048_8192_SHA384)
            }
            (Material::Rsa { .. }, A::Rs512) => {
                Verifier::Rsa(&signature::RSA_PKCS1_2048_8192_SHA512)
            }
            (Material::Rsa { .. }, A::Ps256) => Verifier::Rsa(&signature::RSA_PSS_2048_8192_SHA256),
            (Material::Rsa { .. }, A::Ps384) => Verifier::Rsa(&signature::RSA_PSS_2048_8192_SHA384),
            (Material::Rsa { .. }, A::Ps512) => Verifier::Rsa(&signature::RSA_PSS_2048_8192_SHA512),
            (Material::P256(_), A::Es256) => Verifier::Curve(&signature::ECDSA_P256_SHA256_FIXED),
            (Material::P384(_), A::Es384) => Verifier::Curve(&signature::ECDSA_P384_SHA384_FIXED),
            (Material::P521(_), A::Es512) => Verifier::Curve(&signature::ECDSA_P521_SHA512_FIXED),
            (Material::Ed25519(_), A::EdDsa) => Verifier::Curve(&signature::ED25519),
            _ => return None,
        })
    }
}

enum Verifier {
    Rsa(&'static signature::RsaParameters),
    Curve(&'static dyn VerificationAlgorithm),
}

impl Material {
    /// At least 2048 bits (RFC 7518 §3.3), and an exponent that is one.
    fn rsa(n: Vec<u8>, e: Vec<u8>) -> Option<Self> {
        let bits = n.iter().position(|b| *b != 0).map(|zeros| {
            let top = n.get(zeros).map_or(0, |b| b.leading_zeros() as usize);
            (n.len() - zeros) * 8 - top
        })?;
        let odd = e.last().is_some_and(|b| b % 2 == 1);
        let above_one = e.len() > 1 || e.first().is_some_and(|b| *b > 1);
        let fits = (2048..=8192).contains(&bits) && e.len() <= 8 && odd && above_one;
        fits.then_some(Self::Rsa { n, e })
    }

    /// Not a point of small order: under such a key one signature holds for many texts or for all (RFC 8032 §8.9 leaves
    /// it to whoever verifies to look).
    fn ed25519(x: Vec<u8>) -> Option<Self> {
        let mut y: [u8; 32] = (*x).try_into().ok()?;
        // The top bit is the sign of the other coordinate.
        y[31] &= 0x7f;
        (!SMALL.contains(&y)).then_some(Self::Ed25519(x))
    }
}

/// A number of 255 bits whose lowest and highest byte are these, with this between.
const fn filled(lowest: u8, between: u8, highest: u8) -> [u8; 32] {
    let mut bytes = [between; 32];
    bytes[0] = lowest;
    bytes[31] = highest;
    bytes
}

/// The points of order 1, 2, 4 and 8 of edwards25519, by their y in each form in which it can be written: 1, 0, -1, the
/// two of order 8, and 0 and 1 once more with the field's prime added.
const SMALL: [[u8; 32]; 7] = [
    filled(1, 0, 0),
    filled(0, 0, 0),
    filled(0xec, 0xff, 0x7f),
    [
        0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98,
        0xf0, 0xd5, 0xdf, 0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53,
        0xfc, 0x05,
    ],
    [
        0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67,
        0x0f, 0x2a, 0x20, 0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac,
        0x03, 0x7a,
    ],
    filled(0xed, 0xff, 0x7f),
    filled(0xee, 0xff, 0x7f),
];
