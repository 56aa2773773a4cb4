//! The grants: what each puts into the form, and what it makes of the answer.

use std::sync::Arc;

use async_trait::async_trait;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderValue, Method, Request};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::json;
use tracing::warn;
use zeroize::Zeroizing;

use super::super::{
    AgentJwt, CredentialProvider, Handle, IssueError, Issued, Life, RevokeError, Scope, Watched,
};
use super::Around;
use super::answer::{self, Granted, Wiped, unheard};
use super::client::TokenClient;
use super::form::Form;
use super::refresh::Family;
use super::server::Endpoints;
use super::settings::{Algorithm, Assertion, Exchange, Grant, Party, Settings, Workload};
use super::sign::{self, Signer, current};
use crate::agent::{AgentId, Name};
use crate::inject::{DpopKey, Material};
use crate::issuer::{Client, Endpoint};
use crate::policy::UserTokenType;
use crate::secret::Secret;

/// One credential of an OAuth issuer.
#[derive(Debug)]
pub struct OauthProvider {
    client: Arc<TokenClient>,
    grant: Granting,
    settings: Settings,
    agents: Option<Arc<dyn AgentJwt>>,
}

/// A grant with what follows its sources.
#[derive(Debug)]
enum Granting {
    ClientCredentials,
    Exchange {
        subject: Token,
        actor: Option<Token>,
        subject_type: Option<Arc<str>>,
    },
    Bearer(Assertion, Signer),
    ServiceAccount(Watched),
    Workload(Watched, Endpoint, Client),
    Refresh(Arc<Family>),
}

/// A token that is exchanged, or acted with.
#[derive(Debug)]
enum Token {
    User,
    Agent,
    Source(Watched),
}

impl OauthProvider {
    /// Follows the sources that `settings` name. Nothing is asked of the issuer yet.
    pub async fn open(name: &Name, settings: Settings, around: &Around<'_>) -> Self {
        let client = TokenClient::open(&settings.server, settings.client.as_ref(), around).await;
        let grant = match &settings.grant {
            Grant::ClientCredentials => Granting::ClientCredentials,
            Grant::TokenExchange(Exchange {
                subject,
                subject_type,
                actor,
            }) => Granting::Exchange {
                subject: Token::open(subject, around).await,
                actor: match actor {
                    Some(actor) => Some(Token::open(actor, around).await),
                    None => None,
                },
                subject_type: subject_type.clone(),
            },
            Grant::JwtBearer(assertion) => Granting::Bearer(
                assertion.clone(),
                Signer::open(&assertion.key, around).await,
            ),
            Grant::ServiceAccount(file) => Granting::ServiceAccount(around.watch(file).await),
            Grant::WorkloadIdentity(Workload { subject, generate }) => Granting::Workload(
                around.watch(subject).await,
                generate.clone(),
                around.network.client(),
            ),
            Grant::Refresh(first) => Granting::Refresh(Arc::new(Family::new(
                name.to_string(),
                around.watch(first).await,
                Arc::clone(around.vessel),
            ))),
        };
        Self {
            client: Arc::new(client),
            grant,
            agents: around.agents.cloned(),
            settings,
        }
    }

