//! Evidence by AWS: a call of STS that is signed afresh at each exchange and that only the gateway may send, or the
//! identity document of an EC2 instance.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use http::header::{CONTENT_TYPE, HOST};
use http::{HeaderName, HeaderValue, Method, Request, Uri};

use super::fault::Fault;
use crate::clock::Clock;
use crate::credential::{
    AwsInstance, AwsProvider, AwsSource, AwsSpec, CredentialProvider as _, Holder, IssueError,
    Scope, Watcher,
};
use crate::head::Head;
use crate::inject::{Keys, Material, Signer, SigningScope};
use crate::issuer::{Endpoint, Network};
use crate::secret::Secret;
use crate::tls::{Connector, TrustSettings};

/// What is shown, and where it comes from.
#[derive(Clone)]
pub struct Aws {
    /// Which proof.
    pub proof: AwsProof,
    /// The variables that say where keys and the metadata service are. Some hold secrets.
    pub environment: Arc<HashMap<String, OsString>>,
}

/// The two proofs that a gateway's `[trust.NAME.aws]` knows.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum AwsProof {
    /// A signed `GetCallerIdentity`.
    CallerIdentity {
        /// For whom it is signed: nobody else may use it.
        audience: String,
        /// The gateway's `sts-url`.
        sts: Endpoint,
    },
    /// The instance's identity document.
    IdentityDocument,
}

/// The header that says for whom it is signed (docs/trust.md).
const AUDIENCE: &str = "x-keyward-audience";
/// The whole call.
const BODY: &[u8] = b"Action=GetCallerIdentity&Version=2011-06-15";
/// Where the host of STS does not name a region, it is this one.
const REGION: &str = "us-east-1";

impl Aws {
    /// A fresh proof.
    pub(super) async fn proof(&self, clock: &Arc<dyn Clock>) -> Result<Secret, Fault> {
        let network = self.network(clock)?;
        match &self.proof {
            AwsProof::IdentityDocument => {
                let text = |name: &str| self.text(name);
                let instance = AwsInstance::of(&text, network.client());
                let instance = instance.ok_or_else(|| nothing("no metadata service is named"))?;
                let document = instance.identity_document().await;
                let document = document.map_err(|_| {
                    nothing("the metadata service of EC2 gives no identity document")
                })?;
                // EC2 gives it in lines, which are no part of it.
                let lines = document.expose().iter().copied();
                Ok(Secret::new(
                    lines.filter(|b| !b.is_ascii_whitespace()).collect(),
                ))
            }
            AwsProof::CallerIdentity { audience, sts } => {
                let keys = self.keys(&network, sts, clock).await?;
                sign(keys, (audience, sts), clock)
                    .ok_or_else(|| nothing("the call of STS cannot be signed with these AWS keys"))
            }
        }
    }

    /// By the standard chain, anew each time: whatever rotates them has been there.
    async fn keys(
        &self,
        network: &Network,
        sts: &Endpoint,
        clock: &Arc<dyn Clock>,
    ) -> Result<Keys, Fault> {
        let name: crate::agent::Name = "relay".parse().expect("`relay` is a name");
        let spec = AwsSpec {
            source: AwsSource::Default,
            role: None,
            region: REGION.into(),
            sts: sts.clone(),
            duration: Duration::from_hours(1),
            policy: None,
            tags: BTreeMap::new(),
        };
        let watcher = Watcher::new(Arc::clone(clock));
        let variables = Arc::clone(&self.environment);
        let env = move |name: &str| variables.get(name).cloned();
        let around = (&watcher, &env as _);
        let provider = AwsProvider::open(&spec, &name, around, network, Arc::clone(clock)).await;
        let scope = Scope {
            credential: name,
            holder: Holder::All,
            person: None,
            narrow: Arc::default(),
        };
        match provider.issue(&scope).await.map(|issued| issued.material) {
            Ok(Material::Aws(keys)) => Ok(keys),
            Err(IssueError::Unavailable { .. }) => {
                Err(nothing("what gives AWS keys here does not answer"))
            }
            Ok(_) | Err(_) => Err(nothing(
                "no AWS keys are found: neither variables, web identity, profile, container nor instance",
            )),
        }
    }

    /// STS is believed by the system's roots, or those of `AWS_CA_BUNDLE`; the gateway's say nothing of it.
    fn network(&self, clock: &Arc<dyn Clock>) -> Result<Network, Fault> {
        let own = self.text("AWS_CA_BUNDLE").filter(|path| !path.is_empty());
        let trust = TrustSettings {
            system: own.is_none(),
            pem: own.into_iter().map(Into::into).collect(),
        };
        let connector = Connector::new(&trust, None, Arc::clone(clock));
        let connector = connector.map_err(|error| Fault::NoEvidence(error.to_string()))?;
        Ok(Network::new(connector, BTreeMap::new()))
    }

    fn text(&self, name: &str) -> Option<String> {
        let value = self.environment.get(name)?.clone();
        value.into_string().ok()
    }
}

/// The signed call as base64url of JSON, which the gateway takes apart and sends to its own `sts-url`.
fn sign(keys: Keys, (audience, sts): (&str, &Endpoint), clock: &Arc<dyn Clock>) -> Option<Secret> {
    let service = Some("sts".into());
    let by_host = SigningScope {
        service: service.clone(),
        region: None,
    };
    let host = sts.target().host.to_string();
    let region = by_host
        .settle(&host)
        .map_or(REGION, |(_, region)| region)
        .into();
    let scope = SigningScope {
        service,
        region: Some(region),
    };
    let authority = sts.target().authority();
    let mut request = Request::new(());
    *request.method_mut() = Method::POST;
    *request.uri_mut() = Uri::from_static("/");
    let headers = request.headers_mut();
    headers.insert(HOST, HeaderValue::from_str(&authority).ok()?);
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("application/x-www-form-urlencoded"),
    );
    headers.insert(
        HeaderName::from_static(AUDIENCE),
        HeaderValue::from_str(audience).ok()?,
    );
    let mut head = Head::clean(request.into_parts().0, sts.target()).ok()?;
    let signer = Signer::new(keys, scope).covering(&[AUDIENCE]);
    let unsigned = signer.prepare(&mut head, &host, false).ok()?;
    let now = clock.now().wall;
    unsigned.sign(&mut head, &authority, Some(BODY), now).ok()?;
    let (_, _, mut headers) = head.into_parts();
    headers.insert(HOST, HeaderValue::from_str(&authority).ok()?);
    let mut shown = serde_json::Map::new();
    for (name, value) in &headers {
        shown.insert(name.to_string(), value.to_str().ok()?.into());
    }
    let scheme = sts.target().scheme.as_str();
    let call = serde_json::json!({
        "method": "POST",
        "url": format!("{scheme}://{authority}/"),
        "headers": shown,
        "body": std::str::from_utf8(BODY).ok()?,
    });
    Some(Secret::from(BASE64URL.encode(call.to_string())))
}

fn nothing(why: &str) -> Fault {
    Fault::NoEvidence(why.to_owned())
}

/// Without the variables.
impl fmt::Debug for Aws {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Aws({:?})", self.proof)
    }
}
