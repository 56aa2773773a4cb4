//! What the Workload API issued last: its stream is followed, and begun anew with patience when it breaks.
//!
//! What breaks off withdraws nothing: the last SVIDs are used until they end. What the API says withdraws at once: an
//! SVID that a message leaves out, or all of them where it denies.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::Timestamp;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tracing::{info, warn};
use zeroize::Zeroizing;

use super::super::{IssueError, Superseded};
use super::soon;
use crate::agent::Name;
use crate::clock::Clock;
use crate::inject::Certificate;
use crate::issuer::spiffe::workload::{Certificates, Fault, Issuance, Issued, Svids};
use crate::secret::Secret;
use crate::spiffe::Svid;
use crate::tls::{ClientIdentity, PeerRoots};

/// One Workload API, as this process sees it.
#[derive(Debug)]
pub(super) struct Feed {
    credential: Name,
    socket: PathBuf,
    clock: Arc<dyn Clock>,
    last: watch::Sender<Last>,
    begun: AtomicBool,
    tracker: TaskTracker,
    stop: CancellationToken,
    _stops: DropGuard,
}

/// What was heard last.
#[derive(Debug, Default)]
enum Last {
    /// Nothing yet.
    #[default]
    Nothing,
    /// It could not be asked, and nothing was ever heard.
    Down,
    /// This process has no identity.
    Denied,
    /// These are good.
    Good(Arc<Set>),
}

/// The SVIDs of one message, and what others are held to.
#[derive(Debug)]
struct Set {
    svids: Vec<Arc<Held>>,
    /// As they were said, to know whether they changed.
    said: BTreeMap<String, Certificates>,
    roots: BTreeMap<String, Arc<PeerRoots>>,
}

/// An SVID, ready to be presented.
#[derive(Debug)]
pub(super) struct Held {
    id: String,
    own: Box<[u8]>,
    pub(super) ends: Timestamp,
    pub(super) certificate: Arc<Certificate>,
    /// Raised when the API says something else.
    pub(super) superseded: Superseded,
}

impl Feed {
    /// Nothing is asked before the first SVID is.
    pub(super) fn new(credential: Name, socket: PathBuf, clock: Arc<dyn Clock>) -> Arc<Self> {
        let stop = CancellationToken::new();
        Arc::new(Self {
            credential,
            socket,
            clock,
            last: watch::Sender::default(),
            begun: AtomicBool::new(false),
            tracker: TaskTracker::new(),
            _stops: stop.clone().drop_guard(),
            stop,
        })
    }

    /// The SVID with this ID, or the default one. Waits for the first message; the caller has a deadline.
    ///
    /// # Errors
    /// `Refused` where the API has none for us, `Unavailable` where it is out of reach.
    pub(super) async fn svid(self: &Arc<Self>, id: Option<&str>) -> Result<Arc<Held>, IssueError> {
        self.begin();
        let mut last = self.last.subscribe();
        let heard = last.wait_for(|last| !matches!(last, Last::Nothing)).await;
        let set = match &*heard.map_err(|_| soon())? {
            Last::Nothing | Last::Down => return Err(soon()),
            Last::Denied => return Err(IssueError::Refused),
            Last::Good(set) => Arc::clone(set),
        };
        let mut svids = set.svids.iter();
        let found = match id {
            Some(id) => svids.find(|held| held.id == id),
            None => svids.next(),
        };
        let Some(held) = found else {
            warn!(credential = %self.credential, "the Workload API issues no such SVID");
            return Err(IssueError::Refused);
        };
        // Ended, and no other came: the API is out of reach, or late.
        if held.ends <= self.clock.now().wall {
            return Err(soon());
        }
        Ok(Arc::clone(held))
    }

    /// The roots of a trust domain, as the API said them last.
    pub(super) fn roots(&self, domain: &str) -> Option<Arc<PeerRoots>> {
        match &*self.last.borrow() {
            Last::Good(set) => set.roots.get(domain).map(Arc::clone),
            Last::Nothing | Last::Down | Last::Denied => None,
        }
    }

    fn begin(self: &Arc<Self>) {
        if !self.begun.swap(true, Ordering::Relaxed) {
            let (weak, stop) = (Arc::downgrade(self), self.stop.clone());
            self.tracker.spawn(async move {
                stop.run_until_cancelled(follow(weak)).await;
            });
        }
    }

