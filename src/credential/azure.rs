//! `[credential.NAME.azure]`: tokens of Microsoft Entra ID, by a secret, a foreign token, or the machine's identity.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderValue, Request};
use serde::Deserialize;
use serde_json::Value;
use tracing::warn;

use super::oauth::{Around, OauthProvider, Settings, Wiped, judge, unheard, usable};
use super::{CredentialProvider, Handle, IssueError, Issued, Life, RevokeError, Scope};
use crate::agent::Name;
use crate::clock::Clock;
use crate::inject::Material;
use crate::issuer::{Client, Endpoint};

/// `[credential.NAME.azure]`, resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AzureSettings {
    /// As a client of the tenant's token endpoint: a client credentials grant (RFC 6749 §4.4).
    Client(Box<Settings>),
    /// As the machine that keyward runs on.
    Machine {
        /// The metadata service's token endpoint, below `imds-url`.
        endpoint: Endpoint,
        /// `client-id`: which of the machine's identities.
        client: Option<Arc<str>>,
        /// `scopes`.
        scopes: Vec<Arc<str>>,
    },
}

/// Gets tokens of Microsoft Entra ID. None of them can be revoked.
#[derive(Debug)]
pub struct AzureProvider(Way);

#[derive(Debug)]
enum Way {
    Client(Box<OauthProvider>),
    Machine(Box<Machine>),
}

#[derive(Debug)]
struct Machine {
    endpoint: Endpoint,
    identity: Option<Arc<str>>,
    scopes: Vec<Arc<str>>,
    client: Client,
    clock: Arc<dyn Clock>,
}

/// The metadata service writes its numbers as text.
#[derive(Deserialize)]
struct Given {
    access_token: Wiped,
    expires_in: Value,
    token_type: String,
}

impl AzureProvider {
    /// Follows the sources that `settings` name. Nobody is asked yet.
    pub async fn open(name: &Name, settings: AzureSettings, around: &Around<'_>) -> Self {
        Self(match settings {
            AzureSettings::Client(settings) => {
                Way::Client(Box::new(OauthProvider::open(name, *settings, around).await))
            }
            AzureSettings::Machine {
                endpoint,
                client,
                scopes,
            } => Way::Machine(Box::new(Machine {
                endpoint,
                identity: client,
                scopes,
                client: around.network.client(),
                clock: Arc::clone(around.clock),
            })),
        })
    }
}

/// The metadata service takes resources; the scope of one is all that it has.
fn question(endpoint: &Endpoint, scope: &str, identity: Option<&str>) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.append_pair("api-version", "2018-02-01");
    query.append_pair("resource", scope.strip_suffix("/.default").unwrap_or(scope));
    if let Some(identity) = identity {
        query.append_pair("client_id", identity);
    }
    format!("{endpoint}?{}", query.finish())
}

#[async_trait]
impl CredentialProvider for AzureProvider {
    fn kind(&self) -> &'static str {
        "azure"
    }

    fn revokes(&self) -> bool {
        false
    }

    async fn issue(&self, scope: &Scope) -> Result<Issued, IssueError> {
        match &self.0 {
            Way::Client(provider) => provider.issue(scope).await,
            Way::Machine(machine) => machine.issue(scope).await,
        }
    }

    async fn revoke(&self, _: &Handle) -> Result<(), RevokeError> {
        Err(RevokeError::Unsupported)
    }
}

impl Machine {
    async fn issue(&self, scope: &Scope) -> Result<Issued, IssueError> {
        let bad = |why: &'static str| {
            warn!(why, "no token of the machine's identity");
            IssueError::Refused
        };
        let asked = scope.narrow.scopes.as_ref().unwrap_or(&self.scopes);
        let [asked] = asked.as_slice() else {
            return Err(bad("it is for exactly one resource"));
        };
        let uri = question(&self.endpoint, asked, self.identity.as_deref());
        let mut request = Request::new(Bytes::new());
        *request.uri_mut() = uri.parse().map_err(|_| bad("its URL is none"))?;
        let yes = HeaderValue::from_static("true");
        request.headers_mut().insert("metadata", yes);
        let answer = self.client.send(request).await.map_err(unheard)?;
        judge(&answer, self.clock.now().wall)?;
        let given: Given = answer.json().map_err(|_| bad("the answer is no token"))?;
        if !given.token_type.eq_ignore_ascii_case("Bearer") {
            return Err(bad("it is not a bearer token"));
        }
        let seconds = match &given.expires_in {
            Value::String(text) => text.parse().ok(),
            value => value.as_u64(),
        };
        let seconds = seconds.ok_or_else(|| bad("its expires_in is not a number"))?;
        Ok(Issued {
            material: Material::Token(usable(&given.access_token).map_err(bad)?),
            life: Life::For(Duration::from_secs(seconds)),
            handle: None,
            superseded: None,
        })
    }
}
