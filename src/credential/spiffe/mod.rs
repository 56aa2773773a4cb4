//! `[credential.NAME.spiffe]`: an agent's own X.509-SVID, for calls to other workloads, which prove theirs.
//!
//! The SVID is somebody else's to rotate: the Workload API sends the next one, or another program writes it into the
//! files. A lease ends with its SVID and is superseded by the next, so that new requests go out on new connections
//! while those under way are finished on the old.

mod bundles;
mod feed;
mod id;

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use tracing::warn;

use super::{
    Around, CertificateProvider, CertificateSettings, CredentialProvider, Handle, IssueError,
    Issued, Life, RevokeError, Scope,
};
use crate::agent::Name;
use crate::inject::Material;
use crate::issuer::spiffe::BundlePlace;
use crate::spiffe::Svid;
use crate::tls::{Bundles, certificates};
use bundles::Known;
use feed::{Feed, SOON};

pub use id::{BadSvidId, SvidId};

/// `[credential.NAME.spiffe]`, resolved.
#[derive(Debug, Clone, PartialEq)]
pub struct SpiffeSettings {
    /// `source`.
    pub source: SvidSource,
    /// `spiffe-id`; `None` takes the default of several.
    pub id: Option<SvidId>,
    /// `bundles`: trust domains, and what they are believed by. A domain that is not named here is the Workload API's.
    pub bundles: Vec<(String, BundlePlace)>,
}

/// `source`: where the SVID comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SvidSource {
    /// The Workload API at this unix socket.
    WorkloadApi(PathBuf),
    /// Files that somebody else rotates.
    Files(CertificateSettings),
}

/// Hands out SVIDs.
#[derive(Debug)]
pub struct SpiffeProvider {
    credential: Name,
    id: Option<SvidId>,
    source: Origin,
    bundles: Arc<Known>,
}

#[derive(Debug)]
enum Origin {
    Feed(Arc<Feed>),
    Files(Box<CertificateProvider>),
}

impl SpiffeProvider {
    /// Files are followed from now on; the Workload API from the first lease on.
    pub async fn open(credential: Name, settings: &SpiffeSettings, around: &Around<'_>) -> Self {
        let source = match &settings.source {
            SvidSource::WorkloadApi(socket) => {
                let clock = Arc::clone(around.clock);
                Origin::Feed(Feed::new(credential.clone(), socket.clone(), clock))
            }
            SvidSource::Files(files) => {
                let name = credential.clone();
                let inner =
                    CertificateProvider::open(name, files, (around.watcher, around.env)).await;
                if let Err(error) = inner.current() {
                    warn!(%credential, %error, "the SVID or its key cannot be read yet; requests that need them are refused");
                }
                Origin::Files(Box::new(inner))
            }
        };
        let feed = match &source {
            Origin::Feed(feed) => Some(Arc::clone(feed)),
            Origin::Files(_) => None,
        };
        let bundles = Known::new(&settings.bundles, feed, around.network, around.clock);
        Self {
            credential,
            id: settings.id.clone(),
            source,
            bundles: Arc::new(bundles),
        }
    }

    /// The ID that a lease of this scope must have, where it must have one. `Err`: the lease would serve everybody.
    fn wanted(&self, scope: &Scope) -> Result<Option<String>, IssueError> {
        let Some(id) = &self.id else {
            return Ok(None);
        };
        let wanted = id.of(scope.holder.agent()).ok_or(IssueError::Refused)?;
        Ok(Some(wanted))
    }

    async fn from_feed(
        &self,
        feed: &Arc<Feed>,
        wanted: Option<&str>,
    ) -> Result<Issued, IssueError> {
        let held = feed.svid(wanted).await?;
        Ok(Issued {
            material: Material::Certificate(Arc::clone(&held.certificate)),
            life: Life::Until(held.ends),
            handle: None,
            superseded: Some(held.superseded.clone()),
        })
    }

    async fn from_files(
        &self,
        files: &CertificateProvider,
        (wanted, scope): (Option<&str>, &Scope),
    ) -> Result<Issued, IssueError> {
        let issued = files.issue(scope).await?;
        let refused = |why: &dyn std::fmt::Display| {
            warn!(credential = %self.credential, %why, "the file's certificate is not presented");
            IssueError::Refused
        };
        let Material::Certificate(certificate) = &issued.material else {
            return Err(IssueError::Refused);
        };
        let chain = certificates(certificate.chain()).map_err(|error| refused(&error))?;
        let own = chain.first().map(|own| &**own).unwrap_or_default();
        let svid = Svid::read(own).map_err(|error| refused(&error))?;
        if wanted.is_some_and(|wanted| wanted != svid.id()) {
            return Err(refused(&"it has another SPIFFE ID"));
        }
        Ok(issued)
    }
}

#[async_trait]
impl CredentialProvider for SpiffeProvider {
    fn kind(&self) -> &'static str {
        "spiffe"
    }

    async fn issue(&self, scope: &Scope) -> Result<Issued, IssueError> {
        let wanted = self.wanted(scope)?;
        match &self.source {
            Origin::Feed(feed) => self.from_feed(feed, wanted.as_deref()).await,
            Origin::Files(files) => self.from_files(files, (wanted.as_deref(), scope)).await,
        }
    }

    fn bundles(&self) -> Option<Arc<dyn Bundles>> {
        Some(Arc::clone(&self.bundles) as Arc<dyn Bundles>)
    }

    async fn revoke(&self, _handle: &Handle) -> Result<(), RevokeError> {
        Err(RevokeError::Unsupported)
    }
}

/// An SVID that may be asked for again in a moment.
fn soon() -> IssueError {
    IssueError::Unavailable {
        retry_after: Some(SOON),
    }
}
