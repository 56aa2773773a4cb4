//! Passes: what a browser or a command line shows after its sign-in, instead of signing in each time. Opaque, random,
//! kept by their SHA-256 only, and over at a fixed time.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use aws_lc_rs::digest::{SHA256, digest};
use jiff::Timestamp;

use crate::agent::User;

/// Who holds a pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holder {
    /// An operator, by this name.
    Operator(Arc<str>),
    /// A person who signed in.
    Person(User),
}

/// One pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pass {
    /// Whose it is.
    pub holder: Holder,
    /// Whether it is a browser's: it counts as a cookie, and never as a bearer token; one of the other kind never as a
    /// cookie.
    pub browser: bool,
    /// When it ends.
    pub expires: Timestamp,
}

/// The store does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the store does not answer")]
pub struct Silent;

/// Where passes are kept. An implementor sees digests only.
#[async_trait]
pub trait PassStore: fmt::Debug + Send + Sync {
    /// Keeps one.
    async fn keep(&self, digest: &[u8; 32], pass: &Pass) -> Result<(), Silent>;
    /// The one of this digest; it may be over.
    async fn find(&self, digest: &[u8; 32]) -> Result<Option<Pass>, Silent>;
    /// Ends one.
    async fn end(&self, digest: &[u8; 32]) -> Result<(), Silent>;
}

/// The SHA-256 of a secret that is random: nobody finds it by trying.
pub fn digest_of(secret: &[u8]) -> [u8; 32] {
    let mut sum = [0; 32];
    sum.copy_from_slice(digest(&SHA256, secret).as_ref());
    sum
}
