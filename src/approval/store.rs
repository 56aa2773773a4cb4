//! What outlasts the process: questions, and what was said to them.

use std::fmt::Debug;

use async_trait::async_trait;

use super::{Decision, Entry, Status};
use crate::agent::AgentId;

/// The store does not answer: nothing is known, and nothing is approved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the store does not answer")]
pub struct Unknown;

/// What became of a question.
#[derive(Debug)]
pub enum Kept {
    /// It is kept; the entry is another's where the agent had asked the same already.
    Entry(Box<Entry>),
    /// The agent has as many open questions as it may have, or all agents together have.
    Full,
}

/// How many questions may be open at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Of one agent, to the people of one name.
    pub of_name: u32,
    /// Of one agent.
    pub of_agent: u32,
    /// Of all agents together.
    pub in_all: u32,
}

/// Where approvals are kept. Each call is one atomic change for all replicas; times are Unix milliseconds of the caller's
/// clock.
#[async_trait]
pub trait ApprovalStore: Debug + Send + Sync {
    /// Keeps a question where there is room, or counts it on the open one of this agent with this digest.
    async fn ask(&self, fresh: &Entry, room: &Room, held: bool) -> Result<Kept, Unknown>;
    /// An approval with its decisions.
    async fn find(&self, id: &str) -> Result<Option<Entry>, Unknown>;
    /// The approvals of this status, the newest first, at most 1,000: the open ones before all others, and of each agent
    /// as many as of another, so that no agent's fill the list.
    async fn list(&self, status: Option<Status>) -> Result<Vec<Entry>, Unknown>;
    /// Adds what a person said to an open question, and settles it where that is enough. `false`: it is not open any more,
    /// or this person has spoken.
    async fn decide(&self, id: &str, decision: &Decision) -> Result<bool, Unknown>;
    /// Uses a yes up: exactly one caller gets `true`.
    async fn take(&self, entry: &Entry, now: i64) -> Result<bool, Unknown>;
    /// One of those who wait for the answer went away; `true` where it was the last, and the question is gone.
    async fn withdraw(&self, id: &str) -> Result<bool, Unknown>;
    /// Ends a question, or a yes, whose time is past by the asker's other clock; the entry without what was said to it,
    /// where it was there to be ended.
    async fn expire(&self, id: &str) -> Result<Option<Entry>, Unknown>;
    /// Ends what is past its time; the entries without what was said to them, each for one caller.
    async fn lapse(&self, now: i64) -> Result<Vec<Entry>, Unknown>;
    /// Forgets, the oldest first, what ended without an answer beyond so many of this agent and so many of all.
    async fn trim(&self, agent: &AgentId, of_agent: u32, in_all: u32) -> Result<(), Unknown>;
    /// How many questions are open, by name.
    async fn open(&self) -> Result<Vec<(String, i64)>, Unknown>;
    /// Forgets what was settled before then.
    async fn forget(&self, before: i64) -> Result<(), Unknown>;
}
