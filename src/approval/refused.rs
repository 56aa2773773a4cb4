//! Why nobody is asked, why there is no grant, and why somebody's word does not count.

/// Why nothing is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotAsked {
    /// The agent has as many open questions as it may have, or all agents together have.
    #[error("too many questions are open")]
    Throttled,
    /// No admin side could decide it.
    #[error("nobody can be asked here")]
    Nobody,
    /// The store does not answer, or there is no such approval.
    #[error("nobody can be asked now")]
    Unavailable,
}

/// Why there is no grant, and will be none for this ticket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotGranted {
    /// Somebody said no.
    #[error("it was denied")]
    Denied,
    /// It is unknown, used, or past its time.
    #[error("there is no such approval any more")]
    Over,
    /// It was given for something else.
    #[error("it was given for something else")]
    Mismatch,
    /// The store does not answer.
    #[error("it cannot be known now")]
    Unavailable,
}

/// Why somebody's word does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotCounted {
    /// There is no such approval.
    #[error("there is no approval of this id")]
    Unknown,
    /// Not one of its approvers.
    #[error("only its approvers decide")]
    NotAnApprover,
    /// The person for whom it is asked.
    #[error("nobody approves their own request")]
    Own,
    /// It is decided, or this person has spoken.
    #[error("it is decided, or you have decided already")]
    Decided,
    /// The store does not answer.
    #[error("the store does not answer")]
    Unavailable,
}
