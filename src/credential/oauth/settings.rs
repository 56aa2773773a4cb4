//! What an operator can set about credentials of OAuth issuers.

use std::str::FromStr;
use std::sync::Arc;

use crate::issuer::{BadEndpoint, Endpoint};

use super::super::Source;

/// One credential of an OAuth issuer, resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where the issuer is.
    pub server: Server,
    /// Who asks; `None` where the grant itself is the proof (RFC 7523 §2.1).
    pub client: Option<Client>,
    /// With what it is asked.
    pub grant: Grant,
    /// `scopes`.
    pub scopes: Vec<Arc<str>>,
    /// `audience`.
    pub audience: Option<Arc<str>>,
    /// `resource` (RFC 8707).
    pub resource: Vec<Arc<str>>,
    /// `dpop`: tokens are bound to a key of their lease (RFC 9449).
    pub dpop: bool,
}

/// Where an issuer is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Server {
    /// `issuer`: its metadata say (RFC 8414).
    Issuer(Issuer),
    /// The file says.
    Urls {
        /// `token-url`.
        token: Endpoint,
        /// `revocation-url`; without it nothing is revoked.
        revocation: Option<Endpoint>,
    },
    /// The service account's key file says (`token_uri`).
    InKeyFile,
}

/// An issuer identifier, and where it is asked. Compared as it is written (RFC 8414 §3.3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issuer {
    text: Arc<str>,
    endpoint: Endpoint,
}

/// A client of an issuer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    /// `client-id`.
    pub id: Arc<str>,
    /// `client-auth`.
    pub auth: ClientAuth,
}

/// How a client shows that it is the one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientAuth {
    /// `client-secret-basic` (RFC 6749 §2.3.1).
    SecretBasic(Source),
    /// `client-secret-post` (RFC 6749 §2.3.1).
    SecretPost(Source),
    /// `private-key-jwt` (RFC 7523 §2.2).
    PrivateKeyJwt {
        /// What signs.
        key: SigningKey,
        /// `aud`: left out it is the issuer, else the token URL.
        audience: Option<Arc<str>>,
    },
    /// `tls-client-auth`, `self-signed-tls-client-auth` (RFC 8705 §2).
    Tls {
        /// `cert`: the file of the chain.
        certificate: Source,
        /// `key`.
        key: Source,
    },
    /// A JWT that somebody else signs, read anew for each call (RFC 7523 §2.2).
    Assertion(Source),
}

/// A private key in PEM, and how it signs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SigningKey {
    /// `key`: PKCS#8, RSA also PKCS#1.
    pub pem: Source,
    /// `alg`.
    pub algorithm: Algorithm,
    /// `kid`.
    pub id: Option<Arc<str>>,
}

/// A JWS algorithm (RFC 7518 §3.1) that keyward signs with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// `RS256`.
    Rs256,
    /// `PS256`.
    Ps256,
    /// `ES256`.
    Es256,
    /// `ES384`.
    Es384,
    /// `EdDSA`.
    EdDsa,
}

impl Algorithm {
    /// The words, as the file and the JOSE header have them.
    pub const WORDS: &'static [&'static str] = &["RS256", "PS256", "ES256", "ES384", "EdDSA"];

    /// The one of this name.
    pub fn of(word: &str) -> Option<Self> {
        match word {
            "RS256" => Some(Self::Rs256),
            "PS256" => Some(Self::Ps256),
            "ES256" => Some(Self::Es256),
            "ES384" => Some(Self::Es384),
            "EdDSA" => Some(Self::EdDsa),
            _ => None,
        }
    }
}

/// What an issuer is asked with: one variant for each kind table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Grant {
    /// `oauth-client-credentials` (RFC 6749 §4.4).
    ClientCredentials,
    /// `token-exchange` (RFC 8693).
    TokenExchange(Exchange),
    /// `oauth-refresh-token` (RFC 6749 §6), with the first one.
    Refresh(Source),
    /// `jwt-bearer` with a key (RFC 7523 §2.1).
    JwtBearer(Assertion),
    /// `jwt-bearer` with a Google key file.
    ServiceAccount(Source),
    /// `jwt-bearer` with a Google workload identity.
    WorkloadIdentity(Workload),
}

/// The tokens of an exchange.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exchange {
    /// `subject-token`.
    pub subject: Party,
    /// `subject-token-type`; left out it is what the token is known to be.
    pub subject_type: Option<Arc<str>>,
    /// `actor-token`.
    pub actor: Option<Party>,
}

