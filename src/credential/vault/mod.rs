//! `[credential.NAME.vault]`: OpenBao and HashiCorp Vault. A KV v2 field, or what any dynamic engine gives at a path.
//!
//! A lease is replaced before its end, not extended: the broker asks for the next one. A Vault ends every lease with
//! the login token that it was issued under, so a lease is never believed to live longer than that token.

mod answer;
mod call;
mod login;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderValue, Method};
use serde::Serialize;
use tokio::sync::Mutex;
use tracing::warn;

use super::given;
use super::source::{Env, Watcher};
use super::{
    CredentialProvider, Expiry, Handle, IssueError, Issued, Life, RevokeError, Scope, Source,
};
use crate::agent::Name;
use crate::clock::{Clock, Now};
use crate::inject::Material;
use crate::issuer::{Endpoint, Network};
use crate::secret::Secret;
use answer::{Lease, Tree};
use call::{Call, Fault};
use login::Login;

/// `[credential.NAME.vault]`, resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VaultSettings {
    /// `url`: where the API is, without `/v1`.
    pub url: Endpoint,
    /// `namespace`.
    pub namespace: Option<String>,
    /// `login`.
    pub login: VaultLogin,
    /// What is read.
    pub read: VaultRead,
}

/// `login`: who keyward is to the Vault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VaultLogin {
    /// `{ approle = { … } }`.
    AppRole {
        /// `mount`.
        mount: String,
        /// `role-id`.
        role_id: String,
        /// `secret-id`.
        secret_id: Source,
        /// `wrapped`: `secret-id` is a wrapping token, unwrapped once.
        wrapped: bool,
    },
    /// `{ jwt = { … } }` and `{ kubernetes = { … } }`, which differ by their mount alone.
    Jwt {
        /// `mount`.
        mount: String,
        /// `role`.
        role: String,
        /// `token`.
        token: Source,
    },
    /// `{ token = { … } }`.
    Token(Source),
}

/// What is read with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VaultRead {
    /// `kv`: one field of a KV v2 secret.
    Kv {
        /// `mount`.
        mount: String,
        /// `path`.
        path: String,
        /// `field`.
        field: String,
    },
    /// `path`: what an engine issues there.
    Engine {
        /// `path`.
        path: String,
        /// `field`: the secret. `None`: a certificate and its key.
        field: Option<String>,
        /// `user-field`.
        user_field: Option<String>,
        /// `data`: the call is a POST with it.
        data: Option<Vec<(String, String)>>,
    },
}

impl VaultSettings {
    /// The sources of the secrets that it needs itself.
    pub(super) fn sources(&self) -> Vec<&Source> {
        match &self.login {
            VaultLogin::AppRole { secret_id, .. } => vec![secret_id],
            VaultLogin::Jwt { token, .. } | VaultLogin::Token(token) => vec![token],
        }
    }

    /// Whether its leases bring a user name.
    pub(super) fn brings_user(&self) -> bool {
        matches!(
            self.read,
            VaultRead::Engine {
                user_field: Some(_),
                ..
            }
        )
    }
}

/// Reads one secret, or has one engine issue.
#[derive(Debug)]
pub struct VaultProvider(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    credential: Name,
    call: Arc<Call>,
    login: Login,
    /// Held across a login: one at a time, for whoever waits.
    held: Mutex<Option<Held>>,
    read: VaultRead,
    clock: Arc<dyn Clock>,
}

/// A login token.
#[derive(Debug, Clone)]
struct Held {
    token: HeaderValue,
    expires: Expiry,
    /// When it is renewed or replaced.
    refresh: Expiry,
    renewable: bool,
    /// The secret that it was got with has changed: the next call logs in anew.
    superseded: super::Superseded,
}

impl VaultProvider {
    /// Begins to look after its login token; must be called within a tokio runtime. Nothing is asked before the first
    /// lease.
    pub async fn open(
        credential: Name,
        settings: &VaultSettings,
        (watcher, env): (&Watcher, Env<'_>),
        network: &Network,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let login = Login::open(&settings.login, watcher, env).await;
        if let Err(error) = login.current() {
            warn!(%credential, %error, "the Vault login has no secret yet; requests that need it are refused");
        }
        let inner = Arc::new(Inner {
            credential,
            call: Arc::new(Call::new(
                network.client(),
                settings.url.clone(),
                settings.namespace.as_deref(),
            )),
            login,
            held: Mutex::default(),
            read: settings.read.clone(),
            clock,
        });
        let weak = Arc::downgrade(&inner);
        // Leases and single-use secret ids depend on the token: it must not end because no request came by.
        let _looking = inner.call.tracker.clone().spawn(async move {
            let mut tick = tokio::time::interval(LOOK);
            tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                tick.tick().await;
                let Some(inner) = weak.upgrade() else { return };
                inner.keep().await;
            }
        });
        Self(inner)
    }
}

