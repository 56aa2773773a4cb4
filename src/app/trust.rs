//! Who is asked who an agent is, and the rest of a snapshot of the configuration.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::agent::{AgentId, Name};
use crate::clock::Clock;
use crate::config::{Config, Trust};
use crate::credential::{Watched, Watcher};
use crate::identity::{self, AgentEntry, Logins, Open, Overlay, Registry, TrustProvider};
use crate::issuer::Network;
use crate::policy::Policy;
use crate::proxy::{Identify, ListenerSettings, Services, SnapshotParts, UpstreamSettings};
use crate::route::Table;
use crate::secret::Secret;
use crate::tls::{Connector, Leaves, SYSTEM_BUNDLES};

use super::tokens::Tokens;
use super::{Environment, hex, lookup};

pub(super) fn parts(
    config: &Config,
    (leaves, overlay): (&Arc<Leaves>, &Arc<Overlay>),
    providers: &[Arc<dyn TrustProvider>],
    connector: Connector,
    clock: &Arc<dyn Clock>,
) -> SnapshotParts {
    let network = Network::new(connector.clone(), config.upstream.connect_to.clone());
    let logins: Vec<identity::Login> = config
        .logins
        .iter()
        .map(|login| login.settings.clone())
        .collect();
    let mut agents: Vec<AgentEntry> = config
        .agents
        .iter()
        .map(|(entry, _)| entry.clone())
        .collect();
    let mut trust: HashMap<Name, Vec<Arc<dyn TrustProvider>>> = HashMap::new();
    for listener in &config.listeners {
        let asked: Vec<Arc<dyn TrustProvider>> = match listener.identify {
            Identify::Required => providers.to_vec(),
            Identify::Open => vec![Arc::new(Open(open_agent(listener, &mut agents)))],
        };
        trust.insert(listener.name.clone(), asked);
    }
    SnapshotParts {
        table: Table::new(config.routes.clone()),
        policy: Policy::new(config.conditions.clone()),
        registry: Registry::new(agents).beside(Arc::clone(overlay)),
        trust,
        logins: Logins::new(&logins, &network, clock),
        leaves: Arc::clone(leaves),
        services: Services::of(&config.routes, &config.presets()),
        upstream: config.upstream.clone(),
        connector,
    }
}

/// The trust providers in the order in which they are asked: the file's, and static tokens last.
pub(super) async fn trust(
    config: &Config,
    (connector, clock, metrics): (&Connector, &Arc<dyn Clock>, &identity::Metrics),
    (tokens, watcher, environment): (&Tokens, &Watcher, &Environment),
    last: &Last,
) -> Vec<Arc<dyn TrustProvider>> {
    let network = Network::new(connector.clone(), config.upstream.connect_to.clone());
    let look = lookup(environment);
    let reached = reached(&config.upstream);
    let mut asked: Vec<Arc<dyn TrustProvider>> = Vec::new();
    let mut fresh = Vec::with_capacity(config.trust.len());
    for table in &config.trust {
        if let Some(known) = last.find(table, &reached) {
            asked.push(Arc::clone(&known));
            fresh.push((table.clone(), known));
            continue;
        }
        let token = match &table.token {
            Some(source) => Some(watcher.watch(source, &look).await),
            None => None,
        };
        let parts = identity::Parts {
            network: &network,
            clock,
            metrics,
            token: token.map(|token| Arc::new(OwnToken(token)) as Arc<dyn identity::Token>),
            env: &look,
        };
        let provider = identity::provider(&table.settings, &parts);
        fresh.push((table.clone(), Arc::clone(&provider)));
        asked.push(provider);
    }
    *last.0.lock() = (reached, fresh);
    let last = Arc::clone(&tokens.provider) as Arc<dyn TrustProvider>;
    asked.push(Arc::new(identity::Counted::new(last, "token", metrics)));
    asked
}

/// The providers of the configuration before. A table that says the same, reached by the same roots, keeps its provider
/// and with it the keys that it fetched: a reload while an issuer is out of reach locks nobody out.
#[derive(Debug, Default)]
pub(super) struct Last(Mutex<(String, Vec<Provided>)>);

/// A table and what was made of it.
type Provided = (Trust, Arc<dyn TrustProvider>);

impl Last {
    fn find(&self, table: &Trust, reached: &str) -> Option<Arc<dyn TrustProvider>> {
        let last = self.0.lock();
        let (before, made) = &*last;
        let mut made = made.iter().filter(|_| before == reached);
        let (_, provider) = made.find(|(known, _)| known == table)?;
        Some(Arc::clone(provider))
    }
}

/// What issuers are reached and believed by: files of roots by what stands in them now.
fn reached(upstream: &UpstreamSettings) -> String {
    let roots: Vec<_> = upstream
        .trust
        .pem
        .iter()
        .map(|path| std::fs::read(path).ok())
        .collect();
    let system: Vec<_> = SYSTEM_BUNDLES
        .iter()
        .filter(|_| upstream.trust.system)
        .map(|path| {
            let metadata = std::fs::metadata(path).ok()?;
            Some((metadata.len(), metadata.modified().ok()))
        })
        .collect();
    let about = (&upstream.trust, &upstream.connect_to, roots, system);
    hex(format!("{about:?}"))
}

/// A token of keyward's own that it shows to a trust provider's issuer.
#[derive(Debug)]
struct OwnToken(Watched);

impl identity::Token for OwnToken {
    fn current(&self) -> Option<Arc<Secret>> {
        self.0.current().ok()
    }
}

/// The agent of an open listener: the only one of the file, or `default`.
fn open_agent(_: &ListenerSettings, agents: &mut Vec<AgentEntry>) -> AgentId {
    if let Some(only) = agents.first() {
        return only.id.clone();
    }
    let default: AgentId = "default".parse().expect("`default` is a name");
    agents.push(AgentEntry::bare(default.clone()));
    default
}
