//! What is shown beside the certificate: a token of somebody else's making, exchanged for the gateway's own.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, Request, StatusCode};
use serde::Deserialize;

use super::aws::{Aws, AwsProof};
use super::fault::Fault;
use super::gateway::Gateway;
use super::person::{Proved, SignIn};
use crate::clock::Clock;
use crate::host::Target;
use crate::identity::Presented;
use crate::issuer::spiffe::workload::{self, Address};
use crate::issuer::{Answer, Endpoint, Network, visible};
use crate::secret::Secret;
use crate::tls::Connector;

/// Where the token comes from. It is read, or made, anew at each exchange.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Token {
    /// A file that somebody keeps fresh: a Kubernetes projected volume, a cloud's web identity.
    File(PathBuf),
    /// A JWT-SVID for this audience.
    Svid(Address, String),
    /// What AWS proves of this machine.
    Aws(Aws),
}

/// All that is shown beside the certificate.
#[derive(Debug)]
pub(super) struct Evidence {
    pub(super) token: Option<Token>,
    /// For whom the sessions are to be.
    pub(super) person: Option<Arc<dyn SignIn>>,
    pub(super) gateway: Target,
    pub(super) connect_to: Target,
    pub(super) clock: Arc<dyn Clock>,
}

/// What goes into `Proxy-Authorization`, and for how long.
#[derive(Debug)]
pub(super) struct Granted {
    pub(super) authorization: HeaderValue,
    pub(super) life: Duration,
}

/// A token, and what it is called at `/token` (RFC 8693 §3). Without a name it is no evidence there.
struct Shown {
    token: Secret,
    kind: Option<&'static str>,
}

/// A session token of the gateway's.
struct Session {
    token: Secret,
    life: Duration,
}

const JWT: &str = "urn:ietf:params:oauth:token-type:jwt";
const ID_TOKEN: &str = "urn:ietf:params:oauth:token-type:id_token";
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
const AWS_DOCUMENT: &str = "urn:keyward:token-type:aws-identity-document";
const AWS_CALLER: &str = "urn:keyward:token-type:aws-caller-identity";
const EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";

/// The longest token, in bytes: as long as the gateway reads.
const MOST: u64 = 16 * 1024;
/// How long a token that is no JWT is used before its file is read again.
const PLAIN_LIFE: Duration = Duration::from_secs(10);

impl Token {
    /// Reads it.
    async fn read(&self, clock: &Arc<dyn Clock>) -> Result<Shown, Fault> {
        let (token, kind) = match self {
            Self::File(path) => (of_file(path).await?, None),
            Self::Svid(api, audience) => {
                let token =
                    tokio::time::timeout(DEADLINE, workload::token(api.socket(), audience)).await;
                let late = || Fault::NoEvidence("the Workload API does not answer".to_owned());
                let token = token.map_err(|_| late())?;
                let token = token.map_err(|why| Fault::NoEvidence(why.to_owned()))?;
                (token, None)
            }
            Self::Aws(aws) => {
                let kind = match aws.proof {
                    AwsProof::CallerIdentity { .. } => AWS_CALLER,
                    AwsProof::IdentityDocument => AWS_DOCUMENT,
                };
                let late = || Fault::NoEvidence("AWS does not answer".to_owned());
                let proof = tokio::time::timeout(DEADLINE, aws.proof(clock)).await;
                (proof.map_err(|_| late())??, Some(kind))
            }
        };
        let malformed = |_| Fault::NoEvidence("the token is malformed".to_owned());
        let presented = Presented::of(token.expose()).map_err(malformed)?;
        let kind = kind.or(presented.is_jwt().then_some(JWT));
        Ok(Shown { token, kind })
    }
}

