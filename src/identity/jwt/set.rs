//! The keys of an issuer (JWK Set, RFC 7517 §5), where they are published, and how long they are fresh.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CACHE_CONTROL, HeaderValue};
use http::{Request, StatusCode};
use serde::Deserialize;

use super::Bad;
use super::key::Key;
use super::object::Object;
use crate::identity::AttestError;
use crate::identity::build::Token;
use crate::identity::settings::{Algorithm, KeyPlace};
use crate::issuer::{Answer, Client, Endpoint, Origin, Refreshed};

/// The keys of one issuer at one time.
#[derive(Debug, Default)]
pub(in crate::identity) struct Keys(Vec<Arc<Key>>);

#[derive(Deserialize)]
struct Published {
    keys: Vec<Object>,
}

#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

/// Where they are published.
#[derive(Debug)]
pub(in crate::identity) struct KeySite {
    client: Client,
    place: KeyPlace,
    /// Shown to this endpoint's host and no other: the API server of Kubernetes asks for it.
    bearer: Option<(Endpoint, Arc<dyn Token>)>,
}

impl Keys {
    /// Reads a set. Keys that do not verify here are passed over, as RFC 7517 §5 wants it; a set of too many is none.
    pub(in crate::identity) fn read(
        bytes: &[u8],
        old: Option<&Self>,
    ) -> Result<Self, &'static str> {
        let published: Published =
            serde_json::from_slice(bytes).map_err(|_| "this is not a JWK set")?;
        Self::of(&published.keys, old)
    }

    /// The keys of these. One that was there before is the same object again: what it has verified stays verified.
    pub(in crate::identity) fn of(
        published: &[Object],
        old: Option<&Self>,
    ) -> Result<Self, &'static str> {
        if published.len() > MOST_KEYS {
            return Err("the JWK set holds too many keys");
        }
        let kept = |key: Key| {
            let known = old.and_then(|old| old.0.iter().find(|known| ***known == key));
            known.cloned().unwrap_or_else(|| Arc::new(key))
        };
        Ok(Self(
            published.iter().filter_map(Key::read).map(kept).collect(),
        ))
    }

    /// The key of this id for this algorithm. Without an id there must be but one that fits.
    pub(in crate::identity) fn find(
        &self,
        id: Option<&str>,
        algorithm: Algorithm,
    ) -> Option<&Arc<Key>> {
        let fits =
            |key: &&Arc<Key>| key.fits(algorithm) && (id.is_none() || key.id.as_deref() == id);
        let mut found = self.0.iter().filter(fits);
        let first = found.next()?;
        found.next().is_none().then_some(first)
    }

    /// Whether this very key is still published.
    pub(in crate::identity) fn holds(&self, key: &Arc<Key>) -> bool {
        self.0.iter().any(|known| Arc::ptr_eq(known, key))
    }
}

impl KeySite {
    /// Asks nobody yet.
    pub(in crate::identity) fn new(client: Client, place: KeyPlace) -> Self {
        Self {
            client,
            place,
            bearer: None,
        }
    }

    /// Shows this token to that endpoint's host.
    pub(in crate::identity) fn with_bearer(mut self, bearer: (Endpoint, Arc<dyn Token>)) -> Self {
        self.bearer = Some(bearer);
        self
    }

