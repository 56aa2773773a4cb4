//! Assembly: the only file that names every adapter.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fmt::{self, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::admin;
use crate::agent::{AgentId, Name};
use crate::audit::{self, Audit, AuditError, Record, Who};
use crate::clock::{Clock, SystemClock};
use crate::config::Config;
use crate::credential::{
    AgentJwt, Around, AwsProvider, AzureProvider, Broker, CertificateProvider, CommandProvider,
    CredentialProvider, Events, Failed, GithubAppProvider, Issue, Kind, OauthProvider, Revoking,
    Scope, Source, Spec, StaticProvider, VaultProvider, Vessel, Watched, Watcher,
};
use crate::host::HostPattern;
use crate::identity::{
    self, AgentEntry, Logins, Open, Overlay, Registry, StaticTokens, TrustProvider,
};
use crate::issuer::Network;
use crate::policy::Policy;
use crate::proxy::{
    self, BindError, Bound, Identify, Lasting, ListenerSettings, ListenerTls, Proxy, Services,
    SnapshotParts, UpstreamSettings,
};
use crate::route::Table;
use crate::secret::Secret;
use crate::session::{self, Keys, Sessions};
use crate::store::{Store, StoreError};
use crate::telemetry;
use crate::tls::{
    Authority, CaError, CaSettings, Connector, Constraints, FrontDoor, IdentityError, Leaves,
    TrustError,
};

/// keyward's environment as `main` captured it.
pub type Environment = Arc<HashMap<String, OsString>>;

/// How often changed tokens are looked for.
const TOKENS_EVERY: Duration = Duration::from_millis(250);
/// How often idle connections are looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(5);
/// How often it is asked what other replicas did.
const HEAR_EVERY: Duration = Duration::from_millis(250);
/// How often signing keys are looked at.
const KEYS_EVERY: Duration = Duration::from_mins(1);
/// How often sessions that are over are looked for: what lives by one is cut within 100 ms of its end.
const SESSIONS_EVERY: Duration = Duration::from_millis(50);

/// A running keyward.
#[derive(Debug)]
pub struct App {
    proxy: Proxy,
    audit: Arc<Audit>,
    broker: Arc<Broker>,
    sessions: Arc<Sessions>,
    overlay: Arc<Overlay>,
    agents: Arc<admin::Agents>,
    store: Store,
    names: Arc<dyn AgentJwt>,
    leaves: Arc<Leaves>,
    watcher: Watcher,
    tokens: Arc<Tokens>,
    attestations: identity::Metrics,
    environment: Environment,
    clock: Arc<dyn Clock>,
    tracker: TaskTracker,
    stop: CancellationToken,
    state: Arc<State>,
    listeners: Vec<(Name, Vec<String>, Vec<SocketAddr>)>,
    doors: Vec<(Name, Arc<FrontDoor>)>,
    admin: Option<SocketAddr>,
    operators: Arc<admin::Operators>,
    wishes: Mutex<Option<mpsc::Receiver<admin::Asked>>>,
    ca: CaSettings,
    running: Mutex<String>,
    reloads: prometheus_client::metrics::family::Family<
        ReloadLabels,
        prometheus_client::metrics::counter::Counter,
    >,
}

/// What an app is started with beside its configuration.
#[derive(Debug)]
pub struct Surroundings {
    /// The environment that `{ env = … }` sources read.
    pub environment: Environment,
    /// Where records go if the file does not say.
    pub audit: audit::Settings,
    /// Sockets that systemd handed over, by name.
    pub handed: Vec<(String, std::net::TcpListener)>,
}