impl Inner {
    /// Renews a token that is due, if there is one.
    async fn keep(&self) {
        // Somebody logs in now: there is nothing to keep.
        let Ok(mut held) = self.held.try_lock() else {
            return;
        };
        let now = self.clock.now();
        let due = |held: &Held| held.renewable && held.refresh.is_past(now);
        if let Some(old) = held.clone().filter(due)
            && !old.expires.is_past(now)
        {
            let renewed = tokio::time::timeout(PATIENCE, self.renew(&old, now)).await;
            *held = Some(renewed.ok().flatten().unwrap_or(Held {
                // Not again at every look.
                refresh: Expiry::after(now, AGAIN),
                ..old
            }));
        }
    }

    /// A token that is good now, and whether it was got just now.
    async fn token(&self) -> Result<(Held, bool), Fault> {
        let mut held = self.held.lock().await;
        let now = self.clock.now();
        if let Some(old) = &*held
            && !old.expires.is_past(now)
            && !old.superseded.is_raised()
        {
            if !old.refresh.is_past(now) {
                return Ok((old.clone(), false));
            }
            if old.renewable
                && let Some(next) = self.renew(old, now).await
            {
                *held = Some(next.clone());
                return Ok((next, true));
            }
        }
        let next = self.login.log_in(&self.call, now).await?;
        *held = Some(next.clone());
        Ok((next, true))
    }

    /// Lets go of a token that the Vault no longer takes; `false` where it does, and the call itself was forbidden.
    async fn forget(&self, stale: &Held) -> bool {
        // A good token may look itself up (the policy `default` allows it): then another login would change nothing,
        // and could use up a secret id.
        let looked = self.call.get("auth/token/lookup-self", Some(stale)).await;
        if looked.is_ok() {
            return false;
        }
        let mut held = self.held.lock().await;
        if held.as_ref().is_some_and(|now| now.token == stale.token) {
            *held = None;
        }
        true
    }

    /// `None` where the token cannot be kept any longer.
    async fn renew(&self, old: &Held, now: Now) -> Option<Held> {
        let answer = self
            .call
            .post(
                "auth/token/renew-self",
                Some(old),
                Bytes::from_static(b"{}"),
            )
            .await
            .ok()?;
        let mut next = login::held(&answer, now, old.superseded.clone()).ok()?;
        // At the end of its own longest life the Vault renews it by less and less.
        let worth = next.expires.is_never() || next.refresh.wall() > old.expires.wall();
        next.token = old.token.clone();
        worth.then_some(next)
    }

    /// Makes a call with a good token; once more with a fresh one if that had been withdrawn.
    async fn ask(
        &self,
        method: &Method,
        path: &str,
        body: Option<Bytes>,
    ) -> Result<(Option<Lease>, Held), Fault> {
        let (held, fresh) = self.token().await?;
        let first = self
            .call
            .send(method.clone(), path, Some(&held), body.clone())
            .await;
        if matches!(first, Err(Fault::Forbidden)) && !fresh && self.forget(&held).await {
            let (held, _) = self.token().await?;
            let second = self
                .call
                .send(method.clone(), path, Some(&held), body)
                .await?;
            return Ok((second, held));
        }
        Ok((first?, held))
    }

    async fn issue(&self) -> Result<Issued, Fault> {
        let (method, path, body) = self.read.request()?;
        let (lease, held) = self.ask(&method, &path, body).await?;
        let lease = lease.ok_or(Fault::Rubbish)?;
        let handle = lease.handle();
        let issued = self.make(lease, handle.clone(), &held);
        if issued.is_err()
            && let Some(handle) = handle
        {
            // It cannot be used here, and must not be good for anybody else.
            self.revoke(&handle).await.ok();
        }
        issued
    }

