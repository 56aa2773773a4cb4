//! The CA: a root that agents trust, and below it an intermediate that can speak for the configured hosts only.
//!
//! `serve` needs the intermediate alone. Whoever steals it can impersonate, to agents that trust this root, the hosts
//! that keyward intercepts anyway, for 30 days at most, and can make neither another CA nor a client's certificate
//! (path length 0, name constraints, `serverAuth`). The root's key may be taken away from the folder; then `open` says
//! when it is needed again, and never makes a second root by itself.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use jiff::Timestamp;
use rustls::pki_types::CertificateDer;
use tracing::{info, warn};
use zeroize::Zeroizing;

use crate::clock::Clock;
use crate::host::Host;

use super::error::{CaError, LeafError};
use super::facts::{CertificateFacts, Role};
use super::folder::{Folder, Kind};
use super::issue::{self, Leaf, MEMORY_ROOT_LIFE, Made, ROOT_LIFE, Signer, Unfit};
use super::names::Constraints;

/// The issuing CA, ready to mint.
#[derive(Debug)]
pub struct Authority {
    id: u64,
    names: Constraints,
    intermediate: Signer,
    roots: Arc<str>,
    origin: Origin,
    clock: Arc<dyn Clock>,
}

/// Where another intermediate comes from.
#[derive(Debug, Clone)]
enum Origin {
    Memory(Arc<Signer>),
    Folder(PathBuf),
}

/// Whether `rotate` leaves the old root in `ca.pem`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overlap {
    /// Beside the new one: agents that read the file trust replicas of both generations.
    Keep,
    /// No: the old key may be in other hands.
    Drop,
}

impl Authority {
    /// Makes a CA whose keys live in this process only.
    ///
    /// # Errors
    /// [`CaError::TooManyNames`], or a failure of the cryptography.
    pub fn ephemeral(names: Constraints, clock: Arc<dyn Clock>) -> Result<Self, CaError> {
        let now = clock.now().wall;
        let root = Signer::new_root(now, MEMORY_ROOT_LIFE)?.signer;
        let intermediate = root.new_intermediate(names.to_der()?, now)?.signer;
        let roots = issue::pem(&root.cert).into();
        let origin = Origin::Memory(Arc::new(root));
        Ok(Self::with(names, intermediate, roots, origin, clock))
    }

    /// Reads the CA of a folder. An empty one gets a new root; a changed list of hosts, or a last third of its life,
    /// gets a new intermediate below the same root, where the root's key is there to sign it.
    ///
    /// # Errors
    /// [`CaError`]: each says what to mend. Nothing that exists is ever replaced by a guess.
    pub fn open(dir: &Path, names: Constraints, clock: Arc<dyn Clock>) -> Result<Self, CaError> {
        let store = Store(Folder::open(dir)?);
        let now = clock.now().wall;
        let (roots, intermediate) = store.ready(names.to_der()?, now)?;
        let origin = Origin::Folder(dir.to_owned());
        Ok(Self::with(names, intermediate, roots, origin, clock))
    }

    /// This CA for another list of hosts, or, with the same list, a fresh one: same root, so agents notice nothing.
    ///
    /// # Errors
    /// As [`Authority::open`].
    pub fn reissued(&self, names: Constraints) -> Result<Self, CaError> {
        match &self.origin {
            Origin::Folder(dir) => Self::open(dir, names, self.clock.clone()),
            Origin::Memory(root) => {
                let now = self.clock.now().wall;
                let intermediate = root.new_intermediate(names.to_der()?, now)?.signer;
                Ok(Self::with(
                    names,
                    intermediate,
                    self.roots.clone(),
                    self.origin.clone(),
                    self.clock.clone(),
                ))
            }
        }
    }

    /// What agents must trust, as PEM: the root, and after a rotation the one before it.
    pub fn roots_pem(&self) -> &Arc<str> {
        &self.roots
    }

