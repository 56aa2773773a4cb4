//! JWTs that keyward signs with a key from the file (RFC 7515, RFC 7519).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use jsonwebtoken as jwt;
use serde_json::Value;
use tracing::warn;
use zeroize::Zeroizing;

use super::super::{IssueError, Watched};
use super::Around;
use super::settings::{Algorithm, SigningKey};
use crate::secret::Secret;

/// A key that follows its source.
#[derive(Debug)]
pub(in super::super) struct Signer {
    pem: Watched,
    algorithm: Algorithm,
    id: Option<String>,
}

impl Signer {
    pub(in super::super) async fn open(key: &SigningKey, around: &Around<'_>) -> Self {
        Self {
            pem: around.watch(&key.pem).await,
            algorithm: key.algorithm,
            id: key.id.as_deref().map(str::to_owned),
        }
    }

    /// A JWT of these claims.
    pub(in super::super) fn sign(&self, claims: &Value) -> Result<Zeroizing<String>, IssueError> {
        let pem = current(&self.pem)?;
        sign(pem.expose(), self.algorithm, self.id.clone(), claims)
    }
}

/// The value of a source that an issuer is asked with. Without one it is asked again soon: the source is followed.
pub(in super::super) fn current(watched: &Watched) -> Result<std::sync::Arc<Secret>, IssueError> {
    watched.current().map_err(|error| {
        warn!(source = ?watched, %error, "a secret that an issuer is asked with has no value");
        IssueError::Unavailable {
            retry_after: Some(std::time::Duration::from_secs(1)),
        }
    })
}

/// Signs with a private key in PEM.
pub(in super::super) fn sign(
    pem: &[u8],
    algorithm: Algorithm,
    id: Option<String>,
    claims: &Value,
) -> Result<Zeroizing<String>, IssueError> {
    let (read, algorithm): (fn(&[u8]) -> _, _) = match algorithm {
        Algorithm::Rs256 => (jwt::EncodingKey::from_rsa_pem, jwt::Algorithm::RS256),
        Algorithm::Ps256 => (jwt::EncodingKey::from_rsa_pem, jwt::Algorithm::PS256),
        Algorithm::Es256 => (jwt::EncodingKey::from_ec_pem, jwt::Algorithm::ES256),
        Algorithm::Es384 => (jwt::EncodingKey::from_ec_pem, jwt::Algorithm::ES384),
        Algorithm::EdDsa => (jwt::EncodingKey::from_ed_pem, jwt::Algorithm::EdDSA),
    };
    let mut header = jwt::Header::new(algorithm);
    header.kid = id;
    let signed = read(pem).and_then(|key| jwt::encode(&header, claims, &key));
    // The error could quote what stands in the file.
    signed.map(Zeroizing::new).map_err(|_| {
        warn!(algorithm = ?algorithm, "a private key is not one of this algorithm in PEM (PKCS#8)");
        IssueError::Refused
    })
}

/// 16 random bytes, for a `jti`.
pub(in super::super) fn random_id() -> Result<[u8; 16], IssueError> {
    let mut id = [0; 16];
    aws_lc_rs::rand::fill(&mut id).map_err(|_| IssueError::Unavailable { retry_after: None })?;
    Ok(id)
}

/// A `jti` that no other JWT has.
pub(in super::super) fn unique() -> Result<String, IssueError> {
    Ok(BASE64URL.encode(random_id()?))
}
