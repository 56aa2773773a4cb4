//! `[login.NAME]`: people, by the tokens that an OpenID issuer gave them.
//!
//! A person's token counts where it is of the issuer, for our client, and whole; whose hands it came through, it does
//! not say. Who shows it proves itself beside it.

use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, SHA384, SHA512, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use jiff::Timestamp;
use serde_json::Value;

use super::AttestError;
use super::jwt::Bad;
use super::jwt::object::Object;
use super::jwt::set::{KeySite, key_of};
use super::jwt::token::{Rules, Unverified};
use super::settings::{Algorithm, KeyPlace};
use crate::agent::{Name, User};
use crate::clock::Clock;
use crate::issuer::{Endpoint, Network, Refreshed};
use crate::secret::Secret;

/// `[login.NAME.oidc]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Login {
    /// NAME.
    pub name: Name,
    /// `issuer`, as it stands in `iss`.
    pub issuer: String,
    /// Where its metadata are.
    pub discovery: Endpoint,
    /// `client-id`.
    pub client_id: String,
    /// `scopes`.
    pub scopes: Vec<String>,
    /// `user-claim`.
    pub user_claim: String,
}

/// A person whose token holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// Who it is.
    pub user: User,
    /// When the token ends.
    pub expires: Timestamp,
    /// `may_act`, where the token has it.
    may_act: Option<Value>,
}

impl Known {
    /// Whether this agent of ours may act for the person (RFC 8693 §4.4): where the token says who may, it must be the agent
    /// by its id, and nothing is said of it beside that and our own `issuer`.
    pub fn lets_act(&self, agent: &str, issuer: &str) -> bool {
        let Some(named) = &self.may_act else {
            return true;
        };
        named.as_object().is_some_and(|named| {
            let says = |name: &str, value: &Value| match name {
                "sub" => *value == *agent,
                "iss" => *value == *issuer,
                _ => false,
            };
            named.contains_key("sub") && named.iter().all(|(name, value)| says(name, value))
        })
    }
}

/// As what a person's token was presented.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UserEvidence {
    /// OpenID Connect Core 1.0 §2.
    IdToken,
    /// RFC 9068, or a JWT of that shape that cannot be an ID token of another party.
    AccessToken,
}

/// Why a token tells of nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PersonError {
    /// It is of an issuer here, and bad.
    #[error("the token does not hold, or names nobody")]
    Bad,
    /// It names the person by an address that the issuer does not say to have verified.
    #[error("the token's email is not verified: `email_verified` must be true")]
    Unverified,
    /// The issuer is out of reach.
    #[error("the login's provider is out of reach")]
    Unavailable,
}

impl From<Bad> for PersonError {
    fn from(_: Bad) -> Self {
        Self::Bad
    }
}

impl From<AttestError> for PersonError {
    fn from(error: AttestError) -> Self {
        match error {
            AttestError::Bad => Self::Bad,
            AttestError::Unavailable => Self::Unavailable,
        }
    }
}

/// What a sign-in expects of the ID token that came of it, beside that it holds.
#[derive(Debug, Clone, Copy)]
pub struct Expected<'a> {
    /// The login that the person signed in at.
    pub login: &'a Name,
    /// The `nonce` that went out; `None` where the grant has none (RFC 8628, RFC 6749 §6).
    pub nonce: Option<&'a str>,
    /// The person must have shown who it is since then (`auth_time`), give or take [`SKEW`].
    pub since: Option<Timestamp>,
    /// The access token that came beside it.
    pub access_token: Option<&'a Secret>,
}

/// How far, in seconds, a provider's clock may be behind for `auth_time`.
const SKEW: i64 = 60;

/// The logins of one configuration.
#[derive(Debug, Default)]
pub struct Logins(Vec<One>);

#[derive(Debug)]
struct One {
    login: Login,
    rules: Rules,
    keys: Refreshed<KeySite>,
    clock: Arc<dyn Clock>,
}

impl Logins {
    /// Asks nobody yet.
    pub fn new(logins: &[Login], network: &Network, clock: &Arc<dyn Clock>) -> Self {
        let one = |login: &Login| {
            let place = KeyPlace::Discovery(login.discovery.clone(), login.issuer.clone());
            let site = KeySite::new(network.client(), place);
            One {
                login: login.clone(),
                rules: Rules {
                    issuer: Some(login.issuer.clone()),
                    audience: vec![login.client_id.clone()],
                    claims: Vec::new(),
                },
                keys: Refreshed::new(site, Arc::clone(clock)),
                clock: Arc::clone(clock),
            }
        };
        Self(logins.iter().map(one).collect())
    }

    /// Whose token it is. `Ok(None)`: of no issuer here.
    ///
    /// # Errors
    /// [`PersonError`]: it is of an issuer here and does not hold, or the issuer's keys cannot be had.
    pub async fn person(
        &self,
        token: &Secret,
        shown_as: UserEvidence,
    ) -> Result<Option<Known>, PersonError> {
        let Some(token) = Unverified::read(token.expose()) else {
            return Ok(None);
        };
        self.verified(&token, shown_as).await
    }

