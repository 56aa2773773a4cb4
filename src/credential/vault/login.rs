//! Who keyward is to a Vault: AppRole, JWT, Kubernetes, or a token as it is.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Method};
use serde::Serialize;
use tokio::sync::{Mutex, oneshot};

use super::answer::Lease;
use super::call::{self, Call, Fault};
use super::{Held, VaultLogin};
use crate::clock::Now;
use crate::credential::source::{Env, SourceError, Watched, Watcher};
use crate::credential::{Expiry, Superseded};
use crate::secret::Secret;

/// A login, with its secret followed as it changes.
#[derive(Debug)]
pub(super) struct Login {
    secret: Watched,
    how: How,
}

#[derive(Debug)]
enum How {
    AppRole {
        path: String,
        role_id: String,
        /// What a wrapping token held, once it was unwrapped. `None`: the secret is the secret id itself.
        unwrapped: Option<Arc<Mutex<Option<Unwrapped>>>>,
    },
    Jwt {
        path: String,
        role: String,
    },
    Token,
}

/// A secret id, and the wrapping token that it came in.
#[derive(Debug)]
struct Unwrapped {
    wrapping: Arc<Secret>,
    secret_id: Arc<Secret>,
}

impl Login {
    pub(super) async fn open(settings: &VaultLogin, watcher: &Watcher, env: Env<'_>) -> Self {
        let (source, how) = match settings {
            VaultLogin::AppRole {
                mount,
                role_id,
                secret_id,
                wrapped,
            } => (
                secret_id,
                How::AppRole {
                    path: format!("auth/{mount}/login"),
                    role_id: role_id.clone(),
                    unwrapped: wrapped.then(Arc::default),
                },
            ),
            VaultLogin::Jwt { mount, role, token } => (
                token,
                How::Jwt {
                    path: format!("auth/{mount}/login"),
                    role: role.clone(),
                },
            ),
            VaultLogin::Token(token) => (token, How::Token),
        };
        Self {
            secret: watcher.watch(source, env).await,
            how,
        }
    }

    /// Whether its secret can be read.
    pub(super) fn current(&self) -> Result<(), SourceError> {
        self.secret.current().map(drop)
    }

    /// Logs in. `now` was read before.
    pub(super) async fn log_in(&self, call: &Arc<Call>, now: Now) -> Result<Held, Fault> {
        let reading = self.secret.reading();
        let secret = reading.value.as_ref().map_err(|_| Fault::NoSecret)?;
        let superseded = reading.superseded.clone();
        match &self.how {
            How::AppRole {
                path,
                role_id,
                unwrapped,
            } => {
                #[derive(Serialize)]
                struct AppRole<'a> {
                    role_id: &'a str,
                    secret_id: &'a str,
                }
                let secret_id = match unwrapped {
                    Some(cell) => unwrap(call, cell, secret).await?,
                    None => Arc::clone(secret),
                };
                let body = call::json(&AppRole {
                    role_id,
                    secret_id: text(&secret_id)?,
                })?;
                entered(call.post(path, None, body).await, now, superseded)
            }
            How::Jwt { path, role } => {
                #[derive(Serialize)]
                struct Jwt<'a> {
                    role: &'a str,
                    jwt: &'a str,
                }
                let body = call::json(&Jwt {
                    role,
                    jwt: text(secret)?,
                })?;
                entered(call.post(path, None, body).await, now, superseded)
            }
            // Who made it looks after it.
            How::Token => Ok(Held {
                token: header(secret)?,
                expires: Expiry::NEVER,
                refresh: Expiry::NEVER,
                renewable: false,
                superseded,
            }),
        }
    }
}

/// A login that was refused is told apart from a call that was.
fn entered(answer: Result<Lease, Fault>, now: Now, superseded: Superseded) -> Result<Held, Fault> {
    let answer = answer.map_err(|fault| match fault {
        Fault::Forbidden => Fault::Login(403),
        Fault::Refused(status) => Fault::Login(status),
        other => other,
    })?;
    held(&answer, now, superseded)
}

/// The token of a login's or a renewal's answer.
pub(super) fn held(answer: &Lease, now: Now, superseded: Superseded) -> Result<Held, Fault> {
    let auth = answer.auth.as_ref().ok_or(Fault::Rubbish)?;
    let expires = match auth.lease_duration {
        0 => Expiry::NEVER,
        seconds => Expiry::after(now, std::time::Duration::from_secs(seconds.into())),
    };
    Ok(Held {
        token: header(&auth.client_token.0)?,
        expires,
        refresh: expires.refresh(now, 0),
        renewable: auth.renewable,
        superseded,
    })
}

/// The secret id of a wrapping token, which can be unwrapped once and never again.
///
/// It runs as a task of its own: the answer must not be lost because nobody waits for it any longer.
async fn unwrap(
    call: &Arc<Call>,
    cell: &Arc<Mutex<Option<Unwrapped>>>,
    wrapping: &Arc<Secret>,
) -> Result<Arc<Secret>, Fault> {
    let (call, cell, wrapping) = (Arc::clone(call), Arc::clone(cell), Arc::clone(wrapping));
    let (done, waiting) = oneshot::channel();
    call.tracker.clone().spawn(async move {
        let mut known = cell.lock().await;
        let outcome = match &*known {
            Some(known) if known.wrapping == wrapping => Ok(Arc::clone(&known.secret_id)),
            _ => unwrap_now(&call, &wrapping).await.inspect(|secret_id| {
                *known = Some(Unwrapped {
                    wrapping,
                    secret_id: Arc::clone(secret_id),
                });
            }),
        };
        done.send(outcome).ok();
    });
    waiting.await.unwrap_or(Err(Fault::Unreachable))
}

async fn unwrap_now(call: &Call, wrapping: &Secret) -> Result<Arc<Secret>, Fault> {
    let token = header(wrapping)?;
    let body = Bytes::from_static(b"{}");
    let sent = call.send_as(Method::POST, "sys/wrapping/unwrap", Some(token), Some(body));
    let answer = sent.await.map_err(|fault| match fault {
        Fault::Forbidden | Fault::Refused(_) => Fault::Spent,
        other => other,
    })?;
    let mut data = answer.ok_or(Fault::Rubbish)?.data;
    data.text("secret_id").map(Arc::new).ok_or(Fault::NoField)
}

fn text(secret: &Secret) -> Result<&str, Fault> {
    std::str::from_utf8(secret.expose()).map_err(|_| Fault::Unusable)
}

fn header(token: &Secret) -> Result<HeaderValue, Fault> {
    let mut value = HeaderValue::from_bytes(token.expose()).map_err(|_| Fault::Unusable)?;
    value.set_sensitive(true);
    Ok(value)
}
