//! A JWT in compact form (RFC 7515 §3.1), taken apart without believing it, and the claims that it must have.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use jiff::Timestamp;
use serde_json::Value;

use super::Bad;
use super::key::Key;
use super::object::Object;
use crate::identity::settings::Algorithm;

/// A token as it says it is. Nothing of it holds before [`Unverified::verify`] and [`Rules::check`].
#[derive(Debug)]
pub(in crate::identity) struct Unverified<'t> {
    header: Object,
    pub(in crate::identity) claims: Object,
    signed: &'t [u8],
    signature: &'t [u8],
}

impl<'t> Unverified<'t> {
    /// Takes it apart. `None`: this is no JWT, but some other token; a JWE, which has five parts, is none either.
    pub(in crate::identity) fn read(token: &'t [u8]) -> Option<Self> {
        if token.len() > LONGEST {
            return None;
        }
        let second = memchr::memrchr(b'.', token)?;
        let (signed, signature) = (token.get(..second)?, token.get(second + 1..)?);
        let first = memchr::memchr(b'.', signed)?;
        let (header, claims) = (signed.get(..first)?, signed.get(first + 1..)?);
        let object = |part: &[u8]| {
            let bytes = BASE64URL.decode(part).ok()?;
            serde_json::from_slice::<Object>(&bytes).ok()
        };
        let header = object(header)?;
        header.has("alg").then_some(())?;
        Some(Self {
            header,
            claims: object(claims)?,
            signed,
            signature,
        })
    }

    /// The algorithm, the id of the key, and that the rest of the header asks for nothing that is not done here. `jwk`,
    /// `jku`, `x5u` and `x5c` are never looked at: keys come from the issuer (RFC 8725 §3.10).
    pub(in crate::identity) fn header(
        &self,
        accepted: &[Algorithm],
    ) -> Result<(Algorithm, Option<&str>), Bad> {
        let algorithm: Algorithm = self
            .header
            .text("alg")
            .ok_or(Bad)?
            .parse()
            .map_err(|_| Bad)?;
        let strange = ["crit", "b64", "zip", "enc"];
        if !accepted.contains(&algorithm) || strange.iter().any(|name| self.header.has(name)) {
            return Err(Bad);
        }
        let typ = match self.header.get("typ") {
            None => None,
            Some(typ) => Some(typ.as_str().ok_or(Bad)?),
        };
        if typ.is_some_and(|typ| !is_typ(typ)) {
            return Err(Bad);
        }
        let id = match self.header.get("kid") {
            None => None,
            Some(id) => Some(id.as_str().ok_or(Bad)?),
        };
        Ok((algorithm, id))
    }

    /// Whether it says of itself that it is an access token (RFC 9068 §2.1; Keycloak says `Bearer` in a claim).
    pub(in crate::identity) fn is_access_token(&self) -> bool {
        let typ = self.header.text("typ").unwrap_or_default();
        let typ = typ.to_ascii_lowercase();
        typ.ends_with("at+jwt") || self.claims.text("typ") == Some("Bearer")
    }

    /// Whether this key made the signature.
    pub(in crate::identity) fn verify(&self, algorithm: Algorithm, key: &Key) -> Result<(), Bad> {
        let signature = BASE64URL.decode(self.signature).map_err(|_| Bad)?;
        key.verify(algorithm, self.signed, &signature)
    }
}

/// Identity and access tokens, and those that do not say. Not a logout token, a DPoP proof, a refresh token (RFC 8725
/// §3.11).
fn is_typ(typ: &str) -> bool {
    let typ = typ.to_ascii_lowercase();
    let typ = typ.strip_prefix("application/").unwrap_or(&typ);
    matches!(typ, "jwt" | "at+jwt" | "jose")
}

/// What claims must say.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::identity) struct Rules {
    /// `iss`, exactly; `None` does not ask.
    pub(in crate::identity) issuer: Option<String>,
    /// `aud` must hold one of these.
    pub(in crate::identity) audience: Vec<String>,
    /// Each of these claims must be one of its texts.
    pub(in crate::identity) claims: Vec<(String, Vec<String>)>,
}

impl Rules {
    /// Checks all but the signature; the end of the token.
    pub(in crate::identity) fn check(
        &self,
        claims: &Object,
        now: Timestamp,
    ) -> Result<Timestamp, Bad> {
        if self.issuer.is_some() && claims.text("iss") != self.issuer.as_deref() {
            return Err(Bad);
        }
        let audience = claims.get("aud").ok_or(Bad)?;
        if !self.is_for_us(audience) {
            return Err(Bad);
        }
        let expires = claims.date("exp")?.ok_or(Bad)?;
        let now = now.as_second();
        let future = |name| {
            let date = claims.date(name)?;
            Ok::<_, Bad>(date.is_some_and(|date| date > now + SKEW))
        };
        if now >= expires + LEEWAY || future("nbf")? || future("iat")? {
            return Err(Bad);
        }
        // Keycloak's refresh tokens look like access tokens but for this; `events` marks a security event (RFC 8417 §2.2).
        if matches!(claims.text("typ"), Some("Refresh" | "Offline" | "Logout"))
            || claims.has("events")
        {
            return Err(Bad);
        }
        for (name, texts) in &self.claims {
            let value = claims.text(name).ok_or(Bad)?;
            if !texts.iter().any(|text| text == value) {
                return Err(Bad);
            }
        }
        Timestamp::from_second(expires).map_err(|_| Bad)
    }

    /// RFC 7519 §4.1.3: a text, or a list of texts; nothing else.
    fn is_for_us(&self, audience: &Value) -> bool {
        let ours = |text: &str| self.audience.iter().any(|known| known == text);
        match audience {
            Value::String(text) => ours(text),
            Value::Array(list) => {
                list.iter().all(Value::is_string) && list.iter().filter_map(Value::as_str).any(ours)
            }
            _ => false,
        }
    }
}

/// The subject of claims: a text that can stand in a record.
pub(in crate::identity) fn subject(claims: &Object) -> Result<&str, Bad> {
    let subject = claims.text("sub").ok_or(Bad)?;
    let clean = !subject.is_empty() && subject.len() <= 1024;
    if !clean || subject.chars().any(char::is_control) {
        return Err(Bad);
    }
    Ok(subject)
}

/// The longest token that is looked at, in bytes.
const LONGEST: usize = 16 * 1024;
/// How long past its end a token holds, in seconds: clocks differ.
const LEEWAY: i64 = 5;
/// How far in the future it may be issued, in seconds.
const SKEW: i64 = 30;
