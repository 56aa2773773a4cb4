//! `[trust.NAME]`, resolved: who is believed, and which agent that is.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use super::mapping::{Mapping, Pattern};
use crate::agent::Name;
use crate::issuer::Endpoint;
pub(super) use crate::issuer::spiffe::BundlePlace;

/// One table.
#[derive(Debug, Clone, PartialEq)]
pub struct Trust {
    /// NAME.
    pub name: Name,
    /// `agent`.
    pub agent: Mapping,
    /// The one kind table.
    pub kind: TrustKind,
}

/// The kinds.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum TrustKind {
    /// `[trust.NAME.jwt]`.
    Jwt(Box<JwtSettings>),
    /// `[trust.NAME.peer]`.
    Peer(PeerSettings),
    /// `[trust.NAME.kubernetes]`.
    Kubernetes(Box<KubernetesSettings>),
    /// `[trust.NAME.spiffe]`.
    Spiffe(Box<SpiffeSettings>),
    /// `[trust.NAME.aws]`.
    Aws(Box<AwsSettings>),
    /// `[trust.NAME.relay]`.
    Relay(Box<RelaySettings>),
}

/// `[trust.NAME.jwt]`: tokens of one OpenID issuer.
#[derive(Debug, Clone, PartialEq)]
pub struct JwtSettings {
    /// `issuer`, as it stands in `iss`.
    pub issuer: String,
    /// Where its keys are.
    pub keys: KeyPlace,
    /// `audience`: one of them must be in `aud`.
    pub audience: Vec<String>,
    /// `algorithms`.
    pub algorithms: Vec<Algorithm>,
    /// `claims`: each must hold one of its texts.
    pub claims: Vec<(String, Vec<String>)>,
}

/// Where an issuer's keys are published.
#[derive(Debug, Clone, PartialEq)]
pub enum KeyPlace {
    /// By OpenID Connect Discovery at this URL, for this issuer.
    Discovery(Endpoint, String),
    /// Here.
    Url(Endpoint),
}

/// `[trust.NAME.kubernetes]`: service accounts of one cluster.
#[derive(Debug, Clone, PartialEq)]
pub struct KubernetesSettings {
    /// `audience`: the token must be made for one of these.
    pub audience: Vec<String>,
    /// `issuer`, as it stands in `iss`; `None` does not ask.
    pub issuer: Option<String>,
    /// With `verify = "jwks"`: where the cluster's keys are. `None` is `token-review`.
    pub keys: Option<KeyPlace>,
    /// `api-url`.
    pub api: Endpoint,
    /// `pods`.
    pub pods: bool,
    /// `labels`: each must be the pod's.
    pub labels: Vec<(String, String)>,
    /// `image-digests`: every container runs one of these.
    pub image_digests: Vec<String>,
    /// `security-context`: every container is held to it.
    pub security_context: Option<SecurityContext>,
    /// `image-verifier`: says of every image whether it may run.
    pub image_verifier: Option<ImageVerifier>,
}

/// `security-context` of `[trust.NAME.kubernetes]`: what is `true` here must be so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a requirement of its own, as the API has them"
)]
pub struct SecurityContext {
    /// `run-as-non-root = true`: `runAsNonRoot`, the container's own or else the pod's.
    pub run_as_non_root: bool,
    /// `privileged = false`.
    pub unprivileged: bool,
    /// `read-only-root = true`: `readOnlyRootFilesystem`.
    pub read_only_root: bool,
    /// `allow-privilege-escalation = false`.
    pub no_escalation: bool,
    /// `host-namespaces = false`: neither `hostPID` nor `hostIPC` nor `hostNetwork`.
    pub no_host_namespaces: bool,
}

/// `image-verifier` of `[trust.NAME.kubernetes]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageVerifier {
    /// `run`: program and arguments; no shell.
    pub run: Vec<String>,
    /// `deadline`, for one image.
    pub deadline: Duration,
    /// `max-output`, in bytes.
    pub max_output: usize,
    /// `env`: the variables that it gets beside `PATH`.
    pub env: Vec<String>,
    /// `ttl`: how long its yes counts.
    pub ttl: Duration,
}