    /// Takes in a message whole, or not at all.
    fn take(&self, issuance: &Issuance) -> Result<(), &'static str> {
        let mut said = issuance.federated.clone();
        for issued in &issuance.svids {
            let own = issued.chain.first().map(|own| &**own).unwrap_or_default();
            let svid = Svid::read(own).map_err(|_| "an SVID is malformed")?;
            // After the others: no federated bundle stands for the domain's own.
            said.insert(svid.domain().to_owned(), issued.roots.clone());
        }
        let mut roots = BTreeMap::new();
        for (domain, bundle) in &said {
            roots.insert(domain.clone(), made(bundle)?);
        }
        let (known, same) = match &*self.last.borrow() {
            Last::Good(set) => (set.svids.clone(), set.said == said),
            Last::Nothing | Last::Down | Last::Denied => (Vec::new(), false),
        };
        let mut svids = Vec::new();
        for issued in &issuance.svids {
            // Under other bundles every peer is to be proved anew, so connections that were made do not go on.
            let held = match known.iter().find(|held| same && held.is_of(issued)) {
                Some(held) => Arc::clone(held),
                None => Arc::new(Held::of(issued)?),
            };
            svids.push(held);
        }
        for held in &known {
            if !svids.iter().any(|kept| Arc::ptr_eq(kept, held)) {
                held.superseded.raise();
            }
        }
        info!(credential = %self.credential, svids = svids.len(), "the Workload API issued SVIDs");
        let set = Last::Good(Arc::new(Set { svids, said, roots }));
        self.last.send_replace(set);
        Ok(())
    }

    fn fail(&self, fault: Fault) {
        warn!(credential = %self.credential, %fault, "no SVIDs come from the Workload API");
        self.last.send_modify(|last| match (fault, &*last) {
            (Fault::Denied, Last::Good(set)) => {
                for held in &set.svids {
                    held.superseded.raise();
                }
                *last = Last::Denied;
            }
            (Fault::Denied, _) => *last = Last::Denied,
            (_, Last::Nothing) => *last = Last::Down,
            (_, _) => {}
        });
    }
}

/// Hears one stream after the other, for as long as the feed lives.
async fn follow(feed: Weak<Feed>) {
    let mut pause = SOON;
    loop {
        let Some(socket) = feed.upgrade().map(|feed| feed.socket.clone()) else {
            return;
        };
        let mut heard = false;
        let fault = hear(&feed, &socket, &mut heard).await;
        let Some(feed) = feed.upgrade() else { return };
        feed.fail(fault);
        drop(feed);
        pause = if heard {
            SOON
        } else {
            (pause * 2).min(LONGEST)
        };
        tokio::time::sleep(pause).await;
    }
}

async fn hear(feed: &Weak<Feed>, socket: &std::path::Path, heard: &mut bool) -> Fault {
    let silent = Fault::Down("the Workload API said nothing in time");
    let opened = tokio::time::timeout(FIRST, Svids::open(socket)).await;
    let mut stream = match opened.unwrap_or(Err(silent)) {
        Ok(stream) => stream,
        Err(fault) => return fault,
    };
    loop {
        let next = stream.next();
        let message = if *heard {
            next.await
        } else {
            tokio::time::timeout(FIRST, next)
                .await
                .unwrap_or(Err(silent))
        };
        let issuance = match message {
            Ok(issuance) => issuance,
            Err(fault) => return fault,
        };
        let Some(feed) = feed.upgrade() else {
            return silent;
        };
        if let Err(why) = feed.take(&issuance) {
            return Fault::Down(why);
        }
        *heard = true;
    }
}

impl Held {
    fn of(issued: &Issued) -> Result<Self, &'static str> {
        let own = issued.chain.first().ok_or("an SVID has no certificate")?;
        let svid = Svid::read(own).map_err(|_| "an SVID is malformed")?;
        if svid.id() != issued.id {
            return Err("an SVID has another ID than its message says");
        }
        let chain = issued.chain.iter();
        let chain: Vec<u8> = chain
            .flat_map(|der| pem(CERTIFICATE, der).to_vec())
            .collect();
        let key = pem(KEY, issued.key.expose());
        let key = Secret::new(key.to_vec());
        let identity = ClientIdentity::from_pem(&chain, &key)
            .map_err(|_| "an SVID and its key do not belong together")?;
        Ok(Self {
            id: issued.id.clone(),
            own: own.clone(),
            ends: identity.until(),
            certificate: Arc::new(Certificate::new(chain, key)),
            superseded: Superseded::default(),
        })
    }

    fn is_of(&self, issued: &Issued) -> bool {
        self.id == issued.id && issued.chain.first() == Some(&self.own)
    }
}

fn made(roots: &Certificates) -> Result<Arc<PeerRoots>, &'static str> {
    let roots = PeerRoots::from_der(roots.iter().map(|root| &**root));
    let roots = roots.map_err(|_| "a certificate of a bundle cannot be a root")?;
    Ok(Arc::new(roots))
}

/// RFC 7468 §2: base64 in lines of 64 characters.
fn pem(label: &str, der: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut text = Zeroizing::new(vec![0; der.len().div_ceil(3) * 4]);
    let length = BASE64.encode_slice(der, &mut text).unwrap_or_default();
    let lines = text.get(..length).unwrap_or_default().chunks(64);
    // Room for all, so that nothing is moved and left behind.
    let room = length + length / 64 + 2 * label.len() + 40;
    let mut pem = Zeroizing::new(Vec::with_capacity(room));
    for part in [b"-----BEGIN ", label.as_bytes(), b"-----\n"] {
        pem.extend_from_slice(part);
    }
    for line in lines {
        pem.extend_from_slice(line);
        pem.push(b'\n');
    }
    for part in [b"-----END ", label.as_bytes(), b"-----\n"] {
        pem.extend_from_slice(part);
    }
    pem
}

const CERTIFICATE: &str = "CERTIFICATE";
const KEY: &str = "PRIVATE KEY";

/// When an API that was heard before is asked again, and when a request may be.
pub(super) const SOON: Duration = Duration::from_secs(1);
/// The longest pause between two tries.
const LONGEST: Duration = Duration::from_secs(30);
/// How long the first message of a stream may take.
const FIRST: Duration = Duration::from_secs(10);
