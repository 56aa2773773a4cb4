//! `[credential.NAME.github-app]`: installation tokens, cut to repositories and permissions.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, USER_AGENT};
use http::{HeaderValue, Method, Request, StatusCode};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::json;
use tracing::warn;

use super::oauth::{
    Algorithm, Around, Signer, SigningKey, Wiped, judge, lost, open_bearer, usable,
};
use super::{CredentialProvider, Handle, IssueError, Issued, Life, RevokeError, Scope, Source};
use crate::clock::Clock;
use crate::inject::Material;
use crate::issuer::{Client, Endpoint};
use crate::secret::Secret;

/// `[credential.NAME.github-app]`, resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GithubAppSettings {
    /// `app-id`: the App's id, or its client id.
    pub app: Arc<str>,
    /// `private-key`, in PEM.
    pub key: Source,
    /// Where tokens of the installation are made, below `api-url`.
    pub make: Endpoint,
    /// Where a token ends itself, below `api-url`.
    pub end: Endpoint,
    /// `repositories`: empty means all of the installation.
    pub repositories: Vec<Arc<str>>,
    /// `permissions`: empty means all of the installation.
    pub permissions: BTreeMap<Arc<str>, Arc<str>>,
}

/// Makes and ends installation tokens.
#[derive(Debug)]
pub struct GithubAppProvider {
    settings: GithubAppSettings,
    signer: Signer,
    client: Client,
    clock: Arc<dyn Clock>,
}

#[derive(Deserialize)]
struct Made {
    token: Wiped,
    expires_at: String,
}

impl GithubAppProvider {
    /// Follows the private key. GitHub is not called yet.
    pub async fn open(settings: GithubAppSettings, around: &Around<'_>) -> Self {
        let key = SigningKey {
            pem: settings.key.clone(),
            algorithm: Algorithm::Rs256,
            id: None,
        };
        Self {
            signer: Signer::open(&key, around).await,
            client: around.network.client(),
            clock: Arc::clone(around.clock),
            settings,
        }
    }

    /// What the token may do: the route's word, else the credential's; what neither says is left to the installation.
    fn wanted(&self, scope: &Scope) -> Bytes {
        let narrow = &scope.narrow;
        let repositories = narrow.repositories.as_ref();
        let repositories = repositories.unwrap_or(&self.settings.repositories);
        let permissions = narrow.permissions.as_ref();
        let permissions = permissions.unwrap_or(&self.settings.permissions);
        let mut wanted = serde_json::Map::new();
        if !repositories.is_empty() {
            let names: Vec<&str> = repositories.iter().map(|name| &**name).collect();
            wanted.insert("repositories".into(), json!(names));
        }
        if !permissions.is_empty() {
            let levels = permissions.iter();
            let levels: serde_json::Map<_, _> = levels
                .map(|(name, level)| (name.to_string(), json!(&**level)))
                .collect();
            wanted.insert("permissions".into(), levels.into());
        }
        serde_json::Value::from(wanted).to_string().into()
    }
}

fn ask(
    method: Method,
    to: &Endpoint,
    token: &Secret,
    body: Bytes,
) -> Result<Request<Bytes>, IssueError> {
    let mut request = Request::new(body);
    *request.method_mut() = method;
    *request.uri_mut() = to.uri().clone();
    let headers = request.headers_mut();
    headers.insert(AUTHORIZATION, open_bearer(token)?);
    let json = HeaderValue::from_static("application/vnd.github+json");
    headers.insert(ACCEPT, json);
    let json = HeaderValue::from_static("application/json");
    headers.insert(CONTENT_TYPE, json);
    let version = HeaderValue::from_static("2022-11-28");
    headers.insert("x-github-api-version", version);
    // GitHub serves nobody without one.
    headers.insert(USER_AGENT, HeaderValue::from_static("keyward"));
    Ok(request)
}

#[async_trait]
impl CredentialProvider for GithubAppProvider {
    fn kind(&self) -> &'static str {
        "github-app"
    }

    async fn issue(&self, scope: &Scope) -> Result<Issued, IssueError> {
        let now = self.clock.now().wall.as_second();
        // GitHub takes ten minutes at most, and wants room for a clock that is behind.
        let app = self.signer.sign(&json!({
            "iss": &*self.settings.app,
            "iat": now - 60,
            "exp": now + 540,
        }))?;
        let app = Secret::new(app.as_bytes().to_vec());
        let request = ask(Method::POST, &self.settings.make, &app, self.wanted(scope))?;
        let answer = self.client.send(request).await.map_err(lost)?;
        judge(&answer, self.clock.now().wall)?;
        let bad = |why: &'static str| {
            warn!(why, "GitHub's answer cannot be used");
            IssueError::Refused
        };
        let made: Made = answer.json().map_err(|_| bad("it is not a token"))?;
        let end: Timestamp = made
            .expires_at
            .parse()
            .map_err(|_| bad("its expires_at is no date"))?;
        let token = usable(&made.token).map_err(bad)?;
        Ok(Issued {
            material: Material::UserPass {
                user: GIT_USER.into(),
                password: Arc::clone(&token),
            },
            life: Life::Until(end),
            handle: Some(Handle::new(token)),
            superseded: None,
        })
    }

    /// A token ends itself; one that GitHub no longer knows has ended.
    async fn revoke(&self, handle: &Handle) -> Result<(), RevokeError> {
        let (end, token) = (&self.settings.end, handle.content());
        let request = ask(Method::DELETE, end, token, Bytes::new());
        let request = request.map_err(|_| RevokeError::Failed)?;
        let answer = self.client.send(request).await;
        match answer.map_err(|_| RevokeError::Failed)?.status {
            StatusCode::NO_CONTENT | StatusCode::OK | StatusCode::UNAUTHORIZED => Ok(()),
            _ => Err(RevokeError::Failed),
        }
    }
}

/// Whom git says that it is, with a token as password.
const GIT_USER: &str = "x-access-token";
