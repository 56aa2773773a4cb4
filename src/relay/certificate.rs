//! What is shown in the TLS handshake with the gateway, and what the gateway is believed by: both followed as they
//! change, so that nobody restarts a relay for a certificate.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tracing::{info, warn};

use super::Settings;
use super::fault::Fault;
use super::look::{Look, changed};
use super::standing::Standings;
use crate::clock::Clock;
use crate::issuer::spiffe::workload::{Address, Fault as Said, Issuance, Svids};
use crate::secret::Secret;
use crate::tls::{ClientIdentity, Connector, TrustSettings};

/// What the relay shows of itself in the handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Certificate {
    /// A key of its own that lives as long as the process. It proves nobody; what the gateway gives for a token is
    /// bound to it, and of no use elsewhere.
    Own,
    /// PEM files, read again when they change.
    Files {
        /// The chain, its own certificate first.
        cert: PathBuf,
        /// The key.
        key: PathBuf,
    },
    /// The X.509-SVID that the Workload API gives, and each that replaces it.
    Workload(Address),
}

/// Follows certificate and roots.
#[derive(Debug)]
pub(super) struct Follower {
    standings: Arc<Standings>,
    clock: Arc<dyn Clock>,
    roots: Vec<PathBuf>,
    roots_seen: Look,
    /// Without an identity, which comes and goes.
    bare: Connector,
    identity: Option<ClientIdentity>,
    source: Source,
}

#[derive(Debug)]
enum Source {
    Own,
    Files {
        cert: PathBuf,
        key: PathBuf,
        seen: Look,
    },
    Workload {
        api: Address,
        open: Option<Svids>,
        failures: u32,
        withdrawn: bool,
    },
}

/// How long the Workload API may take to say something the first time.
const FIRST: Duration = Duration::from_secs(10);

impl Follower {
    /// Loads what lies in files; what the Workload API gives is waited for later.
    pub(super) async fn open(
        settings: &Settings,
        standings: &Arc<Standings>,
    ) -> Result<Self, Fault> {
        let roots = settings.trust.clone();
        let clock = Arc::clone(standings.clock());
        let roots_seen = Look::at(&roots).await;
        let bare = connector(&roots, &clock)?;
        let (identity, source) = match &settings.certificate {
            Certificate::Own => {
                let own = ClientIdentity::fresh("keyward relay");
                let own = own.map_err(|error| Fault::NoEvidence(error.to_string()))?;
                (Some(own), Source::Own)
            }
            Certificate::Files { cert, key } => {
                let seen = Look::at(&[cert.clone(), key.clone()]).await;
                let own = load(cert, key).await?;
                let (cert, key) = (cert.clone(), key.clone());
                (Some(own), Source::Files { cert, key, seen })
            }
            Certificate::Workload(api) => {
                let api = api.clone();
                let source = Source::Workload {
                    api,
                    open: None,
                    failures: 0,
                    withdrawn: false,
                };
                (None, source)
            }
        };
        let follower = Self {
            standings: Arc::clone(standings),
            clock,
            roots,
            roots_seen,
            bare,
            identity,
            source,
        };
        follower.put();
        Ok(follower)
    }

    /// Puts each change in place as it comes.
    pub(super) async fn follow(mut self) {
        loop {
            tokio::select! {
                identity = self.source.next() => {
                    if let Some(identity) = &identity {
                        info!(until = %identity.until(), "certificate in place");
                    } else {
                        warn!("the Workload API has withdrawn the certificate; requests are refused");
                        self.standings.withdraw();
                    }
                    self.identity = identity;
                }
                () = changed(&self.roots, &mut self.roots_seen) => {
                    match connector(&self.roots, &self.clock) {
                        Ok(bare) => {
                            info!("roots in place");
                            self.bare = bare;
                        }
                        Err(fault) => {
                            warn!(%fault, "the old roots stay");
                            continue;
                        }
                    }
                }
            }
            self.put();
        }
    }

