//! What happens to an app that runs: reloads, regular work, and its end.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tracing::{info, warn};

use crate::admin;
use crate::audit::Record;
use crate::config::Config;
use crate::credential::{Around, Vessel};
use crate::issuer::Network;
use crate::tls::{Authority, Connector, IdentityError};

use super::approvals;
use super::credentials::providers;
use super::door::{certificate, undoored};
use super::tokens::{end_by_token, watched};
use super::trust::{parts, trust};
use super::{App, ReloadLabels, StartError, constraints, fingerprint, lookup, people};

/// How often changed tokens are looked for.
const TOKENS_EVERY: Duration = Duration::from_millis(250);
/// How often idle connections are looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(5);
/// How often it is asked what other replicas did.
const HEAR_EVERY: Duration = Duration::from_millis(250);
/// How often questions that are past their time are looked for.
const APPROVALS_EVERY: Duration = Duration::from_secs(1);
/// How often signing keys are looked at.
const KEYS_EVERY: Duration = Duration::from_mins(1);
/// How often sessions that are over are looked for: what lives by one is cut within 100 ms of its end.
const SESSIONS_EVERY: Duration = Duration::from_millis(50);

impl App {
    /// Puts another configuration in place, whole; on a fault the old one stays.
    ///
    /// # Errors
    /// [`StartError`]: nothing has changed then.
    pub async fn reload(&self, config: &Config) -> Result<(), StartError> {
        self.reload_by(config, None).await
    }

    /// As [`App::reload`]; the record says which operator ordered it.
    ///
    /// # Errors
    /// [`StartError`]: nothing has changed then.
    pub async fn reload_by(&self, config: &Config, by: Option<&str>) -> Result<(), StartError> {
        let connector = Connector::new(&config.upstream.trust, None, Arc::clone(&self.clock))?;
        let names = constraints(config);
        if *self.leaves.authority().names() != names {
            let authority = match &self.ca.dir {
                Some(dir) => Authority::open(dir, names, Arc::clone(&self.clock))?,
                None => self.leaves.authority().reissued(names)?,
            };
            self.leaves.replace(Arc::new(authority));
        }
        for listener in &config.listeners {
            let known = self.doors.iter().find(|(name, _)| *name == listener.name);
            if let (Some((_, door)), Some(tls)) = (known, &listener.tls) {
                let (chain, key) = certificate(&listener.name, tls, &self.environment).await?;
                let unfit = |error: IdentityError| undoored(&listener.name, &error);
                door.replace(&chain, &key).map_err(unfit)?;
            }
        }
        let vessel: Arc<dyn Vessel> = Arc::new(self.store.clone());
        let network = Network::new(connector.clone(), config.upstream.connect_to.clone());
        let look = lookup(&self.environment);
        let around = Around {
            watcher: &self.watcher,
            env: &look,
            network: &network,
            clock: &self.clock,
            vessel: &vessel,
            agents: Some(&self.names),
        };
        let entries = providers((&config.credentials, &config.upstream), &around).await;
        let read = (&self.watcher, &self.environment);
        let (tables, hooks) = approvals::tables(config, &network, read).await;
        let people = people::providers(&config.logins, &around).await;
        self.tokens
            .watch(&config.agents, &self.watcher, &self.environment)
            .await;
        let about = (&connector, &self.clock, &self.attestations);
        let read = (&*self.tokens, &self.watcher, &self.environment);
        let trust = trust(config, about, read, &self.trusted).await;
        let about = (&self.leaves, &self.overlay);
        let fresh = parts(config, about, &trust, connector, &self.clock);
        let cut = self.proxy.reload(fresh, || {
            self.broker.reconfigure(entries);
            self.sessions.reconfigure(config.session.clone());
            self.approvals.reconfigure(tables, hooks);
        });
        end_by_token(&self.proxy, &self.tokens);
        self.people.replace(people);
        self.reloads
            .get_or_create(&ReloadLabels { outcome: "loaded" })
            .inc();
        self.operators
            .replace(watched(&config.admin.tokens, &self.watcher, &self.environment).await);
        let mut record = Record::config("loaded");
        record.by = by;
        let fingerprint = fingerprint(config);
        record.digest = Some(&fingerprint);
        self.audit.append(&record);
        self.running.lock().clone_from(&fingerprint);
        info!(cut, "configuration reloaded");
        Ok(())
    }

    /// Whether this configuration is the one that runs: a file that was written again as it was changes nothing.
    pub fn is_running(&self, config: &Config) -> bool {
        *self.running.lock() == fingerprint(config)
    }

    /// The reloads that operators ask for. Whoever takes them does them; they can be taken once.
    pub fn wishes(&self) -> Option<mpsc::Receiver<admin::Asked>> {
        self.wishes.lock().take()
    }

    /// Records that a configuration was not taken; `by` is the operator who ordered it.
    pub fn rejected(&self, by: Option<&str>) {
        self.reloads
            .get_or_create(&ReloadLabels {
                outcome: "rejected",
            })
            .inc();
        let mut record = Record::config("rejected");
        record.by = by;
        self.audit.append(&record);
    }

    /// Stops accepting, lets what runs finish for this long, revokes, and closes the trail. `reason` stands in the
    /// records of the sessions that end by it.
    pub async fn shut_down(self, grace: Duration, reason: &'static str) {
        self.state.draining.cancel();
        self.proxy.drain();
        self.stop.cancel();
        self.tracker.close();
        if tokio::time::timeout(grace, self.tracker.wait())
            .await
            .is_err()
        {
            warn!("some requests did not finish in time; they are cut");
        }
        self.proxy.end_sessions(reason);
        self.proxy.cut();
        tokio::time::timeout(Duration::from_secs(2), self.tracker.wait())
            .await
            .ok();
        self.broker.shutdown(grace).await;
        self.store.close().await;
        self.audit.close();
    }

    /// Regular work: changed tokens, idle connections and sessions.
    pub(super) fn look_after(&self) {
        let (proxy, tokens, stop) = (
            self.proxy.clone(),
            Arc::clone(&self.tokens),
            self.stop.clone(),
        );
        self.tracker.spawn(async move {
            let mut looking = tokio::time::interval(TOKENS_EVERY);
            let mut sweeping = tokio::time::interval(SWEEP_EVERY);
            let mut ending = tokio::time::interval(SESSIONS_EVERY);
            loop {
                tokio::select! {
                    () = stop.cancelled() => return,
                    _ = looking.tick() => end_by_token(&proxy, &tokens),
                    _ = ending.tick() => proxy.sweep_sessions(),
                    _ = sweeping.tick() => proxy.sweep(),
                }
            }
        });
        let (proxy, stop) = (self.proxy.clone(), self.stop.clone());
        let agents = Arc::clone(&self.agents);
        let approvals = Arc::clone(&self.approvals);
        self.tracker.spawn(async move {
            let mut hearing = tokio::time::interval(HEAR_EVERY);
            let mut noting = tokio::time::interval(SWEEP_EVERY);
            let mut rotating = tokio::time::interval(KEYS_EVERY);
            let mut lapsing = tokio::time::interval(APPROVALS_EVERY);
            loop {
                // What fails here was said by the store, and is tried again.
                tokio::select! {
                    () = stop.cancelled() => return,
                    _ = hearing.tick() => {
                        proxy.hear().await.ok();
                        agents.hear().await.ok();
                    }
                    _ = noting.tick() => proxy.note_uses().await,
                    _ = lapsing.tick() => approvals.sweep().await,
                    _ = rotating.tick() => { proxy.load_keys().await.ok(); }
                }
            }
        });
    }
}
