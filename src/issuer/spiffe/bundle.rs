//! A trust domain's bundle: PEM roots, or the SPIFFE JWK set (SPIFFE Trust Domain and Bundle §4).

use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use http::header::ACCEPT;
use http::{Request, StatusCode};
use serde::Deserialize;
use serde_json::Value;

use super::super::{AGAIN, Client, Endpoint};
use super::workload;
use crate::tls::certificates;

/// Where a trust domain's bundle is.
#[derive(Debug, Clone, PartialEq)]
pub enum BundlePlace {
    /// A file, looked at every few seconds.
    File(PathBuf),
    /// The Workload API at this unix socket.
    WorkloadApi(PathBuf),
    /// A bundle endpoint, whose server proves itself by a public certificate (`https_web`).
    Endpoint(Endpoint),
}

/// A bundle as it was found.
#[derive(Debug)]
pub struct Published {
    /// The roots of X.509-SVIDs, in DER.
    pub roots: Vec<Box<[u8]>>,
    /// The JWK set, where it is one: keys for JWT-SVIDs stand in it too.
    pub document: Option<Vec<u8>>,
    /// How long it is fresh.
    pub fresh: Duration,
}

/// The bundle of one trust domain, and how it is reached.
#[derive(Debug)]
pub struct Site {
    domain: String,
    place: BundlePlace,
    client: Client,
}

#[derive(Deserialize)]
struct Document {
    keys: Vec<Jwk>,
    #[serde(default)]
    spiffe_refresh_hint: Option<u64>,
}

#[derive(Deserialize)]
struct Jwk {
    #[serde(default, rename = "use")]
    usage: Value,
    #[serde(default)]
    x5c: Value,
}

impl Site {
    /// Nothing is asked before [`Site::read`].
    pub fn new(domain: &str, place: BundlePlace, client: Client) -> Self {
        Self {
            domain: domain.to_owned(),
            place,
            client,
        }
    }

    /// The trust domain.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The Workload API, where the bundle is there.
    pub fn socket(&self) -> Option<&Path> {
        match &self.place {
            BundlePlace::WorkloadApi(socket) => Some(socket),
            BundlePlace::File(_) | BundlePlace::Endpoint(_) => None,
        }
    }

    /// The least time between two looks.
    pub fn again(&self) -> Duration {
        match self.place {
            BundlePlace::File(_) => FILE_FRESH,
            BundlePlace::Endpoint(_) | BundlePlace::WorkloadApi(_) => AGAIN,
        }
    }

    /// Reads it.
    ///
    /// # Errors
    /// What is wrong, for the operator's log.
    pub async fn read(&self) -> Result<Published, &'static str> {
        match &self.place {
            BundlePlace::File(path) => published(file(path).await?, |_| FILE_FRESH),
            BundlePlace::Endpoint(url) => {
                let fresh =
                    |hint: Option<Duration>| hint.unwrap_or(FRESH).clamp(FRESH_LEAST, FRESH_MOST);
                published(fetch(&self.client, url).await?, fresh)
            }
            BundlePlace::WorkloadApi(socket) => Ok(Published {
                roots: workload::roots(socket, &self.domain).await?,
                document: None,
                fresh: WORKLOAD_FRESH,
            }),
        }
    }
}

fn published(
    bytes: Vec<u8>,
    fresh: impl Fn(Option<Duration>) -> Duration,
) -> Result<Published, &'static str> {
    if !bytes.trim_ascii_start().starts_with(b"{") {
        let neither = "the bundle is neither PEM roots nor a SPIFFE JWK set";
        let roots = certificates(&bytes).map_err(|_| neither)?;
        if roots.is_empty() {
            return Err(neither);
        }
        return Ok(Published {
            roots,
            document: None,
            fresh: fresh(None),
        });
    }
    let document: Document =
        serde_json::from_slice(&bytes).map_err(|_| "the bundle is no JWK set")?;
    let mut roots = Vec::new();
    for key in document.keys.iter().filter(|key| key.usage == "x509-svid") {
        // §4.2.3: one certificate, the root itself.
        let root = match key.x5c.as_array().map(Vec::as_slice) {
            Some([Value::String(root)]) => BASE64.decode(root).ok(),
            _ => None,
        };
        let root = root.ok_or("a key of the bundle has not exactly one certificate")?;
        roots.push(root.into());
    }
    Ok(Published {
        roots,
        fresh: fresh(document.spiffe_refresh_hint.map(Duration::from_secs)),
        document: Some(bytes),
    })
}

async fn fetch(client: &Client, url: &Endpoint) -> Result<Vec<u8>, &'static str> {
    let request = Request::get(url.uri().clone())
        .header(ACCEPT, "application/json")
        .body(Bytes::new());
    let answer = client.send(request.map_err(|_| "the URL is none")?).await;
    let answer = answer.map_err(|_| "it is out of reach, or its answer too long")?;
    if answer.status != StatusCode::OK {
        return Err("its answer is not 200");
    }
    Ok(answer.body.to_vec())
}

async fn file(path: &Path) -> Result<Vec<u8>, &'static str> {
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
