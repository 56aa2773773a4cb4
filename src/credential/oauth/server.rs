//! Where an issuer's endpoints are: as the file says, or as its metadata say (RFC 8414), asked once for everybody.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::ACCEPT;
use http::{HeaderValue, Request};
use serde::Deserialize;
use tokio::sync::Mutex;
use tracing::warn;

use super::super::IssueError;
use super::answer::{status, unheard};
use super::settings::{Issuer, Server};
use crate::clock::{Clock, Now};
use crate::issuer::{Client, Endpoint};

/// The endpoints of one issuer.
#[derive(Debug, Clone)]
pub(in super::super) struct Endpoints {
    pub(in super::super) token: Endpoint,
    pub(in super::super) revocation: Option<Endpoint>,
    /// Whom a client's JWT is meant for: the issuer, else the token endpoint.
    pub(in super::super) audience: Arc<str>,
}

/// Finds them.
#[derive(Debug)]
pub(super) enum Place {
    Known(Arc<Endpoints>),
    Asked {
        issuer: Issuer,
        /// The endpoints for clients with a certificate are asked for (RFC 8705 §5).
        mutual: bool,
        /// Held while the issuer is asked: the second asker finds what the first found.
        found: Box<Mutex<Found>>,
    },
}

/// What an issuer said, and when.
type Found = Option<(Now, Arc<Endpoints>)>;

#[derive(Deserialize)]
struct Metadata {
    issuer: String,
    #[serde(flatten)]
    endpoints: Named,
    #[serde(default)]
    mtls_endpoint_aliases: Named,
}

#[derive(Deserialize, Default)]
struct Named {
    token_endpoint: Option<String>,
    revocation_endpoint: Option<String>,
}

impl Place {
    pub(super) fn new(server: &Server, mutual: bool) -> Option<Self> {
        match server {
            Server::Issuer(issuer) => Some(Self::Asked {
                issuer: issuer.clone(),
                mutual,
                found: Box::default(),
            }),
            Server::Urls { token, revocation } => Some(Self::Known(Arc::new(Endpoints::at(
                token,
                revocation.as_ref(),
            )))),
            Server::InKeyFile => None,
        }
    }

    /// The endpoints. Metadata are asked for again after [`FRESH`]; an issuer that is out of reach then keeps the old.
    pub(super) async fn find(
        &self,
        client: &Client,
        clock: &dyn Clock,
    ) -> Result<Arc<Endpoints>, IssueError> {
        let (issuer, mutual, found) = match self {
            Self::Known(endpoints) => return Ok(Arc::clone(endpoints)),
            Self::Asked {
                issuer,
                mutual,
                found,
            } => (issuer, *mutual, found),
        };
        let mut found = found.lock().await;
        let now = clock.now();
        if let Some((at, endpoints)) = &*found
            && now.mono.saturating_duration_since(at.mono) < FRESH
        {
            return Ok(Arc::clone(endpoints));
        }
        match (ask(issuer, mutual, client, now).await, &*found) {
            (Ok(endpoints), _) => {
                let endpoints = Arc::new(endpoints);
                *found = Some((now, Arc::clone(&endpoints)));
                Ok(endpoints)
            }
            (Err(IssueError::Unavailable { .. }), Some((_, old))) => Ok(Arc::clone(old)),
            (Err(error), _) => Err(error),
        }
    }
}

impl Endpoints {
    pub(super) fn at(token: &Endpoint, revocation: Option<&Endpoint>) -> Self {
        Self {
            audience: token.to_string().into(),
            token: token.clone(),
            revocation: revocation.cloned(),
        }
    }
}

async fn ask(
    issuer: &Issuer,
    mutual: bool,
    client: &Client,
    now: Now,
) -> Result<Endpoints, IssueError> {
    let [first, second] = issuer.metadata().map_err(|_| IssueError::Refused)?;
    let answer = match get(client, &first).await? {
        answer if answer.status.is_client_error() => get(client, &second).await?,
        answer => answer,
    };
    status(&answer, now.wall)?;
    let metadata: Metadata = answer
        .json()
        .map_err(|_| refused(issuer, "they are not JSON"))?;
    // RFC 8414 §3.3: else one issuer could hand out the endpoints of another, and get what is sent there.
    if metadata.issuer != issuer.as_str() {
        return Err(refused(issuer, "they are of another issuer"));
    }
    let (own, aliases) = (metadata.endpoints, metadata.mtls_endpoint_aliases);
    let pick = |alias: Option<String>, own: Option<String>| alias.filter(|_| mutual).or(own);
    let parse = |text: String| {
        text.parse::<Endpoint>()
            .map_err(|_| refused(issuer, "they name an endpoint that may not be called"))
    };
    let token = pick(aliases.token_endpoint, own.token_endpoint)
        .ok_or_else(|| refused(issuer, "they name no token endpoint"))
        .and_then(parse)?;
    let revocation = pick(aliases.revocation_endpoint, own.revocation_endpoint)
        .map(parse)
        .transpose()?;
    Ok(Endpoints {
        token,
        revocation,
        audience: issuer.as_str().into(),
    })
}

async fn get(client: &Client, from: &Endpoint) -> Result<crate::issuer::Answer, IssueError> {
    let mut request = Request::new(Bytes::new());
    *request.uri_mut() = from.uri().clone();
    let json = HeaderValue::from_static("application/json");
    request.headers_mut().insert(ACCEPT, json);
    client.send(request).await.map_err(unheard)
}

fn refused(issuer: &Issuer, why: &'static str) -> IssueError {
    warn!(
        issuer = issuer.as_str(),
        why, "an issuer's metadata cannot be used"
    );
    IssueError::Refused
}

/// How long metadata are used.
const FRESH: Duration = Duration::from_hours(1);
