//! `[login.NAME]`: people, by the tokens that an OpenID issuer gave them.
//!
//! A person's token counts where it is of the issuer, for our client, and whole; whose hands it came through, it does
//! not say. Who shows it proves itself beside it.

use std::sync::Arc;

use super::AttestError;
use super::jwt::object::Object;
use super::jwt::set::{KeySite, key_of};
use super::jwt::token::{Rules, Unverified};
use super::settings::{Algorithm, KeyPlace};
use crate::agent::{Name, User};
use crate::clock::Clock;
use crate::issuer::{Endpoint, Network, Refreshed};
use crate::secret::Secret;

use jiff::Timestamp;

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
}

/// As what a person's token was presented.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UserEvidence {
    /// OpenID Connect Core 1.0 §2.
    IdToken,
    /// RFC 9068, or a JWT of that shape.
    AccessToken,
}

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
    /// [`AttestError::Bad`] for a token of an issuer here that does not hold; [`AttestError::Unavailable`] where its
    /// keys cannot be had.
    pub async fn person(
        &self,
        token: &Secret,
        shown_as: UserEvidence,
    ) -> Result<Option<Known>, AttestError> {
        let Some(token) = Unverified::read(token.expose()) else {
            return Ok(None);
        };
        let issuer = token.claims.text("iss");
        let mut all = self.0.iter();
        let Some(one) = all.find(|one| issuer == Some(&one.login.issuer)) else {
            return Ok(None);
        };
        let (algorithm, id) = token.header(&ALGORITHMS)?;
        let now = one.clock.now().wall;
        let expires = one.rules.check(&token.claims, now)?;
        if !one.fits(&token, shown_as) || expires <= now {
            return Err(AttestError::Bad);
        }
        let key = key_of(&one.keys, |keys| keys.find(id, algorithm)).await?;
        token.verify(algorithm, &key)?;
        let name = one.user(&token.claims).ok_or(AttestError::Bad)?;
        Ok(Some(Known {
            user: User {
                provider: one.login.name.clone(),
                name: name.into(),
            },
            expires,
        }))
    }
}

impl One {
    /// Whether the token is of the type that it was shown as.
    fn fits(&self, token: &Unverified<'_>, shown_as: UserEvidence) -> bool {
        let is_access = token.is_access_token();
        match shown_as {
            UserEvidence::AccessToken => true,
            // OpenID Connect Core 1.0 §3.1.3.7: with several audiences, whom it was issued to must be we.
            UserEvidence::IdToken => {
                let party = token.claims.get("azp");
                !is_access && party.is_none_or(|party| *party == *self.login.client_id)
            }
        }
    }

    /// A name that can stand in a record, and by which nobody else is known.
    fn user<'t>(&self, claims: &'t Object) -> Option<&'t str> {
        let claim = &*self.login.user_claim;
        // An address that nobody has verified is whoever's wrote it.
        let verified = claims.get("email_verified");
        if claim == "email" && verified.is_some_and(|is| *is != true) {
            return None;
        }
        let name = claims.text(claim)?;
        let clean = !name.is_empty() && name.len() <= 256 && !name.chars().any(char::is_control);
        clean.then_some(name)
    }
}

/// What issuers of people's tokens sign with.
const ALGORITHMS: [Algorithm; 5] = [
    Algorithm::Rs256,
    Algorithm::Ps256,
    Algorithm::Es256,
    Algorithm::Es384,
    Algorithm::EdDsa,
];