    /// The hosts that this CA may issue for.
    pub fn names(&self) -> &Constraints {
        &self.names
    }

    /// When the intermediate ends; it is renewed in its last third.
    pub fn expires(&self) -> Timestamp {
        self.intermediate.life.to
    }

    /// The file that agents trust, in a CA's folder. It needs no key and not even the folder.
    pub fn roots_file(dir: &Path) -> PathBuf {
        dir.join(ROOTS)
    }

    /// Issues a new intermediate for these hosts, whatever the old one says. An empty folder gets a root first.
    ///
    /// # Errors
    /// [`CaError::NoRootKey`] where the root's key is not in the folder; else as [`Authority::open`].
    pub fn issue(dir: &Path, names: &Constraints, clock: &dyn Clock) -> Result<(), CaError> {
        let store = Store(Folder::open(dir)?);
        let now = clock.now().wall;
        let root = match store.roots()? {
            Some(roots) => store.root(&roots)?.ok_or_else(|| CaError::NoRootKey {
                path: store.0.path(ROOT_KEY),
            })?,
            None => store.new_root(now, None)?,
        };
        store.new_intermediate(&root, names.to_der()?, now)?;
        Ok(())
    }

    /// Replaces the root. Agents must trust `ca.pem` anew: until they have read it, they refuse what the new root
    /// signs. The old root's key is gone afterwards.
    ///
    /// # Errors
    /// As [`Authority::open`].
    pub fn rotate(
        dir: &Path,
        names: &Constraints,
        clock: &dyn Clock,
        overlap: Overlap,
    ) -> Result<(), CaError> {
        let store = Store(Folder::open_existing(dir)?);
        let now = clock.now().wall;
        let constraints = names.to_der()?;
        let old = match overlap {
            Overlap::Keep => store.roots()?.and_then(|roots| roots.into_iter().next()),
            Overlap::Drop => None,
        };
        let old =
            old.filter(|cert| issue::parse(cert).is_ok_and(|cert| issue::life(&cert).covers(now)));
        // First the intermediate goes: whatever happens from here on, nothing serves half of each generation.
        store.0.remove(INTERMEDIATE)?;
        let root = store.new_root(now, old.as_ref())?;
        store.new_intermediate(&root, constraints, now)?;
        Ok(())
    }

    /// The facts of the certificates in a folder; the keys are not looked at.
    ///
    /// # Errors
    /// [`CaError`] where a file is missing, exposed or damaged.
    pub fn show(dir: &Path) -> Result<Vec<CertificateFacts>, CaError> {
        let store = Store(Folder::open_existing(dir)?);
        let roots = store.roots()?.ok_or_else(|| CaError::Mismatch {
            path: store.0.path(ROOTS),
            why: "there is no CA in this folder yet; `keyward serve` or `keyward ca issue` makes one",
        })?;
        let mut facts = Vec::new();
        let fact = |file: &str, role, cert: &CertificateDer<'_>| {
            CertificateFacts::of(role, cert).map_err(|unfit| store.fault(file, &unfit))
        };
        for (place, cert) in roots.iter().enumerate() {
            let role = if place == 0 {
                Role::Root
            } else {
                Role::PreviousRoot
            };
            facts.push(fact(ROOTS, role, cert)?);
        }
        if let Some(pem) = store.0.read(INTERMEDIATE, Kind::Key)? {
            for cert in store.certificates(INTERMEDIATE, &pem)? {
                facts.push(fact(INTERMEDIATE, Role::Intermediate, &cert)?);
            }
        }
        Ok(facts)
    }

    /// Changes with every authority, so that a leaf can tell whose it is.
    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// Whether it is time for another intermediate.
    pub(super) fn is_due(&self, now: Timestamp) -> bool {
        self.intermediate.life.is_waning(now)
    }

    /// Whether a leaf minted now would verify.
    pub(super) fn is_usable(&self, now: Timestamp) -> bool {
        self.intermediate.life.covers(now)
    }

    /// The certificate that stands between a leaf and the root.
    pub(super) fn intermediate(&self) -> CertificateDer<'static> {
        self.intermediate.cert.clone()
    }

    /// Mints a leaf. Our own check comes first: a name outside the constraints is refused here, by name, rather than
    /// by every client.
    pub(super) fn mint(&self, host: &Host, now: Timestamp) -> Result<Leaf, LeafError> {
        if !self.names.permits(host) {
            return Err(LeafError::NotPermitted(host.clone()));
        }
        Ok(self.intermediate.new_leaf(host, now)?)
    }

    fn with(
        names: Constraints,
        intermediate: Signer,
        roots: Arc<str>,
        origin: Origin,
        clock: Arc<dyn Clock>,
    ) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            names,
            intermediate,
            roots,
            origin,
            clock,
        }
    }
}

