//! Where a credential goes in a request: placements as written, and injections compiled for one lease.
//!
//! A [`Placement`] is configuration. At issue time it is joined with the lease's [`Material`] into an [`Injection`],
//! whose header values are ready to be cloned; the request path only inserts them. What the agent itself sent in a
//! placed slot is removed first, always.

mod apply;
mod certificate;
mod dpop;
mod material;
mod sigv4;

use std::fmt;

use http::HeaderName;

pub use apply::{BodyEdit, Bound, Injection, Misplaced, Unfit};
pub use certificate::Certificate;
pub use dpop::{DpopKey, NoProof, Proof};
pub use material::Material;
pub use sigv4::{BadChunks, Chunks, Keys, MAX_CHUNK, Signer, SigningScope, Unsignable, Unsigned};

/// One place in a request that a credential is put into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Placement {
    /// `Authorization: Bearer SECRET` (RFC 6750 §2.1).
    Bearer,
    /// `Authorization: Basic base64(user:SECRET)` (RFC 7617). An empty user is filled from a lease that has one.
    Basic {
        /// The user-id.
        user: Box<str>,
    },
    /// A header field, its value made of the format.
    Header {
        /// The field name.
        name: HeaderName,
        /// What stands around the secret.
        format: Format,
    },
    /// A query parameter, appended; any of the same name that the agent sent is removed.
    Query {
        /// The parameter's decoded name.
        name: Box<str>,
    },
    /// A cookie, appended; any of the same name that the agent sent is removed.
    Cookie {
        /// The cookie's name.
        name: Box<str>,
    },
    /// Into no head at all: a certificate, presented to the upstream in the TLS handshake.
    ClientCertificate,
    /// The agent writes a placeholder in one declared slot; there, and only there, it becomes the secret.
    Substitute {
        /// The exact text that the agent writes.
        placeholder: Box<str>,
        /// The one slot.
        slot: Slot,
    },
    /// The request is signed (AWS Signature Version 4) where the agent's own signature stood: header or query.
    SigV4(SigningScope),
}

/// The slot of a [`Placement::Substitute`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Slot {
    /// In the value of this header field.
    Header(HeaderName),
    /// In the value of this query parameter.
    Query(Box<str>),
    /// In the path.
    Path,
    /// The string value at this dotted path of a JSON object body (`auth.token`).
    Json(Box<str>),
    /// The value of this field of an `application/x-www-form-urlencoded` body.
    Form(Box<str>),
}

/// Text with one `{}` where the secret goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Format {
    /// What stands before the secret.
    pub before: Box<str>,
    /// What stands after it.
    pub after: Box<str>,
}

/// A format without exactly one `{}`, or with characters that no header value may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a format is visible ASCII text with exactly one `{{}}`, such as \"token {{}}\"")]
pub struct BadFormat;

impl Format {
    /// The secret alone.
    pub fn bare() -> Self {
        Self {
            before: "".into(),
            after: "".into(),
        }
    }
}

impl std::str::FromStr for Format {
    type Err = BadFormat;

    fn from_str(text: &str) -> Result<Self, BadFormat> {
        let (before, after) = text.split_once("{}").ok_or(BadFormat)?;
        let visible = |s: &str| s.bytes().all(|b| (0x20..0x7f).contains(&b));
        if after.contains("{}") || !visible(before) || !visible(after) {
            return Err(BadFormat);
        }
        Ok(Self {
            before: before.into(),
            after: after.into(),
        })
    }
}

/// As `explain` shows it: the place, never the value.
impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bearer => f.write_str("header authorization: Bearer {}"),
            Self::Basic { user } => write!(f, "header authorization: Basic base64({user}:{{}})"),
            Self::Header { name, format } => {
                write!(f, "header {name}: {}{{}}{}", format.before, format.after)
            }
            Self::Query { name } => write!(f, "query parameter {name}"),
            Self::Cookie { name } => write!(f, "cookie {name}"),
            Self::ClientCertificate => f.write_str("client certificate in the TLS handshake"),
            Self::SigV4(SigningScope { service, region }) => {
                f.write_str("AWS signature")?;
                for part in [service, region].into_iter().flatten() {
                    write!(f, " {part}")?;
                }
                Ok(())
            }
            Self::Substitute { placeholder, slot } => match slot {
                Slot::Header(name) => write!(f, "{placeholder} in header {name}"),
                Slot::Query(name) => write!(f, "{placeholder} in query parameter {name}"),
                Slot::Path => write!(f, "{placeholder} in the path"),
                Slot::Json(field) => write!(f, "{placeholder} in JSON field {field}"),
                Slot::Form(field) => write!(f, "{placeholder} in form field {field}"),
            },
        }
    }
}
