//! What the command is given: an environment in which every runtime finds the proxy and the CA, and no key.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use super::bases::Variables;
use crate::app::Environment;
use crate::tls::SYSTEM_BUNDLES;

/// Variables whose file is trusted instead of the system's store.
const REPLACING: [&str; 14] = [
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "AWS_CA_BUNDLE",
    "PIP_CERT",
    "CARGO_HTTP_CAINFO",
    "npm_config_cafile",
    "CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE",
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
    "DENO_CERT",
    "NIX_SSL_CERT_FILE",
    "HTTPLIB2_CA_CERTS",
    "YARN_HTTPS_CA_FILE_PATH",
];
/// The one whose file is trusted beside what Node brings.
const ADDING: &str = "NODE_EXTRA_CA_CERTS";

/// Ways past the proxy, or to another one.
const REMOVED: [&str; 8] = [
    "ALL_PROXY",
    "all_proxy",
    "grpc_proxy",
    "no_grpc_proxy",
    "npm_config_proxy",
    "npm_config_https_proxy",
    "npm_config_noproxy",
    "NODE_TLS_REJECT_UNAUTHORIZED",
];

const LOOPBACK: &str = "localhost,127.0.0.1,::1";

/// A file larger than this is no list of certificates.
const LARGEST: u64 = 16 << 20;

/// How the command reaches the proxy.
#[derive(Debug)]
pub(super) struct Access<'a> {
    pub(super) agent: &'a str,
    /// Its session token.
    pub(super) token: &'a str,
    pub(super) port: u16,
}

/// The certificate files of one session; gone with it.
#[derive(Debug)]
pub(crate) struct Certificates {
    folder: PathBuf,
    ca: PathBuf,
    bundle: PathBuf,
    /// Whether the system has a store to combine ours with.
    pub(crate) has_system: bool,
}

impl Certificates {
    /// Writes both files: ours, and ours with all that the caller's programs trust already.
    pub(crate) fn write(roots: &str, name: &str, environment: &Environment) -> io::Result<Self> {
        let temporary = environment.get("TMPDIR").filter(|dir| !dir.is_empty());
        let temporary = temporary.map_or(Path::new("/tmp"), Path::new);
        let folder = temporary.join(format!("keyward-{name}"));
        // It fails where the name is taken, also by a link: nobody else prepares this folder.
        DirBuilder::new().mode(0o700).create(&folder)?;
        let system = SYSTEM_BUNDLES
            .iter()
            .find_map(|path| certificates(Path::new(path)));
        let this = Self {
            ca: folder.join("ca.pem"),
            bundle: folder.join("bundle.pem"),
            folder,
            has_system: system.is_some(),
        };
        let named = |var: &str| Some(PathBuf::from(environment.get(var)?));
        let mut own: Vec<PathBuf> = REPLACING.iter().filter_map(|var| named(var)).collect();
        own.sort();
        own.dedup();
        own.retain(|path| !SYSTEM_BUNDLES.iter().any(|known| Path::new(known) == path));
        let extra = named(ADDING).and_then(|path| certificates(&path));
        let ours = [roots, extra.as_deref().unwrap_or_default()].join("\n");
        let mut all = vec![ours.clone()];
        all.extend(own.iter().filter_map(|path| certificates(path)));
        all.extend(system);
        fs::write(&this.ca, ours)?;
        fs::write(&this.bundle, all.join("\n"))?;
        Ok(this)
    }

    /// The variables that name them.
    pub(crate) fn variables(&self) -> impl Iterator<Item = (&'static str, &Path)> {
        let replacing = REPLACING.iter().map(|name| (*name, &*self.bundle));
        replacing.chain([(ADDING, &*self.ca)])
    }
}

impl Drop for Certificates {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            tracing::warn!(%error, folder = %self.folder.display(), "the certificates stay behind");
        }
    }
}

/// A file's text, if it holds certificates.
fn certificates(path: &Path) -> Option<String> {
    let metadata = fs::metadata(path).ok()?;
    if !metadata.is_file() || metadata.len() > LARGEST {
        return None;
    }
    let text = fs::read_to_string(path).ok()?;
    text.contains("-----BEGIN CERTIFICATE-----").then_some(text)
}

/// The command's whole environment.
pub(super) fn environment(
    caller: &Environment,
    taken: &BTreeMap<String, Option<String>>,
    bases: Variables,
    access: &Access<'_>,
    certificates: &Certificates,
) -> Vec<(OsString, OsString)> {
    let mut all: HashMap<String, OsString> = HashMap::clone(caller);
    for name in REMOVED {
        all.remove(name);
    }
    for (name, placeholder) in taken {
        match placeholder {
            Some(placeholder) => all.insert(name.clone(), placeholder.into()),
            None => all.remove(name),
        };
    }
    for (name, value) in bases {
        all.insert(name, value.into());
    }
    let Access { agent, token, port } = access;
    let proxy = format!("http://{agent}:{token}@127.0.0.1:{port}");
    let mut set = |name: &str, value: OsString| all.insert(name.to_owned(), value);
    for name in ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy"] {
        set(name, proxy.clone().into());
    }
    for name in ["NO_PROXY", "no_proxy"] {
        set(name, LOOPBACK.into());
    }
    set("NODE_USE_ENV_PROXY", "1".into());
    // Left to itself git asks the proxy first which method it takes: a 407 before each connection.
    set("GIT_HTTP_PROXY_AUTHMETHOD", "basic".into());
    set("KEYWARD_URL", format!("http://127.0.0.1:{port}").into());
    set("KEYWARD_TOKEN", (*token).into());
    for (name, path) in certificates.variables() {
        set(name, path.into());
    }
    all.into_iter()
        .map(|(name, value)| (name.into(), value))
        .collect()
}
