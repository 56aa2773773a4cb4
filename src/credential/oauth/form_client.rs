//! A client that posts forms to any endpoint of an issuer and leaves the judging of answers to its caller: what signs
//! people in.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use http::header::ACCEPT;
use http::{HeaderMap, HeaderValue, Request};

use super::super::IssueError;
use super::Around;
use super::answer::unheard;
use super::authenticate::Identity;
use super::client::post;
use super::form::Form;
use super::settings::{self, ClientAuth};
use crate::clock::Clock;
use crate::issuer::{Answer, Client, Endpoint, Fault};

/// One client of one issuer. Without `client-secret` or `client-auth` it is a public one (RFC 6749 §2.1).
#[derive(Debug)]
pub struct FormClient {
    id: Arc<str>,
    identity: Option<Identity>,
    mutual: bool,
    plain: Client,
    clock: Arc<dyn Clock>,
}

impl FormClient {
    /// Follows the sources of what the client shows; asks nobody yet.
    pub async fn open(id: &str, client: Option<&settings::Client>, around: &Around<'_>) -> Self {
        let identity = match client {
            Some(client) => Some(Identity::open(client, around).await),
            None => None,
        };
        Self {
            id: id.into(),
            identity,
            mutual: client.is_some_and(|client| matches!(client.auth, ClientAuth::Tls { .. })),
            plain: around.network.client(),
            clock: Arc::clone(around.clock),
        }
    }

    /// Whether it shows a certificate, and so calls the endpoints that are for such clients (RFC 8705 §5).
    pub fn is_mutual(&self) -> bool {
        self.mutual
    }

    /// A document of the issuer.
    ///
    /// # Errors
    /// [`IssueError::Unavailable`] where it cannot be had, [`IssueError::Refused`] where it is too long.
    pub async fn get(&self, from: &Endpoint) -> Result<Answer, IssueError> {
        let mut request = Request::new(bytes::Bytes::new());
        *request.uri_mut() = from.uri().clone();
        let json = HeaderValue::from_static("application/json");
        request.headers_mut().insert(ACCEPT, json);
        in_time(self.connections()?.send(request)).await
    }

    /// Posts these fields with what shows who asks. `issuer` is whom a client's JWT is for.
    ///
    /// # Errors
    /// [`IssueError`] where there is no answer; one of any status is the caller's to judge.
    pub async fn post(
        &self,
        to: &Endpoint,
        issuer: &str,
        fields: &[(&str, &[u8])],
    ) -> Result<Answer, IssueError> {
        let mut headers = HeaderMap::new();
        let mut fields = fields.iter();
        let (name, value) = fields.next().ok_or(IssueError::Refused)?;
        let mut form = Form::new(name, value);
        for (name, value) in fields {
            form.push(name, value);
        }
        match &self.identity {
            Some(identity) => identity.show((&mut form, &mut headers), issuer, self.clock.now())?,
            // RFC 6749 §3.2.1: a client that shows nothing names itself.
            None => form.push("client_id", &*self.id),
        }
        let request = post(to, headers, form);
        in_time(self.connections()?.send(request)).await
    }

    fn connections(&self) -> Result<Client, IssueError> {
        let shown = self.identity.as_ref().map(Identity::connections);
        let shown = shown.transpose()?.flatten();
        Ok(shown.unwrap_or_else(|| self.plain.clone()))
    }
}

/// How long a server may take: nobody else sets a deadline where a person signs in.
const PATIENCE: Duration = Duration::from_secs(30);

async fn in_time(sent: impl Future<Output = Result<Answer, Fault>>) -> Result<Answer, IssueError> {
    let late = IssueError::Unavailable { retry_after: None };
    let answer = tokio::time::timeout(PATIENCE, sent).await;
    answer.map_err(|_| late)?.map_err(unheard)
}