/// Why keyward does not start, or keeps its old configuration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The audit trail cannot be opened.
    #[error("the audit trail cannot be opened: {0}")]
    Audit(#[from] AuditError),
    /// The CA cannot be opened.
    #[error("the CA cannot be used: {0}")]
    Ca(#[from] CaError),
    /// The roots that upstreams are verified against cannot be loaded.
    #[error("the upstream trust cannot be loaded: {0}")]
    Trust(#[from] TrustError),
    /// A listener cannot be opened.
    #[error("{0}: {1}")]
    Bind(BindError, String),
    /// The admin listener cannot be opened.
    #[error("cannot listen on {0} for [admin]: {1}")]
    Admin(SocketAddr, std::io::Error),
    /// No key for session tokens can be made.
    #[error("no key for session tokens can be made: {0}")]
    Keys(String),
    /// The store cannot be opened.
    #[error("[store]: {0}")]
    Store(#[from] StoreError),
    /// The admin socket cannot be opened.
    #[error("cannot open {0} for [admin]: {1}")]
    Socket(String, std::io::Error),
    /// A listener's own certificate or key cannot be used.
    #[error("the listener \"{0}\" has no certificate to show: {1}")]
    Door(Name, String),
    /// A secret that a credential needs at start cannot be used.
    #[error("{0}")]
    Secret(String),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, prometheus_client::encoding::EncodeLabelSet)]
struct ReloadLabels {
    outcome: &'static str,
}

impl App {
    /// Opens everything and serves.
    ///
    /// # Errors
    /// [`StartError`]; nothing is left open then.
    pub async fn start(config: Config, surroundings: Surroundings) -> Result<Self, StartError> {
        let open = |settings: &audit::Settings, clock: &Arc<dyn Clock>| {
            Audit::open(settings.clone(), Arc::clone(clock))
        };
        Self::assemble(config, surroundings, open).await
    }

    /// As [`App::start`], for one of several at a time: where another process writes to the audit file, records go to
    /// one beside it. They are counted.
    ///
    /// # Errors
    /// [`StartError`]; nothing is left open then.
    pub async fn start_beside(
        config: Config,
        surroundings: Surroundings,
    ) -> Result<Self, StartError> {
        let open = |settings: &audit::Settings, clock: &Arc<dyn Clock>| {
            Audit::open_beside(settings, clock).map(Audit::counting)
        };
        Self::assemble(config, surroundings, open).await
    }

    #[expect(
        clippy::too_many_lines,
        reason = "assembly is one list, read from top to bottom"
    )]
    async fn assemble(
        config: Config,
        surroundings: Surroundings,
        open: impl FnOnce(&audit::Settings, &Arc<dyn Clock>) -> Result<Audit, AuditError>,
    ) -> Result<Self, StartError> {
        let Surroundings {
            environment,
            audit,
            mut handed,
        } = surroundings;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
        let connector = Connector::new(&config.upstream.trust, None, Arc::clone(&clock))?;
        let authority = Arc::new(authority(&config, &clock)?);
        let leaves = Arc::new(Leaves::new(authority, Arc::clone(&clock))?);
        let audit = Arc::new(open(config.audit.as_ref().unwrap_or(&audit), &clock)?);
        let store = Store::open(&config.store, &lookup(&environment)).await?;
        let watcher = Watcher::new(Arc::clone(&clock));
        let vessel: Arc<dyn Vessel> = Arc::new(store.clone());
        let signer = Arc::new(AgentSigner::new(&clock));
        let names: Arc<dyn AgentJwt> = Arc::clone(&signer) as Arc<dyn AgentJwt>;
        let network = Network::new(connector.clone(), config.upstream.connect_to.clone());
        let look = lookup(&environment);
        let around = Around {
            watcher: &watcher,
            env: &look,
            network: &network,
            clock: &clock,
            vessel: &vessel,
            agents: Some(&names),
        };
        let entries = providers((&config.credentials, &config.upstream), &around).await;
        let events = Arc::new(Recorder(Arc::clone(&audit)));
        let journal = Arc::new(store.clone());
        let broker = Broker::with_journal(entries, Arc::clone(&clock), events, journal);
        let broker = Arc::new(broker);
        let tokens = Arc::new(Tokens::default());
        tokens.watch(&config.agents, &watcher, &environment).await;
        // Nobody has a session yet that could end.
        tokens.settle();

        let (mut bound, mut doors) = (Vec::new(), Vec::new());
        for listener in &config.listeners {
            let door = front_door(listener, &environment, &clock).await?;
            let opened = Bound::open(listener.clone(), door.as_ref(), &mut handed);
            doors.extend(door.map(|door| (listener.name.clone(), door)));
            bound.push(opened.map_err(unbound)?);
        }
        let admin_listener = match config.admin.listen {
            Some(address) => Some(
                TcpListener::bind(address)
                    .await
                    .map_err(|error| StartError::Admin(address, error))?,
            ),
            None => None,
        };
        let admin_socket = match &config.admin.socket {
            Some(path) => Some(
                admin::Socket::open(path)
                    .map_err(|error| StartError::Socket(path.display().to_string(), error))?,
            ),
            None => None,
        };
        let admin_address = admin_listener
            .as_ref()
            .and_then(|listener| listener.local_addr().ok());
        let mut own: Vec<SocketAddr> = bound.iter().flat_map(Bound::addresses).collect();
        own.extend(admin_address);

        let metrics = Arc::new(proxy::Metrics::default());
        let sessions = Arc::new(Sessions::new(config.session.clone()));
        let keys = Keys::new(&clock.now()).map_err(|error| StartError::Keys(error.to_string()))?;
        let keys = Arc::new(keys);
        let issuer = issuer(&config, admin_address, &own);
        let overlay = Arc::new(Overlay::default());
        signer.begin(&keys, &issuer);
        let lasting = Lasting {
            audit: Arc::clone(&audit),
            broker: Arc::clone(&broker),
            sessions: Arc::clone(&sessions),
            keys,
            session_store: Arc::new(store.clone()),
            overlay: Arc::clone(&overlay),
            issuer,
            clock: Arc::clone(&clock),
            tracker: tracker.clone(),
            metrics: Arc::clone(&metrics),
            own,
        };
        let attestations = identity::Metrics::default();
        let about = (&connector, &clock, &attestations);
        let trust = trust(&config, about, (&tokens, &watcher, &environment)).await;
        let proxy = Proxy::new(
            lasting,
            parts(&config, (&leaves, &overlay), &trust, connector, &clock),
        );
        if proxy.load_keys().await.is_err() || proxy.hear().await.is_err() {
            return Err(StartError::Keys("the store does not answer".into()));
        }
        let about = (Arc::clone(&audit), Arc::clone(&clock));
        let kept = Arc::new(store.clone());
        let agents = admin::Agents::new(proxy.clone(), Arc::clone(&overlay), kept, about);
        let agents = Arc::new(agents);
        agents
            .hear()
            .await
            .map_err(|error| StartError::Keys(error.to_string()))?;
        let reloads = prometheus_client::metrics::family::Family::default();
        let telemetry = telemetry::Metrics::gather(|registry| {
            metrics.register(registry);
            audit.metrics().register(registry);
            leaves.metrics().register(registry);
            broker.register(registry);
            attestations.register(registry);
            registry.register(
                "keyward_config_reloads",
                "Reloads by outcome",
                reloads.clone(),
            );
        });
        let state = Arc::new(State {
            telemetry,
            audit: Arc::clone(&audit),
            draining: CancellationToken::new(),
        });
        let listeners = bound
            .iter()
            .map(|one| (one.name().clone(), one.shown(), one.addresses()))
            .collect();
        let operators = Arc::new(admin::Operators::new(Arc::clone(&tokens.provider)));
        operators.replace(watched(&config.admin.tokens, &watcher, &environment).await);
        let (reload, wishes) = admin::Reload::new();
        let parts: Vec<Arc<dyn admin::Part>> = vec![
            Arc::new(admin::Leases::new(Arc::clone(&broker))),
            Arc::new(admin::Sessions::new(proxy.clone(), Arc::clone(&broker))),
            Arc::clone(&agents) as Arc<dyn admin::Part>,
            Arc::new(reload),
        ];
        let gate = Arc::clone(&operators) as Arc<dyn admin::Gate>;
        let api = admin::Api::new(gate, parts, config.admin.public_url.as_deref());
        let asked = (Arc::clone(&state) as Arc<dyn admin::State>, api);
        admin::serve(
            (admin_listener, admin_socket),
            asked,
            &tracker,
            stop.clone(),
        );
        for listener in bound {
            proxy.serve(listener);
        }
        let mut loaded = Record::config("loaded");
        let fingerprint = fingerprint(&config);
        loaded.digest = Some(&fingerprint);
        audit.append(&loaded);
        let app = Self {
            proxy,
            audit,
            broker,
            sessions,
            overlay,
            agents,
            store,
            names,
            leaves,
            watcher,
            tokens,
            attestations,
            environment,
            clock,
            tracker,
            stop,
            state,
            listeners,
            doors,
            admin: admin_address,
            operators,
            wishes: Mutex::new(Some(wishes)),
            ca: config.ca,
            running: Mutex::new(fingerprint),
            reloads,
        };
        app.look_after();
        Ok(app)
    }

    /// Where each listener listens: its name, its addresses as text, and its TCP addresses.
    pub fn listeners(&self) -> &[(Name, Vec<String>, Vec<SocketAddr>)] {
        &self.listeners
    }

    /// Serves one more socket under these settings, which carry the name of a listener that is known: `run --isolate`
    /// has it only once its command stands.
    ///
    /// # Errors
    /// [`StartError::Bind`] where the socket cannot be used.
    pub fn serve_also(
        &self,
        settings: ListenerSettings,
        socket: std::net::TcpListener,
    ) -> Result<(), StartError> {
        let settings = ListenerSettings {
            listen: vec![proxy::ListenAddr::Systemd(None)],
            ..settings
        };
        let mut handed = vec![(settings.name.to_string(), socket)];
        let bound = Bound::open(settings, None, &mut handed).map_err(unbound)?;
        self.proxy.serve(bound);
        Ok(())
    }

    /// Begins the session of `run`, which lasts until keyward ends; its token.
    ///
    /// # Errors
    /// [`StartError::Keys`] where no token can be signed.
    pub fn begin_run(&self, agent: &AgentId) -> Result<String, StartError> {
        let minted = self.proxy.begin_run(agent);
        minted.map_err(|error| StartError::Keys(error.to_string()))
    }

    /// Where the admin side listens.
    pub fn admin(&self) -> Option<SocketAddr> {
        self.admin
    }

    /// The audit trail.
    pub fn audit(&self) -> &Arc<Audit> {
        &self.audit
    }

    /// The certificates that agents trust, in PEM.
    pub fn roots_pem(&self) -> Arc<str> {
        Arc::clone(self.leaves.authority().roots_pem())
    }

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
        self.tokens
            .watch(&config.agents, &self.watcher, &self.environment)
            .await;
        let about = (&connector, &self.clock, &self.attestations);
        let read = (&*self.tokens, &self.watcher, &self.environment);
        let trust = trust(config, about, read).await;
        let about = (&self.leaves, &self.overlay);
        let fresh = parts(config, about, &trust, connector, &self.clock);
        let cut = self.proxy.reload(fresh, || {
            self.broker.reconfigure(entries);
            self.sessions.reconfigure(config.session.clone());
        });
        end_by_token(&self.proxy, &self.tokens);
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
    fn look_after(&self) {
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
        self.tracker.spawn(async move {
            let mut hearing = tokio::time::interval(HEAR_EVERY);
            let mut noting = tokio::time::interval(SWEEP_EVERY);
            let mut rotating = tokio::time::interval(KEYS_EVERY);
            loop {
                // What fails here was said by the store, and is tried again.
                tokio::select! {
                    () = stop.cancelled() => return,
                    _ = hearing.tick() => {
                        proxy.hear().await.ok();
                        agents.hear().await.ok();
                    }
                    _ = noting.tick() => proxy.note_uses().await,
                    _ = rotating.tick() => { proxy.load_keys().await.ok(); }
                }
            }
        });
    }
}

