//! Keys by a login of IAM Identity Center: the token that `aws sso login` has cached is shown to the portal, which gives
//! a role's keys for it.

use std::sync::Arc;

use bytes::Bytes;
use form_urlencoded::Serializer;
use http::{HeaderValue, Method, Request, StatusCode};
use jiff::Timestamp;
use serde::Deserialize;
use tracing::warn;

use super::super::{IssueError, Issued};
use super::chain::of_file;
use super::held::key_id;
use super::life;
use super::metadata::LONGEST;
use super::profile::Sso;
use super::sso_token::Cache;
use crate::inject::Keys;
use crate::issuer::{Client, Endpoint};
use crate::secret::Secret;

/// Whose tokens are shown, and who gives keys for them.
#[derive(Debug)]
pub(super) struct Portal {
    client: Client,
    cache: Cache,
    /// `AWS_ENDPOINT_URL_SSO`; left out, that of the login's region.
    url: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answered {
    role_credentials: RoleCredentials,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RoleCredentials {
    access_key_id: String,
    secret_access_key: String,
    session_token: String,
    /// In milliseconds since 1970.
    expiration: i64,
}

impl Portal {
    pub(super) fn of(env: &dyn Fn(&str) -> Option<String>, client: Client) -> Self {
        Self {
            cache: Cache::of(env, client.clone()),
            client,
            url: env("AWS_ENDPOINT_URL_SSO"),
        }
    }

    pub(super) async fn keys(&self, sso: &Sso, now: Timestamp) -> Result<Issued, IssueError> {
        let token = self.cache.token(sso, now).await?;
        let query = Serializer::new(String::new())
            .append_pair("role_name", &sso.role)
            .append_pair("account_id", &sso.account)
            .finish();
        let base = match &self.url {
            Some(url) => url.trim_end_matches('/').to_owned(),
            None => format!("https://portal.sso.{}.amazonaws.com", sso.region),
        };
        let url = format!("{base}/federation/credentials?{query}");
        let endpoint: Endpoint = url.parse().map_err(|_| IssueError::Refused)?;
        let mut request = Request::new(Bytes::new());
        *request.method_mut() = Method::GET;
        *request.uri_mut() = endpoint.uri().clone();
        let value = HeaderValue::from_bytes(token.expose());
        let mut value = value.map_err(|_| IssueError::Refused)?;
        value.set_sensitive(true);
        request
            .headers_mut()
            .insert("x-amz-sso_bearer_token", value);
        let answer = self.client.send(request).await;
        let answer = answer.map_err(|_| IssueError::Unavailable { retry_after: None })?;
        match answer.status {
            StatusCode::OK => {}
            status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                let retry_after = answer.retry_after(now);
                return Err(IssueError::Unavailable { retry_after });
            }
            status => {
                warn!(%status, "the SSO portal gave no keys for this account and role: its login may be over (`aws sso login`)");
                return Err(IssueError::Refused);
            }
        }
        let given: Answered = answer.json().map_err(|_| IssueError::Refused)?;
        let given = given.role_credentials;
        let end = Timestamp::from_millisecond(given.expiration);
        let end = end.map_err(|_| IssueError::Refused)?;
        let keys = Keys {
            id: key_id(given.access_key_id.as_bytes()).ok_or(IssueError::Refused)?,
            secret: Arc::new(Secret::from(given.secret_access_key)),
            token: Some(Arc::new(Secret::from(given.session_token))),
        };
        Ok(of_file(keys, life(end, now, LONGEST)))
    }
}
