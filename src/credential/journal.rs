//! What outlives a crash: who may be revoked by whom, written down before a lease is first used.
//!
//! The journal holds a handle for every lease that its issuer could revoke. A process says from time to time that it
//! lives; what a dead one left is taken over by whoever finds it, and revoked.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;

use super::{Handle, LeaseId, Reason, Scope};
use crate::agent::{AgentId, Name};

/// The store did not take, or did not give, what it was asked for. Nothing is known then: the caller refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the store is out of reach")]
pub struct OutOfReach;

/// A lease that its issuer could revoke, or that is about to be issued.
#[derive(Debug, Clone)]
pub struct Note {
    /// The lease.
    pub lease: LeaseId,
    /// The credential, and whom it served. Read back, it has neither a person's token nor what a route narrowed.
    pub scope: Scope,
    /// The chain of the session that caused it to be issued, from the first agent to the acting one.
    pub chain: Arc<[AgentId]>,
    /// What revokes it; `None` while its issuer has not answered yet.
    pub handle: Option<Handle>,
    /// When it was issued.
    pub issued: Timestamp,
    /// When its issuer ends it by itself; before the answer, the latest end to be expected, where there is one.
    pub ends: Option<Timestamp>,
    /// The order to revoke it, once there is one.
    pub owed: Option<Owed>,
}

/// A revocation that was ordered and is not confirmed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owed {
    /// Why.
    pub reason: Reason,
    /// The operator who ordered it.
    pub by: Option<Box<str>>,
    /// How often it was tried.
    pub attempts: u32,
}

/// What a process hears when it says that it lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pulse {
    /// It was known to live.
    Known,
    /// It was new, or held to be dead: what it had issued before may have been revoked by others.
    New,
}

/// What dead processes left, as far as was looked.
#[derive(Debug, Clone, Default)]
pub struct Left {
    /// What is taken over.
    pub notes: Vec<Note>,
    /// Behind which lease to look on; `None`: all were looked at.
    pub next: Option<LeaseId>,
}

/// Where handles stand while leases live. Handles are sealed: who reads the store learns no secret.
#[async_trait]
pub trait Journal: fmt::Debug + Send + Sync {
    /// Whether anything outlives this process. Where nothing does, the broker writes nothing.
    fn lasts(&self) -> bool;

    /// Writes a note, or what is known more of a lease that was about to be issued; when it returns, that outlives a
    /// crash.
    async fn put(&self, note: &Note) -> Result<(), OutOfReach>;

    /// Writes down that a lease is to be revoked, and how often that was tried.
    async fn owe(&self, lease: &LeaseId, owed: &Owed) -> Result<(), OutOfReach>;

    /// Writes down another end of a lease; when it returns, that outlives a crash.
    async fn prolong(&self, lease: &LeaseId, ends: Option<Timestamp>) -> Result<(), OutOfReach>;

    /// Takes a note out: the lease is revoked, or has ended.
    async fn remove(&self, lease: &LeaseId) -> Result<(), OutOfReach>;

    /// Says that this process lives, and forgets notes of leases that have ended.
    async fn beat(&self) -> Result<Pulse, OutOfReach>;

    /// Takes over what dead processes left of these credentials, a bounded number at a time, in the order of their ids
    /// and from behind `after` on. Of several who ask, one gets each note.
    async fn adopt(
        &self,
        credentials: &[Name],
        after: Option<&LeaseId>,
    ) -> Result<Left, OutOfReach>;

    /// Says that this process is about to end: what it leaves may be taken over at once.
    async fn leave(&self) -> Result<(), OutOfReach>;
}

/// Keeps nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoJournal;

#[async_trait]
impl Journal for NoJournal {
    fn lasts(&self) -> bool {
        false
    }

    async fn put(&self, _: &Note) -> Result<(), OutOfReach> {
        Ok(())
    }

    async fn owe(&self, _: &LeaseId, _: &Owed) -> Result<(), OutOfReach> {
        Ok(())
    }

    async fn prolong(&self, _: &LeaseId, _: Option<Timestamp>) -> Result<(), OutOfReach> {
        Ok(())
    }

    async fn remove(&self, _: &LeaseId) -> Result<(), OutOfReach> {
        Ok(())
    }

    async fn beat(&self) -> Result<Pulse, OutOfReach> {
        Ok(Pulse::Known)
    }

    async fn adopt(&self, _: &[Name], _: Option<&LeaseId>) -> Result<Left, OutOfReach> {
        Ok(Left::default())
    }

    async fn leave(&self) -> Result<(), OutOfReach> {
        Ok(())
    }
}
