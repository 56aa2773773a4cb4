//! Which roots upstreams are held to: the system's store and the operator's PEM files, as the configuration says.
//!
//! `SSL_CERT_FILE` and `SSL_CERT_DIR` are not read: keyward itself sets them for agents, and whoever can set a
//! variable must not choose whom the credentials are shown to. The platform's own paths are opened instead.

use std::path::{Path, PathBuf};

use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, pem::PemObject};
use tracing::{debug, info};

use super::TrustSettings;

/// Why the roots cannot be loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrustError {
    /// A file of `[upstream] trust` cannot be read.
    #[error("{path}: cannot read the trusted certificates")]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// A file of `[upstream] trust` holds no certificate, or one that does not parse.
    #[error("{path}: {why}")]
    Corrupt {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        why: &'static str,
    },
    /// Nothing is trusted, so no upstream could ever be reached.
    #[error("`[upstream] trust` names nothing; add \"system\" or a PEM file")]
    Nothing,
    /// The cryptography library refused the configuration.
    #[error("the TLS library refused the configuration")]
    Tls(#[from] rustls::Error),
}

/// Loads what the settings name.
pub(super) fn load(settings: &TrustSettings) -> Result<RootCertStore, TrustError> {
    let mut store = RootCertStore::empty();
    if settings.system {
        add_system(&mut store, SYSTEM_BUNDLES);
    }
    for path in &settings.pem {
        add_file(&mut store, path)?;
    }
    if store.is_empty() {
        return Err(TrustError::Nothing);
    }
    Ok(store)
}

/// Adds the first bundle that has any certificate. Where there is none, as in a container made from scratch, Mozilla's
/// list as compiled in stands for it.
fn add_system(store: &mut RootCertStore, bundles: &[&str]) {
    for path in bundles {
        let found = rustls_native_certs::load_certs_from_paths(Some(Path::new(path)), None);
        let (added, ignored) = store.add_parsable_certificates(found.certs);
        if added > 0 {
            debug!(path, added, ignored, "trusting the system's certificates");
            return;
        }
    }
    store.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    info!(
        roots = webpki_roots::TLS_SERVER_ROOTS.len(),
        "there is no system certificate store; trusting the compiled-in Mozilla roots"
    );
}

/// Adds an operator's file. What was named must be whole: a root that is skipped shows up as a refusal much later.
fn add_file(store: &mut RootCertStore, path: &Path) -> Result<(), TrustError> {
    let corrupt = |why| TrustError::Corrupt {
        path: path.to_owned(),
        why,
    };
    let pem = std::fs::read(path).map_err(|source| TrustError::Io {
        path: path.to_owned(),
        source,
    })?;
    let before = store.len();
    for cert in CertificateDer::pem_slice_iter(&pem) {
        let cert = cert.map_err(|_| corrupt("this is not PEM"))?;
        store
            .add(cert)
            .map_err(|_| corrupt("a certificate cannot be used as a trusted root"))?;
    }
    if store.len() == before {
        return Err(corrupt("there is no certificate in this file"));
    }
    Ok(())
}

/// Where distributions keep their bundle.
pub const SYSTEM_BUNDLES: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt", // Debian, Ubuntu, Alpine, Arch, Gentoo, NixOS
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", // RHEL, Fedora
    "/etc/pki/tls/certs/ca-bundle.crt",   // older RHEL, Amazon Linux
    "/etc/ssl/ca-bundle.pem",             // SUSE
    "/etc/ssl/cert.pem",                  // macOS, the BSDs, Alpine
    "/usr/local/share/certs/ca-root-nss.crt", // FreeBSD
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_system_store_the_compiled_in_roots_are_trusted() {
        let mut store = RootCertStore::empty();
        add_system(&mut store, &["/nonexistent/bundle.pem"]);
        assert_eq!(store.len(), webpki_roots::TLS_SERVER_ROOTS.len());
    }

    #[test]
    fn the_first_bundle_that_holds_a_certificate_is_the_system_store() {
        let dir = tempfile::tempdir().unwrap();
        let (empty, full) = (dir.path().join("empty.pem"), dir.path().join("full.pem"));
        let root = rcgen::generate_simple_self_signed(vec!["root.test".into()]).unwrap();
        std::fs::write(&empty, "").unwrap();
        std::fs::write(&full, root.cert.pem()).unwrap();
        let mut store = RootCertStore::empty();
        add_system(
            &mut store,
            &[empty.to_str().unwrap(), full.to_str().unwrap()],
        );
        assert_eq!(store.len(), 1);
    }
}