/// Whose token it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Party {
    /// `"user"`: the token that the session was bound with.
    User,
    /// `"agent"`: a JWT that keyward signs.
    Agent,
    /// `{ source = … }`.
    Source(Source),
}

/// The claims of a JWT that is itself the grant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assertion {
    /// `iss`.
    pub issuer: Arc<str>,
    /// `sub`.
    pub subject: Arc<str>,
    /// `aud`: left out it is the token URL.
    pub audience: Option<Arc<str>>,
    /// What signs.
    pub key: SigningKey,
}

/// A Google workload identity: a foreign token becomes one of Google's, and that one a service account's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workload {
    /// `subject-token`.
    pub subject: Source,
    /// `generateAccessToken` of the service account, below `iam-url`.
    pub generate: Endpoint,
}

impl Settings {
    /// Every source that it names.
    pub fn sources(&self) -> Vec<&Source> {
        let client = self.client.as_ref().map(|client| match &client.auth {
            ClientAuth::SecretBasic(one)
            | ClientAuth::SecretPost(one)
            | ClientAuth::Assertion(one) => vec![one],
            ClientAuth::PrivateKeyJwt { key, .. } => vec![&key.pem],
            ClientAuth::Tls { certificate, key } => vec![certificate, key],
        });
        let grant = match &self.grant {
            Grant::ClientCredentials => Vec::new(),
            Grant::TokenExchange(exchange) => {
                let parties = std::iter::once(&exchange.subject).chain(&exchange.actor);
                let sources = parties.filter_map(|party| match party {
                    Party::Source(source) => Some(source),
                    Party::User | Party::Agent => None,
                });
                sources.collect()
            }
            Grant::JwtBearer(assertion) => vec![&assertion.key.pem],
            Grant::ServiceAccount(one) | Grant::Refresh(one) => vec![one],
            Grant::WorkloadIdentity(workload) => vec![&workload.subject],
        };
        client.into_iter().flatten().chain(grant).collect()
    }
}

impl Grant {
    /// Whether the agent itself is the subject, or acts.
    pub fn names_agent(&self) -> bool {
        match self {
            Self::TokenExchange(exchange) => {
                exchange.subject == Party::Agent || exchange.actor == Some(Party::Agent)
            }
            Self::ClientCredentials
            | Self::Refresh(_)
            | Self::JwtBearer(_)
            | Self::ServiceAccount(_)
            | Self::WorkloadIdentity(_) => false,
        }
    }

    /// The name of the kind table.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::ClientCredentials => "oauth-client-credentials",
            Self::TokenExchange(_) => "token-exchange",
            Self::Refresh(_) => "oauth-refresh-token",
            Self::JwtBearer(_) | Self::ServiceAccount(_) | Self::WorkloadIdentity(_) => {
                "jwt-bearer"
            }
        }
    }
}

impl Issuer {
    /// As written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The two places of its metadata: RFC 8414 §3.1, and where OpenID providers have them (§5).
    ///
    /// # Errors
    /// [`BadEndpoint`], which an issuer that was read never causes.
    pub fn metadata(&self) -> Result<[Endpoint; 2], BadEndpoint> {
        let uri = self.endpoint.uri();
        let target = self.endpoint.target();
        let root: Endpoint =
            format!("{}://{}/", target.scheme.as_str(), target.authority()).parse()?;
        let path = uri.path().trim_end_matches('/');
        Ok([
            root.join(&format!(".well-known/oauth-authorization-server{path}"))?,
            self.endpoint.join(".well-known/openid-configuration")?,
        ])
    }
}

impl FromStr for Issuer {
    type Err = BadEndpoint;

    fn from_str(text: &str) -> Result<Self, BadEndpoint> {
        // RFC 8414 §2: no query, no fragment.
        if text.contains('?') {
            return Err(BadEndpoint::NotAUrl);
        }
        Ok(Self {
            text: text.into(),
            endpoint: text.parse()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_stand_before_the_issuers_path_or_after_it() {
        for (issuer, first, second) in [
            (
                "https://a.example",
                "https://a.example/.well-known/oauth-authorization-server",
                "https://a.example/.well-known/openid-configuration",
            ),
            (
                "https://a.example:8443/t/1/",
                "https://a.example:8443/.well-known/oauth-authorization-server/t/1",
                "https://a.example:8443/t/1/.well-known/openid-configuration",
            ),
        ] {
            let issuer: Issuer = issuer.parse().unwrap();
            let [one, two] = issuer.metadata().unwrap();
            assert_eq!((&*one.to_string(), &*two.to_string()), (first, second));
        }
        assert!("https://a.example/?x".parse::<Issuer>().is_err());
    }
}
