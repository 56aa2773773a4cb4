//! The session token: an ES256 JWT of our own (RFC 9068 `at+jwt`, RFC 8693 §4.1 `act`), made and read.
//!
//! Reading pins everything: one algorithm, one type, our keys by their `kid`. Nothing of the payload is looked at
//! before the signature holds; what else a head may say of keys (`jwk`, `jku`, `x5u`, `x5c`) is not read at all.

mod name;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Map, Value, json};

pub use name::name_agent;

use super::keys::{BadKey, Keys};
use super::{Session, random_id};
use crate::agent::AgentId;

/// `aud` of every session token.
pub const AUDIENCE: &str = "keyward";
/// `typ` of every session token.
const TYPE: &str = "at+jwt";
/// The longest token that is looked at, in bytes.
const LONGEST: usize = 16 * 1024;
/// The longest head, in bytes: ours has 100.
const LONGEST_HEAD: usize = 2 * 1024;

/// What a token says, once its signature holds.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Claims {
    /// Who issued it.
    pub iss: String,
    /// For whom.
    aud: String,
    /// The session.
    pub sid: String,
    /// When it ends, in Unix seconds.
    pub exp: i64,
    nbf: Option<i64>,
}

/// Why a token opens nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenFault {
    /// No key of ours signed it, as its head says itself: somebody else may know it.
    #[error("it is no session token of this keyward")]
    NotOurs,
    /// It names a key of ours, and does not hold.
    #[error("the session token does not hold")]
    Bad,
    /// It was good once.
    #[error("the session token is past its time")]
    Expired,
}

#[derive(Deserialize)]
struct Head<'a> {
    #[serde(borrow)]
    alg: std::borrow::Cow<'a, str>,
    #[serde(borrow)]
    typ: Option<std::borrow::Cow<'a, str>>,
    #[serde(borrow)]
    kid: std::borrow::Cow<'a, str>,
    crit: Option<IgnoredAny>,
    zip: Option<IgnoredAny>,
}

/// Makes the token of a session. `scope` is what it says of its scope; it ends at `exp`, in Unix seconds.
///
/// # Errors
/// [`BadKey`] where nothing can be signed.
pub fn mint(
    keys: &Keys,
    session: &Session,
    issuer: &str,
    (scope, iat, exp): (&str, i64, i64),
) -> Result<String, BadKey> {
    let key = keys.signing().ok_or(BadKey)?;
    let head = json!({ "typ": TYPE, "alg": "ES256", "kid": key.id() });
    let first = session.chain().first().map_or("", AgentId::as_str);
    let mut claims = Map::new();
    let mut claim = |name: &str, value: Value| claims.insert(name.to_owned(), value);
    claim("iss", issuer.into());
    claim("aud", AUDIENCE.into());
    claim("sub", first.into());
    claim("client_id", session.agent().as_str().into());
    claim("sid", (**session.id()).into());
    claim("jti", (*random_id()).into());
    claim("iat", iat.into());
    claim("exp", exp.into());
    if !scope.is_empty() {
        claim("scope", scope.into());
    }
    if let Some(person) = session.person() {
        claim("user", (*person.user.name).into());
    }
    // RFC 8705 §3.1.
    if let Some(thumbprint) = (session.bound()).and_then(|bound| bound.strip_prefix("x5t#S256:")) {
        claim("cnf", json!({ "x5t#S256": thumbprint }));
    }
    if let Some(act) = act(session.chain()) {
        claim("act", act);
    }
    let mut token = BASE64URL.encode(head.to_string());
    token.push('.');
    token.push_str(&BASE64URL.encode(Value::Object(claims).to_string()));
    let signature = key.sign(token.as_bytes(), exp.saturating_mul(1000))?;
    token.push('.');
    token.push_str(&BASE64URL.encode(signature));
    Ok(token)
}

/// `act`: the outermost `sub` is the acting agent, within it who acted before (RFC 8693 §4.1). The first agent is the
/// token's own `sub`.
fn act(chain: &[AgentId]) -> Option<Value> {
    let mut acts = None;
    for agent in chain.iter().skip(1) {
        let mut act = Map::new();
        act.insert("sub".to_owned(), agent.as_str().into());
        if let Some(before) = acts.take() {
            act.insert("act".to_owned(), before);
        }
        acts = Some(Value::Object(act));
    }
    acts
}

/// Reads a token. Whether its session lives is for the caller to see.
///
/// # Errors
/// [`TokenFault`].
pub fn read(keys: &Keys, token: &[u8], now: i64) -> Result<Claims, TokenFault> {
    if token.len() > LONGEST {
        return Err(TokenFault::NotOurs);
    }
    let mut parts = token.split(|b| *b == b'.');
    let (Some(head), Some(payload), Some(signature), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(TokenFault::NotOurs);
    };
    if head.len() > LONGEST_HEAD {
        return Err(TokenFault::NotOurs);
    }
    let signed = token
        .get(..head.len() + 1 + payload.len())
        .ok_or(TokenFault::NotOurs)?;
    let head = BASE64URL.decode(head).map_err(|_| TokenFault::NotOurs)?;
    let head: Head<'_> = serde_json::from_slice(&head).map_err(|_| TokenFault::NotOurs)?;
    let key = keys.find(&head.kid).ok_or(TokenFault::NotOurs)?;
    let pinned = head.alg == "ES256" && head.typ.is_some_and(|typ| typ == TYPE);
    if !pinned || head.crit.is_some() || head.zip.is_some() {
        return Err(TokenFault::Bad);
    }
    let signature = BASE64URL.decode(signature).map_err(|_| TokenFault::Bad)?;
    if !key.verifies(signed, &signature) {
        return Err(TokenFault::Bad);
    }
    let payload = BASE64URL.decode(payload).map_err(|_| TokenFault::Bad)?;
    let claims: Claims = serde_json::from_slice(&payload).map_err(|_| TokenFault::Bad)?;
    if claims.aud != AUDIENCE || claims.nbf.is_some_and(|nbf| nbf > now) {
        return Err(TokenFault::Bad);
    }
    if claims.exp <= now {
        return Err(TokenFault::Expired);
    }
    Ok(claims)
}

#[cfg(test)]
mod tests;
