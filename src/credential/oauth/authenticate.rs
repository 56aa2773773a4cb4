//! Who asks: the ways in which a client shows an issuer that it is the one.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue};
use parking_lot::Mutex;
use serde_json::json;
use tracing::warn;
use zeroize::Zeroizing;

use super::super::{IssueError, Watched};
use super::Around;
use super::form::{self, Form};
use super::settings::{self, ClientAuth};
use super::sign::{Signer, current, unique};
use crate::clock::Now;
use crate::issuer;
use crate::issuer::Network;
use crate::secret::Secret;
use crate::tls::ClientIdentity;

/// A client of an issuer, with what follows its sources.
#[derive(Debug)]
pub(super) struct Identity {
    id: Arc<str>,
    auth: Auth,
}

#[derive(Debug)]
enum Auth {
    Basic(Watched),
    Post(Watched),
    Jwt(Signer, Option<Arc<str>>),
    Tls(Box<Mutual>),
    Assertion(Watched),
}

/// A certificate, its key, and the connections that were opened with them.
#[derive(Debug)]
struct Mutual {
    network: Network,
    certificate: Watched,
    key: Watched,
    made: Mutex<Option<Made>>,
}

#[derive(Debug)]
struct Made {
    of: (Arc<Secret>, Arc<Secret>),
    client: issuer::Client,
}

impl Identity {
    pub(super) async fn open(client: &settings::Client, around: &Around<'_>) -> Self {
        let auth = match &client.auth {
            ClientAuth::SecretBasic(secret) => Auth::Basic(around.watch(secret).await),
            ClientAuth::SecretPost(secret) => Auth::Post(around.watch(secret).await),
            ClientAuth::Assertion(jwt) => Auth::Assertion(around.watch(jwt).await),
            ClientAuth::PrivateKeyJwt { key, audience } => {
                Auth::Jwt(Signer::open(key, around).await, audience.clone())
            }
            ClientAuth::Tls { certificate, key } => Auth::Tls(Box::new(Mutual {
                network: around.network.clone(),
                certificate: around.watch(certificate).await,
                key: around.watch(key).await,
                made: Mutex::default(),
            })),
        };
        Self {
            id: Arc::clone(&client.id),
            auth,
        }
    }

    /// The connections on which the client shows its certificate; `None` where it has none.
    pub(super) fn connections(&self) -> Result<Option<issuer::Client>, IssueError> {
        match &self.auth {
            Auth::Tls(mutual) => mutual.client().map(Some),
            Auth::Basic(_) | Auth::Post(_) | Auth::Jwt(..) | Auth::Assertion(_) => Ok(None),
        }
    }

    /// Puts into a request what shows who asks.
    pub(super) fn show(
        &self,
        (form, headers): (&mut Form, &mut HeaderMap),
        audience: &str,
        now: Now,
    ) -> Result<(), IssueError> {
        match &self.auth {
            Auth::Basic(secret) => {
                let value = basic(&self.id, current(secret)?.expose())?;
                headers.insert(AUTHORIZATION, value);
            }
            Auth::Post(secret) => {
                form.push("client_id", &*self.id);
                form.push("client_secret", current(secret)?.expose());
            }
            Auth::Jwt(signer, own) => {
                let issued = now.wall.as_second();
                let assertion = signer.sign(&json!({
                    "iss": &*self.id,
                    "sub": &*self.id,
                    "aud": own.as_deref().unwrap_or(audience),
                    "jti": unique()?,
                    "iat": issued,
                    "exp": issued + LIFE,
                }))?;
                self.assert(form, assertion.as_bytes());
            }
            Auth::Assertion(jwt) => self.assert(form, current(jwt)?.expose()),
            Auth::Tls(_) => form.push("client_id", &*self.id),
        }
        Ok(())
    }

    /// RFC 7523 §2.2.
    fn assert(&self, form: &mut Form, assertion: &[u8]) {
        form.push("client_id", &*self.id);
        form.push("client_assertion_type", ASSERTION_TYPE);
        form.push("client_assertion", assertion);
    }
}

/// RFC 6749 §2.3.1: both are form-encoded first, so that a colon in the id divides nothing.
fn basic(id: &str, secret: &[u8]) -> Result<HeaderValue, IssueError> {
    let room = 3 * (id.len() + secret.len()) + 1;
    let mut pair = Zeroizing::new(Vec::with_capacity(room));
    form::encode(&mut pair, id.as_bytes());
    pair.push(b':');
    form::encode(&mut pair, secret);
    let encoded = Zeroizing::new(BASE64.encode(&*pair));
    let mut text = Zeroizing::new(Vec::with_capacity(encoded.len() + 6));
    text.extend_from_slice(b"Basic ");
    text.extend_from_slice(encoded.as_bytes());
    let mut value = HeaderValue::from_bytes(&text).map_err(|_| IssueError::Refused)?;
    value.set_sensitive(true);
    Ok(value)
}

impl Mutual {
    /// Connections with the certificate as it is now: a renewed one gets connections of its own.
    fn client(&self) -> Result<issuer::Client, IssueError> {
        let of = (current(&self.certificate)?, current(&self.key)?);
        let mut made = self.made.lock();
        if let Some(made) = &*made
            && Arc::ptr_eq(&made.of.0, &of.0)
            && Arc::ptr_eq(&made.of.1, &of.1)
        {
            return Ok(made.client.clone());
        }
        let unusable = |error: &dyn std::fmt::Display| {
            warn!(%error, "a client certificate cannot be used");
            IssueError::Refused
        };
        let identity = ClientIdentity::from_pem(of.0.expose(), &of.1);
        let identity = identity.map_err(|error| unusable(&error))?;
        let client = self.network.client_as(&identity);
        let client = client.map_err(|error| unusable(&error))?;
        *made = Some(Made {
            of,
            client: client.clone(),
        });
        Ok(client)
    }
}

/// How long a client's JWT is good, in seconds.
const LIFE: i64 = 60;
const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn id_and_secret_are_encoded_before_they_are_joined() {
        let value = basic("a:b c", "p%:ö+".as_bytes()).unwrap();
        let text = value.to_str().unwrap().strip_prefix("Basic ").unwrap();
        let pair = BASE64.decode(text).unwrap();
        assert_eq!(String::from_utf8(pair).unwrap(), "a%3Ab+c:p%25%3A%C3%B6%2B");
    }
}
