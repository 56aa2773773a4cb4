//! A trust domain's bundle as agents are held to it: roots for X.509-SVIDs, keys for JWT-SVIDs.

use std::time::Duration;

use async_trait::async_trait;
use serde::Deserialize;

use crate::identity::jwt::object::Object;
use crate::identity::jwt::set::Keys;
use crate::identity::settings::BundlePlace;
use crate::issuer::spiffe::{Published, Site, workload};
use crate::issuer::{Client, Origin};
use crate::tls::ClientRoots;

/// What a trust domain is believed by.
#[derive(Debug)]
pub(in crate::identity) struct Bundle {
    pub(super) roots: ClientRoots,
    pub(super) keys: Keys,
}

/// Where it is.
#[derive(Debug)]
pub(in crate::identity) struct BundleSite {
    site: Site,
    /// Whether keys for tokens are wanted.
    tokens: bool,
}

#[derive(Deserialize)]
struct Document {
    keys: Vec<Object>,
}

impl BundleSite {
    /// `tokens`: whether JWT-SVIDs are taken.
    pub(super) fn new((domain, tokens): (&str, bool), place: BundlePlace, client: Client) -> Self {
        Self {
            site: Site::new(domain, place, client),
            tokens,
        }
    }

    async fn keys(&self, published: &Published, old: Option<&Keys>) -> Result<Keys, &'static str> {
        if let Some(document) = &published.document {
            let document: Document =
                serde_json::from_slice(document).map_err(|_| "the bundle is no JWK set")?;
            let mut tokens = document.keys;
            tokens.retain(|key| key.text("use") == Some("jwt-svid"));
            return Keys::of(&tokens, old);
        }
        match self.site.socket() {
            Some(socket) if self.tokens => {
                let set = workload::tokens(socket, self.site.domain()).await?;
                Keys::read(&set, old)
            }
            _ => Ok(Keys::default()),
        }
    }
}

#[async_trait]
impl Origin for BundleSite {
    type Value = Bundle;

    async fn fetch(&self, old: Option<&Bundle>) -> Result<(Bundle, Duration), &'static str> {
        let published = self.site.read().await?;
        let keys = self.keys(&published, old.map(|old| &old.keys)).await?;
        let roots = ClientRoots::from_der(published.roots.iter().map(|root| &**root));
        let bundle = Bundle {
            roots: roots.map_err(|_| "a certificate of the bundle cannot be a root")?,
            keys,
        };
        Ok((bundle, published.fresh))
    }

    fn name(&self) -> &str {
        self.site.domain()
    }

    fn again(&self) -> Duration {
        self.site.again()
    }
}