    /// The scopes to ask for: the route's, else the credential's.
    fn scopes<'a>(&'a self, scope: &'a Scope) -> Option<String> {
        let asked = scope.narrow.scopes.as_ref();
        let scopes = asked.unwrap_or(&self.settings.scopes);
        (!scopes.is_empty()).then(|| scopes.join(" "))
    }

    /// A form with what every grant may say.
    fn form(&self, grant_type: &str, scope: &Scope) -> Form {
        let mut form = Form::new("grant_type", grant_type);
        if let Some(scopes) = self.scopes(scope) {
            form.push("scope", scopes);
        }
        if let Some(audience) = &self.settings.audience {
            form.push("audience", &**audience);
        }
        for resource in &self.settings.resource {
            form.push("resource", &**resource);
        }
        form
    }

    async fn grant(
        &self,
        scope: &Scope,
        bound: Option<&Arc<DpopKey>>,
    ) -> Result<Asked, IssueError> {
        let key = bound.map(|key| &**key);
        match &self.grant {
            Granting::ClientCredentials => {
                let at = self.client.endpoints().await?;
                let form = self.form("client_credentials", scope);
                self.ask(&at, &form, key).await
            }
            Granting::Exchange {
                subject,
                actor,
                subject_type,
            } => {
                // Before the issuer is looked for: a session without a user needs no issuer to hear no.
                subject.is_had(scope)?;
                let at = self.client.endpoints().await?;
                let mut form = self.form(EXCHANGE, scope);
                let wanted = subject_type.as_deref();
                let (token, kind) = self.token((subject, wanted), scope, &at)?;
                form.push("subject_token", token.expose());
                let kind = subject_type.as_deref().unwrap_or(kind);
                form.push("subject_token_type", format!("{TYPE}{kind}"));
                if let Some(actor) = actor {
                    let (token, kind) = self.token((actor, None), scope, &at)?;
                    form.push("actor_token", token.expose());
                    form.push("actor_token_type", format!("{TYPE}{kind}"));
                }
                self.ask(&at, &form, key).await
            }
            Granting::Bearer(claims, signer) => {
                let at = self.client.endpoints().await?;
                let issued = self.client.clock().now().wall.as_second();
                let token_url = at.token.to_string();
                let assertion = signer.sign(&json!({
                    "iss": &*claims.issuer,
                    "sub": &*claims.subject,
                    "aud": claims.audience.as_deref().unwrap_or(&token_url),
                    "jti": sign::unique()?,
                    "iat": issued,
                    "exp": issued + LIFE,
                }))?;
                let mut form = self.form(BEARER, scope);
                form.push("assertion", assertion.as_bytes());
                self.ask(&at, &form, key).await
            }
            Granting::Refresh(family) => {
                let at = self.client.endpoints().await?;
                let asking = (self.form("refresh_token", scope), bound.cloned());
                let granted = family.refresh(&self.client, &at, asking).await?;
                Ok(Asked {
                    granted,
                    revocable: at.revocation.is_some(),
                })
            }
            Granting::ServiceAccount(file) => self.service_account(file, scope, key).await,
            Granting::Workload(subject, generate, plain) => {
                self.workload(subject, (generate, plain), scope).await
            }
        }
    }

    async fn ask(
        &self,
        at: &Endpoints,
        form: &Form,
        key: Option<&DpopKey>,
    ) -> Result<Asked, IssueError> {
        let granted = self.client.token(at, form, key).await?;
        Ok(Asked {
            granted,
            revocable: at.revocation.is_some(),
        })
    }

    fn token(
        &self,
        (token, wanted): (&Token, Option<&str>),
        scope: &Scope,
        at: &Endpoints,
    ) -> Result<(Arc<Secret>, &'static str), IssueError> {
        match token {
            Token::User => {
                let person = scope.person.as_ref().ok_or(IssueError::UserRequired)?;
                let kinds = [UserTokenType::AccessToken, UserTokenType::IdToken];
                let kind = kinds.into_iter().find(|kind| wanted == Some(kind.as_str()));
                let token = person.token(kind).or_else(|| person.token(None));
                let token = token.ok_or(IssueError::UserRequired)?;
                let value = Secret::new(token.value.expose().to_vec());
                Ok((Arc::new(value), token.kind.as_str()))
            }
            Token::Agent => {
                let agent = scope.holder.agent().ok_or(IssueError::Refused)?;
                Ok((self.agent_jwt(agent, &at.token)?, "jwt"))
            }
            Token::Source(source) => Ok((current(source)?, "jwt")),
        }
    }

    fn agent_jwt(&self, agent: &AgentId, audience: &Endpoint) -> Result<Arc<Secret>, IssueError> {
        let Some(agents) = &self.agents else {
            warn!("nobody signs for agents here: a token that names the agent cannot be made");
            return Err(IssueError::Refused);
        };
        agents
            .sign(agent, &audience.to_string())
            .map(Arc::new)
            .ok_or(IssueError::Refused)
    }

    /// Google's key file says who asks, whom, and with which key; the scopes are a claim.
    async fn service_account(
        &self,
        file: &Watched,
        scope: &Scope,
        key: Option<&DpopKey>,
    ) -> Result<Asked, IssueError> {
        let bad = |why: &'static str| {
            warn!(why, "a service account's key file cannot be used");
            IssueError::Refused
        };
        let content = current(file)?;
        let account: ServiceAccount =
            serde_json::from_slice(content.expose()).map_err(|_| bad("it is not one"))?;
        let token: Endpoint = account
            .token_uri
            .parse()
            .map_err(|_| bad("its token_uri may not be called"))?;
        let issued = self.client.clock().now().wall.as_second();
        let claims = json!({
            "iss": account.client_email,
            "sub": account.client_email,
            "scope": self.scopes(scope).unwrap_or_default(),
            "aud": account.token_uri,
            "jti": sign::unique()?,
            "iat": issued,
            "exp": issued + GOOGLE_LIFE,
        });
        let pem = account.private_key.0.as_bytes();
        let kid = account.private_key_id;
        let assertion = sign::sign(pem, Algorithm::Rs256, kid, &claims)?;
        let mut form = Form::new("grant_type", BEARER);
        form.push("assertion", assertion.as_bytes());
        self.ask(&Endpoints::at(&token, None), &form, key).await
    }

    /// A foreign token becomes one of Google's (RFC 8693), and that one a service account's.
    async fn workload(
        &self,
        subject: &Watched,
        (generate, plain): (&Endpoint, &Client),
        scope: &Scope,
    ) -> Result<Asked, IssueError> {
        let at = self.client.endpoints().await?;
        let mut form = Form::new("grant_type", EXCHANGE);
        if let Some(audience) = &self.settings.audience {
            form.push("audience", &**audience);
        }
        form.push("scope", CLOUD_PLATFORM);
        form.push("requested_token_type", format!("{TYPE}access_token"));
        form.push("subject_token", current(subject)?.expose());
        form.push("subject_token_type", format!("{TYPE}jwt"));
        let federated = self.client.token(&at, &form, None).await?;

        let scopes = scope.narrow.scopes.as_ref();
        let scopes = scopes.unwrap_or(&self.settings.scopes).iter();
        let body = json!({ "scope": scopes.map(|scope| &**scope).collect::<Vec<_>>() });
        let mut request = Request::new(body.to_string().into());
        *request.method_mut() = Method::POST;
        *request.uri_mut() = generate.uri().clone();
        let json = HeaderValue::from_static("application/json");
        request.headers_mut().insert(ACCEPT, json.clone());
        request.headers_mut().insert(CONTENT_TYPE, json);
        let value = bearer(&federated.token)?;
        request.headers_mut().insert(AUTHORIZATION, value);
        let answer = plain.send(request).await.map_err(unheard)?;
        answer::status(&answer, self.client.clock().now().wall)?;
        let bad = |why: &'static str| {
            warn!(why, "the answer of generateAccessToken cannot be used");
            IssueError::Refused
        };
        let made: Generated = answer.json().map_err(|_| bad("it is not one"))?;
        let end: Timestamp = made
            .expire_time
            .parse()
            .map_err(|_| bad("its expireTime is no date"))?;
        let granted = Granted {
            token: answer::token(&made.access_token).map_err(bad)?,
            life: Life::Until(end),
            refresh: None,
        };
        Ok(Asked {
            granted,
            revocable: false,
        })
    }
}

