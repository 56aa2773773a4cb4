//! `[credential.NAME.vault]`: OpenBao and HashiCorp Vault. A KV v2 field, or what any dynamic engine gives at a path.
//!
//! A lease is renewed before its end, as long as its Vault lets it live on. A Vault ends every lease with the login token
//! that it was issued under, so a lease is never believed to live longer than that token, and never renewed under another.

mod answer;
mod call;
mod login;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;
use http::{HeaderValue, Method};
use serde::Serialize;
use tokio::sync::Mutex;
use tracing::warn;

use super::given;
use super::source::{Env, Watcher};
use super::{
    CredentialProvider, Expiry, Handle, IssueError, Issued, Life, Renewable, RevokeError, Scope,
    Source,
};
use crate::agent::Name;
use crate::clock::{Clock, Now};
use crate::inject::Material;
use crate::issuer::{Endpoint, Network};
use crate::secret::Secret;
use crate::tls::ClientIdentity;
use answer::{Lease, Tree, certificate, user};
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

    /// Whether its leases are certificates.
    pub(super) fn brings_certificate(&self) -> bool {
        matches!(self.read, VaultRead::Engine { field: None, .. })
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

impl Held {
    /// What tells this token from another, and does not tell the token.
    fn mark(&self) -> u64 {
        let hash = digest(&SHA256, self.token.as_bytes());
        let first = hash.as_ref().first_chunk().copied();
        u64::from_be_bytes(first.unwrap_or_default())
    }

    /// The same, not to be renewed again at every look.
    fn later(self, now: Now) -> Self {
        Self {
            refresh: Expiry::after(now, AGAIN),
            ..self
        }
    }
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
            *held = Some(renewed.ok().flatten().unwrap_or_else(|| old.later(now)));
        }
    }

    /// A token that is good now, and whether it was got just now.
    async fn token(&self) -> Result<(Held, bool), Fault> {
        let mut held = self.held.lock().await;
        let now = self.clock.now();
        let good = |old: &Held| !old.expires.is_past(now) && !old.superseded.is_raised();
        let old = held.clone().filter(good);
        if let Some(old) = &old {
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
        match (self.login.log_in(&self.call, now).await, old) {
            (Ok(next), _) => {
                *held = Some(next.clone());
                Ok((next, true))
            }
            // It is good for a while yet: a secret id may have been for one login only.
            (Err(fault), Some(old)) => {
                warn!(credential = %self.credential, %fault, "the login to the Vault cannot be renewed; its token is used until it ends");
                let old = old.later(now);
                *held = Some(old.clone());
                Ok((old, false))
            }
            (Err(fault), None) => Err(fault),
        }
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
        let handle = lease.handle(held.mark());
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
        let life = within(life, held.expires, self.clock.now());
        let life = match &material {
            // A certificate ends by its own date, and with its lease where it has one.
            Material::Certificate(pem) => {
                let identity = ClientIdentity::from_pem(pem.chain(), pem.key())
                    .map_err(|_| Fault::Unusable)?;
                match life {
                    Life::For(life) if handle.is_some() => {
                        let end = self.clock.now().wall.checked_add(life).ok();
                        Life::Until(end.map_or(identity.until(), |end| end.min(identity.until())))
                    }
                    _ => Life::Until(identity.until()),
                }
            }
            _ => life,
        };
        Ok(Issued {
            life,
            material,
            handle,
            superseded: None,
        })
    }

    /// Lets a lease live on under the login that it was issued under.
    async fn prolong(&self, handle: &Handle) -> Result<Life, Fault> {
        #[derive(Serialize)]
        struct Renew<'a> {
            lease_id: &'a str,
            increment: u32,
        }
        let renewable = handle.renewable().ok_or(Fault::NoLife)?;
        let (held, _) = self.token().await?;
        if held.mark() != renewable.mark {
            return Err(Fault::OtherLogin);
        }
        let body = call::json(&Renew {
            lease_id: lease_id(handle)?,
            increment: renewable.seconds,
        })?;
        let path = "sys/leases/renew";
        let sent = self.call.post(path, Some(&held), body).await;
        // It said yes, and not until when.
        let unsaid = |fault| match fault {
            Fault::Rubbish | Fault::NoLife => Fault::Lost,
            other => other,
        };
        let life = sent.and_then(|lease| lease.life(&self.read));
        let life = life.map_err(unsaid)?;
        Ok(within(life, held.expires, self.clock.now()))
    }

    async fn revoke(&self, handle: &Handle) -> Result<(), Fault> {
        #[derive(Serialize)]
        struct Revoke<'a> {
            lease_id: &'a str,
            /// Confirmed only when the engine has done it.
            sync: bool,
        }
        let body = call::json(&Revoke {
            lease_id: lease_id(handle)?,
            sync: true,
        })?;
        let path = "sys/leases/revoke";
        self.ask(&Method::POST, path, Some(body)).await.map(drop)
    }
}

fn lease_id(handle: &Handle) -> Result<&str, Fault> {
    std::str::from_utf8(handle.content().expose()).map_err(|_| Fault::Rubbish)
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
            Self::Engine { field: None, .. } => certificate(data),
        }
    }
}

#[async_trait]
impl CredentialProvider for VaultProvider {
    fn kind(&self) -> &'static str {
        "vault"
    }

    fn revokes(&self) -> bool {
        matches!(self.0.read, VaultRead::Engine { .. })
    }

    async fn issue(&self, _scope: &Scope) -> Result<Issued, IssueError> {
        self.0.issue().await.map_err(|fault| {
            warn!(credential = %self.0.credential, %fault, "the Vault gave nothing");
            fault.into()
        })
    }

    async fn renew(&self, handle: &Handle) -> Result<Life, IssueError> {
        self.0.prolong(handle).await.map_err(|fault| {
            warn!(credential = %self.0.credential, %fault, "the Vault did not renew a lease");
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
