//! What peers are held to: the bundles of the trust domains that the file names, and the Workload API's for all others.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::feed::Feed;
use crate::clock::Clock;
use crate::issuer::spiffe::{BundlePlace, Site};
use crate::issuer::{Network, Origin, Refreshed};
use crate::tls::{Bundles, PeerRoots};

/// All bundles of one credential.
#[derive(Debug)]
pub(super) struct Known {
    named: BTreeMap<String, Refreshed<Named>>,
    feed: Option<Arc<Feed>>,
}

/// A bundle that the file names.
#[derive(Debug)]
struct Named(Site);

impl Known {
    pub(super) fn new(
        places: &[(String, BundlePlace)],
        feed: Option<Arc<Feed>>,
        network: &Network,
        clock: &Arc<dyn Clock>,
    ) -> Self {
        let named = places.iter().map(|(domain, place)| {
            let site = Named(Site::new(domain, place.clone(), network.client()));
            (domain.clone(), Refreshed::new(site, Arc::clone(clock)))
        });
        Self {
            named: named.collect(),
            feed,
        }
    }
}

#[async_trait]
impl Bundles for Known {
    async fn roots(&self, domain: &str) -> Option<Arc<PeerRoots>> {
        match (self.named.get(domain), &self.feed) {
            // The file's word, and no other beside it.
            (Some(named), _) => named.current().await.ok(),
            (None, Some(feed)) => feed.roots(domain),
            (None, None) => None,
        }
    }
}

#[async_trait]
impl Origin for Named {
    type Value = PeerRoots;

    async fn fetch(&self, _old: Option<&PeerRoots>) -> Result<(PeerRoots, Duration), &'static str> {
        let published = self.0.read().await?;
        let roots = PeerRoots::from_der(published.roots.iter().map(|root| &**root));
        let roots = roots.map_err(|_| "a certificate of the bundle cannot be a root")?;
        Ok((roots, published.fresh))
    }

    fn name(&self) -> &str {
        self.0.domain()
    }

    fn again(&self) -> Duration {
        self.0.again()
    }
}
