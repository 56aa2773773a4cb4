//! TLS on both legs: the issuing CA, the leaves, and the connectors. Every rustls type stays in this room.
//!
//! (placeholder: the tls room is being written)

use std::path::PathBuf;

/// `[ca]`, resolved.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CaSettings {
    /// The folder of root and intermediate; `None` keeps both in memory.
    pub dir: Option<PathBuf>,
}

/// `[upstream] trust`, resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustSettings {
    /// The system's store (`"system"`).
    pub system: bool,
    /// PEM files beside it.
    pub pem: Vec<PathBuf>,
}