async fn of_file(path: &PathBuf) -> Result<Secret, Fault> {
    let failed =
        |why: &dyn std::fmt::Display| Fault::NoEvidence(format!("{}: {why}", path.display()));
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

impl Evidence {
    /// Whether there is anything but the certificate.
    pub(super) fn is_exchanged(&self) -> bool {
        self.token.is_some() || self.person.is_some()
    }

    /// Turns it into what the gateway takes: a session token, or a static token as it is.
    pub(super) async fn exchange(
        &self,
        connector: &Connector,
        person: Option<&Proved>,
    ) -> Result<Granted, Fault> {
        let shown = match &self.token {
            Some(token) => Some(token.read(&self.clock).await?),
            None => None,
        };
        let granting = self.grant(connector, shown, person);
        let granted = tokio::time::timeout(DEADLINE, granting).await;
        let Session { token, life } = granted.map_err(|_| Fault::TimedOut)??;
        let unusable = || Fault::Refused("its token cannot be used".to_owned());
        Ok(Granted {
            authorization: bearer(&token).ok_or_else(unusable)?,
            life,
        })
    }

    async fn grant(
        &self,
        connector: &Connector,
        shown: Option<Shown>,
        person: Option<&Proved>,
    ) -> Result<Session, Fault> {
        let actor = match (shown, person) {
            (
                Some(Shown {
                    token,
                    kind: Some(kind),
                }),
                None,
            ) => {
                let form = [
                    ("grant_type", EXCHANGE),
                    ("subject_token_type", kind),
                    ("subject_token", text(&token)),
                ];
                return self.ask(connector, &form).await;
            }
            (Some(Shown { token, kind: None }), None) => {
                return Ok(Session {
                    token,
                    life: PLAIN_LIFE,
                });
            }
            (Some(Shown { kind: None, .. }), Some(_)) => {
                return Err(Fault::NoEvidence(
                    "a static token acts for no person: show a JWT, AWS or a certificate"
                        .to_owned(),
                ));
            }
            (Some(Shown { token, kind }), Some(_)) => (token, kind.unwrap_or(JWT)),
            // By its certificate alone the relay gets a session first, which then acts for the person.
            (None, _) => {
                let form = [("grant_type", "client_credentials")];
                let own = self.ask(connector, &form).await?;
                (own.token, ACCESS_TOKEN)
            }
        };
        let Some(person) = person else {
            return Err(Fault::NoEvidence("nothing is shown".to_owned()));
        };
        // RFC 8693 §1.1: the person is the subject, the relay acts.
        let form = [
            ("grant_type", EXCHANGE),
            ("subject_token_type", ID_TOKEN),
            ("subject_token", text(&person.id_token)),
            ("actor_token_type", actor.1),
            ("actor_token", text(&actor.0)),
        ];
        self.ask(connector, &form).await
    }

    async fn ask(&self, connector: &Connector, form: &[(&str, &str)]) -> Result<Session, Fault> {
        let answer = self.send(connector, "token", form).await?;
        if answer.status.is_success() {
            let rubbish = |_| Fault::Refused("its answer is no token".to_owned());
            let Given {
                access_token,
                expires_in,
            } = answer.json().map_err(rubbish)?;
            if expires_in == 0 {
                return Err(Fault::Refused("its token is over".to_owned()));
            }
            return Ok(Session {
                token: Secret::from(access_token),
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
        let shown = |text: String| {
            let text: String = text.chars().take(200).collect();
            visible(&text)
        };
        Err(Fault::Refused(format!(
            "{} {} {}",
            answer.status.as_u16(),
            shown(error),
            shown(error_description)
        )))
    }

    /// Ends the session of a token that was granted (RFC 7009).
    ///
    /// # Errors
    /// The gateway has not done so, and may yet.
    pub(super) async fn revoke(
        &self,
        connector: &Connector,
        authorization: &HeaderValue,
    ) -> Result<(), Fault> {
        let token = authorization.to_str().unwrap_or_default();
        let token = token.strip_prefix("Bearer ").unwrap_or_default();
        let form = [("token", token)];
        let sending = self.send(connector, "revoke", &form);
        let answer = tokio::time::timeout(DEADLINE, sending).await;
        match answer.map_err(|_| Fault::TimedOut)??.status {
            status if status.is_success() => Ok(()),
            // It knows no such token (RFC 6749 §5.2), or ends none.
            StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND => Ok(()),
            status if status.is_server_error() => Err(Fault::Undecided),
            status => Err(Fault::Refused(status.as_u16().to_string())),
        }
    }

    async fn send(
        &self,
        connector: &Connector,
        path: &str,
        form: &[(&str, &str)],
    ) -> Result<Answer, Fault> {
        let (gateway, connect_to) = (&self.gateway, &self.connect_to);
        let endpoint: Endpoint = format!("https://{gateway}/{path}")
            .parse()
            .expect("a host and a port make a URL");
        let body = form_urlencoded::Serializer::new(String::new())
            .extend_pairs(form)
            .finish();
        let mut request = Request::new(Bytes::from(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = endpoint.uri().clone();
        let media_type = HeaderValue::from_static("application/x-www-form-urlencoded");
        request.headers_mut().insert(CONTENT_TYPE, media_type);
        let elsewhere = BTreeMap::from([(endpoint.target().clone(), connect_to.clone())]);
        let client = Network::new(connector.clone(), elsewhere).client();
        if let Ok(answer) = client.send(request).await {
            return Ok(answer);
        }
        // The client does not say why; a connection of our own does.
        let way = Gateway::new(gateway.clone(), Some(connect_to.clone()));
        Err(way.open(connector).await.err().unwrap_or(Fault::Broke))
    }
}

/// RFC 8693 §2.2.1.
#[derive(Deserialize)]
struct Given {
    access_token: String,
    expires_in: u64,
}

/// RFC 6749 §5.2.
#[derive(Default, Deserialize)]
struct Said {
    error: String,
    #[serde(default)]
    error_description: String,
}

fn text(token: &Secret) -> &str {
    std::str::from_utf8(token.expose()).unwrap_or_default()
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
