//! One login's provider: the calls of a sign-in, from its beginning to the revocation of what came of it.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use jiff::Timestamp;
use serde::Deserialize;
use tokio::sync::Mutex;
use tracing::{debug, warn};

use super::device::{Device, Poll};
use super::metadata::Metadata;
use super::request::{Begun, Returned};
use super::{Fault, SignedIn, Wiped};
use crate::agent::Name;
use crate::clock::{Clock, Now};
use crate::credential::IssueError;
use crate::credential::oauth::FormClient;
use crate::identity::{Expected, Known, Login, Logins, PersonError};
use crate::issuer::Answer;
use crate::secret::Secret;

/// A provider at which people sign in.
#[derive(Debug)]
pub struct Provider {
    login: Login,
    client: FormClient,
    /// Verifies ID tokens.
    logins: Arc<Logins>,
    clock: Arc<dyn Clock>,
    /// Held while the provider is asked: the second asker finds what the first found.
    metadata: Mutex<Option<(Now, Arc<Metadata>)>>,
}

/// An answer of the token endpoint (RFC 6749 §5, OpenID Connect Core 1.0 §3.1.3.3).
#[derive(Deserialize)]
struct Granted {
    id_token: Option<Wiped>,
    access_token: Option<Wiped>,
    refresh_token: Option<Wiped>,
    error: Option<String>,
}

/// A token, or the error that the provider names.
enum Said {
    Granted(Granted),
    Error(String),
}

impl Provider {
    /// Asks nobody yet. `logins` must hold this login.
    pub fn new(
        login: &Login,
        client: FormClient,
        logins: &Arc<Logins>,
        clock: &Arc<dyn Clock>,
    ) -> Self {
        Self {
            login: login.clone(),
            client,
            logins: Arc::clone(logins),
            clock: Arc::clone(clock),
            metadata: Mutex::default(),
        }
    }

    /// NAME of `[login.NAME]`.
    pub fn name(&self) -> &Name {
        &self.login.name
    }

    /// What the file says of it.
    pub fn login(&self) -> &Login {
        &self.login
    }

    /// Who an ID token that was kept is of, if it holds still.
    ///
    /// # Errors
    /// [`Fault`].
    pub async fn verified(
        &self,
        id_token: &Secret,
        access_token: Option<&Secret>,
    ) -> Result<Known, Fault> {
        let expected = Expected {
            login: self.name(),
            nonce: None,
            since: None,
            access_token,
        };
        let known = self.logins.signed_in(id_token, expected).await;
        known.map_err(|error| match error {
            PersonError::Bad => Fault::Refused("the ID token does not hold, or names nobody"),
            PersonError::Unverified => UNVERIFIED,
            PersonError::Unavailable => Fault::Unavailable,
        })
    }

    /// Begins a sign-in whose answer comes to `redirect_uri`.
    ///
    /// # Errors
    /// [`Fault`].
    pub async fn begin(&self, redirect_uri: &str) -> Result<Begun, Fault> {
        let metadata = self.metadata().await?;
        let about = (self.name(), &*self.login.client_id, &*self.login.scopes);
        Ok(Begun::new(about, &metadata, (redirect_uri, None)))
    }

    /// As [`Provider::begin`], and the person shows the provider anew who it is: an agent on their machine could have
    /// their browser come and go without their doing anything.
    ///
    /// # Errors
    /// [`Fault`].
    pub async fn begin_anew(&self, redirect_uri: &str) -> Result<Begun, Fault> {
        let metadata = self.metadata().await?;
        let about = (self.name(), &*self.login.client_id, &*self.login.scopes);
        let since = self.clock.now().wall;
        Ok(Begun::new(about, &metadata, (redirect_uri, Some(since))))
    }

    /// Ends a sign-in with what came back. `begun` is used up, whatever comes of it.
    ///
    /// # Errors
    /// [`Fault`].
    pub async fn finish(&self, begun: Begun, returned: &Returned) -> Result<SignedIn, Fault> {
        let code = begun.code(returned).map_err(|unfit| {
            debug!(login = %self.name(), %unfit, "an answer of a login's provider was not taken");
            Fault::Refused(match unfit {
                super::Unfit::Denied => "the sign-in was denied at the provider",
                super::Unfit::Failed => "the provider could not sign the person in",
                _ => "the answer does not belong to this sign-in",
            })
        })?;
        let fields: [(&str, &[u8]); 4] = [
            ("grant_type", b"authorization_code"),
            ("code", code.as_bytes()),
            ("redirect_uri", begun.redirect_uri.as_bytes()),
            ("code_verifier", begun.verifier.expose()),
        ];
        let granted = self.granted(&fields).await?;
        self.signed_in(&granted, (Some(&begun.nonce), begun.since))
            .await
    }

