//! Keys that the machine's own surroundings give: a container's endpoint (ECS, EKS Pod Identity), or the EC2 instance
//! metadata service in its second version.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{HeaderValue, Method, Request, StatusCode};
use jiff::Timestamp;
use serde::Deserialize;

use super::super::{IssueError, Issued};
use super::chain::{of_file, read};
use super::held::key_id;
use super::life;
use crate::inject::Keys;
use crate::issuer::{Answer, Client, Endpoint};
use crate::secret::Secret;

/// A machine without the service does not answer at all: it is not waited for longer.
const PATIENCE: Duration = Duration::from_secs(2);
/// No life is believed beyond this.
pub(super) const LONGEST: Duration = Duration::from_hours(12);

/// `AWS_CONTAINER_CREDENTIALS_FULL_URI` or `…_RELATIVE_URI`.
pub(super) struct Container {
    client: Client,
    endpoint: Endpoint,
    token: Option<Arc<Secret>>,
    token_file: Option<PathBuf>,
}

/// The instance metadata service.
pub struct Instance {
    client: Client,
    endpoint: Endpoint,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Given {
    access_key_id: String,
    secret_access_key: String,
    token: Option<String>,
    expiration: String,
}

impl Container {
    pub(super) fn of(env: &dyn Fn(&str) -> Option<String>, client: Client) -> Option<Self> {
        let relative = env("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI");
        let url = relative
            .map(|path| format!("http://169.254.170.2{path}"))
            .or_else(|| env("AWS_CONTAINER_CREDENTIALS_FULL_URI"))?;
        Some(Self {
            client,
            endpoint: url.parse().ok()?,
            token: env("AWS_CONTAINER_AUTHORIZATION_TOKEN").map(|t| Arc::new(Secret::from(t))),
            token_file: env("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE").map(PathBuf::from),
        })
    }

    pub(super) async fn keys(&self, now: Timestamp) -> Result<Issued, IssueError> {
        let token = match (&self.token_file, &self.token) {
            (Some(file), _) => Some(read(file.clone()).await?),
            (None, token) => token.clone(),
        };
        let mut request = ask(Method::GET, &self.endpoint);
        if let Some(token) = token {
            let value = HeaderValue::from_bytes(token.expose().trim_ascii());
            let mut value = value.map_err(|_| IssueError::Refused)?;
            value.set_sensitive(true);
            request.headers_mut().insert(AUTHORIZATION, value);
        }
        given(&send(&self.client, request).await?, now)
    }
}

impl Instance {
    /// The one that these variables name, else the usual one. `None` for a URL that is none.
    pub fn of(env: &dyn Fn(&str) -> Option<String>, client: Client) -> Option<Self> {
        let url = env("AWS_EC2_METADATA_SERVICE_ENDPOINT");
        let six = env("AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE");
        let six = six.is_some_and(|mode| mode.eq_ignore_ascii_case("ipv6"));
        let usual = if six {
            "http://[fd00:ec2::254]"
        } else {
            "http://169.254.169.254"
        };
        let url = url.unwrap_or_else(|| usual.into());
        let endpoint = url.parse().ok()?;
        Some(Self { client, endpoint })
    }

    /// A token first (version 2), then the role's name, then its keys.
    pub(super) async fn keys(&self, now: Timestamp) -> Result<Issued, IssueError> {
        let token = self.token().await?;
        let folder = "latest/meta-data/iam/security-credentials/";
        let role = self.get(folder, &token).await?;
        let role = std::str::from_utf8(&role.body).map_err(|_| IssueError::Refused)?;
        let role = role.lines().next().unwrap_or_default().trim();
        let fits = |b: u8| b.is_ascii_alphanumeric() || b"+=,.@_-".contains(&b);
        if role.is_empty() || role.len() > 64 || !role.bytes().all(fits) {
            return Err(IssueError::Refused);
        }
        let answer = self.get(&format!("{folder}{role}"), &token).await?;
        given(&answer, now)
    }

    /// The identity document of the instance, as EC2 signs it for its `rsa2048` certificates.
    ///
    /// # Errors
    /// [`IssueError`]: there is no such service, or it gives none.
    pub async fn identity_document(&self) -> Result<Secret, IssueError> {
        let token = self.token().await?;
        let path = "latest/dynamic/instance-identity/rsa2048";
        let answer = self.get(path, &token).await?;
        Ok(Secret::new(answer.body.to_vec()))
    }

    async fn token(&self) -> Result<HeaderValue, IssueError> {
        let mut request = ask(Method::PUT, &self.at("latest/api/token")?);
        let seconds = HeaderValue::from_static("60");
        let headers = request.headers_mut();
        headers.insert("x-aws-ec2-metadata-token-ttl-seconds", seconds);
        let token = send(&self.client, request).await?;
        let token = HeaderValue::from_bytes(&token.body);
        let mut token = token.map_err(|_| IssueError::Refused)?;
        token.set_sensitive(true);
        Ok(token)
    }

    fn at(&self, path: &str) -> Result<Endpoint, IssueError> {
        self.endpoint.join(path).map_err(|_| IssueError::Refused)
    }

    async fn get(&self, path: &str, token: &HeaderValue) -> Result<Answer, IssueError> {
        let mut request = ask(Method::GET, &self.at(path)?);
        let headers = request.headers_mut();
        headers.insert("x-aws-ec2-metadata-token", token.clone());
        send(&self.client, request).await
    }
}

fn ask(method: Method, endpoint: &Endpoint) -> Request<Bytes> {
    let mut request = Request::new(Bytes::new());
    *request.method_mut() = method;
    *request.uri_mut() = endpoint.uri().clone();
    request
}

async fn send(client: &Client, request: Request<Bytes>) -> Result<Answer, IssueError> {
    const AWAY: IssueError = IssueError::Unavailable { retry_after: None };
    let answer = tokio::time::timeout(PATIENCE, client.send(request)).await;
    let answer = answer.map_err(|_| AWAY)?.map_err(|_| AWAY)?;
    match answer.status {
        StatusCode::OK => Ok(answer),
        status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => Err(AWAY),
        _ => Err(IssueError::Refused),
    }
}

fn given(answer: &Answer, now: Timestamp) -> Result<Issued, IssueError> {
    let given: Given = answer.json().map_err(|_| IssueError::Refused)?;
    let end: Timestamp = given.expiration.parse().map_err(|_| IssueError::Refused)?;
    let keys = Keys {
        id: key_id(given.access_key_id.as_bytes()).ok_or(IssueError::Refused)?,
        secret: Arc::new(Secret::from(given.secret_access_key)),
        token: given.token.map(|token| Arc::new(Secret::from(token))),
    };
    Ok(of_file(keys, life(end, now, LONGEST)))
}

impl fmt::Debug for Container {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Container({})", self.endpoint)
    }
}

impl fmt::Debug for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Instance({})", self.endpoint)
    }
}
