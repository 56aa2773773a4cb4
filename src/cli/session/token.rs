//! A gateway's `/token`, as a command asks it: for a sub-agent, and for the person who signed in.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD as BASE64URL};
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderValue, Method, Request};
use serde_json::Value;

use super::super::login::Who;
use super::super::{BUG, NO, UNAVAILABLE, USAGE, acting, complain, consult};
use crate::agent::{AgentId, Name};
use crate::app::Environment;
use crate::clock::SystemClock;
use crate::issuer::{Client, Endpoint, Network, visible};
use crate::proxy::UpstreamSettings;
use crate::secret::Secret;
use crate::syscall::{self, Role};
use crate::tls::Connector;

/// How long one call may take.
const PATIENCE: Duration = Duration::from_secs(30);
const EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
/// RFC 8693 §3.
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
const ID_TOKEN: &str = "urn:ietf:params:oauth:token-type:id_token";
const JWT: &str = "urn:ietf:params:oauth:token-type:jwt";

/// What is handed on, and what to do where a person has to approve it.
pub(super) struct Wanted<'a> {
    pub(super) agent: &'a AgentId,
    pub(super) scope: Option<&'a str>,
    pub(super) ttl: Option<Duration>,
    pub(super) ticket: Option<&'a str>,
    pub(super) waits: bool,
}

/// For whom an agent is to act, and how far.
pub(super) struct Binding<'a> {
    pub(super) file: &'a Path,
    pub(super) login: Option<&'a Name>,
    pub(super) agent: Option<&'a AgentId>,
    pub(super) scope: Option<&'a str>,
    pub(super) ttl: Option<Duration>,
}

/// The gateway.
struct Gateway {
    endpoint: Endpoint,
    client: Client,
    runtime: tokio::runtime::Runtime,
}

/// The parameters of one question.
type Form<'a> = Vec<(&'static str, &'a str)>;

/// The answer that grants a token, or, for whoever does not wait, the one with a ticket.
pub(super) fn delegate(environment: &Environment, wanted: &Wanted<'_>) -> Result<Value, u8> {
    let token = given(environment, "KEYWARD_TOKEN")?;
    let gateway = Gateway::at(environment, &UpstreamSettings::default())?;
    let ttl = wanted.ttl.map(|ttl| ttl.as_secs().to_string());
    let mut form = vec![
        ("grant_type", EXCHANGE),
        ("subject_token_type", ACCESS_TOKEN),
        ("subject_token", token),
        ("agent", wanted.agent.as_str()),
    ];
    form.extend(wanted.scope.map(|scope| ("scope", scope)));
    form.extend(ttl.as_deref().map(|ttl| ("expires_in", ttl)));
    gateway.asked(&form, (wanted.ticket, wanted.waits))
}

/// The answer that grants a token with which the agent of `KEYWARD_TOKEN` acts for whoever is signed in here.
pub(super) fn bind(environment: &Environment, binding: &Binding<'_>) -> Result<Value, u8> {
    // The sign-in is in this process's memory from now on.
    let hardening = syscall::harden(Role::Run);
    tracing::debug!(%hardening, "process hardened");
    let config = consult(binding.file)?;
    let token = given(environment, "KEYWARD_TOKEN")?;
    let gateway = Gateway::at(environment, &config.upstream)?;
    let found = Who::find(&config, binding.login, environment);
    let Some(who) = gateway.runtime.block_on(found)? else {
        complain(&"nobody is signed in: keyward login -c FILE --local");
        return Err(NO);
    };
    let person = gateway.runtime.block_on(who.needed())?;
    let id_token = text(&person.id_token)?;
    let session;
    let (actor, kind) = match shape(token) {
        Shape::Session => (token, ACCESS_TOKEN),
        Shape::Evidence => (token, JWT),
        Shape::Static => {
            let agent = acting(&config, binding.agent);
            session = gateway.session(&agent, token)?;
            (text(&session)?, ACCESS_TOKEN)
        }
    };
    let ttl = binding.ttl.map(|ttl| ttl.as_secs().to_string());
    let mut form = vec![
        ("grant_type", EXCHANGE),
        ("subject_token_type", ID_TOKEN),
        ("subject_token", id_token),
        ("actor_token_type", kind),
        ("actor_token", actor),
    ];
    form.extend(binding.scope.map(|scope| ("scope", scope)));
    form.extend(ttl.as_deref().map(|ttl| ("expires_in", ttl)));
    gateway.asked(&form, (None, true))
}

