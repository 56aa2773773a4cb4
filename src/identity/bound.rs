//! To what a session is bound, in words that a store keeps and a record shows, and whether a connection is that.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;

use super::jwt::verified::sum;
use super::{Bound, Link, peer};

/// Before the thumbprint of a certificate: the name that it has in `cnf` of a token (RFC 8705 §3.1).
const CERTIFICATE: &str = "x5t#S256:";
/// Before a process's user, and its executable after a blank.
const PROCESS: &str = "process:";

impl Bound {
    /// To this certificate, in DER.
    pub fn certificate(der: &[u8]) -> Self {
        Self::Certificate(sum(der))
    }

    /// Reads what [`Bound`]'s `Display` wrote. `None`: it is something else, such as a peer's address.
    pub fn read(text: &str) -> Option<Self> {
        if let Some(thumbprint) = text.strip_prefix(CERTIFICATE) {
            let bytes = BASE64URL.decode(thumbprint).ok()?;
            return Some(Self::Certificate(bytes.try_into().ok()?));
        }
        let process = text.strip_prefix(PROCESS)?;
        let (uid, executable) = match process.split_once(' ') {
            None => (process, None),
            Some((uid, path)) => (uid, Some(Arc::from(Path::new(path)))),
        };
        let uid = uid.parse().ok()?;
        Some(Self::Process { uid, executable })
    }

    /// Whether a connection is of this process, or by this certificate. What cannot be seen is not.
    pub async fn holds(&self, link: &Link) -> bool {
        match self {
            Self::Certificate(known) => link.thumbprint().is_some_and(|own| own == *known),
            Self::Process { uid, executable } => {
                let found = peer::process_of(link, *uid).await;
                found.is_some_and(|found| found.as_deref() == executable.as_deref())
            }
        }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Certificate(sum) => write!(f, "{CERTIFICATE}{}", BASE64URL.encode(sum)),
            Self::Process { uid, executable } => {
                write!(f, "{PROCESS}{uid}")?;
                match executable {
                    None => Ok(()),
                    Some(path) => write!(f, " {}", path.display()),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::jwt::verified::sum;

    #[test]
    fn what_is_written_is_read_again() {
        let path = |path: &str| Some(Arc::from(Path::new(path)));
        for bound in [
            Bound::Certificate([7; 32]),
            Bound::Process {
                uid: 1000,
                executable: None,
            },
            Bound::Process {
                uid: 0,
                executable: path("/opt/an agent/bin/x"),
            },
        ] {
            assert_eq!(Bound::read(&bound.to_string()), Some(bound));
        }
        for other in ["127.0.0.1", "uid:1000", "process:x", "x5t#S256:AA", ""] {
            assert_eq!(Bound::read(other), None, "{other}");
        }
    }

    #[tokio::test]
    async fn a_connection_without_the_certificate_is_another() {
        let with = |certificates: &[&[u8]]| Link {
            certificates: certificates.iter().map(|own| (*own).into()).collect(),
            ..Link::default()
        };
        let bound = Bound::Certificate(sum(b"own"));
        assert!(bound.holds(&with(&[b"own", b"issuer"])).await);
        assert!(!bound.holds(&with(&[b"issuer", b"own"])).await);
        assert!(!bound.holds(&with(&[])).await);
    }
}
