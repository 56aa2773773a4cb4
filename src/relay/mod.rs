//! A door on this machine to a gateway elsewhere.
//!
//! ```text
//! process ─► front (who is it?) ─► gateway, over mutual TLS ─► …
//!                                     ▲
//!                      standing: certificate and session token, renewed ahead
//! ```
//!
//! Processes keep one proxy URL and hold nothing. The relay shows evidence of its own to the gateway, fresh at each
//! renewal, and passes on what the processes send: tunnels are copied, and TLS within them is never taken apart.

mod accept;
mod aws;
mod certificate;
mod fault;
mod front;
mod gateway;
mod health;
mod look;
mod person;
mod sessions;
mod standing;
mod token;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

use crate::clock::Clock;
use crate::host::Target;
use crate::identity::{Callers, Learnt, PeerSettings};
use accept::{Seats, Socket};
use gateway::Gateway;
use health::Health;
use standing::Standings;

pub use accept::BindError;
pub use aws::{Aws, AwsProof};
pub use certificate::Certificate;
pub use fault::Fault;
pub use person::{Absent, Kept, Proved, SignIn};
pub use token::Token;

/// What a relay is told.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where processes connect.
    pub listen: Vec<Listen>,
    /// The gateway, as its certificate names it.
    pub gateway: Target,
    /// Where it is dialled, if elsewhere.
    pub connect_to: Option<Target>,
    /// PEM files of the roots behind the gateway's certificate; none: the system's.
    pub trust: Vec<PathBuf>,
    /// What is shown in the TLS handshake.
    pub certificate: Certificate,
    /// What is shown beside it, if anything.
    pub token: Option<Token>,
    /// For whom the processes act, where they act for somebody.
    pub person: Option<Arc<dyn SignIn>>,
    /// Which processes are served; `None`: whoever connects.
    pub callers: Option<PeerSettings>,
    /// What the gateway is told of a process beside its user; `None`: nothing at all.
    pub tells: Option<Learnt>,
    /// Whether a process's own `Proxy-Authorization` is passed on in place of the relay's.
    pub passes: bool,
    /// Connections of allowed processes at once, tunnels among them.
    pub max_connections: usize,
}

/// One address that processes connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// Port 0 picks one.
    Tcp(SocketAddr),
    /// A unix socket.
    Unix(PathBuf),
}

/// A relay that runs.
#[derive(Debug)]
pub struct Relay {
    shared: Arc<Shared>,
    addresses: Vec<String>,
    /// What runs until the end, whoever is connected.
    background: TaskTracker,
}

/// What all connections share.
#[derive(Debug)]
struct Shared {
    gateway: Gateway,
    standings: Arc<Standings>,
    callers: Option<Callers>,
    tells: bool,
    passes: bool,
    tracker: TaskTracker,
    ids: front::Ids,
    health: Health,
    /// Fires at the start of a drain: finish what runs.
    drain: CancellationToken,
    /// Fires at its end: stop.
    cut: CancellationToken,
}

/// Why a relay does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// An address cannot be listened on.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// What was given to prove itself or to trust cannot be used.
    #[error(transparent)]
    Evidence(Fault),
}

impl Relay {
    /// Opens the listeners, loads what lies in files, and serves. The gateway and the Workload API may still be out of
    /// reach: they are tried again until they are not.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start(settings: Settings, clock: Arc<dyn Clock>) -> Result<Self, StartError> {
        let tracker = TaskTracker::new();
        let gateway = Gateway::new(settings.gateway.clone(), settings.connect_to.clone());
        let cut = CancellationToken::new();
        let standings = Standings::new(&settings, clock, cut.clone());
        let follower = certificate::Follower::open(&settings, &standings)
            .await
            .map_err(StartError::Evidence)?;
        let mut sockets = Vec::new();
        for listen in &settings.listen {
            sockets.push(Socket::open(listen, settings.callers.is_some())?);
        }
        let addresses = sockets.iter().map(Socket::shown).collect();
        let drain = CancellationToken::new();
        let shared = Arc::new(Shared {
            gateway,
            standings,
            callers: (settings.callers.clone())
                .map(|callers| Callers::new(callers, settings.tells.unwrap_or_default())),
            tells: settings.tells.is_some(),
            passes: settings.passes,
            tracker: tracker.clone(),
            ids: front::Ids::new(),
            health: Health::default(),
            drain: drain.clone(),
            cut,
        });
        let (standings, stop) = (Arc::clone(&shared.standings), shared.cut.clone());
        let background = TaskTracker::new();
        background.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = follower.follow() => {}
                () = standings.keep_fresh() => {}
                () = standings.keep_looking() => {}
                () = standings.keep_ending() => {}
            }
        });
        let seats = Seats::new(settings.max_connections);
        for socket in sockets {
            let serving = accept::serve(Arc::clone(&shared), socket, Arc::clone(&seats));
            let drain = drain.clone();
            tracker.spawn(async move {
                tokio::select! {
                    () = drain.cancelled() => {}
                    () = serving => {}
                }
            });
        }
        Ok(Self {
            shared,
            addresses,
            background,
        })
    }

    /// Where it listens, as a URL's authority or `unix:PATH`.
    pub fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// Asks the gateway for something that anybody may have, as a process's request would go.
    ///
    /// # Errors
    /// What a process's request would meet.
    pub async fn probe(&self) -> Result<(), Fault> {
        health::probe(&self.shared).await
    }

    /// Stops accepting, lets what runs finish for as long as `grace`, and cuts the rest. A renewal of the person's sign-in
    /// is waited for: it ends by the deadlines of its calls.
    pub async fn shut_down(self, grace: Duration) {
        self.shared.drain.cancel();
        self.shared.tracker.close();
        let over = self.shared.tracker.wait();
        if tokio::time::timeout(grace, over).await.is_err() {
            warn!("what was still open is cut");
        }
        self.shared.cut.cancel();
        self.shared.tracker.wait().await;
        self.background.close();
        self.background.wait().await;
        self.shared.standings.settle().await;
    }
}