/// `iss` of session tokens: how the admin side is reached from outside, else where the agents' side listens.
fn issuer(config: &Config, admin: Option<SocketAddr>, own: &[SocketAddr]) -> Arc<str> {
    let listening = || {
        admin
            .as_ref()
            .or(own.first())
            .map(|own| format!("http://{own}"))
    };
    let written = config.admin.public_url.clone().or_else(listening);
    written
        .unwrap_or_else(|| "http://localhost".to_owned())
        .into()
}

fn unbound(error: BindError) -> StartError {
    let cause = std::error::Error::source(&error)
        .map(ToString::to_string)
        .unwrap_or_default();
    StartError::Bind(error, cause)
}

/// What the `tls:` addresses of a listener show.
async fn front_door(
    listener: &ListenerSettings,
    environment: &Environment,
    clock: &Arc<dyn Clock>,
) -> Result<Option<Arc<FrontDoor>>, StartError> {
    let Some(tls) = &listener.tls else {
        return Ok(None);
    };
    let (chain, key) = certificate(&listener.name, tls, environment).await?;
    let door = FrontDoor::new(&chain, &key, Arc::clone(clock));
    let door = door.map_err(|error| undoored(&listener.name, &error))?;
    Ok(Some(Arc::new(door)))
}

async fn certificate(
    name: &Name,
    tls: &ListenerTls,
    environment: &Environment,
) -> Result<(Vec<u8>, Secret), StartError> {
    let chain = tokio::fs::read(&tls.cert).await;
    let chain = chain.map_err(|error| undoored(name, &error))?;
    let key = tls.key.read(&lookup(environment)).await;
    Ok((chain, key.map_err(|error| undoored(name, &error))?))
}

