//! The providers at which people sign in.

use std::sync::Arc;

use crate::clock::{Clock, SystemClock};
use crate::config::{self, Config};
use crate::credential::oauth::FormClient;
use crate::credential::{Around, Vessel, Watcher};
use crate::identity::Logins;
use crate::issuer::Network;
use crate::login::Provider;
use crate::store::Store;
use crate::tls::Connector;

use super::{Environment, StartError, lookup};

/// One for each `[login.NAME]`, in the file's order, for a command that signs somebody in itself.
///
/// # Errors
/// [`StartError`].
pub async fn people(
    config: &Config,
    environment: &Environment,
) -> Result<Vec<Provider>, StartError> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let connector = Connector::new(&config.upstream.trust, None, Arc::clone(&clock))?;
    let network = Network::new(connector, config.upstream.connect_to.clone());
    let (watcher, look) = (Watcher::new(Arc::clone(&clock)), lookup(environment));
    let vessel: Arc<dyn Vessel> = Arc::new(Store::memory()?);
    let around = Around {
        watcher: &watcher,
        env: &look,
        network: &network,
        clock: &clock,
        vessel: &vessel,
        agents: None,
    };
    Ok(providers(&config.logins, &around).await)
}

/// The same among the rest of an app.
pub(super) async fn providers(logins: &[config::Login], around: &Around<'_>) -> Vec<Provider> {
    let settings: Vec<_> = logins.iter().map(|login| login.settings.clone()).collect();
    let verifier = Arc::new(Logins::new(&settings, around.network, around.clock));
    let mut providers = Vec::with_capacity(logins.len());
    for login in logins {
        let id = &login.settings.client_id;
        let client = FormClient::open(id, login.client.as_ref(), around).await;
        providers.push(Provider::new(
            &login.settings,
            client,
            &verifier,
            around.clock,
        ));
    }
    providers
}