/// The CA's three files in an open folder.
struct Store(Folder);

impl Store {
    /// The roots to trust and an intermediate that serves, made where that is allowed.
    fn ready(&self, constraints: Vec<u8>, now: Timestamp) -> Result<(Arc<str>, Signer), CaError> {
        let Some(roots) = self.roots()? else {
            let root = self.new_root(now, None)?;
            info!(folder = %self.0.path("").display(), "made a new root CA");
            let intermediate = self.new_intermediate(&root, constraints, now)?;
            return Ok((issue::pem(&root.cert).into(), intermediate));
        };
        let text: Arc<str> = roots.iter().map(issue::pem).collect::<String>().into();
        let root = self.root(&roots)?;
        let lack = match self.intermediate(&roots)? {
            None => "it is missing",
            Some(found) if found.constraints().as_ref() != Some(&constraints) => {
                "it was issued for another list of hosts"
            }
            Some(found) if !found.life.covers(now) => "it is outside its validity",
            Some(found) if found.life.is_waning(now) && root.is_none() => {
                warn!(expires = %found.life.to, "the intermediate CA ends soon, and the root's key is not here; run `keyward ca issue` where it is");
                return Ok((text, found));
            }
            Some(found) if found.life.is_waning(now) => "it ends soon",
            Some(found) => return Ok((text, found)),
        };
        let Some(root) = root else {
            return Err(CaError::Outdated {
                path: self.0.path(INTERMEDIATE),
                why: lack,
            });
        };
        let intermediate = self.new_intermediate(&root, constraints, now)?;
        info!(reason = lack, expires = %intermediate.life.to, "issued a new intermediate CA");
        Ok((text, intermediate))
    }

