//! What outlasts the process: questions, and what was said to them.

use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;

use super::{Decision, Entry, Status};

/// The store does not answer: nothing is known, and nothing is approved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the store does not answer")]
pub struct Unknown;

/// What became of a question.
#[derive(Debug)]
pub enum Kept {
    /// It is kept; the entry is another's where the agent had asked the same already.
    Entry(Box<Entry>),
    /// The agent has as many open questions as it may have.
    Full,
}

/// Where approvals are kept. Each call is one atomic change for all replicas; times are Unix milliseconds of the caller's
/// clock.
#[async_trait]
pub trait ApprovalStore: Debug + Send + Sync {
    /// Keeps a question, or counts it on the open one of this agent with this digest. At most `most` of one agent and name
    /// are open.
    async fn ask(&self, fresh: &Entry, most: u32, held: bool) -> Result<Kept, Unknown>;
    /// An approval with its decisions.
    async fn find(&self, id: &str) -> Result<Option<Entry>, Unknown>;
    /// The approvals of this status, the newest first, at most 1,000.
    async fn list(&self, status: Option<Status>) -> Result<Vec<Entry>, Unknown>;
    /// Adds what a person said to an open question, and settles it where that is enough. `false`: it is not open any more,
    /// or this person has spoken.
    async fn decide(&self, id: &str, decision: &Decision) -> Result<bool, Unknown>;
    /// Uses a yes up: exactly one caller gets `true`.
    async fn take(&self, entry: &Entry, now: i64) -> Result<bool, Unknown>;
    /// One of those who wait for the answer went away; `true` where it was the last, and the question is gone.
    async fn withdraw(&self, id: &str) -> Result<bool, Unknown>;
    /// Ends a question, or a yes, whose time is past by the asker's other clock; whether it was there to be ended.
    async fn expire(&self, id: &str) -> Result<bool, Unknown>;
    /// Ends what is past its time; the ids, each for one caller.
    async fn lapse(&self, now: i64) -> Result<Vec<Arc<str>>, Unknown>;
    /// How many questions are open, by name.
    async fn open(&self) -> Result<Vec<(String, i64)>, Unknown>;
    /// Forgets what was settled before then.
    async fn forget(&self, before: i64) -> Result<(), Unknown>;
}