    /// Begins a sign-in on another device (RFC 8628 §3.1).
    ///
    /// # Errors
    /// [`Fault`]; a provider without such an endpoint is one.
    pub async fn device(&self) -> Result<Device, Fault> {
        let metadata = self.metadata().await?;
        let Some(to) = &metadata.device else {
            return Err(Fault::Refused(
                "the provider has no device_authorization_endpoint: sign in with a browser",
            ));
        };
        let scopes = self.login.scopes.join(" ");
        // Counted from before the call: keyward never waits longer than the provider does.
        let now = self.clock.now();
        let fields: [(&str, &[u8]); 1] = [("scope", scopes.as_bytes())];
        let answer = self.client.post(to, &metadata.issuer, &fields).await;
        let answer = answer.map_err(fault)?;
        if answer.status != StatusCode::OK {
            return Err(self.no(&answer, "it does not begin a device sign-in"));
        }
        Device::read(&answer, now).map_err(|why| self.unusable(why))
    }

    /// Asks how a device's sign-in stands (RFC 8628 §3.4). The caller waits for [`Device::interval`] before each call.
    ///
    /// # Errors
    /// [`Fault`]: it is over.
    pub async fn poll(&self, device: &mut Device) -> Result<Poll, Fault> {
        if self.clock.now().mono >= device.ends.mono {
            return Err(Fault::Refused("nobody signed in in time"));
        }
        let fields: [(&str, &[u8]); 2] = [
            (
                "grant_type",
                b"urn:ietf:params:oauth:grant-type:device_code",
            ),
            ("device_code", device.code.expose()),
        ];
        let said = match self.ask(&fields).await {
            // RFC 8628 §3.5: a timeout is answered by asking less often, not by giving up.
            Err(Fault::Unavailable) => {
                device.interval = (device.interval * 2).min(Duration::from_mins(1));
                return Ok(Poll::Pending);
            }
            said => said?,
        };
        let error = match said {
            Said::Granted(granted) => {
                let signed_in = self.signed_in(&granted, (None, None)).await?;
                return Ok(Poll::Done(Box::new(signed_in)));
            }
            Said::Error(error) => error,
        };
        match &*error {
            "authorization_pending" => Ok(Poll::Pending),
            "slow_down" => {
                device.slow_down();
                Ok(Poll::Pending)
            }
            "access_denied" => Err(Fault::Refused("the sign-in was denied at the provider")),
            "expired_token" => Err(Fault::Refused("nobody signed in in time")),
            _ => Err(Fault::Refused("the provider could not sign the person in")),
        }
    }

    /// Renews a sign-in (RFC 6749 §6). A provider that gives no new ID token (OpenID Connect Core 1.0 §12.2 leaves it
    /// open) no longer says who the person is: that is a refusal.
    ///
    /// # Errors
    /// [`Fault`].
    pub async fn refresh(&self, refresh_token: &Secret) -> Result<SignedIn, Fault> {
        let fields: [(&str, &[u8]); 2] = [
            ("grant_type", b"refresh_token"),
            ("refresh_token", refresh_token.expose()),
        ];
        let granted = self.granted(&fields).await?;
        self.signed_in(&granted, (None, None)).await
    }

    /// Revokes a refresh token, and with it what came of it (RFC 7009 §2.1); whether the provider can.
    ///
    /// # Errors
    /// [`Fault`] where it should have and did not.
    pub async fn revoke(&self, refresh_token: &Secret) -> Result<bool, Fault> {
        let metadata = self.metadata().await?;
        let Some(to) = &metadata.revocation else {
            return Ok(false);
        };
        let fields: [(&str, &[u8]); 2] = [
            ("token", refresh_token.expose()),
            ("token_type_hint", b"refresh_token"),
        ];
        let answer = self.client.post(to, &metadata.issuer, &fields).await;
        let answer = answer.map_err(fault)?;
        if answer.status.is_success() {
            return Ok(true);
        }
        Err(self.no(&answer, "it does not revoke"))
    }

