//! Secrets that an issuer replaces at each use: refresh tokens above all. The newest one is kept, sealed, and by
//! compare-and-set, so that no process ever puts an older one in its place.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;

use super::OutOfReach;
use crate::secret::Secret;

/// A secret as it was found.
#[derive(Debug)]
pub struct Kept {
    /// The secret.
    pub secret: Secret,
    /// Goes up by one with each replacement.
    pub version: i64,
}

/// Where rotating secrets are kept, each under an id: a credential's name, or `CREDENTIAL/USER`.
#[async_trait]
pub trait Vessel: fmt::Debug + Send + Sync {
    /// Whether what is kept outlives this process.
    fn lasts(&self) -> bool;

    /// What is kept under `id`.
    async fn load(&self, id: &str) -> Result<Option<Kept>, OutOfReach>;

    /// Keeps `next` in place of `version`, or anew where that is `None`. `false`: somebody else was first, and nothing
    /// has changed. When it returns `true`, `next` outlives a crash.
    async fn replace(
        &self,
        id: &str,
        version: Option<i64>,
        next: &Secret,
    ) -> Result<bool, OutOfReach>;

    /// Takes it out; `false` where there was nothing.
    async fn forget(&self, id: &str) -> Result<bool, OutOfReach>;

    /// Takes the turn to use the secret under `id`, for `most` at the longest: an issuer that detects reuse ends the
    /// whole family when two use one token. `false`: another has it.
    async fn claim(&self, id: &str, most: Duration) -> Result<bool, OutOfReach>;

    /// Gives the turn back.
    async fn release(&self, id: &str) -> Result<(), OutOfReach>;
}