    fn make(&self, lease: Lease, handle: Option<Handle>, held: &Held) -> Result<Issued, Fault> {
        let life = lease.life(&self.read)?;
        let material = self.read.material(lease.data)?;
        Ok(Issued {
            life: within(life, held.expires, self.clock.now()),
            material,
            handle,
            superseded: None,
        })
    }

    async fn revoke(&self, handle: &Handle) -> Result<(), Fault> {
        #[derive(Serialize)]
        struct Revoke<'a> {
            lease_id: &'a str,
            /// Confirmed only when the engine has done it.
            sync: bool,
        }
        let lease_id =
            std::str::from_utf8(handle.content().expose()).map_err(|_| Fault::Rubbish)?;
        let body = call::json(&Revoke {
            lease_id,
            sync: true,
        })?;
        let path = "sys/leases/revoke";
        self.ask(&Method::POST, path, Some(body)).await.map(drop)
    }
}

/// The shorter of a lease's life and its token's.
fn within(life: Life, token: Expiry, now: Now) -> Life {
    let Some(end) = token.wall() else { return life };
    let left = Duration::try_from(end.duration_since(now.wall)).unwrap_or_default();
    match life {
        Life::For(life) => Life::For(life.min(left)),
        Life::Until(until) => Life::Until(until.min(end)),
        Life::Endless => Life::For(left),
    }
}

impl VaultRead {
    fn request(&self) -> Result<(Method, String, Option<Bytes>), Fault> {
        Ok(match self {
            Self::Kv { mount, path, .. } => (Method::GET, format!("{mount}/data/{path}"), None),
            Self::Engine {
                path, data: None, ..
            } => (Method::GET, path.clone(), None),
            Self::Engine {
                path,
                data: Some(data),
                ..
            } => {
                let pairs = data
                    .iter()
                    .map(|(key, value)| (key.as_str(), value.as_str()));
                let object: std::collections::BTreeMap<&str, &str> = pairs.collect();
                (Method::POST, path.clone(), Some(call::json(&object)?))
            }
        })
    }

    fn material(&self, data: Tree) -> Result<Material, Fault> {
        let usable = |secret: Secret| given::usable(secret).map_err(|_| Fault::Unusable);
        match self {
            Self::Kv { field, .. } => {
                let mut data = data.take("data").ok_or(Fault::NoField)?;
                let secret = data.text(field).ok_or(Fault::NoField)?;
                Ok(Material::Token(usable(secret)?))
            }
            Self::Engine {
                field: Some(field),
                user_field,
                ..
            } => {
                let mut data = data;
                let user = match user_field {
                    Some(name) => Some(user(&data.text(name).ok_or(Fault::NoField)?)?),
                    None => None,
                };
                let secret = usable(data.text(field).ok_or(Fault::NoField)?)?;
                Ok(match user {
                    Some(user) => Material::UserPass {
                        user,
                        password: secret,
                    },
                    None => Material::Token(secret),
                })
            }
            Self::Engine { field: None, .. } => Err(Fault::NoField),
        }
    }
}

/// RFC 7617 §2: a user-id holds no colon and no control character.
fn user(text: &Secret) -> Result<Arc<str>, Fault> {
    let clean = |b: &u8| (0x20..0x7f).contains(b) && *b != b':';
    let bytes = text.expose();
    if bytes.is_empty() || !bytes.iter().all(clean) {
        return Err(Fault::Unusable);
    }
    std::str::from_utf8(bytes)
        .map(Arc::from)
        .map_err(|_| Fault::Unusable)
}

#[async_trait]
impl CredentialProvider for VaultProvider {
    fn kind(&self) -> &'static str {
        "vault"
    }

    async fn issue(&self, _scope: &Scope) -> Result<Issued, IssueError> {
        self.0.issue().await.map_err(|fault| {
            warn!(credential = %self.0.credential, %fault, "the Vault gave nothing");
            fault.into()
        })
    }

    async fn revoke(&self, handle: &Handle) -> Result<(), RevokeError> {
        self.0.revoke(handle).await.map_err(|fault| {
            warn!(credential = %self.0.credential, %fault, "the Vault did not revoke");
            RevokeError::Failed
        })
    }
}

/// How often the login token is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// How long a renewal in the background may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// When a renewal that failed is tried again.
const AGAIN: Duration = Duration::from_secs(5);