    async fn granted(&self, fields: &[(&str, &[u8])]) -> Result<Granted, Fault> {
        match self.ask(fields).await? {
            Said::Granted(granted) => Ok(granted),
            Said::Error(error) => {
                // A word of RFC 6749 §5.2 or nothing: the rest is the provider's text.
                let known = ["invalid_grant", "invalid_client", "unauthorized_client"];
                let error = known.into_iter().find(|known| *known == error);
                warn!(login = %self.name(), error, "a login's provider gave no token");
                Err(Fault::Refused("the provider gave no token"))
            }
        }
    }

    async fn ask(&self, fields: &[(&str, &[u8])]) -> Result<Said, Fault> {
        let metadata = self.metadata().await?;
        let answer = self.client.post(&metadata.token, &metadata.issuer, fields);
        let answer = answer.await.map_err(fault)?;
        if is_down(answer.status) {
            return Err(Fault::Unavailable);
        }
        let granted: Granted = answer
            .json()
            .map_err(|_| self.unusable("its answer is not JSON"))?;
        match (granted.error, answer.status.is_success()) {
            (Some(error), _) => Ok(Said::Error(error)),
            (None, false) => Err(self.unusable("its answer names no error")),
            (None, true) => Ok(Said::Granted(Granted {
                error: None,
                ..granted
            })),
        }
    }

    async fn signed_in(
        &self,
        granted: &Granted,
        (nonce, since): (Option<&str>, Option<Timestamp>),
    ) -> Result<SignedIn, Fault> {
        let Some(id_token) = granted.id_token.as_ref().map(Wiped::secret) else {
            return Err(self.unusable("its answer has no id_token"));
        };
        let access_token = granted.access_token.as_ref().map(Wiped::secret);
        let expected = Expected {
            login: self.name(),
            nonce,
            since,
            access_token: access_token.as_ref(),
        };
        let known = self.logins.signed_in(&id_token, expected).await;
        let known = known.map_err(|error| match error {
            PersonError::Bad => self.unusable("its ID token does not hold, or names nobody"),
            // The person can have it mended at the provider; the operator can take another user-claim.
            PersonError::Unverified => {
                self.unusable("its ID token does not say that the email is verified");
                UNVERIFIED
            }
            PersonError::Unavailable => Fault::Unavailable,
        })?;
        Ok(SignedIn {
            user: known.user,
            expires: known.expires,
            id_token,
            access_token,
            refresh_token: granted.refresh_token.as_ref().map(Wiped::secret),
        })
    }

    /// Asked for again after [`FRESH`]; a provider that is out of reach then keeps the old.
    async fn metadata(&self) -> Result<Arc<Metadata>, Fault> {
        let mut found = self.metadata.lock().await;
        let now = self.clock.now();
        if let Some((at, metadata)) = &*found
            && now.mono.saturating_duration_since(at.mono) < FRESH
        {
            return Ok(Arc::clone(metadata));
        }
        let fresh = self.discover().await;
        match (fresh, &*found) {
            (Ok(metadata), _) => {
                let metadata = Arc::new(metadata);
                *found = Some((now, Arc::clone(&metadata)));
                Ok(metadata)
            }
            (Err(Fault::Unavailable), Some((_, old))) => Ok(Arc::clone(old)),
            (Err(error), _) => Err(error),
        }
    }

    async fn discover(&self) -> Result<Metadata, Fault> {
        let at = (self.login.discovery).join("/.well-known/openid-configuration");
        let at = at.map_err(|_| self.unusable("its issuer is no URL"))?;
        let answer = self.client.get(&at).await.map_err(fault)?;
        if answer.status != StatusCode::OK {
            return Err(self.no(&answer, "it has no metadata"));
        }
        let read = Metadata::read(&answer, &self.login.issuer, self.client.is_mutual());
        read.map_err(|why| self.unusable(why))
    }

    fn no(&self, answer: &Answer, why: &'static str) -> Fault {
        if is_down(answer.status) {
            return Fault::Unavailable;
        }
        self.unusable(why)
    }

    /// An operator reads in the log what a person could not mend.
    fn unusable(&self, why: &'static str) -> Fault {
        warn!(login = %self.name(), why, "a login's provider cannot be used");
        Fault::Refused("the provider's answer cannot be used; the log says why")
    }
}

fn is_down(status: StatusCode) -> bool {
    status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS
}

fn fault(error: IssueError) -> Fault {
    match error {
        IssueError::Unavailable { .. } => Fault::Unavailable,
        _ => Fault::Refused("keyward cannot show the provider who it is; the log says why"),
    }
}

/// How long metadata are used.
const FRESH: Duration = Duration::from_hours(1);
const UNVERIFIED: Fault = Fault::Refused(
    "the provider does not say that the person's email is verified: email_verified must be true",
);
