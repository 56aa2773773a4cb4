//! What `keyward ca show` tells: the facts of each certificate, never of a key.

use std::net::IpAddr;

use jiff::Timestamp;
use rustls::pki_types::CertificateDer;
use x509_parser::extensions::{GeneralName, ParsedExtension};

use super::issue::{self, Unfit};

/// One certificate of the CA.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFacts {
    /// Its place in the chain.
    pub role: Role,
    /// The distinguished name.
    pub subject: String,
    /// Upper-case hex with colons, as other tools print it.
    pub serial: String,
    /// SHA-256 of the DER, in the same form.
    pub fingerprint: String,
    /// Holds from.
    pub not_before: Timestamp,
    /// Holds until.
    pub not_after: Timestamp,
    /// What the certificate may issue for, in the words of its constraints; empty where it has none.
    pub permitted: Vec<String>,
}

/// A certificate's place in the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The root that agents trust.
    Root,
    /// The root before it, kept until agents and replicas have moved on.
    PreviousRoot,
    /// The constrained CA that mints leaves.
    Intermediate,
}

impl CertificateFacts {
    pub(super) fn of(role: Role, der: &CertificateDer<'_>) -> Result<Self, Unfit> {
        let cert = issue::parse(der)?;
        let life = issue::life(&cert);
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, der);
        let mut permitted = Vec::new();
        for extension in cert.iter_extensions() {
            if let ParsedExtension::NameConstraints(names) = extension.parsed_extension() {
                let trees = names.permitted_subtrees.as_deref().unwrap_or_default();
                permitted.extend(trees.iter().filter_map(|tree| spell(&tree.base)));
            }
        }
        Ok(Self {
            role,
            subject: cert.subject().to_string(),
            serial: hex(cert.raw_serial()),
            fingerprint: hex(digest.as_ref()),
            not_before: life.from,
            not_after: life.to,
            permitted,
        })
    }
}

/// Names and addresses as a person writes them; the fillers of forms that are wholly refused are left out.
fn spell(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) if !name.ends_with(".invalid") => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => {
            let (address, _mask) = bytes.split_at_checked(bytes.len() / 2)?;
            let v4 = <[u8; 4]>::try_from(address).map(IpAddr::from);
            let v6 = || <[u8; 16]>::try_from(address).map(IpAddr::from);
            v4.or_else(|_| v6()).ok().map(|ip| ip.to_string())
        }
        _ => None,
    }
}

fn hex(bytes: &[u8]) -> String {
    let pairs: Vec<String> = bytes.iter().map(|byte| format!("{byte:02X}")).collect();
    pairs.join(":")
}