    /// The certificates of `ca.pem`, the current root first; `None` in an empty folder. Other files without it are a
    /// fault: agents may trust a root that got lost, and a new one would lock them out unseen.
    fn roots(&self) -> Result<Option<Vec<CertificateDer<'static>>>, CaError> {
        if let Some(pem) = self.0.read(ROOTS, Kind::Public)? {
            return self.certificates(ROOTS, &pem).map(Some);
        }
        for other in [ROOT_KEY, INTERMEDIATE] {
            if self.0.read(other, Kind::Key)?.is_some() {
                return Err(CaError::Mismatch {
                    path: self.0.path(ROOTS),
                    why: "it is missing while other files of the CA are there; bring it back, or run `keyward ca rotate`",
                });
            }
        }
        Ok(None)
    }

    /// The current root with its key, where the key is here.
    fn root(&self, roots: &[CertificateDer<'static>]) -> Result<Option<Signer>, CaError> {
        let (Some(key), Some(cert)) = (self.0.read(ROOT_KEY, Kind::Key)?, roots.first()) else {
            return Ok(None);
        };
        match Signer::read(cert.clone(), &key) {
            Ok(root) => Ok(Some(root)),
            Err(Unfit::Mismatch) => Err(CaError::Mismatch {
                path: self.0.path(ROOT_KEY),
                why: "this is not the key of the first root in ca.pem; bring the right one back, or run `keyward ca rotate`",
            }),
            Err(unfit @ Unfit::Corrupt(_)) => Err(self.fault(ROOT_KEY, &unfit)),
        }
    }

    /// The intermediate with its key, checked against the root.
    fn intermediate(&self, roots: &[CertificateDer<'static>]) -> Result<Option<Signer>, CaError> {
        let Some(pem) = self.0.read(INTERMEDIATE, Kind::Key)? else {
            return Ok(None);
        };
        let cert = self.certificates(INTERMEDIATE, &pem)?.into_iter().next();
        let (Some(cert), Some(root)) = (cert, roots.first()) else {
            return Ok(None);
        };
        let wrong = |why| CaError::Mismatch {
            path: self.0.path(INTERMEDIATE),
            why,
        };
        if !Signer::signed(root, &cert) {
            return Err(wrong(
                "the first root in ca.pem did not sign it; run `keyward ca issue` where the root's key is",
            ));
        }
        match Signer::read(cert, key_part(&pem)) {
            Ok(signer) => Ok(Some(signer)),
            Err(Unfit::Mismatch) => Err(wrong(
                "its certificate and its key do not belong together; run `keyward ca issue` where the root's key is",
            )),
            Err(unfit @ Unfit::Corrupt(_)) => Err(self.fault(INTERMEDIATE, &unfit)),
        }
    }

    /// Makes a root and writes key and certificate; `old` stays trusted beside it.
    fn new_root(
        &self,
        now: Timestamp,
        old: Option<&CertificateDer<'_>>,
    ) -> Result<Signer, CaError> {
        let Made { signer, key_pem } = Signer::new_root(now, ROOT_LIFE)?;
        let mut roots = issue::pem(&signer.cert);
        if let Some(old) = old {
            roots.push_str(&issue::pem(old));
        }
        self.0.write(ROOT_KEY, Kind::Key, key_pem.as_bytes())?;
        self.0.write(ROOTS, Kind::Public, roots.as_bytes())?;
        Ok(signer)
    }

    /// Issues and writes an intermediate. Certificate and key are one file, so that they change together.
    fn new_intermediate(
        &self,
        root: &Signer,
        constraints: Vec<u8>,
        now: Timestamp,
    ) -> Result<Signer, CaError> {
        let Made { signer, key_pem } = root.new_intermediate(constraints, now)?;
        let cert = issue::pem(&signer.cert);
        let mut file = Zeroizing::new(String::with_capacity(cert.len() + key_pem.len()));
        file.push_str(&cert);
        file.push_str(&key_pem);
        self.0.write(INTERMEDIATE, Kind::Key, file.as_bytes())?;
        Ok(signer)
    }

    fn certificates(
        &self,
        name: &str,
        pem: &[u8],
    ) -> Result<Vec<CertificateDer<'static>>, CaError> {
        issue::certificates(pem).map_err(|unfit| self.fault(name, &unfit))
    }

    fn fault(&self, name: &str, unfit: &Unfit) -> CaError {
        CaError::Corrupt {
            path: self.0.path(name),
            why: match unfit {
                Unfit::Corrupt(why) => why,
                Unfit::Mismatch => "certificate and key do not belong together",
            },
        }
    }
}

/// The private key's part of a PEM file that holds a certificate too.
fn key_part(pem: &[u8]) -> &[u8] {
    memchr::memmem::find(pem, b"-----BEGIN PRIVATE KEY")
        .and_then(|at| pem.get(at..))
        .unwrap_or_default()
}

/// Public: what agents trust.
const ROOTS: &str = "ca.pem";
/// The root's key; `serve` runs without it until the hosts change or a month is over.
const ROOT_KEY: &str = "root.key";
/// The intermediate's certificate and key.
const INTERMEDIATE: &str = "intermediate.pem";
