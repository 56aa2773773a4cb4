//! Who approves, and whom webhooks tell.

use std::collections::HashMap;
use std::sync::Arc;

use crate::agent::Name;
use crate::approval::{self, Approvals, Hook, Reach, Settings};
use crate::config::Config;
use crate::credential::{Watched, Watcher};
use crate::issuer::Network;
use crate::secret::Secret;

use super::{Environment, lookup};

/// A webhook's key, followed as its source changes.
#[derive(Debug)]
struct HookKey(Watched);

impl approval::Key for HookKey {
    fn current(&self) -> Option<Arc<Secret>> {
        self.0.current().ok()
    }
}

/// Who can decide what is asked of a keyward with this configuration.
pub(super) fn reach(config: &Config) -> Reach {
    if config.store.lasts() {
        // Whoever else lives on the store may have an admin side.
        Reach::Everywhere
    } else if config.admin.listen.is_some() || config.admin.socket.is_some() {
        Reach::Here
    } else {
        Reach::Nobody
    }
}

/// The tables, and the webhooks that are told of their questions.
pub(super) async fn tables(
    config: &Config,
    network: &Network,
    (watcher, environment): (&Watcher, &Environment),
) -> (Vec<Settings>, HashMap<Name, Hook>) {
    let look = lookup(environment);
    let (mut tables, mut hooks) = (Vec::new(), HashMap::new());
    for one in &config.approvals {
        if let (Some(endpoint), Some(source)) = (&one.settings.console.webhook, &one.secret) {
            let key = watcher.watch(source, &look).await;
            let hook = Hook {
                endpoint: endpoint.clone(),
                key: Arc::new(HookKey(key)),
                client: network.client(),
            };
            hooks.insert(one.settings.name.clone(), hook);
        }
        tables.push(one.settings.clone());
    }
    (tables, hooks)
}

/// Puts the tables of a configuration in place.
pub(super) async fn settle(
    approvals: &Approvals,
    config: &Config,
    network: &Network,
    read: (&Watcher, &Environment),
) {
    let (tables, hooks) = tables(config, network, read).await;
    approvals.reconfigure(tables, hooks);
}