/// `[trust.NAME.spiffe]`: workloads of one trust domain.
#[derive(Debug, Clone, PartialEq)]
pub struct SpiffeSettings {
    /// `trust-domain`.
    pub trust_domain: String,
    /// `bundle`.
    pub bundle: BundlePlace,
    /// `audience` of JWT-SVIDs; empty: they are not taken.
    pub audience: Vec<String>,
}

/// `[trust.NAME.aws]`: instances and principals of some accounts.
#[derive(Debug, Clone, PartialEq)]
pub struct AwsSettings {
    /// `accounts`.
    pub accounts: Vec<String>,
    /// `identity-document`: PEM files of the regions' certificates; empty: documents are not taken.
    pub certificates: Vec<PathBuf>,
    /// `caller-identity`; `None`: signed requests are not taken.
    pub caller_identity: Option<CallerIdentity>,
}

/// `caller-identity` of `[trust.NAME.aws]`.
#[derive(Debug, Clone, PartialEq)]
pub struct CallerIdentity {
    /// `audience`: what the signed header must say.
    pub audience: String,
    /// `sts-url`.
    pub sts: Endpoint,
}

/// `[trust.NAME.peer]`: each list that is not empty must hold what the process is; at least one is not empty.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PeerSettings {
    /// `uids`: effective user ids.
    pub uids: Vec<u32>,
    /// `gids`: effective group ids.
    pub gids: Vec<u32>,
    /// `executables`: paths, symlinks resolved.
    pub executables: Vec<PathBuf>,
    /// `sha256`: of the executable's content.
    pub sha256: Vec<[u8; 32]>,
    /// `cgroups`: a group, or one above it.
    pub cgroups: Vec<String>,
}

/// `[trust.NAME.relay]`: processes elsewhere, by the word of relays of one trust domain.
#[derive(Debug, Clone, PartialEq)]
pub struct RelaySettings {
    /// `trust-domain`.
    pub trust_domain: String,
    /// `bundle`.
    pub bundle: BundlePlace,
    /// `relays`: the SPIFFE IDs of those whose word is taken.
    pub relays: Vec<Pattern>,
    /// What the process must be; at least one list is not empty.
    pub process: PeerSettings,
}

/// A signature algorithm of RFC 7518 and RFC 8037: asymmetric ones only, so that a public key is never a shared secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
    /// RSASSA-PKCS1-v1_5 with SHA-384.
    Rs384,
    /// RSASSA-PKCS1-v1_5 with SHA-512.
    Rs512,
    /// RSASSA-PSS with SHA-256.
    Ps256,
    /// RSASSA-PSS with SHA-384.
    Ps384,
    /// RSASSA-PSS with SHA-512.
    Ps512,
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// ECDSA on P-384 with SHA-384.
    Es384,
    /// ECDSA on P-521 with SHA-512.
    Es512,
    /// Ed25519; `Ed25519` of RFC 9864 is another name of it.
    EdDsa,
}

impl Algorithm {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Rs256,
        Self::Rs384,
        Self::Rs512,
        Self::Ps256,
        Self::Ps384,
        Self::Ps512,
        Self::Es256,
        Self::Es384,
        Self::Es512,
        Self::EdDsa,
    ];

    /// Its name in `alg`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Rs384 => "RS384",
            Self::Rs512 => "RS512",
            Self::Ps256 => "PS256",
            Self::Ps384 => "PS384",
            Self::Ps512 => "PS512",
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::Es512 => "ES512",
            Self::EdDsa => "EdDSA",
        }
    }
}

/// A name that is none of them: symmetric ones, `none`, and what nobody has heard of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "an algorithm is one of RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, ES512, EdDSA"
)]
pub struct BadAlgorithm;

impl FromStr for Algorithm {
    type Err = BadAlgorithm;

    fn from_str(text: &str) -> Result<Self, BadAlgorithm> {
        if text == "Ed25519" {
            return Ok(Self::EdDsa);
        }
        let mut all = Self::ALL.into_iter();
        all.find(|known| known.name() == text).ok_or(BadAlgorithm)
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
