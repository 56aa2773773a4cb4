//! Two calls of the Kubernetes API: `TokenReview`, and one pod.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, StatusCode};
use serde::Deserialize;
use serde_json::json;
use tracing::warn;

use super::pod::PodObject;
use super::{Account, Pod};
use crate::identity::AttestError;
use crate::identity::build::Token;
use crate::issuer::{Answer, Client, Endpoint};

/// The API server, as keyward's own service account.
#[derive(Debug)]
pub(super) struct Api {
    client: Client,
    url: Endpoint,
    token: Arc<dyn Token>,
}

/// What a review says of a token that holds.
#[derive(Debug)]
pub(super) struct Reviewed {
    pub(super) user: String,
    pub(super) pod: Option<Pod>,
}

#[derive(Deserialize)]
struct Review {
    #[serde(default)]
    status: Status,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Status {
    authenticated: bool,
    user: User,
    audiences: Vec<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct User {
    username: String,
    extra: HashMap<String, Vec<String>>,
}

impl Api {
    pub(super) fn new(client: Client, url: Endpoint, token: Arc<dyn Token>) -> Self {
        Self { client, url, token }
    }

    /// Whether the API server believes the token, for one of these audiences.
    pub(super) async fn review(
        &self,
        token: &[u8],
        audience: &[String],
    ) -> Result<Reviewed, AttestError> {
        let token = std::str::from_utf8(token).map_err(|_| AttestError::Bad)?;
        let body = json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token, "audiences": audience},
        });
        let path = "/apis/authentication.k8s.io/v1/tokenreviews";
        let answer = self
            .call(Method::POST, path, body.to_string().into())
            .await?;
        if !answer.status.is_success() {
            warn!(
                status = answer.status.as_u16(),
                "the API server refuses TokenReviews"
            );
            return Err(AttestError::Unavailable);
        }
        let review: Review = answer.json().map_err(|_| AttestError::Unavailable)?;
        let Status {
            authenticated,
            user,
            audiences,
        } = review.status;
        // A server that does not know audiences says none: its word is for a token of its own.
        if !authenticated || !audiences.iter().any(|one| audience.contains(one)) {
            return Err(AttestError::Bad);
        }
        let extra = |name: &str| match user.extra.get(name)?.as_slice() {
            [only] => Some(only.clone()),
            _ => None,
        };
        let pod = extra("authentication.kubernetes.io/pod-name")
            .zip(extra("authentication.kubernetes.io/pod-uid"))
            .map(|(name, uid)| Pod { name, uid });
        Ok(Reviewed {
            user: user.username,
            pod,
        })
    }

    /// The pod, if it is there and is the one that the token was made for.
    pub(super) async fn pod(
        &self,
        pod: &Pod,
        account: &Account<'_>,
    ) -> Result<PodObject, AttestError> {
        let path = format!("/api/v1/namespaces/{}/pods/{}", account.namespace, pod.name);
        let answer = self.call(Method::GET, &path, Bytes::new()).await?;
        match answer.status {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => return Err(AttestError::Bad),
            status => {
                warn!(
                    status = status.as_u16(),
                    "the API server does not show a pod"
                );
                return Err(AttestError::Unavailable);
            }
        }
        let found: PodObject = answer.json().map_err(|_| AttestError::Unavailable)?;
        let same = found.metadata.uid == pod.uid
            && found.spec.service_account_name == account.name
            && !matches!(&*found.status.phase, "Succeeded" | "Failed");
        same.then_some(found).ok_or(AttestError::Bad)
    }

    async fn call(&self, method: Method, path: &str, body: Bytes) -> Result<Answer, AttestError> {
        let token = self.token.current().ok_or(AttestError::Unavailable)?;
        let bearer = [b"Bearer ", token.expose()].concat();
        let mut bearer = HeaderValue::from_bytes(&bearer).map_err(|_| AttestError::Unavailable)?;
        bearer.set_sensitive(true);
        let url = self.url.join(path).map_err(|_| AttestError::Bad)?;
        let request = Request::builder()
            .method(method)
            .uri(url.uri().clone())
            .header(ACCEPT, "application/json")
            .header(CONTENT_TYPE, "application/json")
            .header(AUTHORIZATION, bearer)
            .body(body)
            .map_err(|_| AttestError::Bad)?;
        let answered = tokio::time::timeout(DEADLINE, self.client.send(request)).await;
        match answered {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => {
                warn!(%error, "the API server of a trust provider is out of reach");
                Err(AttestError::Unavailable)
            }
            Err(_) => Err(AttestError::Unavailable),
        }
    }
}

/// The time for one call.
const DEADLINE: Duration = Duration::from_secs(5);