fn undoored(name: &Name, why: &dyn ToString) -> StartError {
    StartError::Door(name.clone(), why.to_string())
}

/// Takes up changed tokens; what was opened with one that is no longer good ends.
fn end_by_token(proxy: &Proxy, tokens: &Tokens) {
    for agent in tokens.settle() {
        proxy.end_sessions_by_token(&agent);
    }
}

/// The hosts that are intercepted, and so all that the CA may speak for.
pub fn constraints(config: &Config) -> Constraints {
    Constraints::new(
        config
            .routes
            .iter()
            .flat_map(|route| route.hosts.iter().map(|HostPattern { kind, .. }| kind)),
    )
}

fn authority(config: &Config, clock: &Arc<dyn Clock>) -> Result<Authority, CaError> {
    let names = constraints(config);
    match &config.ca.dir {
        Some(dir) => Authority::open(dir, names, Arc::clone(clock)),
        None => Authority::ephemeral(names, Arc::clone(clock)),
    }
}

/// The file of the root that agents trust.
pub fn roots_file(ca: &CaSettings) -> Option<PathBuf> {
    ca.dir.as_deref().map(Authority::roots_file)
}

async fn providers(
    (specs, upstream): (&[Spec], &UpstreamSettings),
    around: &Around<'_>,
) -> Vec<(Spec, Arc<dyn CredentialProvider>)> {
    let mut entries: Vec<(Spec, Arc<dyn CredentialProvider>)> = Vec::with_capacity(specs.len());
    let reached: Arc<str> = hex(format!("{:?}", (&upstream.trust, &upstream.connect_to))).into();
    for spec in specs {
        let provider: Arc<dyn CredentialProvider> = match &spec.kind {
            Kind::Static { value } => {
                let watched = around.watcher.watch(value, around.env).await;
                if let Err(error) = watched.current() {
                    warn!(credential = %spec.name, %error, "the credential has no value yet; requests that need it are refused");
                }
                Arc::new(StaticProvider::new(watched))
            }
            Kind::Aws(aws) => {
                let (secrets, clock) = ((around.watcher, around.env), Arc::clone(around.clock));
                let opened = AwsProvider::open(aws, &spec.name, secrets, around.network, clock);
                Arc::new(opened.await)
            }
            Kind::Oauth(settings) => {
                let settings = (**settings).clone();
                Arc::new(OauthProvider::open(&spec.name, settings, around).await)
            }
            Kind::GithubApp(settings) => {
                Arc::new(GithubAppProvider::open((**settings).clone(), around).await)
            }
            Kind::Azure(settings) => {
                let settings = (**settings).clone();
                Arc::new(AzureProvider::open(&spec.name, settings, around).await)
            }
            Kind::Command(settings) => Arc::new(CommandProvider::new(
                spec.name.clone(),
                settings.clone(),
                around.env,
            )),
            Kind::ClientCertificate(settings) => {
                let (name, secrets) = (spec.name.clone(), (around.watcher, around.env));
                let provider = CertificateProvider::open(name, settings, secrets).await;
                if let Err(error) = provider.current() {
                    warn!(credential = %spec.name, %error, "the certificate or its key cannot be read yet; requests that need them are refused");
                }
                Arc::new(provider)
            }
            Kind::Vault(settings) => {
                let (name, clock) = (spec.name.clone(), Arc::clone(around.clock));
                let secrets = (around.watcher, around.env);
                Arc::new(VaultProvider::open(name, settings, secrets, around.network, clock).await)
            }
        };
        let mut spec = spec.clone();
        if spec.kind.calls_issuer() {
            spec.network = Arc::clone(&reached);
        }
        entries.push((spec, provider));
    }
    entries
}