    /// Who signed in, by the ID token that a token endpoint gave (OpenID Connect Core 1.0 §3.1.3.7).
    ///
    /// # Errors
    /// [`PersonError`].
    pub async fn signed_in(
        &self,
        id_token: &Secret,
        expected: Expected<'_>,
    ) -> Result<Known, PersonError> {
        let token = Unverified::read(id_token.expose()).ok_or(PersonError::Bad)?;
        // Item 11. What was signed by another request is another sign-in.
        if expected.nonce.is_some() && token.claims.text("nonce") != expected.nonce {
            return Err(PersonError::Bad);
        }
        if let Some(since) = expected.since {
            let shown = token.claims.get("auth_time").and_then(Value::as_i64);
            if shown.is_none_or(|at| at < since.as_second() - SKEW) {
                return Err(PersonError::Bad);
            }
        }
        let (algorithm, _) = token.header(&ALGORITHMS)?;
        if !is_hash_of(
            token.claims.get("at_hash"),
            expected.access_token,
            algorithm,
        ) {
            return Err(PersonError::Bad);
        }
        let known = self.verified(&token, UserEvidence::IdToken).await?;
        known
            .filter(|known| known.user.provider == *expected.login)
            .ok_or(PersonError::Bad)
    }

    async fn verified(
        &self,
        token: &Unverified<'_>,
        shown_as: UserEvidence,
    ) -> Result<Option<Known>, PersonError> {
        let issuer = token.claims.text("iss");
        let mut all = self.0.iter();
        let Some(one) = all.find(|one| issuer == Some(&one.login.issuer)) else {
            return Ok(None);
        };
        let (algorithm, id) = token.header(&ALGORITHMS)?;
        let now = one.clock.now().wall;
        let expires = one.rules.check(&token.claims, now)?;
        if !one.fits(token, shown_as) || expires <= now {
            return Err(PersonError::Bad);
        }
        let key = key_of(&one.keys, |keys| keys.find(id, algorithm)).await?;
        token.verify(algorithm, &key)?;
        let name = one.user(&token.claims)?;
        Ok(Some(Known {
            user: User {
                provider: one.login.name.clone(),
                name: name.into(),
            },
            expires,
            may_act: token.claims.get("may_act").cloned(),
        }))
    }
}

impl One {
    /// Whether the token is of the type that it was shown as.
    fn fits(&self, token: &Unverified<'_>, shown_as: UserEvidence) -> bool {
        let is_access = token.is_access_token();
        let party = token.claims.get("azp");
        let is_party = party.is_some_and(|party| *party == *self.login.client_id);
        // That it is for us at all was checked.
        let audiences = token.claims.get("aud").and_then(Value::as_array);
        let is_alone = audiences.is_none_or(|all| all.len() == 1);
        match shown_as {
            // What does not say that it is an access token may be an ID token that another party got, and each of several
            // audiences could show it here. One that is for us alone is shown to nobody else, whoever asked for it.
            UserEvidence::AccessToken => is_access || is_alone || is_party,
            // OpenID Connect Core 1.0 §3.1.3.7, items 3 to 5: whom it was issued to must be we, and with several
            // audiences it must say so.
            UserEvidence::IdToken => !is_access && (is_party || (party.is_none() && is_alone)),
        }
    }

    /// A name that can stand in a record, and by which nobody else is known.
    fn user<'t>(&self, claims: &'t Object) -> Result<&'t str, PersonError> {
        let claim = &*self.login.user_claim;
        // OpenID Connect Core 1.0 §5.1, §5.7: an address that the issuer does not say to have verified is whoever's
        // wrote it.
        if claim == "email" && claims.get("email_verified") != Some(&Value::Bool(true)) {
            return Err(PersonError::Unverified);
        }
        let name = claims.text(claim).ok_or(PersonError::Bad)?;
        let clean = !name.is_empty() && name.len() <= 256 && !name.chars().any(char::is_control);
        if clean {
            Ok(name)
        } else {
            Err(PersonError::Bad)
        }
    }
}

/// OpenID Connect Core 1.0 §3.1.3.6: the left half of the access token's hash, by the hash of the signature. One that is
/// not there promises nothing; one that is there must be right.
fn is_hash_of(claim: Option<&Value>, token: Option<&Secret>, algorithm: Algorithm) -> bool {
    let Some(claim) = claim else {
        return true;
    };
    let hash = match algorithm {
        Algorithm::Rs256 | Algorithm::Ps256 | Algorithm::Es256 => &SHA256,
        Algorithm::Rs384 | Algorithm::Ps384 | Algorithm::Es384 => &SHA384,
        // Ed25519 hashes with SHA-512 (RFC 8032 §5.1).
        Algorithm::Rs512 | Algorithm::Ps512 | Algorithm::Es512 | Algorithm::EdDsa => &SHA512,
    };
    let Some(token) = token else {
        return false;
    };
    let sum = digest(hash, token.expose());
    let left = sum.as_ref().get(..sum.as_ref().len() / 2);
    left.is_some_and(|left| *claim == BASE64URL.encode(left))
}

/// What issuers of people's tokens sign with.
const ALGORITHMS: [Algorithm; 5] = [
    Algorithm::Rs256,
    Algorithm::Ps256,
    Algorithm::Es256,
    Algorithm::Es384,
    Algorithm::EdDsa,
];