fn given<'e>(environment: &'e Environment, name: &str) -> Result<&'e str, u8> {
    let value = environment.get(name).and_then(|value| value.to_str());
    value.filter(|value| !value.is_empty()).ok_or_else(|| {
        complain(&format_args!(
            "{name} is not set: `keyward run` sets it; at a gateway, KEYWARD_URL is its listener and KEYWARD_TOKEN the agent's own token"
        ));
        USAGE
    })
}

fn text(secret: &Secret) -> Result<&str, u8> {
    std::str::from_utf8(secret.expose()).map_err(|_| {
        complain(&"a token is no text");
        BUG
    })
}

/// What an agent's own token is. The gateway verifies it; here it only decides how it is shown.
#[derive(Debug, PartialEq, Eq)]
enum Shape {
    /// A session token of keyward's: it names its session.
    Session,
    /// Another JWT.
    Evidence,
    Static,
}

fn shape(token: &str) -> Shape {
    let parts: Vec<&str> = token.split('.').collect();
    let [_, claims, _] = &*parts else {
        return Shape::Static;
    };
    let claims = BASE64URL.decode(claims).ok();
    let claims = claims.and_then(|claims| serde_json::from_slice::<Value>(&claims).ok());
    let Some(claims) = claims else {
        return Shape::Static;
    };
    let text = |name: &str| claims.get(name).and_then(Value::as_str);
    if text("aud") == Some("keyward") && text("sid").is_some() {
        Shape::Session
    } else {
        Shape::Evidence
    }
}

