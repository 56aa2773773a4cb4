//! A trust domain's bundle: PEM roots, or the SPIFFE JWK set (SPIFFE Trust Domain and Bundle §4) with keys for JWT-SVIDs.

use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Deserialize;
use serde_json::Value;

use super::workload;
use crate::identity::jwt::object::Object;
use crate::identity::jwt::set::{Keys, fetch};
use crate::identity::refreshed::{AGAIN, Origin};
use crate::identity::settings::BundlePlace;
use crate::issuer::{Client, Endpoint};
use crate::tls::ClientRoots;

/// What a trust domain is believed by.
#[derive(Debug)]
pub(in crate::identity) struct Bundle {
    pub(super) roots: ClientRoots,
    pub(super) keys: Keys,
    /// How often its owner wants it to be looked at.
    hint: Option<Duration>,
}

/// Where it is.
#[derive(Debug)]
pub(in crate::identity) struct BundleSite {
    domain: String,
    place: Place,
}

#[derive(Debug)]
enum Place {
    File(PathBuf),
    Endpoint(Client, Box<Endpoint>),
    /// The socket, and whether keys for tokens are wanted.
    Workload(PathBuf, bool),
}

#[derive(Deserialize)]
struct Published {
    keys: Vec<Object>,
    #[serde(default)]
    spiffe_refresh_hint: Option<u64>,
}

impl Bundle {
    fn read(bytes: &[u8], old: Option<&Self>) -> Result<Self, &'static str> {
        if !bytes.trim_ascii_start().starts_with(b"{") {
            let roots = ClientRoots::from_pem(bytes);
            return Ok(Self {
                roots: roots.map_err(|_| "the bundle is neither PEM roots nor a SPIFFE JWK set")?,
                keys: Keys::default(),
                hint: None,
            });
        }
        let published: Published =
            serde_json::from_slice(bytes).map_err(|_| "the bundle is no JWK set")?;
        let with_use = |wanted: &'static str| {
            let keys = published.keys.iter();
            keys.filter(move |key| key.text("use") == Some(wanted))
        };
        let mut roots = Vec::new();
        for key in with_use("x509-svid") {
            // §4.2.3: one certificate, the root itself.
            let root = match key.get("x5c").and_then(Value::as_array).map(Vec::as_slice) {
                Some([Value::String(root)]) => BASE64.decode(root).ok(),
                _ => None,
            };
            roots.push(root.ok_or("a key of the bundle has not exactly one certificate")?);
        }
        let tokens: Vec<Object> = with_use("jwt-svid").cloned().collect();
        let roots = ClientRoots::from_der(roots.iter().map(Vec::as_slice));
        Ok(Self {
            roots: roots.map_err(|_| "a certificate of the bundle cannot be a root")?,
            keys: Keys::of(&tokens, old.map(|old| &old.keys))?,
            hint: published.spiffe_refresh_hint.map(Duration::from_secs),
        })
    }
}

impl BundleSite {
    /// `tokens`: whether JWT-SVIDs are taken.
    pub(super) fn new((domain, tokens): (&str, bool), place: BundlePlace, client: Client) -> Self {
        Self {
            domain: domain.to_owned(),
            place: match place {
                BundlePlace::WorkloadApi(socket) => Place::Workload(socket, tokens),
                BundlePlace::File(path) => Place::File(path),
                BundlePlace::Endpoint(url) => Place::Endpoint(client, Box::new(url)),
            },
        }
    }
}

#[async_trait]
impl Origin for BundleSite {
    type Value = Bundle;

    async fn fetch(&self, old: Option<&Bundle>) -> Result<(Bundle, Duration), &'static str> {
        match &self.place {
            Place::File(path) => Ok((Bundle::read(&read(path).await?, old)?, FILE_FRESH)),
            Place::Endpoint(client, url) => {
                let answer = fetch(client, url).await?;
                let bundle = Bundle::read(&answer.body, old)?;
                let fresh = bundle.hint.unwrap_or(FRESH).clamp(FRESH_LEAST, FRESH_MOST);
                Ok((bundle, fresh))
            }
            Place::Workload(socket, tokens) => {
                let roots = workload::roots(socket, &self.domain).await?;
                let keys = if *tokens {
                    let set = workload::tokens(socket, &self.domain).await?;
                    Keys::read(&set, old.map(|old| &old.keys))?
                } else {
                    Keys::default()
                };
                let roots = ClientRoots::from_der(roots.iter().map(Vec::as_slice));
                let bundle = Bundle {
                    roots: roots.map_err(|_| "a certificate of the bundle cannot be a root")?,
                    keys,
                    hint: None,
                };
                Ok((bundle, WORKLOAD_FRESH))
            }
        }
    }

    fn name(&self) -> &str {
        &self.domain
    }

    fn again(&self) -> Duration {
        match self.place {
            Place::File(_) => FILE_FRESH,
            Place::Endpoint(..) | Place::Workload(..) => AGAIN,
        }
    }
}

async fn read(path: &Path) -> Result<Vec<u8>, &'static str> {
    let bytes = tokio::fs::read(path).await;
    let bytes = bytes.map_err(|_| "the bundle's file cannot be read")?;
    if bytes.len() > MOST {
        return Err("the bundle's file is too long");
    }
    Ok(bytes)
}

/// How often the Workload API is asked.
const WORKLOAD_FRESH: Duration = Duration::from_secs(30);
/// How often a file is looked at.
const FILE_FRESH: Duration = Duration::from_secs(2);
/// §4.1.2: five minutes where the bundle does not say.
const FRESH: Duration = Duration::from_mins(5);
const FRESH_LEAST: Duration = Duration::from_mins(1);
const FRESH_MOST: Duration = Duration::from_hours(1);
/// The longest bundle, in bytes.
const MOST: usize = 1 << 20;
