//! What outlasts the process: sessions, their ends, blocked evidence and signing keys.

use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;

use super::{Digest, Key, Opening, Reason, Session};

/// A session as it is kept.
#[derive(Debug, Clone)]
pub struct Kept {
    /// Its id.
    pub id: Arc<str>,
    /// When it began.
    pub created: Timestamp,
    /// What it began with.
    pub opening: Opening,
}

/// What other replicas did since the last look.
#[derive(Debug, Default)]
pub struct News {
    /// Sessions that ended, and why.
    pub ended: Vec<(String, Reason)>,
    /// Sessions that were used, and when last, in Unix milliseconds.
    pub used: Vec<(String, i64)>,
    /// Evidence that opens nothing until then, in Unix milliseconds.
    pub blocked: Vec<(Digest, i64)>,
    /// The ids of all signing keys.
    pub keys: Vec<String>,
    /// Where the next look begins.
    pub mark: i64,
}

/// The store does not answer: nothing is known, and what cannot be known is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the store does not answer")]
pub struct Unknown;

/// Where sessions are kept. An implementor that does not last keeps nothing, and is not asked.
#[async_trait]
pub trait SessionStore: Debug + Send + Sync {
    /// Whether what is kept outlives the process.
    fn lasts(&self) -> bool;
    /// Keeps a new session, before its token leaves.
    async fn begin(&self, session: &Session) -> Result<(), Unknown>;
    /// A session that lives.
    async fn find(&self, id: &str) -> Result<Option<Kept>, Unknown>;
    /// Every session that lives.
    async fn live(&self) -> Result<Vec<Kept>, Unknown>;
    /// Ends a session and all that was handed on from it, for every replica. Whether it lived.
    async fn end(&self, id: &str, reason: Reason) -> Result<bool, Unknown>;
    /// Ends every session in whose chain the agent stands.
    async fn end_agent(&self, agent: &str, reason: Reason) -> Result<(), Unknown>;
    /// Notes when sessions were used last, in Unix milliseconds.
    async fn used(&self, sessions: &[(Arc<str>, i64)]) -> Result<(), Unknown>;
    /// Blocks evidence until then.
    async fn block(&self, evidence: &Digest, until: Timestamp) -> Result<(), Unknown>;
    /// What happened since this mark; the first look begins at 0.
    async fn news(&self, mark: i64) -> Result<News, Unknown>;
    /// Every signing key.
    async fn keys(&self) -> Result<Vec<Key>, Unknown>;
    /// Keeps a signing key.
    async fn add_key(&self, key: &Key) -> Result<(), Unknown>;
}

/// The reason of a word that was kept.
pub fn reason(word: &str) -> Reason {
    let known = [
        "expired", "idle", "revoked", "order", "exit", "parent", "suspend",
    ];
    let mut known = known.into_iter();
    known.find(|reason| *reason == word).unwrap_or("order")
}