impl Gateway {
    /// The one at `KEYWARD_URL`.
    fn at(environment: &Environment, upstream: &UpstreamSettings) -> Result<Self, u8> {
        let url = given(environment, "KEYWARD_URL")?;
        let endpoint: Result<Endpoint, _> = format!("{}/token", url.trim_end_matches('/')).parse();
        let endpoint = endpoint.map_err(|error| {
            complain(&format_args!(
                "KEYWARD_URL cannot be called with a token: {error}"
            ));
            USAGE
        })?;
        let connector = Connector::new(&upstream.trust, None, Arc::new(SystemClock));
        let connector = connector.map_err(|error| {
            complain(&error);
            UNAVAILABLE
        })?;
        let client = Network::new(connector, upstream.connect_to.clone()).client();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| {
                complain(&error);
                BUG
            })?;
        Ok(Self {
            endpoint,
            client,
            runtime,
        })
    }

    /// A session of the agent itself, by its static token.
    fn session(&self, agent: &AgentId, token: &str) -> Result<Secret, u8> {
        let pair = STANDARD.encode(format!("{agent}:{token}"));
        let mut basic = HeaderValue::from_str(&format!("Basic {pair}")).map_err(|_| BUG)?;
        basic.set_sensitive(true);
        let form = vec![("grant_type", "client_credentials")];
        let answer = self.ask(&form, Some(basic))?;
        match answer {
            Ok(body) => match body.get("access_token").and_then(Value::as_str) {
                Some(token) => Ok(Secret::from(token.to_owned())),
                None => Err(self.unexpected()),
            },
            Err(refused) => Err(refused.say()),
        }
    }

    /// The answer that grants a token. Where a person has to approve it, it is waited for; whoever does not wait gets the
    /// ticket.
    fn asked(&self, form: &Form<'_>, (ticket, waits): (Option<&str>, bool)) -> Result<Value, u8> {
        let mut ticket = ticket.map(str::to_owned);
        let mut told = false;
        loop {
            let mut form = form.clone();
            form.extend(ticket.as_deref().map(|ticket| ("ticket", ticket)));
            let refused = match self.ask(&form, None)? {
                Ok(body) => return Ok(body),
                Err(refused) => refused,
            };
            let said = |name: &str| refused.said(name);
            if said("error") != "authorization_pending" {
                return Err(refused.say());
            }
            if !told {
                told = true;
                let waits = if waits { "; waiting" } else { "" };
                complain(&format_args!(
                    "a person has to approve this: approval {}, code {}{waits}",
                    refused.shown("ticket"),
                    refused.shown("code")
                ));
            }
            if !waits {
                return Ok(refused.body);
            }
            ticket = Some(said("ticket").to_owned());
            let interval = refused.body.get("interval").and_then(Value::as_u64);
            let interval = Duration::from_secs(interval.unwrap_or(5).clamp(1, 60));
            self.runtime
                .block_on(async { tokio::time::sleep(interval).await });
        }
    }

    /// One question.
    fn ask(
        &self,
        form: &Form<'_>,
        authorization: Option<HeaderValue>,
    ) -> Result<Result<Value, Refused>, u8> {
        let mut body = form_urlencoded::Serializer::new(String::new());
        body.extend_pairs(form);
        let mut request = Request::new(Bytes::from(body.finish()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.endpoint.uri().clone();
        let media_type = HeaderValue::from_static("application/x-www-form-urlencoded");
        request.headers_mut().insert(CONTENT_TYPE, media_type);
        if let Some(authorization) = authorization {
            request.headers_mut().insert(AUTHORIZATION, authorization);
        }
        let sent = async { tokio::time::timeout(PATIENCE, self.client.send(request)).await };
        let answer = self.runtime.block_on(sent);
        let answer = answer.map_err(|_| {
            complain(&"keyward does not answer in time");
            UNAVAILABLE
        })?;
        let answer = answer.map_err(|error| {
            complain(&format_args!("keyward does not answer: {error}"));
            UNAVAILABLE
        })?;
        let body = answer.json().unwrap_or_default();
        Ok(if answer.status.is_success() {
            Ok(body)
        } else {
            Err(Refused {
                status: answer.status,
                body,
            })
        })
    }

    fn unexpected(&self) -> u8 {
        complain(&format_args!(
            "the answer of {} is not what was expected",
            self.endpoint
        ));
        UNAVAILABLE
    }
}

/// An answer that grants nothing (RFC 6749 §5.2).
struct Refused {
    status: http::StatusCode,
    body: Value,
}

impl Refused {
    fn said(&self, name: &str) -> &str {
        let member = self.body.get(name).and_then(Value::as_str);
        member.unwrap_or_default()
    }

    /// The same for the terminal: the gateway, or whoever answers in its place, does not draw there.
    fn shown(&self, name: &str) -> String {
        visible(self.said(name))
    }

    /// Says it; the exit code.
    fn say(&self) -> u8 {
        complain(&format_args!(
            "{} {}: {}",
            self.status.as_u16(),
            self.shown("error"),
            self.shown("error_description")
        ));
        if self.status.is_server_error() {
            UNAVAILABLE
        } else {
            NO
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_shown_as_what_it_is() {
        let jwt = |claims: &str| format!("e30.{}.c2ln", BASE64URL.encode(claims));
        for (token, is) in [
            (jwt(r#"{"aud":"keyward","sid":"s"}"#), Shape::Session),
            (jwt(r#"{"aud":"keyward"}"#), Shape::Evidence),
            (jwt(r#"{"aud":["keyward"],"sid":"s"}"#), Shape::Evidence),
            (jwt("[]"), Shape::Evidence),
            ("agent-token-0123456789".to_owned(), Shape::Static),
            ("a.b.c".to_owned(), Shape::Static),
        ] {
            assert_eq!(shape(&token), is, "{token}");
        }
    }
}
