//! Credentials of OAuth issuers: one path to the token endpoint for every grant, client authentication and binding.
//!
//! [`client::TokenClient`] sends the form and judges the answer; a grant is no more than what it puts into the form.

mod answer;
mod authenticate;
mod client;
mod form;
mod form_client;
mod provider;
mod refresh;
mod server;
mod settings;
mod sign;

use std::fmt;
use std::sync::Arc;

pub use form_client::FormClient;
pub use provider::OauthProvider;
pub use settings::{
    Algorithm, Assertion, Client, ClientAuth, Exchange, Grant, Issuer, Party, Server, Settings,
    SigningKey, Workload,
};

pub(super) use answer::{Wiped, lost, status as judge, token as usable, unheard};
pub(super) use provider::bearer as open_bearer;
pub(super) use sign::Signer;

use super::{Env, Source, Vessel, Watched, Watcher};
use crate::agent::AgentId;
use crate::clock::Clock;
use crate::issuer::Network;
use crate::secret::Secret;

/// What a provider is opened with: where secrets are followed, whom it can call, what time it is.
pub struct Around<'a> {
    /// Follows sources.
    pub watcher: &'a Watcher,
    /// keyward's environment.
    pub env: Env<'a>,
    /// How issuers are called.
    pub network: &'a Network,
    /// The clock of claims.
    pub clock: &'a Arc<dyn Clock>,
    /// Where rotating secrets are kept.
    pub vessel: &'a Arc<dyn Vessel>,
    /// Who signs for agents; without it a token that names the agent is refused.
    pub agents: Option<&'a Arc<dyn AgentJwt>>,
}

/// Signs for agents with keyward's session keys, whose public half stands in `/.well-known/jwks.json`.
pub trait AgentJwt: fmt::Debug + Send + Sync {
    /// A JWT whose `sub` is the agent and whose `aud` is `audience`, good for 60 s; `None` if no key can sign.
    fn sign(&self, agent: &AgentId, audience: &str) -> Option<Secret>;
}

impl Around<'_> {
    /// Follows a source; one without a value is told in the log, and again whenever it is needed.
    pub(super) async fn watch(&self, source: &Source) -> Watched {
        let watched = self.watcher.watch(source, self.env).await;
        if let Err(error) = watched.current() {
            tracing::warn!(%source, %error, "a secret of a credential has no value yet; requests that need it are refused");
        }
        watched
    }
}

impl fmt::Debug for Around<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Around").finish_non_exhaustive()
    }
}