/// What was granted, and whether it can be taken back.
struct Asked {
    granted: Granted,
    revocable: bool,
}

#[derive(Deserialize)]
struct ServiceAccount {
    client_email: String,
    private_key: Wiped,
    private_key_id: Option<String>,
    token_uri: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Generated {
    access_token: Wiped,
    expire_time: String,
}

impl Token {
    async fn open(party: &Party, around: &Around<'_>) -> Self {
        match party {
            Party::User => Self::User,
            Party::Agent => Self::Agent,
            Party::Source(source) => Self::Source(around.watch(source).await),
        }
    }

    fn is_had(&self, scope: &Scope) -> Result<(), IssueError> {
        let token = || scope.person.as_ref()?.token(None);
        match self {
            Self::User if token().is_none() => Err(IssueError::UserRequired),
            Self::User | Self::Agent | Self::Source(_) => Ok(()),
        }
    }
}

/// `Authorization: Bearer`, for calls of keyward's own.
pub(in super::super) fn bearer(token: &Secret) -> Result<HeaderValue, IssueError> {
    let text = Zeroizing::new([b"Bearer ", token.expose()].concat());
    let mut value = HeaderValue::from_bytes(&text).map_err(|_| IssueError::Refused)?;
    value.set_sensitive(true);
    Ok(value)
}

#[async_trait]
impl CredentialProvider for OauthProvider {
    fn kind(&self) -> &'static str {
        self.settings.grant.kind()
    }

    async fn issue(&self, scope: &Scope) -> Result<Issued, IssueError> {
        let key = if self.settings.dpop {
            let made = DpopKey::generate();
            let none = IssueError::Unavailable { retry_after: None };
            Some(Arc::new(made.map_err(|_| none)?))
        } else {
            None
        };
        let Asked { granted, revocable } = self.grant(scope, key.as_ref()).await?;
        let handle = revocable.then(|| Handle::new(Arc::clone(&granted.token)));
        let material = match key {
            Some(key) => Material::Dpop {
                token: granted.token,
                key,
            },
            None => Material::Token(granted.token),
        };
        Ok(Issued {
            material,
            life: granted.life,
            handle,
            superseded: None,
        })
    }

    async fn revoke(&self, handle: &Handle) -> Result<(), RevokeError> {
        self.client.revoke(handle).await
    }
}

/// RFC 8693 §2.1.
const EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
/// RFC 7523 §2.1.
const BEARER: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
/// RFC 8693 §3.
const TYPE: &str = "urn:ietf:params:oauth:token-type:";
/// How long a JWT that is a grant is good, in seconds.
const LIFE: i64 = 60;
/// How long Google's is: as long as it may be, since the token's life is counted from it.
const GOOGLE_LIFE: i64 = 3600;
const CLOUD_PLATFORM: &str = "https://www.googleapis.com/auth/cloud-platform";
