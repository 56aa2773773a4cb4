//! Tokens of agents and operators, followed as their sources change, and the name that keyward gives an agent.

use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use tracing::warn;

use crate::agent::{AgentId, Name};
use crate::clock::Clock;
use crate::credential::{AgentJwt, Source, Watched, Watcher};
use crate::identity::{AgentEntry, StaticTokens};
use crate::proxy::Proxy;
use crate::secret::Secret;
use crate::session::{self, Keys};

use super::{Environment, lookup};

/// The proxy tokens of agents, followed as their sources change.
#[derive(Debug, Default)]
pub(super) struct Tokens {
    pub(super) provider: Arc<StaticTokens>,
    watched: Mutex<Vec<(AgentId, Watched)>>,
    seen: Mutex<Vec<(AgentId, Arc<Secret>)>>,
}

impl Tokens {
    pub(super) async fn watch(
        &self,
        agents: &[(AgentEntry, Option<Source>)],
        watcher: &Watcher,
        environment: &Environment,
    ) {
        let look = lookup(environment);
        let mut watched = Vec::new();
        for (entry, source) in agents {
            let Some(source) = source else { continue };
            let token = watcher.watch(source, &look).await;
            if let Err(error) = token.current() {
                warn!(agent = %entry.id, %error, "the agent's token has no value yet; it cannot identify itself");
            }
            watched.push((entry.id.clone(), token));
        }
        *self.watched.lock() = watched;
    }

    /// Takes up tokens that changed; the agents that lost one.
    pub(super) fn settle(&self) -> Vec<AgentId> {
        let current: Vec<(AgentId, Arc<Secret>)> = self
            .watched
            .lock()
            .iter()
            .filter_map(|(agent, token)| token.current().ok().map(|token| (agent.clone(), token)))
            .collect();
        let mut seen = self.seen.lock();
        if *seen == current {
            return Vec::new();
        }
        self.provider.replace(
            current
                .iter()
                .map(|(agent, token)| (&**token, agent.clone())),
        );
        let old = std::mem::replace(&mut *seen, current);
        old.into_iter()
            .filter(|entry| !seen.contains(entry))
            .map(|(agent, _)| agent)
            .collect()
    }
}

/// Tokens, each followed as its source changes.
pub(super) async fn watched(
    tokens: &[(Name, Source)],
    watcher: &Watcher,
    environment: &Environment,
) -> Vec<(Name, Watched)> {
    let look = lookup(environment);
    let mut found = Vec::with_capacity(tokens.len());
    for (name, source) in tokens {
        let token = watcher.watch(source, &look).await;
        if let Err(error) = token.current() {
            warn!(operator = %name, %error, "the operator's token has no value yet; it opens nothing");
        }
        found.push((name.clone(), token));
    }
    found
}

/// Takes up changed tokens; what was opened with one that is no longer good ends.
pub(super) fn end_by_token(proxy: &Proxy, tokens: &Tokens) {
    for agent in tokens.settle() {
        proxy.end_sessions_by_token(&agent);
    }
}

/// Names agents to issuers with the keys of session tokens, once those are there.
#[derive(Debug)]
pub(super) struct AgentSigner {
    clock: Arc<dyn Clock>,
    begun: OnceLock<(Arc<Keys>, Arc<str>)>,
}

impl AgentSigner {
    pub(super) fn new(clock: &Arc<dyn Clock>) -> Self {
        Self {
            clock: Arc::clone(clock),
            begun: OnceLock::new(),
        }
    }

    pub(super) fn begin(&self, keys: &Arc<Keys>, issuer: &Arc<str>) {
        // Only the first keys count; there are no others.
        self.begun.set((Arc::clone(keys), Arc::clone(issuer))).ok();
    }
}

impl AgentJwt for AgentSigner {
    fn sign(&self, agent: &AgentId, audience: &str) -> Option<Secret> {
        let (keys, issuer) = self.begun.get()?;
        let now = self.clock.now().wall.as_second();
        let signed = session::name_agent(keys, agent, (issuer, audience), now);
        signed.ok().map(Secret::from)
    }
}
