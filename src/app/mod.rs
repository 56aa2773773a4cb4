//! Assembly: the only room that names every adapter.

mod approvals;
mod credentials;
mod door;
mod fault;
mod people;
mod records;
mod running;
mod tokens;
mod trust;

use std::collections::HashMap;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admin;
use crate::agent::{AgentId, Name};
use crate::approval::{self, Approvals};
use crate::audit::{self, Audit, AuditError, Record};
use crate::clock::{Clock, SystemClock};
use crate::config::Config;
use crate::credential::{AgentJwt, Around, Broker, Vessel, Watcher};
use crate::host::HostPattern;
use crate::identity::{self, Overlay};
use crate::issuer::Network;
use crate::login::PassStore;
use crate::policy::Person;
use crate::proxy::{self, Bound, Lasting, ListenerSettings, Proxy};
use crate::session::{Keys, Sessions};
use crate::store::Store;
use crate::telemetry;
use crate::tls::{Authority, CaError, CaSettings, Connector, Constraints, FrontDoor, Leaves};

pub use fault::{StartError, StartHint};
pub use people::people;

use credentials::providers;
use door::{front_door, unbound};
use records::Recorder;
use tokens::{AgentSigner, Tokens, watched};
use trust::{parts, trust};

/// keyward's environment as `main` captured it.
pub type Environment = Arc<HashMap<String, OsString>>;

/// A running keyward.
#[derive(Debug)]
pub struct App {
    proxy: Proxy,
    audit: Arc<Audit>,
    broker: Arc<Broker>,
    sessions: Arc<Sessions>,
    overlay: Arc<Overlay>,
    agents: Arc<admin::Agents>,
    approvals: Arc<Approvals>,
    store: Store,
    names: Arc<dyn AgentJwt>,
    leaves: Arc<Leaves>,
    watcher: Watcher,
    tokens: Arc<Tokens>,
    attestations: identity::Metrics,
    trusted: trust::Last,
    environment: Environment,
    clock: Arc<dyn Clock>,
    tracker: TaskTracker,
    stop: CancellationToken,
    state: Arc<State>,
    listeners: Vec<(Name, Vec<String>, Vec<SocketAddr>)>,
    doors: Vec<(Name, Arc<FrontDoor>)>,
    admin: Option<SocketAddr>,
    people: Arc<admin::People>,
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
        let settings = config.audit.as_ref().unwrap_or(&audit);
        let trail = match &settings.sink {
            audit::Sink::File(path) => Some(path.clone()),
            audit::Sink::Stdout | audit::Sink::Memory => None,
        };
        let audit = Arc::new(open(settings, &clock)?);
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
        let people_at = people::providers(&config.logins, &around).await;
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
        let reached = Arc::clone(&issuer);
        let overlay = Arc::new(Overlay::default());
        signer.begin(&keys, &issuer);
        let approvals = Arc::new(Approvals::new(approval::Parts {
            store: Arc::new(store.clone()),
            audit: Arc::clone(&audit),
            clock: Arc::clone(&clock),
            tracker: tracker.clone(),
            reach: approvals::reach(&config),
        }));
        approvals::settle(&approvals, &config, &network, (&watcher, &environment)).await;
        let lasting = Lasting {
            approvals: Arc::clone(&approvals),
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
        let last = trust::Last::default();
        let read = (&*tokens, &watcher, &environment);
        let trust = trust(&config, about, read, &last).await;
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
            approvals.metrics().register(registry);
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
            Arc::new(admin::Approvals::new(Arc::clone(&approvals))),
            Arc::new(admin::Trail::new(trail)),
            Arc::new(reload),
        ];
        let passes = (
            Arc::new(store.clone()) as Arc<dyn PassStore>,
            Arc::clone(&operators),
        );
        let about = (Arc::clone(&audit), Arc::clone(&clock));
        let people = admin::People::new(people_at, passes, about, &reached);
        let people = Arc::new(people);
        let gate = Arc::clone(&people) as Arc<dyn admin::Gate>;
        let api = admin::Api::new(gate, parts, config.admin.public_url.as_deref());
        let api = api.with_people(Arc::clone(&people));
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
            approvals,
            store,
            names,
            leaves,
            watcher,
            tokens,
            attestations,
            trusted: last,
            environment,
            clock,
            tracker,
            stop,
            state,
            listeners,
            doors,
            admin: admin_address,
            people,
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

    /// Begins the session of `run`, which lasts until keyward ends, or until the time that is given with the person for
    /// whom it acts; its token.
    ///
    /// # Errors
    /// [`StartError::Keys`] where no token can be signed.
    pub fn begin_run(
        &self,
        agent: &AgentId,
        acting_for: Option<(Arc<Person>, Option<Timestamp>)>,
    ) -> Result<String, StartError> {
        let minted = self.proxy.begin_run(agent, acting_for);
        minted.map_err(|error| StartError::Keys(error.to_string()))
    }

    /// Ends the sessions of `run` while its command goes on: nothing is allowed it any more.
    pub fn end_run(&self, reason: &'static str) {
        self.proxy.end_sessions(reason);
    }

    /// The data path.
    pub fn proxy(&self) -> &Proxy {
        &self.proxy
    }

    /// Where the admin side listens.
    pub fn admin(&self) -> Option<SocketAddr> {
        self.admin
    }

    /// A URL that opens the console as an operator, once and within 10 minutes; `None` where nothing listens.
    pub fn console_url(&self) -> Option<String> {
        self.admin.map(|_| self.people.console_url())
    }

    /// The audit trail.
    pub fn audit(&self) -> &Arc<Audit> {
        &self.audit
    }

    /// The certificates that agents trust, in PEM.
    pub fn roots_pem(&self) -> Arc<str> {
        Arc::clone(self.leaves.authority().roots_pem())
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

fn lookup(environment: &Environment) -> impl Fn(&str) -> Option<OsString> + Send + Sync + use<> {
    let environment = Arc::clone(environment);
    move |name: &str| environment.get(name).cloned()
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