/// Tokens, each followed as its source changes.
async fn watched(
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

fn lookup(environment: &Environment) -> impl Fn(&str) -> Option<OsString> + Send + Sync + use<> {
    let environment = Arc::clone(environment);
    move |name: &str| environment.get(name).cloned()
}

fn parts(
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
async fn trust(
    config: &Config,
    (connector, clock, metrics): (&Connector, &Arc<dyn Clock>, &identity::Metrics),
    (tokens, watcher, environment): (&Tokens, &Watcher, &Environment),
) -> Vec<Arc<dyn TrustProvider>> {
    let network = Network::new(connector.clone(), config.upstream.connect_to.clone());
    let look = lookup(environment);
    let mut asked: Vec<Arc<dyn TrustProvider>> = Vec::new();
    for table in &config.trust {
        let token = match &table.token {
            Some(source) => Some(watcher.watch(source, &look).await),
            None => None,
        };
        let parts = identity::Parts {
            network: &network,
            clock,
            metrics,
            token: token.map(|token| Arc::new(OwnToken(token)) as Arc<dyn identity::Token>),
        };
        asked.push(identity::provider(&table.settings, &parts));
    }
    let last = Arc::clone(&tokens.provider) as Arc<dyn TrustProvider>;
    asked.push(Arc::new(identity::Counted::new(last, "token", metrics)));
    asked
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

fn fingerprint(config: &Config) -> String {
    // Debug of the resolved configuration: sources are names, so no secret is in it.
    hex(format!("{config:?}"))
}

/// The SHA-256 of a text.
fn hex(text: impl AsRef<[u8]>) -> String {
    let sum = digest(&SHA256, text.as_ref());
    let mut text = String::with_capacity(64);
    for byte in sum.as_ref() {
        // Writing to a String cannot fail.
        write!(text, "{byte:02x}").ok();
    }
    text
}

/// The proxy tokens of agents, followed as their sources change.
#[derive(Debug, Default)]
struct Tokens {
    provider: Arc<StaticTokens>,
    watched: Mutex<Vec<(AgentId, Watched)>>,
    seen: Mutex<Vec<(AgentId, Arc<Secret>)>>,
}

impl Tokens {
    async fn watch(
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
    fn settle(&self) -> Vec<AgentId> {
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

/// What the admin side asks.
#[derive(Debug)]
struct State {
    telemetry: telemetry::Metrics,
    audit: Arc<Audit>,
    draining: CancellationToken,
}

impl admin::State for State {
    fn unready(&self) -> Option<&'static str> {
        if self.draining.is_cancelled() {
            Some("draining")
        } else if !self.audit.healthy() {
            Some("audit-unavailable")
        } else {
            None
        }
    }

    fn metrics(&self) -> (String, &'static str) {
        (self.telemetry.render(), telemetry::MEDIA_TYPE)
    }
}

/// Names agents to issuers with the keys of session tokens, once those are there.
#[derive(Debug)]
struct AgentSigner {
    clock: Arc<dyn Clock>,
    begun: OnceLock<(Arc<Keys>, Arc<str>)>,
}

impl AgentSigner {
    fn new(clock: &Arc<dyn Clock>) -> Self {
        Self {
            clock: Arc::clone(clock),
            begun: OnceLock::new(),
        }
    }

    fn begin(&self, keys: &Arc<Keys>, issuer: &Arc<str>) {
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

/// The broker's events, as audit records.
#[derive(Debug)]
struct Recorder(Arc<Audit>);

fn who(scope: &Scope) -> Who<'_> {
    Who {
        session: scope.holder.session().map(|session| &**session),
        agent: scope.holder.agent().map(AgentId::as_str),
        user: scope.person.as_ref().map(|person| &*person.user.name),
        chain: scope.holder.agent().map(std::slice::from_ref),
        ..Who::default()
    }
}

impl Events for Recorder {
    fn issued(&self, issue: &Issue<'_>) {
        let mut record = Record::issue(
            who(issue.scope),
            issue.scope.credential.as_str(),
            issue.provider,
            "issued",
        );
        let scopes = issue.scopes.map(|scopes| {
            let texts = scopes.iter().map(ToString::to_string);
            texts.collect::<Vec<_>>()
        });
        record.scopes = scopes.as_deref();
        record.lease = Some(issue.lease.as_str());
        record.expires = issue.expires;
        record.cause = Some(issue.cause.word());
        record.duration = Some(issue.duration);
        self.0.append(&record);
    }

    fn failed(&self, failed: &Failed<'_>) {
        let mut record = Record::issue(
            who(failed.scope),
            failed.scope.credential.as_str(),
            failed.provider,
            "failed",
        );
        record.cause = Some(failed.cause.word());
        record.word = Some(failed.error.word());
        record.duration = Some(failed.duration);
        self.0.append(&record);
    }

    fn revoked(&self, revoking: &Revoking<'_>) {
        let credential = revoking.scope.credential.as_str();
        let mut record = Record::revoke(
            who(revoking.scope),
            credential,
            revoking.lease.as_str(),
            revoking.outcome.word(),
        );
        record.provider = Some(revoking.provider);
        record.reason = Some(revoking.reason.word());
        record.attempt = Some(revoking.attempt);
        record.by = revoking.by;
        self.0.append(&record);
    }
}

impl fmt::Display for StartHint<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            StartError::Audit(_) => {
                f.write_str("check [audit] file: its folder must exist and be writable")
            }
            StartError::Ca(_) => f.write_str("check [ca] dir, or run `keyward ca show`"),
            StartError::Trust(_) => f.write_str("check [upstream] trust"),
            StartError::Store(StoreError::WrongKey) => f.write_str("name the key that the store was made with, or begin with an empty one: leases and tokens of the old one are lost then"),
            StartError::Store(_) => f.write_str("check [store]: the file's folder or the server, and the sources of its secrets"),
            StartError::Socket(..) => {
                f.write_str("check [admin] socket: its folder must exist and be writable, and no other keyward listen there")
            }
            StartError::Bind(..) | StartError::Admin(..) => {
                f.write_str("choose another address, or stop what listens there")
            }
            StartError::Keys(_) => f.write_str("the system's random generator must answer"),
            StartError::Door(..) => f.write_str("check cert and key of the listener's `tls`"),
            StartError::Secret(_) => f.write_str("check the credential's source"),
        }
    }
}

/// What to do about a [`StartError`].
#[derive(Debug)]
pub struct StartHint<'a>(pub &'a StartError);