    async fn get(&self, url: &Endpoint) -> Result<Answer, &'static str> {
        let mut request = Request::get(url.uri().clone());
        if let Some((home, token)) = &self.bearer
            && home.target() == url.target()
        {
            let token = token
                .current()
                .ok_or("the token for the issuer has no value")?;
            let value = [b"Bearer ", token.expose()].concat();
            let mut value =
                HeaderValue::from_bytes(&value).map_err(|_| "the token is no header")?;
            value.set_sensitive(true);
            request = request.header(AUTHORIZATION, value);
        }
        ask(&self.client, request).await
    }

    async fn place(&self) -> Result<Endpoint, &'static str> {
        // OpenID Connect Discovery 1.0 §4.
        let (base, issuer) = match &self.place {
            KeyPlace::Url(url) => return Ok(url.clone()),
            KeyPlace::Discovery(base, issuer) => (base, issuer),
        };
        let url = base
            .join("/.well-known/openid-configuration")
            .map_err(|_| "the issuer is no URL")?;
        let found: Discovery = self
            .get(&url)
            .await?
            .json()
            .map_err(|_| "the issuer's metadata is not what was expected")?;
        // OpenID Connect Discovery 1.0 §4.3: exactly, a slash at the end included.
        if found.issuer != *issuer {
            return Err("the metadata names another issuer");
        }
        found
            .jwks_uri
            .parse()
            .map_err(|_| "the metadata's jwks_uri is no https URL")
    }
}

#[async_trait]
impl Origin for KeySite {
    type Value = Keys;

    async fn fetch(&self, old: Option<&Keys>) -> Result<(Keys, Duration), &'static str> {
        let answer = self.get(&self.place().await?).await?;
        if answer.body.len() > MOST_BYTES {
            return Err("the JWK set is too long");
        }
        let keys = Keys::read(&answer.body, old)?;
        if keys.0.is_empty() {
            return Err("the JWK set holds no key that verifies signatures");
        }
        Ok((keys, freshness(&answer)))
    }

    fn name(&self) -> &str {
        match &self.place {
            KeyPlace::Discovery(_, issuer) => issuer,
            KeyPlace::Url(url) => url.uri().host().unwrap_or("jwks-url"),
        }
    }
}

/// `max-age` (RFC 9111 §5.2.2.1), within bounds; a published key is worth a call a minute at most.
fn freshness(answer: &Answer) -> Duration {
    let fields = answer.headers.get_all(CACHE_CONTROL).iter();
    let ages = fields
        .filter_map(|field| field.to_str().ok())
        .flat_map(|field| field.split(','))
        .filter_map(|part| part.trim().strip_prefix("max-age=")?.parse().ok())
        .map(Duration::from_secs);
    ages.min().unwrap_or(FRESH).clamp(FRESH_LEAST, FRESH_MOST)
}

async fn ask(client: &Client, request: http::request::Builder) -> Result<Answer, &'static str> {
    let request = request
        .header(ACCEPT, "application/json")
        .body(Bytes::new());
    let answer = client.send(request.map_err(|_| "the URL is none")?).await;
    let answer = answer.map_err(|_| "it is out of reach, or its answer too long")?;
    if answer.status != StatusCode::OK {
        return Err("its answer is not 200");
    }
    Ok(answer)
}

/// The key by which a token says that it was signed; asked for anew where it is not known. Where nobody may ask just now, nobody
/// knows whether the token is good: [`AttestError::Unavailable`].
pub(in crate::identity) async fn key_of<O: Origin>(
    keys: &Refreshed<O>,
    find: impl Fn(&O::Value) -> Option<&Arc<Key>>,
) -> Result<Arc<Key>, AttestError> {
    let known = keys.current().await.map_err(|_| AttestError::Unavailable)?;
    if let Some(key) = find(&known) {
        return Ok(Arc::clone(key));
    }
    let renewed = keys.renewed(known).await;
    let renewed = renewed.map_err(|_| AttestError::Unavailable)?;
    Ok(Arc::clone(find(&renewed).ok_or(Bad)?))
}

/// What an issuer without `Cache-Control` gets.
const FRESH: Duration = Duration::from_mins(10);
/// The bounds of what `Cache-Control` can say.
const FRESH_LEAST: Duration = Duration::from_mins(1);
const FRESH_MOST: Duration = Duration::from_hours(24);
/// The longest JWK set that is read, in bytes.
const MOST_BYTES: usize = 256 * 1024;
/// The most keys of a set.
const MOST_KEYS: usize = 256;