    fn put(&self) {
        let Some(identity) = &self.identity else {
            return;
        };
        match self.bare.with_identity(identity) {
            Ok(connector) => self.standings.use_connector(connector, identity.until()),
            Err(error) => warn!(%error, "the old certificate stays"),
        }
    }
}

impl Source {
    /// The next certificate, once there is one; `None` where there is to be none any more. Nothing is lost where the future
    /// is dropped.
    async fn next(&mut self) -> Option<ClientIdentity> {
        match self {
            Self::Own => std::future::pending().await,
            Self::Files { cert, key, seen } => {
                let files = [cert.clone(), key.clone()];
                loop {
                    changed(&files, seen).await;
                    match load(cert, key).await {
                        Ok(identity) => return Some(identity),
                        Err(fault) => warn!(%fault, "the old certificate stays"),
                    }
                }
            }
            Self::Workload {
                api,
                open,
                failures,
                withdrawn,
            } => loop {
                match svid(api, open).await {
                    Ok(identity) => {
                        *failures = 0;
                        *withdrawn = false;
                        return Some(identity);
                    }
                    Err(fault) => {
                        *open = None;
                        // Said once. Where it is only out of reach the old certificate serves for as long as it lives.
                        if *failures == 0 {
                            warn!(why = fault.text(), "no X.509-SVID; trying again");
                        }
                        *failures = failures.saturating_add(1);
                        if fault == Said::Denied && !*withdrawn {
                            *withdrawn = true;
                            return None;
                        }
                        tokio::time::sleep(super::standing::backoff(*failures)).await;
                    }
                }
            },
        }
    }
}

async fn svid(api: &Address, open: &mut Option<Svids>) -> Result<ClientIdentity, Said> {
    if open.is_none() {
        let late = Said::Down("the Workload API does not answer");
        let opening = async {
            let mut stream = Svids::open(api.socket()).await?;
            let issuance = stream.next().await?;
            Ok((stream, issuance))
        };
        let opened = tokio::time::timeout(FIRST, opening).await;
        let (stream, issuance) = opened.map_err(|_| late)??;
        *open = Some(stream);
        let (id, identity) = default_of(issuance)?;
        info!(%id, "X.509-SVID received");
        return Ok(identity);
    }
    let stream = open.as_mut().ok_or(Said::Down("no stream"))?;
    let issuance = stream.next().await?;
    let (id, identity) = default_of(issuance)?;
    info!(%id, "X.509-SVID renewed");
    Ok(identity)
}

/// Of several the first is meant: it is the default one (SPIFFE Workload API §5.3). A message without any says what a
/// refusal says: this process has no identity.
fn default_of(issuance: Issuance) -> Result<(String, ClientIdentity), Said> {
    let first = issuance.svids.into_iter().next();
    let svid = first.ok_or(Said::Denied)?;
    let identity = ClientIdentity::from_der(svid.chain, &svid.key);
    let identity =
        identity.map_err(|_| Said::Down("the Workload API's X.509-SVID cannot be used"))?;
    Ok((svid.id, identity))
}

async fn load(cert: &Path, key: &Path) -> Result<ClientIdentity, Fault> {
    let read = |path: PathBuf| async move {
        let failed = |error| Fault::NoEvidence(format!("{}: {error}", path.display()));
        tokio::fs::read(&path).await.map_err(failed)
    };
    let chain = read(cert.to_owned()).await?;
    let secret = Secret::new(read(key.to_owned()).await?);
    let identity = ClientIdentity::from_pem(&chain, &secret);
    identity.map_err(|error| {
        Fault::NoEvidence(format!("{}, {}: {error}", cert.display(), key.display()))
    })
}

fn connector(roots: &[PathBuf], clock: &Arc<dyn Clock>) -> Result<Connector, Fault> {
    let trust = TrustSettings {
        system: roots.is_empty(),
        pem: roots.to_vec(),
    };
    let made = Connector::new(&trust, None, Arc::clone(clock));
    made.map_err(|error| Fault::NoEvidence(error.to_string()))
}
