//! What is shown beside the certificate: a token of somebody else's making, exchanged for the gateway's own.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, Request};
use serde::Deserialize;

use super::fault::Fault;
use super::gateway::Gateway;
use crate::host::Target;
use crate::identity::Presented;
use crate::issuer::spiffe::workload::{self, Address};
use crate::issuer::{Endpoint, Network};
use crate::secret::Secret;
use crate::tls::Connector;

/// Where the token comes from. It is read anew at each exchange.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Token {
    /// A file that somebody keeps fresh: a Kubernetes projected volume, a cloud's web identity.
    File(PathBuf),
    /// A JWT-SVID for this audience.
    Svid(Address, String),
}

/// What goes into `Proxy-Authorization`, and for how long.
#[derive(Debug)]
pub(super) struct Granted {
    pub(super) authorization: HeaderValue,
    pub(super) life: Duration,
}

/// The longest token, in bytes: as long as the gateway reads.
const MOST: u64 = 16 * 1024;
/// How long a token that is no JWT is used before its file is read again.
const PLAIN_LIFE: Duration = Duration::from_secs(10);

impl Token {
    /// Reads it.
    async fn read(&self) -> Result<Secret, Fault> {
        match self {
            Self::File(path) => {
                let failed = |why: &dyn std::fmt::Display| {
                    Fault::NoEvidence(format!("{}: {why}", path.display()))
                };
                let found = tokio::fs::metadata(path).await.map_err(|e| failed(&e))?;
                if found.len() > MOST {
                    return Err(failed(&"it is too long for a token"));
                }
                let text = tokio::fs::read(path).await.map_err(|e| failed(&e))?;
                let text = Secret::new(text);
                let trimmed = text.expose().trim_ascii();
                if trimmed.is_empty() {
                    return Err(failed(&"it is empty"));
                }
                Ok(Secret::new(trimmed.to_vec()))
            }
            Self::Svid(api, audience) => {
                let token =
                    tokio::time::timeout(DEADLINE, workload::token(api.socket(), audience)).await;
                let late = || Fault::NoEvidence("the Workload API does not answer".to_owned());
                let token = token.map_err(|_| late())?;
                token.map_err(|why| Fault::NoEvidence(why.to_owned()))
            }
        }
    }

    /// Turns it into what the gateway takes: a session token for a JWT, anything else as it is.
    pub(super) async fn exchange(
        &self,
        connector: &Connector,
        (gateway, connect_to): (&Target, &Target),
    ) -> Result<Granted, Fault> {
        let token = self.read().await?;
        let malformed = || Fault::NoEvidence("the token is malformed".to_owned());
        let shown = Presented::of(token.expose()).map_err(|_| malformed())?;
        if !shown.is_jwt() {
            let authorization = bearer(&token).ok_or_else(malformed)?;
            return Ok(Granted {
                authorization,
                life: PLAIN_LIFE,
            });
        }
        let asking = ask(&token, connector, (gateway, connect_to));
        let answered = tokio::time::timeout(DEADLINE, asking).await;
        answered.map_err(|_| Fault::TimedOut)?
    }
}

/// RFC 8693 §2.2.1.
#[derive(Deserialize)]
struct Answer {
    access_token: String,
    expires_in: u64,
}

/// RFC 6749 §5.2.
#[derive(Deserialize, Default)]
struct Said {
    #[serde(default)]
    error: String,
    #[serde(default)]
    error_description: String,
}

async fn ask(
    token: &Secret,
    connector: &Connector,
    (gateway, connect_to): (&Target, &Target),
) -> Result<Granted, Fault> {
    let (endpoint, request) = request(token, gateway);
    let elsewhere = BTreeMap::from([(endpoint.target().clone(), connect_to.clone())]);
    let client = Network::new(connector.clone(), elsewhere).client();
    let Ok(answer) = client.send(request).await else {
        // The client does not say why; a connection of our own does.
        let way = Gateway::new(gateway.clone(), Some(connect_to.clone()));
        return Err(way.open(connector).await.err().unwrap_or(Fault::Broke));
    };
    if answer.status.is_success() {
        let rubbish = |_| Fault::Refused("its answer is no token".to_owned());
        let Answer {
            access_token,
            expires_in,
        } = answer.json().map_err(rubbish)?;
        let authorization = bearer(&Secret::from(access_token));
        let authorization = authorization.filter(|_| expires_in > 0);
        let nothing = || Fault::Refused("its token cannot be used".to_owned());
        return Ok(Granted {
            authorization: authorization.ok_or_else(nothing)?,
            life: Duration::from_secs(expires_in.min(MOST_LIFE)),
        });
    }
    if answer.status.is_server_error() {
        return Err(Fault::Undecided);
    }
    let Said {
        error,
        error_description,
    } = answer.json().unwrap_or_default();
    let visible = |text: String| -> String {
        let text = text.chars().filter(|c| !c.is_control());
        text.take(200).collect()
    };
    Err(Fault::Refused(format!(
        "{} {} {}",
        answer.status.as_u16(),
        visible(error),
        visible(error_description)
    )))
}

fn request(token: &Secret, gateway: &Target) -> (Endpoint, Request<Bytes>) {
    let text = std::str::from_utf8(token.expose()).unwrap_or_default();
    let mut form = form_urlencoded::Serializer::new(String::new());
    form.extend_pairs([
        (
            "grant_type",
            "urn:ietf:params:oauth:grant-type:token-exchange",
        ),
        ("subject_token_type", "urn:ietf:params:oauth:token-type:jwt"),
        ("subject_token", text),
    ]);
    let endpoint: Endpoint = format!("https://{gateway}/token")
        .parse()
        .expect("a host and a port make a URL");
    let mut request = Request::new(Bytes::from(form.finish()));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = endpoint.uri().clone();
    let media_type = HeaderValue::from_static("application/x-www-form-urlencoded");
    request.headers_mut().insert(CONTENT_TYPE, media_type);
    (endpoint, request)
}

fn bearer(token: &Secret) -> Option<HeaderValue> {
    let text = zeroize::Zeroizing::new([b"Bearer ", token.expose()].concat());
    let mut value = HeaderValue::from_bytes(&text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// How long an exchange may take.
const DEADLINE: Duration = Duration::from_secs(10);
/// A day, in seconds: no arithmetic on a gateway's number overflows.
const MOST_LIFE: u64 = 24 * 3600;
