//! An X.509-SVID (SPIFFE X509-SVID §2, §4): a certificate whose one URI is its holder's SPIFFE ID.

use jiff::Timestamp;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer as _;

use super::SpiffeId;

/// What a workload's certificate says. Who signed it is not looked at here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Svid {
    id: Box<str>,
    ends: Timestamp,
}

/// The certificate is no workload's X.509-SVID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NoSvid {
    /// It does not parse, or more follows it.
    #[error("it is no certificate")]
    Malformed,
    /// §2: exactly one URI, which is a SPIFFE ID with a path.
    #[error("it has not exactly one URI that is a workload's SPIFFE ID")]
    Names,
    /// §4.1, §4.3: it is an authority, or may sign more than handshakes.
    #[error("it is an authority's")]
    Authority,
}

impl Svid {
    /// Reads a certificate in DER.
    ///
    /// # Errors
    /// [`NoSvid`].
    pub fn read(der: &[u8]) -> Result<Self, NoSvid> {
        let Ok(([], certificate)) = X509Certificate::from_der(der) else {
            return Err(NoSvid::Malformed);
        };
        let [uri] = uris(&certificate)[..] else {
            return Err(NoSvid::Names);
        };
        if !SpiffeId::read(uri).is_some_and(|id| id.has_path) {
            return Err(NoSvid::Names);
        }
        if !is_leaf(&certificate) {
            return Err(NoSvid::Authority);
        }
        let ends = certificate.validity().not_after.timestamp();
        Ok(Self {
            id: uri.into(),
            ends: Timestamp::from_second(ends).map_err(|_| NoSvid::Malformed)?,
        })
    }

    /// The SPIFFE ID.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The trust domain.
    pub fn domain(&self) -> &str {
        SpiffeId::read(&self.id).map_or("", |id| id.domain)
    }

    /// Its end (`notAfter`).
    pub fn ends(&self) -> Timestamp {
        self.ends
    }
}

/// Every URI of the subject's alternative names. One that is no text counts, as an empty one.
pub fn uris<'a>(certificate: &'a X509Certificate<'_>) -> Vec<&'a str> {
    let mut uris = Vec::new();
    for extension in certificate.iter_extensions() {
        if let ParsedExtension::SubjectAlternativeName(names) = extension.parsed_extension() {
            uris.extend(names.general_names.iter().filter_map(|name| match name {
                GeneralName::URI(uri) => Some(*uri),
                GeneralName::Invalid(tag, _) if tag.0 == URI => Some(""),
                _ => None,
            }));
        }
    }
    uris
}

/// §4.1, §4.3: no CA, signs handshakes, and signs neither certificates nor lists.
pub fn is_leaf(certificate: &X509Certificate<'_>) -> bool {
    let Ok(constraints) = certificate.basic_constraints() else {
        return false;
    };
    let is_ca = constraints.is_some_and(|found| found.value.ca);
    let usage = match certificate.key_usage() {
        Ok(Some(usage)) => usage.value,
        Ok(None) | Err(_) => return false,
    };
    !is_ca && usage.digital_signature() && !usage.key_cert_sign() && !usage.crl_sign()
}

/// `uniformResourceIdentifier` among the general names (RFC 5280 §4.2.1.6).
const URI: u32 = 6;
